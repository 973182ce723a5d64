//! What the outcome of a read says about the sectors.

use std::ops::Range;

use cdi_image::badmap::{BadRange, Status};

use super::{Outcome, Pass, Passes, Read, Why};

/// Whether the drive says which sector of a read is the first that failed. Then blocks are trimmed and scraped in large reads:
/// as many fail, but far fewer are needed.
#[derive(Debug, Default)]
pub(super) struct Locating {
    does: bool,
    /// How often it did not, after it had.
    lapses: u32,
    /// The sectors that are bad because the drive has named them.
    named: Vec<Range<u64>>,
}

impl Locating {
    /// The number of lapses after which it is not relied on any more.
    const MAX_LAPSES: u32 = 3;
    const MAX_NAMED: usize = 1 << 20;

    /// Notes a failed read; `named` is the sector that was named.
    pub(super) fn note(&mut self, named: Option<Range<u64>>) {
        let located = named.is_some();
        self.named.extend(named);
        self.lapses += u32::from(self.does && !located);
        self.does = located && self.lapses < Self::MAX_LAPSES;
    }

    /// Returns the length of reads in blocks that failed.
    pub(super) fn len(&self, unit: u64, cluster: u64) -> u64 {
        if self.does { cluster.max(unit) } else { unit }
    }
}

impl Passes {
    /// Records the outcome of a read.
    pub fn got(&mut self, read: &Read, outcome: &Outcome) {
        let Range { start, end } = read.range;
        let good = start..(start + outcome.good).min(end);
        let failed = good.end < end;
        if read.why == Why::Check {
            return self.health.checked(!failed);
        }
        let tried = self.record(&good, end, outcome, read.why);
        if read.why == Why::Demand {
            return;
        }
        let rate = self.rate.add(good.end - good.start, outcome.took);
        match self.pass {
            Pass::Copying(pass) => {
                // What is slow may be about to fail: it is left for later, like what fails.
                let ill = failed || (pass <= 2 && self.pace.is_slow(outcome.took));
                self.record_copy(pass, &read.range, ill, rate);
            }
            Pass::Sweeping => self.record_copy(5, &read.range, failed, rate),
            Pass::Trimming => self.record_trim(&(start..tried), tried > good.end),
            _ => self.advance(&(start..tried)),
        }
    }

    /// Records which bytes of a read up to `end` were `good`, and that the rest failed. Returns up to where it is known now: of
    /// a read of more than one sector, nobody knows which of them failed, unless the drive has said so.
    fn record(&mut self, good: &Range<u64>, end: u64, outcome: &Outcome, why: Why) -> u64 {
        if !good.is_empty() {
            self.areas.finish(good.clone());
            self.later.finish(good.clone());
            self.health.read(good.start..(good.start + self.plan.unit).min(good.end));
        }
        if good.end >= end {
            return end;
        }
        let unit = self.plan.unit;
        let alone = good.start / unit == (end - 1) / unit;
        // The first sector that failed, if it is known. What could not be taken back is not believed.
        let located = outcome.located && self.locating.named.len() < Locating::MAX_NAMED;
        let bad = if located { (good.end / unit * unit + unit).min(end) } else { good.end };
        if !alone {
            self.locating.note(located.then_some(good.end..bad));
        }
        let copies = matches!(self.pass, Pass::Copying(_) | Pass::Sweeping) || why == Why::Demand;
        self.trim_again |= why == Why::Demand;
        let failed = [self.areas.within(good.end..end), self.later.within(good.end..end)].concat();
        self.health.failed(failed.clone());
        for area in failed {
            let (tries, reason) = (area.tries.saturating_add(1), outcome.reason.or(area.reason));
            let part = |range: Range<u64>, status| BadRange { status, tries, reason, ..area.cut(range) };
            if alone {
                self.set(part(area.start..area.end, Status::Bad));
                continue;
            }
            let cut = bad.clamp(area.start, area.end);
            if cut > area.start {
                self.set(part(area.start..cut, Status::Bad));
            }
            if cut < area.end && copies {
                self.set(part(cut..area.end, Status::NonTrimmed));
            }
        }
        if alone || copies { end } else { bad }
    }

    /// Called when the drive has named a sector that can be read: those that it has named before are to be read alone.
    pub fn distrust(&mut self) {
        let locating = std::mem::take(&mut self.locating);
        self.locating.lapses = Locating::MAX_LAPSES;
        for named in locating.named {
            let outside = self.left_out.within(named.clone());
            for area in outside {
                let area = BadRange { status: Status::NonScraped, ..area };
                self.left_out.set(area);
                self.changes.push(area);
            }
            for area in [self.areas.within(named.clone()), self.later.within(named)].concat() {
                self.set(BadRange { status: Status::NonScraped, ..area });
                self.trim_again = true;
            }
        }
    }
}
