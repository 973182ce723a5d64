//! The bad-block map: which ranges of the disk are not finished, and why.
//!
//! The statuses are ddrescue's five and one more, `suspect`, for bytes that are present but may not be those of the
//! disk. A range that is not listed is finished: it was read successfully.

pub(crate) mod badblocks;
mod blocks;
pub mod builder;
pub mod cells;
mod ddrescue;
pub mod listed;
pub mod load;
pub mod mapfile;
mod range;
mod superclone;

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::ops::Range;

use cdi_base::units::round_outwards;
pub use range::{BadRange, Errno, Reason, Status};

/// The number of ranges and bytes with a given status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// The number of ranges.
    pub ranges: u64,
    /// The number of bytes.
    pub bytes: u64,
}

/// The ranges of a disk that are not finished, in order, without overlaps, and with equal neighbours merged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BadBlocks {
    ranges: Vec<BadRange>,
}

/// The maximum number of ranges of a map (96 MiB of memory): maps are the only thing that a hostile image could make
/// grow.
pub const MAX_RANGES: usize = 1 << 22;

impl BadBlocks {
    /// Returns a map in which everything is finished.
    pub const fn none() -> BadBlocks {
        BadBlocks { ranges: Vec::new() }
    }

    /// Returns a map of `ranges` in any order. Where they overlap, the less processed status is used, so that nothing
    /// is shown better than any of its sources says.
    pub fn from_unsorted(ranges: impl IntoIterator<Item = BadRange>) -> BadBlocks {
        // While the ranges are in order, as they mostly are, each is appended directly.
        let mut map = BadBlocks::none();
        let mut end = 0;
        let mut ranges = ranges.into_iter().filter(|r| !r.is_empty() && r.status != Status::Finished);
        loop {
            match ranges.next() {
                None => return map,
                Some(r) if r.start >= end => {
                    end = r.end;
                    map.push(r);
                }
                Some(r) => {
                    map.ranges.push(r);
                    map.ranges.extend(ranges);
                    return BadBlocks::from_vec(map.ranges);
                }
            }
        }
    }

    /// As [`BadBlocks::from_unsorted`], for a vector of ranges none of which is empty or finished.
    pub fn from_vec(mut all: Vec<BadRange>) -> BadBlocks {
        all.sort_unstable_by_key(|r| (r.start, r.end, r.status));
        if all.windows(2).all(|w| w[0].end <= w[1].start) {
            return BadBlocks::from_ordered(all);
        }
        // Sweep over the range borders; of the open ranges, the one with the worst status is used.
        let mut map = BadBlocks::none();
        let mut open: BinaryHeap<Reverse<Open>> = BinaryHeap::new();
        let mut at = 0;
        let mut coming = all.into_iter().peekable();
        loop {
            while open.peek().is_some_and(|Reverse(o)| o.0.end <= at) {
                open.pop();
            }
            while let Some(next) = coming.next_if(|r| r.start <= at) {
                open.push(Reverse(Open(next)));
            }
            let Some(Reverse(Open(top))) = open.peek() else {
                match coming.peek() {
                    Some(next) => at = next.start,
                    None => return map,
                }
                continue;
            };
            let stop = coming.peek().map_or(top.end, |next| next.start.min(top.end));
            if stop > at {
                map.push(top.cut(at..stop));
            }
            at = stop;
        }
    }

    /// Returns a map of ranges that are in order and do not overlap.
    pub fn from_ordered(mut ranges: Vec<BadRange>) -> BadBlocks {
        ranges.dedup_by(|next, last| {
            let joins = last.end == next.start && last.like(next);
            if joins {
                last.end = next.end;
            }
            joins
        });
        BadBlocks { ranges }
    }

    fn push(&mut self, range: BadRange) {
        match self.ranges.last_mut() {
            Some(last) if last.end == range.start && last.like(&range) => last.end = range.end,
            _ => self.ranges.push(range),
        }
    }

    /// Returns the part of the list that touches `range`, including neighbours, which may merge with new ranges.
    fn around(&self, range: &Range<u64>) -> Range<usize> {
        let first = self.ranges.partition_point(|r| r.end < range.start);
        first..self.ranges.partition_point(|r| r.start <= range.end).max(first)
    }

