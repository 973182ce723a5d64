//! iBored's run-length encoding.

/// Decompresses a header of 16 bytes and segments: each is 16 bytes and a pattern, repeated to fill a number of bytes.
pub(super) fn decompress(compressed: &[u8], out: &mut [u8]) -> Option<()> {
    let number =
        |bytes: &[u8], at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize);
    if !compressed.starts_with(b"\0RLE")
        || number(compressed, 4)? != compressed.len()
        || number(compressed, 8)? != out.len()
    {
        return None;
    }
    let (mut rest, mut left) = (compressed.get(16..)?, out);
    while !rest.is_empty() {
        let (segment, filled, pattern) = (number(rest, 4)?, number(rest, 8)?, number(rest, 12)?);
        let pattern = rest.get(16..16usize.checked_add(pattern)?)?;
        // A segment must be at least as long as its header and its pattern, or the loop would not end.
        if !rest.starts_with(b"\0RLS") || segment < 16 + pattern.len() || (pattern.is_empty() && filled > 0) {
            return None;
        }
        let (now, later) = left.split_at_mut_checked(filled)?;
        for part in now.chunks_mut(pattern.len().max(1)) {
            part.copy_from_slice(&pattern[..part.len()]);
        }
        (rest, left) = (rest.get(segment..)?, later);
    }
    left.is_empty().then_some(())
}
