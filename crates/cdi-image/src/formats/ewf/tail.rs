//! Bytes after the disk's last sector: an image of a file that is not whole sectors holds them, in its last chunk.

use cdi_base::units::index;

use crate::codec::{Codec, adler32, expand};
use crate::details::ImageDetails;

/// Looks at what the disk's last chunk, which is stored in `stored`, holds after the `wanted` bytes of the disk, and says so
/// in `about`; stored hashes may cover it. `most` is the length of a whole chunk. Returns how many bytes the last chunk
/// holds, if that is more than the disk has there.
pub(crate) fn note(
    details: &mut ImageDetails,
    sector: u64,
    codec: Codec,
    stored: &[u8],
    wanted: u64,
    most: u64,
) -> Option<u32> {
    let bytes = whole(codec, stored, wanted, most)?;
    let after = &bytes[index(wanted)..];
    if after.is_empty() {
        return None;
    }
    details.warnings.push(warning(after.len(), sector));
    details.metadata.more.insert("bytes_after_disk".into(), after.len().into());
    details.stored_hashes.iter_mut().for_each(|stored| stored.after = after.to_vec());
    u32::try_from(bytes.len()).ok().filter(|_| wanted > 0)
}

/// All bytes of a chunk that is stored in `stored` and holds at least `wanted`, if it passes its check. `most` is the
/// length of a whole chunk. Padding may follow a chunk.
fn whole(codec: Codec, stored: &[u8], wanted: u64, most: u64) -> Option<Vec<u8>> {
    let (wanted, most) = (index(wanted), index(most));
    let bytes = match codec {
        Codec::StoredAdler32 => {
            let sound = |len: usize| {
                let (bytes, sum) = (stored.get(..len)?, stored.get(len..)?.first_chunk::<4>()?);
                (adler32(bytes) == u32::from_le_bytes(*sum)).then(|| bytes.to_vec())
            };
            sound(wanted).or_else(|| sound(stored.len().checked_sub(4)?.min(most)))?
        }
        Codec::Stored => return None,
        _ => expand(codec, stored, most)?,
    };
    (bytes.len() >= wanted).then_some(bytes)
}

/// The warning about so many bytes after the disk.
fn warning(bytes: usize, sector: u64) -> String {
    format!(
        "the image holds {bytes} bytes after the last whole sector of {sector} bytes: its source was not whole sectors. They \
         are not part of the disk; stored hashes may cover them"
    )
}
