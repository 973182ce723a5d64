//! Appends records to the file: buffered, written in order, with space reserved for the last checkpoint.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cdi_base::advice::Advice;
use cdi_base::error::Error;
use cdi_base::units::index;
use zerocopy::IntoBytes;

use super::layout::*;
use super::record::{Head, encode};
use super::reserve::Reserve;
use super::store::{Store, Written};
use super::written_end::WrittenEnd;
use crate::codec::{Codec, Compressor};

/// The amount that is buffered before it is written, in bytes.
const BUFFER: usize = 1 << 20;

/// The end of an image file, where records are appended.
pub(super) struct Appender {
    store: Box<dyn Store>,
    path: PathBuf,
    salt: u64,
    epoch: u32,
    /// The number of records since the last checkpoint.
    uncommitted: usize,
    /// The offset at which the next record begins.
    end: u64,
    /// The bytes not written to the file yet; they end at `end`.
    buffer: Vec<u8>,
    /// Up to where the file has been written, for those who read it meanwhile.
    written: Arc<WrittenEnd>,
    /// Set when a sync has failed: nothing is written any more.
    broken: bool,
    /// The space reserved for the last checkpoint.
    reserve: Option<Reserve>,
    in_checkpoint: bool,
}

impl Appender {
    /// Returns an appender to `store` from offset `end` on, for records with the salt and epoch of `superblock`. `path`
    /// is for messages.
    pub(super) fn new(store: Box<dyn Store>, path: &Path, superblock: &Superblock, end: u64) -> Appender {
        Appender {
            store,
            path: path.to_owned(),
            salt: superblock.salt.get(),
            epoch: superblock.epoch.get(),
            uncommitted: 0,
            end,
            buffer: Vec::new(),
            written: Arc::new(WrittenEnd::new(end)),
            broken: false,
            reserve: None,
            in_checkpoint: false,
        }
    }

    /// Returns the path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the offset at which the next record begins.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Returns up to where the file has been written, as it grows.
    pub(super) fn written(&self) -> &Arc<WrittenEnd> {
        &self.written
    }

    /// Returns the number of records appended since the last checkpoint.
    pub(super) fn uncommitted(&self) -> usize {
        self.uncommitted
    }

