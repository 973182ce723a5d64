//! Objects: blocks with a header and a checksum.
//!
//! Facts: Apple File System Reference, "Objects"; libfsapfs' documentation "Apple File System (APFS)", "Object checksum".

use std::ops::Range;

use cdi_base::units::index;

use crate::bytes::{le32, le64};
use crate::file_system::Damage;
use crate::volume::Volume;

/// The types of objects.
pub(super) const CONTAINER: u32 = 1;
pub(super) const TREE: u32 = 2;
pub(super) const TREE_NODE: u32 = 3;
pub(super) const SPACE_MANAGER: u32 = 5;
pub(super) const SPACE_ADDRESSES: u32 = 6;
pub(super) const SPACE_CHUNKS: u32 = 7;
pub(super) const OBJECT_MAP: u32 = 11;
pub(super) const CHECKPOINT_MAP: u32 = 12;
pub(super) const VOLUME: u32 = 13;

/// The size of an object's header.
pub(super) const HEADER: usize = 32;

/// Where the blocks of a container are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) block_size: u32,
    pub(super) blocks: u64,
}

impl Layout {
    /// Returns the bytes of `count` blocks; None if they are not in the container.
    pub(super) fn range(&self, block: u64, count: u64) -> Option<Range<u64>> {
        let end = block.checked_add(count).filter(|end| *end <= self.blocks)?;
        let unit = u64::from(self.block_size);
        Some(block.checked_mul(unit)?..end.checked_mul(unit)?)
    }

    /// Reads a block.
    pub(super) fn read(&self, volume: &Volume<'_>, block: u64) -> Result<Vec<u8>, Damage> {
        let outside = || Damage::Invalid(format!("block {block} is outside of the container"));
        let range = self.range(block, 1).ok_or_else(outside)?;
        Ok(volume.read(range.start, index(range.end - range.start))?)
    }

    /// Reads an object of the type `kind`, which has a block.
    pub(super) fn object(&self, volume: &Volume<'_>, block: u64, kind: u32) -> Result<Vec<u8>, Damage> {
        let bytes = self.read(volume, block)?;
        check(&bytes, kind)?;
        Ok(bytes)
    }
}

/// Checks the type and the checksum of an object.
pub(super) fn check(bytes: &[u8], kind: u32) -> Result<(), Damage> {
    if le32(bytes, 24).map(|found| found & 0xFFFF) != Some(kind) {
        return Err(Damage::Invalid("it is another kind of object".into()));
    }
    if !checksum_fits(bytes) {
        return Err(Damage::Invalid("its checksum is wrong".into()));
    }
    Ok(())
}

/// Returns whether an object has the checksum that its header says.
pub(super) fn checksum_fits(bytes: &[u8]) -> bool {
    let (mut low, mut high) = (0u64, 0u64);
    let Some(words) = bytes.get(8..) else { return false };
    // Sums of 1024 words do not overflow.
    for piece in words.chunks(4096) {
        for word in piece.as_chunks::<4>().0 {
            low += u64::from(u32::from_le_bytes(*word));
            high += low;
        }
        low %= MODULUS;
        high %= MODULUS;
    }
    let first = MODULUS - (low + high) % MODULUS;
    let second = MODULUS - (low + first) % MODULUS;
    le64(bytes, 0) == Some(second << 32 | first)
}

const MODULUS: u64 = 0xFFFF_FFFF;
