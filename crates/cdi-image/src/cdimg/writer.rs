//! Writing a `.cdimg`: records appended in order, checkpoints that make them count.
//!
//! Whatever stops the program, the file is an image: what the last checkpoint committed is there, and most of what
//! came after it. A sync that fails is the end of the writer, for nobody can say what is on the disk then.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use cdi_base::error::{Error, ReadError};
use cdi_base::units::index;
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U32, U64};

use super::index::{Geometry, Index};
use super::layout::*;
use super::record::{Head, encode};
use super::reserve::Reserve;
pub use super::store::Store;
use super::store::Written;
use super::superblock::geometry;
use crate::badmap::builder::ChangingMap;
use crate::badmap::{BadBlocks, BadRange, MOST_RANGES, Status};
use crate::codec::{Codec, Packer};
use crate::facts::Facts;

/// What a new image is to be.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// The sizes of the disk and of its chunks.
    pub geometry: Geometry,
    /// The logical sector size in bytes.
    pub logical_sector: u32,
    /// The physical sector size in bytes.
    pub physical_sector: u32,
    /// 16 random bytes that name the image.
    pub uuid: [u8; 16],
    /// A random number, not 0, that stands in every record.
    pub salt: u64,
}

/// How much memory may hold what has changed in the index before there is a checkpoint. A reader of an unfinished
/// image takes in what came after the last one, and allows twice as much.
pub const MOST_HELD: usize = 24 << 20;
/// So many records may come after a checkpoint before there is another one.
pub const MOST_UNCOMMITTED: usize = 1 << 20;
/// How much is gathered before it is written.
const BUFFER: usize = 1 << 20;

/// An image that is being made.
pub struct Writer {
    pub(super) store: Box<dyn Store>,
    pub(super) path: PathBuf,
    pub(super) superblock: Superblock,
    pub(super) index: Index,
    pub(super) bad: ChangingMap,
    /// The sum of the map as it is in the file, if there is one.
    pub(super) map_written: Option<u128>,
    pub(super) facts: Facts,
    pub(super) facts_written: Option<Facts>,
    /// Events that are not in the file yet: lines of JSON.
    pub(super) events: String,
    /// How many events were only counted.
    pub(super) events_dropped: u64,
    /// Records since the last checkpoint, and how many of them are MAP records.
    pub(super) uncommitted: usize,
    pub(super) uncommitted_maps: usize,
    /// Where the next record begins.
    pub(super) end: u64,
    /// What is not in the file yet; it ends at `end`.
    pub(super) buffer: Vec<u8>,
    /// Set when a sync has failed: nothing more is written.
    pub(super) broken: bool,
    /// What is kept free for the last checkpoint.
    pub(super) reserve: Option<Reserve>,
    /// The hashes of an image that is gone on with, as they were.
    pub(super) earlier_hashes: Option<(String, String)>,
    /// Whether a checkpoint is being written.
    pub(super) in_checkpoint: bool,
}

impl Writer {
    /// Begins a new image in `store`, which is empty, with everything non-tried. `path` is for messages.
    pub fn create(store: Box<dyn Store>, path: &Path, new: &NewImage, facts: Facts) -> Result<Writer, Error> {
        let size = new.geometry.disk_size;
        if ![new.logical_sector, new.physical_sector].into_iter().all(is_sector_size) {
            let what = format!("a disk with sectors of {} bytes cannot be imaged", new.logical_sector);
            return Err(Error::failed(what).at(path));
        }
        check_facts(&facts).map_err(|e| e.at(path))?;
        let superblock = Superblock {
            magic: MAGIC,
            version: U32::new(VERSION),
            state: STATE_ACQUIRING,
            uuid: new.uuid,
            salt: U64::new(new.salt),
            disk_size: U64::new(size),
            chunk_size: U32::new(new.geometry.chunk_size),
            logical_sector: U32::new(new.logical_sector),
            physical_sector: U32::new(new.physical_sector),
            epoch: U32::new(1),
            root: RawEntry::UNREAD,
            ..blank_superblock()
        };
        let mut writer = Writer::of(store, path, superblock, facts);
        writer.bad.set(BadRange::new(0..size, Status::NonTried));
        // The first checkpoint goes to slot 1; slot 0 gets the same, so that both are sound from the start.
        writer.checkpoint()?;
        writer.checkpoint()?;
        Ok(writer)
    }

