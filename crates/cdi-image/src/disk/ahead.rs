//! Readahead: detects sequential readers and decompresses the chunks that they will need next.
//!
//! The kernel's own readahead is limited to 128 KiB where we may not raise it, and readers with O_DIRECT have none. So
//! chunks that a sequential reader will request are decompressed on other cores beforehand.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use cdi_base::workers::{Pool, lock};

/// The number of sequential readers that are distinguished.
const STREAMS: usize = 16;
/// How far requests of one reader may be out of order, because several threads serve them, in bytes.
const SLACK: u64 = 2 << 20;
/// The size of a readahead request, in bytes. A larger chunk is still decompressed only once.
const STEP: u64 = 64 << 10;
/// The amount that a reader must have read in sequence before readahead starts, and the maximum readahead, in bytes. In
/// between, readahead goes as far as the amount read so far.
const WINDOW: (u64, u64) = (256 << 10, 2 << 20);

#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    /// Where the next read is expected.
    next: u64,
    /// The number of reads in sequence, and their bytes.
    length: u32,
    bytes: u64,
    /// The end of the chunks requested so far.
    asked: u64,
    /// When the stream was last used.
    used: u64,
}

/// The readers of one disk, and the threads that read ahead for them.
pub struct Ahead {
    streams: Mutex<(u64, [Stream; STREAMS])>,
    queue: Pool<Range<u64>>,
    size: u64,
    max_ahead: u64,
}

impl Ahead {
    /// Starts `threads` threads that call `fetch` with ranges of a disk of `size` bytes. At most `budget` bytes are
    /// read ahead. The threads exit when this is dropped. It is an error if they cannot be started.
    pub fn start(
        threads: usize,
        size: u64,
        budget: u64,
        fetch: Arc<dyn Fn(Range<u64>) + Send + Sync>,
    ) -> std::io::Result<Ahead> {
        let queue = Pool::start("readahead", threads, (WINDOW.1 / STEP) as usize, || {
            let fetch = Arc::clone(&fetch);
            // If a parser panics, the chunk is just not read ahead; the reader will get the error.
            move |range| {
                let _ = catch_unwind(AssertUnwindSafe(|| fetch(range)));
            }
        })?;
        Ok(Ahead {
            streams: Mutex::new((0, [Stream::default(); STREAMS])),
            queue,
            size,
            max_ahead: WINDOW.1.min(budget),
        })
    }

    /// Records a read of `len` bytes at `offset`, and returns whether it is part of a sequential stream. Unless the
    /// read is `alone`, nothing is read ahead: if a stream sends several reads at once (the kernel reads ahead itself),
    /// they already keep the cores busy.
    pub fn note(&self, offset: u64, len: u64, alone: bool) -> bool {
        let end = offset + len;
        let mut guard = lock(&self.streams);
        let (clock, streams) = &mut *guard;
        *clock += 1;
        let near =
            |s: &Stream| s.length > 0 && offset.abs_diff(s.next) <= if s.length > 1 { SLACK } else { 0 };
        let Some(stream) = streams.iter_mut().find(|s| near(s)) else {
            if let Some(oldest) = streams.iter_mut().min_by_key(|s| s.used) {
                *oldest = Stream { next: end, length: 1, bytes: len, asked: end, used: *clock };
            }
            return false;
        };
        stream.used = *clock;
        stream.length = stream.length.saturating_add(1);
        stream.next = stream.next.max(end);
        stream.bytes = stream.bytes.saturating_add(len);
        if stream.bytes < WINDOW.0 {
            return false;
        }
        if !alone {
            return true;
        }
        let target = (stream.next + stream.bytes.min(self.max_ahead)).min(self.size);
        let from = stream.asked.max(stream.next);
        stream.asked = from.max(target);
        drop(guard);
        let mut at = from;
        while at < target {
            let end = ((at / STEP + 1) * STEP).min(target);
            match self.queue.try_send(at..end) {
                Ok(()) => at = end,
                // The queue is full, and its requests, which came first, take precedence.
                Err(_) => break,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, Instant};

    use super::*;

    fn ahead(size: u64) -> (Ahead, Arc<Mutex<BTreeSet<u64>>>) {
        let fetched = Arc::new(Mutex::new(BTreeSet::new()));
        let to = Arc::clone(&fetched);
        let fetch = Arc::new(move |range: Range<u64>| {
            to.lock().unwrap().insert(range.start);
        });
        (Ahead::start(2, size, u64::MAX, fetch).unwrap(), fetched)
    }

    fn wait_for(fetched: &Mutex<BTreeSet<u64>>, what: impl Fn(&BTreeSet<u64>) -> bool) {
        let start = Instant::now();
        while !what(&fetched.lock().unwrap()) {
            assert!(start.elapsed() < Duration::from_secs(10), "{:?}", fetched.lock().unwrap());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn sequential_reads_start_readahead_and_seeks_do_not() {
        let (ahead, fetched) = ahead(1 << 30);
        const READ: u64 = 128 << 10;
        assert!(!ahead.note(0, READ, true));
        assert!(!ahead.note(100 << 20, READ, true));
        assert!(!ahead.note(50 << 20, READ, true));
        // Nor do a few small reads that happen to be adjacent.
        assert!((0..30).all(|n| !ahead.note((200 << 20) + n * 4096, 4096, true)));
        std::thread::sleep(Duration::from_millis(20));
        assert!(fetched.lock().unwrap().is_empty());
        assert!(ahead.note(READ, READ, true));
        wait_for(&fetched, |f| f.contains(&(2 * READ)) && f.contains(&(3 * READ)));
        // The more was read, the more is read ahead.
        assert!(ahead.note(2 * READ, 2 * READ, true));
        wait_for(&fetched, |f| f.contains(&(7 * READ)));
        // Concurrent reads need no readahead.
        assert!(ahead.note(4 * READ, 8 * READ, false));
        std::thread::sleep(Duration::from_millis(20));
        assert!(!fetched.lock().unwrap().contains(&(12 * READ)));
    }

    #[test]
    fn nothing_past_the_end_is_fetched() {
        let (ahead, fetched) = ahead(300 << 10);
        ahead.note(0, 128 << 10, true);
        ahead.note(128 << 10, 128 << 10, true);
        wait_for(&fetched, |f| !f.is_empty());
        std::thread::sleep(Duration::from_millis(20));
        assert!(fetched.lock().unwrap().iter().all(|at| *at < 300 << 10));
    }
}
