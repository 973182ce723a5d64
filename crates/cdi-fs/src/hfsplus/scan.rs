//! Scans the catalogue.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::btree::{Lost, Tree};
use super::header::Header;
use super::make::{IN_PRIVATE, LINK, Maker};
use super::node::{Leaf, NodeKind};
use super::records::{self, Entry, FileItem, Item, Link, MAX_RECORD, ROOT};
use super::structures;
use super::survey::Survey;
use super::tables::Tables;
use crate::file_system::{Child, Damage, Kind, Name, Record, Visitor};
use crate::idset::IdSet;
use crate::volume::Volume;

/// What files have numbers from here on of which nothing is known.
const NAMELESS: u64 = 1 << 32;
/// Why a record is lost of which the beginning could be read.
const CUT: &str = "its end could not be read";
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
        doubtful: false,
    };
    let Some(lost) = catalogue.scan(volume, &mut |leaf| scan.leaf(&leaf)) else { return };
    // The root is not counted by the header.
    let counted = u64::from(header.files) + u64::from(header.folders) + 1;
    if !scan.rests(volume, &lost, counted) {
        return;
    }
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
    /// Whether it is not certain that what is taken is in use.
    doubtful: bool,
}

impl Scan<'_> {
    /// Takes a record of a leaf. Returns whether the scan goes on.
    fn leaf(&mut self, leaf: &Leaf<'_>) -> bool {
        match (leaf.sure, leaf.cut) {
            (true, false) => self.whole(leaf.at, leaf.bytes),
            (true, true) => self.cut(leaf.at, leaf.bytes, Damage::Invalid(CUT.into())),
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

    /// Takes records of nodes whose number of records is lost. Those in use come first, and what is left of moved and deleted
    /// ones follows: what is in the next node as well was moved, and there are no more than the header counts (`counted`).
    fn rests(&mut self, volume: &Volume<'_>, lost: &[Lost], counted: u64) -> bool {
        let mut next: Option<(u32, Option<(u32, String)>)> = None;
        // Which are missing is not known if there are more nodes, or records without a number.
        let nodes = lost.iter().filter(|lost| lost.kind != Some(NodeKind::Index)).count();
        let nameless = |rest: &RestRecord| rest.cut && records::parse_rest(&rest.bytes).is_none();
        let several = nodes > 1 || self.rests.iter().any(nameless);
        let names = self.names_of_rests(volume);
        for rest in std::mem::take(&mut self.rests) {
            let node = self.catalogue.node_of(rest.at);
            if next.as_ref().is_none_or(|(of, _)| *of != node) {
                let lost = lost.binary_search_by_key(&node, |lost| lost.node).ok().map(|i| &lost[i]);
                let first = lost.and_then(|lost| self.catalogue.first_record(volume, lost.next?, MAX_RECORD));
                next = Some((node, first.and_then(|record| records::key(&record))));
            }
            let end = next.as_ref().and_then(|(_, end)| end.clone());
            let moved =
                end.as_ref().is_some_and(|end| records::key(&rest.bytes).is_none_or(|key| key >= *end));
            let Some((id, name)) = self.of_rest(&rest).filter(|_| !moved) else { continue };
            if names.get(&id).zip(name).is_some_and(|(now, then)| *now != then) {
                continue;
            }
            let proven = self.known.contains(u64::from(id));
            if !proven && self.known.len().is_some_and(|known| known >= counted) {
                continue;
            }
            // Without the next node, records that were moved to it are not known from others.
            self.doubtful = !proven && several || end.is_none();
            let go_on = if rest.cut {
                self.cut(rest.at, &rest.bytes, Damage::Invalid(CUT.into()))
            } else {
                self.whole(rest.at, &rest.bytes)
            };
            self.doubtful = false;
            if !go_on {
                return false;
            }
        }
        true
    }

    /// Returns the number that a rest is about, and the directory and name, unless it is known already.
    fn of_rest(&self, rest: &RestRecord) -> Option<(u32, Option<(u32, String)>)> {
        let (id, name, known) = match records::parse(&rest.bytes) {
            Some(Entry::Thread { id, .. }) => (id, None, &self.known),
            Some(Entry::Folder(item)) => (item.id, Some((item.parent, item.name)), &self.recorded),
            Some(Entry::File(file)) => {
                (file.item.id, Some((file.item.parent, file.item.name)), &self.recorded)
            }
            None => {
                let rest = records::parse_rest(&rest.bytes)?;
                (rest.id, Some((rest.parent, rest.name)), &self.recorded)
            }
        };
        (!known.contains(u64::from(id))).then_some((id, name))
    }

    /// Returns the directory and the name of the files that rests are about, as their threads have them.
    fn names_of_rests(&self, volume: &Volume<'_>) -> HashMap<u32, (u32, String)> {
        let ids = self.rests.iter().filter_map(|rest| self.of_rest(rest));
        let ids: HashSet<u32> = ids.map(|(id, _)| id).collect();
        let mut names = HashMap::new();
        if !ids.is_empty() {
            self.catalogue.scan(volume, &mut |leaf| {
                if leaf.sure
                    && !leaf.cut
                    && let Some(Entry::Thread { id, parent, name, .. }) = records::parse(leaf.bytes)
                    && ids.contains(&id)
                {
                    names.insert(id, (parent, name));
                }
                true
            });
        }
        names
    }

    /// Takes a number of which something is known for certain.
    fn know(&mut self, id: u32) {
        if !self.doubtful {
            self.known.insert(u64::from(id));
        }
    }

    fn record(&mut self, mut record: Record) -> bool {
        if self.doubtful {
            let why = "it may have been deleted: how many records are in its node could not be read";
            record.damage.get_or_insert_with(|| Damage::Invalid(why.into()));
        }
        self.visitor.record(record)
    }

    fn handle(&self, at: u64, parent: u32) -> u64 {
        at | if self.survey.is_private(parent) { IN_PRIVATE } else { 0 }
    }

    fn folder(&mut self, item: Item, at: u64, place: Vec<Range<u64>>) -> bool {
        self.know(item.id);
        self.recorded.insert(u64::from(item.id));
        let handle = self.handle(at, item.parent);
        let record = self.maker.folder(item, handle, place);
        self.record(record)
    }

    fn file(&mut self, file: FileItem, at: u64, place: Vec<Range<u64>>) -> bool {
        self.know(file.item.id);
        self.recorded.insert(u64::from(file.item.id));
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
        self.record(record)
    }

    fn thread(&mut self, id: u32, kind: Kind, parent: u32, name: String) -> bool {
        self.know(id);
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
        self.know(rest.id);
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
