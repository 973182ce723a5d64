//! What every disk can do whose reads may fail.

use std::ops::Range;

use crate::error::ReadError;

/// A disk, or a part of one.
pub trait Readable: Send + Sync {
    /// The size in bytes.
    fn size(&self) -> u64;

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
    /// Whether nobody has tried to read them: they may turn out to be good.
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
