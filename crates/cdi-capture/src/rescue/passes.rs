//! Which sectors of a failing disk are read next: GNU ddrescue's passes, as its manual describes them ("Algorithm").
//!
//! Nothing is read here: [`Passes::next_read`] says what to read, [`Passes::got`] takes what came of it. What is easy to
//! read is read first, in large pieces and away from errors; then the edges of what failed (trimming), then the rest
//! of it (scraping). So each sector is tried at most twice, once among others and once by itself, until it is
//! retried.

use std::ops::Range;
use std::time::Duration;

use cdi_image::badmap::{BadBlocks, BadRange, Status};

use super::areas::{Areas, Direction};
use super::drive_health::DriveHealth;
pub use super::plan::{Next, Outcome, Pass, Read, RescuePlan};
use super::rate::{Rate, per_second};

/// How much is read at once near errors, in bytes: ddrescue's cluster.
pub const CLUSTER: u64 = 64 << 10;
/// How much is read at once where there are no errors, in bytes.
pub const MAX: u64 = 1 << 20;
/// The longest hole that is taken in one piece, in bytes: it is hashed.
const MAX_HOLE: u64 = 64 << 20;
/// After so many bytes without an error, reads become larger.
const CLEAN: u64 = 16 << 20;
/// An area is not called slow before so much reading.
const SETTLE: Duration = Duration::from_secs(30);

/// The passes over a disk, under way.
pub struct Passes {
    plan: RescuePlan,
    areas: Areas,
    pass: Pass,
    direction: Direction,
    /// Where the pass stands, in bytes: the end of what is done forwards, its start backwards.
    at: u64,
    /// How much is read at once, and how much was read since the last error.
    size: u64,
    clean: u64,
    /// How far the last error, and the last slow read, made the pass skip; 0 after a good one.
    skip: u64,
    slow_skip: u64,
    rate: Rate,
    /// The block that is being trimmed, what is left of it, and at which edge.
    trimmed: Option<(Range<u64>, Edge)>,
    alive: DriveHealth,
    changes: Vec<BadRange>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edge {
    Leading,
    Trailing,
}

impl Passes {
    /// Passes over what `map` does not call finished.
    pub fn new(plan: RescuePlan, map: &BadBlocks) -> Passes {
        let areas = Areas::new(map, &plan.domain);
        let alive = DriveHealth::new(&plan, &areas);
        let mut passes = Passes {
            direction: plan.direction.turned(),
            size: plan.cluster,
            plan,
            areas,
            pass: Pass::Copying(0),
            at: 0,
            clean: 0,
            skip: 0,
            slow_skip: 0,
            rate: Rate::default(),
            trimmed: None,
            alive,
            changes: Vec::new(),
        };
        passes.next_pass();
        passes
    }

    /// What is not finished.
    pub fn areas(&self) -> &Areas {
        &self.areas
    }

    /// What is being done, and which way.
    pub fn pass(&self) -> (Pass, Direction) {
        (self.pass, self.direction)
    }

    /// The plan.
    pub fn plan(&self) -> &RescuePlan {
        &self.plan
    }

    /// What has changed in the map since this was asked last, but for what was finished.
    pub fn changes(&mut self) -> Vec<BadRange> {
        std::mem::take(&mut self.changes)
    }

    fn set(&mut self, what: BadRange) {
        self.areas.set(what);
        self.changes.push(what);
    }

    /// Before all ends: whether something is still to be read, to see if the errors that came last were the drive's end.
    pub fn settle(&mut self) -> bool {
        self.alive.settle()
    }

    /// What is to be read next.
    pub fn next_read(&mut self) -> Next {
        if let Some(range) = self.alive.to_be_checked() {
            return Next::Read(Read { range, check: true });
        }
        if let Some(revert) = self.alive.dead() {
            // What seemed to be bad sectors was the drive's end: it says nothing of them.
            revert.into_iter().rev().for_each(|before| self.set(before));
            return Next::Dead;
        }
        loop {
            let range = match self.pass {
                Pass::Copying(pass) => self.next_copying(pass),
                Pass::Trimming => self.next_trimming(),
                Pass::Scraping => self.next_by_units(Status::NonScraped, self.plan.unit),
                Pass::Retrying(_) => self.next_by_units(Status::Bad, self.plan.sector),
                Pass::Finished => return Next::Finished,
            };
            match range {
                Some(range) => return Next::Read(Read { range, check: false }),
                None => self.next_pass(),
            }
        }
    }

