//! Scans the catalogue.

use std::ops::Range;

use super::btree::Tree;
use super::header::Header;
use super::idset::IdSet;
use super::make::{IN_PRIVATE, LINK, Maker};
use super::node::{Leaf, NodeKind};
use super::records::{self, Entry, FileItem, Item, Link, ROOT};
use super::structures;
use super::survey::Survey;
use super::tables::Tables;
use crate::file_system::{Child, Damage, Kind, Name, Visitor};
use crate::volume::Volume;

/// What files have numbers from here on of which nothing is known.
const NAMELESS: u64 = 1 << 32;
/// The largest number of these that are reported.
const MAX_NAMELESS: u64 = 1 << 24;
/// The largest number of records that are kept which may be rests of others.
const MAX_RESTS: usize = 1 << 14;

/// Reports the catalogue and all of its records.
pub(super) fn catalogue(volume: &Volume<'_>, header: &Header, tables: &Tables, visitor: &mut dyn Visitor) {
    let mut structure = structures::whole("catalogue file", &tables.catalogue_fork);
    let Some(catalogue) = &tables.catalogue else {
        let damage = Damage::Invalid("its place is not known".into());
        structure.damage = Some((damage, "all files and directories".into()));
        if visitor.structure(structure) {
            let count = u64::from(header.files) + u64::from(header.folders);
            nameless(count, header.catalogue.size.min(volume.size()), 0..0, visitor);
        }
        return;
    };
    if tables.catalogue_fork.incomplete(header.layout) {
        let damage = Damage::Invalid("a part of its extents is lost".into());
        structure.damage = Some((damage, "the files and directories in that part".into()));
    }
    if !visitor.structure(structure) {
        return;
    }
    let survey = Survey::make(volume, catalogue);
    let mut scan = Scan {
        maker: Maker { volume, tables, layout: header.layout },
        catalogue,
        survey: &survey,
        visitor,
        known: IdSet::default(),
        recorded: IdSet::default(),
        rests: Vec::new(),
        lost: 0,
    };
    let Some(lost) = catalogue.scan(volume, &mut |leaf| scan.leaf(&leaf)) else { return };
    if !scan.rests() {
        return;
    }
    // The root is not counted by the header.
    let counted = u64::from(header.files) + u64::from(header.folders) + 1;
    let missing = scan.known.len().map(|known| counted.saturating_sub(known));
    let leaves: Vec<_> = lost.iter().filter(|lost| lost.kind != Some(NodeKind::Index)).collect();
    let nodes = leaves.len() as u64 * u64::from(catalogue.node_size);
    let known = tables.catalogue_fork.runs.iter().map(|run| run.len).sum();
    let room = scan.lost + nodes + tables.catalogue_fork.size.saturating_sub(known);
    let cost = match missing {
        Some(0) => "records of files; all of them are known by their names".to_owned(),
        Some(n) => format!("records of files and directories; in all {n} are lost with their names"),
        None => "records and names of files".into(),
    };
    let at = leaves.first().and_then(|lost| catalogue.on_volume(lost.node).first().cloned());
    if structures::lost("catalogue file", catalogue, &lost, &cost, visitor) {
        nameless(missing.unwrap_or(0), room.min(volume.size()), at.unwrap_or(0..0), visitor);
    }
}

/// Reports that `count` files are lost of which not even a name is known. They were in `room` bytes of the catalogue.
fn nameless(count: u64, room: u64, at: Range<u64>, visitor: &mut dyn Visitor) {
    if count > room / SMALLEST {
        // Counts that cannot be right: those of a volume that was not unmounted are not.
        return;
    }
    for number in 0..count.min(MAX_NAMELESS) {
        let damage = Damage::Invalid("it is counted by the volume header, and nothing else is known".into());
        if !visitor.lost_record(NAMELESS + number, at.clone(), Some(true), damage) {
            return;
        }
    }
}

/// The bytes that a directory has in the catalogue, at least: its record and its thread, with a name of one letter.
const SMALLEST: u64 = 2 + 8 + 88 + 2 + 6 + 12;

/// A record that may be a rest of one that was moved or deleted.
struct RestRecord {
    at: u64,
    bytes: Vec<u8>,
    cut: bool,
}

struct Scan<'a> {
    maker: Maker<'a>,
    catalogue: &'a Tree,
    survey: &'a Survey,
    visitor: &'a mut dyn Visitor,
    /// The numbers of which a record or a name is known.
    known: IdSet,
    /// The numbers of which a record is known.
    recorded: IdSet,
    rests: Vec<RestRecord>,
    /// The bytes of records that make no sense.
    lost: u64,
}

