//! The scan: all records of the MFT, in their order.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::file_system::{Child, Damage, Kind, Name, Visitor};

use super::bits::Used;
use super::file::{Directories, describe, holds_internal};
use super::index;
use super::io::Io;
use super::mft::{MAGIC, Mft};
use super::names::FileName;
use super::orphans;
use super::record::{Head, Reference, kind};
use super::structures;
use super::table::{Lost, Table, Unit};
use super::whole::{Whole, gather};

/// The largest number of records that extend others, and of lost ones, that are kept.
const MAX_KEPT: usize = 1 << 20;
/// The largest number of directories whose sequence numbers are kept.
const MAX_DIRECTORIES: usize = 1 << 19;
/// The largest number of records without a known place that are reported.
const MAX_UNPLACED: u64 = 1 << 20;

/// What a scan keeps.
struct Scan<'s, 'v> {
    io: &'s Io<'s>,
    mft: &'s Mft,
    visitor: &'v mut dyn Visitor,
    known: Known<'s>,
    used: Used<'s>,
    /// The records that extend others: first the base.
    extensions: Vec<(u64, u64)>,
    /// Base records that have lost their attribute lists.
    unlisted: Vec<u64>,
    /// Records that are lost, in order.
    lost: Vec<u64>,
    /// Those of them that are lost for good.
    bad: Vec<u64>,
    unplaced: u64,
}

/// What is known of directories.
pub(super) struct Known<'s> {
    io: &'s Io<'s>,
    mft: &'s Mft,
    /// How often their records had been used; None if they are lost.
    sequences: HashMap<u64, Option<u16>>,
    internal: HashSet<u64>,
}

impl<'s> Known<'s> {
    pub(super) fn new(io: &'s Io<'s>, mft: &'s Mft) -> Known<'s> {
        Known { io, mft, sequences: HashMap::new(), internal: HashSet::new() }
    }

    fn keep(&mut self, number: u64, sequence: Option<u16>) {
        if self.sequences.len() >= MAX_DIRECTORIES {
            self.sequences.clear();
        }
        self.sequences.insert(number, sequence);
    }
}

impl Directories for Known<'_> {
    fn agrees(&mut self, directory: Reference) -> bool {
        let known = match self.sequences.get(&directory.number) {
            Some(known) => *known,
            None => {
                let unit = self.mft.read(self.io, directory.number).ok();
                let sequence = unit.and_then(|unit| Head::parse(&unit.bytes)).map(|head| head.sequence);
                self.keep(directory.number, sequence);
                sequence
            }
        };
        directory.sequence == 0 || known.is_none_or(|known| known == directory.sequence)
    }

    fn is_internal(&self, directory: u64) -> bool {
        holds_internal(directory) || self.internal.contains(&directory)
    }
}

/// Reports everything.
pub(super) fn scan(io: &Io<'_>, mft: &Mft, visitor: &mut dyn Visitor) {
    let lost = known(io, mft, visitor);
    if !lost.is_empty() {
        orphans::find(io, mft, &lost, visitor);
    }
}

/// Reports everything that has a known place. Returns the records in use that are lost in bad sectors, in order; none if the
/// scan ended early.
pub(super) fn known(io: &Io<'_>, mft: &Mft, visitor: &mut dyn Visitor) -> Vec<u64> {
    if !structures::report(io, mft, visitor) {
        return Vec::new();
    }
    let mut scan = Scan {
        io,
        mft,
        visitor,
        known: Known::new(io, mft),
        used: Used::new(io, &mft.bitmap),
        extensions: Vec::new(),
        unlisted: Vec::new(),
        lost: Vec::new(),
        bad: Vec::new(),
        unplaced: 0,
    };
    let count = mft.records();
    let mut table = Table::new(io, &mft.extents, mft.boot.record, count, MAGIC);
    for number in 0..count {
        let goes_on = match mft.read_from(io, &mut table, number) {
            Ok((unit, damage)) => scan.unit(number, unit, damage),
            Err(lost) => scan.lost(number, lost),
        };
        if !goes_on || scan.unplaced > MAX_UNPLACED {
            return Vec::new();
        }
    }
    if scan.rest() { scan.bad } else { Vec::new() }
}

