//! The map of an AFF4 image, which assigns parts of the disk to streams.

use std::ops::Range;

use cdi_base::error::Error;
use cdi_base::units::index;

use super::volume::{Member, without_schema};
use crate::bytes::{flaw, le32, le64};
use crate::input::Input;

/// The length of an entry in bytes.
const ENTRY: u64 = 28;
/// Maximum number of runs in a map after merging adjacent ones: about 40 MiB of them.
const MAX_RUNS: usize = 1 << 20;
/// How many bytes of the map are read at a time.
const PIECE: u64 = ENTRY * (32 << 10);

/// Where the data of a part of the disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// In this stream.
    Stream(String),
    /// This byte, repeated.
    Byte(u8),
    /// It could not be read.
    Unreadable,
    /// Its contents are unknown, or reading it was not tried.
    Unknown,
}

impl Target {
    /// Returns the target with this name.
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

/// A run of the disk: its range in bytes, the number of its target, and its offset in the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub disk: Range<u64>,
    pub at: u64,
    pub target: usize,
}

/// Reads the runs of a map, sorted by disk offset, for a disk of `size` bytes. `targets` is the number of targets.
pub(super) fn read(input: &Input, map: Member, targets: usize, size: u64) -> Result<Vec<Run>, Error> {
    if !map.len.is_multiple_of(ENTRY) {
        return flaw(map.at, format!("the map's length of {} bytes is not a multiple of {ENTRY}", map.len));
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
                return flaw(at, "an entry of the map exceeds 2^64");
            };
            if target >= targets {
                return flaw(
                    at,
                    format!("an entry of the map refers to target {target}, but there are only {targets}"),
                );
            }
            let disk = start..end.min(size);
            if disk.is_empty() {
                continue;
            }
            let continued = runs.last_mut().filter(|last| {
                let by = last.disk.end - last.disk.start;
                last.disk.end == disk.start && last.target == target && last.at + by == from
            });
            match continued {
                Some(last) => last.disk.end = disk.end,
                None => runs.push(Run { disk, at: from, target }),
            }
            if runs.len() > MAX_RUNS {
                return flaw(at, format!("the map has more than {MAX_RUNS} runs (not supported)"));
            }
        }
        read += len;
    }
    runs.sort_unstable_by_key(|r| r.disk.start);
    if let Some(pair) = runs.windows(2).find(|pair| pair[0].disk.end > pair[1].disk.start) {
        return flaw(map.at, format!("two entries of the map overlap at disk byte {}", pair[1].disk.start));
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_names_of_both_schemas_are_recognised() {
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
