//! Room for the last checkpoint on a disk that fills up.

use std::io;

use cdi_base::error::Error;

use super::layout::ENTRY_LEN;
use super::writer::Writer;

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
/// What a checkpoint takes at most: the nodes that may have changed, and a long map.
const MOST: u64 = 64 << 20;

/// Whether an error of a write means that there is no more room.
pub(super) fn means_full(e: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(e.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

impl Writer {
    /// Keeps room for a checkpoint from now on: when the disk is full, [`Writer::is_full`] says so, and one checkpoint
    /// more can be made.
    pub fn keep_reserve(&mut self) -> Result<(), Error> {
        let nodes = self.index.geometry().chunks().saturating_mul(2 * ENTRY_LEN as u64);
        let len = nodes.saturating_add(256 << 10).min(MOST);
        self.reserve = Some(Reserve { len, to: self.end, full: false });
        self.make_room(0)
    }

    /// Whether the last error was that there is no more room for the image.
    pub fn is_full(&self) -> bool {
        self.reserve.as_ref().is_some_and(|r| r.full)
    }

    /// Sees to it that `more` bytes can be written, and a checkpoint behind them.
    pub(super) fn make_room(&mut self, more: usize) -> Result<(), Error> {
        // A checkpoint is what the room is kept for.
        let Some(Reserve { len, to, full }) = self.reserve.filter(|_| !self.in_checkpoint) else {
            return Ok(());
        };
        let least = self.end + more as u64 + len;
        // Once it is full, what was kept is used up.
        if to >= least || full {
            return Ok(());
        }
        let mut reserve = |to| self.store.reserve(self.end - self.buffer.len() as u64, to).map(|()| to);
        let got = reserve(least + STEP).or_else(|_| reserve(least));
        let full = got.is_err();
        self.reserve = Some(Reserve { len, to: *got.as_ref().unwrap_or(&to), full });
        got.map(|_| ()).map_err(|e| self.io_error("there is no more room for the image", e))
    }

    /// Remembers that there is no more room, if an error of a write says so.
    pub(super) fn note_if_full(&mut self, e: &io::Error) {
        if let Some(reserve) = &mut self.reserve {
            reserve.full |= means_full(e);
        }
    }

    /// Gives back the room that was kept.
    pub(super) fn give_back(&mut self) {
        if self.reserve.take().is_some() {
            // That it cannot be given back is nobody's loss but of room.
            let _ = self.store.cut(self.end);
        }
    }
}
