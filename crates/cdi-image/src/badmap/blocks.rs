//! Collects the blocks of a mapfile, in any order, before they become a map. Uses no more memory than the map will.

use std::ops::Range;

use cdi_base::units::human;

use crate::badmap::{BadBlocks, BadRange, Status};

/// The blocks read so far.
#[derive(Debug)]
pub(super) enum Blocks {
    /// While the blocks are in order, as they mostly are: the unfinished ranges, including gaps, up to `covered`.
    InOrder { ranges: Vec<BadRange>, covered: u64 },
    /// In the order of the file; gaps are not listed. Only the position of finished blocks is kept.
    Any { unfinished: Vec<BadRange>, finished: Vec<Range<u64>> },
}

impl Default for Blocks {
    fn default() -> Blocks {
        Blocks::InOrder { ranges: Vec::new(), covered: 0 }
    }
}

/// Returns a range that no block covers. Its number of tries distinguishes it from non-tried blocks, which have none.
fn gap(range: Range<u64>) -> BadRange {
    BadRange { tries: u8::MAX, ..BadRange::new(range, Status::NonTried) }
}

/// Appends a block to a list, merging it with the last one if possible.
fn push(blocks: &mut Vec<BadRange>, block: BadRange) {
    match blocks.last_mut() {
        Some(last) if last.end == block.start && last.like(&block) => last.end = block.end,
        _ => blocks.push(block),
    }
}

impl Blocks {
    /// Adds a block.
    pub(super) fn add(&mut self, block: BadRange) {
        if let Blocks::InOrder { ranges, covered } = self {
            if block.start >= *covered {
                if block.start > *covered {
                    push(ranges, gap(*covered..block.start));
                }
                *covered = block.end;
                if block.status != Status::Finished {
                    push(ranges, block);
                }
                return;
            }
            // The block is before the last one: finished ranges must now be distinguished from gaps.
            let (mut finished, mut at) = (Vec::new(), 0);
            for r in ranges.iter() {
                if r.start > at {
                    finished.push(at..r.start);
                }
                at = r.end;
            }
            if *covered > at {
                finished.push(at..*covered);
            }
            ranges.retain(|r| r.tries == 0);
            *self = Blocks::Any { unfinished: std::mem::take(ranges), finished };
        }
        if let Blocks::Any { unfinished, finished } = self {
            match finished.last_mut() {
                _ if block.status != Status::Finished => {
                    grow(unfinished);
                    push(unfinished, block);
                }
                Some(last) if last.end == block.start => last.end = block.end,
                _ => {
                    grow(finished);
                    finished.push(block.start..block.end);
                }
            }
        }
    }

    /// Returns the number of blocks or gaps that are not finished.
    pub(super) fn unfinished(&self) -> usize {
        match self {
            Blocks::InOrder { ranges, .. } => ranges.len(),
            // The number of finished ones is limited in the same way.
            Blocks::Any { unfinished, finished } => unfinished.len().max(finished.len()),
        }
    }

    /// Returns the map of a disk of `size` bytes, and warnings.
    pub(super) fn map(self, size: u64) -> (BadBlocks, Vec<String>) {
        match self {
            Blocks::Any { unfinished, finished } => merge_unordered(unfinished, finished, size),
            Blocks::InOrder { mut ranges, covered } => {
                if covered < size {
                    push(&mut ranges, gap(covered..size));
                }
                ranges.truncate(ranges.partition_point(|r| r.start < size));
                if let Some(last) = ranges.last_mut() {
                    last.end = last.end.min(size);
                }
                let mut gap_bytes = 0;
                for r in ranges.iter_mut().filter(|r| r.tries > 0) {
                    gap_bytes += r.len();
                    r.tries = 0;
                }
                (BadBlocks::from_ordered(ranges), gap_warning(gap_bytes).into_iter().collect())
            }
        }
    }
}

fn gap_warning(bytes: u64) -> Option<String> {
    let size = human(bytes);
    let warning = format!("the mapfile does not cover {size} of the disk, which count as non-tried");
    (bytes > 0).then_some(warning)
}