    /// Goes over to the next pass that has something to do.
    fn next_pass(&mut self) {
        let plan = &self.plan;
        let base = plan.direction;
        let any = |status| self.areas.bytes(status) > 0;
        loop {
            (self.pass, self.direction) = match self.pass {
                Pass::Copying(n @ 0..=4) => (Pass::Copying(n + 1), self.direction.turned()),
                Pass::Copying(_) => (Pass::Trimming, base),
                Pass::Trimming => (Pass::Scraping, base),
                Pass::Scraping => (Pass::Retrying(1), base),
                Pass::Retrying(n) => (Pass::Retrying(n + 1), self.direction.turned()),
                Pass::Finished => return,
            };
            let useful = match self.pass {
                Pass::Copying(_) => any(Status::NonTried),
                Pass::Trimming => plan.trim && any(Status::NonTrimmed),
                Pass::Scraping => plan.scrape && any(Status::NonScraped),
                Pass::Retrying(n) if !any(Status::Bad) || plan.retries.is_some_and(|most| n > most) => {
                    self.pass = Pass::Finished;
                    true
                }
                _ => true,
            };
            if useful {
                break;
            }
        }
        self.at = match self.direction {
            Direction::Forwards => 0,
            Direction::Backwards => u64::MAX,
        };
        (self.skip, self.slow_skip, self.trimmed) = (0, 0, None);
    }

    /// The next piece of at most `len` bytes of what is left of `area`; pieces end on multiples of `len`.
    fn piece(&self, area: &BadRange, len: u64) -> Range<u64> {
        match self.direction {
            Direction::Forwards => {
                let start = area.start.max(self.at);
                start..(start - start % len).saturating_add(len).min(area.end)
            }
            Direction::Backwards => {
                let end = area.end.min(self.at);
                ((end - 1) / len * len).max(area.start)..end
            }
        }
    }

    fn next_copying(&mut self, pass: u8) -> Option<Range<u64>> {
        loop {
            let area = self.areas.find(Status::NonTried, self.at, self.direction)?;
            let piece = self.piece(&area, self.size);
            // Passes 3 and 4 are for what was left because it was slow: it lies beside what was read.
            let beside = match self.direction {
                Direction::Forwards => piece.start.checked_sub(1),
                Direction::Backwards => Some(piece.end),
            };
            let unread_sibling = beside.is_some_and(|at| self.areas.around(at).is_some());
            if (pass == 3 || pass == 4) && unread_sibling {
                self.leave(&area);
                continue;
            }
            return Some(piece);
        }
    }

    /// Goes past `area`.
    fn leave(&mut self, area: &BadRange) {
        self.at = match self.direction {
            Direction::Forwards => area.end,
            Direction::Backwards => area.start,
        };
    }

    fn next_trimming(&mut self) -> Option<Range<u64>> {
        let unit = self.plan.unit;
        loop {
            let (block, edge) = match self.trimmed.take() {
                Some(block) => block,
                None => {
                    let area = self.areas.find(Status::NonTrimmed, self.at, self.direction)?;
                    // An edge beside a bad sector has been found already.
                    let found = area.start.checked_sub(1).is_some_and(|at| self.is_bad(at));
                    (area.start..area.end, if found { Edge::Trailing } else { Edge::Leading })
                }
            };
            let found = edge == Edge::Trailing && self.is_bad(block.end);
            if block.is_empty() || found {
                self.trimmed_to(block);
                continue;
            }
            self.trimmed = Some((block.clone(), edge));
            return Some(match edge {
                Edge::Leading => block.start..(block.start - block.start % unit + unit).min(block.end),
                Edge::Trailing => ((block.end - 1) / unit * unit).max(block.start)..block.end,
            });
        }
    }

    fn is_bad(&self, at: u64) -> bool {
        self.areas.around(at).is_some_and(|area| area.status == Status::Bad)
    }

    /// What is left of the block that was trimmed has to be scraped.
    fn trimmed_to(&mut self, rest: Range<u64>) {
        self.trimmed = None;
        self.at = match self.direction {
            Direction::Forwards => rest.end,
            Direction::Backwards => rest.start,
        };
        for area in self.areas.within(rest) {
            self.set(BadRange { status: Status::NonScraped, ..area });
        }
    }

    fn next_by_units(&mut self, status: Status, unit: u64) -> Option<Range<u64>> {
        let area = self.areas.find(status, self.at, self.direction)?;
        Some(self.piece(&area, unit))
    }

