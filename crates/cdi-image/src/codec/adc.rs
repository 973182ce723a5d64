//! Apple Data Compression, of disk images before Mac OS X 10.4: plain bytes, and copies of what came before.

/// Fills `out` exactly from `compressed`. A first byte of 0x80 or more is followed by so many plain bytes; of 0x40 or more
/// it begins a copy of 4 to 67 bytes from up to 64 KiB before; of less, one of 3 to 18 bytes from up to 1 KiB before.
pub(super) fn decompress(compressed: &[u8], out: &mut [u8]) -> Option<()> {
    let (mut rest, mut at) = (compressed, 0);
    while at < out.len() {
        let (first, behind) = rest.split_first()?;
        let low = usize::from(first & 0x3F);
        if *first >= 0x80 {
            let (plain, behind) = behind.split_at_checked(usize::from(first & 0x7F) + 1)?;
            out.get_mut(at..at + plain.len())?.copy_from_slice(plain);
            (rest, at) = (behind, at + plain.len());
            continue;
        }
        let (len, back, behind) = if *first >= 0x40 {
            let (place, behind) = behind.split_first_chunk()?;
            (low + 4, usize::from(u16::from_be_bytes(*place)), behind)
        } else {
            let (place, behind) = behind.split_first()?;
            ((low >> 2) + 3, (low & 3) << 8 | usize::from(*place), behind)
        };
        let from = at.checked_sub(back + 1)?;
        if at + len > out.len() {
            return None;
        }
        // They may overlap: what was just written is copied on.
        for i in 0..len {
            out[at + i] = out[from + i];
        }
        (rest, at) = (behind, at + len);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_bytes_and_both_kinds_of_copies() {
        // "abc", then 8 bytes from 3 before (a copy of itself), then 3 from the first.
        let compressed = [0x82, b'a', b'b', b'c', 0x44, 0, 2, 0x00, 10];
        let mut out = [0; 14];
        decompress(&compressed, &mut out).unwrap();
        assert_eq!(&out, b"abcabcabcababc");
        assert!(decompress(&compressed, &mut [0; 13]).is_none());
        assert!(decompress(&compressed[..8], &mut out).is_none());
        assert!(decompress(&[0x00, 0], &mut out).is_none(), "nothing is before the first byte");
    }
}
