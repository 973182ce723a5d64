//! Decides which sectors of a failing disk are read next: the passes of GNU ddrescue, as described in its manual
//! ("Algorithm").
//!
//! Nothing is read here: [`Passes::next_read`] returns what to read, [`Passes::got`] records the outcome. The easily
//! readable areas are read first, in large blocks and away from errors (copying); then the edges of the blocks that
//! failed (trimming), then the rest of these blocks (scraping). So each sector is tried at most twice, once with
//! others and once alone, before the retry passes.

use std::ops::Range;
use std::time::Duration;

use cdi_image::badmap::{BadBlocks, BadRange, Status};

mod part;

pub use part::Position;

use super::areas::{Areas, Direction};
use super::drive_health::DriveHealth;
pub use super::plan::{Next, Outcome, Pass, Read, RescuePlan};
use super::rate::{Rate, per_second};

/// The size of reads near errors, in bytes: ddrescue's cluster size.
pub const CLUSTER: u64 = 64 << 10;
/// The maximum size of reads where there are no errors, in bytes.
pub const MAX: u64 = 1 << 20;
/// The maximum size of a hole that is processed at once, in bytes: its zeros have to be hashed.
const MAX_HOLE: u64 = 64 << 20;
/// The number of bytes without an error after which reads become larger.
const CLEAN: u64 = 16 << 20;
/// The minimum reading time before an area can be classified as slow.
const SETTLE: Duration = Duration::from_secs(30);

/// The state of the passes over a disk.
pub struct Passes {
    plan: RescuePlan,
    /// The unfinished areas of the part of the domain that is being read.
    areas: Areas,
    /// Those of the rest of the domain.
    later: Areas,
    /// The maximum number of retry passes now.
    retries: Option<u32>,
    pass: Pass,
    direction: Direction,
    /// The position of the pass, in bytes: forwards, the end of the part that is done; backwards, its start.
    at: u64,
    /// The current size of reads, and the number of bytes read since the last error.
    size: u64,
    clean: u64,
    /// The size of the last skip after an error, and after a slow read; 0 after a good read.
    skip: u64,
    slow_skip: u64,
    rate: Rate,
    /// The rest of the block that is being trimmed, and the edge at which it is trimmed.
    trimmed: Option<(Range<u64>, Edge)>,
    health: DriveHealth,
    changes: Vec<BadRange>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edge {
    Leading,
    Trailing,
}

impl Passes {
    /// Creates the passes over the unfinished areas of `map`.
    pub fn new(plan: RescuePlan, map: &BadBlocks) -> Passes {
        let areas = Areas::new(map, &plan.domain);
        let health = DriveHealth::new(&plan, &areas);
        let mut passes = Passes {
            direction: plan.direction.turned(),
            size: plan.cluster,
            retries: plan.retries,
            plan,
            areas,
            later: Areas::default(),
            pass: Pass::Copying(0),
            at: 0,
            clean: 0,
            skip: 0,
            slow_skip: 0,
            rate: Rate::default(),
            trimmed: None,
            health,
            changes: Vec::new(),
        };
        passes.next_pass();
        passes
    }

    /// Returns the unfinished areas of what is being read.
    pub fn areas(&self) -> &Areas {
        &self.areas
    }

    /// Returns the current pass and its direction.
    pub fn pass(&self) -> (Pass, Direction) {
        (self.pass, self.direction)
    }

    /// Returns the plan.
    pub fn plan(&self) -> &RescuePlan {
        &self.plan
    }

    /// Returns the changes of the map since the last call, except for areas that were finished.
    pub fn changes(&mut self) -> Vec<BadRange> {
        std::mem::take(&mut self.changes)
    }

    fn set(&mut self, area: BadRange) {
        self.areas.set(area);
        self.changes.push(area);
    }

    /// Called before the imaging ends: returns whether something is still to be read to find out if the last errors
    /// were due to a dead drive.
    pub fn settle(&mut self) -> bool {
        self.health.settle()
    }