/// Makes room for one more item, in limited steps: a list that doubles could take twice the memory needed.
fn grow<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact(list.len().clamp(1 << 10, 1 << 18));
    }
}

/// Returns the map of blocks in any order, and warnings about gaps and contradictions. Gaps count as non-tried; where
/// two blocks disagree, the less processed status is used.
fn merge_unordered(
    mut unfinished: Vec<BadRange>,
    mut finished: Vec<Range<u64>>,
    size: u64,
) -> (BadBlocks, Vec<String>) {
    // Sort by position, and the worse status first for the same position, to find gaps and contradictions.
    unfinished.sort_unstable_by_key(|b| (b.start, b.status, b.end));
    finished.sort_unstable_by_key(|r| (r.start, r.end));
    let mut gaps = Vec::new();
    let (mut covered, mut gap_bytes, mut contradiction) = (0, 0, false);
    // The end of the finished blocks so far, and of the others, with the status of the one that ends last.
    let (mut read, mut failed) = (0, (0, Status::Finished));
    let (mut some, mut others) = (finished.iter().peekable(), unfinished.iter().peekable());
    loop {
        let is_finished = match (some.peek(), others.peek()) {
            (None, None) => break,
            (Some(f), Some(u)) => f.start < u.start,
            (f, _) => f.is_some(),
        };
        let range = if is_finished {
            let range = some.next().cloned().unwrap_or_default();
            contradiction |= range.start < failed.0;
            read = range.end.max(read);
            range
        } else {
            let Some(b) = others.next() else { break };
            contradiction |= b.start < read || (b.start < failed.0 && b.status != failed.1);
            if b.end >= failed.0 {
                failed = (b.end, b.status);
            }
            b.start..b.end
        };
        let (start, end) = (range.start.min(size), range.end.min(size));
        if start > covered {
            gaps.push(BadRange::new(covered..start, Status::NonTried));
            gap_bytes += start - covered;
        }
        covered = covered.max(end);
    }
    if covered < size {
        gaps.push(BadRange::new(covered..size, Status::NonTried));
        gap_bytes += size - covered;
    }
    let mut warnings: Vec<String> = gap_warning(gap_bytes).into_iter().collect();
    if contradiction {
        warnings.push("blocks in the mapfile overlap and disagree; the less processed status is used".into());
    }
    drop(finished);
    unfinished.retain(|b| b.start < size);
    unfinished.iter_mut().for_each(|b| b.end = b.end.min(size));
    unfinished.reserve_exact(gaps.len());
    unfinished.append(&mut gaps);
    (BadBlocks::from_vec(unfinished), warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_in_any_order_match_a_plain_vector() {
        let mut random = 7u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) % below
        };
        for _ in 0..2000 {
            let mut blocks = Blocks::default();
            let mut plain = [None::<Status>; 80];
            for _ in 0..next(12) {
                let start = next(70);
                let end = start + 1 + next(10);
                let status = match next(4) {
                    0 => Status::Finished,
                    1 => Status::Bad,
                    2 => Status::NonTried,
                    _ => Status::NonScraped,
                };
                blocks.add(BadRange::new(start..end, status));
                for at in start..end {
                    let here = &mut plain[usize::try_from(at).unwrap()];
                    *here = Some(here.map_or(status, |before| before.min(status)));
                }
            }
            let (map, _) = blocks.map(64);
            for (at, expect) in plain.iter().take(64).enumerate() {
                let got = map
                    .next(at as u64)
                    .filter(|r| r.start <= at as u64)
                    .map_or(Status::Finished, |r| r.status);
                assert_eq!(got, expect.unwrap_or(Status::NonTried), "at {at}: {map:?}");
            }
            let apart =
                |w: &[BadRange]| w[0].end < w[1].start || (w[0].end == w[1].start && !w[0].like(&w[1]));
            assert!(map.ranges().windows(2).all(apart), "not merged: {map:?}");
        }
    }
}
