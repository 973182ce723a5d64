//! Frames of zstd (RFC 8878).

/// Returns a frame that zstd made of a stream, with a header that says that it is 1 TiB long: readers that look at that treat
/// it as the long frame of a whole disk.
pub fn as_long_frame(frame: &[u8]) -> Vec<u8> {
    let (magic, rest) = frame.split_at(4);
    // Of a stream, the length is not known; the window's length comes next.
    assert_eq!(rest[0] & 0xE3, 0, "not a frame of a stream");
    [magic, &[rest[0] | 0xC0, rest[1]], &(1u64 << 40).to_le_bytes(), &rest[2..]].concat()
}
