//! Detects drives that can no longer read at all: after many consecutive errors, places that were read before are
//! read again.
//!
//! A dying drive returns errors for every sector. These sectors are not bad and must not be marked as such, or they
//! would not be tried when imaging is resumed later, with the drive cooled down or with new heads.

use std::ops::Range;

use cdi_image::badmap::BadRange;

use super::areas::Areas;
use super::plan::RescuePlan;

/// The state of the drive's health check.
pub(super) struct DriveHealth {
    /// Places that were read successfully.
    good: Vec<Range<u64>>,
    /// The number of successful reads, and the state of a pseudo-random generator.
    count: u64,
    random: u64,
    /// The previous status of the sectors that failed since the last successful read.
    streak: Vec<BadRange>,
    /// The number of consecutive errors, and the number at which the next check is due.
    errors: u32,
    due: u32,
    /// The places still to be read in this check.
    checks: Vec<Range<u64>>,
    dead: bool,
}

/// The number of good places that are remembered, and the number that are read in a check.
const REMEMBERED: usize = 8;
const CHECKED: usize = 3;
/// The number of consecutive errors before the first check, and the limit up to which the number of errors before the
/// next check is doubled each time.
const FIRST: u32 = 16;
const MAX: u32 = 256;

impl DriveHealth {
    /// Creates the state for a drive of which everything outside `areas` has been read.
    pub(super) fn new(plan: &RescuePlan, areas: &Areas) -> DriveHealth {
        let mut health = DriveHealth {
            good: Vec::new(),
            count: 0,
            random: plan.size | 1,
            streak: Vec::new(),
            errors: 0,
            due: FIRST,
            checks: Vec::new(),
            dead: false,
        };
        // Of what an earlier run has read, remember the start of each gap between the remaining areas.
        for part in &plan.domain {
            let mut at = part.start;
            let left = areas.within(part.clone());
            for (start, end) in left.iter().map(|a| (a.start, a.end)).chain([(part.end, part.end)]) {
                let first = at.next_multiple_of(plan.unit);
                if first < start {
                    health.remember(first..(first + plan.unit).min(start));
                }
                at = end;
            }
        }
        health
    }

    /// Records that a place, at most one physical sector, was read successfully: the drive still works.
    pub(super) fn read(&mut self, place: Range<u64>) {
        self.streak.clear();
        (self.errors, self.due) = (0, FIRST);
        self.remember(place);
    }

    fn remember(&mut self, place: Range<u64>) {
        // Reservoir sampling: each place that was ever read is kept with the same probability.
        self.count += 1;
        self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let slot = (self.random >> 33) % self.count;
        if self.good.len() < REMEMBERED {
            self.good.push(place);
        } else if let Some(old) = usize::try_from(slot).ok().and_then(|slot| self.good.get_mut(slot)) {
            *old = place;
        }
    }

    /// Records a failed read; `before` is the previous status of its sectors.
    pub(super) fn failed(&mut self, before: Vec<BadRange>) {
        self.streak.extend(before);
        self.errors += 1;
        if self.errors >= self.due {
            self.due = self.errors + (self.errors).min(MAX);
            self.start_check();
        }
    }

    /// Starts a check if there are errors that no check has followed yet. Returns whether something is still to be
    /// read or reverted for it.
    pub(super) fn settle(&mut self) -> bool {
        if self.checks.is_empty() && !self.streak.is_empty() && !self.dead {
            self.start_check();
        }
        !self.checks.is_empty() || (self.dead && !self.streak.is_empty())
    }

    fn start_check(&mut self) {
        if !self.good.is_empty() {
            let len = self.good.len();
            let first = usize::try_from(self.random >> 33).unwrap_or(0);
            let chosen = (0..len.min(CHECKED)).map(|i| self.good[(first + i) % len].clone());
            self.checks = chosen.collect();
        }
    }

    /// Returns whether nothing was ever read.
    pub(super) fn knows_nothing(&self) -> bool {
        self.good.is_empty()
    }

    /// Returns whether many reads have failed, and none has not.
    pub(super) fn seems_dead(&self) -> bool {
        self.good.is_empty() && self.errors >= FIRST
    }

    /// Called when nothing is left to be read easily: returns whether the drive has returned an error for every read, and many.
    /// Then nobody knows anything about its sectors.
    pub(super) fn has_read_nothing(&mut self) -> bool {
        let nothing = self.seems_dead();
        self.dead |= nothing;
        nothing
    }

    /// Returns the next place to read again.
    pub(super) fn next_check(&self) -> Option<Range<u64>> {
        self.checks.last().cloned()
    }

    /// Records whether that place could be read.
    pub(super) fn checked(&mut self, good: bool) {
        if good {
            // The drive works, so the sectors really are bad.
            self.checks.clear();
            self.streak.clear();
        } else {
            self.checks.pop();
            self.dead = self.checks.is_empty();
        }
    }

    /// If the drive is dead, returns the previous status of the sectors that only seemed to be bad, in the order of the
    /// reads.
    pub(super) fn dead(&mut self) -> Option<Vec<BadRange>> {
        self.dead.then(|| std::mem::take(&mut self.streak))
    }
}
