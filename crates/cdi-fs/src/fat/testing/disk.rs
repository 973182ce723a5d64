//! A disk in memory with bad sectors, and a visitor that keeps everything.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Mutex;

use cdi_base::error::ReadError;
use cdi_base::readable::{Missing, Readable};

use crate::file_system::{Child, Damage, FileSystem, Record, Structure, Visitor};
use crate::recognize::{Recognized, recognize};
use crate::volume::Volume;

/// A disk with bad sectors of 512 bytes, which notes what is read.
pub(crate) struct Disk<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) bad: BTreeSet<u64>,
    /// Whether those are bad that nobody has tried to read.
    pub(crate) untried: bool,
    pub(crate) read: Mutex<BTreeSet<u64>>,
}

impl<'a> Disk<'a> {
    pub(crate) fn new(bytes: &'a [u8], bad: BTreeSet<u64>) -> Disk<'a> {
        Disk { bytes, bad, untried: false, read: Mutex::new(BTreeSet::new()) }
    }

    pub(crate) fn is_bad(&self, range: &Range<u64>) -> bool {
        !range.is_empty() && self.bad.range(range.start / 512..range.end.div_ceil(512)).next().is_some()
    }
}

impl Readable for Disk<'_> {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> Result<(), ReadError> {
        let end = at + buffer.len() as u64;
        self.read.lock().unwrap().extend(at / 512..end.div_ceil(512));
        if self.is_bad(&(at..end)) {
            return Err(ReadError::Bad { sector: at / 512, good: 0, untried: false });
        }
        let range = usize::try_from(at).unwrap()..usize::try_from(end).unwrap();
        buffer.copy_from_slice(self.bytes.get(range).ok_or(ReadError::PastEnd)?);
        Ok(())
    }

    fn missing(&self, range: Range<u64>) -> Vec<Missing> {
        let sectors = self.bad.range(range.start / 512..range.end.div_ceil(512));
        sectors.map(|s| Missing { range: s * 512..s * 512 + 512, untried: self.untried }).collect()
    }
}

/// Everything that a scan found.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) records: Vec<Record>,
    pub(crate) children: Vec<Child>,
    pub(crate) lost: BTreeSet<u64>,
    pub(crate) lost_ranges: Vec<Range<u64>>,
    pub(crate) structures: Vec<Structure>,
    pub(crate) free: Vec<Range<u64>>,
    /// The number of calls, and the largest that is borne.
    pub(crate) calls: usize,
}

/// More calls than any volume of the tests has a reason for.
const MAX_CALLS: usize = 2_000_000;

impl Found {
    fn count(&mut self) -> bool {
        self.calls += 1;
        assert!(self.calls < MAX_CALLS, "a scan does not end");
        true
    }
}

impl Visitor for Found {
    fn record(&mut self, record: Record) -> bool {
        self.records.push(record);
        self.count()
    }

    fn child(&mut self, child: Child) -> bool {
        self.children.push(child);
        self.count()
    }

    fn lost_record(&mut self, number: u64, at: Range<u64>, _: Option<bool>, _: Damage) -> bool {
        self.lost.insert(number);
        self.lost_ranges.push(at);
        self.count()
    }

    fn structure(&mut self, structure: Structure) -> bool {
        self.structures.push(structure);
        self.count()
    }
}

/// Scans a disk. None if nothing is recognised.
pub(crate) fn scan(disk: &Disk<'_>) -> Option<(Box<dyn FileSystem>, Found)> {
    let volume = Volume::new(disk, 0..disk.size());
    let Recognized::Files(files) = recognize(&volume) else { return None };
    let mut found = Found::default();
    files.scan(&volume, &mut found);
    let mut free = Vec::new();
    files.free(&volume, &mut |range| free.push(range));
    found.free = free;
    Some((files, found))
}
