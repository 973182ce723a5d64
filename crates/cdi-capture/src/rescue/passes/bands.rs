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
/// The largest number of kinds of bands, and how many times as long as others they may be.
const KINDS: usize = 4;
const MOST_TIMES: u64 = 8;
/// The number of failed reads in a row, with skips between them, from which on the end of an area is looked for.
const LONG: usize = 2;
/// How many intervals between failed reads are looked into.
const INTERVALS: usize = 3;
/// Which part of the distance between bands of one head a band has at least: with eight heads an eighth, and a margin.
const SHORTEST: u64 = 16;
/// How near to where a band is to end sectors are read one by one, in clusters.
const NEAR: u64 = 2;

/// What is known of bands that fail.
#[derive(Debug, Default)]
pub(super) struct Bands {
    /// Of the last bands: how long they were, and how much could be read before each.
    lengths: Vec<u64>,
    gaps: Vec<u64>,
    /// Where the last errors were that one skip was enough for.
    starts: Vec<u64>,
    /// Where the last one ended.
    end: u64,
    state: State,
    /// How far after the start of the first failed read the band may begin.
    slack: u64,
    /// Whether the reads of this band were only slow: then they are not looked into.
    pub(super) is_slow: bool,
    /// While samples are read: the end of the last place that failed.
    tried: u64,
}

/// The sizes of reads, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Near errors.
    pub(super) cluster: u64,
    /// The smallest.
    pub(super) unit: u64,
}

#[derive(Debug, Default)]
enum State {
    /// No error yet.
    #[default]
    Reading,
    /// Errors, with skips that grow: where they began, and the ends of the failed reads.
    Skipping { start: u64, ends: Vec<u64> },
    /// Errors have come at regular distances: one read shows whether it is a band that has ended before `high`, or a single error.
    /// Then the pass goes on.
    Testing { start: u64, at: u64, high: u64, then: u64 },
    /// It is a band. Where in the first failed read it begins is looked for, sector by sector from `at` on.
    Entering { at: u64, end: u64, ends: Vec<u64> },
    /// The next read is where the band may end; then at the other targets.
    Landing { start: u64, ends: Vec<u64>, targets: Vec<Target> },
    /// What could be read is at `high`. Before it, there may be something between the places that failed: `samples` are still to
    /// be read, the first last.
    Sampling { start: u64, low: u64, high: u64, samples: Vec<u64> },
    /// The end is between `low`, which failed, and `high`, which did not. Then the pass goes on.
    Searching { start: u64, low: u64, high: u64 },
    /// The end is before `at`, which could be read, and is looked for backwards, as far as `low`; near `expected`, sector by
    /// sector.
    Returning { start: u64, low: u64, at: u64, then: u64, expected: u64 },
}

/// A place to read at after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Target {
    at: u64,
    /// Where the band ends, if it is as long as one before it.
    end: u64,
}

/// Where the pass goes on after a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// After it.
    On,
    /// After it, and after the first skip.
    Skip,
    /// At this position, but after it, and not further than the largest skip.
    SkipTo(u64),
    /// At this position.
    To(u64),
    /// With the read that [`Bands::probe`] returns.
    Probe,
}

impl Bands {
    /// Returns the read that is due out of order.
    pub(super) fn probe(&self, sizes: Sizes) -> Option<Range<u64>> {
        let Sizes { cluster, unit } = sizes;
        match &self.state {
            State::Entering { at, end, .. } => Some(*at..(at + unit).min(*end)),
            State::Testing { at, .. } => Some(*at..at + cluster),
            State::Sampling { samples, .. } => samples.last().map(|at| *at..at + cluster),
            State::Searching { low, high, .. } => {
                let middle = low + (high - low) / 2;
                let start = (middle - middle % cluster).max(*low);
                Some(start..(start + cluster).min(*high))
            }
            State::Returning { low, at, expected, .. } => {
                let size = if at.abs_diff(*expected) <= NEAR * cluster { unit } else { cluster };
                let start = at.saturating_sub(1) / size * size;
                Some(start.max(*low)..*at)
            }
            State::Reading | State::Skipping { .. } | State::Landing { .. } => None,
        }
    }

    /// Returns whether lengths of bands have come again.
    pub(super) fn are_known(&self) -> bool {
        self.lengths.len() > KINDS && self.next_of_cycle().is_some()
    }