    /// How far on the source is known to hold nothing but zeros: `read` as far as that goes, if it is one that may be
    /// stretched.
    pub fn stretched(&self, read: &Read, to: u64) -> Read {
        let copying = matches!(self.pass, Pass::Copying(_)) && self.direction == Direction::Forwards;
        let area = self.areas.around(read.range.start).filter(|_| copying && !read.check);
        let to = to.min(read.range.start.saturating_add(MAX_HOLE));
        let end = area.map_or(read.range.end, |area| area.end.min(to).max(read.range.end));
        Read { range: read.range.start..end, check: read.check }
    }

    /// Takes in what came of a read.
    pub fn got(&mut self, read: &Read, outcome: &Outcome) {
        let Range { start, end } = read.range;
        let good = start..(start + outcome.good).min(end);
        let failed = good.end < end;
        if read.check {
            return self.alive.checked(!failed);
        }
        if !good.is_empty() {
            self.areas.finish(good.clone());
            self.alive.read(good.start..(good.start + self.plan.unit).min(good.end));
        }
        if failed {
            self.alive.failed(self.areas.within(good.end..end));
        }
        let rate = self.rate.add(good.end - good.start, outcome.took);
        let status = match self.pass {
            Pass::Copying(_) => Status::NonTrimmed,
            _ => Status::Bad,
        };
        for area in self.areas.within(good.end..end) {
            let tries = area.tries.saturating_add(1);
            self.set(BadRange { status, tries, reason: outcome.reason.or(area.reason), ..area });
        }
        match self.pass {
            Pass::Copying(pass) => self.copied(pass, &read.range, failed, rate),
            Pass::Trimming => self.trimmed_by(&read.range, failed),
            _ => self.advance(&read.range),
        }
    }

    fn advance(&mut self, range: &Range<u64>) {
        self.at = match self.direction {
            Direction::Forwards => range.end,
            Direction::Backwards => range.start,
        };
    }

    /// Moves on in a copying pass.
    fn copied(&mut self, pass: u8, read: &Range<u64>, failed: bool, rate: Option<u64>) {
        self.advance(read);
        let skip = if failed {
            (self.clean, self.size) = (0, self.plan.cluster);
            let (least, most) = self.skips();
            self.skip = if self.skip == 0 { least } else { (self.skip * 2).min(most) };
            self.skip
        } else {
            self.skip = 0;
            self.clean += read.end - read.start;
            if self.clean >= CLEAN {
                self.size = (self.size * 2).min(self.plan.most);
            }
            self.slowly(pass, rate)
        };
        match pass {
            1 => {
                self.at = match self.direction {
                    Direction::Forwards => self.at.saturating_add(skip),
                    Direction::Backwards => self.at.saturating_sub(skip),
                }
            }
            2..=4 if skip > 0 => {
                // The rest of the block is left for a later pass.
                let rest = match self.direction {
                    Direction::Forwards => Some(read.end),
                    Direction::Backwards => read.start.checked_sub(1),
                };
                let rest = rest.and_then(|at| self.areas.around(at));
                if let Some(rest) = rest.filter(|rest| rest.status == Status::NonTried) {
                    self.leave(&rest);
                }
            }
            _ => {}
        }
    }

    /// The first skip after an error, and the longest.
    fn skips(&self) -> (u64, u64) {
        let whole = |bytes: u64| bytes.next_multiple_of(self.plan.cluster);
        let least = whole((self.plan.size / 100_000).max(self.plan.cluster));
        (least, whole(self.plan.size / 100).max(least))
    }

    /// How much to skip because reads are slow.
    fn slowly(&mut self, pass: u8, rate: Option<u64>) -> u64 {
        let Some(rate) = rate.filter(|_| pass <= 2 && self.rate.total.1 >= SETTLE) else { return 0 };
        let least = self.plan.least_rate.unwrap_or_else(|| per_second(self.rate.total) / 10);
        if rate >= least {
            self.slow_skip = 0;
            return 0;
        }
        let (first, most) = self.skips();
        let doubled = (self.slow_skip * 2).min(most);
        self.slow_skip = doubled.max(first).max(rate.min(most).next_multiple_of(self.plan.cluster));
        self.slow_skip
    }

    fn trimmed_by(&mut self, read: &Range<u64>, failed: bool) {
        let Some((block, edge)) = self.trimmed.take() else { return };
        match edge {
            Edge::Leading => {
                let edge = if failed { Edge::Trailing } else { Edge::Leading };
                self.trimmed = Some((read.end..block.end, edge));
            }
            Edge::Trailing if failed => self.trimmed_to(block.start..read.start),
            Edge::Trailing => self.trimmed = Some((block.start..read.start, edge)),
        }
    }
}

#[cfg(test)]
mod tests;
