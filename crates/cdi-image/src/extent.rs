//! Where the bytes of a disk come from.

use std::ops::Range;

use crate::codec::{Codec, Sum};
use crate::memory::cache::Key;

/// A run of disk bytes that come from one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// The byte range on the disk. Never empty.
    pub disk: Range<u64>,
    /// Where they come from.
    pub origin: Origin,
}

/// The number of one of an image's files, in the order in which [`Input`](crate::input::Input) numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileNo(pub u32);

/// Where the bytes of an [`Extent`] come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The image has no data for this range. The bad-block map says why; if it does not, the image is damaged.
    Unread,
    /// These eight bytes repeated; the first one is at every disk offset that is a multiple of 8.
    Fill([u8; 8]),
    /// Uncompressed in a file, from offset `at` on.
    Stored {
        /// The file that contains them.
        file: FileNo,
        /// The offset of the extent's first byte in the file.
        at: u64,
    },
    /// In a compressed chunk of the file.
    Compressed(CompressedChunk),
}

/// A compressed chunk, and where in it an extent begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CompressedChunk {
    /// The file that contains the chunk.
    pub file: FileNo,
    /// The offset of the chunk in the file.
    pub at: u64,
    /// The length of the compressed chunk in the file, in bytes.
    pub len: u32,
    /// The number of uncompressed bytes before the extent's first byte.
    pub skip: u32,
    /// The uncompressed length of the chunk, in bytes.
    pub uncompressed: u32,
    /// How it is compressed.
    pub codec: Codec,
    /// The checksum of the chunk as stored in the file.
    pub sum: Sum,
}

impl Key for CompressedChunk {
    fn number(&self) -> u64 {
        self.at ^ u64::from(self.file.0)
    }
}

impl Extent {
    /// Returns the part of the extent from `offset` to `end`.
    pub fn cut(self, offset: u64, end: u64) -> Extent {
        let origin = self.origin.skip(offset.saturating_sub(self.disk.start));
        Extent { disk: self.disk.start.max(offset)..self.disk.end.min(end), origin }
    }
}

impl Origin {
    /// Returns the origin of the bytes that are `by` bytes further on.
    pub fn skip(self, by: u64) -> Origin {
        match self {
            Origin::Stored { file, at } => Origin::Stored { file, at: at + by },
            Origin::Compressed(chunk) => Origin::Compressed(CompressedChunk {
                skip: chunk.skip.saturating_add(u32::try_from(by).unwrap_or(u32::MAX)),
                ..chunk
            }),
            other => other,
        }
    }

    /// Returns whether these are zeros that need not be stored anywhere.
    pub fn is_zero(&self) -> bool {
        *self == Origin::Fill([0; 8])
    }
}

/// The maximum uncompressed length of a compressed chunk, in bytes, for all formats.
pub const MAX_CHUNK: u32 = 16 << 20;
