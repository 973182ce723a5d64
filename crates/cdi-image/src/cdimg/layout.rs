//! The structures of a `.cdimg` file, version 1. These structs and `docs/FORMAT.md` are the same specification; a test
//! compares the offsets. All numbers are little-endian.

use xxhash_rust::xxh3::xxh3_64;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first eight bytes of a superblock. As in PNG, the high bit and the line ending reveal a copy in text mode.
pub const MAGIC: [u8; 8] = *b"\x89CDIMG\r\n";
/// The first eight bytes of a record.
pub const RECORD_MAGIC: [u8; 8] = *b"\x89CDIrec\n";
/// The version that this program writes, and the newest that it reads.
pub const VERSION: u32 = 1;

/// The offsets of the two superblocks, in bytes. A superblock of generation G is in slot G mod 2.
pub const SUPERBLOCK_AT: [u64; 2] = [0, 64 << 10];
/// The offset of the first record, in bytes.
pub const RECORDS_AT: u64 = 128 << 10;
/// Records begin at multiples of this many bytes.
pub const RECORD_ALIGN: u64 = 8;
/// The maximum uncompressed length of the payload of a METADATA record, in bytes.
pub const MAX_METADATA: u32 = 1 << 20;
/// The maximum number of EVENTS records in an image.
pub const MAX_EVENTS_RECORDS: usize = 1 << 22;
/// The maximum length of a record's payload, as stored or uncompressed, in bytes. (Chunks are at most [`MAX_CHUNK_SIZE`].)
pub const MAX_PAYLOAD: u32 = crate::extent::MAX_CHUNK;
/// The smallest chunk, in bytes.
pub const MIN_CHUNK_SIZE: u32 = 4 << 10;
/// The largest chunk, in bytes.
pub const MAX_CHUNK_SIZE: u32 = 1 << 20;
/// The maximum number of entries of a node of the index.
pub const FANOUT: u64 = 512;

/// The superblock: what the file is, and where its index is. 512 bytes, so that a disk writes it as a whole or not at
/// all.
#[derive(Debug, Clone, Copy, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Superblock {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: U32,
    /// [`STATE_ACQUIRING`] or [`STATE_COMPLETE`].
    pub state: u8,
    /// Zero.
    pub zero1: [u8; 3],
    /// Features that a reader must support to read the image correctly. A reader refuses unknown bits:
    /// all but [`HAS_LZ4`].
    pub must_understand: U64,
    /// Features that a reader may ignore: [`HAS_PARITY`].
    pub may_ignore: U64,
    /// The random ID of the image.
    pub uuid: [u8; 16],
    /// Contained in every record of this image and in no other image; random, not 0.
    pub salt: U64,
    /// The number of superblocks written so far; the valid superblock with the highest generation is used.
    pub generation: U64,
    /// The size of the disk in bytes, not 0.
    pub disk_size: U64,
    /// The size of a chunk in bytes: a power of two from [`MIN_CHUNK_SIZE`] to [`MAX_CHUNK_SIZE`].
    pub chunk_size: U32,
    /// The logical sector size of the disk in bytes: a power of two from 512 to 65536.
    pub logical_sector: U32,
    /// The physical sector size of the disk in bytes.
    pub physical_sector: U32,
    /// The epoch of the last records written.
    pub epoch: U32,
    /// The end of the records that this superblock commits, in bytes.
    pub committed_end: U64,
    /// The root of the index.
    pub root: RawEntry,
    /// The offset of the last MAP record, in bytes; 0 if everything is finished.
    pub map_at: U64,
    /// The offset of the last METADATA record, in bytes.
    pub metadata_at: U64,
    /// The offset of the last EVENTS record, in bytes; 0 if there is none.
    pub events_at: U64,
    /// Zero.
    pub zero2: [u8; 360],
    /// XXH3-64 of the preceding 504 bytes.
    pub sum: U64,
}

/// The image is still being written: records may follow the committed end.
pub const STATE_ACQUIRING: u8 = 1;
/// The image is finished.
pub const STATE_COMPLETE: u8 = 2;

/// The bit of `must_understand` that says that chunks may be compressed by LZ4.
pub const HAS_LZ4: u64 = 1;
/// The bit of `may_ignore` that says that the image has PARITY records.
pub const HAS_PARITY: u64 = 1;

