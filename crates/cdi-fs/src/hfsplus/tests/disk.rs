//! A disk with bad sectors, and what a scan of it finds.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use cdi_base::error::ReadError;
use cdi_base::readable::{Missing, Readable};
use cdi_base::units::index;

use crate::file_system::{Child, Damage, FileSystem, Place, Record, Structure, Visitor};
use crate::recognize::{Recognized, recognize};
use crate::volume::Volume;

/// A disk in memory.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) bytes: Vec<u8>,
    /// If only some blocks of 4 KiB are in `bytes`, and the others zeros: the size of the disk, and where each block is.
    pub(crate) sparse: Option<(u64, HashMap<u64, usize>)>,
    /// The bytes that cannot be read.
    pub(crate) bad: Vec<Range<u64>>,
}

impl Disk {
    pub(crate) fn new(bytes: Vec<u8>) -> Disk {
        Disk { bytes, sparse: None, bad: Vec::new() }
    }

    /// Makes a disk of what tests/fixtures/apfs/pack.py wrote.
    pub(crate) fn unpack(packed: &[u8]) -> Disk {
        let number = |at: usize| u64::from_le_bytes(packed[at..at + 8].try_into().unwrap());
        let (mut bytes, mut places) = (Vec::new(), HashMap::new());
        for at in (8..packed.len()).step_by(8 + 4096) {
            places.insert(number(at), bytes.len());
            bytes.extend_from_slice(&packed[at + 8..at + 8 + 4096]);
        }
        Disk { bytes, sparse: Some((number(0), places)), bad: Vec::new() }
    }

    /// Reads what was there, if it is bad or not.
    pub(crate) fn raw(&self, buffer: &mut [u8], at: u64) -> Result<(), ReadError> {
        let Some((size, places)) = &self.sparse else { return self.bytes.read(buffer, at) };
        if at.checked_add(buffer.len() as u64).is_none_or(|end| end > *size) {
            return Err(ReadError::PastEnd);
        }
        let mut done = 0;
        while done < buffer.len() {
            let (block, from) = ((at + done as u64) / 4096, index((at + done as u64) % 4096));
            let len = (4096 - from).min(buffer.len() - done);
            let out = &mut buffer[done..done + len];
            match places.get(&block) {
                Some(place) => out.copy_from_slice(&self.bytes[place + from..place + from + len]),
                None => out.fill(0),
            }
            done += len;
        }
        Ok(())
    }

    /// Returns what is on it.
    pub(crate) fn open(&self) -> Option<Box<dyn FileSystem>> {
        match recognize(&self.volume()) {
            Recognized::Files(found) => Some(found),
            _ => None,
        }
    }

    pub(crate) fn volume(&self) -> Volume<'_> {
        Volume::new(self, 0..self.size())
    }

    /// Makes `range` bad, and nothing else.
    pub(crate) fn spoil(&mut self, range: Range<u64>) {
        self.bad = std::iter::once(range).collect();
    }

    /// Scans it.
    pub(crate) fn scan(&self) -> Found {
        let mut found = Found::default();
        self.open().expect("a file system").scan(&self.volume(), &mut found);
        found
    }

    /// Returns the free ranges.
    pub(crate) fn free(&self) -> Vec<Range<u64>> {
        let mut free = Vec::new();
        self.open().expect("a file system").free(&self.volume(), &mut |range| free.push(range));
        free
    }

    /// Returns the contents of a record, as far as they are known.
    pub(crate) fn contents(&self, record: &Record) -> Vec<u8> {
        let size = usize::try_from(record.data.size).unwrap();
        match &record.data.place {
            Place::Inline(bytes) => bytes.clone(),
            Place::Runs(runs) | Place::Units(_, runs) => {
                let mut bytes = vec![0; size];
                for run in runs {
                    let from = usize::try_from(run.file).unwrap().min(size);
                    let len = usize::try_from(run.len).unwrap().min(size - from);
                    if let Some(at) = run.volume {
                        self.raw(&mut bytes[from..from + len], at).unwrap();
                    }
                }
                bytes
            }
        }
    }
}

impl Readable for Disk {
    fn size(&self) -> u64 {
        self.sparse.as_ref().map_or(self.bytes.len() as u64, |(size, _)| *size)
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> Result<(), ReadError> {
        if let Some(bad) = self.missing(at..at + buffer.len() as u64).first() {
            return Err(ReadError::Bad { sector: bad.range.start / 512, good: 0, untried: false });
        }
        self.raw(buffer, at)
    }

    fn missing(&self, range: Range<u64>) -> Vec<Missing> {
        let cut = |bad: &Range<u64>| bad.start.max(range.start)..bad.end.min(range.end);
        let found = self.bad.iter().map(cut).filter(|r| !r.is_empty());
        found.map(|range| Missing { range, untried: false }).collect()
    }
}

/// What a scan found.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) records: HashMap<u64, Record>,
    pub(crate) children: Vec<Child>,
    pub(crate) lost: HashSet<u64>,
    pub(crate) structures: Vec<Structure>,
    /// How often anything was reported.
    pub(crate) reports: usize,
}

impl Found {
    /// Returns all numbers of which something is known, and how many others are counted.
    pub(crate) fn known(&self) -> (HashSet<u64>, usize) {
        let mut known: HashSet<u64> = self.records.keys().copied().collect();
        known.extend(self.children.iter().map(|c| c.number));
        known.extend(self.lost.iter().filter(|n| **n < 1 << 32));
        (known, self.lost.iter().filter(|n| **n >= 1 << 32).count())
    }

    /// Returns the numbers of all paths that can be made of names.
    pub(crate) fn paths(&self, root: u64) -> HashMap<String, u64> {
        let mut names: HashMap<u64, Vec<(u64, String)>> = HashMap::new();
        let of_records =
            self.records.values().flat_map(|r| r.names.iter().map(|name| (name.clone(), r.number)));
        for (name, number) in of_records.chain(self.children.iter().map(|c| (c.name.clone(), c.number))) {
            let all = names.entry(name.parent).or_default();
            if !all.contains(&(number, name.name.clone())) {
                all.push((number, name.name));
            }
        }
        let mut paths = HashMap::new();
        let mut todo = vec![(root, String::new())];
        while let Some((dir, path)) = todo.pop() {
            for (number, name) in names.remove(&dir).unwrap_or_default() {
                let path = if path.is_empty() { name } else { format!("{path}/{name}") };
                todo.push((number, path.clone()));
                assert_eq!(paths.insert(path.clone(), number), None, "{path} is there twice");
            }
        }
        paths
    }
}

impl Visitor for Found {
    fn record(&mut self, record: Record) -> bool {
        self.reports += 1;
        self.records.insert(record.number, record);
        true
    }

    fn child(&mut self, child: Child) -> bool {
        self.reports += 1;
        self.children.push(child);
        true
    }

    fn lost_record(&mut self, number: u64, _: Range<u64>, _: Option<bool>, _: Damage) -> bool {
        self.reports += 1;
        self.lost.insert(number);
        true
    }

    fn structure(&mut self, structure: Structure) -> bool {
        self.reports += 1;
        self.structures.push(structure);
        true
    }
}

/// Random numbers (xorshift), the same ones each time.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// Returns a number below `below`.
    pub(crate) fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}
