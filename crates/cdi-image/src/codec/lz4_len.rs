//! The length of an LZ4 block when it is decompressed, which the block does not record.
//!
//! Source: "LZ4 Block Format Description".

/// Returns how many bytes `block` decompresses to; None if it is not a whole LZ4 block.
pub(crate) fn lz4_len(block: &[u8]) -> Option<u64> {
    let mut rest = block;
    let mut len = 0u64;
    loop {
        // A sequence: the lengths of its literals and of its match, each continued in more bytes if it is 15.
        let (token, tail) = rest.split_first()?;
        rest = tail;
        let literals = length(token >> 4, &mut rest)?;
        len += literals;
        rest = rest.get(usize::try_from(literals).ok()?..)?;
        if rest.is_empty() {
            return Some(len);
        }
        // The offset of the match. A match has at least four bytes.
        rest = rest.get(2..)?;
        len += length(token & 0xF, &mut rest)? + 4;
    }
}

fn length(start: u8, rest: &mut &[u8]) -> Option<u64> {
    let mut len = u64::from(start);
    let mut more = start == 15;
    while more {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        len += u64::from(*byte);
        more = *byte == 255;
    }
    Some(len)
}

#[cfg(test)]
mod tests {
    use super::lz4_len;

    #[test]
    fn the_length_is_that_of_the_decompressed_block() {
        let mut random = 7u64;
        for len in [0, 1, 14, 15, 16, 300, 4096, 70_000] {
            let bytes: Vec<u8> = (0..len)
                .map(|n| {
                    random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    if n % 1000 < 400 { u8::try_from(random >> 56).unwrap() } else { b'a' }
                })
                .collect();
            let block = lz4_flex::block::compress(&bytes);
            assert_eq!(lz4_len(&block), Some(len));
            // Of a part of it, another length or none, and no panic.
            for end in 0..block.len().min(200) {
                let _ = lz4_len(&block[..end]);
            }
        }
        assert_eq!(lz4_len(&[]), None);
    }
}
