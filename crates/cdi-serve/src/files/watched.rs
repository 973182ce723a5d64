//! The disk as a scan reads it.

use std::ops::Range;
use std::sync::atomic::Ordering;

use cdi_base::error::ReadError;
use cdi_base::readable::{Missing, Readable};

use super::scans::Scans;

/// The disk, as a scan reads it: notes when it has answered.
pub(super) struct Watched<'a>(pub(super) &'a Scans);

impl Readable for Watched<'_> {
    fn size(&self) -> u64 {
        Readable::size(&self.0.disk)
    }

    fn sector(&self) -> u32 {
        Readable::sector(&self.0.disk)
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> Result<(), ReadError> {
        // Waiting readers get their answer soon; the scan itself ends at its next record.
        if self.0.stopped.load(Ordering::Relaxed) {
            return Err(super::FAILED);
        }
        let read = Readable::read(&self.0.disk, buffer, at);
        if read.is_err() {
            self.0.failed.store(true, Ordering::Relaxed);
        }
        self.0.answered();
        read
    }

    fn missing(&self, range: Range<u64>) -> Vec<Missing> {
        self.0.disk.missing(range)
    }
}
