//! Copying: reads what can be read easily, in large blocks and away from errors.

use std::ops::Range;

use cdi_image::badmap::{BadRange, Status};

use super::bands::{Sizes, Step};
use super::{Direction, MOST_WARY, Passes, SETTLE, per_second};

impl Passes {
    pub(super) fn next_copying(&mut self, pass: u8) -> Option<Range<u64>> {
        if let Some(probe) = self.next_probe(pass) {
            return Some(probe);
        }
        loop {
            let area = self.areas.find(Status::NonTried, self.at, self.direction)?;
            let piece = self.piece(&area, self.size);
            // What was skipped is read from where something could be read.
            let neighbour = match self.direction {
                Direction::Forwards => piece.start.checked_sub(1),
                Direction::Backwards => Some(piece.end),
            };
            let next_to_unfinished = neighbour.is_some_and(|at| self.areas.around(at).is_some());
            if (2..=4).contains(&pass) && next_to_unfinished {
                self.skip_area(&area);
                continue;
            }
            return Some(piece);
        }
    }

    /// Returns the read that shows where a band of errors ends.
    fn next_probe(&mut self, pass: u8) -> Option<Range<u64>> {
        if pass != 1 {
            return None;
        }
        loop {
            let probe = self.bands.probe(self.sizes())?;
            let range = self.along(&probe);
            // What was tried already is known.
            let failed = match self.areas.around(range.start) {
                Some(area) if self.may_probe(&area) && range.end <= area.end => return Some(range),
                Some(area) => area.status != Status::NonTried,
                None => false,
            };
            if let Step::To(at) = self.bands.got(&probe, failed, self.sizes()) {
                self.go_to(at);
            }
        }
    }

    fn may_probe(&self, area: &BadRange) -> bool {
        area.status == Status::NonTried || (area.status == Status::NonTrimmed && self.bands.is_entering())
    }

    /// Takes the outcome of such a read. Returns whether it was one.
    fn after_probe(&mut self, read: &Range<u64>, failed: bool) -> bool {
        if self.bands.probe(self.sizes()).is_none() {
            return false;
        }
        let along = self.along(read);
        match self.bands.got(&along, failed, self.sizes()) {
            Step::To(at) => self.go_to(at),
            Step::Probe | Step::On | Step::Skip | Step::SkipTo(_) => {}
        }
        true
    }

    fn sizes(&self) -> Sizes {
        Sizes { cluster: self.plan.cluster, unit: self.plan.unit }
    }

    /// Returns a range of the disk along the direction of the pass, or back: backwards, that of the mirrored disk.
    fn along(&self, range: &Range<u64>) -> Range<u64> {
        let size = self.plan.size;
        match self.direction {
            Direction::Forwards => range.clone(),
            Direction::Backwards => size.saturating_sub(range.end)..size.saturating_sub(range.start),
        }
    }

    /// Goes on at a position along the direction.
    fn go_to(&mut self, at: u64) {
        self.at = match self.direction {
            Direction::Forwards => at,
            Direction::Backwards => self.plan.size.saturating_sub(at),
        };
        self.skip = 0;
    }

    /// Updates position, read size and skips after a read of a copying pass; `failed` also if it was slow.
    pub(super) fn record_copy(&mut self, pass: u8, read: &Range<u64>, failed: bool, rate: Option<u64>) {
        self.bands.is_slow = failed && self.areas.around(read.start).is_none();
        if pass == 1 && self.after_probe(read, failed) {
            return;
        }
        self.advance(read);
        let skip = if failed {
            if read.end - read.start > self.plan.cluster {
                self.wary = (self.wary * 4).min(MOST_WARY);
            }
            (self.clean, self.size) = (0, self.plan.cluster);
            let (min, max) = self.skips();
            self.skip = if self.skip == 0 { min } else { (self.skip * 2).min(max) };
            self.skip
        } else {
            self.skip = 0;
            self.clean += read.end - read.start;
            if self.clean >= self.wary {
                self.size = (self.size * 2).min(self.plan.most);
            }
            self.slow_skip_size(pass, rate)
        };
        match pass {
            1 => {
                let along = self.along(read);
                let step = self.bands.got(&along, failed, self.sizes());
                match step {
                    Step::To(at) => self.go_to(at),
                    Step::Probe => {}
                    Step::SkipTo(at) => {
                        let (_, max) = self.skips();
                        let most = along.end.saturating_add(max);
                        self.go_to(at.clamp(along.end, most));
                    }
                    Step::On | Step::Skip => {
                        self.at = match self.direction {
                            Direction::Forwards => self.at.saturating_add(skip),
                            Direction::Backwards => self.at.saturating_sub(skip),
                        }
                    }
                }
            }
            2..=4 if skip > 0 => {
                // Leave the rest of the block for a later pass.
                let rest = match self.direction {
                    Direction::Forwards => Some(read.end),
                    Direction::Backwards => read.start.checked_sub(1),
                };
                let rest = rest.and_then(|at| self.areas.around(at));
                if let Some(rest) = rest.filter(|rest| rest.status == Status::NonTried) {
                    self.skip_area(&rest);
                }
            }
            _ => {}
        }
    }

    /// Returns the first skip size after an error, and the maximum, in bytes.
    fn skips(&self) -> (u64, u64) {
        let whole = |bytes: u64| bytes.next_multiple_of(self.plan.cluster);
        let (first, most) = self.plan.skip;
        let min = whole(first.unwrap_or(self.plan.size / 100_000).max(self.plan.cluster));
        (min, whole(most.unwrap_or(self.plan.size / 100)).max(min))
    }

    /// Returns the number of bytes to skip because reads are slow.
    fn slow_skip_size(&mut self, pass: u8, rate: Option<u64>) -> u64 {
        let Some(rate) = rate.filter(|_| pass <= 2 && self.rate.total.1 >= SETTLE) else { return 0 };
        let min_rate = self.plan.min_rate.unwrap_or_else(|| per_second(self.rate.total) / 10);
        if rate >= min_rate {
            self.slow_skip = 0;
            return 0;
        }
        let (first, max) = self.skips();
        let doubled = (self.slow_skip * 2).min(max);
        self.slow_skip = doubled.max(first).max(rate.min(max).next_multiple_of(self.plan.cluster));
        self.slow_skip
    }
}
