//! The structures of a `.cdimg` file, version 1. These structs and `docs/FORMAT.md` are one specification; a test
//! compares their offsets. All numbers are little-endian.

use xxhash_rust::xxh3::xxh3_64;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first eight bytes of a superblock. As in PNG, the high bit and the line end notice a text-mode copy.
pub const MAGIC: [u8; 8] = *b"\x89CDIMG\r\n";
/// The first eight bytes of a record.
pub const RECORD_MAGIC: [u8; 8] = *b"\x89CDIrec\n";
/// The version that this program writes, and the newest that it reads.
pub const VERSION: u32 = 1;

/// Where the two superblocks lie, in bytes. A superblock of generation G lies in slot G mod 2.
pub const SUPERBLOCK_AT: [u64; 2] = [0, 64 << 10];
/// Where the records begin, in bytes.
pub const RECORDS_AT: u64 = 128 << 10;
/// Records begin at multiples of this many bytes.
pub const RECORD_ALIGN: u64 = 8;
/// No METADATA record has a longer payload when it is uncompressed, in bytes.
pub const MAX_METADATA: u32 = 1 << 20;
/// No image has more EVENTS records.
pub const MAX_EVENTS_RECORDS: usize = 1 << 22;
/// No record has a longer payload, as stored or uncompressed. (Chunks are at most [`CHUNK_MAX`].)
pub const MAX_PAYLOAD: u32 = crate::extent::MAX_CHUNK;
/// The smallest chunk, in bytes.
pub const CHUNK_LEAST: u32 = 4 << 10;
/// The largest chunk, in bytes.
pub const CHUNK_MAX: u32 = 1 << 20;
/// How many entries a node of the index has, at most.
pub const FANOUT: u64 = 512;

/// The superblock: what the file is, and where its index is. 512 bytes, so that a disk writes it whole or not.
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
    /// Features that a reader must know to read the image right. A reader refuses bits that it does not know.
    pub must_understand: U64,
    /// Features that a reader may ignore.
    pub may_ignore: U64,
    /// The identity of the image, random.
    pub uuid: [u8; 16],
    /// Stands in every record of this image and in no other's; random, not 0.
    pub salt: U64,
    /// Counts the superblocks that were written; the valid one with the highest generation holds.
    pub generation: U64,
    /// The size of the disk in bytes, not 0.
    pub disk_size: U64,
    /// The size of a chunk in bytes: a power of two from [`CHUNK_LEAST`] to [`CHUNK_MAX`].
    pub chunk_size: U32,
    /// The logical sector size of the disk in bytes: a power of two from 512 to 65536.
    pub logical_sector: U32,
    /// The physical sector size of the disk in bytes.
    pub physical_sector: U32,
    /// The epoch of the records that were written last.
    pub epoch: U32,
    /// Where the records that this superblock speaks for end, in bytes.
    pub committed_end: U64,
    /// The root of the index.
    pub root: RawEntry,
    /// Where the last MAP record begins, in bytes; 0 if everything is finished.
    pub map_at: U64,
    /// Where the last METADATA record begins, in bytes.
    pub metadata_at: U64,
    /// Where the last EVENTS record begins, in bytes; 0 if there is none.
    pub events_at: U64,
    /// Zero.
    pub zero2: [u8; 360],
    /// XXH3-64 of the 504 bytes before.
    pub sum: U64,
}

/// The image is being made: records may follow the committed end.
pub const STATE_ACQUIRING: u8 = 1;
/// The image is finished.
pub const STATE_COMPLETE: u8 = 2;

