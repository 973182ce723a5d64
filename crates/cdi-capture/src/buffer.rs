//! Buffers for reading a disk, aligned as O_DIRECT requires.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};

use cdi_base::workers::lock;

/// The alignment of memory for direct reads, in bytes. At least what any device requires.
const ALIGN: usize = 4096;

/// The maximum number of allocations that are kept for reuse.
const SPARE: usize = 16;

/// Allocations of buffers that are not used any more.
#[derive(Debug, Default)]
pub(super) struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    /// Returns a buffer of `len` bytes with unspecified contents, whose memory comes back here when it is dropped.
    pub(super) fn buffer(self: &Arc<Spare>, len: usize) -> Buffer {
        let bytes = lock(&self.0).pop().unwrap_or_default();
        let mut buffer = Buffer { bytes, from: 0, len: 0, home: Some(Arc::clone(self)) };
        buffer.set_len(len);
        buffer
    }
}

/// A byte buffer with an aligned start.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    from: usize,
    len: usize,
    home: Option<Arc<Spare>>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            let mut spare = lock(&home.0);
            if spare.len() < SPARE {
                spare.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Buffer {
    /// Sets the length to `len` bytes. The contents are unspecified.
    pub(super) fn set_len(&mut self, len: usize) {
        if self.bytes.len() < len + ALIGN {
            self.bytes.resize(len + ALIGN, 0);
        }
        self.from = self.bytes.as_ptr().align_offset(ALIGN).min(ALIGN);
        self.len = len;
    }
}

impl From<Vec<u8>> for Buffer {
    /// Wraps bytes that have been read already, and so need not be aligned.
    fn from(bytes: Vec<u8>) -> Buffer {
        let len = bytes.len();
        Buffer { bytes, from: 0, len, home: None }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[self.from..self.from + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.from..self.from + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_stays_aligned_when_it_grows() {
        let mut buffer = Buffer::default();
        for len in [512, 100, 1 << 20, 0, 4096, 2 << 20, 512] {
            buffer.set_len(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr().align_offset(ALIGN), 0);
        }
        let mut other = Buffer::from(vec![1, 2, 3]);
        assert_eq!(*other, [1, 2, 3]);
        other.set_len(512);
        assert_eq!(other.as_ptr().align_offset(ALIGN), 0);
    }
}
