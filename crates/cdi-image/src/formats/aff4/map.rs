//! The map of an AFF4 image: which part of the disk is in which stream.

use std::ops::Range;

use cdi_base::error::Error;
use cdi_base::units::index;

use super::volume::{Member, without_schema};
use crate::bytes::{flaw, le32, le64};
use crate::input::Input;

/// The length of an entry.
const ENTRY: u64 = 28;
/// How many runs a map may have, once those that go on are one: some 40 MiB of them.
const MAX: usize = 1 << 20;
/// How much of the map is read in one piece, in bytes.
const PIECE: u64 = ENTRY * (32 << 10);

/// What a part of the disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// In this stream.
    Stream(String),
    /// This byte over and over.
    Byte(u8),
    /// Nobody could read it.
    Unreadable,
    /// Nobody tried to read it, or knows what it is.
    Unknown,
}

impl Target {
    /// The target of this name.
    pub(super) fn of(urn: &str) -> Target {
        let name = without_schema(urn).trim_start_matches("http://afflib.org/2012/");
        let hex = |text: &str| u8::from_str_radix(text, 16).ok().filter(|_| text.len() == 2);
        match name {
            "Zero" => Target::Byte(0),
            "FFDevice" => Target::Byte(0xFF),
            "UnreadableData" => Target::Unreadable,
            "UnknownData" | "NoData" => Target::Unknown,
            _ => {
                let text =
                    name.strip_prefix("SymbolicStream").map_or(name, |rest| rest.trim_start_matches('#'));
                match hex(text) {
                    Some(byte) => Target::Byte(byte),
                    None => Target::Stream(urn.into()),
                }
            }
        }
    }
}

/// A run of the disk and what it is: the number of a target, and where in it the run begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub disk: Range<u64>,
    pub at: u64,
    pub target: usize,
}

/// Reads the runs of a map in the order of the disk, for a disk of `size` bytes. There are `targets` targets.
pub(super) fn read(input: &Input, map: Member, targets: usize, size: u64) -> Result<Vec<Run>, Error> {
    if !map.len.is_multiple_of(ENTRY) {
        return flaw(map.at, format!("a map of {} bytes is not whole entries of {ENTRY}", map.len));
    }
    let mut runs: Vec<Run> = Vec::new();
    let mut read = 0;
    while read < map.len {
        let len = PIECE.min(map.len - read);
        let bytes = input.bytes_of(map.file, map.at + read, index(len), "the map")?;
        for (n, e) in bytes.chunks_exact(index(ENTRY)).enumerate() {
            let at = map.at + read + n as u64 * ENTRY;
            let (start, len, from, target) = (le64(e, 0), le64(e, 8), le64(e, 16), le32(e, 24) as usize);
            let Some(end) = start.checked_add(len).filter(|_| from.checked_add(len).is_some()) else {
                return flaw(at, "an entry of the map goes past 2^64");
            };
            if target >= targets {
                return flaw(at, format!("an entry of the map speaks of target {target}, of {targets}"));
            }
            let disk = start..end.min(size);
            if disk.is_empty() {
                continue;
            }
            let goes_on = runs.last_mut().filter(|last| {
                let by = last.disk.end - last.disk.start;
                last.disk.end == disk.start && last.target == target && last.at + by == from
            });
            match goes_on {
                Some(last) => last.disk.end = disk.end,
                None => runs.push(Run { disk, at: from, target }),
            }
            if runs.len() > MAX {
                return flaw(at, format!("a map of more than {MAX} runs is too long"));
            }
        }
        read += len;
    }
    runs.sort_unstable_by_key(|r| r.disk.start);
    if let Some(pair) = runs.windows(2).find(|pair| pair[0].disk.end > pair[1].disk.start) {
        return flaw(map.at, format!("two entries of the map hold the disk's byte {}", pair[1].disk.start));
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_known_by_their_names_in_both_schemas() {
        for (urn, target) in [
            ("http://aff4.org/Schema#Zero", Target::Byte(0)),
            ("http://aff4.org/Schema#SymbolicStream61", Target::Byte(0x61)),
            ("http://aff4.org/Schema#SymbolicStreamFF", Target::Byte(0xFF)),
            ("http://afflib.org/2009/aff4#FF", Target::Byte(0xFF)),
            ("http://afflib.org/2012/SymbolicStream#61", Target::Byte(0x61)),
            ("http://aff4.org/Schema#UnreadableData", Target::Unreadable),
            ("http://afflib.org/2009/aff4#UnknownData", Target::Unknown),
            ("aff4://fe", Target::Stream("aff4://fe".into())),
        ] {
            assert_eq!(Target::of(urn), target, "{urn}");
        }
    }
}
