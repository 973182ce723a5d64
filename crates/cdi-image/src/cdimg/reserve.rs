//! Room for the last checkpoint on a disk that fills up.

use std::io;

use super::store::Store;

/// Room that is kept free behind the records, so that a full disk does not keep the last checkpoint from being
/// written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reserve {
    /// How much, in bytes.
    len: u64,
    /// Up to where the file has room.
    to: u64,
    /// Whether there was no room any more.
    full: bool,
}

/// How much is reserved at once, in bytes.
const STEP: u64 = 64 << 20;

/// Whether an error of a write means that there is no more room.
fn means_full(e: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(e.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

impl Reserve {
    /// Keeps `len` bytes free behind the records of a file that has room up to `to`.
    pub(super) fn new(len: u64, to: u64) -> Reserve {
        Reserve { len, to, full: false }
    }

    /// Whether there was no room any more.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// Sees to it that the file can be written up to `end`, and what is reserved behind that. It is written up to `written`.
    pub(super) fn make_room(&mut self, store: &mut dyn Store, written: u64, end: u64) -> io::Result<()> {
        let least = end + self.len;
        // Once it is full, what was kept is used up.
        if self.to >= least || self.full {
            return Ok(());
        }
        let mut reserve = |to| store.reserve(written, to).map(|()| to);
        let got = reserve(least + STEP).or_else(|_| reserve(least));
        self.full = got.is_err();
        got.map(|to| self.to = to)
    }

    /// Remembers that there is no more room, if an error of a write says so.
    pub(super) fn note(&mut self, e: &io::Error) {
        self.full |= means_full(e);
    }
}
