//! Hyper-V disk images (`.vhdx`): fixed, dynamic, and differencing with their parents.
//!
//! Sources: "[MS-VHDX]: Virtual Hard Disk v2 (VHDX) File Format" (Microsoft). All numbers are little-endian. The file
//! has two headers, of which the newer one is valid, two copies of the region table, a metadata region and a region
//! with the block allocation table (BAT). A log may contain updates to these that were not written yet.

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
    summary: "Hyper-V's VHDX: fixed, dynamic, differencing with its parents; the log is applied in memory only",
    integrity: "checksums of the headers and the log only: damaged disk data cannot be detected",
    suffixes: &["vhdx", "avhdx"],
    probe: |input| input.bytes(0, 8, "the header").is_ok_and(|b| b == MAGIC),
    open,
};

const MAGIC: &[u8] = b"vhdxfile";
/// The offset of the checksum in every structure that has one.
const CHECKSUM: usize = 4;

/// Returns the CRC-32C of a structure, with its own four bytes at `at` taken as zeros.
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
