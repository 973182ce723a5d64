//! Apple Data Compression, used in disk images before Mac OS X 10.4: literal bytes, and copies of earlier output.

/// Decompresses `compressed`, which must fill `out` exactly. A first byte of 0x80 or more is followed by literal bytes,
/// 1 more than its low seven bits; 0x40 or more begins a copy of 4 to 67 bytes from up to 64 KiB back; less, a copy of
/// 3 to 18 bytes from up to 1 KiB back.
pub(super) fn decompress(compressed: &[u8], out: &mut [u8]) -> Option<()> {
    let (mut rest, mut at) = (compressed, 0);
    while at < out.len() {
        let (first, tail) = rest.split_first()?;
        let low = usize::from(first & 0x3F);
        if *first >= 0x80 {
            let (plain, tail) = tail.split_at_checked(usize::from(first & 0x7F) + 1)?;
            out.get_mut(at..at + plain.len())?.copy_from_slice(plain);
            (rest, at) = (tail, at + plain.len());
            continue;
        }
        let (len, back, tail) = if *first >= 0x40 {
            let (place, tail) = tail.split_first_chunk()?;
            (low + 4, usize::from(u16::from_be_bytes(*place)), tail)
        } else {
            let (place, tail) = tail.split_first()?;
            ((low >> 2) + 3, (low & 3) << 8 | usize::from(*place), tail)
        };
        let from = at.checked_sub(back + 1)?;
        if at + len > out.len() {
            return None;
        }
        // The ranges may overlap: bytes just written are copied again.
        for i in 0..len {
            out[at + i] = out[from + i];
        }
        (rest, at) = (tail, at + len);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_both_kinds_of_copies_are_decompressed() {
        // "abc", then 8 bytes from 3 before (a copy of itself), then 3 from the first.
        let compressed = [0x82, b'a', b'b', b'c', 0x44, 0, 2, 0x00, 10];
        let mut out = [0; 14];
        decompress(&compressed, &mut out).unwrap();
        assert_eq!(&out, b"abcabcabcababc");
        assert!(decompress(&compressed, &mut [0; 13]).is_none());
        assert!(decompress(&compressed[..8], &mut out).is_none());
        assert!(decompress(&[0x00, 0], &mut out).is_none(), "a copy from before the first byte");
    }
}
