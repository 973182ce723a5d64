//! Which sectors of a failing disk are read next: GNU ddrescue's passes, as its manual describes them ("Algorithm").
//!
//! Nothing is read here: [`Passes::next_read`] says what to read, [`Passes::got`] takes what came of it. What is easy to
//! read is read first, in large pieces and away from errors; then the edges of what failed (trimming), then the rest
//! of it (scraping). So each sector is tried at most twice, once among others and once by itself, until it is
//! retried.

use std::ops::Range;
use std::time::Duration;

use super::alive::Alive;
use super::areas::{Areas, Direction};
pub use super::plan::{Next, Outcome, Pass, Plan, Read};
use super::rate::{Rate, per_second};
use crate::image::bad::{BadBlocks, BadRange, Status};

/// How much is read at once near errors, in bytes: ddrescue's cluster.
pub const CLUSTER: u64 = 64 << 10;
/// How much is read at once where there are no errors, in bytes.
pub const MOST: u64 = 1 << 20;
/// The longest hole that is taken in one piece, in bytes: it is hashed.
const LONGEST_HOLE: u64 = 64 << 20;
/// After so many bytes without an error, reads become larger.
const CLEAN: u64 = 16 << 20;
/// An area is not called slow before so much reading.
const SETTLE: Duration = Duration::from_secs(30);