    /// Returns what to read next.
    pub fn next_read(&mut self) -> Next {
        if let Some(range) = self.health.next_check() {
            return Next::Read(Read { range, check: true });
        }
        if let Some(revert) = self.health.dead() {
            // The errors were due to a dead drive and say nothing about the sectors: restore their previous status.
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

    /// Advances to the next pass that has something to do.
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
                Pass::Retrying(n) if !any(Status::Bad) || self.retries.is_some_and(|max| n > max) => {
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

    /// Returns the next piece of at most `len` bytes of the rest of `area`. Pieces are split at multiples of `len`.
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
            // Passes 3 and 4 read the areas that were skipped because they were slow: these are next to finished areas.
            let neighbour = match self.direction {
                Direction::Forwards => piece.start.checked_sub(1),
                Direction::Backwards => Some(piece.end),
            };
            let next_to_unfinished = neighbour.is_some_and(|at| self.areas.around(at).is_some());
            if (pass == 3 || pass == 4) && next_to_unfinished {
                self.skip_area(&area);
                continue;
            }
            return Some(piece);
        }
    }

    /// Skips `area`.
    fn skip_area(&mut self, area: &BadRange) {
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
                    // An edge next to a bad sector has been found already.
                    let found = area.start.checked_sub(1).is_some_and(|at| self.is_bad(at));
                    (area.start..area.end, if found { Edge::Trailing } else { Edge::Leading })
                }
            };
            let found = edge == Edge::Trailing && self.is_bad(block.end);
            if block.is_empty() || found {
                self.end_trimming(block);
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

    /// Finishes trimming a block: its rest must be scraped.
    fn end_trimming(&mut self, rest: Range<u64>) {
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

    /// Extends `read` up to `to`, the end of a hole in the source, if the pass allows that. Returns the extended read.
    pub fn stretched(&self, read: &Read, to: u64) -> Read {
        let copying = matches!(self.pass, Pass::Copying(_)) && self.direction == Direction::Forwards;
        let area = self.areas.around(read.range.start).filter(|_| copying && !read.check);
        let to = to.min(read.range.start.saturating_add(MAX_HOLE));
        let end = area.map_or(read.range.end, |area| area.end.min(to).max(read.range.end));
        Read { range: read.range.start..end, check: read.check }
    }

    /// Records the outcome of a read.
    pub fn got(&mut self, read: &Read, outcome: &Outcome) {
        let Range { start, end } = read.range;
        let good = start..(start + outcome.good).min(end);
        let failed = good.end < end;
        if read.check {
            return self.health.checked(!failed);
        }
        if !good.is_empty() {
            self.areas.finish(good.clone());
            self.health.read(good.start..(good.start + self.plan.unit).min(good.end));
        }
        if failed {
            self.health.failed(self.areas.within(good.end..end));
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
            Pass::Copying(pass) => self.record_copy(pass, &read.range, failed, rate),
            Pass::Trimming => self.record_trim(&read.range, failed),
            _ => self.advance(&read.range),
        }
    }

    fn advance(&mut self, range: &Range<u64>) {
        self.at = match self.direction {
            Direction::Forwards => range.end,
            Direction::Backwards => range.start,
        };
    }

    /// Updates position, read size and skips after a read of a copying pass.
    fn record_copy(&mut self, pass: u8, read: &Range<u64>, failed: bool, rate: Option<u64>) {
        self.advance(read);
        let skip = if failed {
            (self.clean, self.size) = (0, self.plan.cluster);
            let (min, max) = self.skips();
            self.skip = if self.skip == 0 { min } else { (self.skip * 2).min(max) };
            self.skip
        } else {
            self.skip = 0;
            self.clean += read.end - read.start;
            if self.clean >= CLEAN {
                self.size = (self.size * 2).min(self.plan.most);
            }
            self.slow_skip_size(pass, rate)
        };
        match pass {
            1 => {
                self.at = match self.direction {
                    Direction::Forwards => self.at.saturating_add(skip),
                    Direction::Backwards => self.at.saturating_sub(skip),
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
        let min = whole((self.plan.size / 100_000).max(self.plan.cluster));
        (min, whole(self.plan.size / 100).max(min))
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

    fn record_trim(&mut self, read: &Range<u64>, failed: bool) {
        let Some((block, edge)) = self.trimmed.take() else { return };
        match edge {
            Edge::Leading => {
                let edge = if failed { Edge::Trailing } else { Edge::Leading };
                self.trimmed = Some((read.end..block.end, edge));
            }
            Edge::Trailing if failed => self.end_trimming(block.start..read.start),
            Edge::Trailing => self.trimmed = Some((block.start..read.start, edge)),
        }
    }
}

#[cfg(test)]
mod tests;
