//! Hyper-V's disks (`.vhdx`): fixed, dynamic, and differencing with their parents.
//!
//! Sources: "[MS-VHDX]: Virtual Hard Disk v2 (VHDX) File Format" (Microsoft). All numbers are little-endian. Two heads, of
//! which the newer counts; two tables of regions; a region of metadata and one of block entries. A log may hold what was
//! to be written to these.

mod layer;
mod log;

use std::sync::Arc;

use cdi_base::error::Error;
use crc::{CRC_32_ISCSI, Crc, Table};
pub(super) use layer::open as open_layer;

use super::chain::Chain;
use crate::details::ImageDetails;
use crate::image::{Format, Image, OpenOptions};
use crate::input::Input;
use crate::metadata::Metadata;

/// VHDX images.
pub const FORMAT: Format = Format {
    name: "vhdx",
    summary: "Hyper-V's VHDX: fixed, dynamic, differencing with its parents; a log is read, not replayed",
    integrity: "checksums of its headers and log only: damage of the disk's bytes cannot be noticed",
    suffixes: &["vhdx", "avhdx"],
    probe: |input| input.bytes(0, 8, "the header").is_ok_and(|b| b == MAGIC),
    open,
};

const MAGIC: &[u8] = b"vhdxfile";
/// Where the checksum stands in every structure that has one.
const SIGNED: usize = 4;

/// CRC-32C of a structure, with its own four bytes at `at` taken for zeros.
fn crc32c_of(bytes: &[u8], at: usize) -> u32 {
    static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);
    let mut digest = CRC.digest();
    digest.update(&bytes[..at]);
    digest.update(&[0; 4]);
    digest.update(&bytes[at + 4..]);
    digest.finalize()
}

fn open(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let mut warnings = Vec::new();
    let top = layer::open(&input, Input::MAIN, 0, &mut warnings)?;
    let metadata = Metadata {
        size_bytes: top.size,
        logical_sector_bytes: options.sector_size.unwrap_or(top.sector),
        physical_sector_bytes: top.physical_sector,
        ..Metadata::default()
    };
    Ok(Box::new(Chain {
        input,
        top,
        details: ImageDetails { metadata, warnings, ..ImageDetails::default() },
    }))
}
