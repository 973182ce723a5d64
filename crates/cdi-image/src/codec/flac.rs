//! Sectors compressed as if they were audio: MAME's images use this where it compresses best.

use claxon::frame::FrameReader;

/// Decompresses FLAC frames of 16-bit stereo into `out`. The byte before them gives the byte order of the samples.
pub(super) fn decompress(compressed: &[u8], out: &mut [u8]) -> Option<()> {
    let (order, frames) = compressed.split_first()?;
    let bytes = match order {
        b'L' => i16::to_le_bytes,
        b'B' => i16::to_be_bytes,
        _ => return None,
    };
    let mut frames = FrameReader::new(std::io::Cursor::new(frames));
    let (mut rest, mut buffer) = (out, Vec::new());
    while !rest.is_empty() {
        let block = frames.read_next_or_eof(buffer).ok()??;
        let samples = usize::try_from(block.duration()).ok()?;
        let (now, later) = rest.split_at_mut_checked(samples.checked_mul(4)?)?;
        if block.channels() != 2 || samples == 0 {
            return None;
        }
        let both = block.channel(0).iter().zip(block.channel(1)).flat_map(|(left, right)| [*left, *right]);
        for (place, sample) in now.chunks_exact_mut(2).zip(both) {
            place.copy_from_slice(&bytes(i16::try_from(sample).ok()?));
        }
        rest = later;
        buffer = block.into_buffer();
    }
    Some(())
}
