//! Reserves space for the last checkpoint, in case the disk becomes full.

use std::io;

use super::store::Store;

/// Space that is reserved after the records, so that the last checkpoint can be written even if the disk is full.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reserve {
    /// The amount of space, in bytes.
    len: u64,
    /// The offset up to which space is allocated.
    to: u64,
    /// Whether there was no space left.
    full: bool,
}

/// The amount that is reserved at once, in bytes.
const STEP: u64 = 64 << 20;

/// Returns whether a write error means that there is no space left.
fn means_full(e: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(e.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

impl Reserve {
    /// Reserves `len` bytes after the records of a file that has space allocated up to offset `to`.
    pub(super) fn new(len: u64, to: u64) -> Reserve {
        Reserve { len, to, full: false }
    }

    /// Returns whether there was no space left.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// Allocates space so that the file, which is written up to offset `written`, can be written up to `end`, plus the
    /// reserve after that.
    pub(super) fn make_room(&mut self, store: &mut dyn Store, written: u64, end: u64) -> io::Result<()> {
        let needed = end + self.len;
        // Once the disk is full, the reserve is used up.
        if self.to >= needed || self.full {
            return Ok(());
        }
        let mut reserve = |to| store.reserve(written, to).map(|()| to);
        let got = reserve(needed + STEP).or_else(|_| reserve(needed));
        self.full = got.is_err();
        got.map(|to| self.to = to)
    }

    /// Remembers that there is no space left, if a write error says so.
    pub(super) fn note(&mut self, e: &io::Error) {
        self.full |= means_full(e);
    }
}
