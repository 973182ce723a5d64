//! `--sector`: what is at a sector of the disk.

use std::ops::Range;

use cdi_base::error::Error;
use cdi_base::units::plural;
use cdi_fs::catalogue::Catalogue;
use cdi_fs::file_system::{Child, Damage, Data, FileSystem, Record, Structure, Visitor};
use cdi_fs::volume::Volume;
use cdi_image::disk::Disk;
use serde_json::{Value, json};

use super::list::contents_text;
use super::{End, Found};
use crate::ui::Ui;

/// Says what is at a logical sector. `tables` are those of the partitions.
pub fn tell(
    disk: &Disk,
    tables: &[Structure],
    volumes: &[Found],
    sector: u64,
    ui: &Ui,
) -> Result<End, Error> {
    let size = u64::from(disk.sector());
    let at = sector.checked_mul(size).filter(|at| *at < Disk::size(disk));
    let Some(at) = at else {
        return Err(Error::usage(format!("the disk has {} sectors", Disk::size(disk) / size)));
    };
    let bytes = at..(at + size).min(Disk::size(disk));
    // As in maps; bytes that are suspect are not read here.
    let state = disk.bad().touching(bytes.clone()).first().map_or("finished", |bad| bad.status.name());
    let volume = volumes.iter().find(|v| v.part.range.contains(&at));
    let in_tables = tables.iter().filter(|t| t.at.iter().any(|at| touch(at, &bytes)));
    let mut all: Vec<Owner> = in_tables.map(|t| Owner::Structure(t.what.clone())).collect();
    // Before the first partition there may be a file system on the whole disk, as on optical discs.
    let in_volume = volume.map_or_else(Vec::new, |volume| owners(disk, volume, &bytes));
    let in_table = !all.is_empty();
    all.extend(in_volume.into_iter().filter(|owner| !(in_table && matches!(owner, Owner::Free))));
    let owners = all;
    let found = json!({
        "sector": sector,
        "byte": at,
        "state": state,
        "volume": volume.map(|v| v.title.as_str()),
        "owners": owners.iter().map(Owner::json).collect::<Vec<_>>(),
    });
    if !ui.json(&found) {
        let place = volume.map_or("in no partition".to_owned(), |v| format!("in {}", v.title));
        ui.data(format!("sector {sector} (byte {at}): {state}, {place}"));
        for owner in &owners {
            ui.data(format!("  {}", owner.text()));
        }
        if let Some(volume) = volume.filter(|_| owners.is_empty()) {
            let text = match &volume.catalogue {
                Some(catalogue) if has_lost(catalogue) => {
                    "in use, by nothing that is known: likely part of a file or directory whose record is lost".into()
                }
                Some(_) => "in use, but by no file: a spare part of the file system's tables, for example".into(),
                None => contents_text(volume),
            };
            ui.data(format!("  {text}"));
        }
    }
    Ok(End::Done)
}

/// Returns whether records are lost: they may have blocks.
fn has_lost(catalogue: &Catalogue) -> bool {
    let lost = catalogue.lost_without_name + catalogue.perhaps_lost;
    lost > 0 || catalogue.entries().iter().any(|entry| entry.handle.is_none())
}

