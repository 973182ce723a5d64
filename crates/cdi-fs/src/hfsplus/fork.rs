//! Forks: where the contents of a file are, and reading those of the file system's own files.
//!
//! Facts: TN1150, "Fork Data Structure".

use std::ops::Range;

use cdi_base::error::ReadError;
use cdi_base::units::index;

use crate::bytes::{be32, be64};
use crate::file_system::{MAX_RUNS, Run};
use crate::volume::{MAX_READ, Volume};

/// Where the blocks are on the volume.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// The first byte: not 0 in an HFS wrapper.
    pub(super) base: u64,
    /// The size of a block in bytes.
    pub(super) block_size: u32,
    /// The number of blocks.
    pub(super) blocks: u32,
}

impl Layout {
    /// Returns the bytes of an extent; None if it has none on the volume.
    pub(super) fn range(&self, extent: Extent) -> Option<Range<u64>> {
        let end = extent.start.checked_add(extent.count).filter(|end| *end <= self.blocks)?;
        let place = |block: u32| self.base.checked_add(u64::from(block) * u64::from(self.block_size));
        Some(place(extent.start)?..place(end)?).filter(|r| !r.is_empty())
    }
}

/// Blocks in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) start: u32,
    pub(super) count: u32,
}

/// The eight extents of a fork or of a record of the extents overflow file.
pub(super) type Extents = [Extent; 8];

/// Reads eight extents.
pub(super) fn extents(bytes: &[u8]) -> Option<Extents> {
    let mut found = Extents::default();
    for (i, extent) in found.iter_mut().enumerate() {
        *extent = Extent { start: be32(bytes, 8 * i)?, count: be32(bytes, 8 * i + 4)? };
    }
    Some(found)
}

/// What a record says of a fork: its size and its first eight extents.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawFork {
    pub(super) size: u64,
    pub(super) blocks: u32,
    pub(super) extents: Extents,
}

impl RawFork {
    /// Reads 80 bytes.
    pub(super) fn parse(bytes: &[u8]) -> Option<RawFork> {
        Some(RawFork {
            size: be64(bytes, 0)?,
            blocks: be32(bytes, 12)?,
            extents: extents(bytes.get(16..80)?)?,
        })
    }
}

/// The contents of a file: what is known of where they are.
#[derive(Debug, Clone, Default)]
pub(super) struct Fork {
    /// The size in bytes.
    pub(super) size: u64,
    /// The blocks that it has.
    pub(super) blocks: u32,
    /// The runs in order of the file, without overlap.
    pub(super) runs: Vec<Run>,
    /// The blocks of which the place is known, also if it made no sense.
    pub(super) known: u32,
    /// Whether an extent lies outside of the volume.
    pub(super) outside: bool,
}

impl Fork {
    /// Reads a fork with its first eight extents.
    pub(super) fn parse(bytes: &[u8], layout: Layout) -> Option<Fork> {
        Some(Fork::new(&RawFork::parse(bytes)?, layout))
    }

    /// Makes a fork of its first eight extents.
    pub(super) fn new(raw: &RawFork, layout: Layout) -> Fork {
        let mut fork = Fork { size: raw.size, blocks: raw.blocks, ..Fork::default() };
        fork.add(&raw.extents, layout);
        fork
    }

    /// Adds the next eight extents: those of an overflow record that begins at block `known`.
    pub(super) fn add(&mut self, extents: &Extents, layout: Layout) {
        let unit = u64::from(layout.block_size);
        for extent in extents {
            if extent.count == 0 || self.known >= self.blocks || self.runs.len() >= MAX_RUNS {
                return;
            }
            let file = u64::from(self.known) * unit;
            self.known = self.known.saturating_add(extent.count).min(self.blocks);
            if file >= self.size {
                continue; // reserved, and not used
            }
            match layout.range(*extent) {
                Some(range) => {
                    let len = range.end - range.start;
                    match self.runs.last_mut() {
                        Some(last)
                            if last.file + last.len == file
                                && last.volume.is_some_and(|v| v + last.len == range.start) =>
                        {
                            last.len += len;
                        }
                        _ => self.runs.push(Run { file, len, volume: Some(range.start), unwritten: false }),
                    }
                }
                None => self.outside = true,
            }
        }
    }

