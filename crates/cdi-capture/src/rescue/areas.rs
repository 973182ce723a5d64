//! The unfinished areas of a disk during imaging: the map that decides what is read next.
//!
//! It changes with every read, so it is a tree. The image's own map ([`cdi_image::badmap::builder`]) is updated from
//! it.

use std::collections::BTreeMap;
use std::ops::Range;

use cdi_image::badmap::{BadBlocks, BadRange, Status};

/// The unfinished areas of a disk: sorted, without overlaps, with adjacent areas of the same status merged.
#[derive(Debug, Default)]
pub struct Areas {
    areas: BTreeMap<u64, BadRange>,
    bytes: [u64; 6],
}

/// The direction in which a pass moves over the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the first sector to the last.
    Forwards,
    /// From the last to the first.
    Backwards,
}

impl Direction {
    /// Returns the opposite direction.
    pub fn turned(self) -> Direction {
        match self {
            Direction::Forwards => Direction::Backwards,
            Direction::Backwards => Direction::Forwards,
        }
    }
}

impl Areas {
    /// Returns the areas of `map` inside `domain` (sorted, without overlaps), clipped to it. Suspect ranges count as
    /// finished, because they have been read.
    pub fn new(map: &BadBlocks, domain: &[Range<u64>]) -> Areas {
        let mut areas = Areas::default();
        for part in domain {
            for r in map.touching(part.clone()).iter().filter(|r| !r.status.has_bytes()) {
                areas.insert(BadRange { start: r.start.max(part.start), end: r.end.min(part.end), ..*r });
            }
        }
        areas
    }

    /// Adds the areas of `other`, which must not overlap these.
    pub fn join(&mut self, other: Areas) {
        other.areas.into_values().for_each(|area| self.set(area));
    }

    /// Splits the areas into the parts inside and outside `domain`, whose ranges are in order and do not overlap.
    pub fn split(self, domain: &[Range<u64>]) -> (Areas, Areas) {
        let (mut inside, mut outside) = (Areas::default(), Areas::default());
        for area in self.areas.into_values() {
            let mut at = area.start;
            let first = domain.partition_point(|part| part.end <= area.start);
            for part in domain[first..].iter().take_while(|part| part.start < area.end) {
                if at < part.start {
                    outside.insert(BadRange { start: at, end: part.start, ..area });
                }
                let (start, end) = (at.max(part.start), part.end.min(area.end));
                inside.insert(BadRange { start, end, ..area });
                at = end;
            }
            if at < area.end {
                outside.insert(BadRange { start: at, ..area });
            }
        }
        (inside, outside)
    }

    fn insert(&mut self, area: BadRange) {
        self.bytes[area.status as usize - 1] += area.len();
        self.areas.insert(area.start, area);
    }

    fn remove(&mut self, start: u64) -> Option<BadRange> {
        let area = self.areas.remove(&start)?;
        self.bytes[area.status as usize - 1] -= area.len();
        Some(area)
    }

    /// Returns the number of bytes with `status`.
    pub fn bytes(&self, status: Status) -> u64 {
        self.bytes[status as usize - 1]
    }

    /// Returns the number of unfinished bytes.
    pub fn left(&self) -> u64 {
        self.bytes.iter().sum()
    }

    /// Returns the number of areas.
    pub fn len(&self) -> usize {
        self.areas.len()
    }

    /// Checks whether everything is finished.
    pub fn is_empty(&self) -> bool {
        self.areas.is_empty()
    }

    /// Iterates over all areas, in order.
    pub fn iter(&self) -> impl Iterator<Item = &BadRange> {
        self.areas.values()
    }

    /// Returns the area that contains `at`.
    pub fn around(&self, at: u64) -> Option<BadRange> {
        self.areas.range(..=at).next_back().map(|(_, a)| *a).filter(|a| a.end > at)
    }

    /// Returns the first area that begins at `at` or after it.
    pub fn after(&self, at: u64) -> Option<BadRange> {
        self.areas.range(at..).next().map(|(_, area)| *area)
    }

    /// Returns the first area of `status` that a pass reaches from position `from`. Forwards, the area has bytes at
    /// or after `from`; backwards, it has bytes before `from`.
    pub fn find(&self, status: Status, from: u64, direction: Direction) -> Option<BadRange> {
        match direction {
            Direction::Forwards => {
                let here = self.around(from).filter(|a| a.status == status);
                here.or_else(|| self.areas.range(from..).map(|(_, a)| *a).find(|a| a.status == status))
            }
            Direction::Backwards => {
                self.areas.range(..from).rev().map(|(_, a)| *a).find(|a| a.status == status)
            }
        }
    }

