//! Reads directories: entries of 32 bytes, FAT's and exFAT's.

use std::ops::{ControlFlow, Range};

use cdi_base::error::ReadError;

use crate::file_system::Damage;
use crate::volume::Volume;

/// The length of an entry in bytes.
pub(crate) const SLOT: u64 = 32;
/// The number of bytes of a directory that are read at once.
const PIECE: u64 = 256 << 10;

/// An entry of a directory, or the error of reading it.
pub(crate) type Slot<'b> = Result<&'b [u8; 32], ReadError>;

/// Calls `take` with each entry in `ranges` of the volume, and the byte at which it is.
pub(crate) fn each(
    volume: &Volume<'_>,
    ranges: &[Range<u64>],
    take: &mut dyn FnMut(u64, Slot<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    for range in ranges {
        let mut start = range.start;
        while start < range.end {
            let end = (start + PIECE).min(range.end);
            let part = volume.read_part(start..end);
            for at in (start..end).step_by(32) {
                let slot = part.get(at, 32).and_then(|bytes| bytes.first_chunk().ok_or(ReadError::PastEnd));
                take(at, slot)?;
            }
            start = end;
        }
    }
    ControlFlow::Continue(())
}

/// Adds a range to the end of a list, in which neighbours are one.
pub(crate) fn add(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

/// Returns a list of one range.
pub(crate) fn one(range: Range<u64>) -> Vec<Range<u64>> {
    std::iter::once(range).collect()
}

/// The parts of a directory that are lost, or make no sense.
#[derive(Default)]
pub(crate) struct LostParts {
    pub(crate) ranges: Vec<Range<u64>>,
    pub(crate) damage: Option<Damage>,
}

impl LostParts {
    pub(crate) fn add(&mut self, at: u64, damage: &Damage) {
        if self.damage.is_none() {
            self.damage = Some(damage.clone());
        }
        add(&mut self.ranges, at..at + SLOT);
    }

    /// Returns the number of entries.
    pub(crate) fn entries(&self) -> u64 {
        self.ranges.iter().map(|r| (r.end - r.start) / SLOT).sum()
    }
}