/// The header of a record. The payload follows immediately.
#[derive(Debug, Clone, Copy, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RecordHeader {
    /// [`RECORD_MAGIC`].
    pub magic: [u8; 8],
    /// The image's salt.
    pub salt: U64,
    /// The first byte of the disk that the record is about.
    pub disk_at: U64,
    /// The number of bytes of the disk that it is about.
    pub disk_len: U64,
    /// XXH3-64 of the payload as stored.
    pub payload_sum: U64,
    /// The length of the payload as stored, in bytes.
    pub stored: U32,
    /// The uncompressed length of the payload, in bytes.
    pub uncompressed: U32,
    /// The run of the program that wrote it: never decreases from record to record.
    pub epoch: U32,
    /// The type, one of [`RecordType`].
    pub kind: u8,
    /// How the payload is compressed, as a number of [`crate::codec::Codec`].
    pub codec: u8,
    /// For NODE: the level, 0 at the leaves. Otherwise 0.
    pub detail: U16,
    /// XXH3-64 of the preceding 56 bytes.
    pub sum: U64,
}

/// The type of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordType {
    /// Data of the disk: one run within one chunk.
    Data = 1,
    /// A run of the disk that consists of eight repeated bytes; the payload is those eight bytes.
    Fill = 2,
    /// Data of the disk that is identical to that of an earlier record; the payload is a [`RawEntry`].
    Same = 3,
    /// The statuses within a range of the disk.
    Map = 4,
    /// A node of the index.
    Node = 5,
    /// The pieces of one chunk.
    Pieces = 6,
    /// The metadata, as JSON.
    Metadata = 7,
    /// A copy of the superblock that is written after it.
    Checkpoint = 8,
    /// Parity of the file before it. May be ignored.
    Parity = 128,
    /// Events while the image was made, as lines of JSON. May be ignored.
    Events = 130,
}

impl RecordType {
    /// Returns the type with this number.
    pub fn from_number(number: u8) -> Option<RecordType> {
        use RecordType::*;
        [Data, Fill, Same, Map, Node, Pieces, Metadata, Checkpoint, Parity, Events]
            .into_iter()
            .find(|t| *t as u8 == number)
    }
}

/// The first of the types that a reader may skip: parity (128), signature (129), events (130). Types below this number
/// must be supported; encryption will be one of them.
pub const FIRST_IGNORABLE_TYPE: u8 = 128;

/// An entry of the index: the location of a chunk or of a child node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RawEntry {
    /// The offset of the payload in the file, in bytes. For FILL: the eight bytes.
    pub at: U64,
    /// XXH3-64 of the payload as stored; 0 if there is none.
    pub sum: U64,
    /// The length of the payload as stored, in bytes; 0 if there is none.
    pub stored: U32,
    /// One of the `ENTRY_` constants.
    pub kind: u8,
    /// For DATA: how the payload is compressed. Otherwise 0.
    pub codec: u8,
    /// Zero.
    pub zero: U16,
}

/// Nothing is stored for the chunk, or for all chunks below.
pub const ENTRY_UNREAD: u8 = 0;
/// The chunk, or every chunk below, consists of eight repeated bytes.
pub const ENTRY_FILL: u8 = 1;
/// The chunk is one payload.
pub const ENTRY_DATA: u8 = 2;
/// A child node.
pub const ENTRY_NODE: u8 = 3;
/// The chunk consists of pieces.
pub const ENTRY_PIECES: u8 = 4;

impl RawEntry {
    /// Parses `bytes`, which must be exactly one entry.
    pub fn parse(bytes: &[u8]) -> Option<RawEntry> {
        RawEntry::read_from_bytes(bytes).ok()
    }
}

/// A run within a chunk that consists of pieces. Bytes that no piece covers are unread.
#[derive(Debug, Clone, Copy, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RawPiece {
    /// The first byte, counted from the start of the chunk.
    pub start: U32,
    /// The length in bytes.
    pub len: U32,
    /// For DATA: the number of uncompressed bytes of the payload before it.
    pub skip: U32,
    /// For DATA: the uncompressed length of the payload, in bytes.
    pub uncompressed: U32,
    /// The location of its data: DATA or FILL.
    pub entry: RawEntry,
}

/// A range of the disk in a MAP record.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RawRange {
    /// The first byte on the disk.
    pub start: U64,
    /// The length in bytes.
    pub len: U64,
    /// The status, as a number of [`crate::badmap::Status`].
    pub status: u8,
    /// The number of times it was tried; 0 if unknown, 255 for 255 or more.
    pub tries: u8,
    /// The kind of `reason`: [`REASON_NONE`], [`REASON_ERRNO`], [`REASON_SENSE`].
    pub reason_kind: u8,
    /// Zero.
    pub zero: u8,
    /// An errno, or SCSI sense data: key, additional sense code and qualifier in the three lowest bytes, lowest first.
    pub reason: U32,
}

