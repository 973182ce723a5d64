//! What every disk can do whose reads may fail.

use std::ops::Range;

use crate::error::ReadError;
use crate::units::SECTOR;

/// A disk, or a part of one.
pub trait Readable: Send + Sync {
    /// The size in bytes.
    fn size(&self) -> u64;

    /// The size of a logical sector in bytes.
    fn sector(&self) -> u32 {
        SECTOR
    }

    /// Fills `buffer` with the bytes at `at`. A read that touches a sector that cannot be read is an error as a whole, and
    /// leaves anything in `buffer`; so is one past the end. Bad sectors are never filled with something else.
    fn read(&self, buffer: &mut [u8], at: u64) -> Result<(), ReadError>;

    /// Returns the parts of `range` that cannot be read, as far as that is known without reading; in order, cut to the range.
    fn missing(&self, range: Range<u64>) -> Vec<Missing>;
}

/// A part of a disk that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The bytes.
    pub range: Range<u64>,
    /// Whether they were not read sector by sector yet: they may turn out to be good.
    pub untried: bool,
}

/// For tests and small disks: nothing is missing.
impl Readable for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> Result<(), ReadError> {
        let start = usize::try_from(at).map_err(|_| ReadError::PastEnd)?;
        let bytes = start.checked_add(buffer.len()).and_then(|end| self.get(start..end));
        buffer.copy_from_slice(bytes.ok_or(ReadError::PastEnd)?);
        Ok(())
    }

    fn missing(&self, _: Range<u64>) -> Vec<Missing> {
        Vec::new()
    }
}

/// A disk in memory with bad sectors, for tests.
#[derive(Debug, Clone, Default)]
pub struct InMemory {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What cannot be read, in order.
    pub bad: Vec<Range<u64>>,
}

impl Readable for InMemory {
    fn size(&self) -> u64 {
        self.bytes.size()
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> Result<(), ReadError> {
        match self.missing(at..at.saturating_add(buffer.len() as u64)).first() {
            Some(bad) => {
                let good = usize::try_from(bad.range.start - at).unwrap_or(0);
                Err(ReadError::Bad { sector: bad.range.start / u64::from(SECTOR), good, untried: false })
            }
            None => self.bytes.read(buffer, at),
        }
    }

    fn missing(&self, range: Range<u64>) -> Vec<Missing> {
        let cut = self.bad.iter().map(|bad| bad.start.max(range.start)..bad.end.min(range.end));
        cut.filter(|r| !r.is_empty()).map(|range| Missing { range, untried: false }).collect()
    }
}
