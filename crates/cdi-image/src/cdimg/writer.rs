//! Writing a `.cdimg`: records appended in order, checkpoints that make them count.
//!
//! Whatever stops the program, the file is an image: what the last checkpoint committed is there, and most of what
//! came after it. A sync that fails is the end of the writer, for nobody can say what is on the disk then.

mod checkpoint;
mod resume;

use std::ops::Range;
use std::path::Path;

use cdi_base::error::{Error, ReadError};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U32, U64};

use super::append::{Appender, len32};
use super::index::{Geometry, Index};
use super::layout::*;
use super::record::Head;
pub use super::store::Store;
use super::superblock::geometry;
use crate::badmap::builder::BadMapBuilder;
use crate::badmap::{BadBlocks, BadRange, MAX_RANGES, Status};
use crate::codec::Codec;
use crate::metadata::{DiskHashes, Metadata};

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
pub const MAX_HELD: usize = 24 << 20;
/// So many records may come after a checkpoint before there is another one.
pub const MAX_UNCOMMITTED: usize = 1 << 20;
/// An image that is being made.
pub struct Writer {
    out: Appender,
    superblock: Superblock,
    index: Index,
    bad: BadMapBuilder,
    /// The sum of the map as it is in the file, if there is one.
    map_written: Option<u128>,
    metadata: Metadata,
    metadata_written: Option<Metadata>,
    /// Events that are not in the file yet: lines of JSON.
    events: String,
    /// How many events were only counted.
    events_dropped: u64,
    /// How many MAP records came since the last checkpoint.
    uncommitted_maps: usize,
    /// The hashes of an image that is resumed, as they were.
    earlier_hashes: DiskHashes,
}

impl Writer {
    /// Begins a new image in `store`, which is empty, with everything non-tried. `path` is for messages.
    pub fn create(
        store: Box<dyn Store>,
        path: &Path,
        new: &NewImage,
        metadata: Metadata,
    ) -> Result<Writer, Error> {
        let size = new.geometry.disk_size;
        if ![new.logical_sector, new.physical_sector].into_iter().all(is_sector_size) {
            let what = format!("a disk with sectors of {} bytes cannot be imaged", new.logical_sector);
            return Err(Error::failed(what).at(path));
        }
        check_metadata(&metadata).map_err(|e| e.at(path))?;
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
        let mut writer = Writer::of(store, path, superblock, metadata, RECORDS_AT);
        writer.bad.set(BadRange::new(0..size, Status::NonTried));
        // The first checkpoint goes to slot 1; slot 0 gets the same, so that both are sound from the start.
        writer.checkpoint()?;
        writer.checkpoint()?;
        Ok(writer)
    }

    /// A writer that appends to `store` from `end` on, and has not written anything yet.
    fn of(
        store: Box<dyn Store>,
        path: &Path,
        superblock: Superblock,
        metadata: Metadata,
        end: u64,
    ) -> Writer {
        Writer {
            out: Appender::new(store, path, &superblock, end),
            index: Index::new(geometry(&superblock), superblock.root),
            superblock,
            bad: BadMapBuilder::default(),
            map_written: None,
            metadata,
            metadata_written: None,
            events: String::new(),
            events_dropped: 0,
            uncommitted_maps: 0,
            earlier_hashes: DiskHashes::default(),
        }
    }

