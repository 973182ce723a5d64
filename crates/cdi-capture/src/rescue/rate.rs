//! Measures the read rate of a drive.

use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// The read rate of a drive.
#[derive(Debug, Default)]
pub(super) struct Rate {
    /// The total number of bytes read, and the time it took.
    pub total: (u64, Duration),
    /// The same for the current second.
    window: (u64, Duration),
}

impl Rate {
    /// Records a read. After each second of reading, returns the rate of that second in bytes per second.
    pub(super) fn add(&mut self, bytes: u64, took: Duration) -> Option<u64> {
        for (b, t) in [&mut self.total, &mut self.window] {
            (*b, *t) = (*b + bytes, *t + took);
        }
        (self.window.1 >= SECOND).then(|| per_second(std::mem::take(&mut self.window)))
    }
}

/// How long the reads of a drive take.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The average of those that are not slow, which changes with each, and their number.
    average: Duration,
    count: u32,
}

/// From this number of reads on, the drive's pace is known.
const KNOWN: u32 = 32;
/// A read is slow if it takes this many times the average; below the first duration it never is, above the second always.
const TIMES: u32 = 16;
const NEVER: Duration = Duration::from_millis(200);
const ALWAYS: Duration = Duration::from_secs(2);

impl Pace {
    /// Records a read. Returns whether it took far longer than the drive's reads do.
    pub(super) fn is_slow(&mut self, took: Duration) -> bool {
        let limit = if self.count < KNOWN { ALWAYS } else { (self.average * TIMES).clamp(NEVER, ALWAYS) };
        if took >= limit {
            return true;
        }
        self.count = self.count.saturating_add(1);
        let weight = self.count.min(1000);
        self.average = (self.average * (weight - 1) + took) / weight;
        false
    }
}

/// Converts a number of bytes and a duration to bytes per second.
pub fn per_second((bytes, time): (u64, Duration)) -> u64 {
    let rate = u128::from(bytes) * 1000 / time.as_millis().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_slow_next_to_others() {
        let mut pace = Pace::default();
        let ms = Duration::from_millis;
        assert!(!pace.is_slow(ms(1900)), "a drive that spins up");
        assert!(pace.is_slow(ms(2000)));
        (0..2000).for_each(|_| assert!(!pace.is_slow(ms(20))));
        assert!(!pace.is_slow(ms(300)) && pace.is_slow(ms(400)));
        let mut fast = Pace::default();
        (0..100).for_each(|_| assert!(!fast.is_slow(ms(1))));
        assert!(!fast.is_slow(ms(190)), "a hiccup");
    }
}
