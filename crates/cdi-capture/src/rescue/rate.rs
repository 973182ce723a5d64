//! How fast a drive reads.

use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// How fast the drive reads.
#[derive(Debug, Default)]
pub(super) struct Rate {
    /// All that was read, and how long that took.
    pub total: (u64, Duration),
    /// The same of the second that is under way.
    window: (u64, Duration),
}

impl Rate {
    /// Takes in a read. After each second of reading: the rate of that second, in bytes a second.
    pub(super) fn add(&mut self, bytes: u64, took: Duration) -> Option<u64> {
        for (b, t) in [&mut self.total, &mut self.window] {
            (*b, *t) = (*b + bytes, *t + took);
        }
        (self.window.1 >= SECOND).then(|| per_second(std::mem::take(&mut self.window)))
    }
}

/// So many bytes in so much time, in bytes a second.
pub fn per_second((bytes, time): (u64, Duration)) -> u64 {
    let rate = u128::from(bytes) * 1000 / time.as_millis().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}
