//! A segment whose chunks are encrypted, as a file of the same length: decrypted where it is read, and not kept.

use std::io;
use std::sync::{Arc, Weak};

use cdi_base::error::ReadError;
use cdi_base::units::index;

use super::tables::Tables;
use super::xways::ChunkKeys;
use crate::extent::FileNo;
use crate::input::{Input, ReadAt};

/// A segment.
pub(super) struct Decrypted {
    /// The image, which holds this file, too.
    pub input: Weak<Input>,
    pub tables: Arc<Tables>,
    pub file: FileNo,
    /// The length of the segment in bytes.
    pub len: u64,
    pub keys: Arc<ChunkKeys>,
}

impl ReadAt for Decrypted {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let input = self.input.upgrade().ok_or_else(|| io::Error::other("the image was closed"))?;
        let failed = |e| match e {
            ReadError::Io { errno } => io::Error::from_raw_os_error(errno),
            other => io::Error::other(other),
        };
        let len = index(self.len.saturating_sub(at).min(buf.len() as u64));
        match input.read_exact_at(self.file, &mut buf[..len], at) {
            // It was truncated since it was opened.
            Err(ReadError::Corrupt { .. }) => return Ok(0),
            read => read.map_err(failed)?,
        }
        // Each chunk has a key stream of its own.
        let mut done = 0;
        while done < len {
            let here = at + done as u64;
            let (chunk, range) = self.tables.around(&input, self.file, here).map_err(failed)?;
            let end = len.min(done + index((range.end - here).min(buf.len() as u64)));
            if let Some(chunk) = chunk {
                self.keys.decrypt(chunk, here - range.start, &mut buf[done..end]);
            }
            done = end;
        }
        Ok(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }
}
