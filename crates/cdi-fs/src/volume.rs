//! A volume: the part of a disk that a file system is on. Every read of this crate goes through it.

use std::ops::Range;

use cdi_base::error::ReadError;
use cdi_base::readable::{Missing, Readable};
use cdi_base::units::index;

/// The largest structure that is read at once, in bytes. What claims to be larger is damage.
pub const MAX_READ: usize = 16 << 20;

/// A part of a disk. Offsets are in bytes from its start.
#[derive(Clone, Copy)]
pub struct Volume<'a> {
    disk: &'a dyn Readable,
    start: u64,
    size: u64,
}

impl<'a> Volume<'a> {
    /// Returns the part `range` of `disk`, cut at the end of the disk.
    pub fn new(disk: &'a dyn Readable, range: Range<u64>) -> Volume<'a> {
        let start = range.start.min(disk.size());
        Volume { disk, start, size: range.end.min(disk.size()).saturating_sub(start) }
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the sector size of the disk in bytes.
    pub fn sector(&self) -> u32 {
        self.disk.sector()
    }

    /// Returns where byte `at` of the volume is on the disk.
    pub fn on_disk(&self, at: u64) -> u64 {
        self.start.saturating_add(at)
    }

    /// Reads `len` bytes. An error if one of them cannot be read, lies past the end, or if `len` is more than [`MAX_READ`].
    pub fn read(&self, at: u64, len: usize) -> Result<Vec<u8>, ReadError> {
        if len > MAX_READ || at.checked_add(len as u64).is_none_or(|end| end > self.size) {
            return Err(ReadError::PastEnd);
        }
        let mut bytes = vec![0; len];
        self.read_into(&mut bytes, at)?;
        Ok(bytes)
    }

    /// Fills `buffer` with the bytes at `at`. An error if one of them cannot be read or lies past the end.
    pub fn read_into(&self, buffer: &mut [u8], at: u64) -> Result<(), ReadError> {
        if at.checked_add(buffer.len() as u64).is_none_or(|end| end > self.size) {
            return Err(ReadError::PastEnd);
        }
        self.disk.read(buffer, self.start + at)
    }

    /// Reads what can be read of `range`, cut at the end of the volume and to [`MAX_READ`] bytes: at once if nothing of it
    /// is bad, else sector by sector. For tables of records, of which one that is lost must not cost its neighbours. Ask only
    /// for what is needed: imaging reads first what is asked for here.
    pub fn read_part(&self, range: Range<u64>) -> Part {
        let end = range.end.min(self.size).min(range.start.saturating_add(MAX_READ as u64)).max(range.start);
        let len = index(end - range.start);
        match self.read(range.start, len) {
            Ok(bytes) => Part { start: range.start, bytes, lost: Vec::new() },
            Err(_) if len == 0 => Part { start: range.start, bytes: Vec::new(), lost: Vec::new() },
            Err(_) => {
                let mut part = Part { start: range.start, bytes: vec![0; len], lost: Vec::new() };
                let mut at = range.start;
                while at < end {
                    // Sectors of the disk, not of the volume.
                    let next = (at + 1).saturating_add(UNIT - 1 - (self.start + at) % UNIT).min(end);
                    let out = &mut part.bytes[index(at - range.start)..index(next - range.start)];
                    if let Err(e) = self.disk.read(out, self.start + at) {
                        out.fill(0);
                        part.lose(at..next, e);
                    }
                    at = next;
                }
                part
            }
        }
    }

    /// Returns the parts of `range` that cannot be read, cut to the volume; in order.
    pub fn missing(&self, range: Range<u64>) -> Vec<Missing> {
        let range = range.start.min(self.size)..range.end.min(self.size);
        if range.is_empty() {
            return Vec::new();
        }
        let mut missing = self.disk.missing(self.start + range.start..self.start + range.end);
        for part in &mut missing {
            part.range = part.range.start - self.start..part.range.end - self.start;
        }
        missing
    }
}

/// What is read alone where something is bad, in bytes: the smallest sector.
const UNIT: u64 = 512;

/// What could be read of a part of a volume.
#[derive(Debug)]
pub struct Part {
    start: u64,
    bytes: Vec<u8>,
    lost: Vec<(Range<u64>, ReadError)>,
}

impl Part {
    fn lose(&mut self, range: Range<u64>, error: ReadError) {
        match self.lost.last_mut() {
            Some((last, _)) if last.end == range.start => last.end = range.end,
            _ => self.lost.push((range, error)),
        }
    }

    /// Returns the bytes of the volume that it has, those included that could not be read.
    pub fn range(&self) -> Range<u64> {
        self.start..self.start + self.bytes.len() as u64
    }

    /// Returns `len` bytes at byte `at` of the volume.
    pub fn get(&self, at: u64, len: usize) -> Result<&[u8], ReadError> {
        let end = at.checked_add(len as u64).ok_or(ReadError::PastEnd)?;
        if at < self.start || end > self.range().end {
            return Err(ReadError::PastEnd);
        }
        let bad = self.lost.partition_point(|(range, _)| range.end <= at);
        if let Some((range, error)) = self.lost.get(bad)
            && range.start < end
        {
            return Err(*error);
        }
        let from = index(at - self.start);
        Ok(&self.bytes[from..from + len])
    }

    /// Returns what could not be read.
    pub fn lost(&self) -> &[(Range<u64>, ReadError)] {
        &self.lost
    }
}
