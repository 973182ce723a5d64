//! The allocation file: a bit a block, the highest of a byte first, set if the block is used.

use std::ops::Range;

use cdi_base::error::ReadError;

use super::fork::{Extent, FilePart, Fork, Layout};
use crate::volume::Volume;

/// How much is read at once, in bytes.
const PIECE: u64 = 1 << 20;
/// What is taken as used as a whole if a part of it cannot be read, in bytes: the smallest sector.
const UNIT: u64 = 512;

/// Reports the free ranges of the volume. What cannot be read counts as used.
pub(super) fn free(volume: &Volume<'_>, fork: &Fork, layout: Layout, found: &mut dyn FnMut(Range<u64>)) {
    let mut last: Option<Range<u32>> = None;
    let mut report = |blocks: Option<Range<u32>>| match (&mut last, blocks) {
        (Some(last), Some(next)) if last.end == next.start => last.end = next.end,
        (last, next) => {
            let done = std::mem::replace(last, next);
            let extent = done.map(|blocks| Extent { start: blocks.start, count: blocks.end - blocks.start });
            let range = extent.and_then(|extent| layout.range(extent));
            // No further than the volume goes: its header may claim more.
            if let Some(range) = range.map(|r| r.start..r.end.min(volume.size())).filter(|r| !r.is_empty()) {
                found(range);
            }
        }
    };
    pieces(volume, fork, layout, &mut |part| {
        let mut at = part.start;
        while at < part.end() {
            let end = ((at / UNIT + 1) * UNIT).min(part.end());
            if let Ok(bytes) = part.get(at, cdi_base::units::index(end - at)) {
                unset(bytes, at, layout.blocks, &mut |blocks| report(Some(blocks)));
            }
            at = end;
        }
    });
    report(None);
}

/// Returns the first error of reading the bitmap, and how many blocks it costs.
pub(super) fn damage(volume: &Volume<'_>, fork: &Fork, layout: Layout) -> Option<(ReadError, u64)> {
    let (mut first, mut cost) = (None, 0);
    pieces(volume, fork, layout, &mut |part| {
        let mut at = part.start;
        while let Some((lost, error)) = part.lost_in(at..part.end()) {
            first.get_or_insert(*error);
            cost += (lost.end - lost.start) * 8;
            at = lost.end;
        }
    });
    first.map(|error| (error, cost))
}

/// Reads the part of the bitmap that is used, a piece at a time.
fn pieces(volume: &Volume<'_>, fork: &Fork, layout: Layout, take: &mut dyn FnMut(FilePart)) {
    let known = fork.runs.last().map_or(0, |run| run.file + run.len);
    let end = u64::from(layout.blocks).div_ceil(8).min(fork.size).min(known);
    let mut at = 0;
    while at < end {
        let next = end.min(at + PIECE);
        take(fork.read_part(volume, at..next));
        at = next;
    }
}

/// Reports the ranges of bits that are not set in `bytes`, byte `at` of the bitmap.
fn unset(bytes: &[u8], at: u64, blocks: u32, found: &mut dyn FnMut(Range<u32>)) {
    let Ok(first) = u32::try_from(at * 8) else { return };
    let mut start: Option<u32> = None;
    let mut block = first;
    for byte in bytes {
        for bit in 0..8 {
            if block >= blocks {
                break;
            }
            let used = byte & (0x80 >> bit) != 0;
            match start {
                None if !used => start = Some(block),
                Some(from) if used => {
                    found(from..block);
                    start = None;
                }
                _ => {}
            }
            block = block.saturating_add(1);
        }
    }
    if let Some(from) = start.filter(|from| *from < block) {
        found(from..block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unset_bits_are_free() {
        let ranges = |bytes: &[u8], at, blocks| {
            let mut all = Vec::new();
            unset(bytes, at, blocks, &mut |range| all.push(range));
            all
        };
        assert_eq!(ranges(&[0b1011_0000, 0xFF, 0], 0, 22), [1..2, 4..8, 16..22]);
        assert_eq!(ranges(&[0x7F], 2, 99), vec![16..17]);
        assert_eq!(ranges(&[0xFF, 0], 0, 8), Vec::<Range<u32>>::new());
    }
}