    /// Leaves out blocks of which nothing is known, up to block `to`.
    pub(super) fn skip(&mut self, to: u32) {
        self.known = self.known.max(to.min(self.blocks));
    }

    /// Returns whether the places of some blocks with contents are not known.
    pub(super) fn incomplete(&self, layout: Layout) -> bool {
        let known: u64 = self.runs.iter().map(|run| run.len).sum();
        let needed =
            self.size.div_ceil(u64::from(layout.block_size)).saturating_mul(u64::from(layout.block_size));
        known < needed
    }

    /// Returns where `range` of the file is: part of the file, and the first byte on the volume, None if not known.
    pub(super) fn places(&self, range: Range<u64>) -> Vec<(Range<u64>, Option<u64>)> {
        let mut found = Vec::new();
        let mut at = range.start;
        let first = self.runs.partition_point(|run| run.file + run.len <= at);
        for run in self.runs.get(first..).unwrap_or_default() {
            if at >= range.end || run.file >= range.end {
                break;
            }
            if run.file > at {
                found.push((at..run.file, None));
                at = run.file;
            }
            let end = (run.file + run.len).min(range.end);
            found.push((at..end, run.volume.map(|v| v + (at - run.file))));
            at = end;
        }
        if at < range.end {
            found.push((at..range.end, None));
        }
        found
    }

    /// Returns where `range` of the file is on the volume, as far as it is known.
    pub(super) fn on_volume(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let places = self.places(range).into_iter();
        places.filter_map(|(part, place)| place.map(|p| p..p + (part.end - part.start))).collect()
    }

    /// Reads what can be read of `range` of the file.
    pub(super) fn read_part(&self, volume: &Volume<'_>, range: Range<u64>) -> FilePart {
        let end = range.end.min(self.size).min(range.start.saturating_add(MAX_READ as u64)).max(range.start);
        let mut part =
            FilePart { start: range.start, bytes: vec![0; index(end - range.start)], lost: Vec::new() };
        for (file, place) in self.places(range.start..end) {
            let Some(place) = place else {
                part.lost.push((file, ReadError::PastEnd));
                continue;
            };
            let len = file.end - file.start;
            let read = volume.read_part(place..place.saturating_add(len));
            let got = read.range().end - read.range().start;
            let out = &mut part.bytes[index(file.start - range.start)..index(file.end - range.start)];
            let mut at = place;
            for (lost, error) in
                read.lost().iter().cloned().chain([(place + got..place + got, ReadError::PastEnd)])
            {
                if let Ok(bytes) = read.get(at, index(lost.start.saturating_sub(at))) {
                    out[index(at - place)..index(lost.start - place)].copy_from_slice(bytes);
                }
                if !lost.is_empty() {
                    part.lost
                        .push((file.start + (lost.start - place)..file.start + (lost.end - place), error));
                }
                at = lost.end;
            }
            if got < len {
                part.lost.push((file.start + got..file.end, ReadError::PastEnd));
            }
        }
        part
    }
}

/// What could be read of a part of a file.
#[derive(Debug)]
pub(super) struct FilePart {
    pub(super) start: u64,
    bytes: Vec<u8>,
    lost: Vec<(Range<u64>, ReadError)>,
}

impl FilePart {
    /// Returns the end, in the file.
    pub(super) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Returns `len` bytes at byte `at` of the file.
    pub(super) fn get(&self, at: u64, len: usize) -> Result<&[u8], ReadError> {
        let end = at.checked_add(len as u64).ok_or(ReadError::PastEnd)?;
        if at < self.start || end > self.end() {
            return Err(ReadError::PastEnd);
        }
        if let Some((_, error)) = self.lost_in(at..end) {
            return Err(*error);
        }
        let from = index(at - self.start);
        Ok(&self.bytes[from..from + len])
    }

    /// Returns the first part of `range` that could not be read.
    pub(super) fn lost_in(&self, range: Range<u64>) -> Option<&(Range<u64>, ReadError)> {
        let bad = self.lost.partition_point(|(lost, _)| lost.end <= range.start);
        self.lost.get(bad).filter(|(lost, _)| lost.start < range.end)
    }
}
