//! The blocks listed in a file, before the size of the disk is known.

use cdi_base::units::human;

use super::blocks::Blocks;
use super::{BadBlocks, BadRange, MAX_RANGES, Status};

/// The end that ddrescue writes for a device of unknown size; the usual case on macOS.
pub(super) const UNKNOWN_END: u64 = i64::MAX as u64;

/// An end at or after this offset is not the end of a disk: it stands for an unknown end, possibly rounded down.
const UNLIKELY_END: u64 = 1 << 62;

/// The blocks listed in a mapfile or log, before the size of the disk is known.
#[derive(Debug, Default)]
pub struct Listed {
    blocks: Blocks,
    /// Where the blocks end, and where the finished ones end, in bytes of the disk. Blocks with an unknown end are not
    /// counted.
    end: u64,
    pub(super) finished_end: u64,
    /// Whether there are blocks with an unknown end.
    unknown: bool,
}

impl Listed {
    /// Adds a block, in bytes of the disk.
    pub(crate) fn add(&mut self, start: u64, end: u64, status: Status) -> Result<(), String> {
        if start == end {
            return Ok(());
        }
        if end >= UNLIKELY_END {
            self.unknown = true;
            // A block that only begins there says nothing about the disk.
            if start < UNLIKELY_END {
                self.end = self.end.max(start);
            }
        } else {
            self.end = self.end.max(end);
            if status == Status::Finished {
                self.finished_end = self.finished_end.max(end);
            }
        }
        self.blocks.add(BadRange::new(start..end, status));
        if self.blocks.unfinished() > MAX_RANGES {
            return Err(format!("more than {MAX_RANGES} blocks are not finished"));
        }
        Ok(())
    }

    /// Returns the size of the disk in bytes, as far as the file gives it. If the end of the last block is unknown,
    /// this is the minimum size.
    pub fn end(&self) -> End {
        if self.unknown { End::AtLeast(self.end) } else { End::Known(self.end) }
    }

    /// Returns the map of a disk of `size` bytes in sectors of `sector` bytes, and warnings about anything in the file
    /// that was not clear.
    pub fn map(self, size: u64, sector: u32) -> (BadBlocks, Vec<String>) {
        let end = self.end();
        let (mut map, mut warnings) = self.blocks.map(size);
        match end {
            End::AtLeast(_) => warnings.push(format!(
                "the mapfile's last block ends at 2^63-1, as ddrescue writes it where the system does not report \
                 the device size (macOS); the disk is assumed to end at byte {size}"
            )),
            End::Known(end) if end > size => warnings.push(format!(
                "the mapfile extends past the end of the disk ({size} bytes); the excess is ignored"
            )),
            End::Known(_) => {}
        }
        if !map.is_rounded(sector, size) {
            let missing = map.missing();
            map = map.rounded(sector, size);
            let grown = map.missing().saturating_sub(missing);
            warnings.push(format!(
                "the mapfile's blocks are not whole sectors of {sector} bytes: a sector that is only partly finished \
                 counts as not finished ({} more)",
                human(grown)
            ));
        }
        (map, warnings)
    }
}

/// Where the blocks of a map end, in bytes of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The blocks end here, which is the size of the disk.
    Known(u64),
    /// The blocks end at least here; the disk may be longer.
    AtLeast(u64),
}

impl End {
    /// Returns the minimum size of the disk in bytes.
    pub fn at_least(self) -> u64 {
        match self {
            End::Known(end) | End::AtLeast(end) => end,
        }
    }
}

/// Parses a number like C's `%lli`: decimal, hexadecimal with 0x, or octal with a leading 0. Never negative.
pub(crate) fn parse_number(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok();
    }
    match text.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => u64::from_str_radix(octal, 8).ok(),
        _ => text.parse().ok(),
    }
}
