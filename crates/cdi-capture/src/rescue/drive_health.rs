//! Whether a drive still reads at all: after many errors in a row, what it has read before is read again.
//!
//! A drive that dies gives errors for every sector. They are not bad, and must not be called so: whoever goes on later,
//! with the drive cooled down or with new heads, would not try them.

use std::ops::Range;

use cdi_image::badmap::BadRange;

use super::areas::Areas;
use super::plan::RescuePlan;

/// What is known of the drive's health.
pub(super) struct DriveHealth {
    /// Places that were read.
    good: Vec<Range<u64>>,
    /// How many reads were good, and numbers that look random.
    count: u64,
    random: u64,
    /// What was before the errors since the last good read.
    streak: Vec<BadRange>,
    /// How many errors in a row there were, and after how many the next check is due.
    errors: u32,
    due: u32,
    /// What is still to be read in this check.
    checks: Vec<Range<u64>>,
    dead: bool,
}

/// How many good places are remembered, and how many are read in a check.
const REMEMBERED: usize = 8;
const CHECKED: usize = 3;
/// After so many errors in a row there is a check; each time after twice as many, up to the second number.
const FIRST: u32 = 16;
const MAX: u32 = 256;

impl DriveHealth {
    /// A drive of which all that is not in `areas` has been read.
    pub(super) fn new(plan: &RescuePlan, areas: &Areas) -> DriveHealth {
        let mut alive = DriveHealth {
            good: Vec::new(),
            count: 0,
            random: plan.size | 1,
            streak: Vec::new(),
            errors: 0,
            due: FIRST,
            checks: Vec::new(),
            dead: false,
        };
        // Of what was read by an earlier run, places here and there: between the areas that are left.
        for part in &plan.domain {
            let mut at = part.start;
            let left = areas.within(part.clone());
            for (start, end) in left.iter().map(|a| (a.start, a.end)).chain([(part.end, part.end)]) {
                let first = at.next_multiple_of(plan.unit);
                if first < start {
                    alive.remember(first..(first + plan.unit).min(start));
                }
                at = end;
            }
        }
        alive
    }

    /// A place was read: at most a physical sector. So the drive reads.
    pub(super) fn read(&mut self, place: Range<u64>) {
        self.streak.clear();
        (self.errors, self.due) = (0, FIRST);
        self.remember(place);
    }

    fn remember(&mut self, place: Range<u64>) {
        // Each place that was ever read stays with the same probability.
        self.count += 1;
        self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let slot = (self.random >> 33) % self.count;
        if self.good.len() < REMEMBERED {
            self.good.push(place);
        } else if let Some(old) = usize::try_from(slot).ok().and_then(|slot| self.good.get_mut(slot)) {
            *old = place;
        }
    }

    /// A read failed; `before` is what was known of its sectors.
    pub(super) fn failed(&mut self, before: Vec<BadRange>) {
        self.streak.extend(before);
        self.errors += 1;
        if self.errors >= self.due {
            self.due = self.errors + (self.errors).min(MAX);
            self.begin_check();
        }
    }

    /// Begins a check if there were errors that none has followed. Whether something is to be read for it.
    pub(super) fn settle(&mut self) -> bool {
        if self.checks.is_empty() && !self.streak.is_empty() && !self.dead {
            self.begin_check();
        }
        !self.checks.is_empty() || (self.dead && !self.streak.is_empty())
    }

    fn begin_check(&mut self) {
        if !self.good.is_empty() {
            let len = self.good.len();
            let first = usize::try_from(self.random >> 33).unwrap_or(0);
            let several = (0..len.min(CHECKED)).map(|i| self.good[(first + i) % len].clone());
            self.checks = several.collect();
        }
    }

    /// What is to be read again.
    pub(super) fn to_be_checked(&self) -> Option<Range<u64>> {
        self.checks.last().cloned()
    }

    /// Whether that could be read.
    pub(super) fn checked(&mut self, good: bool) {
        if good {
            // The sectors are bad, not the drive.
            self.checks.clear();
            self.streak.clear();
        } else {
            self.checks.pop();
            self.dead = self.checks.is_empty();
        }
    }

    /// If the drive is dead: what was known of the sectors that only seemed to be bad, in the order of the reads.
    pub(super) fn dead(&mut self) -> Option<Vec<BadRange>> {
        self.dead.then(|| std::mem::take(&mut self.streak))
    }
}
