//! Read statistics of a disk: counted with each read, reported on request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::input::RemoteStats;

/// Read statistics of a disk. They cover reads by clients, not readahead, except where noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stats {
    /// The number of reads.
    pub reads: u64,
    /// The number of bytes requested by them.
    pub read_bytes: u64,
    /// How many of them failed: bad sectors, damage, errors of the image file.
    pub read_errors: u64,
    /// The median latency in microseconds, rounded up to about a power of the square root of two.
    pub p50_us: u64,
    /// The 90th percentile of the latency in microseconds, rounded likewise.
    pub p90_us: u64,
    /// The 99th percentile of the latency in microseconds, rounded likewise.
    pub p99_us: u64,
    /// The maximum latency in microseconds.
    pub max_us: u64,
    /// The number of chunks found in the cache.
    pub cache_hits: u64,
    /// The number of chunks read and decompressed, including readahead.
    pub chunks_decompressed: u64,
    /// The number of reads that failed because a chunk is damaged.
    pub chunks_damaged: u64,
    /// The number of reads of the image's file that parity has repaired, including readahead.
    #[serde(default)]
    pub restored_reads: u64,
    /// The number of bytes of the image's file that were restored for them.
    #[serde(default)]
    pub restored_bytes: u64,
    /// The number of bytes of decompressed chunks in the cache.
    pub cache_bytes: u64,
    /// What was fetched of remote files, if the image has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<RemoteStats>,
}

/// The number of latency buckets: two for each power of two of a microsecond.
const BUCKETS: usize = 64;

/// Counters of the reads of a disk.
pub struct Reads {
    bytes: AtomicU64,
    errors: AtomicU64,
    max_us: AtomicU64,
    times: [AtomicU64; BUCKETS],
}

impl Default for Reads {
    fn default() -> Reads {
        let zero = || AtomicU64::new(0);
        Reads { bytes: zero(), errors: zero(), max_us: zero(), times: std::array::from_fn(|_| zero()) }
    }
}

impl Reads {
    /// Counts a read of `len` bytes.
    pub fn note(&self, len: usize, time: Duration, failed: bool) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.bytes.fetch_add(len as u64, Ordering::Relaxed);
        self.errors.fetch_add(failed.into(), Ordering::Relaxed);
        self.max_us.fetch_max(micros, Ordering::Relaxed);
        self.times[bucket(micros)].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the statistics so far.
    pub fn stats(&self) -> Stats {
        let times = self.times.each_ref().map(|t| t.load(Ordering::Relaxed));
        let reads: u64 = times.iter().sum();
        let max_us = self.max_us.load(Ordering::Relaxed);
        let within = |percent: u64| {
            let wanted = (reads * percent).div_ceil(100);
            let mut seen = 0;
            let found = times.iter().position(|n| {
                seen += n;
                seen >= wanted
            });
            found.map_or(0, bucket_max).min(max_us)
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

/// Returns the bucket of a latency in microseconds. The first bucket is for less than one microsecond; then come [1,
/// 1.5), [1.5, 2), [2, 3), [3, 4), [4, 6) …
fn bucket(micros: u64) -> usize {
    let Some(power) = micros.checked_ilog2() else { return 0 };
    let upper_half = power > 0 && micros >> (power - 1) & 1 == 1;
    (1 + 2 * power as usize + usize::from(upper_half)).min(BUCKETS - 1)
}

/// Returns the maximum latency of a bucket, in microseconds.
fn bucket_max(bucket: usize) -> u64 {
    let Some(n) = bucket.checked_sub(1) else { return 0 };
    let power = 1u64 << (n / 2);
    if n % 2 == 0 { (power + power / 2).max(power + 1) - 1 } else { 2 * power - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_latency_is_in_the_first_bucket_that_covers_it() {
        for micros in (0..5000).chain([1 << 20, 123_456_789]) {
            let bucket = bucket(micros);
            assert!(bucket_max(bucket) >= micros, "{micros}");
            assert!(bucket == 0 || bucket_max(bucket - 1) < micros, "{micros}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_ignore_the_slowest_hundredth() {
        let reads = Reads::default();
        assert_eq!(reads.stats(), Stats::default());
        (0..990).for_each(|_| reads.note(4096, Duration::from_micros(100), false));
        (0..10).for_each(|_| reads.note(4096, Duration::from_millis(10), true));
        let stats = reads.stats();
        assert_eq!((stats.reads, stats.read_bytes, stats.read_errors), (1000, 4_096_000, 10));
        assert_eq!((stats.p50_us, stats.p99_us, stats.max_us), (127, 127, 10_000));
    }
}