impl Scan<'_> {
    /// Takes a record of a leaf. Returns whether the scan goes on.
    fn leaf(&mut self, leaf: &Leaf<'_>) -> bool {
        match (leaf.sure, leaf.cut) {
            (true, false) => self.whole(leaf.at, leaf.bytes),
            (true, true) => {
                self.cut(leaf.at, leaf.bytes, Damage::Invalid("its end could not be read".into()))
            }
            (false, cut) => {
                if self.rests.len() < MAX_RESTS {
                    self.rests.push(RestRecord { at: leaf.at, bytes: leaf.bytes.to_vec(), cut });
                }
                true
            }
        }
    }

    fn whole(&mut self, at: u64, bytes: &[u8]) -> bool {
        let place = self.catalogue.fork.on_volume(at..at + bytes.len() as u64);
        match records::parse(bytes) {
            Some(Entry::Folder(item)) => self.folder(item, at, place),
            Some(Entry::File(file)) => self.file(*file, at, place),
            Some(Entry::Thread { id, kind, parent, name }) => self.thread(id, kind, parent, name),
            None => {
                self.lost += bytes.len() as u64;
                self.cut(at, bytes, Damage::Invalid("it is no record of a file or directory".into()))
            }
        }
    }

    /// Takes records of nodes whose number of records is lost: those of which nothing else is known.
    fn rests(&mut self) -> bool {
        let rests = std::mem::take(&mut self.rests);
        rests.into_iter().all(|rest| {
            let reported = match records::parse(&rest.bytes) {
                Some(Entry::Folder(item)) => self.recorded.contains(item.id),
                Some(Entry::File(file)) => self.recorded.contains(file.item.id),
                Some(Entry::Thread { id, .. }) => self.known.contains(id),
                None => {
                    !rest.cut || records::parse_rest(&rest.bytes).is_none_or(|r| self.recorded.contains(r.id))
                }
            };
            reported
                || if rest.cut {
                    self.cut(rest.at, &rest.bytes, Damage::Invalid("its end could not be read".into()))
                } else {
                    self.whole(rest.at, &rest.bytes)
                }
        })
    }

    fn handle(&self, at: u64, parent: u32) -> u64 {
        at | if self.survey.is_private(parent) { IN_PRIVATE } else { 0 }
    }

    fn folder(&mut self, item: Item, at: u64, place: Vec<Range<u64>>) -> bool {
        self.known.insert(item.id);
        self.recorded.insert(item.id);
        let handle = self.handle(at, item.parent);
        let record = self.maker.folder(item, handle, place);
        self.visitor.record(record)
    }

    fn file(&mut self, file: FileItem, at: u64, place: Vec<Range<u64>>) -> bool {
        self.known.insert(file.item.id);
        self.recorded.insert(file.item.id);
        let mut handle = self.handle(at, file.item.parent);
        if let Some(link) = file.link {
            let kind = if matches!(link, Link::File(_)) { None } else { Some(Kind::Directory) };
            if let Some(target) = self.survey.target(link) {
                let name = Name { parent: u64::from(file.item.parent), name: file.item.name };
                return self.visitor.child(Child { number: u64::from(target), name, kind, size: None });
            }
            handle |= LINK;
        }
        let record = self.maker.file(file, handle, place);
        self.visitor.record(record)
    }

    fn thread(&mut self, id: u32, kind: Kind, parent: u32, name: String) -> bool {
        self.known.insert(id);
        // Links were reported with the number of what they point to.
        if id == ROOT || self.survey.is_link(id) || self.survey.is_target(parent, &name) {
            return true;
        }
        // A thread does not tell files from symbolic links.
        let kind = Some(kind).filter(|kind| *kind == Kind::Directory);
        let name = Name { parent: u64::from(parent), name };
        self.visitor.child(Child { number: u64::from(id), name, kind, size: None })
    }

    /// Takes a record of which only the beginning is known.
    fn cut(&mut self, at: u64, bytes: &[u8], damage: Damage) -> bool {
        let Some(rest) = records::parse_rest(bytes) else { return true };
        let place = self.catalogue.fork.on_volume(at..at + bytes.len() as u64);
        self.known.insert(rest.id);
        let number = u64::from(rest.id);
        if !self.visitor.lost_record(number, place.first().cloned().unwrap_or(0..0), Some(true), damage) {
            return false;
        }
        if self.survey.is_target(rest.parent, &rest.name) || self.survey.is_link(rest.id) {
            return true;
        }
        let kind = Some(rest.kind).filter(|kind| *kind == Kind::Directory);
        let name = Name { parent: u64::from(rest.parent), name: rest.name };
        self.visitor.child(Child { number, name, kind, size: None })
    }
}
