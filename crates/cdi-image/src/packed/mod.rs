//! Images that are compressed as a whole: `disk.img.gz`, `disk.raw.xz`, and what is in pieces of such a file.
//!
//! An index (`index.rs`) says where decompression can begin, and what the checksums of the decompressed bytes are. It is made in one
//! pass over the file (`build`, `sequence`, `units`), which also checks the file as a whole, and kept
//! ([`Indexes`](crate::indexes::Indexes)). [`Unpacked`] then reads any part of the bytes, and every other module reads it
//! as if it were a file. What could not be decompressed is known with the index ([`PackedFile`](crate::input::PackedFile)).

mod build;
mod bzip2;
mod deflate;
mod gzip;
mod index;
mod lz4;
mod open;
mod sequence;
mod stream;
mod units;
mod unpacked;
mod xz;
mod zstd;

use std::io::{self, Read};
use std::sync::Arc;

use build::{Builder, Stop};
pub use open::{PACKINGS, head, inner_name, unpack};
pub use unpacked::Unpacked;

use crate::input::ReadAt;

/// How a file is packed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// gzip.
    Gzip,
    /// xz.
    Xz,
    /// zstd.
    Zstd,
    /// bzip2.
    Bzip2,
    /// lz4.
    Lz4,
}

impl Packing {
    /// Returns its name, which is also that of the program and of the format of a raw disk that is packed like this.
    pub fn name(self) -> &'static str {
        match self {
            Packing::Gzip => "gzip",
            Packing::Xz => "xz",
            Packing::Zstd => "zstd",
            Packing::Bzip2 => "bzip2",
            Packing::Lz4 => "lz4",
        }
    }

    /// Returns the suffixes of packed files, without the dot.
    pub fn suffixes(self) -> &'static [&'static str] {
        match self {
            Packing::Gzip => &["gz", "gzip", "bgz", "bgzf"],
            Packing::Xz => &["xz"],
            Packing::Zstd => &["zst", "zstd"],
            Packing::Bzip2 => &["bz2", "bzip2"],
            Packing::Lz4 => &["lz4"],
        }
    }

    /// Returns how a file is packed that begins like this, by its magic.
    pub fn of(start: &[u8]) -> Option<Packing> {
        let begins = |magic: &[u8]| start.starts_with(magic);
        match () {
            () if begins(&[0x1F, 0x8B, 8]) => Some(Packing::Gzip),
            () if begins(xz::MAGIC) => Some(Packing::Xz),
            () if begins(&zstd::MAGIC) => Some(Packing::Zstd),
            // A skippable frame comes first, as written by pzstd, with the magic of zstd after it.
            () if begins(&[0x50, 0x2A, 0x4D, 0x18, 4, 0, 0, 0])
                && start.get(12..16) == Some(&zstd::MAGIC) =>
            {
                Some(Packing::Zstd)
            }
            () if begins(bzip2::MAGIC) && start.get(4..10).is_some_and(bzip2::begins_a_stream) => {
                Some(Packing::Bzip2)
            }
            () if begins(&lz4::MAGIC) || begins(&lz4::LEGACY) => Some(Packing::Lz4),
            () => None,
        }
    }

    fn number(self) -> u32 {
        match self {
            Packing::Gzip => 1,
            Packing::Xz => 2,
            Packing::Zstd => 3,
            Packing::Bzip2 => 4,
            Packing::Lz4 => 5,
        }
    }

    fn from_number(number: u32) -> Option<Packing> {
        PACKINGS.into_iter().find(|packing| packing.number() == number)
    }

    fn scan(self, source: &Arc<dyn ReadAt>, builder: &mut Builder<'_>) -> Result<(), Stop> {
        match self {
            Packing::Gzip => gzip::scan(source, builder),
            Packing::Xz => xz::scan(source, builder),
            Packing::Zstd => zstd::scan(source, builder),
            Packing::Bzip2 => bzip2::scan(source, builder),
            Packing::Lz4 => lz4::scan(source, builder),
        }
    }

    /// Returns the maximum length of what is kept with a restart point, in bytes.
    fn max_window(self) -> usize {
        if self == Packing::Zstd { zstd::max_window() } else { sequence::WINDOW }
    }

    /// Reads on from a restart point.
    fn reader(
        self,
        source: &Arc<dyn ReadAt>,
        bit: u64,
        extra: u32,
        window: &[u8],
    ) -> io::Result<Box<dyn Read + Send>> {
        match self {
            Packing::Gzip => gzip::reader(source, bit, extra, window),
            Packing::Xz => xz::reader(source, bit, extra),
            Packing::Zstd => zstd::reader(source, bit, extra, window),
            Packing::Bzip2 => bzip2::reader(source, bit, extra),
            Packing::Lz4 => lz4::reader(source, bit, extra, window),
        }
    }
}