    /// A writer that has not written anything yet behind what `superblock` speaks of.
    pub(super) fn of(store: Box<dyn Store>, path: &Path, superblock: Superblock, facts: Facts) -> Writer {
        Writer {
            store,
            path: path.to_owned(),
            superblock,
            index: Index::new(geometry(&superblock), superblock.root),
            bad: ChangingMap::default(),
            map_written: None,
            facts,
            facts_written: None,
            events: String::new(),
            events_dropped: 0,
            uncommitted: 0,
            uncommitted_maps: 0,
            end: RECORDS_AT,
            buffer: Vec::new(),
            broken: false,
            reserve: None,
            in_checkpoint: false,
            earlier_hashes: None,
        }
    }

    /// Where the next record begins: the length of the file so far, in bytes.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The map as it is now.
    pub fn bad(&mut self) -> &BadBlocks {
        self.bad.settle()
    }

    /// The sizes of the disk and its chunks.
    pub fn geometry(&self) -> Geometry {
        self.index.geometry()
    }

    /// The logical and the physical sector size, in bytes.
    pub fn sectors(&self) -> (u32, u32) {
        (self.superblock.logical_sector.get(), self.superblock.physical_sector.get())
    }

    /// The facts as they are now.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The hashes (BLAKE3, SHA-256) that the image had before it was gone on with. They hold as long as no bytes come.
    pub fn earlier_hashes(&self) -> Option<(String, String)> {
        self.earlier_hashes.clone()
    }

    /// Says what is known about the disk from now on. It is written at the next checkpoint.
    pub fn set_facts(&mut self, facts: Facts) {
        self.facts = facts;
    }

    /// Makes the disk longer, while it is not known how long it is: to `size` bytes. It must end on a chunk's border so far.
    /// What is new is non-tried.
    pub fn grow(&mut self, size: u64) -> Result<(), Error> {
        let before = self.superblock.disk_size.get();
        let Writer { index, store, end, .. } = self;
        let grown = index.grow(&Written::new(&**store, *end), size);
        grown.map_err(|e| self.index_error(e))?;
        self.superblock.disk_size = U64::new(size);
        self.facts.size_bytes = size;
        self.set_status(BadRange::new(before..size, Status::NonTried))
    }

    /// Adds the run of `len` bytes of the disk from `start` on, within one chunk, packed as `packed`. It becomes
    /// finished. Gives the entry by which [`Writer::put_same`] can name these bytes.
    pub fn put_data(&mut self, start: u64, len: u32, codec: Codec, packed: &[u8]) -> Result<RawEntry, Error> {
        let head = Head {
            kind: RecordType::Data,
            codec,
            unpacked: len,
            disk_at: start,
            disk_len: len.into(),
            detail: 0,
        };
        let entry = self.append(ENTRY_DATA, head, packed)?;
        self.set(start, len, entry)?;
        Ok(entry)
    }

    /// Says that a run of the disk is the same as the bytes that `entry` names.
    pub fn put_same(&mut self, start: u64, len: u32, entry: RawEntry) -> Result<(), Error> {
        let head = Head {
            kind: RecordType::Same,
            codec: Codec::Stored,
            unpacked: len32(ENTRY_LEN),
            disk_at: start,
            disk_len: len.into(),
            detail: 0,
        };
        self.append(ENTRY_UNREAD, head, entry.as_bytes())?;
        self.set(start, len, entry)
    }

    fn set(&mut self, start: u64, len: u32, entry: RawEntry) -> Result<(), Error> {
        self.bad.finish(start..start + u64::from(len));
        let Writer { index, store, end, .. } = self;
        let set = index.set_data(&Written::new(&**store, *end), start, len, entry);
        set.map_err(|e| self.index_error(e))?;
        self.checkpoint_if_much()
    }

    /// Says that a run of the disk is `pattern` over and over. It becomes finished.
    pub fn put_fill(&mut self, range: Range<u64>, pattern: [u8; 8]) -> Result<(), Error> {
        let head = Head {
            kind: RecordType::Fill,
            codec: Codec::Stored,
            unpacked: 8,
            disk_at: range.start,
            disk_len: range.end - range.start,
            detail: 0,
        };
        self.append(ENTRY_UNREAD, head, &pattern)?;
        self.bad.finish(range.clone());
        let Writer { index, store, end, .. } = self;
        let set = index.set_fill(&Written::new(&**store, *end), range, pattern);
        set.map_err(|e| self.index_error(e))?;
        self.checkpoint_if_much()
    }

