//! Tests with volumes that mke2fs and the kernel made; what is on them is known from the kernel, filefrag and dumpe2fs.

mod copies;
mod damage;
mod features;
mod imaging;
mod speed;
mod truth;
mod volumes;
mod whole;

use std::collections::BTreeMap;
use std::ops::Range;

use cdi_base::error::ReadError;
use cdi_base::readable::{Missing, Readable};

use crate::file_system::{Child, Damage, FileSystem, Record, Structure, Visitor};
use crate::volume::Volume;

/// A disk in memory.
#[derive(Clone)]
pub(super) struct Disk {
    pub bytes: Vec<u8>,
    pub bad: Vec<Range<u64>>,
    pub untried: bool,
}

impl Disk {
    pub(super) fn new(bytes: Vec<u8>) -> Disk {
        Disk { bytes, bad: Vec::new(), untried: false }
    }
}

impl Readable for Disk {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> Result<(), ReadError> {
        let end = at + buffer.len() as u64;
        if let Some(bad) = self.bad.iter().find(|bad| bad.start < end && bad.end > at) {
            return Err(ReadError::Bad { sector: bad.start / 512, good: 0, untried: false });
        }
        self.bytes.read(buffer, at)
    }

    fn missing(&self, range: Range<u64>) -> Vec<Missing> {
        let cut = |bad: &Range<u64>| bad.start.max(range.start)..bad.end.min(range.end);
        let found = self.bad.iter().map(cut).filter(|r| !r.is_empty());
        found.map(|range| Missing { range, untried: self.untried }).collect()
    }
}

/// All that a scan reports.
#[derive(Default)]
pub(super) struct Seen {
    pub records: BTreeMap<u64, Record>,
    pub children: Vec<Child>,
    pub lost: BTreeMap<u64, (Option<bool>, Damage)>,
    pub structures: Vec<Structure>,
}

impl Visitor for Seen {
    fn record(&mut self, record: Record) -> bool {
        assert!(self.records.insert(record.number, record).is_none(), "a record is reported twice");
        true
    }

    fn child(&mut self, child: Child) -> bool {
        self.children.push(child);
        true
    }

    fn lost_record(&mut self, number: u64, _: Range<u64>, used: Option<bool>, damage: Damage) -> bool {
        self.lost.insert(number, (used, damage));
        true
    }

    fn structure(&mut self, structure: Structure) -> bool {
        self.structures.push(structure);
        true
    }
}

impl Seen {
    /// Returns the structures that are damaged.
    pub(super) fn damaged(&self) -> Vec<&Structure> {
        self.structures.iter().filter(|s| s.damage.is_some()).collect()
    }
}

/// Opens the volume on a disk.
pub(super) fn open(disk: &Disk) -> Option<Box<dyn FileSystem>> {
    super::open(&Volume::new(disk, 0..disk.size())).ok().flatten()
}

/// Scans the volume on a disk.
pub(super) fn scan(disk: &Disk) -> Option<Seen> {
    let mut seen = Seen::default();
    open(disk)?.scan(&Volume::new(disk, 0..disk.size()), &mut seen);
    Some(seen)
}

/// Returns the free ranges.
pub(super) fn free(disk: &Disk) -> Vec<Range<u64>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    let mut add = |range: Range<u64>| {
        assert!(!range.is_empty() && found.last().is_none_or(|last| last.end < range.start), "{range:?}");
        found.push(range);
    };
    if let Some(fs) = open(disk) {
        fs.free(&Volume::new(disk, 0..disk.size()), &mut add);
    }
    found
}

/// Random numbers (xorshift), the same in each run; others with `CDI_SEED=N`.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        let more = std::env::var("CDI_SEED").ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        Random(seed + more * 1000)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Returns the superblock of an intact volume.
pub(super) fn superblock_of(disk: &Disk) -> super::superblock::Superblock {
    super::superblock::Superblock::parse(&disk.bytes[1024..2048], false).unwrap()
}