/// The header of a record. Its payload follows at once.
#[derive(Debug, Clone, Copy, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RecordHeader {
    /// [`RECORD_MAGIC`].
    pub magic: [u8; 8],
    /// The image's salt.
    pub salt: U64,
    /// The first byte of the disk that the record speaks of.
    pub disk_at: U64,
    /// How many bytes of the disk it speaks of.
    pub disk_len: U64,
    /// XXH3-64 of the payload as stored.
    pub payload_sum: U64,
    /// The length of the payload as stored, in bytes.
    pub stored: U32,
    /// The length of the payload when it is uncompressed, in bytes.
    pub uncompressed: U32,
    /// Which run of the program wrote it: never falls from record to record.
    pub epoch: U32,
    /// The type, one of [`RecordType`].
    pub kind: u8,
    /// How the payload is compressed, by [`crate::codec::Codec`]'s numbers.
    pub codec: u8,
    /// NODE: the level, 0 at the leaves. Otherwise 0.
    pub detail: U16,
    /// XXH3-64 of the 56 bytes before.
    pub sum: U64,
}

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordType {
    /// Bytes of the disk: one run within one chunk.
    Data = 1,
    /// A run of the disk that is eight bytes over and over; the payload is those eight.
    Fill = 2,
    /// Bytes of the disk that are the same as an earlier record's; the payload is a [`RawEntry`].
    Same = 3,
    /// Statuses of a range of the disk.
    Map = 4,
    /// A node of the index.
    Node = 5,
    /// The pieces of one chunk.
    Pieces = 6,
    /// The metadata, as JSON.
    Metadata = 7,
    /// A copy of the superblock that was written after it.
    Checkpoint = 8,
    /// What happened while the image was made: lines of JSON. May be ignored.
    Events = 130,
}

impl RecordType {
    /// The type with this number.
    pub fn from_number(number: u8) -> Option<RecordType> {
        use RecordType::*;
        [Data, Fill, Same, Map, Node, Pieces, Metadata, Checkpoint, Events]
            .into_iter()
            .find(|t| *t as u8 == number)
    }
}

/// Types that a reader may pass over: parity (128), signature (129), events (130).
/// Types below this number must be understood; encryption is to be one of them.
pub const FIRST_IGNORABLE_TYPE: u8 = 128;

/// An entry of the index: where a chunk is, or a node below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RawEntry {
    /// Where the payload begins in the file, in bytes; FILL: the eight bytes.
    pub at: U64,
    /// XXH3-64 of the payload as stored; 0 where there is none.
    pub sum: U64,
    /// The length of the payload as stored; 0 where there is none.
    pub stored: U32,
    /// One of the `ENTRY_` constants.
    pub kind: u8,
    /// DATA: how the payload is compressed. Otherwise 0.
    pub codec: u8,
    /// Zero.
    pub zero: U16,
}

/// Nothing is stored of the chunk, or of all chunks below.
pub const ENTRY_UNREAD: u8 = 0;
/// The chunk, or every chunk below, is eight bytes over and over.
pub const ENTRY_FILL: u8 = 1;
/// The chunk is one payload.
pub const ENTRY_DATA: u8 = 2;
/// A node below.
pub const ENTRY_NODE: u8 = 3;
/// The chunk has pieces.
pub const ENTRY_PIECES: u8 = 4;

impl RawEntry {
    /// Returns the entry that is all of `bytes`.
    pub fn parse(bytes: &[u8]) -> Option<RawEntry> {
        RawEntry::read_from_bytes(bytes).ok()
    }
}

/// A run of a chunk that has pieces. What no piece covers is unread.
#[derive(Debug, Clone, Copy, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RawPiece {
    /// Its first byte, counted from the start of the chunk.
    pub start: U32,
    /// Its length in bytes.
    pub len: U32,
    /// DATA: how many uncompressed bytes of the payload come before it.
    pub skip: U32,
    /// DATA: the length of the payload when it is uncompressed.
    pub uncompressed: U32,
    /// Where its bytes are: DATA or FILL.
    pub entry: RawEntry,
}

