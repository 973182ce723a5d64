//! A bad-block map while it changes.

use std::ops::Range;

use super::{BadBlocks, BadRange, Status};

/// So many changes are made one by one, each in its place.
const FEW: usize = 8;
/// So many changes are gathered at most.
const MAX_CHANGES: usize = 1 << 16;

/// A map that changes while an image is made or its records are taken in. Changes are gathered, because they mostly come
/// in order, and made all at once: a map may have millions of ranges.
#[derive(Debug, Default)]
pub struct BadMapBuilder {
    map: BadBlocks,
    /// What was not made yet: in order and without overlaps, or nothing but "finished", whose order makes no difference.
    changes: Vec<BadRange>,
    /// Whether they are in order.
    unordered: bool,
    /// Whether any of them is not "finished".
    mixed: bool,
}

impl BadMapBuilder {
    /// Begins with `map`.
    pub fn new(map: BadBlocks) -> BadMapBuilder {
        BadMapBuilder { map, ..BadMapBuilder::default() }
    }

    /// Says that bytes were put at `range`: it is finished, but for what is suspect.
    pub fn finish(&mut self, range: Range<u64>) {
        self.set(BadRange::new(range, Status::Finished));
    }

    /// Says that `what` holds for its range.
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

    /// Says that of `range` exactly `ranges` are not finished.
    pub fn replace(&mut self, range: Range<u64>, ranges: &[BadRange]) {
        self.settle();
        self.map.replace(range, ranges);
    }

    /// Whether the map has more than `most` ranges now.
    pub fn is_longer_than(&mut self, most: usize) -> bool {
        // A change makes at most two ranges more. What cannot be longer need not be settled for that.
        self.map.ranges().len() + 2 * self.changes.len() > most && self.settle().ranges().len() > most
    }

    /// The map as it is now.
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
        if changes.len() <= FEW {
            changes.iter().for_each(|change| self.map.apply(std::slice::from_ref(change)));
        } else {
            self.map.apply(&changes);
        }
        changes.clear();
        (self.changes, self.unordered, self.mixed) = (changes, false, false);
        &self.map
    }

    /// The map as it is at the end.
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
    fn a_changing_map_agrees_with_a_plain_vector() {
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