    /// Returns the index nodes in the file.
    pub(super) fn nodes(&self) -> Written<'_> {
        Written::new(&*self.store, self.end)
    }

    /// Reserves `len` bytes after the records from now on.
    pub(super) fn keep_reserve(&mut self, len: u64) -> Result<(), Error> {
        self.reserve = Some(Reserve::new(len, self.end));
        self.make_room(0)
    }

    /// Sets whether a checkpoint is being written, which may use the reserved space.
    pub(super) fn in_checkpoint(&mut self, is: bool) {
        self.in_checkpoint = is;
    }

    /// Returns whether there was no space left.
    pub(super) fn is_full(&self) -> bool {
        self.reserve.as_ref().is_some_and(Reserve::is_full)
    }

    /// Releases the reserved space.
    pub(super) fn release_reserve(&mut self) {
        if self.reserve.take().is_some() {
            // If this fails, only disk space is wasted.
            let _ = self.store.cut(self.end);
        }
    }

    /// Stops all writing, because the file is inconsistent.
    pub(super) fn stop_writing(&mut self) {
        self.broken = true;
    }

    /// Truncates the file at the offset of the next record.
    pub(super) fn cut(&mut self) -> Result<(), Error> {
        let end = self.end;
        self.store.cut(end).map_err(|e| self.io_error("cannot truncate the image", e))
    }

    /// Writes a superblock to its slot and syncs the file: from here on, the records before it are committed.
    pub(super) fn commit(&mut self, superblock: &Superblock) -> Result<(), Error> {
        let slot = SUPERBLOCK_AT[(superblock.generation.get() % 2) as usize];
        self.store
            .write_all_at(superblock.as_bytes(), slot)
            .map_err(|e| self.io_error("cannot write the superblock", e))?;
        self.uncommitted = 0;
        self.sync()
    }

    fn make_room(&mut self, more: usize) -> Result<(), Error> {
        let Some(reserve) = self.reserve.as_mut().filter(|_| !self.in_checkpoint) else { return Ok(()) };
        let written = self.end - self.buffer.len() as u64;
        let made = reserve.make_room(&mut *self.store, written, self.end + more as u64);
        made.map_err(|e| self.io_error("cannot allocate space for the image", e))
    }

    /// Appends a record, with its payload compressed if that makes it smaller.
    pub(super) fn append_compressed(
        &mut self,
        kind: RecordType,
        disk: Range<u64>,
        payload: &[u8],
    ) -> Result<(), Error> {
        let uncompressed = u32::try_from(payload.len()).ok().filter(|len| *len <= MAX_PAYLOAD);
        let uncompressed = uncompressed
            .ok_or_else(|| Error::failed(format!("the {kind:?} record is too long")).at(&self.path))?;
        let compressed = Compressor::new(Codec::Zstd, Codec::Zstd.levels().1)
            .and_then(|mut compressor| compressor.compress(payload))
            .map_err(|e| Error::failed("zstd compression failed").because(e))?;
        let (codec, stored) =
            compressed.as_ref().map_or((Codec::Stored, payload), |(codec, bytes)| (*codec, &bytes[..]));
        let head = Head {
            kind,
            codec,
            uncompressed,
            disk_at: disk.start,
            disk_len: disk.end - disk.start,
            detail: 0,
        };
        self.append(ENTRY_UNREAD, head, stored).map(|_| ())
    }

    /// Appends a record and returns the entry of `entry_kind` that refers to its payload.
    pub(super) fn append(&mut self, entry_kind: u8, head: Head, payload: &[u8]) -> Result<RawEntry, Error> {
        if self.broken {
            return Err(Error::failed("cannot write to the image after a failed sync").at(&self.path));
        }
        self.make_room(HEADER_LEN + payload.len() + index(RECORD_ALIGN))?;
        let header = encode(head, self.salt, self.epoch, payload);
        let codec = if entry_kind == ENTRY_DATA { head.codec as u8 } else { 0 };
        let entry = RawEntry::payload(
            entry_kind,
            codec,
            self.end + HEADER_LEN as u64,
            header.stored.get(),
            header.payload_sum.get(),
        );
        self.uncommitted += 1;
        self.buffer.extend_from_slice(header.as_bytes());
        self.buffer.extend_from_slice(payload);
        let next = header.next(self.end);
        let padding = next - self.end - (HEADER_LEN + payload.len()) as u64;
        self.buffer.resize(self.buffer.len() + index(padding), 0);
        self.end = next;
        if self.buffer.len() >= BUFFER {
            self.write_out()?;
        }
        Ok(entry)
    }

    /// Writes the buffer to the file. Only a checkpoint makes the data safe against a system crash.
    pub(super) fn write_out(&mut self) -> Result<(), Error> {
        let at = self.end - self.buffer.len() as u64;
        if at > RECORDS_AT && self.store.file_len().is_ok_and(|len| len < at) {
            self.broken = true;
            let what = "truncated by another program while it was being written";
            return Err(Error::failed(what).at(&self.path).hint(Advice::Repair));
        }
        if let Err(e) = self.store.write_all_at(&self.buffer, at) {
            if let Some(reserve) = &mut self.reserve {
                reserve.note(&e);
            }
            return Err(self.io_error("cannot write the image", e));
        }
        self.buffer.clear();
        self.written.set(self.end);
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<(), Error> {
        self.store.sync().map_err(|e| {
            self.broken = true;
            self.io_error("cannot sync the image to disk; the data written last may be lost", e)
        })
    }

    fn io_error(&self, what: &str, e: io::Error) -> Error {
        Error::io(what, &self.path, e)
    }
}

/// Converts a length that is known to be small.
pub(super) fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
