//! What a file with parity can do besides being read: restore bytes that are damaged.

use std::io;
use std::ops::Range;

use cdi_base::error::{Error, Flaw, ReadError};

use super::Input;
use crate::extent::FileNo;

/// The parity of a file: bytes of it that cannot be read, or are wrong, are computed from the others.
pub trait Parity: Send + Sync {
    /// Fills `buf` with the bytes that belong at offset `at` of the file, whatever is there now. Returns whether all of
    /// them are known; `buf` is undefined if not. The caller must check them as it checks bytes that it reads.
    fn restore(&self, buf: &mut [u8], at: u64) -> bool;

    /// Returns what is known about the parity, without reading anything.
    fn summary(&self) -> ParitySummary;

    /// Reads the whole file that is covered, and the parity, and reports damage: the place in the file, what is wrong,
    /// and what it affects. `check_cancelled` is called often; its error stops the check.
    fn check(
        &self,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut dyn FnMut() -> Result<(), Error>,
    ) -> Result<(), Error>;
}

/// What is known about the parity of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ParitySummary {
    /// The size of the recovery data, in hundredths of a percent of what it covers.
    pub hundredths: u32,
    /// The offset up to which the file is covered, in bytes.
    pub covered_end: u64,
    /// The length in bytes of the parity, with its checksums and the checkpoint at its end. It follows what is covered.
    pub parity_bytes: u64,
    /// Whether the end of the file or its superblocks are lost, so that it is read as it was before it got the parity.
    pub is_earlier: bool,
    /// The number of reads that parity has repaired so far.
    pub restored_reads: u64,
    /// The number of bytes that were computed from parity so far.
    pub restored_bytes: u64,
}

impl ParitySummary {
    /// Returns where the parity is in the file, in bytes.
    pub fn range(&self) -> Range<u64> {
        self.covered_end..self.covered_end.saturating_add(self.parity_bytes)
    }
}

impl Input {
    /// Fills `buf` from offset `at`, as [`Input::read_exact_at`] does, with bytes that `is_right` accepts: those in the
    /// file, or if they are wrong or cannot be read, those that its parity restores.
    pub fn read_right(
        &self,
        file: FileNo,
        buf: &mut [u8],
        at: u64,
        is_right: impl Fn(&[u8]) -> bool,
    ) -> Result<(), ReadError> {
        let read = self.read_exact_at(file, buf, at);
        if read.is_ok() && is_right(buf) {
            return Ok(());
        }
        let inside = at.checked_add(buf.len() as u64).is_some_and(|end| end <= self.len_of(file));
        let parity = self.parity().filter(|_| file == Self::MAIN && inside);
        if parity.is_some_and(|parity| parity.restore(buf, at)) && is_right(buf) {
            return Ok(());
        }
        read.and(Err(ReadError::Corrupt { at }))
    }

    /// Returns the length of the main file as it is stored, in bytes: packed, encrypted, or with parity at its end.
    pub fn stored_len(&self) -> u64 {
        self.stored_len
    }

    /// Returns whether the file is read as it was when its parity was made, and something that followed is lost.
    pub fn lost_what_followed_parity(&self) -> bool {
        self.parity().is_some_and(|parity| {
            let summary = parity.summary();
            summary.is_earlier && self.stored_len() > summary.range().end
        })
    }

    /// Returns the parity of the main file, if it has any.
    pub fn parity(&self) -> Option<&dyn Parity> {
        self.source.parity()
    }

    /// Reads `len` bytes from offset `at` on, as [`Input::bytes`] does, of which there must be as many. Returns them if
    /// `is_right` accepts them, as they are or as parity restores them; otherwise None.
    pub fn bytes_right(
        &self,
        at: u64,
        len: usize,
        what: &str,
        is_right: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Vec<u8>>, Error> {
        let mut bytes = vec![0; len];
        match self.read_right(Self::MAIN, &mut bytes, at, is_right) {
            Ok(()) => Ok(Some(bytes)),
            Err(e @ ReadError::Io { .. }) => Err(unreadable(e, at, what)),
            Err(_) => Ok(None),
        }
    }
}

/// Returns the error for a structure, `what`, at offset `at` that cannot be read.
pub(super) fn unreadable(e: ReadError, at: u64, what: &str) -> Error {
    match e {
        ReadError::Io { errno } => Error::failed(format!("cannot read {what} at byte {at}"))
            .because(io::Error::from_raw_os_error(errno)),
        other => Flaw::at(at, format!("{what}: {other}")).into(),
    }
}
