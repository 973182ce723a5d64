//! Writes a `.cdimg`: records are appended in order, and checkpoints commit them.
//!
//! However the program is stopped, the file is a valid image: it contains everything up to the last checkpoint, and
//! most of the data after it. After a failed sync the writer stops, because it is unknown what is on the disk then.

mod checkpoint;
mod resume;

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use cdi_base::error::{Error, ReadError};
use cdi_base::workers::lock;
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U32, U64};

use super::append::{Appender, len32};
use super::chain::Chain;
use super::index::{Geometry, Index};
use super::layout::*;
use super::live::LiveImage;
use super::parity::layout::Description;
use super::reader::FORMAT;
use super::record::Head;
pub use super::store::Store;
use super::superblock::geometry;
use super::written_end::GrowingFile;
use crate::badmap::builder::BadMapBuilder;
use crate::badmap::{BadBlocks, BadRange, MAX_RANGES, Status};
use crate::codec::Codec;
use crate::image::Opened;
use crate::input::{Input, ReadAt};
use crate::metadata::{DiskHashes, Metadata};

/// The parameters of a new image.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// The sizes of the disk and of its chunks.
    pub geometry: Geometry,
    /// The logical sector size in bytes.
    pub logical_sector: u32,
    /// The physical sector size in bytes.
    pub physical_sector: u32,
    /// 16 random bytes that identify the image.
    pub uuid: [u8; 16],
    /// A random number, not 0, that is contained in every record.
    pub salt: u64,
}

/// The maximum memory for changed index nodes before a checkpoint is made, in bytes. A reader of an unfinished image
/// replays the records after the last checkpoint, and allows twice as much.
pub const MAX_DIRTY_BYTES: usize = 24 << 20;
/// The maximum number of records after a checkpoint before another one is made.
pub const MAX_UNCOMMITTED: usize = 1 << 20;

/// An image that is being made.
pub struct Writer {
    out: Appender,
    superblock: Superblock,
    /// Shared with those who read the image while it is being made.
    index: Arc<Mutex<Index>>,
    bad: BadMapBuilder,
    /// The checksum of the map in the file, if there is one.
    map_written: Option<u128>,
    metadata: Metadata,
    metadata_written: Option<Metadata>,
    /// The chain over the events in the file. None if the log cannot be read that is continued.
    chain: Option<Chain>,
    /// Events that are not in the file yet, as lines of JSON.
    events: String,
    /// The number of events that were dropped.
    events_dropped: u64,
    /// The number of MAP records since the last checkpoint.
    uncommitted_maps: usize,
    /// The parity that a resumed image has, for which each checkpoint says where it is.
    parity: Option<Description>,
    /// The hashes that a resumed image had before.
    earlier_hashes: DiskHashes,
}

impl Writer {
    /// Creates a new image in `store`, which must be empty, with everything non-tried. `path` is for messages.
    pub fn create(
        store: Box<dyn Store>,
        path: &Path,
        new: &NewImage,
        metadata: Metadata,
    ) -> Result<Writer, Error> {
        let size = new.geometry.disk_size;
        if ![new.logical_sector, new.physical_sector].into_iter().all(is_sector_size) {
            let what = format!("unsupported sector size: {} bytes", new.logical_sector);
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
        // The first checkpoint goes to slot 1; a second one fills slot 0, so that both are valid from the start.
        writer.checkpoint()?;
        writer.checkpoint()?;
        Ok(writer)
    }

    /// Returns a writer that appends to `store` from offset `end` on, and has not written anything yet.
    fn of(
        store: Box<dyn Store>,
        path: &Path,
        superblock: Superblock,
        metadata: Metadata,
        end: u64,
    ) -> Writer {
        Writer {
            out: Appender::new(store, path, &superblock, end),
            index: Arc::new(Mutex::new(Index::new(geometry(&superblock), superblock.root))),
            superblock,
            bad: BadMapBuilder::default(),
            map_written: None,
            metadata,
            metadata_written: None,
            chain: Some(Chain::new(&superblock.uuid)),
            events: String::new(),
            events_dropped: 0,
            uncommitted_maps: 0,
            parity: None,
            earlier_hashes: DiskHashes::default(),
        }
    }

    /// Returns the offset of the next record, which is the length of the file so far, in bytes.
    pub fn end(&self) -> u64 {
        self.out.end()
    }

    /// Returns the current bad-block map.
    pub fn bad(&mut self) -> &BadBlocks {
        self.bad.settle()
    }

    /// Returns the sizes of the disk and its chunks.
    pub fn geometry(&self) -> Geometry {
        lock(&self.index).geometry()
    }

    /// Returns the logical and the physical sector size, in bytes.
    pub fn sectors(&self) -> (u32, u32) {
        (self.superblock.logical_sector.get(), self.superblock.physical_sector.get())
    }

    /// Returns the current metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Returns the hashes that the image had before it was resumed. They are valid as long as no data is added.
    pub fn earlier_hashes(&self) -> &DiskHashes {
        &self.earlier_hashes
    }

    /// Sets the metadata. It is written at the next checkpoint.
    pub fn set_metadata(&mut self, metadata: Metadata) {
        self.metadata = metadata;
    }

    /// Grows the disk to `size` bytes, for a source of unknown size. The old end must be on a chunk boundary. The new
    /// part is non-tried.
    pub fn grow(&mut self, size: u64) -> Result<(), Error> {
        let before = self.superblock.disk_size.get();
        let grown = lock(&self.index).grow(&self.out.nodes(), size);
        grown.map_err(|e| self.index_error(e))?;
        self.superblock.disk_size = U64::new(size);
        self.metadata.size_bytes = size;
        self.set_status(BadRange::new(before..size, Status::NonTried))
    }

    /// Adds the run of `len` bytes of the disk from `start` on, within one chunk, with the compressed data
    /// `compressed`, and marks it as finished. Returns the entry by which [`Writer::put_same`] can refer to this data.
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
        if codec == Codec::Lz4 {
            self.say_that_lz4_is_used()?;
        }
        let entry = self.out.append(ENTRY_DATA, head, compressed)?;
        self.set(start, len, entry)?;
        Ok(entry)
    }