/// The passes over a disk, under way.
pub struct Passes {
    plan: Plan,
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
    alive: Alive,
    changes: Vec<BadRange>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edge {
    Leading,
    Trailing,
}

impl Passes {
    /// Passes over what `map` does not call finished.
    pub fn new(plan: Plan, map: &BadBlocks) -> Passes {
        let areas = Areas::new(map, &plan.domain);
        let alive = Alive::new(&plan, &areas);
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
    pub fn plan(&self) -> &Plan {
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
            let beside_unread = beside.is_some_and(|at| self.areas.around(at).is_some());
            if (pass == 3 || pass == 4) && beside_unread {
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
        let to = to.min(read.range.start.saturating_add(LONGEST_HOLE));
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
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;
    use crate::image::bad::Reason;
    use std::collections::BTreeMap;

    const SECTOR: u64 = 512;

    fn plan(sectors: u64) -> Plan {
        Plan {
            size: sectors * SECTOR,
            sector: SECTOR,
            unit: SECTOR,
            cluster: CLUSTER,
            most: MOST,
            domain: vec![0..sectors * SECTOR],
            trim: true,
            scrape: true,
            retries: Some(0),
            direction: Direction::Forwards,
            least_rate: None,
        }
    }

    fn untried(plan: &Plan) -> BadBlocks {
        BadBlocks::from_unsorted([BadRange::new(0..plan.size, Status::NonTried)])
    }

    /// A disk with bad sectors; how often each sector was read, and in which pass first.
    struct Drive {
        bad: Vec<bool>,
        tries: Vec<u32>,
        order: Vec<(Pass, Range<u64>)>,
        /// Milliseconds that a read takes which touches a sector.
        slow: BTreeMap<u64, u64>,
    }

    impl Drive {
        fn new(sectors: u64, bad: &[Range<u64>]) -> Drive {
            let is_bad = |s: &u64| bad.iter().any(|b| b.contains(s));
            let bad = (0..sectors).map(|s| is_bad(&s)).collect();
            Drive {
                bad,
                tries: vec![0; usize::try_from(sectors).unwrap()],
                order: Vec::new(),
                slow: BTreeMap::new(),
            }
        }

        fn read(&mut self, pass: Pass, read: &Read) -> Outcome {
            let sectors = usize::try_from(read.range.start / SECTOR).unwrap()
                ..usize::try_from(read.range.end.div_ceil(SECTOR)).unwrap();
            assert!(!sectors.is_empty());
            if !read.check {
                self.tries[sectors.clone()].iter_mut().for_each(|t| *t += 1);
                self.order.push((pass, read.range.clone()));
            }
            let fails = self.bad[sectors.clone()].iter().any(|b| *b);
            let slow = self.slow.range(sectors.start as u64..sectors.end as u64).map(|(_, ms)| *ms).max();
            let took =
                Duration::from_micros(slow.map_or((read.range.end - read.range.start) / 100, |ms| ms * 1000));
            let good = if fails { 0 } else { read.range.end - read.range.start };
            Outcome { good, reason: fails.then_some(Reason::Errno(5)), took }
        }

        fn run(&mut self, passes: &mut Passes) -> Next {
            for _ in 0..10_000_000 {
                match passes.next_read() {
                    Next::Read(read) => {
                        let outcome = self.read(passes.pass().0, &read);
                        passes.got(&read, &outcome);
                    }
                    end => return end,
                }
            }
            panic!("no end");
        }

        fn is_right(&self, passes: &Passes) {
            for (sector, bad) in self.bad.iter().enumerate() {
                let status = passes.areas().around(sector as u64 * SECTOR).map(|a| a.status);
                assert_eq!(status, bad.then_some(Status::Bad), "sector {sector}");
            }
        }
    }

    fn random_ranges(seed: u64, sectors: u64) -> Vec<Range<u64>> {
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let count = next(20);
        (0..count)
            .map(|_| {
                let (start, most) = (next(sectors), [1, 3, 40, 700][usize::try_from(next(4)).unwrap()]);
                start..(start + 1 + next(most)).min(sectors)
            })
            .collect()
    }

    #[test]
    fn each_sector_is_tried_at_most_twice_and_all_that_is_good_is_read() {
        for seed in 0..300 {
            let sectors = 1 + seed * 977 % 70_000;
            let mut plan = plan(sectors);
            if seed % 3 == 1 {
                plan.direction = Direction::Backwards;
            }
            let mut drive = Drive::new(sectors, &random_ranges(seed, sectors));
            let mut passes = Passes::new(plan.clone(), &untried(&plan));
            assert_eq!(drive.run(&mut passes), Next::Finished);
            drive.is_right(&passes);
            for (sector, tries) in drive.tries.iter().enumerate() {
                assert!((1..=2).contains(tries), "seed {seed}: sector {sector} was tried {tries} times");
            }
        }
    }

    #[test]
    fn in_physical_sectors_a_failure_costs_its_physical_sector_until_it_is_retried() {
        let mut plan = Plan { unit: 4096, ..plan(80_000) };
        let mut drive = Drive::new(80_000, &[5003..5004, 20_000..20_100]);
        let mut passes = Passes::new(plan.clone(), &untried(&plan));
        drive.run(&mut passes);
        let areas: Vec<_> = passes.areas().iter().map(|a| (a.start / 512, a.end / 512, a.tries)).collect();
        assert_eq!(areas, [(5000, 5008, 2), (20_000, 20_104, 2)]);
        plan.retries = Some(1);
        let mut drive = Drive::new(80_000, &[5003..5004, 20_000..20_100]);
        let mut passes = Passes::new(plan.clone(), &untried(&plan));
        drive.run(&mut passes);
        drive.is_right(&passes);
        assert!(passes.areas().iter().all(|a| a.tries == 3));
    }

    #[test]
    fn what_is_good_is_read_before_what_is_bad_is_scraped() {
        let mut drive = Drive::new(400_000, &[100_000..110_000, 300_000..300_001]);
        let plan = plan(400_000);
        let mut passes = Passes::new(plan.clone(), &untried(&plan));
        drive.run(&mut passes);
        let copied: u64 = drive
            .order
            .iter()
            .filter(|(pass, _)| matches!(pass, Pass::Copying(_)))
            .map(|(_, r)| r.end - r.start)
            .sum();
        assert_eq!(copied, 400_000 * 512);
        // Into the 5 MB that are bad the first pass looked only a few times.
        let inside = |r: &Range<u64>| r.start < 110_000 * 512 && r.end > 100_000 * 512;
        let looks = drive.order.iter().filter(|(pass, r)| *pass == Pass::Copying(1) && inside(r)).count();
        assert!((1..12).contains(&looks), "{looks} reads");
        drive.is_right(&passes);
    }

    #[test]
    fn slow_areas_are_left_for_later() {
        let mut drive = Drive::new(4_000_000, &[]);
        // Half a minute of reading, then an area in which every read takes a second.
        drive.slow = (3_000_000..3_100_000).map(|s| (s, 1100)).collect();
        let plan = plan(4_000_000);
        let mut passes = Passes::new(plan.clone(), &untried(&plan));
        for ms in drive.slow.values_mut().take(1) {
            *ms = 31_000;
        }
        drive.run(&mut passes);
        assert!(passes.areas().is_empty());
        let slow = |r: &Range<u64>| r.start >= 3_000_000 * 512 && r.start < 3_100_000 * 512;
        let first = drive.order.iter().filter(|(pass, r)| *pass == Pass::Copying(1) && slow(r)).count();
        let rest = drive.order.iter().filter(|(_, r)| slow(r)).count();
        assert!(first < rest / 2, "{first} of {rest}");
        let after = drive.order.iter().position(|(_, r)| r.start >= 3_100_000 * 512).unwrap();
        let last = drive.order.iter().rposition(|(_, r)| slow(r)).unwrap();
        assert!(after < last);
    }

    #[test]
    fn retries_are_counted_and_alternate() {
        let plan = Plan { retries: Some(3), ..plan(1000) };
        let mut drive = Drive::new(1000, &[400..410]);
        let mut passes = Passes::new(plan.clone(), &untried(&plan));
        drive.run(&mut passes);
        assert!(drive.tries[400..410].iter().all(|t| *t == 5), "{:?}", &drive.tries[400..410]);
        assert_eq!(passes.areas().iter().map(|a| a.tries).collect::<Vec<_>>(), [5]);
        let retried: Vec<u64> = drive
            .order
            .iter()
            .filter(|(pass, _)| matches!(pass, Pass::Retrying(_)))
            .map(|(_, r)| r.start / 512)
            .collect();
        assert_eq!(
            (retried[0], retried[9], retried[10], retried[19], retried[20]),
            (400, 409, 409, 400, 400)
        );
    }

    #[test]
    fn a_drive_that_dies_is_told_from_bad_sectors() {
        let plan = plan(400_000);
        let mut drive = Drive::new(400_000, &[10_000..10_300]);
        let mut passes = Passes::new(plan.clone(), &untried(&plan));
        for _ in 0..300 {
            let Next::Read(read) = passes.next_read() else { panic!() };
            let outcome = drive.read(passes.pass().0, &read);
            passes.got(&read, &outcome);
        }
        let before: Vec<BadRange> = passes.areas().iter().copied().collect();
        assert!(passes.areas().bytes(Status::NonTried) > 0 || passes.areas().left() > 0);
        drive.bad.fill(true);
        assert_eq!(drive.run(&mut passes), Next::Dead);
        // Nothing was marked that was not before.
        let after: Vec<BadRange> = passes.areas().iter().copied().collect();
        assert_eq!(before, after);
        assert_eq!(passes.next_read(), Next::Dead);
    }

    #[test]
    fn a_drive_that_is_dead_when_it_is_gone_on_with_is_known_by_what_was_read_before() {
        let plan = plan(40_000);
        // Only a little at the end was read, by an earlier run.
        let map = BadBlocks::from_unsorted([BadRange::new(0..39_000 * 512, Status::NonTried)]);
        let mut drive = Drive::new(40_000, &[0..40_000]);
        let mut passes = Passes::new(plan, &map);
        assert_eq!(drive.run(&mut passes), Next::Dead);
        assert_eq!(passes.areas().bytes(Status::NonTried), 39_000 * 512);
        assert!(drive.tries.iter().map(|t| u64::from(*t)).sum::<u64>() < 16 * 128 + 1);
    }

    #[test]
    fn the_last_errors_of_a_dead_drive_are_taken_back_however_it_ends() {
        let plan = plan(40_000);
        let mut drive = Drive::new(40_000, &[20_000..40_000]);
        let mut passes = Passes::new(plan.clone(), &untried(&plan));
        // Up to the third error; then all ends.
        while passes.areas().bytes(Status::NonTrimmed) < 3 * CLUSTER {
            let Next::Read(read) = passes.next_read() else { panic!() };
            let outcome = drive.read(passes.pass().0, &read);
            passes.got(&read, &outcome);
        }
        drive.bad.fill(true);
        assert!(passes.settle());
        assert_eq!(drive.run(&mut passes), Next::Dead);
        assert_eq!(passes.areas().bytes(Status::NonTrimmed), 0);
        assert!(!passes.settle());
    }

    #[test]
    fn what_was_read_before_an_error_stays_read() {
        let plan = Plan { unit: 4096, ..plan(4000) };
        let mut passes = Passes::new(plan.clone(), &untried(&plan));
        let mut dead = false;
        for _ in 0..10_000 {
            let Next::Read(read) = passes.next_read() else { break };
            // The first sector of each read comes, the rest fails; later all fails.
            let good = if dead { 0 } else { SECTOR.min(read.range.end - read.range.start) };
            let whole = good == read.range.end - read.range.start;
            let reason = (!whole).then_some(Reason::Errno(5));
            let before = passes.areas().left();
            passes.got(&read, &Outcome { good, reason, took: Duration::ZERO });
            assert!(passes.areas().left() <= before);
            dead |= passes.pass().0 == Pass::Scraping;
        }
        let left = passes.areas().left();
        assert_eq!(passes.next_read(), Next::Dead);
        assert_eq!(passes.areas().left(), left, "what was read became unread");
    }

    #[test]
    fn what_was_begun_is_gone_on_with() {
        for stop in [1, 10, 100, 1000, 2000] {
            let plan = plan(50_000);
            let mut drive = Drive::new(50_000, &random_ranges(stop, 50_000));
            let mut map = untried(&plan);
            loop {
                let mut passes = Passes::new(plan.clone(), &map);
                let mut end = None;
                for _ in 0..stop {
                    match passes.next_read() {
                        Next::Read(read) => {
                            let outcome = drive.read(passes.pass().0, &read);
                            passes.got(&read, &outcome);
                        }
                        other => end = Some(other),
                    }
                }
                map = BadBlocks::from_unsorted(passes.areas().iter().copied());
                if end.is_some() {
                    drive.is_right(&passes);
                    break;
                }
            }
            assert!(drive.tries.iter().all(|t| (1..=2).contains(t)), "stop {stop}");
        }
    }

    #[test]
    fn only_the_domain_is_read() {
        let plan = Plan { domain: vec![512 * 10..512 * 20, 512 * 1000..512 * 30_000], ..plan(50_000) };
        let mut drive = Drive::new(50_000, std::slice::from_ref(&(1500..1502)));
        let mut passes = Passes::new(plan.clone(), &untried(&plan));
        drive.run(&mut passes);
        for (sector, tries) in drive.tries.iter().enumerate() {
            let wanted = (10..20).contains(&sector) || (1000..30_000).contains(&sector);
            assert_eq!(*tries > 0, wanted, "sector {sector}");
        }
    }
}
