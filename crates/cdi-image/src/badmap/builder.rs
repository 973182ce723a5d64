//! A bad-block map that is being changed.

use std::ops::Range;

use super::{BadBlocks, BadRange, Status};

/// Up to this many changes are applied one by one, each in its place.
const MAX_SINGLE_CHANGES: usize = 8;
/// The maximum number of changes that are collected.
const MAX_CHANGES: usize = 1 << 16;

/// A map that changes while an image is made or its records are replayed. Changes are collected, because they mostly
/// come in order, and applied all at once: a map may have millions of ranges.
#[derive(Debug, Default)]
pub struct BadMapBuilder {
    map: BadBlocks,
    /// Changes not applied yet: in order and without overlaps, or only "finished" ones, whose order makes no
    /// difference.
    changes: Vec<BadRange>,
    /// Whether `changes` is not in order.
    unordered: bool,
    /// Whether any of `changes` is not "finished".
    mixed: bool,
}

impl BadMapBuilder {
    /// Starts with `map`.
    pub fn new(map: BadBlocks) -> BadMapBuilder {
        BadMapBuilder { map, ..BadMapBuilder::default() }
    }

    /// Marks `range` as finished, except for suspect parts, because bytes were stored for it.
    pub fn finish(&mut self, range: Range<u64>) {
        self.set(BadRange::new(range, Status::Finished));
    }

    /// Sets the status of a range to that of `what`.
    pub fn set(&mut self, what: BadRange) {
        if what.is_empty() {
            return;
        }
        let finishes = what.status == Status::Finished;
        if let Some(last) = self.changes.last_mut() {
            if last.end == what.start && last.like(&what) && !self.unordered {
                last.end = what.end;
                return;
            }
            let follows = last.end <= what.start && !self.unordered;
            let any_order = finishes && !self.mixed;
            if !(follows || any_order) || self.changes.len() >= MAX_CHANGES {
                self.settle();
            } else {
                self.unordered |= !follows;
            }
        }
        self.mixed |= !finishes;
        self.changes.push(what);
    }

    /// Replaces the map within `range`: exactly `ranges` are not finished there.
    pub fn replace(&mut self, range: Range<u64>, ranges: &[BadRange]) {
        self.settle();
        self.map.replace(range, ranges);
    }

    /// Returns whether the map has more than `max` ranges now.
    pub fn is_longer_than(&mut self, max: usize) -> bool {
        // A change adds at most two ranges. If the map cannot be longer, the changes need not be applied.
        self.map.ranges().len() + 2 * self.changes.len() > max && self.settle().ranges().len() > max
    }

    /// Applies all changes and returns the map.
    pub fn settle(&mut self) -> &BadBlocks {
        let mut changes = std::mem::take(&mut self.changes);
        if self.unordered {
            changes.sort_unstable_by_key(|r| r.start);
            changes.dedup_by(|next, last| {
                let touch = next.start <= last.end;
                if touch {
                    last.end = last.end.max(next.end);
                }
                touch
            });
        }
        if changes.len() <= MAX_SINGLE_CHANGES {
            changes.iter().for_each(|change| self.map.apply(std::slice::from_ref(change)));
        } else {
            self.map.apply(&changes);
        }
        changes.clear();
        (self.changes, self.unordered, self.mixed) = (changes, false, false);
        &self.map
    }

    /// Applies all changes and returns the final map.
    pub fn into_map(mut self) -> BadBlocks {
        self.settle();
        self.map
    }
}

#[cfg(test)]
mod tests {
    use cdi_base::units::index;

    use super::*;
    use crate::badmap::Status::*;

    #[test]
    fn a_changing_map_matches_a_plain_vector() {
        let mut random = 42u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) % below
        };
        for _ in 0..300 {
            let mut plain = [NonTried; 100];
            let mut map = BadMapBuilder::new(BadBlocks::from_unsorted([BadRange::new(0..100, NonTried)]));
            for _ in 0..20 {
                let start = next(100);
                let end = start + 1 + next(100 - start);
                let part = &mut plain[index(start)..index(end)];
                let status = Status::LISTED[index(next(5))];
                match next(5) {
                    0 => {
                        part.fill(status);
                        map.set(BadRange::new(start..end, status));
                    }
                    1 => {
                        part.fill(Finished);
                        part[0] = status;
                        map.replace(start..end, &[BadRange::new(start..start + 1, status)]);
                    }
                    _ => {
                        part.iter_mut().filter(|s| **s != Suspect).for_each(|s| *s = Finished);
                        map.finish(start..end);
                    }
                }
            }
            for at in 0..100 {
                let got = map.settle().next(at).filter(|r| r.start <= at).map_or(Finished, |r| r.status);
                assert_eq!(got, plain[index(at)], "at {at}");
            }
        }
    }
}
