//! What all that makes images has in common: how one is to be made, and what was made.

use std::time::SystemTime;

use cdi_base::error::Error;
use cdi_image::cdimg::index::Geometry;
use cdi_image::cdimg::layout::Superblock;
use cdi_image::cdimg::writer::NewImage;
use cdi_image::codec::Codec;
use cdi_image::metadata::{Metadata, rfc3339};
use cdi_image::stored_hashes::HashKind;
use cdi_system::random;

use crate::hash_check::Checked;

/// The chunk size where the user does not say, in bytes. docs/ARCHITECTURE.md has the measurement.
pub const DEFAULT_CHUNK: u32 = 32 << 10;

/// What an image says made it.
pub const TOOL: &str = concat!("cdi ", env!("CARGO_PKG_VERSION"));

/// How an image is to be made.
#[derive(Debug, Clone)]
pub struct Options {
    /// How chunks are compressed.
    pub codec: Codec,
    /// At which level.
    pub level: i32,
    /// The size of a chunk in bytes.
    pub chunk: u32,
    /// The physical sector size of the disk in bytes, if it is not the logical one.
    pub physical_sector: Option<u32>,
    /// Metadata that the user tells.
    pub metadata: Metadata,
    /// How many threads compress.
    pub threads: usize,
    /// Whether the hashes of the disk are computed also if the image has to be read for it.
    pub hash: bool,
    /// Hashes of the zero-filled disk besides SHA-256.
    pub hashes: Vec<HashKind>,
    /// Whether two images of one source are to be equal: nothing random in them, and no time but this one, if there is one.
    pub reproducible: Option<Option<SystemTime>>,
}

impl Options {
    /// Returns the time now, as the metadata have it; None where an image without times is wanted.
    pub fn now(&self) -> Option<String> {
        self.reproducible.unwrap_or_else(|| Some(SystemTime::now())).map(rfc3339)
    }

    /// Returns what a new image of a disk of `size` bytes with these sectors is to be. `seed` is what the names of reproducible
    /// images are made from: what tells this disk from others.
    pub fn new_image(&self, size: u64, logical: u32, physical: u32, seed: &[u8]) -> Result<NewImage, Error> {
        let new = new_image(size, self.chunk, logical, physical)?;
        if self.reproducible.is_none() {
            return Ok(new);
        }
        let mut hash = blake3::Hasher::new_derive_key("cdi 2026-11-26 names of a reproducible image");
        for number in [size, self.chunk.into(), logical.into(), physical.into()] {
            hash.update(&number.to_le_bytes());
        }
        let metadata = serde_json::to_vec(&self.metadata).unwrap_or_default();
        hash.update(&(metadata.len() as u64).to_le_bytes()).update(&metadata).update(seed);
        let names = *hash.finalize().as_bytes();
        Ok(named(new, names))
    }
}

/// What was made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Made {
    /// The length of the image file in bytes.
    pub image_bytes: u64,
    /// Bytes of the disk that are stored as chunks.
    pub compressed_bytes: u64,
    /// Bytes of the disk that are the same as others and share their chunk.
    pub shared_bytes: u64,
    /// Bytes of the disk that are zeros or another pattern.
    pub fill_bytes: u64,
    /// Bytes of the disk that the image does not hold.
    pub missing_bytes: u64,
    /// Of these, bytes whose reading failed just now.
    pub failed_bytes: u64,
    /// The metadata as they stand in the image.
    pub metadata: Metadata,
    /// The hashes that the source's image stores of its disk, held against what was read. None if not all could be read.
    pub checked: Vec<Checked>,
}

/// A new image of a disk of `size` bytes in chunks of `chunk` bytes, with a name that no other image has.
pub fn new_image(
    size: u64,
    chunk: u32,
    logical_sector: u32,
    physical_sector: u32,
) -> Result<NewImage, Error> {
    let geometry = Geometry { disk_size: size, chunk_size: chunk };
    Ok(named(NewImage { geometry, logical_sector, physical_sector, uuid: [0; 16], salt: 0 }, random()?))
}

fn named(new: NewImage, names: [u8; 32]) -> NewImage {
    NewImage {
        uuid: std::array::from_fn(|i| names[i]),
        salt: u64::from_le_bytes(std::array::from_fn(|i| names[16 + i])).max(1),
        ..new
    }
}

/// An image of the same disk as the one with this superblock, by the same name.
pub(crate) fn image_like(old: &Superblock) -> Result<NewImage, Error> {
    let (logical, physical) = (old.logical_sector.get(), old.physical_sector.get());
    let new = new_image(old.disk_size.get(), old.chunk_size.get(), logical, physical)?;
    Ok(NewImage { uuid: old.uuid, ..new })
}