    /// Returns whether a read that failed is looked into.
    pub(super) fn is_entering(&self) -> bool {
        matches!(self.state, State::Entering { .. })
    }

    /// Ends the search for an end: what was to be read is not to be read any more. Returns where the pass goes on.
    pub(super) fn give_up(&mut self) -> Option<u64> {
        match std::mem::take(&mut self.state) {
            State::Searching { high, .. } | State::Sampling { high, .. } => Some(high),
            State::Returning { then, .. } | State::Testing { then, .. } => Some(then),
            State::Entering { ends, .. } => Some(last(&ends)),
            State::Reading | State::Skipping { .. } | State::Landing { .. } => None,
        }
    }

    /// Takes the outcome of a read.
    pub(super) fn got(&mut self, read: &Range<u64>, failed: bool, sizes: Sizes) -> Step {
        let cluster = sizes.cluster;
        match std::mem::take(&mut self.state) {
            State::Reading if failed => {
                self.slack = read.end - read.start;
                let gap = read.start.saturating_sub(self.end);
                // Where a band was to begin, one error is enough.
                let expected = self.gaps.len() >= 3 && self.gaps.iter().any(|known| is_like(*known, gap));
                self.enter(read.start, vec![read.end], expected, sizes)
            }
            State::Entering { ends, .. } if failed => {
                self.slack = 0;
                let targets = self.targets(read.start, last(&ends), cluster);
                self.land(read.start, ends, targets)
            }
            State::Entering { end, ends, .. } if read.end >= end => Step::To(last(&ends)),
            State::Entering { end, ends, .. } => {
                self.state = State::Entering { at: read.end, end, ends };
                Step::Probe
            }
            State::Reading => Step::On,
            State::Skipping { start, mut ends } if failed => {
                ends.push(read.end);
                self.enter(start, ends, true, sizes)
            }
            State::Skipping { start, ends } if ends.len() >= LONG => {
                self.state = State::Sampling {
                    start,
                    low: last(&ends),
                    high: read.start,
                    samples: samples(&ends, cluster),
                };
                self.sampled(ends[0], cluster)
            }
            // A band that is shorter than the first skip? A single error is nothing to look at.
            State::Skipping { start, ends } => {
                let (first, high) = (last(&ends), read.start);
                let at = self.regular(start).map(|apart| (start + apart / SHORTEST) / cluster * cluster);
                match at.filter(|at| *at > first && at + cluster < high) {
                    Some(at) => {
                        self.state = State::Testing { start, at, high, then: read.end };
                        Step::Probe
                    }
                    None => Step::On,
                }
            }
            State::Testing { start, high, .. } if failed => {
                self.state = State::Searching { start, low: read.end, high };
                self.narrowed(cluster)
            }
            State::Testing { then, .. } => Step::To(then),
            State::Landing { start, mut ends, mut targets } if failed => {
                ends.push(read.end);
                targets.retain(|target| target.at >= read.end);
                self.land(start, ends, targets)
            }
            State::Landing { start, ends, targets } => {
                let (low, sure) = (last(&ends), self.next_of_cycle().is_some());
                let expected = targets.first().filter(|_| sure).map_or(0, |target| target.end);
                self.state = State::Returning { start, low, at: read.start, then: read.end, expected };
                if read.start <= low { self.measured(start, low, read.end) } else { Step::Probe }
            }
            State::Sampling { start, high, mut samples, low } => {
                samples.pop();
                if failed {
                    self.state = State::Sampling { start, low, high, samples };
                    self.sampled(read.end, cluster)
                } else {
                    // What is before it failed.
                    self.state = State::Searching { start, low: self.tried, high: read.start };
                    self.narrowed(cluster)
                }
            }
            State::Searching { start, low, high } => {
                let (low, high) = if failed { (read.end, high) } else { (low, read.start) };
                self.state = State::Searching { start, low, high };
                self.narrowed(cluster)
            }
            State::Returning { start, then, .. } if failed => self.measured(start, read.end, then),
            State::Returning { start, low, then, .. } if read.start <= low => self.measured(start, low, then),
            State::Returning { start, low, then, expected, .. } => {
                self.state = State::Returning { start, low, at: read.start, then, expected };
                Step::Probe
            }
        }
    }