impl Scan<'_, '_> {
    /// Takes a record. `damage` is why it was read from the copy.
    fn unit(&mut self, number: u64, unit: Unit, damage: Option<Damage>) -> bool {
        if let Some(damage) = damage
            && !self.visitor.structure(structures::copied(self.mft, number, damage))
        {
            return false;
        }
        let Some(head) = Head::parse(&unit.bytes) else { return true };
        if !head.used {
            return true;
        }
        if let Some(base) = head.extends() {
            if self.extensions.len() < MAX_KEPT {
                self.extensions.push((base, number));
            }
            return true;
        }
        if head.directory {
            self.known.keep(number, Some(head.sequence));
        }
        match gather(self.io, self.mft, number, unit, &[]) {
            Some(whole) if whole.list_lost && self.unlisted.len() < MAX_KEPT => {
                self.unlisted.push(number);
                true
            }
            Some(whole) => self.whole(&whole),
            None => true,
        }
    }

    /// Reports a base record with those that extend it, and the names in it, if it is a directory.
    fn whole(&mut self, whole: &Whole) -> bool {
        let attributes = whole.attributes();
        let mut record = describe(self.io, self.mft, whole, &attributes, &mut self.known);
        let room = self.known.internal.len() < MAX_DIRECTORIES;
        if record.internal && record.kind == Kind::Directory && room {
            self.known.internal.insert(record.number);
        }
        if whole.head.directory || attributes.is_directory() {
            let (goes_on, damage) =
                index::names(self.io, &self.mft.boot, whole.number, &attributes, self.visitor);
            record.damage = record.damage.or(damage);
            if !goes_on {
                return false;
            }
        }
        if let Some(structure) = structures::of_record(self.io, &record)
            && !self.visitor.structure(structure)
        {
            return false;
        }
        self.visitor.record(record)
    }

    /// Reports a record that is lost. Records that were never written are none.
    fn lost(&mut self, number: u64, lost: Lost) -> bool {
        let used = self.used.get(number);
        if lost.places.is_empty() {
            self.unplaced += 1;
        }
        if used == Some(false) && (lost.blank || lost.places.is_empty()) {
            return true;
        }
        if self.lost.len() < MAX_KEPT {
            self.lost.push(number);
        }
        let untried = |place: &Range<u64>| self.io.volume().missing(place.clone()).iter().any(|m| m.untried);
        if self.bad.len() < MAX_KEPT && used == Some(true) && !lost.places.iter().any(untried) {
            self.bad.push(number);
        }
        let at = lost.places.first().cloned().unwrap_or(0..0);
        self.visitor.lost_record(number, at, used, lost.damage)
    }

    /// Reports what had to wait for the records that extend others. Returns whether the scan goes on.
    fn rest(&mut self) -> bool {
        self.extensions.sort_unstable();
        let extensions = std::mem::take(&mut self.extensions);
        for number in std::mem::take(&mut self.unlisted) {
            let from = extensions.partition_point(|(base, _)| *base < number);
            let own = extensions[from..].iter().take_while(|(base, _)| *base == number);
            let others: Vec<u64> = own.map(|(_, extension)| *extension).collect();
            let Ok(unit) = self.mft.read(self.io, number) else { continue };
            if let Some(whole) = gather(self.io, self.mft, number, unit, &others)
                && !self.whole(&whole)
            {
                return false;
            }
        }
        for (base, extension) in extensions {
            if self.lost.binary_search(&base).is_ok() && !self.names_of_lost(base, extension) {
                return false;
            }
        }
        true
    }

    /// Reports the names of a file whose base record is lost which are in a record that extends it.
    fn names_of_lost(&mut self, base: u64, extension: u64) -> bool {
        let Ok(unit) = self.mft.read(self.io, extension) else { return true };
        let Some(head) = Head::parse(&unit.bytes) else { return true };
        let (list, _) = super::record::attributes(&unit.bytes, &head);
        list.iter().filter(|attribute| attribute.kind == kind::FILE_NAME).all(|attribute| {
            let super::record::Body::Resident(value) = attribute.body else { return true };
            match FileName::parse(value) {
                Some(name) if !name.is_dos() && self.known.agrees(name.parent) => self.visitor.child(Child {
                    number: base,
                    name: Name { parent: name.parent.number, name: name.text() },
                    kind: Some(if name.is_directory() { Kind::Directory } else { Kind::File }),
                    size: (!name.is_directory()).then_some(name.size),
                }),
                _ => true,
            }
        })
    }
}