/// A range of the disk in a MAP record.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RawRange {
    /// Its first byte on the disk.
    pub start: U64,
    /// Its length in bytes.
    pub len: U64,
    /// Its status, by [`crate::badmap::Status`]'s numbers.
    pub status: u8,
    /// How often it was tried; 0 if unknown, 255 for that often or oftener.
    pub tries: u8,
    /// What `reason` is: [`REASON_NONE`], [`REASON_ERRNO`], [`REASON_SENSE`].
    pub reason_kind: u8,
    /// Zero.
    pub zero: u8,
    /// An errno, or a SCSI sense: key, additional code, qualifier in the three lowest bytes, lowest first.
    pub reason: U32,
}

/// No reason is known.
pub const REASON_NONE: u8 = 0;
/// The reason is an errno, by Linux's numbers.
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
    /// Returns the superblock at the start of `bytes`, if it is sound.
    pub fn parse(bytes: &[u8]) -> Option<Superblock> {
        Superblock::read_from_prefix(bytes).ok().map(|(s, _)| s).filter(Superblock::is_sound)
    }

    /// The same superblock with its checksum put right.
    pub fn sealed(mut self) -> Superblock {
        self.sum = U64::new(xxh3_64(&self.as_bytes()[..SUPERBLOCK_LEN - 8]));
        self
    }

    /// Whether magic and checksum are right.
    pub fn is_sound(&self) -> bool {
        self.magic == MAGIC && self.sum.get() == xxh3_64(&self.as_bytes()[..SUPERBLOCK_LEN - 8])
    }
}

impl RecordHeader {
    /// The same header with its checksum put right.
    pub fn sealed(mut self) -> RecordHeader {
        self.sum = U64::new(xxh3_64(&self.as_bytes()[..HEADER_LEN - 8]));
        self
    }

    /// Whether this is a header of the image with this salt: magic, salt, checksum and lengths are right.
    pub fn is_sound(&self, salt: u64) -> bool {
        self.magic == RECORD_MAGIC
            && self.salt.get() == salt
            && self.sum.get() == xxh3_64(&self.as_bytes()[..HEADER_LEN - 8])
            && self.stored.get() <= MAX_PAYLOAD
            && self.uncompressed.get() <= MAX_PAYLOAD
    }

    /// Where the next record begins if this one begins at `at`.
    pub fn next(&self, at: u64) -> u64 {
        (at + HEADER_LEN as u64 + u64::from(self.stored.get())).next_multiple_of(RECORD_ALIGN)
    }
}

impl RawEntry {
    /// Nothing is stored.
    pub const UNREAD: RawEntry = RawEntry {
        at: U64::ZERO,
        sum: U64::ZERO,
        stored: U32::ZERO,
        kind: ENTRY_UNREAD,
        codec: 0,
        zero: U16::ZERO,
    };

    /// `pattern` over and over.
    pub fn fill(pattern: [u8; 8]) -> RawEntry {
        RawEntry { at: U64::from_bytes(pattern), kind: ENTRY_FILL, ..RawEntry::UNREAD }
    }

    /// A payload: DATA, NODE or PIECES.
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

    /// The eight bytes of a FILL entry.
    pub fn pattern(&self) -> [u8; 8] {
        self.at.to_bytes()
    }
}

/// How many levels the index of `chunks` chunks has: 1 if one node holds them all.
pub fn levels(chunks: u64) -> u8 {
    let mut levels = 1;
    let mut reach = FANOUT;
    while reach < chunks {
        levels += 1;
        reach = reach.saturating_mul(FANOUT);
    }
    levels
}

/// How many chunks an entry of a node at `level` covers: 1 at level 0.
pub fn entry_chunks(level: u8) -> u64 {
    FANOUT.saturating_pow(u32::from(level))
}

/// Whether a sector can have this size, in bytes.
pub fn is_sector_size(bytes: u32) -> bool {
    bytes.is_power_of_two() && (512..=65536).contains(&bytes)
}

/// A superblock of zeros, to be filled in.
pub fn blank_superblock() -> Superblock {
    Superblock::new_zeroed()
}
