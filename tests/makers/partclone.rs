//! partclone's images of version 0001, which no program writes any more. Source: partclone, IMAGE_FORMATS.md, and for the
//! checksum, checksum.c.

/// Returns an image of `disk` in blocks of this many bytes, of which some are used. Checksums have `sum_len` bytes: four,
/// or eight as by programs with a bug on 64-bit machines.
pub fn partclone_v1(disk: &[u8], block: usize, used: &[bool], sum_len: u64) -> Vec<u8> {
    let mut image = b"partclone-image".to_vec();
    image.extend(b"EXTFS\0\0\0\0\0\0\0\0\0\0");
    image.extend(b"0001\0\0");
    image.extend(u32::try_from(block).unwrap().to_le_bytes());
    let count = used.iter().filter(|used| **used).count() as u64;
    for number in [disk.len() as u64, used.len() as u64, count] {
        image.extend(number.to_le_bytes());
    }
    image.resize(4160, 0);
    image.extend(used.iter().map(|used| u8::from(*used)));
    image.extend(b"BiTmAgIc");
    let mut state = u32::MAX;
    for (n, _) in used.iter().enumerate().filter(|(_, used)| **used) {
        let bytes = &disk[n * block..][..block];
        image.extend(bytes);
        // The bug: only the first byte counts, once for each byte.
        for _ in 0..block {
            state ^= u32::from(bytes[0]);
            for _ in 0..8 {
                state = if state & 1 != 0 { state >> 1 ^ 0xEDB8_8320 } else { state >> 1 };
            }
        }
        image.extend(&u64::from(state).to_le_bytes()[..usize::try_from(sum_len).unwrap()]);
    }
    image
}
