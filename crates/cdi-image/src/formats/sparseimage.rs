//! Apple's sparse images (`.sparseimage`): the disk in bands, in the order in which they were first written.
//!
//! Sources: the libmodi project's documentation, apfs-fuse's reader, and a header by hdiutil. All numbers are
//! big-endian. A node of 4096 bytes is followed by slots for bands, and lists which band of the disk is in each slot;
//! another node follows the last slot if more are needed.

use std::sync::Arc;

use cdi_base::error::{Error, ReadError};
use cdi_base::units::{SECTOR, index};

use super::chain::zeros;
use crate::bytes::{be32, be64, flaw};
use crate::details::ImageDetails;
use crate::extent::{Extent, Origin};
use crate::image::{Format, Image, OpenOptions};
use crate::input::Input;
use crate::metadata::Metadata;

/// Sparse images.
pub const FORMAT: Format = Format {
    name: "sparseimage",
    summary: "Apple's sparse images",
    integrity: "none: the format has no checksums, so damage cannot be detected",
    suffixes: &["sparseimage"],
    probe: |input| {
        let begins = |what: &[u8]| input.bytes(0, what.len(), "the header").is_ok_and(|b| b == what);
        begins(b"sprs\0\0\0\x03")
    },
    open,
};

const NODE: u64 = 4096;
/// The offset of the list of bands in the first node, and in the others.
const FIRST: usize = 64;
const OTHER: usize = 56;

struct Sparse {
    size: u64,
    band: u64,
    /// The bands in the order of the disk: number and file offset.
    bands: Vec<(u64, u64)>,
    details: ImageDetails,
}

fn open(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let header = input.bytes(0, index(NODE), "the header")?;
    if !header.starts_with(b"sprs") {
        return flaw(0, "not a sparse image");
    }
    if be32(&header, 4) != 3 {
        return flaw(4, format!("unsupported version {} (only version 3 is supported)", be32(&header, 4)));
    }
    let band = u64::from(be32(&header, 8)) * u64::from(SECTOR);
    // Older images leave the 64-bit field 0.
    let sectors = match be64(&header, 28) {
        0 => be32(&header, 16).into(),
        sectors => sectors,
    };
    let size = sectors.checked_mul(SECTOR.into()).filter(|size| *size > 0 && i64::try_from(*size).is_ok());
    let Some(size) = size else { return flaw(28, format!("invalid disk size: {sectors} sectors")) };
    if band == 0 {
        return flaw(8, "invalid band size: 0 bytes");
    }
    let mut bands = Vec::new();
    let (mut node_at, mut node, mut ids_at, mut next) = (0, header, FIRST, 20);
    loop {
        for (slot, id) in node[ids_at..].chunks_exact(4).map(|id| u64::from(be32(id, 0))).enumerate() {
            let Some(number) = id.checked_sub(1) else { continue };
            let entry_at = node_at + (ids_at + slot * 4) as u64;
            if number >= size.div_ceil(band) {
                return flaw(entry_at, format!("band {number} is past the end of the disk"));
            }
            let at = (slot as u64).checked_mul(band).and_then(|by| (node_at + NODE).checked_add(by));
            // The disk's last band may be short in the file.
            let needed = band.min(size - number * band);
            let inside = |at: &u64| at.checked_add(needed).is_some_and(|end| end <= input.len());
            let Some(at) = at.filter(inside) else {
                return flaw(
                    entry_at,
                    format!("band {number} extends past the end of the file: the image is truncated"),
                );
            };
            bands.push((number, at));
            if bands.len() as u64 > size.div_ceil(band) {
                return flaw(entry_at, "more bands than the disk has");
            }
        }
        let before = node_at;
        node_at = be64(&node, next);
        if node_at == 0 {
            break;
        }
        // Nodes must come in ascending order, so there are no cycles.
        if node_at < before + NODE {
            return flaw(before + next as u64, format!("invalid offset of the next node: {node_at}"));
        }
        node = input.bytes(node_at, index(NODE), "a node")?;
        if !node.starts_with(b"sprs") {
            return flaw(node_at, "missing node signature");
        }
        (ids_at, next) = (OTHER, 12);
    }
    bands.sort_unstable();
    if let Some(pair) = bands.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return flaw(0, format!("band {} is stored twice", pair[0].0));
    }
    let metadata = Metadata {
        size_bytes: size,
        logical_sector_bytes: options.sector_size.unwrap_or(SECTOR),
        ..Metadata::default()
    };
    Ok(Box::new(Sparse { size, band, bands, details: ImageDetails { metadata, ..ImageDetails::default() } }))
}

impl Image for Sparse {
    fn size(&self) -> u64 {
        self.size
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        let band = offset / self.band;
        let next = self.bands.partition_point(|(number, _)| *number < band);
        let start = band * self.band;
        let end = self.size.min(start.saturating_add(self.band));
        match self.bands.get(next) {
            Some((number, at)) if *number == band => {
                let at = at + (offset - start);
                Ok(Extent { disk: offset..end, origin: Origin::Stored { file: Input::MAIN, at } })
            }
            other => {
                let end = other.map_or(self.size, |(number, _)| number * self.band);
                Ok(zeros(offset, end))
            }
        }
    }

    fn details(&self) -> &ImageDetails {
        &self.details
    }
}
