//! Bitmaps: of the blocks of a group, and of its inodes.
//!
//! Source: Linux, fs/ext4/bitmap.c (`ext4_inode_bitmap_csum_verify`, `ext4_block_bitmap_csum_verify`).

use cdi_base::units::index;

use super::checksum::crc32c;
use super::groups::{Group, Source};
use super::superblock::Superblock;
use crate::file_system::Damage;
use crate::volume::Volume;

/// Reads the bitmap of a group's blocks: a bit is a cluster.
pub(super) fn of_blocks(sb: &Superblock, volume: &Volume<'_>, group: &Group) -> Result<Vec<u8>, Damage> {
    read(sb, volume, group, group.blocks, sb.group_blocks / sb.cluster, group.blocks_csum)
}

/// Reads the bitmap of a group's inodes.
pub(super) fn of_inodes(sb: &Superblock, volume: &Volume<'_>, group: &Group) -> Result<Vec<u8>, Damage> {
    read(sb, volume, group, group.inodes, sb.group_inodes.into(), group.inodes_csum)
}

fn read(
    sb: &Superblock,
    volume: &Volume<'_>,
    group: &Group,
    block: u64,
    bits: u64,
    stored: u32,
) -> Result<Vec<u8>, Damage> {
    let bytes = volume.read(block.saturating_mul(sb.block), index(bits.div_ceil(8)))?;
    // The checksum of the bitmap is in the descriptor: that of a copy is an old one.
    if sb.metadata_csum() && group.source == Source::First {
        let sum = crc32c(sb.seed, &[&bytes[..index(bits / 8)]]);
        let mask = if sb.descriptor >= 64 { u32::MAX } else { 0xffff };
        if sum & mask != stored & mask {
            return Err(Damage::Invalid("its checksum is wrong".into()));
        }
    }
    Ok(bytes)
}

/// Returns a bit.
pub(super) fn bit(bytes: &[u8], number: u32) -> Option<bool> {
    let byte = bytes.get(usize::try_from(number / 8).ok()?)?;
    Some(byte >> (number % 8) & 1 != 0)
}

/// Calls `found` with each range of bits below `len` that are 0.
pub(super) fn zeros(bytes: &[u8], len: u64, found: &mut dyn FnMut(u64, u64)) {
    let mut start = None;
    let mut at = 0;
    while at < len {
        let byte = bytes.get(index(at / 8)).copied().unwrap_or(0xff);
        let whole = at % 8 == 0 && len - at >= 8;
        let (step, used) = match byte {
            0 if whole => (8, false),
            0xff if whole => (8, true),
            _ => (1, byte >> (at % 8) & 1 != 0),
        };
        match (used, start) {
            (false, None) => start = Some(at),
            (true, Some(from)) => {
                found(from, at);
                start = None;
            }
            _ => {}
        }
        at += step;
    }
    if let Some(from) = start {
        found(from, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_zeros_are_found() {
        let all = |bytes: &[u8], len| {
            let mut found = Vec::new();
            zeros(bytes, len, &mut |a, b| found.push((a, b)));
            found
        };
        assert_eq!(all(&[0xff, 0, 0x0f, 0xff], 32), [(8, 16), (20, 24)]);
        assert_eq!(all(&[0xff, 0, 0, 0], 27), [(8, 27)]);
        assert_eq!(all(&[0b0101_0101], 8), [(1, 2), (3, 4), (5, 6), (7, 8)]);
        assert_eq!(all(&[0], 20), [(0, 8)]);
        assert_eq!(all(&[], 0), []);
        assert_eq!((bit(&[2], 1), bit(&[2], 0), bit(&[2], 8)), (Some(true), Some(false), None));
    }
}
