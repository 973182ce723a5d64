//! What a disk has done so far: counted as it reads, told when somebody asks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a disk has done so far. Of each read from without; not of what was read ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Reads, and how many bytes they were to give.
    pub reads: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// How many of them failed: bad sectors, damage, the image's file.
    pub read_errors: u64,
    /// The time within which half of them were done, in microseconds, a power of the square root of two; and so on.
    pub p50_us: u64,
    /// 90 of 100.
    pub p90_us: u64,
    /// 99 of 100.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
    /// Chunks that were found uncompressed.
    pub cache_hits: u64,
    /// Chunks that were read and uncompressed, also ahead.
    pub chunks_decompressed: u64,
    /// Reads that failed because a chunk is damaged.
    pub chunks_damaged: u64,
    /// Bytes of uncompressed chunks that are kept now.
    pub cache_bytes: u64,
}

/// Two for each power of two of a microsecond.
const BUCKETS: usize = 64;

/// Reads, counted.
pub(super) struct Reads {
    bytes: AtomicU64,
    errors: AtomicU64,
    longest: AtomicU64,
    times: [AtomicU64; BUCKETS],
}

impl Default for Reads {
    fn default() -> Reads {
        let zero = || AtomicU64::new(0);
        Reads { bytes: zero(), errors: zero(), longest: zero(), times: std::array::from_fn(|_| zero()) }
    }
}

impl Reads {
    pub(super) fn note(&self, len: usize, time: Duration, failed: bool) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.bytes.fetch_add(len as u64, Ordering::Relaxed);
        self.errors.fetch_add(failed.into(), Ordering::Relaxed);
        self.longest.fetch_max(micros, Ordering::Relaxed);
        self.times[bucket(micros)].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stats(&self) -> Stats {
        let times = self.times.each_ref().map(|t| t.load(Ordering::Relaxed));
        let reads: u64 = times.iter().sum();
        let max_us = self.longest.load(Ordering::Relaxed);
        let within = |percent: u64| {
            let wanted = (reads * percent).div_ceil(100);
            let mut seen = 0;
            let found = times.iter().position(|n| {
                seen += n;
                seen >= wanted
            });
            found.map_or(0, most).min(max_us)
        };
        Stats {
            reads,
            read_bytes: self.bytes.load(Ordering::Relaxed),
            read_errors: self.errors.load(Ordering::Relaxed),
            p50_us: within(50),
            p90_us: within(90),
            p99_us: within(99),
            max_us,
            ..Stats::default()
        }
    }
}

/// The first of them holds less than one microsecond; then come [1, 1.5), [1.5, 2), [2, 3), [3, 4), [4, 6) …
fn bucket(micros: u64) -> usize {
    let Some(power) = micros.checked_ilog2() else { return 0 };
    let upper_half = power > 0 && micros >> (power - 1) & 1 == 1;
    (1 + 2 * power as usize + usize::from(upper_half)).min(BUCKETS - 1)
}

/// The longest time that a bucket holds, in microseconds.
fn most(bucket: usize) -> u64 {
    let Some(n) = bucket.checked_sub(1) else { return 0 };
    let power = 1u64 << (n / 2);
    if n % 2 == 0 { (power + power / 2).max(power + 1) - 1 } else { 2 * power - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_in_a_bucket_that_reaches_as_far_as_it() {
        for micros in (0..5000).chain([1 << 20, 123_456_789]) {
            let bucket = bucket(micros);
            assert!(most(bucket) >= micros, "{micros}");
            assert!(bucket == 0 || most(bucket - 1) < micros, "{micros}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_hundredth_is_slow() {
        let reads = Reads::default();
        assert_eq!(reads.stats(), Stats::default());
        (0..990).for_each(|_| reads.note(4096, Duration::from_micros(100), false));
        (0..10).for_each(|_| reads.note(4096, Duration::from_millis(10), true));
        let stats = reads.stats();
        assert_eq!((stats.reads, stats.read_bytes, stats.read_errors), (1000, 4_096_000, 10));
        assert_eq!((stats.p50_us, stats.p99_us, stats.max_us), (127, 127, 10_000));
    }
}