    /// Says what is known of a range that is not, or not only, finished. It is written at the next checkpoint.
    pub fn set_status(&mut self, what: BadRange) -> Result<(), Error> {
        self.bad.set(what);
        self.check_map()
    }

    /// Says of `range` what `map` says of it: which parts are not, or not only, finished.
    pub fn copy_map(&mut self, map: &BadBlocks, range: Range<u64>) -> Result<(), Error> {
        for r in map.touching(range.clone()) {
            self.set_status(r.cut(r.start.max(range.start)..r.end.min(range.end)))?;
        }
        Ok(())
    }

    /// Says that of `range` exactly `ranges` are not finished. It is written at the next checkpoint.
    pub fn replace_map(&mut self, range: Range<u64>, ranges: &[BadRange]) -> Result<(), Error> {
        self.bad.replace(range, ranges);
        self.check_map()
    }

    fn check_map(&mut self) -> Result<(), Error> {
        if self.bad.is_longer_than(MOST_RANGES) {
            let what =
                format!("the bad-block map has more than {MOST_RANGES} ranges, more than a .cdimg can hold");
            return Err(Error::failed(what).at(&self.path));
        }
        Ok(())
    }

    /// Appends a record whose payload is packed if that makes it smaller.
    pub(super) fn append_packed(
        &mut self,
        kind: RecordType,
        disk: Range<u64>,
        payload: &[u8],
    ) -> Result<(), Error> {
        let unpacked = u32::try_from(payload.len()).ok().filter(|len| *len <= LONGEST_PAYLOAD);
        let unpacked = unpacked
            .ok_or_else(|| Error::failed(format!("a {kind:?} record would be too long")).at(&self.path))?;
        let packed = Packer::new(Codec::Zstd, Codec::Zstd.levels().1)
            .and_then(|mut packer| packer.pack(payload))
            .map_err(|e| Error::failed("zstd does not work").because(e))?;
        let (codec, stored) =
            packed.as_ref().map_or((Codec::Stored, payload), |(codec, bytes)| (*codec, &bytes[..]));
        let head =
            Head { kind, codec, unpacked, disk_at: disk.start, disk_len: disk.end - disk.start, detail: 0 };
        self.append(ENTRY_UNREAD, head, stored).map(|_| ())
    }

    /// Appends a record and gives the entry of `entry_kind` that names its payload.
    pub(super) fn append(&mut self, entry_kind: u8, head: Head, payload: &[u8]) -> Result<RawEntry, Error> {
        if self.broken {
            return Err(Error::failed("nothing more can be written after a failed sync").at(&self.path));
        }
        self.make_room(HEADER_LEN + payload.len() + index(RECORD_ALIGN))?;
        let header = encode(head, self.superblock.salt.get(), self.superblock.epoch.get(), payload);
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
    pub fn write_out(&mut self) -> Result<(), Error> {
        let at = self.end - self.buffer.len() as u64;
        if at > RECORDS_AT && self.store.file_len().is_ok_and(|len| len < at) {
            self.broken = true;
            let what = "was cut off by another program while it was written";
            return Err(Error::failed(what).at(&self.path).hint("'cdi repair' saves what is left of it"));
        }
        if let Err(e) = self.store.write_all_at(&self.buffer, at) {
            self.note_if_full(&e);
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

    pub(super) fn io_error(&self, what: &str, e: io::Error) -> Error {
        Error::io(what, &self.path, e)
    }

    fn index_error(&self, e: ReadError) -> Error {
        Error::failed("the index cannot be read back").at(&self.path).because(e)
    }
}

/// An error if there is more to say about a disk than an image may hold, with some room for what is found out later.
pub fn check_facts(facts: &Facts) -> Result<(), Error> {
    const ROOM: usize = 4096;
    let len = serde_json::to_vec(facts).map_or(usize::MAX, |json| json.len());
    if len > MOST_FACTS as usize - ROOM {
        let what =
            format!("what is to be said about the disk has {len} bytes, and an image holds {MOST_FACTS}");
        return Err(Error::usage(what).hint("shorten the notes"));
    }
    Ok(())
}

/// The length of something that is known to be short.
pub(super) fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
