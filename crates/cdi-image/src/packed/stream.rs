//! Reads a packed file in order from any place on.

use std::io::{self, BufRead, Read};
use std::sync::Arc;

use crate::input::ReadAt;

/// How much is read at once, in bytes.
const STEP: usize = 128 << 10;

/// A packed file from some place on.
pub(super) struct Stream {
    source: Arc<dyn ReadAt>,
    /// The offset of the byte that follows the buffer, and the end of what may be read, in bytes.
    next: u64,
    end: u64,
    buffer: Vec<u8>,
    /// The part of the buffer that was not used yet.
    unused: std::ops::Range<usize>,
}

impl Stream {
    /// Reads `source` from offset `at` up to `end`.
    pub(super) fn new(source: &Arc<dyn ReadAt>, at: u64, end: u64) -> Stream {
        Stream { source: Arc::clone(source), next: at, end, buffer: Vec::new(), unused: 0..0 }
    }

    /// Returns the offset of the next byte.
    pub(super) fn position(&self) -> u64 {
        self.next - self.unused.len() as u64
    }

    /// Returns the end of what may be read.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Continues at offset `at`, which must not be before the position.
    pub(super) fn skip_to(&mut self, at: u64) {
        match usize::try_from(at.saturating_sub(self.position())) {
            Ok(ahead) if ahead <= self.unused.len() => self.unused.start += ahead,
            _ => (self.next, self.unused) = (at.min(self.end), 0..0),
        }
    }

    /// Skips the rest of a frame that is to be skipped, of zstd or lz4, after its magic: its length, and as many bytes.
    pub(super) fn skip_frame(&mut self) -> io::Result<()> {
        let len = u32::from_le_bytes(self.array()?);
        let end = self.position() + u64::from(len);
        if end > self.end {
            return Err(cut());
        }
        self.skip_to(end);
        Ok(())
    }

    /// Goes back to offset `at`, which was read before.
    pub(super) fn step_back(&mut self, at: u64) {
        match usize::try_from(self.position() - at) {
            Ok(back) if back <= self.unused.start => self.unused.start -= back,
            _ => (self.next, self.unused) = (at, 0..0),
        }
    }

    /// Returns the next `N` bytes; an error of the kind `UnexpectedEof` if there are fewer.
    pub(super) fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl BufRead for Stream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.unused.is_empty() && self.next < self.end {
            self.buffer.resize(STEP, 0);
            let len = usize::try_from(self.end - self.next).unwrap_or(STEP).min(STEP);
            let read = loop {
                match self.source.read_at(&mut self.buffer[..len], self.next) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    other => break other?,
                }
            };
            self.next += read as u64;
            self.unused = 0..read;
        }
        Ok(&self.buffer[self.unused.clone()])
    }

    fn consume(&mut self, amount: usize) {
        self.unused.start = self.unused.end.min(self.unused.start + amount);
    }
}

impl Read for Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let buffer = self.fill_buf()?;
        let n = buffer.len().min(out.len());
        out[..n].copy_from_slice(&buffer[..n]);
        self.consume(n);
        Ok(n)
    }
}

/// Returns the error for packed data that cannot be right.
pub(super) fn damaged() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// Returns the error for packed data that ends too early.
pub(super) fn cut() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

/// Returns whether `e` says that packed data is damaged or ends too early, and not that the file cannot be read.
pub(super) fn is_damage(e: &io::Error) -> bool {
    e.raw_os_error().is_none() && e.kind() != io::ErrorKind::OutOfMemory
}
