//! Bands of a head that fails: learns how long they are, and predicts where the next one ends.
//!
//! A drive fills a band of tracks with one head, then one with the next. If a head is dead, every band of it fails, and the
//! bands change their length only from zone to zone. Of the first ones, the end is looked for; of others, the first read after
//! an error is where bands like those before it would have ended.
//!
//! Positions are along the direction of the pass: backwards, those of the mirrored disk.

use std::ops::Range;

/// The number of lengths that are remembered: of more cycles than two dead heads have bands in one.
const REMEMBERED: usize = 16;
/// The largest number of kinds of bands.
const KINDS: usize = 4;
/// The number of failed reads in a row, with skips between them, from which on the end of an area is looked for.
const LONG: u32 = 2;

/// What is known of bands that fail.
#[derive(Debug, Default)]
pub(super) struct Bands {
    /// Of the last bands: how long they were, and how much could be read before each.
    lengths: Vec<u64>,
    gaps: Vec<u64>,
    /// Where the last one ended.
    end: u64,
    state: State,
}

#[derive(Debug, Default)]
enum State {
    /// No error yet.
    #[default]
    Reading,
    /// Errors, with skips that grow: where they began, how many, and the end of the last failed read.
    Skipping { start: u64, errors: u32, last: u64 },
    /// The next read is where the band may end; then at the other targets.
    Landing { start: u64, last: u64, targets: Vec<u64> },
    /// The end is between `low`, which failed, and `high`, which did not. Then the pass goes on.
    Searching { start: u64, low: u64, high: u64 },
    /// The end is before `at`, which could be read, and is looked for backwards, as far as `low`.
    Returning { start: u64, low: u64, at: u64, then: u64 },
}

/// Where the pass goes on after a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// After it.
    On,
    /// After it, and after a skip that grows with each error.
    Skip,
    /// At this position.
    To(u64),
    /// With the read that [`Bands::probe`] returns.
    Probe,
}

impl Bands {
    /// Returns the read that is due out of order, in clusters of `cluster` bytes.
    pub(super) fn probe(&self, cluster: u64) -> Option<Range<u64>> {
        match &self.state {
            State::Searching { low, high, .. } => {
                let middle = low + (high - low) / 2;
                let start = (middle - middle % cluster).max(*low);
                Some(start..(start + cluster).min(*high))
            }
            State::Returning { low, at, .. } => {
                let start = at.saturating_sub(1) / cluster * cluster;
                Some(start.max(*low)..*at)
            }
            State::Reading | State::Skipping { .. } | State::Landing { .. } => None,
        }
    }

    /// Ends the search for an end: what was to be read is not to be read any more. Returns where the pass goes on.
    pub(super) fn give_up(&mut self) -> Option<u64> {
        match std::mem::take(&mut self.state) {
            State::Searching { high, .. } => Some(high),
            State::Returning { then, .. } => Some(then),
            State::Reading | State::Skipping { .. } | State::Landing { .. } => None,
        }
    }

    /// Takes the outcome of a read.
    pub(super) fn got(&mut self, read: &Range<u64>, failed: bool, cluster: u64) -> Step {
        match std::mem::take(&mut self.state) {
            State::Reading if failed => {
                let gap = read.start.saturating_sub(self.end);
                // Where a band was to begin, one error is enough.
                let expected = self.gaps.len() >= 3 && self.gaps.iter().any(|known| is_like(*known, gap));
                self.failed(read, (read.start, 1), expected, cluster)
            }
            State::Reading => Step::On,
            State::Skipping { start, errors, .. } if failed => {
                self.failed(read, (start, errors + 1), true, cluster)
            }
            State::Skipping { start, errors, last } if errors >= LONG => {
                self.state = State::Searching { start, low: last, high: read.start };
                self.narrowed(cluster)
            }
            State::Skipping { .. } => Step::On,
            State::Landing { start, mut targets, .. } if failed => {
                targets.retain(|target| *target >= read.end);
                self.land(start, read.end, targets, LONG + 1)
            }
            State::Landing { start, last, .. } => {
                self.state = State::Returning { start, low: last, at: read.start, then: read.end };
                if read.start <= last { self.measured(start, last, read.end) } else { Step::Probe }
            }
            State::Searching { start, low, high } => {
                let (low, high) = if failed { (read.end, high) } else { (low, read.start) };
                self.state = State::Searching { start, low, high };
                self.narrowed(cluster)
            }
            State::Returning { start, then, .. } if failed => self.measured(start, read.end, then),
            State::Returning { start, low, then, .. } if read.start <= low => self.measured(start, low, then),
            State::Returning { start, low, then, .. } => {
                self.state = State::Returning { start, low, at: read.start, then };
                Step::Probe
            }
        }
    }

