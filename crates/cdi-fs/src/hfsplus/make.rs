//! Records as the rest of cdi knows them, made of those of the catalogue.

use std::ops::Range;

use cdi_base::units::index;

use super::btree::Tree;
use super::fork::{Fork, Layout, RawFork};
use super::overflow::ForkKind;
use super::records::{self, Entry, FileItem, Item, Link, MAX_RECORD, PARENT_OF_ROOT, ROOT, target_of_links};
use super::tables::Tables;
use crate::file_system::{Damage, Data, Kind, Name, Place, Record};
use crate::volume::Volume;

/// The bits of a handle that are not the record's place in the catalogue: that it is in a private directory, and that it is a
/// hard link to something that is lost.
pub(super) const IN_PRIVATE: u64 = 1 << 63;
pub(super) const LINK: u64 = 1 << 62;

/// The longest target of a symbolic link.
const MAX_TARGET: u64 = 4096;

/// Reads a record by its handle.
pub(super) fn record(
    volume: &Volume<'_>,
    catalogue: &Tree,
    tables: &Tables,
    layout: Layout,
    handle: u64,
) -> Result<Record, Damage> {
    let at = handle & !(IN_PRIVATE | LINK);
    let node_end = (at / u64::from(catalogue.node_size) + 1) * u64::from(catalogue.node_size);
    let part = catalogue.fork.read_part(volume, at..node_end.min(at + MAX_RECORD));
    // What follows the record may be lost.
    let readable = part.lost_in(at..part.end()).map_or(part.end(), |(lost, _)| lost.start.max(at));
    let bytes = part.get(at, index(readable - at))?;
    let entry = records::parse(bytes);
    let place = catalogue.fork.on_volume(at..at + records::length(bytes).unwrap_or(1) as u64);
    let maker = Maker { volume, tables, layout };
    match entry {
        Some(Entry::Folder(item)) => Ok(maker.folder(item, handle, place)),
        Some(Entry::File(file)) => Ok(maker.file(*file, handle, place)),
        _ => match part.lost_in(at..part.end()) {
            Some((_, error)) => Err((*error).into()),
            None => Err(Damage::Invalid("it is no record of a file or directory".into())),
        },
    }
}

/// Makes records.
pub(super) struct Maker<'a> {
    pub(super) volume: &'a Volume<'a>,
    pub(super) tables: &'a Tables,
    pub(super) layout: Layout,
}

impl Maker<'_> {
    /// Makes the record of a directory.
    pub(super) fn folder(&self, item: Item, handle: u64, metadata: Vec<Range<u64>>) -> Record {
        let private = records::is_private(item.parent, &item.name);
        let mut record = empty(item, Kind::Directory, handle, metadata);
        record.internal |= private;
        self.attributes(&mut record);
        record
    }

    /// Makes the record of a file.
    pub(super) fn file(&self, file: FileItem, handle: u64, metadata: Vec<Range<u64>>) -> Record {
        let id = file.item.id;
        let mut record = empty(file.item, file.kind, handle, metadata);
        if handle & LINK != 0 {
            let what = match file.link {
                Some(Link::File(n)) => format!("a hard link to iNode{n}, whose record is lost"),
                Some(Link::Directory(n)) => format!("a hard link to dir_{n}, whose record is lost"),
                None => "a hard link".into(),
            };
            record.damage = Some(Damage::Invalid(what));
            return record;
        }
        record.data = self.data(&mut record, &file.data, id, ForkKind::Data);
        let mut resource = self.data(&mut record, &file.resource, id, ForkKind::Resource);
        if file.compressed && file.data.size == 0 {
            match self.tables.attributes.compressed(id) {
                Some(found) => {
                    if let Some(tree) = &self.tables.attributes_file {
                        record.metadata.extend(tree.fork.on_volume(found.place()));
                    }
                    let contents = std::mem::take(&mut resource);
                    let place = if found.in_resource { contents.place } else { Place::Inline(Vec::new()) };
                    record.data = Data { size: found.size, place, packed: Some("compressed") };
                }
                None => {
                    record.data.packed = Some("compressed");
                    let what = "its attribute com.apple.decmpfs, and so its size, is lost";
                    record.damage.get_or_insert_with(|| Damage::Invalid(what.into()));
                }
            }
        }
        if resource.size > 0 {
            record.streams.push(("rsrc".into(), resource));
        }
        self.attributes(&mut record);
        if record.kind == Kind::Link {
            record.target = self.target(&record.data);
        }
        record
    }

    /// Returns the contents of a fork.
    fn data(&self, record: &mut Record, raw: &RawFork, id: u32, kind: ForkKind) -> Data {
        let mut fork = Fork::new(raw, self.layout);
        if fork.known < fork.blocks {
            self.tables.overflow.complete(&mut fork, id, kind, self.layout, &mut record.metadata);
        }
        if fork.incomplete(self.layout) {
            let what = if fork.outside {
                "an extent is outside of the volume".into()
            } else if self.tables.overflow.incomplete {
                format!("its extents after the first {} blocks are lost", fork.known)
            } else {
                format!("it has {} blocks only", fork.known)
            };
            record.damage.get_or_insert(Damage::Invalid(what));
        }
        Data { size: fork.size, place: Place::Runs(fork.runs), packed: None }
    }

    /// Adds the attributes that have blocks of their own.
    fn attributes(&self, record: &mut Record) {
        let Ok(id) = u32::try_from(record.number) else { return };
        for (name, data, place) in self.tables.attributes.forks(id, self.layout) {
            record.streams.push((name, data));
            if let Some(tree) = &self.tables.attributes_file {
                record.metadata.extend(tree.fork.on_volume(place));
            }
        }
    }

    /// Reads the target of a symbolic link.
    fn target(&self, data: &Data) -> Option<Vec<u8>> {
        let Place::Runs(runs) = &data.place else { return None };
        let fork = Fork { size: data.size, runs: runs.clone(), ..Fork::default() };
        let len = Some(data.size).filter(|len| *len <= MAX_TARGET)?;
        let part = fork.read_part(self.volume, 0..len);
        part.get(0, index(len)).ok().map(<[u8]>::to_vec)
    }
}

fn empty(item: Item, kind: Kind, handle: u64, metadata: Vec<Range<u64>>) -> Record {
    // What hard links point to has the names of the links.
    let target = handle & IN_PRIVATE != 0 && target_of_links(&item.name).is_some();
    let journal = item.parent == ROOT && matches!(item.name.as_str(), ".journal" | ".journal_info_block");
    let internal = journal || handle & IN_PRIVATE != 0 && !target;
    let name = Name { parent: u64::from(item.parent), name: item.name };
    Record {
        handle,
        internal,
        names: if target || item.parent == PARENT_OF_ROOT { Vec::new() } else { vec![name] },
        times: item.times,
        metadata,
        ..Record::new(item.id.into(), kind)
    }
}
