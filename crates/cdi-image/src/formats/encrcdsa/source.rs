//! What is encrypted in a file, as a file: decrypted where it is read, and not kept.

use std::io;
use std::sync::Arc;

use cdi_base::units::index;

use crate::crypto::{AES_BLOCK, BlockKeys};
use crate::input::ReadAt;

/// A file that is encrypted in blocks.
pub(super) struct Decrypted {
    pub source: Arc<dyn ReadAt>,
    /// Where the blocks begin in `source`, in bytes.
    pub start: u64,
    /// How many bytes are encrypted.
    pub len: u64,
    /// The size of a block in bytes, a multiple of [`AES_BLOCK`].
    pub block: u32,
    pub keys: Arc<BlockKeys>,
}

impl Decrypted {
    /// Fills `out` with the blocks from number `first` on; the last one may be shorter. Returns false where the file ends
    /// before that, because it was truncated since it was opened.
    fn blocks(&self, first: u64, out: &mut [u8]) -> io::Result<bool> {
        let (number, start) = u32::try_from(first)
            .ok()
            .zip(self.start.checked_add(first * u64::from(self.block)))
            .ok_or_else(|| io::Error::other("a block past the last one that can be numbered"))?;
        let mut done = 0;
        while done < out.len() {
            match self.source.read_at(&mut out[done..], start.saturating_add(done as u64)) {
                Ok(0) => return Ok(false),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.keys.decrypt(out, self.block as usize, number);
        Ok(true)
    }
}

impl ReadAt for Decrypted {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let block = u64::from(self.block);
        let Some(left) = self.len.checked_sub(at).filter(|left| *left > 0) else { return Ok(0) };
        let wanted = left.min(buf.len() as u64);
        let (first, skip) = (at / block, at % block);
        // Whole blocks are read to where they are wanted, and decrypted there.
        let whole = index(if skip == 0 { wanted / block * block } else { 0 });
        if whole > 0 {
            return Ok(if self.blocks(first, &mut buf[..whole])? { whole } else { 0 });
        }
        let stored = block.min((left + skip).next_multiple_of(AES_BLOCK as u64));
        let mut one = vec![0; index(stored)];
        if !self.blocks(first, &mut one)? {
            return Ok(0);
        }
        let part = &one[index(skip)..][..index(wanted.min(stored - skip))];
        buf[..part.len()].copy_from_slice(part);
        Ok(part.len())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }
}