    /// Returns the unfinished areas in `range`, clipped to it.
    pub fn within(&self, range: Range<u64>) -> Vec<BadRange> {
        if range.is_empty() {
            return Vec::new();
        }
        let first = self.around(range.start).map_or(range.start, |a| a.start);
        let touching = self.areas.range(first..range.end).map(|(_, a)| *a);
        touching
            .map(|a| BadRange { start: a.start.max(range.start), end: a.end.min(range.end), ..a })
            .filter(|a| !a.is_empty())
            .collect()
    }

    /// Marks `range` as finished.
    pub fn finish(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.around(range.start).map_or(range.start, |a| a.start);
        let starts: Vec<u64> = self.areas.range(first..range.end).map(|(s, _)| *s).collect();
        for start in starts {
            let Some(area) = self.remove(start) else { continue };
            if area.start < range.start {
                self.insert(BadRange { end: range.start, ..area });
            }
            if area.end > range.end {
                self.insert(BadRange { start: range.end, ..area });
            }
        }
    }

    /// Sets the status of the range of `area`.
    pub fn set(&mut self, area: BadRange) {
        self.finish(area.start..area.end);
        let mut area = area;
        let like = |a: &BadRange| (a.status, a.tries, a.reason) == (area.status, area.tries, area.reason);
        let before = self.areas.range(..area.start).next_back().map(|(_, a)| *a);
        let before = before.filter(|a| a.end == area.start && like(a));
        let after = self.areas.get(&area.end).copied().filter(like);
        if let Some(before) = before {
            self.remove(before.start);
            area.start = before.start;
        }
        if let Some(after) = after {
            self.remove(after.start);
            area.end = after.end;
        }
        self.insert(area);
    }
}

#[cfg(test)]
mod tests {
    use Direction::*;
    use Status::*;

    use super::*;

    #[test]
    fn areas_agree_with_a_plain_vector() {
        let mut random = 7u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) % below
        };
        for _ in 0..300 {
            let map = BadBlocks::from_unsorted([BadRange::new(0..100, NonTried)]);
            let mut areas = Areas::new(&map, &[0..30, 40..100]);
            let mut plain = [NonTried; 100];
            plain[30..40].fill(Finished);
            for _ in 0..30 {
                let start = next(100);
                let end = start + 1 + next(100 - start);
                let status =
                    [NonTried, NonTrimmed, NonScraped, Bad, Finished][usize::try_from(next(5)).unwrap()];
                plain[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()].fill(status);
                if status == Finished {
                    areas.finish(start..end);
                } else {
                    areas.set(BadRange::new(start..end, status));
                }
                let all: Vec<&BadRange> = areas.iter().collect();
                assert!(
                    all.windows(2)
                        .all(|w| w[0].end < w[1].start
                            || (w[0].end == w[1].start && w[0].status != w[1].status))
                );
                for (at, status) in (0u64..).zip(plain) {
                    assert_eq!(areas.around(at).map_or(Finished, |a| a.status), status);
                }
                for status in [NonTried, Bad] {
                    let count = plain.iter().filter(|s| **s == status).count() as u64;
                    assert_eq!(areas.bytes(status), count);
                    let from = next(101);
                    let forwards = (from..100).find(|at| plain[usize::try_from(*at).unwrap()] == status);
                    let got = areas.find(status, from, Forwards).map(|a| a.start.max(from));
                    assert_eq!(got, forwards);
                    let backwards = (0..from).rev().find(|at| plain[usize::try_from(*at).unwrap()] == status);
                    let got = areas.find(status, from, Backwards).map(|a| a.end.min(from) - 1);
                    assert_eq!(got, backwards);
                }
                let (cut, all) = (next(30), areas.left());
                let domain = [cut..cut + 7, cut + 20..cut + 50];
                let (inside, outside) = areas.split(&domain);
                assert!(inside.iter().all(|a| domain.iter().any(|d| d.start <= a.start && a.end <= d.end)));
                assert!(outside.iter().all(|a| domain.iter().all(|d| a.end <= d.start || d.end <= a.start)));
                areas = inside;
                areas.join(outside);
                assert_eq!(areas.left(), all);
                let within: u64 = areas.within(20..50).iter().map(BadRange::len).sum();
                assert_eq!(within, plain[20..50].iter().filter(|s| **s != Finished).count() as u64);
            }
        }
    }
}
