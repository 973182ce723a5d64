//! Changes VHD images: a child of an image.

/// The one's complement of the sum of all bytes, with the checksum's own taken for zeros, put in its place.
pub fn vhd_sum(bytes: &mut [u8], at: usize) {
    bytes[at..at + 4].fill(0);
    let sum = !bytes.iter().fold(0u32, |sum, b| sum.wrapping_add(u32::from(*b)));
    bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
}
