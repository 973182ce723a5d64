//! Sets of ranges of a disk, in bounded memory.

use std::ops::Range;

/// The maximum number of ranges. If there are more, the set becomes coarser.
const MAX: usize = 1 << 20;
/// The number of ranges that are collected before they are merged.
const BATCH: usize = 1 << 12;

/// A set of ranges. It covers at least what was added, in multiples of its grain: with very many ranges, the grain grows, so
/// that the memory does not.
#[derive(Debug, Clone)]
pub(crate) struct Ranges {
    list: Vec<Range<u64>>,
    /// The multiple that ranges are rounded to, in bytes: outwards.
    grain: u64,
    /// Ranges before this index are merged, and the length of the list at which the others are.
    merged: usize,
    merge_at: usize,
    max: usize,
}

impl Ranges {
    /// Creates an empty set with a grain in bytes.
    pub(crate) fn new(grain: u64) -> Ranges {
        Ranges { list: Vec::new(), grain: grain.max(1), merged: 0, merge_at: BATCH, max: MAX }
    }

    /// Adds a range.
    pub(crate) fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let range = self.rounded(&range);
        if let Some(last) = self.list[self.merged..].last_mut()
            && (last.start..=last.end).contains(&range.start)
        {
            last.end = last.end.max(range.end);
            return;
        }
        self.list.push(range);
        if self.list.len() >= self.merge_at {
            self.merge();
        }
    }

    /// Adds all ranges of `other`.
    pub(crate) fn add_all(&mut self, mut other: Ranges) {
        other.get().iter().for_each(|range| self.add(range.clone()));
    }

    /// Returns the ranges, in order and without overlaps.
    pub(crate) fn get(&mut self) -> &[Range<u64>] {
        self.merge();
        &self.list
    }

    /// Returns the number of bytes of the set that are in `domain`, whose ranges are in order.
    pub(crate) fn bytes_within(&mut self, domain: &[Range<u64>]) -> u64 {
        self.merge();
        let mut bytes = 0;
        for part in domain {
            let first = self.list.partition_point(|r| r.end <= part.start);
            let touching = self.list[first..].iter().take_while(|r| r.start < part.end);
            bytes += touching.map(|r| r.end.min(part.end) - r.start.max(part.start)).sum::<u64>();
        }
        bytes
    }

    fn rounded(&self, range: &Range<u64>) -> Range<u64> {
        let end = range.end.checked_next_multiple_of(self.grain).unwrap_or(u64::MAX);
        range.start - range.start % self.grain..end
    }

    fn merge(&mut self) {
        if self.merged == self.list.len() {
            return;
        }
        loop {
            self.list.sort_unstable_by_key(|r| r.start);
            self.list.dedup_by(|next, last| {
                let touch = next.start <= last.end;
                if touch {
                    last.end = last.end.max(next.end);
                }
                touch
            });
            if self.list.len() <= self.max / 2 || self.grain > 1 << 40 {
                break;
            }
            self.grain *= 2;
            let mut list = std::mem::take(&mut self.list);
            list.iter_mut().for_each(|range| *range = self.rounded(range));
            self.list = list;
        }
        self.merged = self.list.len();
        self.merge_at = (2 * self.merged + BATCH).min(self.max.max(self.merged + BATCH));
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_merged_and_rounded_outwards() {
        let mut set = Ranges::new(4096);
        for range in [9000..9001, 0..1, 4096..4100, 20_000..30_000, 5..5, 9100..9200, u64::MAX - 1..u64::MAX]
        {
            set.add(range);
        }
        assert_eq!(set.get(), [0..12_288, 16_384..32_768, u64::MAX - 4095..u64::MAX]);
        assert_eq!(set.bytes_within(&[100..200, 12_000..17_000, 32_768..40_000]), 100 + 288 + 616);
        let mut more = Ranges::new(4096);
        more.add(12_288..12_289);
        set.add_all(more);
        assert_eq!(set.get()[0], 0..32_768);
    }

    #[test]
    fn a_set_of_very_many_ranges_becomes_coarser_and_loses_nothing() {
        let mut set = Ranges { max: 1 << 10, ..Ranges::new(512) };
        for n in 0..100_000u64 {
            // In no order.
            let at = (n * 7919 % 100_000) * 10_240;
            set.add(at..at + 512);
            assert!(set.list.len() <= (1 << 10) + BATCH);
        }
        let list = set.get().to_vec();
        assert!(list.len() <= 1 << 9, "{}", list.len());
        for at in (0..100_000u64).map(|n| n * 10_240) {
            let found = list.partition_point(|r| r.end <= at);
            assert!(list[found].start <= at && list[found].end >= at + 512);
        }
    }
}
