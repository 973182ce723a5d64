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

mod bands;
mod copying;
pub mod dead_head;
mod outcome;
mod part;

use bands::Bands;
use dead_head::DeadHead;
use outcome::Locating;
pub use part::{Demanded, Position};

use super::areas::{Areas, Direction};
use super::drive_health::DriveHealth;
pub use super::plan::{Next, Outcome, Pass, Read, RescuePlan, Why};
use super::rate::{Pace, Rate, per_second};

/// The size of reads near errors, in bytes: ddrescue's cluster size.
pub const CLUSTER: u64 = 64 << 10;
/// The maximum size of reads where there are no errors, in bytes.
pub const MAX: u64 = 1 << 20;
/// The maximum size of a hole that is processed at once, in bytes: its zeros have to be hashed.
const MAX_HOLE: u64 = 64 << 20;
/// The number of bytes without an error after which reads become larger; four times as many after each large read that fails,
/// because it leaves a large block to be trimmed; and the maximum.
const CLEAN: u64 = 16 << 20;
const MOST_WARY: u64 = 4 << 30;
/// The minimum reading time before an area can be classified as slow.
const SETTLE: Duration = Duration::from_secs(30);

/// The state of the passes over a disk.
pub struct Passes {
    plan: RescuePlan,
    /// The unfinished areas of the part of the domain that is being read.
    areas: Areas,
    /// Those of the rest of the domain.
    later: Areas,
    /// Those that are left out, and those outside of the domain.
    left_out: Areas,
    outside: Areas,
    /// The maximum number of retry passes now, and how many there were.
    retries: Option<u32>,
    retried: u32,
    pass: Pass,
    direction: Direction,
    /// The position of the pass, in bytes: forwards, the end of the part that is done; backwards, its start.
    at: u64,
    /// The current size of reads, the number of bytes read since the last error, and how many there must be before reads become
    /// larger.
    size: u64,
    clean: u64,
    wary: u64,
    /// The size of the last skip after an error, and after a slow read; 0 after a good read.
    skip: u64,
    slow_skip: u64,
    rate: Rate,
    pace: Pace,
    /// The rest of the block that is being trimmed, and the edge at which it is trimmed.
    trimmed: Option<(Range<u64>, Edge)>,
    /// Whether the drive says which sector of a read failed.
    locating: Locating,
    /// Whether a read that a program asked for has failed: its block must be trimmed; and whether trimming has left something
    /// until what is next to it was read.
    trim_again: bool,
    deferred: bool,
    /// The bands of a dead head, as far as they are known.
    bands: Bands,
    /// The dead head whose bands are left out.
    dead_head: Option<DeadHead>,
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
            retried: 0,
            areas,
            later: Areas::default(),
            left_out: Areas::default(),
            outside: Areas::new(map, &plan.rest()),
            plan,
            pass: Pass::Copying(0),
            at: 0,
            clean: 0,
            wary: CLEAN,
            skip: 0,
            slow_skip: 0,
            rate: Rate::default(),
            pace: Pace::default(),
            trimmed: None,
            locating: Locating::default(),
            trim_again: false,
            deferred: false,
            bands: Bands::default(),
            dead_head: None,
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
        let is_later = self.later.around(area.start).is_some();
        if is_later { &mut self.later } else { &mut self.areas }.set(area);
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
            return Next::Read(Read { range, why: Why::Check });
        }
        if let Some(revert) = self.health.dead() {
            // The errors were due to a dead drive and say nothing about the sectors: restore their previous status.
            revert.into_iter().rev().for_each(|before| self.set(before));
            return Next::Dead;
        }
        loop {
            let range = match self.pass {
                Pass::Copying(pass) => self.next_copying(pass),
                Pass::Sweeping => self.next_by_units(Status::NonTried, self.size),
                Pass::Trimming => self.next_trimming(),
                Pass::Scraping => self.next_scraping(),
                Pass::Retrying(_) => self.next_by_units(Status::Bad, self.plan.sector),
                Pass::Finished => return Next::Finished,
            };
            match range {
                Some(range) => return Next::Read(Read { range, why: Why::Pass }),
                None if self.reads_nothing() => return Next::Unreadable,
                None => self.next_pass(),
            }
        }
    }

    /// At the end of a copying pass: returns whether every read has failed, and many. Then what was tried is as it was before.
    fn reads_nothing(&mut self) -> bool {
        // The second pass tries other places.
        let more = self.pass == Pass::Copying(1) && self.areas.bytes(Status::NonTried) > 0;
        let whole = self.later.is_empty() && self.plan.sweep != Some(true);
        let copied = matches!(self.pass, Pass::Copying(_)) && self.areas.bytes(Status::NonTrimmed) > 0;
        if !copied || more || !whole || !self.health.has_read_nothing() {
            return false;
        }
        let revert = self.health.dead().unwrap_or_default();
        revert.into_iter().rev().for_each(|before| self.set(before));
        true
    }

    /// Advances to the next pass that has something to do.
    fn next_pass(&mut self) {
        if let Pass::Retrying(n) = self.pass {
            self.retried = n;
        }
        if std::mem::take(&mut self.trim_again) && !matches!(self.pass, Pass::Copying(_)) {
            self.pass = Pass::Copying(4);
        }
        // Where a dead head's bands begin and end is known only after copying.
        let copied = matches!(self.pass, Pass::Copying(4) | Pass::Trimming);
        if copied && self.plan.sweep.is_none() && self.later.is_empty() {
            self.dead_head = dead_head::recognize(&self.areas, self.plan.size);
        }
        let sweep = self.sweeps();
        let plan = &self.plan;
        let base = plan.direction;
        let any = |status| self.areas.bytes(status) > 0;
        // Of a part of a drive that has read nothing yet, only what is easy is tried: it may fail every read.
        let blind = self.health.knows_nothing() && !self.later.is_empty();
        loop {
            (self.pass, self.direction) = match self.pass {
                Pass::Copying(n @ 0..=3) => (Pass::Copying(n + 1), self.direction.turned()),
                Pass::Copying(_) => (Pass::Trimming, base),
                // Then what fails in it is trimmed.
                Pass::Trimming if sweep && any(Status::NonTried) => (Pass::Sweeping, base),
                // A program may have asked for all that was to be swept.
                Pass::Trimming if std::mem::take(&mut self.deferred) => (Pass::Trimming, base),
                Pass::Sweeping => (Pass::Trimming, base),
                Pass::Trimming => (Pass::Scraping, base),
                Pass::Scraping if self.retried.is_multiple_of(2) => (Pass::Retrying(self.retried + 1), base),
                Pass::Scraping => (Pass::Retrying(self.retried + 1), base.turned()),
                Pass::Retrying(n) => (Pass::Retrying(n + 1), self.direction.turned()),
                Pass::Finished => return,
            };
            let useful = match self.pass {
                Pass::Copying(_) => any(Status::NonTried),
                _ if blind => {
                    self.pass = Pass::Finished;
                    true
                }
                Pass::Sweeping => any(Status::NonTried) && sweep,
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
        self.bands.give_up();
    }

    /// Returns the dead head whose bands are left out, if there is one.
    pub fn dead_head(&self) -> Option<DeadHead> {
        self.dead_head
    }

    /// Returns whether what was skipped is to be read.
    fn sweeps(&self) -> bool {
        // Of a part of the disk, less is left than shows a dead head.
        let is_dead = self.dead_head.is_some() || (self.bands.are_known() && !self.later.is_empty());
        self.plan.sweep.unwrap_or(!is_dead)
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
                    // An edge next to what could not be read either has been found already, or is none.
                    let leading = area.start.checked_sub(1).is_none_or(|at| self.is_finished(at));
                    (area.start..area.end, if leading { Edge::Leading } else { Edge::Trailing })
                }
            };
            let found = edge == Edge::Trailing && !self.is_finished(block.end);
            if block.is_empty() || found {
                self.end_trimming(block);
                continue;
            }
            self.trimmed = Some((block.clone(), edge));
            return Some(match edge {
                Edge::Leading => {
                    let len = self.locating.len(unit, self.plan.cluster);
                    block.start..(block.start - block.start % len + len).min(block.end)
                }
                Edge::Trailing => ((block.end - 1) / unit * unit).max(block.start)..block.end,
            });
        }
    }

    /// Returns whether byte `at` of the disk is finished, or not to be read.
    fn is_finished(&self, at: u64) -> bool {
        self.areas.around(at).is_none() && self.later.around(at).is_none()
    }

    /// Finishes trimming a block: its rest must be scraped.
    fn end_trimming(&mut self, rest: Range<u64>) {
        self.trimmed = None;
        self.at = match self.direction {
            Direction::Forwards => rest.end,
            Direction::Backwards => rest.start,
        };
        // An edge next to something that will be swept may have to be trimmed after that.
        let untried = |at: u64| self.areas.around(at).is_some_and(|area| area.status == Status::NonTried);
        let waits = untried(rest.end) || rest.start.checked_sub(1).is_some_and(untried);
        if waits && self.sweeps() && !rest.is_empty() {
            self.deferred = true;
            return;
        }
        for area in self.areas.within(rest) {
            self.set(BadRange { status: Status::NonScraped, ..area });
        }
    }

    fn next_scraping(&mut self) -> Option<Range<u64>> {
        let len = match self.direction {
            Direction::Forwards => self.locating.len(self.plan.unit, self.plan.cluster),
            Direction::Backwards => self.plan.unit,
        };
        loop {
            let area = self.areas.find(Status::NonScraped, self.at, self.direction)?;
            // What is next to something that was skipped is part of it.
            let is_skipped = |at: u64| self.areas.around(at).is_some_and(|a| a.status == Status::NonTried);
            if !is_skipped(area.end) && !area.start.checked_sub(1).is_some_and(is_skipped) {
                return Some(self.piece(&area, len));
            }
            self.skip_area(&area);
        }
    }

    fn next_by_units(&mut self, status: Status, unit: u64) -> Option<Range<u64>> {
        let area = self.areas.find(status, self.at, self.direction)?;
        Some(self.piece(&area, unit))
    }

    /// Extends `read` up to `to`, the end of a hole in the source, if the pass allows that. Returns the extended read.
    pub fn stretched(&self, read: &Read, to: u64) -> Read {
        let copying =
            matches!(self.pass, Pass::Copying(_) | Pass::Sweeping) && self.direction == Direction::Forwards;
        let area = self.areas.around(read.range.start).filter(|_| copying && read.why == Why::Pass);
        let to = to.min(read.range.start.saturating_add(MAX_HOLE));
        let end = area.map_or(read.range.end, |area| area.end.min(to).max(read.range.end));
        Read { range: read.range.start..end, why: read.why }
    }

    fn advance(&mut self, range: &Range<u64>) {
        self.at = match self.direction {
            Direction::Forwards => range.end,
            Direction::Backwards => range.start,
        };
    }

    fn record_trim(&mut self, read: &Range<u64>, failed: bool) {
        let Some((block, edge)) = self.trimmed.take() else { return };
        match edge {
            Edge::Leading => {
                // If the sector that failed is not known, the edge is read again, sector by sector.
                let edge = if failed { Edge::Trailing } else { Edge::Leading };
                self.trimmed = Some((read.end..block.end, edge));
            }
            Edge::Trailing if failed => self.end_trimming(block.start..read.start),
            Edge::Trailing => self.trimmed = Some((block.start..read.start, edge)),
        }
    }
}

#[cfg(test)]
mod geometry;
#[cfg(test)]
mod tests;
