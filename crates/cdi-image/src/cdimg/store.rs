//! The file that a writer writes to, and reads its own index nodes back from.

use std::io;
use std::sync::Arc;

use cdi_base::error::ReadError;

use super::layout::{RawEntry, RawPiece};
use super::nodes::{Nodes, decode_node, decode_pieces};

/// A file to write to. Tests replace it with one that fails, or that loses unsynced data.
pub trait Store: Send {
    /// Writes all of `bytes` at `at`.
    fn write_all_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Reads written bytes back.
    fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()>;
    /// Returns when all written data is on the disk.
    fn sync(&mut self) -> io::Result<()>;
    /// Returns the length of the file in bytes, if it can be determined: another program may have truncated the file.
    fn file_len(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }
    /// Truncates the file to `len` bytes.
    fn cut(&mut self, len: u64) -> io::Result<()>;
    /// Allocates space for the bytes from `from` to `to`, so that they can be written later even if the disk becomes
    /// full. The file length does not change. An error means that there is no space left; file systems without support
    /// for this do not return an error.
    fn reserve(&mut self, _from: u64, _to: u64) -> io::Result<()> {
        Ok(())
    }
}

impl Store for std::fs::File {
    fn write_all_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(self, bytes, at)
    }
    fn read_exact_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, bytes, at)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
    fn file_len(&self) -> io::Result<u64> {
        self.metadata().map(|meta| meta.len())
    }
    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }
    #[cfg(target_os = "linux")]
    fn reserve(&mut self, from: u64, to: u64) -> io::Result<()> {
        use nix::errno::Errno;
        use nix::fcntl::{FallocateFlags, fallocate};
        use nix::sys::resource::{Resource, getrlimit};
        let (limit, _) = getrlimit(Resource::RLIMIT_FSIZE)?;
        if to > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let signed = |n: u64| i64::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge));
        let (at, len) = (signed(from)?, signed(to.saturating_sub(from))?);
        match fallocate(&*self, FallocateFlags::FALLOC_FL_KEEP_SIZE, at, len) {
            Err(e @ (Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG)) => Err(e.into()),
            // Without support for allocation, a lack of space shows when the data is written.
            _ => Ok(()),
        }
    }
}

/// The index nodes that the writer itself has written.
pub struct Written<'a> {
    store: &'a dyn Store,
    end: u64,
}

impl<'a> Written<'a> {
    /// Returns the nodes in `store`, whose records end at offset `end`.
    pub fn new(store: &'a dyn Store, end: u64) -> Written<'a> {
        Written { store, end }
    }

    fn payload(&self, entry: &RawEntry) -> Result<Vec<u8>, ReadError> {
        let mut bytes = vec![0; entry.stored.get() as usize];
        self.store.read_exact_at(&mut bytes, entry.at.get())?;
        let right = xxhash_rust::xxh3::xxh3_64(&bytes) == entry.sum.get();
        if right { Ok(bytes) } else { Err(ReadError::Corrupt { at: entry.at.get() }) }
    }
}

impl Nodes for Written<'_> {
    fn node(&self, entry: &RawEntry, count: usize) -> Result<Arc<[RawEntry]>, ReadError> {
        let at = entry.at.get();
        let node =
            decode_node(&self.payload(entry)?, at, self.end).map_err(|f| ReadError::Corrupt { at: f.at })?;
        if node.len() == count { Ok(node) } else { Err(ReadError::Corrupt { at }) }
    }

    fn pieces(&self, entry: &RawEntry, chunk_len: u32) -> Result<Arc<[RawPiece]>, ReadError> {
        let at = entry.at.get();
        decode_pieces(&self.payload(entry)?, at, self.end, chunk_len)
            .map_err(|f| ReadError::Corrupt { at: f.at })
    }
}
