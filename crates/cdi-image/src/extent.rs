//! Where bytes of a disk come from.

use std::ops::Range;

use crate::codec::{Codec, Sum};

/// A run of bytes of the disk that come from one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// The bytes of the disk, by offset. Never empty.
    pub disk: Range<u64>,
    /// Where they come from.
    pub origin: Origin,
}

/// Which of an image's files, in the order in which [`Input`] holds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileNo(pub u32);

/// Where the bytes of an [`Extent`] come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The image holds no bytes for it. The bad-block map says why; if it does not, the image is damaged.
    Unread,
    /// These eight bytes over and over, the first at every multiple of 8 of the disk's offset.
    Fill([u8; 8]),
    /// As they are in the file, from `at` on.
    Stored {
        /// The file that holds them.
        file: FileNo,
        /// The offset in the file of the extent's first byte.
        at: u64,
    },
    /// In a compressed chunk of the file.
    Compressed(CompressedChunk),
}

/// A compressed chunk, and where in it an extent begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CompressedChunk {
    /// The file that holds the chunk.
    pub file: FileNo,
    /// The offset of the chunk in the file.
    pub at: u64,
    /// The length of the chunk in the file.
    pub len: u32,
    /// How many uncompressed bytes come before the extent's first byte.
    pub skip: u32,
    /// The length of the chunk when it is uncompressed.
    pub uncompressed: u32,
    /// How it is compressed.
    pub codec: Codec,
    /// The checksum of the chunk as it lies in the file.
    pub sum: Sum,
}

impl Extent {
    /// Returns the part of it from `offset` to `end`.
    pub fn cut(self, offset: u64, end: u64) -> Extent {
        let origin = self.origin.skip(offset.saturating_sub(self.disk.start));
        Extent { disk: self.disk.start.max(offset)..self.disk.end.min(end), origin }
    }
}

impl Origin {
    /// Returns where the bytes come from that are `by` bytes further on.
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

    /// Whether these are zeros that need not be stored anywhere.
    pub fn is_zero(&self) -> bool {
        *self == Origin::Fill([0; 8])
    }
}

/// No compressed chunk of any format may be longer than this when it is uncompressed.
pub const MAX_CHUNK: u32 = 16 << 20;
