//! A bad-block map while it changes.

use std::ops::Range;

use super::bad::{BadBlocks, BadRange, Status};

/// So many runs are few.
const FEW: usize = 8;

/// A map that changes while an image is made or its records are taken in. What was finished is gathered, because it
/// mostly comes in order, and worked in all at once: a map may have a million ranges.
#[derive(Debug, Default)]
pub struct ChangingMap {
    map: BadBlocks,
    finished: Vec<Range<u64>>,
}

impl ChangingMap {
    /// Begins with `map`.
    pub fn new(map: BadBlocks) -> ChangingMap {
        ChangingMap { map, finished: Vec::new() }
    }

    /// Says that bytes were put at `range`: it is finished, but for what is suspect.
    pub fn finish(&mut self, range: Range<u64>) {
        match self.finished.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.finished.push(range),
        }
    }

    /// Says that `what` holds for its range.
    pub fn set(&mut self, what: BadRange) {
        self.settle();
        self.map.set(what.start..what.end, Some(what));
    }

    /// Says that of `range` exactly `ranges` are not finished.
    pub fn replace(&mut self, range: Range<u64>, ranges: &[BadRange]) {
        self.settle();
        self.map.replace(range, ranges);
    }

    /// The map as it is now.
    pub fn settle(&mut self) -> &BadBlocks {
        if !self.finished.is_empty() {
            let mut runs = std::mem::take(&mut self.finished);
            runs.sort_by_key(|r| r.start);
            runs.dedup_by(|b, a| {
                let touch = b.start <= a.end;
                if touch {
                    a.end = a.end.max(b.end);
                }
                touch
            });
            // Few are put into their places one by one; many at once, in a walk over all of the map.
            let suspect = |map: &BadBlocks, run: &Range<u64>| {
                map.touching(run.clone()).iter().any(|r| r.status == Status::Suspect)
            };
            if runs.len() <= FEW && !runs.iter().any(|run| suspect(&self.map, run)) {
                runs.into_iter().for_each(|run| self.map.set(run, None));
            } else {
                self.map.finish(&runs);
            }
        }
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::bad::Status::*;
    use crate::units::index;

    #[test]
    fn a_changing_map_agrees_with_a_plain_vector() {
        let mut random = 42u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) % below
        };
        for _ in 0..300 {
            let mut plain = [NonTried; 100];
            let mut map = ChangingMap::new(BadBlocks::from_unsorted([BadRange::new(0..100, NonTried)]));
            for _ in 0..20 {
                let start = next(100);
                let end = start + 1 + next(100 - start);
                let part = &mut plain[index(start)..index(end)];
                let status = Status::LISTED[index(next(5))];
                match next(4) {
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
