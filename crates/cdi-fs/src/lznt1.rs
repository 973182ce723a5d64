//! Decompresses LZNT1: contents that NTFS stores compressed.
//!
//! A compressed file consists of units of 16 clusters. A unit with clusters for all of it is stored as it is; one without any
//! reads as zeros; one with fewer is stored compressed, as chunks of at most 4 KiB. Facts: [MS-XCA] 2.5, `ntfs_decompress` in
//! ntfs-3g's compress.c.
//!
//! To read such a file: go through its runs, cut at multiples of the unit, and collect the bytes of the runs with blocks; at
//! the end of each unit, [`unit()`] makes its bytes of them. The last unit is cut at the size of the file. Runs that are
//! unwritten are whole units, and zeros. A bad sector costs its unit.

/// What a chunk has at most when it is decompressed, in bytes.
const CHUNK: usize = 4096;

/// Returns the `size` bytes of a unit of a compressed file, of which the clusters that it has are in `stored`: zeros if it has
/// none, as they are if it has all, and decompressed if it has some. None if they make no sense.
pub fn unit(stored: &[u8], size: usize) -> Option<Vec<u8>> {
    match stored.get(..size) {
        _ if stored.is_empty() => Some(vec![0; size]),
        Some(whole) => Some(whole.to_vec()),
        None => decompress(stored, size),
    }
}

/// Decompresses the `size` bytes of a unit from the contents of its clusters. What the chunks do not reach is zeros, as in
/// Windows. None if they make no sense.
pub fn decompress(unit: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(size);
    let mut rest = unit;
    while out.len() < size {
        // A head of zeros, or none, ends the chunks.
        let Some((head, after)) = rest.split_first_chunk::<2>() else { break };
        let head = u16::from_le_bytes(*head);
        if head == 0 {
            break;
        }
        let (chunk, next) = after.split_at_checked(usize::from(head & 0xFFF) + 1)?;
        rest = next;
        // Every chunk but the last has 4 KiB, even where its bytes end before that.
        out.resize(out.len().next_multiple_of(CHUNK), 0);
        if out.len() >= size {
            break;
        }
        if head & 0x8000 == 0 {
            out.extend_from_slice(chunk);
        } else {
            inflate(chunk, &mut out)?;
        }
    }
    out.resize(size, 0);
    Some(out)
}

/// Appends what a compressed chunk has.
fn inflate(chunk: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    let mut rest = chunk;
    while let Some((&flags, after)) = rest.split_first() {
        rest = after;
        for bit in 0..8 {
            if flags >> bit & 1 == 0 {
                let Some((&byte, after)) = rest.split_first() else { return Some(()) };
                rest = after;
                out.push(byte);
            } else {
                let (&token, after) = rest.split_first_chunk::<2>()?;
                rest = after;
                copy(out, start, u16::from_le_bytes(token))?;
            }
            if out.len() - start > CHUNK {
                return None;
            }
        }
    }
    Some(())
}

/// Appends bytes that occurred before in the chunk, which began at `start`. The more there are already, the more bits of the
/// token are for the distance, and the fewer for the length.
fn copy(out: &mut Vec<u8>, start: usize, token: u16) -> Option<()> {
    let has = out.len() - start;
    let bits = has.checked_sub(1)?.checked_ilog2().map_or(4, |log| (log + 1).max(4));
    let token = usize::from(token);
    let lens = 16u32.checked_sub(bits)?;
    let back = (token >> lens) + 1;
    let len = (token & ((1 << lens) - 1)) + 3;
    let from = out.len().checked_sub(back).filter(|&from| from >= start)?;
    if has + len > CHUNK {
        return None;
    }
    for at in from..from + len {
        out.push(out[at]);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [MS-XCA] 3.3.
    const EXAMPLE: &[u8] = &[
        0x38, 0xb0, 0x88, 0x46, 0x23, 0x20, 0x00, 0x20, 0x47, 0x20, 0x41, 0x00, 0x10, 0xa2, 0x47, 0x01, 0xa0,
        0x45, 0x20, 0x44, 0x00, 0x08, 0x45, 0x01, 0x50, 0x79, 0x00, 0xc0, 0x45, 0x20, 0x05, 0x24, 0x13, 0x88,
        0x05, 0xb4, 0x02, 0x4a, 0x44, 0xef, 0x03, 0x58, 0x02, 0x8c, 0x09, 0x16, 0x01, 0x48, 0x45, 0x00, 0xbe,
        0x00, 0x9e, 0x00, 0x04, 0x01, 0x18, 0x90, 0x00,
    ];

    #[test]
    fn the_example_of_the_specification() {
        let text = decompress(EXAMPLE, 142).unwrap();
        assert_eq!(text.len(), 142);
        assert!(text.starts_with(b"F# F# G A A G F# E D D E F# F# E E F# F# G A A G"), "{text:?}");
        assert!(text.ends_with(b"E D D\0"), "{:?}", String::from_utf8_lossy(&text));
    }

    #[test]
    fn stored_chunks_and_zeros() {
        let mut unit = 0x3FFFu16.to_le_bytes().to_vec();
        unit.extend([7; 4096]);
        unit.extend([0x02, 0xB0, 0x02, b'a', 0xFC]);
        assert_eq!(decompress(&unit, 4097), None, "a token is cut off");
        unit.truncate(4098);
        unit.extend([0x03, 0xB0, 0x02, b'a', 0xFC, 0x0F]);
        let out = decompress(&unit, 3 * 4096).unwrap();
        assert!(out[..4096].iter().all(|&byte| byte == 7));
        assert!(out[4096..8192].iter().all(|&byte| byte == b'a'), "{:?}", &out[4096..4110]);
        assert!(out[8192..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn the_example_with_other_bytes() {
        for at in 0..EXAMPLE.len() {
            for byte in 0..=255 {
                let mut unit = EXAMPLE.to_vec();
                unit[at] = byte;
                assert!(decompress(&unit, 142).is_none_or(|out| out.len() == 142));
                assert!(decompress(&unit[..at], 142).is_none_or(|out| out.len() == 142));
            }
        }
    }

    #[test]
    fn a_unit_has_all_some_or_no_clusters() {
        assert_eq!(unit(&[], 8).unwrap(), [0; 8]);
        assert_eq!(unit(&[1, 2, 3, 4], 4).unwrap(), [1, 2, 3, 4]);
        assert_eq!(unit(&[1, 0xB0, 0, b'a'], 5).unwrap(), [b'a', 0, 0, 0, 0]);
    }

    #[test]
    fn nonsense_is_refused_and_ends() {
        let mut seed = 1u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33).to_le_bytes()[0]
        };
        for len in 0..4000 {
            let mut unit: Vec<u8> = (0..len).map(|_| random()).collect();
            if let Some(byte) = unit.get_mut(1) {
                *byte |= 0x80;
            }
            if let Some(out) = decompress(&unit, 65_536) {
                assert_eq!(out.len(), 65_536);
            }
        }
    }
}