    /// Replaces the map within `range`: exactly `ranges` are not finished there.
    pub fn replace(&mut self, range: Range<u64>, ranges: &[BadRange]) {
        if range.is_empty() {
            return;
        }
        let around = self.around(&range);
        let mut out = BadBlocks::none();
        for r in self.ranges[around.clone()].iter().filter(|r| r.start < range.start) {
            out.push(r.cut(r.start..r.end.min(range.start)));
        }
        BadBlocks::from_unsorted(ranges.iter().copied()).ranges.into_iter().for_each(|r| out.push(r));
        for r in self.ranges[around.clone()].iter().filter(|r| r.end > range.end) {
            out.push(r.cut(r.start.max(range.end)..r.end));
        }
        self.ranges.splice(around, out.ranges);
    }

    /// Applies `changes`, which are in order and do not overlap: each sets the status of its range. A change to
    /// "finished" does not affect suspect ranges: storing bytes again does not make them trustworthy. All changes take
    /// one pass over the part of the map between the first and the last one.
    pub fn apply(&mut self, changes: &[BadRange]) {
        let Some((first, last)) = changes.first().zip(changes.last()) else { return };
        let around = self.around(&(first.start..last.end));
        let mut out = BadBlocks::none();
        out.ranges.reserve(around.len() + changes.len());
        let mut changes = changes.iter().copied().peekable();
        // The end of the last change that was inserted.
        let mut put = 0;
        for r in &self.ranges[around.clone()] {
            let mut at = r.start.max(put);
            while let Some(change) = changes.peek().copied().filter(|c| c.start < r.end) {
                let finishes = change.status == Status::Finished;
                if !(finishes && r.status == Status::Suspect) {
                    if change.start > at {
                        out.push(r.cut(at..change.start));
                    }
                    at = at.max(change.end);
                }
                if !finishes {
                    out.push(change);
                    put = change.end;
                } else if change.end > r.end {
                    // The change also covers the next ranges.
                    break;
                }
                changes.next();
            }
            if at < r.end {
                out.push(r.cut(at..r.end));
            }
        }
        changes.filter(|c| c.status != Status::Finished).for_each(|c| out.push(c));
        self.ranges.splice(around, out.ranges);
    }

    /// Returns the ranges, in order.
    pub fn ranges(&self) -> &[BadRange] {
        &self.ranges
    }

    /// Returns whether everything is finished.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns the first range that ends after `offset`: the one that contains it, or the next one.
    pub fn next(&self, offset: u64) -> Option<&BadRange> {
        self.ranges.get(self.ranges.partition_point(|r| r.end <= offset))
    }

    /// Returns the ranges that overlap `range`.
    pub fn touching(&self, range: Range<u64>) -> &[BadRange] {
        let first = self.ranges.partition_point(|r| r.end <= range.start);
        let last = self.ranges.partition_point(|r| r.start < range.end);
        &self.ranges[first..last.max(first)]
    }

    /// Returns the parts of `range` for which an image has bytes ([`Status::has_bytes`]), as maximal runs in order.
    pub fn held(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let missing = self.touching(range.clone()).iter().filter(|r| !r.status.has_bytes());
        let end = std::iter::once(range.end..range.end);
        let mut at = range.start;
        missing.map(|r| r.start..r.end).chain(end).filter_map(move |missing| {
            let held = at..missing.start;
            at = missing.end.max(at);
            (held.start < held.end).then_some(held)
        })
    }

    /// Counts the ranges and bytes with `status`.
    pub fn count(&self, status: Status) -> Count {
        let with = self.ranges.iter().filter(|r| r.status == status);
        with.fold(Count::default(), |c, r| Count { ranges: c.ranges + 1, bytes: c.bytes + r.len() })
    }

    /// Returns the number of bytes of the disk that an image with this map does not have.
    pub fn missing(&self) -> u64 {
        self.ranges.iter().filter(|r| !r.status.has_bytes()).map(BadRange::len).sum()
    }

    /// Returns whether all ranges are whole sectors on a disk of `size` bytes, so that [`BadBlocks::rounded`] changes
    /// nothing.
    pub fn is_rounded(&self, sector: u32, size: u64) -> bool {
        let whole = |at: u64| at.is_multiple_of(u64::from(sector));
        self.ranges.iter().all(|r| whole(r.start) && (whole(r.end) || r.end == size) && r.end <= size)
    }

    /// Returns the map with every range extended to whole sectors of `sector` bytes and cut off at the end of the disk,
    /// at `size` bytes: a sector that is partly unread counts as unread.
    pub fn rounded(mut self, sector: u32, size: u64) -> BadBlocks {
        if self.is_rounded(sector, size) {
            return self;
        }
        self.ranges.retain(|r| r.start < size);
        for r in &mut self.ranges {
            *r = r.cut(round_outwards(r.start..r.end, u64::from(sector), size));
        }
        BadBlocks::from_vec(self.ranges)
    }
}