    /// Commits a superblock that says that readers need LZ4, unless there is one: before the first chunk that does.
    fn say_that_lz4_is_used(&mut self) -> Result<(), Error> {
        if self.superblock.must_understand.get() & HAS_LZ4 != 0 {
            return Ok(());
        }
        self.superblock.must_understand |= U64::new(HAS_LZ4);
        self.checkpoint()
    }

    /// Adds a run of the disk with the same data as `entry` refers to, and marks it as finished.
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
        let set = lock(&self.index).set_data(&self.out.nodes(), start, len, entry);
        set.map_err(|e| self.index_error(e))?;
        self.checkpoint_if_due()
    }

    /// Adds a run of the disk that consists of `pattern` repeated, and marks it as finished.
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
        let set = lock(&self.index).set_fill(&self.out.nodes(), range, pattern);
        set.map_err(|e| self.index_error(e))?;
        self.checkpoint_if_due()
    }

    /// Sets the status of a range in the map, which is written at the next checkpoint.
    pub fn set_status(&mut self, what: BadRange) -> Result<(), Error> {
        self.bad.set(what);
        self.check_map()
    }

    /// Sets the statuses of the ranges that `map` lists within `range`.
    pub fn copy_map(&mut self, map: &BadBlocks, range: Range<u64>) -> Result<(), Error> {
        for r in map.touching(range.clone()) {
            self.set_status(r.cut(r.start.max(range.start)..r.end.min(range.end)))?;
        }
        Ok(())
    }

    /// Replaces the map within `range`: exactly `ranges` are not finished there. The map is written at the next
    /// checkpoint.
    pub fn replace_map(&mut self, range: Range<u64>, ranges: &[BadRange]) -> Result<(), Error> {
        self.bad.replace(range, ranges);
        self.check_map()
    }

    fn check_map(&mut self) -> Result<(), Error> {
        if self.bad.is_longer_than(MAX_RANGES) {
            let what =
                format!("the bad-block map has more than {MAX_RANGES} ranges, the maximum for a .cdimg file");
            return Err(Error::failed(what).at(self.out.path()));
        }
        Ok(())
    }

    /// Returns the image as it is at any time while this writer makes it. `file` reads the file that is written. Only data
    /// can be read: the image lists no bad sectors, and everything that was not read is unmapped.
    pub fn live(&self, file: Box<dyn ReadAt>) -> Result<Opened, Error> {
        let path = self.out.path();
        let input = Arc::new(Input::new(
            Box::new(GrowingFile { file, written: Arc::clone(self.out.written()) }),
            path,
        )?);
        let image = LiveImage::new(&self.index, &input, self.geometry().disk_size, self.metadata.clone());
        Ok(Opened { image: Box::new(image), input, format: &FORMAT })
    }

    /// Writes buffered records to the file. Only a checkpoint makes them safe against a system crash.
    pub fn write_out(&mut self) -> Result<(), Error> {
        self.out.write_out()
    }

    /// Reserves space for a checkpoint from now on: when the disk is full, [`Writer::is_full`] returns true, and one
    /// more checkpoint can be made.
    pub fn keep_reserve(&mut self) -> Result<(), Error> {
        // The maximum size of a checkpoint: the nodes that may have changed, and a long map.
        const MAX: u64 = 64 << 20;
        let nodes = self.geometry().chunks().saturating_mul(2 * ENTRY_LEN as u64);
        self.out.keep_reserve(nodes.saturating_add(256 << 10).min(MAX))
    }

    /// Returns whether there was no space left for the image.
    pub fn is_full(&self) -> bool {
        self.out.is_full()
    }

    fn index_error(&self, e: ReadError) -> Error {
        Error::failed("cannot read back the index").at(self.out.path()).because(e)
    }
}

/// Returns an error if the metadata is larger than an image can hold, with some room for additions made later.
pub fn check_metadata(metadata: &Metadata) -> Result<(), Error> {
    const ROOM: usize = 4096;
    let len = serde_json::to_vec(metadata).map_or(usize::MAX, |json| json.len());
    if len > MAX_METADATA as usize - ROOM {
        let what =
            format!("the metadata is {len} bytes long, but an image can hold only {MAX_METADATA} bytes");
        return Err(Error::usage(what).hint("shorten the notes"));
    }
    Ok(())
}
