//! Writes Android's sparse images, with every kind of chunk.

use super::crc32;

/// Returns a sparse image with blocks of `block` bytes. A checksum follows each eighth chunk; the last one is in the header,
/// too.
pub fn android_sparse(disk: &[u8], block: usize) -> Vec<u8> {
    android_sparse_part(disk, block, 0..disk.len())
}

/// Returns one piece of a sparse image: it has what is in `part` of the disk, and does not care about the rest.
pub fn android_sparse_part(disk: &[u8], block: usize, part: std::ops::Range<usize>) -> Vec<u8> {
    let is_whole = part == (0..disk.len());
    let kind = |at: usize| {
        let block = &disk[at..at + block];
        let repeated = block.chunks(4).all(|b| b == &block[..4]);
        match () {
            () if !part.contains(&at) || block.iter().all(|b| *b == 0) => 0xCAC3u16,
            () if repeated => 0xCAC2,
            () => 0xCAC1,
        }
    };
    let (mut chunks, mut count, mut at) = (Vec::new(), 0u32, 0);
    while at < disk.len() {
        let start = at;
        let (this, fill) = (kind(at), &disk[at..at + 4]);
        // Blocks of different patterns are different chunks.
        while at < disk.len() && kind(at) == this && (this != 0xCAC2 || disk[at..at + 4] == *fill) {
            at += block;
        }
        let data = match this {
            0xCAC1 => &disk[start..at],
            0xCAC2 => fill,
            _ => &[],
        };
        chunk(&mut chunks, this, (at - start) / block, data);
        count += 1;
        if is_whole && count % 8 == 7 {
            chunk(&mut chunks, 0xCAC4, 0, &crc32(&disk[..at]).to_le_bytes());
            count += 1;
        }
    }
    let mut file = b"\x3A\xFF\x26\xED\x01\0\0\0\x1C\0\x0C\0".to_vec();
    let sum = if is_whole { crc32(disk) } else { 0 };
    for number in [block as u32, (disk.len() / block) as u32, count, sum] {
        file.extend(number.to_le_bytes());
    }
    file.extend(chunks);
    file
}

fn chunk(out: &mut Vec<u8>, kind: u16, blocks: usize, data: &[u8]) {
    out.extend(kind.to_le_bytes());
    out.extend([0, 0]);
    out.extend((blocks as u32).to_le_bytes());
    out.extend((12 + data.len() as u32).to_le_bytes());
    out.extend(data);
}
