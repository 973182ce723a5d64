//! Changes VHDX images: a log that was not replayed, and a child of an image.

use crc::{CRC_32_ISCSI, Crc};

/// Signs a structure of a VHDX whose checksum stands at byte 4.
pub fn vhdx_sign(bytes: &mut [u8]) {
    bytes[4..8].fill(0);
    let sum = Crc::<u32>::new(&CRC_32_ISCSI).checksum(bytes);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
}

pub fn le(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

/// Where the regions of a VHDX are: its blocks, its metadata.
pub fn vhdx_regions(bytes: &[u8]) -> (usize, usize) {
    let table = 192 << 10;
    let region = |n: usize| le(bytes, table + 16 + n * 32 + 16);
    let is_bat = bytes[table + 16..][..4] == 0x2DC2_7766u32.to_le_bytes();
    if is_bat { (region(0), region(1)) } else { (region(1), region(0)) }
}