fn touch(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// What a sector belongs to.
enum Owner {
    /// Contents of a file: its path, the name of the stream, the byte of the file.
    File { path: String, record: u64, stream: Option<String>, byte: u64 },
    /// The record of a file, or what says where its contents are.
    Record { path: String, record: u64 },
    /// The file system itself.
    Structure(String),
    /// Nothing.
    Free,
}

impl Owner {
    fn text(&self) -> String {
        match self {
            Owner::File { path, stream: None, byte, .. } => format!("{path}, from byte {byte} of it on"),
            Owner::File { path, stream: Some(stream), byte, .. } => {
                format!("{path}, stream '{stream}', from byte {byte} of it on")
            }
            Owner::Record { path, record } => format!("metadata of {path} (record {record})"),
            Owner::Structure(what) => what.clone(),
            Owner::Free => "free".into(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Owner::File { path, record, stream, byte } => {
                json!({ "kind": "file", "path": path, "record": record, "stream": stream, "file_byte": byte })
            }
            Owner::Record { path, record } => json!({ "kind": "metadata", "path": path, "record": record }),
            Owner::Structure(what) => json!({ "kind": "metadata", "what": what }),
            Owner::Free => json!({ "kind": "free" }),
        }
    }
}

fn owners(disk: &Disk, found: &Found, bytes: &Range<u64>) -> Vec<Owner> {
    let (Some(files), Some(catalogue)) = (found.file_system(), &found.catalogue) else { return Vec::new() };
    let volume = found.part.volume(disk);
    let wanted = bytes.start - found.part.range.start..bytes.end - found.part.range.start;
    let mut search = Search { title: &found.title, catalogue, wanted, owners: Vec::new(), nameless: 0 };
    files.scan(&volume, &mut search);
    if search.nameless > 0 {
        let records = plural(search.nameless, "record");
        search.owners.push(Owner::Structure(format!("{records} of files or directories, which are lost")));
    }
    if search.owners.is_empty() && is_free(files, &volume, &search.wanted) {
        search.owners.push(Owner::Free);
    }
    search.owners
}

fn is_free(files: &dyn FileSystem, volume: &Volume<'_>, wanted: &Range<u64>) -> bool {
    let mut free = false;
    files.free(volume, &mut |range| free |= range.start <= wanted.start && wanted.end <= range.end);
    free
}

/// Looks for what has a part of the volume.
struct Search<'a> {
    title: &'a str,
    catalogue: &'a Catalogue,
    wanted: Range<u64>,
    owners: Vec<Owner>,
    /// The number of lost records there of which no name is left.
    nameless: u64,
}

impl Search<'_> {
    fn path(&self, record: &Record) -> String {
        if record.internal && self.catalogue.names(record.number).next().is_none() {
            return format!("{}: record {}, of the file system itself", self.title, record.number);
        }
        let path = self.catalogue.paths(record.number).into_iter().next().map(|p| p.text).unwrap_or_default();
        format!("{}/{path}", self.title)
    }

    /// Returns the first byte of `data` that is there.
    fn byte_of(&self, data: &Data) -> Option<u64> {
        data.place.runs().iter().find_map(|run| {
            let start = run.volume?;
            let touches = start < self.wanted.end && self.wanted.start < start.saturating_add(run.len);
            touches.then(|| run.file.saturating_add(self.wanted.start.saturating_sub(start)))
        })
    }
}

impl Visitor for Search<'_> {
    fn record(&mut self, record: Record) -> bool {
        let mut streams: Vec<(Option<String>, u64)> =
            self.byte_of(&record.data).map(|byte| (None, byte)).into_iter().collect();
        for (name, data) in &record.streams {
            streams.extend(self.byte_of(data).map(|byte| (Some(name.clone()), byte)));
        }
        let path = || self.path(&record);
        let mut owners = Vec::new();
        for (stream, byte) in streams {
            owners.push(Owner::File { path: path(), record: record.number, stream, byte });
        }
        if owners.is_empty() && record.metadata.iter().any(|at| touch(at, &self.wanted)) {
            owners.push(Owner::Record { path: path(), record: record.number });
        }
        self.owners.extend(owners);
        self.owners.len() < 1000
    }

    fn child(&mut self, _: Child) -> bool {
        true
    }

    fn lost_record(&mut self, number: u64, at: Range<u64>, _: Option<bool>, _: Damage) -> bool {
        if touch(&at, &self.wanted) {
            match self.catalogue.entry(number).and_then(|_| self.catalogue.paths(number).into_iter().next()) {
                Some(path) => {
                    let path = format!("{}/{}", self.title, path.text);
                    self.owners.push(Owner::Record { path, record: number });
                }
                None => self.nameless += 1,
            }
        }
        true
    }

    fn structure(&mut self, structure: Structure) -> bool {
        if structure.at.iter().any(|at| touch(at, &self.wanted)) {
            self.owners.push(Owner::Structure(structure.what));
        }
        true
    }
}