    /// Takes an error: the `errors`-th of an area that begins at `start`.
    fn failed(&mut self, read: &Range<u64>, (start, errors): (u64, u32), sure: bool, cluster: u64) -> Step {
        let targets = if sure { self.targets(start, read.end, cluster) } else { Vec::new() };
        self.land(start, read.end, targets, errors)
    }

    fn land(&mut self, start: u64, last: u64, targets: Vec<u64>, errors: u32) -> Step {
        match targets.first() {
            Some(first) => {
                let step = Step::To(*first);
                self.state = State::Landing { start, last, targets };
                step
            }
            None => {
                self.state = State::Skipping { start, errors, last };
                Step::Skip
            }
        }
    }

    /// Ends the search, or goes on with it.
    fn narrowed(&mut self, cluster: u64) -> Step {
        let State::Searching { start, low, high } = self.state else { return Step::On };
        let near = ((high - start) / 256).max(2 * cluster);
        if high - low > near { Step::Probe } else { self.measured(start, high, high) }
    }

    /// Notes a band, and goes on at `then`.
    fn measured(&mut self, start: u64, end: u64, then: u64) -> Step {
        self.gaps.push(start.saturating_sub(self.end));
        self.lengths.push(end - start);
        for list in [&mut self.gaps, &mut self.lengths] {
            if list.len() > REMEMBERED {
                list.remove(0);
            }
        }
        (self.end, self.state) = (end, State::Reading);
        Step::To(then)
    }

    /// Returns where a band that begins at `start` may have ended, the likeliest first, if that is after `beyond`.
    fn targets(&self, start: u64, beyond: u64, cluster: u64) -> Vec<u64> {
        let mut lengths: Vec<u64> = self.next_of_cycle().into_iter().collect();
        let mut kinds: Vec<u64> = Vec::new();
        for length in self.lengths.iter().rev() {
            // Seen twice, at least.
            let like = self.lengths.iter().filter(|other| is_like(**other, *length)).count();
            if like >= 2 && !kinds.iter().any(|kind| is_like(*kind, *length)) {
                kinds.push(*length);
            }
        }
        kinds.sort_unstable();
        let is_new = |kind: &u64| !lengths.iter().any(|length| is_like(*length, *kind));
        let others: Vec<u64> = kinds.into_iter().filter(is_new).take(KINDS).collect();
        lengths.extend(others);
        let margin = |length: u64| (length / 256).max(2 * cluster);
        let mut targets: Vec<u64> = lengths.iter().map(|length| start + length + margin(*length)).collect();
        // In the next zone, bands are a little longer.
        targets.extend(lengths.first().map(|length| start + length + length / 16 + margin(*length)));
        targets.iter_mut().for_each(|target| *target = target.next_multiple_of(cluster));
        targets.retain(|target| *target >= beyond);
        targets.dedup();
        targets
    }

    /// Returns the length that comes next if the last ones are a cycle.
    fn next_of_cycle(&self) -> Option<u64> {
        let n = self.lengths.len();
        (1..=KINDS).find_map(|period| {
            let seen = if period == 1 { n >= 2 } else { n >= 2 * period };
            let repeats = || {
                (period..n.min(3 * period))
                    .all(|i| is_like(self.lengths[n - 1 - i + period], self.lengths[n - 1 - i]))
            };
            (seen && repeats()).then(|| self.lengths[n - period])
        })
    }
}

/// Returns whether two lengths are those of bands of the same kind, in the same zone or in neighbouring ones.
fn is_like(a: u64, b: u64) -> bool {
    a.abs_diff(b) <= a.max(b) / 8
}
