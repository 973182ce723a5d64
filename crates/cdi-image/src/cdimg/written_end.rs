//! Up to where a file has been written: readers wait for bytes that are still in the writer's buffer.

use std::io;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cdi_base::workers::lock;

use crate::input::ReadAt;

/// Timeout for bytes that the writer has not written yet. It writes its buffer at least 50 times a second.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The end of what has been written to a file.
pub(super) struct WrittenEnd {
    end: Mutex<u64>,
    moved: Condvar,
}

impl WrittenEnd {
    pub(super) fn new(end: u64) -> WrittenEnd {
        WrittenEnd { end: Mutex::new(end), moved: Condvar::new() }
    }

    /// Notes that everything before `end` has been written.
    pub(super) fn set(&self, end: u64) {
        *lock(&self.end) = end;
        self.moved.notify_all();
    }

    /// Waits until everything before `end` has been written. Returns whether it has.
    fn wait(&self, end: u64) -> bool {
        let timeout = Instant::now() + TIMEOUT;
        let mut written = lock(&self.end);
        while *written < end {
            let left = timeout.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            written = self.moved.wait_timeout(written, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// A file that is being written, as its readers see it: without an end, and complete up to every place that is known.
pub(super) struct GrowingFile {
    pub(super) file: Box<dyn ReadAt>,
    pub(super) written: std::sync::Arc<WrittenEnd>,
}

impl ReadAt for GrowingFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        if self.written.wait(at.saturating_add(buf.len() as u64)) {
            self.file.read_at(buf, at)
        } else {
            Err(io::ErrorKind::TimedOut.into())
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(i64::MAX.cast_unsigned())
    }
}