/// A range in the sweep, ordered by the worst status.
#[derive(PartialEq, Eq)]
struct Open(BadRange);

impl Ord for Open {
    fn cmp(&self, other: &Open) -> Ordering {
        (self.0.status, self.0.start, self.0.end).cmp(&(other.0.status, other.0.start, other.0.end))
    }
}

impl PartialOrd for Open {
    fn partial_cmp(&self, other: &Open) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use Status::*;
    use cdi_base::units::index;

    use super::*;

    fn map(ranges: &[(u64, u64, Status)]) -> BadBlocks {
        BadBlocks::from_unsorted(ranges.iter().map(|&(a, b, s)| BadRange::new(a..b, s)))
    }

    #[test]
    fn the_less_processed_status_wins_where_ranges_overlap() {
        let got = map(&[(0, 100, Bad), (50, 60, NonTried), (90, 120, NonScraped), (120, 130, NonScraped)]);
        assert_eq!(got, map(&[(0, 50, Bad), (50, 60, NonTried), (60, 90, Bad), (90, 130, NonScraped)]));
    }

    #[test]
    fn changes_match_a_plain_vector() {
        // Compare a map with a vector of one status per byte, through many random changes.
        let mut random = 88172645463325252u64;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        for _ in 0..200 {
            let mut plain = [Finished; 200];
            let mut map = BadBlocks::none();
            for _ in 0..30 {
                let start = next(200);
                let end = start + next(200 - start + 1);
                let mut status = || Status::from_number(u8::try_from(1 + next(6)).unwrap()).expect("1 to 6");
                // Replace one range, or apply several changes at once.
                let (a, b) = (start + (end - start) / 3, end - (end - start) / 3);
                let changes = [(start, a, status()), (a, b, status()), (b.max(start + 1), end, status())];
                let changes = changes.map(|(from, to, status)| BadRange::new(from..to, status));
                let changes: Vec<_> = changes.into_iter().filter(|c| c.start < c.end).collect();
                if end % 3 == 0 {
                    plain[index(start)..index(end)].fill(Finished);
                    map.replace(start..end, &changes);
                } else {
                    map.apply(&changes);
                }
                for c in &changes {
                    let part = &mut plain[index(c.start)..index(c.end)];
                    let keeps = |s: &Status| c.status == Finished && *s == Suspect;
                    part.iter_mut().filter(|s| !keeps(s)).for_each(|s| *s = c.status);
                }
                for at in 0..200u64 {
                    let got = map.next(at).filter(|r| r.start <= at).map_or(Finished, |r| r.status);
                    assert_eq!(got, plain[index(at)], "at {at}");
                }
                assert!(
                    map.ranges()
                        .windows(2)
                        .all(|w| w[0].end < w[1].start || (w[0].end == w[1].start && !w[0].like(&w[1]))),
                    "not merged: {map:?}"
                );
                let held: u64 = map.held(0..200).map(|r| r.end - r.start).sum();
                assert_eq!(held, plain.iter().filter(|s| s.has_bytes()).count() as u64);
                assert_eq!(map.missing(), 200 - held);
            }
        }
    }

    #[test]
    fn many_overlapping_ranges_are_merged_quickly() {
        let start = std::time::Instant::now();
        let odd = (0..400_000u64).map(|i| BadRange::new(i * 10..i * 10 + 5, Bad));
        let map = BadBlocks::from_unsorted(odd.chain([BadRange::new(3..17, NonTried)]));
        assert_eq!(map.ranges().len(), 400_000);
        assert!(start.elapsed().as_secs() < 5);
    }

    #[test]
    fn ranges_in_any_order_make_the_same_map() {
        let mut ranges: Vec<BadRange> = (0..1000u64)
            .map(|i| BadRange::new(i * 7..i * 7 + 1 + i % 12, Status::LISTED[index(i % 5)]))
            .collect();
        let map = BadBlocks::from_unsorted(ranges.iter().copied());
        ranges.reverse();
        assert_eq!(map, BadBlocks::from_unsorted(ranges));
        assert_eq!(map, BadBlocks::from_ordered(map.ranges().to_vec()));
    }

    #[test]
    fn a_partly_unread_sector_counts_as_unread() {
        let got = map(&[(100, 200, Bad), (1000, 1100, NonTried), (2000, 9000, Bad)]).rounded(512, 3000);
        assert_eq!(got, map(&[(0, 512, Bad), (512, 1536, NonTried), (1536, 3000, Bad)]));
    }
}
