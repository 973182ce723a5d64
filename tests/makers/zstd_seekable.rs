//! Writes zstd's seekable format.

/// zstd's seekable format, with checksums.
pub fn zstd_seekable(disk: &[u8], frame: usize) -> Vec<u8> {
    let (mut file, mut table) = (Vec::new(), Vec::new());
    for part in disk.chunks(frame) {
        let compressed = zstd::bulk::compress(part, 3).unwrap();
        let sum = xxhash_rust::xxh64::xxh64(part, 0) as u32;
        [compressed.len() as u32, part.len() as u32, sum].iter().for_each(|n| table.extend(n.to_le_bytes()));
        file.extend(compressed);
    }
    let count = (table.len() / 12) as u32;
    [0x184D_2A5E, table.len() as u32 + 9].iter().for_each(|n: &u32| file.extend(n.to_le_bytes()));
    file.extend(table);
    file.extend(count.to_le_bytes());
    file.push(0x80);
    file.extend(0x8F92_EAB1u32.to_le_bytes());
    file
}