    /// Takes errors in an area that begins at `start`: of a band, if one may end after it, as far as is known.
    fn enter(&mut self, start: u64, ends: Vec<u64>, sure: bool, sizes: Sizes) -> Step {
        let targets = if sure { self.targets(start, last(&ends), sizes.cluster) } else { Vec::new() };
        // The first failed read is looked into once.
        if !targets.is_empty() && ends.len() <= LONG && self.slack > sizes.unit && !self.is_slow {
            self.state = State::Entering { at: start, end: start + self.slack, ends };
            return Step::Probe;
        }
        self.land(start, ends, targets)
    }

    /// Goes on after errors in an area that begins at `start`; `ends` are those of the failed reads.
    fn land(&mut self, start: u64, ends: Vec<u64>, targets: Vec<Target>) -> Step {
        match targets.first() {
            Some(first) => {
                let step = Step::To(first.at);
                self.state = State::Landing { start, ends, targets };
                step
            }
            None => {
                // Never over more than failed so far: what follows may be as short.
                let step = match ends.len() {
                    1 => Step::Skip,
                    _ => Step::SkipTo(start + 2 * (last(&ends) - start)),
                };
                self.state = State::Skipping { start, ends };
                step
            }
        }
    }

    /// Goes on with the samples, or ends them. `tried` is the end of the last place that failed before the next one.
    fn sampled(&mut self, tried: u64, cluster: u64) -> Step {
        self.tried = tried;
        let State::Sampling { start, low, high, samples } = &self.state else { return Step::On };
        if !samples.is_empty() {
            return Step::Probe;
        }
        self.state = State::Searching { start: *start, low: *low, high: *high };
        self.narrowed(cluster)
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

    /// Notes where an error was. Returns the distance, if errors come at regular distances.
    fn regular(&mut self, start: u64) -> Option<u64> {
        self.starts.push(start);
        if self.starts.len() > 4 {
            self.starts.remove(0);
        }
        let apart: Vec<u64> = self.starts.windows(2).map(|w| w[1].saturating_sub(w[0])).collect();
        let again = |(n, a): &(usize, &u64)| apart[..*n].iter().any(|b| is_like(**a, *b));
        apart.iter().enumerate().find(again).map(|(_, apart)| *apart)
    }

    /// Returns where a band that begins at `start` may have ended, the likeliest first, if that is after `beyond`.
    fn targets(&self, start: u64, beyond: u64, cluster: u64) -> Vec<Target> {
        let mut lengths: Vec<u64> = self.next_of_cycle().into_iter().collect();
        let mut kinds: Vec<u64> = Vec::new();
        for length in self.lengths.iter().rev() {
            // Seen twice, unless little was seen yet.
            let like = self.lengths.iter().filter(|other| is_like(**other, *length)).count();
            if (like >= 2 || self.lengths.len() <= 3) && !kinds.iter().any(|kind| is_like(*kind, *length)) {
                kinds.push(*length);
            }
        }
        kinds.sort_unstable();
        // Bands that follow each other differ in length by no more than this factor.
        let most = kinds.first().map_or(0, |least| least.saturating_mul(MOST_TIMES));
        kinds.retain(|kind| *kind <= most);
        let is_new = |kind: &u64| !lengths.iter().any(|length| is_like(*length, *kind));
        let others: Vec<u64> = kinds.into_iter().filter(is_new).take(KINDS).collect();
        lengths.extend(others);
        let target = |length: u64, more: u64| {
            let margin = (length / 256).max(2 * cluster) + self.slack;
            Target { at: (start + length + more + margin).next_multiple_of(cluster), end: start + length }
        };
        let mut targets: Vec<Target> = lengths.iter().map(|length| target(*length, 0)).collect();
        // In the next zone, bands are a little longer.
        targets.extend(lengths.first().map(|length| target(*length, length / 16)));
        targets.retain(|target| target.at >= beyond);
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

/// Returns the end of the last failed read.
fn last(ends: &[u64]) -> u64 {
    ends.last().copied().unwrap_or(0)
}

/// Returns where something may be that could be read, between failed reads: the first last.
fn samples(ends: &[u64], cluster: u64) -> Vec<u64> {
    let intervals = ends.windows(2).rev().take(INTERVALS);
    let inside = |w: &[u64]| {
        let (from, part) = (w[0], (w[1] - w[0]) / 4 / cluster * cluster);
        (1..4).rev().map(move |n| from + n * part).filter(move |_| part > cluster)
    };
    intervals.flat_map(inside).collect()
}
