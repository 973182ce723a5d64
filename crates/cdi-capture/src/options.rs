//! The options and results that all ways of creating an image have in common.

use std::time::SystemTime;

use cdi_base::error::Error;
use cdi_image::cdimg::index::Geometry;
use cdi_image::cdimg::layout::Superblock;
use cdi_image::cdimg::writer::NewImage;
use cdi_image::codec::Codec;
use cdi_image::input::parity::ParitySummary;
use cdi_image::metadata::{Metadata, rfc3339};
use cdi_image::stored_hashes::HashKind;
use cdi_system::random;

use crate::hash_check::Checked;

/// The default chunk size in bytes. The measurements are in docs/ARCHITECTURE.md.
pub const DEFAULT_CHUNK: u32 = 32 << 10;

/// The name and version of the program, as recorded in images.
pub const TOOL: &str = concat!("cdi ", env!("CARGO_PKG_VERSION"));

/// The options for creating an image.
#[derive(Debug, Clone)]
pub struct Options {
    /// The compression of chunks.
    pub codec: Codec,
    /// The compression level.
    pub level: i32,
    /// The chunk size in bytes.
    pub chunk: u32,
    /// The physical sector size of the disk in bytes, if it differs from the logical one.
    pub physical_sector: Option<u32>,
    /// Metadata given by the user.
    pub metadata: Metadata,
    /// The number of threads that compress.
    pub threads: usize,
    /// Whether to compute the hashes of the disk even if the image has to be read again for them.
    pub hash: bool,
    /// The hashes to compute of the zero-filled disk, in addition to SHA-256.
    pub hashes: Vec<HashKind>,
    /// The command line, for the log of the image.
    pub command: Vec<String>,
    /// Set if images of the same source must be equal: no random identifiers, and no time except the given one, if any.
    pub reproducible: Option<Option<SystemTime>>,
}

impl Options {
    /// Returns the current time in the form that the metadata use; None for an image without times.
    pub fn now(&self) -> Option<String> {
        self.reproducible.unwrap_or_else(|| Some(SystemTime::now())).map(rfc3339)
    }

    /// Returns the parameters of a new image of a disk of `size` bytes with these sector sizes in bytes. The
    /// identifiers of reproducible images are derived from `seed`, which distinguishes this disk from others.
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

/// The result of creating an image.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Made {
    /// The length of the image file in bytes.
    pub image_bytes: u64,
    /// Bytes of the disk that are stored as chunks.
    pub compressed_bytes: u64,
    /// Bytes of the disk that equal others and share their chunk.
    pub shared_bytes: u64,
    /// Bytes of the disk that are zeros or another repeated pattern.
    pub fill_bytes: u64,
    /// Bytes of the disk that are missing from the image.
    pub missing_bytes: u64,
    /// The part of `missing_bytes` that could not be read from the source now.
    pub failed_bytes: u64,
    /// The parity of the image, if it has any.
    pub parity: Option<ParitySummary>,
    /// The metadata stored in the image.
    pub metadata: Metadata,
    /// What is wrong in the log of the source's image, or not as it was sealed.
    pub not_as_sealed: Vec<String>,
    /// The hashes that the source's image stores of its disk, compared with those of the data read. Empty if not
    /// everything could be read.
    pub checked: Vec<Checked>,
}

/// Returns the parameters of a new image of a disk of `size` bytes in chunks of `chunk` bytes, with a unique
/// identifier. Fails if the system has no random numbers.
pub fn new_image(
    size: u64,
    chunk: u32,
    logical_sector: u32,
    physical_sector: u32,
) -> Result<NewImage, Error> {
    let geometry = Geometry { disk_size: size, chunk_size: chunk };
    Ok(named(NewImage { geometry, logical_sector, physical_sector, uuid: [0; 16], salt: 0 }, random()?))
}

/// Sets the identifiers of an image.
fn named(new: NewImage, names: [u8; 32]) -> NewImage {
    NewImage {
        uuid: std::array::from_fn(|i| names[i]),
        salt: u64::from_le_bytes(std::array::from_fn(|i| names[16 + i])).max(1),
        ..new
    }
}

/// Returns the parameters of an image of the same disk as the one with this superblock, with the same UUID.
pub(crate) fn image_like(old: &Superblock) -> Result<NewImage, Error> {
    let (logical, physical) = (old.logical_sector.get(), old.physical_sector.get());
    let new = new_image(old.disk_size.get(), old.chunk_size.get(), logical, physical)?;
    Ok(NewImage { uuid: old.uuid, ..new })
}