/// No reason is known.
pub const REASON_NONE: u8 = 0;
/// The reason is an errno, in Linux numbering.
pub const REASON_ERRNO: u8 = 1;
/// The reason is SCSI sense data.
pub const REASON_SENSE: u8 = 2;

/// The length of a superblock, in bytes.
pub const SUPERBLOCK_LEN: usize = size_of::<Superblock>();
/// The length of a record's header, in bytes.
pub const HEADER_LEN: usize = size_of::<RecordHeader>();
/// The length of an index entry, in bytes.
pub const ENTRY_LEN: usize = size_of::<RawEntry>();
/// The length of a piece, in bytes.
pub const PIECE_LEN: usize = size_of::<RawPiece>();
/// The length of a range in a MAP record, in bytes.
pub const RANGE_LEN: usize = size_of::<RawRange>();
const _: () = assert!(
    SUPERBLOCK_LEN == 512 && HEADER_LEN == 64 && ENTRY_LEN == 24 && PIECE_LEN == 40 && RANGE_LEN == 24
);

impl Superblock {
    /// Returns the superblock at the start of `bytes`, if it is valid.
    pub fn parse(bytes: &[u8]) -> Option<Superblock> {
        Superblock::read_from_prefix(bytes).ok().map(|(s, _)| s).filter(Superblock::is_valid)
    }

    /// Returns the superblock with its checksum updated.
    pub fn sealed(mut self) -> Superblock {
        self.sum = U64::new(xxh3_64(&self.as_bytes()[..SUPERBLOCK_LEN - 8]));
        self
    }

    /// Returns whether magic number and checksum are correct.
    pub fn is_valid(&self) -> bool {
        self.magic == MAGIC && self.sum.get() == xxh3_64(&self.as_bytes()[..SUPERBLOCK_LEN - 8])
    }
}

impl RecordHeader {
    /// Returns the header with its checksum updated.
    pub fn sealed(mut self) -> RecordHeader {
        self.sum = U64::new(xxh3_64(&self.as_bytes()[..HEADER_LEN - 8]));
        self
    }

    /// Returns whether this is a valid header of the image with this salt: checks magic number, salt, checksum and
    /// lengths.
    pub fn is_valid(&self, salt: u64) -> bool {
        self.magic == RECORD_MAGIC
            && self.salt.get() == salt
            && self.sum.get() == xxh3_64(&self.as_bytes()[..HEADER_LEN - 8])
            && self.stored.get() <= MAX_PAYLOAD
            && self.uncompressed.get() <= MAX_PAYLOAD
    }

    /// Returns the offset of the next record if this one is at offset `at`.
    pub fn next(&self, at: u64) -> u64 {
        (at + HEADER_LEN as u64 + u64::from(self.stored.get())).next_multiple_of(RECORD_ALIGN)
    }
}

impl RawEntry {
    /// The entry for a chunk of which nothing is stored.
    pub const UNREAD: RawEntry = RawEntry {
        at: U64::ZERO,
        sum: U64::ZERO,
        stored: U32::ZERO,
        kind: ENTRY_UNREAD,
        codec: 0,
        zero: U16::ZERO,
    };

    /// Returns an entry for `pattern` repeated.
    pub fn fill(pattern: [u8; 8]) -> RawEntry {
        RawEntry { at: U64::from_bytes(pattern), kind: ENTRY_FILL, ..RawEntry::UNREAD }
    }

    /// Returns an entry with a payload: DATA, NODE or PIECES.
    pub fn payload(kind: u8, codec: u8, at: u64, stored: u32, sum: u64) -> RawEntry {
        RawEntry {
            at: U64::new(at),
            sum: U64::new(sum),
            stored: U32::new(stored),
            kind,
            codec,
            zero: U16::ZERO,
        }
    }

    /// Returns the eight bytes of a FILL entry.
    pub fn pattern(&self) -> [u8; 8] {
        self.at.to_bytes()
    }
}

/// Returns the number of levels of the index of `chunks` chunks: 1 if a single node covers them all.
pub fn levels(chunks: u64) -> u8 {
    let mut levels = 1;
    let mut reach = FANOUT;
    while reach < chunks {
        levels += 1;
        reach = reach.saturating_mul(FANOUT);
    }
    levels
}

/// Returns the number of chunks that an entry of a node at `level` covers: 1 at level 0.
pub fn entry_chunks(level: u8) -> u64 {
    FANOUT.saturating_pow(u32::from(level))
}

/// Returns whether this is a valid sector size, in bytes.
pub fn is_sector_size(bytes: u32) -> bool {
    bytes.is_power_of_two() && (512..=65536).contains(&bytes)
}

/// Returns a superblock of zeros, to be filled in.
pub fn blank_superblock() -> Superblock {
    Superblock::new_zeroed()
}
