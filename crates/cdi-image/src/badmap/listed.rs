//! The blocks that a file lists, before it is known how large the disk is.

use cdi_base::units::human;

use super::blocks::Blocks;
use super::{BadBlocks, BadRange, MAX_RANGES, Status};

/// ddrescue calls the end of a device of unknown size this; the usual case on macOS.
pub(super) const UNKNOWN_END: u64 = i64::MAX as u64;

/// From here on an end is not a disk's: it is what stands for one that is not known, less what it was rounded by.
const UNLIKELY_END: u64 = 1 << 62;

/// The blocks that a mapfile or a log lists, before it is known how large the disk is.
#[derive(Debug, Default)]
pub struct Listed {
    blocks: Blocks,
    /// Where they end, in bytes of the disk, and where the finished ones of them do: less those whose end stands for one
    /// that is not known.
    end: u64,
    pub(super) finished_end: u64,
    /// Whether there are such.
    unknown: bool,
}

impl Listed {
    /// Takes in a block, in bytes of the disk.
    pub(crate) fn add(&mut self, start: u64, end: u64, status: Status) -> Result<(), String> {
        if start == end {
            return Ok(());
        }
        if end >= UNLIKELY_END {
            self.unknown = true;
            // One that only begins there says nothing of the disk.
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
            return Err(format!("more than {MAX_RANGES} blocks that are not finished"));
        }
        Ok(())
    }

    /// Returns the size of the disk in bytes, as far as the file says it. Where the last block's end stands for one that is
    /// not known, the disk has at least this many.
    pub fn end(&self) -> End {
        if self.unknown { End::AtLeast(self.end) } else { End::Known(self.end) }
    }

    /// Makes the map of a disk of `size` bytes in sectors of `sector` bytes, and warnings about what the file did not say
    /// plainly.
    pub fn map(self, size: u64, sector: u32) -> (BadBlocks, Vec<String>) {
        let end = self.end();
        let (mut map, mut warnings) = self.blocks.map(size);
        match end {
            End::AtLeast(_) => warnings.push(format!(
                "the mapfile's last block ends at 2^63-1, as ddrescue writes it where the system does not tell a \
                 device's size (macOS); the disk is taken to end at {size}"
            )),
            End::Known(end) if end > size => warnings.push(format!(
                "the mapfile goes past the end of the disk ({size} bytes); what is past it is left out"
            )),
            End::Known(_) => {}
        }
        if !map.is_rounded(sector, size) {
            let missing = map.missing();
            map = map.rounded(sector, size);
            let grown = map.missing().saturating_sub(missing);
            warnings.push(format!(
                "the mapfile's blocks are not whole sectors of {sector} bytes: a sector of which a part is not finished \
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
    /// The size of the disk.
    Known(u64),
    /// The disk may be longer.
    AtLeast(u64),
}

impl End {
    /// Returns how long the disk is at least, in bytes.
    pub fn at_least(self) -> u64 {
        match self {
            End::Known(end) | End::AtLeast(end) => end,
        }
    }
}

/// A number as C's `%lli` reads it: decimal, 0x hexadecimal, or octal with a leading 0. Never negative.
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
