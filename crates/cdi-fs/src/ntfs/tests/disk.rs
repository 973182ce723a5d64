//! A disk with bad sectors, and what a scan of it found.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Mutex;

use cdi_base::error::ReadError;
use cdi_base::readable::{Missing, Readable};

use crate::file_system::{Child, Damage, Data, FileSystem, Record, Structure, Visitor};
use crate::recognize::{Recognized, recognize};
use crate::volume::Volume;

/// Random numbers, the same each time.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// A disk in memory; `bad` sectors are in order. Knows which 512 bytes were asked for.
pub(super) struct Disk {
    pub(super) bytes: Vec<u8>,
    pub(super) bad: Vec<Range<u64>>,
    pub(super) asked: Mutex<BTreeSet<u64>>,
    /// Whether what is bad was only not read yet.
    pub(super) untried: bool,
    pub(super) watched: bool,
}

impl Disk {
    pub(super) fn new(bytes: Vec<u8>) -> Disk {
        Disk { bytes, bad: Vec::new(), asked: Mutex::default(), untried: false, watched: false }
    }

    /// Whether a byte of the range is bad.
    pub(super) fn is_bad(&self, range: &Range<u64>) -> bool {
        let next = self.bad.partition_point(|bad| bad.end <= range.start);
        self.bad.get(next).is_some_and(|bad| bad.start < range.end)
    }

    /// Recognises and scans the volume.
    pub(super) fn scan(&self) -> Option<(Box<dyn FileSystem>, Found)> {
        let volume = Volume::new(self, 0..self.size());
        match recognize(&volume) {
            Recognized::Files(files) => {
                let mut found = Found::default();
                files.scan(&volume, &mut found);
                Some((files, found))
            }
            _ => None,
        }
    }
}

impl Readable for Disk {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> Result<(), ReadError> {
        let range = at..at + buffer.len() as u64;
        if self.watched && !buffer.is_empty() {
            self.asked.lock().unwrap().extend(range.start / 512..range.end.div_ceil(512));
        }
        if self.is_bad(&range) {
            return Err(ReadError::Bad { sector: at / 512, good: 0, untried: false });
        }
        self.bytes.read(buffer, at)
    }

    fn missing(&self, range: Range<u64>) -> Vec<Missing> {
        let cut = self.bad.iter().map(|bad| bad.start.max(range.start)..bad.end.min(range.end));
        cut.filter(|range| !range.is_empty()).map(|range| Missing { range, untried: self.untried }).collect()
    }
}

/// What a scan found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) records: BTreeMap<u64, Record>,
    pub(super) children: Vec<Child>,
    pub(super) lost: BTreeMap<u64, Option<bool>>,
    pub(super) structures: Vec<Structure>,
}

impl Visitor for Found {
    fn record(&mut self, record: Record) -> bool {
        assert!(self.records.insert(record.number, record).is_none(), "a record is reported twice");
        true
    }

    fn child(&mut self, child: Child) -> bool {
        self.children.push(child);
        true
    }

    fn lost_record(&mut self, number: u64, _: Range<u64>, used: Option<bool>, _: Damage) -> bool {
        self.lost.insert(number, used);
        true
    }

    fn structure(&mut self, structure: Structure) -> bool {
        self.structures.push(structure);
        true
    }
}

impl Found {
    /// The structures that are damaged.
    pub(super) fn damaged(&self) -> Vec<&Structure> {
        self.structures.iter().filter(|structure| structure.damage.is_some()).collect()
    }

    /// The record of the file with this name, wherever it is.
    pub(super) fn named(&self, name: &str) -> &Record {
        let mut all = self.records.values();
        all.find(|record| record.names.iter().any(|n| n.name == name)).unwrap_or_else(|| panic!("no {name}"))
    }

    /// Whether a record or a directory has this name of this file.
    pub(super) fn has_name(&self, number: u64, parent: u64, name: &str) -> bool {
        let record = self.records.get(&number);
        record.is_some_and(|record| record.names.iter().any(|n| n.parent == parent && n.name == name))
            || self
                .children
                .iter()
                .any(|c| c.number == number && c.name.parent == parent && c.name.name == name)
    }
}

/// The contents of a file. None if a part is not known.
#[allow(clippy::ptr_arg)] // a Vec is a disk
pub(super) fn contents(disk: &Vec<u8>, data: &Data) -> Option<Vec<u8>> {
    let volume = Volume::new(disk, 0..disk.len() as u64);
    let mut bytes = vec![0; usize::try_from(data.size).unwrap()];
    crate::contents::Contents::new(volume, data).read(&mut bytes, 0).ok().map(|()| bytes)
}
