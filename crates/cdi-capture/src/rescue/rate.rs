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

/// Converts a number of bytes and a duration to bytes per second.
pub fn per_second((bytes, time): (u64, Duration)) -> u64 {
    let rate = u128::from(bytes) * 1000 / time.as_millis().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}
