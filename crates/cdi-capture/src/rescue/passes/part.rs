//! Passes over a part of the domain, and back to all of it.

use std::ops::Range;

use cdi_image::badmap::{BadRange, Status};

use super::{Direction, Pass, Passes};

/// What is to be done for a program that reads a place while the disk is imaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Demanded {
    /// This is to be read.
    Read(Range<u64>),
    /// It has been read.
    Held,
    /// It has failed, or is not to be read; whether it may turn out to be good.
    Failed {
        /// Whether it may turn out to be good.
        untried: bool,
    },
}

/// Where the passes over the whole domain are.
#[derive(Debug, Clone, Copy)]
pub struct Position {
    pass: Pass,
    direction: Direction,
    at: u64,
    size: u64,
    clean: u64,
    skip: u64,
    slow_skip: u64,
}

impl Passes {
    /// Returns the unfinished areas of the whole domain: in order, except that those that are not being read come last.
    pub fn all_areas(&self) -> impl Iterator<Item = &BadRange> {
        self.areas.iter().chain(self.later.iter())
    }

    /// Returns everything that is not finished, also outside of the domain; not in order.
    pub fn unfinished(&self) -> impl Iterator<Item = &BadRange> {
        self.all_areas().chain(self.left_out.iter()).chain(self.outside.iter())
    }

    /// Returns the number of bytes with `status` in the whole domain.
    pub fn bytes(&self, status: Status) -> u64 {
        self.areas.bytes(status) + self.later.bytes(status)
    }

    /// Returns the number of unfinished areas in the whole domain.
    pub fn count(&self) -> usize {
        self.areas.len() + self.later.len()
    }

    /// Returns whether something was read or tried in the domain, and not all of it could be read.
    pub fn met_errors(&self) -> bool {
        self.bytes(Status::NonTried) < self.areas.left() + self.later.left()
    }

    /// Returns whether the last second of reading was slow.
    pub fn is_slow(&self) -> bool {
        self.slow_skip > 0
    }

    /// Returns whether these are copying passes that have something to do.
    pub fn is_copying(&self) -> bool {
        matches!(self.pass, Pass::Copying(_) | Pass::Sweeping) && self.areas.bytes(Status::NonTried) > 0
    }

    /// Returns the position, for [`Passes::continue_at`]. Must not be called while a block is being trimmed.
    pub fn position(&self) -> Position {
        Position {
            pass: self.pass,
            direction: self.direction,
            at: self.at,
            size: self.size,
            clean: self.clean,
            skip: self.skip,
            slow_skip: self.slow_skip,
        }
    }

    /// Begins passes over the part of the domain that is in `part`, whose ranges are in order and do not overlap, with at most
    /// `retries` retry passes. [`Passes::settle`] must have returned false. Returns whether there is anything to do.
    pub fn begin_part(&mut self, part: &[Range<u64>], retries: Option<u32>) -> bool {
        self.join();
        (self.areas, self.later) = std::mem::take(&mut self.areas).split(part);
        (self.retries, self.retried) = (retries, 0);
        (self.pass, self.direction) = (Pass::Copying(0), self.plan.direction.turned());
        self.next_pass();
        self.pass != Pass::Finished
    }

    /// Continues the passes over the whole domain.
    pub fn continue_at(&mut self, position: &Position) {
        self.join();
        self.bands.give_up();
        (self.retries, self.retried) = (self.plan.retries, 0);
        let Position { pass, direction, at, size, clean, skip, slow_skip } = *position;
        (self.pass, self.direction, self.at, self.trimmed) = (pass, direction, at, None);
        (self.size, self.clean, self.skip, self.slow_skip) = (size, clean, skip, slow_skip);
    }

    /// Leaves out everything that is not being read. Returns how many unfinished bytes that is.
    pub fn leave_out_the_rest(&mut self) -> u64 {
        self.left_out = std::mem::take(&mut self.later);
        self.left_out.left()
    }

    /// Returns what is to be done for a program that reads `range` and needs byte `at` of it.
    pub fn demanded(&self, at: u64, range: &Range<u64>) -> Demanded {
        let known = self.areas.around(at).or_else(|| self.later.around(at));
        let inside = |part: &Range<u64>| part.contains(&at);
        match known.or_else(|| self.left_out.around(at)) {
            // A drive that fails every read is left to the passes.
            Some(_) if self.health.seems_dead() => Demanded::Failed { untried: true },
            Some(area) if area.status == Status::NonTried && known.is_some() => {
                let start = area.start.max(range.start);
                let most = (start - start % self.size).saturating_add(self.size).max(at + 1);
                let most = most.next_multiple_of(self.plan.unit);
                Demanded::Read(start..area.end.min(range.end).min(most))
            }
            Some(area) => Demanded::Failed { untried: area.status != Status::Bad },
            None if self.plan.domain.iter().any(inside) => Demanded::Held,
            None => Demanded::Failed { untried: true },
        }
    }

    fn join(&mut self) {
        let mut less = std::mem::take(&mut self.later);
        if less.len() > self.areas.len() {
            std::mem::swap(&mut less, &mut self.areas);
        }
        self.areas.join(less);
    }
}
