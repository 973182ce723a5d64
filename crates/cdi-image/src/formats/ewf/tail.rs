//! Bytes after the disk's last sector: the image of a file whose length is not a multiple of the sector size has them,
//! in its last chunk.

use cdi_base::units::index;

use crate::codec::{Codec, adler32, expand};
use crate::details::ImageDetails;

/// Checks whether the disk's last chunk, whose stored form is `stored`, contains more than the `wanted` bytes of the
/// disk, and if so, records that in `details`: stored hashes may include these bytes. `max` is the length of a whole
/// chunk in bytes. Returns the number of bytes in the last chunk, if it is more than the disk has there.
pub(crate) fn note(
    details: &mut ImageDetails,
    sector: u64,
    codec: Codec,
    stored: &[u8],
    wanted: u64,
    max: u64,
) -> Option<u32> {
    let bytes = decode_chunk(codec, stored, wanted, max)?;
    let after = &bytes[index(wanted)..];
    if after.is_empty() {
        return None;
    }
    details.warnings.push(warning(after.len(), sector));
    details.metadata.more.insert("bytes_after_disk".into(), after.len().into());
    details.stored_hashes.iter_mut().for_each(|stored| stored.after = after.to_vec());
    u32::try_from(bytes.len()).ok().filter(|_| wanted > 0)
}

/// Returns all bytes of the chunk whose stored form is `stored`, if it passes its check and contains at least `wanted`
/// bytes. `max` is the length of a whole chunk in bytes. Padding may follow the chunk.
fn decode_chunk(codec: Codec, stored: &[u8], wanted: u64, max: u64) -> Option<Vec<u8>> {
    let (wanted, max) = (index(wanted), index(max));
    let bytes = match codec {
        Codec::StoredAdler32 => {
            let verified = |len: usize| {
                let (bytes, sum) = (stored.get(..len)?, stored.get(len..)?.first_chunk::<4>()?);
                (adler32(bytes) == u32::from_le_bytes(*sum)).then(|| bytes.to_vec())
            };
            verified(wanted).or_else(|| verified(stored.len().checked_sub(4)?.min(max)))?
        }
        Codec::Stored => return None,
        _ => expand(codec, stored, max)?,
    };
    (bytes.len() >= wanted).then_some(bytes)
}

/// Returns the warning about `bytes` bytes after the disk.
fn warning(bytes: usize, sector: u64) -> String {
    format!(
        "the image contains {bytes} bytes after the last whole sector of {sector} bytes, since its source was not a \
         multiple of the sector size; they are not part of the disk, but stored hashes may include them"
    )
}