    /// Where the next record begins: the length of the file so far, in bytes.
    pub fn end(&self) -> u64 {
        self.out.end()
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

    /// The metadata as they are now.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The hashes that the image had before it was gone on with. They hold as long as no bytes come.
    pub fn earlier_hashes(&self) -> &DiskHashes {
        &self.earlier_hashes
    }

    /// Says what is known about the disk from now on. It is written at the next checkpoint.
    pub fn set_metadata(&mut self, metadata: Metadata) {
        self.metadata = metadata;
    }

    /// Makes the disk longer, while it is not known how long it is: to `size` bytes. It must end on a chunk's border so far.
    /// What is new is non-tried.
    pub fn grow(&mut self, size: u64) -> Result<(), Error> {
        let before = self.superblock.disk_size.get();
        let grown = self.index.grow(&self.out.nodes(), size);
        grown.map_err(|e| self.index_error(e))?;
        self.superblock.disk_size = U64::new(size);
        self.metadata.size_bytes = size;
        self.set_status(BadRange::new(before..size, Status::NonTried))
    }

    /// Adds the run of `len` bytes of the disk from `start` on, within one chunk, compressed as `compressed`. It becomes
    /// finished. Gives the entry by which [`Writer::put_same`] can name these bytes.
    pub fn put_data(
        &mut self,
        start: u64,
        len: u32,
        codec: Codec,
        compressed: &[u8],
    ) -> Result<RawEntry, Error> {
        let head = Head {
            kind: RecordType::Data,
            codec,
            uncompressed: len,
            disk_at: start,
            disk_len: len.into(),
            detail: 0,
        };
        let entry = self.out.append(ENTRY_DATA, head, compressed)?;
        self.set(start, len, entry)?;
        Ok(entry)
    }

    /// Says that a run of the disk is the same as the bytes that `entry` names.
    pub fn put_same(&mut self, start: u64, len: u32, entry: RawEntry) -> Result<(), Error> {
        let head = Head {
            kind: RecordType::Same,
            codec: Codec::Stored,
            uncompressed: len32(ENTRY_LEN),
            disk_at: start,
            disk_len: len.into(),
            detail: 0,
        };
        self.out.append(ENTRY_UNREAD, head, entry.as_bytes())?;
        self.set(start, len, entry)
    }

    fn set(&mut self, start: u64, len: u32, entry: RawEntry) -> Result<(), Error> {
        self.bad.finish(start..start + u64::from(len));
        let set = self.index.set_data(&self.out.nodes(), start, len, entry);
        set.map_err(|e| self.index_error(e))?;
        self.checkpoint_if_much()
    }

    /// Says that a run of the disk is `pattern` over and over. It becomes finished.
    pub fn put_fill(&mut self, range: Range<u64>, pattern: [u8; 8]) -> Result<(), Error> {
        let head = Head {
            kind: RecordType::Fill,
            codec: Codec::Stored,
            uncompressed: 8,
            disk_at: range.start,
            disk_len: range.end - range.start,
            detail: 0,
        };
        self.out.append(ENTRY_UNREAD, head, &pattern)?;
        self.bad.finish(range.clone());
        let set = self.index.set_fill(&self.out.nodes(), range, pattern);
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
        if self.bad.is_longer_than(MAX_RANGES) {
            let what =
                format!("the bad-block map has more than {MAX_RANGES} ranges, more than a .cdimg can hold");
            return Err(Error::failed(what).at(self.out.path()));
        }
        Ok(())
    }

    /// Gives what was gathered to the file. Only a checkpoint makes it count after a crash of the system.
    pub fn write_out(&mut self) -> Result<(), Error> {
        self.out.write_out()
    }

    /// Keeps room for a checkpoint from now on: when the disk is full, [`Writer::is_full`] says so, and one checkpoint
    /// more can be made.
    pub fn keep_reserve(&mut self) -> Result<(), Error> {
        // What a checkpoint takes at most: the nodes that may have changed, and a long map.
        const MAX: u64 = 64 << 20;
        let nodes = self.index.geometry().chunks().saturating_mul(2 * ENTRY_LEN as u64);
        self.out.keep_reserve(nodes.saturating_add(256 << 10).min(MAX))
    }

    /// Whether the last error was that there is no more room for the image.
    pub fn is_full(&self) -> bool {
        self.out.is_full()
    }

    fn index_error(&self, e: ReadError) -> Error {
        Error::failed("the index cannot be read back").at(self.out.path()).because(e)
    }
}

/// An error if there is more to say about a disk than an image may hold, with some room for what is found out later.
pub fn check_metadata(metadata: &Metadata) -> Result<(), Error> {
    const ROOM: usize = 4096;
    let len = serde_json::to_vec(metadata).map_or(usize::MAX, |json| json.len());
    if len > MAX_METADATA as usize - ROOM {
        let what =
            format!("what is to be said about the disk has {len} bytes, and an image holds {MAX_METADATA}");
        return Err(Error::usage(what).hint("shorten the notes"));
    }
    Ok(())
}
