//! Writes DiskCopy 4.2 images.

use super::put;

/// An image of a floppy disk with these tags, 12 bytes for each sector, or none.
pub fn diskcopy(disk: &[u8], tags: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 64];
    file[..9].copy_from_slice(b"\x08My D\x8Esk!");
    put!(file, disk.len() as u32, tags.len() as u32, checksum(disk), checksum(tags.get(12..).unwrap_or(&[])));
    // The encoding of the disk, and how it is formatted.
    let kind = if disk.len() == 400 << 10 { [0u8, 2] } else { [1, 0x22] };
    put!(file, kind[0], kind[1], 0x100u16);
    [&file, disk, tags].concat()
}

fn checksum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair[1]);
    bytes.chunks(2).fold(0u32, |sum, pair| {
        let sum = (u64::from(sum) + u64::from(word(pair))) as u32;
        sum.rotate_right(1)
    })
}
