//! Appends records to the file: gathered, written in order, with room kept for the last checkpoint.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use cdi_base::advice::Advice;
use cdi_base::error::Error;
use cdi_base::units::index;
use zerocopy::IntoBytes;

use super::layout::*;
use super::record::{Head, encode};
use super::reserve::Reserve;
use super::store::{Store, Written};
use crate::codec::{Codec, Compressor};

/// How much is gathered before it is written.
const BUFFER: usize = 1 << 20;

/// The end of an image's file, where records are added.
pub(super) struct Appender {
    store: Box<dyn Store>,
    path: PathBuf,
    salt: u64,
    epoch: u32,
    /// Records since the last checkpoint.
    uncommitted: usize,
    /// Where the next record begins.
    end: u64,
    /// What is not in the file yet; it ends at `end`.
    buffer: Vec<u8>,
    /// Set when a sync has failed: nothing more is written.
    broken: bool,
    /// What is kept free for the last checkpoint.
    reserve: Option<Reserve>,
    in_checkpoint: bool,
}

impl Appender {
    /// Appends to `store` from `end` on, records with the salt and epoch of `superblock`. `path` is for messages.
    pub(super) fn new(store: Box<dyn Store>, path: &Path, superblock: &Superblock, end: u64) -> Appender {
        Appender {
            store,
            path: path.to_owned(),
            salt: superblock.salt.get(),
            epoch: superblock.epoch.get(),
            uncommitted: 0,
            end,
            buffer: Vec::new(),
            broken: false,
            reserve: None,
            in_checkpoint: false,
        }
    }

    /// The path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the next record begins.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// How many records were appended since the last checkpoint.
    pub(super) fn uncommitted(&self) -> usize {
        self.uncommitted
    }

    /// The nodes that are in the file.
    pub(super) fn nodes(&self) -> Written<'_> {
        Written::new(&*self.store, self.end)
    }

    /// Keeps `len` bytes free from now on, behind the records.
    pub(super) fn keep_reserve(&mut self, len: u64) -> Result<(), Error> {
        self.reserve = Some(Reserve::new(len, self.end));
        self.make_room(0)
    }

    /// Says whether a checkpoint is written: it is what the room is kept for, and takes it.
    pub(super) fn in_checkpoint(&mut self, is: bool) {
        self.in_checkpoint = is;
    }

    /// Whether the last error was that there is no more room.
    pub(super) fn is_full(&self) -> bool {
        self.reserve.as_ref().is_some_and(Reserve::is_full)
    }

    /// Gives back the room that was kept.
    pub(super) fn give_back(&mut self) {
        if self.reserve.take().is_some() {
            // That it cannot be given back is nobody's loss but of room.
            let _ = self.store.cut(self.end);
        }
    }

    /// Nothing more is written: what is in the file does not fit together.
    pub(super) fn break_off(&mut self) {
        self.broken = true;
    }

    /// Cuts the file off where the next record begins.
    pub(super) fn cut(&mut self) -> Result<(), Error> {
        let end = self.end;
        self.store.cut(end).map_err(|e| self.io_error("the image cannot be cut off", e))
    }

    /// Puts a superblock into its slot, and everything on the disk: from here on the records before it count.
    pub(super) fn commit(&mut self, superblock: &Superblock) -> Result<(), Error> {
        let slot = SUPERBLOCK_AT[(superblock.generation.get() % 2) as usize];
        self.store
            .write_all_at(superblock.as_bytes(), slot)
            .map_err(|e| self.io_error("the superblock cannot be written", e))?;
        self.uncommitted = 0;
        self.sync()
    }

    fn make_room(&mut self, more: usize) -> Result<(), Error> {
        let Some(reserve) = self.reserve.as_mut().filter(|_| !self.in_checkpoint) else { return Ok(()) };
        let written = self.end - self.buffer.len() as u64;
        let made = reserve.make_room(&mut *self.store, written, self.end + more as u64);
        made.map_err(|e| self.io_error("there is no more room for the image", e))
    }

    /// Appends a record whose payload is compressed if that makes it smaller.
    pub(super) fn append_compressed(
        &mut self,
        kind: RecordType,
        disk: Range<u64>,
        payload: &[u8],
    ) -> Result<(), Error> {
        let uncompressed = u32::try_from(payload.len()).ok().filter(|len| *len <= MAX_PAYLOAD);
        let uncompressed = uncompressed
            .ok_or_else(|| Error::failed(format!("a {kind:?} record would be too long")).at(&self.path))?;
        let compressed = Compressor::new(Codec::Zstd, Codec::Zstd.levels().1)
            .and_then(|mut compressor| compressor.compress(payload))
            .map_err(|e| Error::failed("zstd does not work").because(e))?;
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

    /// Appends a record and gives the entry of `entry_kind` that names its payload.
    pub(super) fn append(&mut self, entry_kind: u8, head: Head, payload: &[u8]) -> Result<RawEntry, Error> {
        if self.broken {
            return Err(Error::failed("nothing more can be written after a failed sync").at(&self.path));
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

    /// Gives what was gathered to the file. Only a checkpoint makes it count after a crash of the system.
    pub(super) fn write_out(&mut self) -> Result<(), Error> {
        let at = self.end - self.buffer.len() as u64;
        if at > RECORDS_AT && self.store.file_len().is_ok_and(|len| len < at) {
            self.broken = true;
            let what = "was cut off by another program while it was written";
            return Err(Error::failed(what).at(&self.path).hint(Advice::Repair));
        }
        if let Err(e) = self.store.write_all_at(&self.buffer, at) {
            if let Some(reserve) = &mut self.reserve {
                reserve.note(&e);
            }
            return Err(self.io_error("the image cannot be written", e));
        }
        self.buffer.clear();
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<(), Error> {
        self.store.sync().map_err(|e| {
            self.broken = true;
            self.io_error("the image cannot be synced to the disk; what was written last may be lost", e)
        })
    }

    fn io_error(&self, what: &str, e: io::Error) -> Error {
        Error::io(what, &self.path, e)
    }
}

/// The length of something that is known to be short.
pub(super) fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
