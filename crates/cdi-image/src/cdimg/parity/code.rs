//! The Reed-Solomon code of one group, in columns, so that memory stays small.

use cdi_base::units::index;
use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::rate::{HighRateDecoder, HighRateEncoder, RateDecoder, RateEncoder};

use super::layout::{BLOCK_LEN, Span};

/// The number of bytes of each block that are coded at a time. A group of 16,384 blocks takes 16 MiB to encode, and at
/// most 32 MiB to decode.
const COLUMN: usize = 1024;

/// Computes recovery blocks.
#[derive(Default)]
pub(super) struct Encoder(Option<HighRateEncoder<DefaultEngine>>);

impl Encoder {
    /// Returns the recovery blocks of a group, one after the other. `read` reads a part of a data block, by its number in
    /// the group and the offset of the part.
    pub(super) fn encode<E: From<String>>(
        &mut self,
        span: &Span,
        mut read: impl FnMut(u64, usize, &mut [u8]) -> Result<(), E>,
    ) -> Result<Vec<u8>, E> {
        let (data, recovery) = (index(span.data), index(span.recovery));
        let failed = |e: reed_solomon_simd::Error| E::from(e.to_string());
        let mut out = vec![0; recovery * BLOCK_LEN];
        let mut part = [0; COLUMN];
        for start in (0..BLOCK_LEN).step_by(COLUMN) {
            let encoder = match &mut self.0 {
                Some(encoder) => {
                    encoder.reset(data, recovery, COLUMN).map_err(failed)?;
                    encoder
                }
                none => {
                    let engine = DefaultEngine::new();
                    let new = HighRateEncoder::new(data, recovery, COLUMN, engine, None).map_err(failed)?;
                    none.insert(new)
                }
            };
            for n in 0..span.data {
                read(n, start, &mut part)?;
                encoder.add_original_shard(part).map_err(failed)?;
            }
            let encoded = encoder.encode().map_err(failed)?;
            for (n, shard) in encoded.recovery_iter().enumerate() {
                out[n * BLOCK_LEN + start..][..COLUMN].copy_from_slice(shard);
            }
        }
        Ok(out)
    }
}

/// Computes the data blocks `lost` of a group from the others and the recovery blocks `recovery`, of which there must be
/// at least as many; both are numbers in the group. `read` reads a part of a block: of a recovery block if its second
/// argument is set. Returns the blocks in the order of `lost`; None if something could not be read.
pub(super) fn decode(
    span: &Span,
    lost: &[u64],
    recovery: &[u64],
    mut read: impl FnMut(u64, bool, usize, &mut [u8]) -> bool,
) -> Option<Vec<Vec<u8>>> {
    let mut blocks = vec![vec![0; BLOCK_LEN]; lost.len()];
    let (data, all) = (index(span.data), index(span.recovery));
    let mut decoder = HighRateDecoder::new(data, all, COLUMN, DefaultEngine::new(), None).ok()?;
    let mut part = [0; COLUMN];
    for start in (0..BLOCK_LEN).step_by(COLUMN) {
        decoder.reset(data, all, COLUMN).ok()?;
        for n in (0..span.data).filter(|n| lost.binary_search(n).is_err()) {
            if !read(n, false, start, &mut part) {
                return None;
            }
            decoder.add_original_shard(index(n), part).ok()?;
        }
        for n in recovery {
            if !read(*n, true, start, &mut part) {
                return None;
            }
            decoder.add_recovery_shard(index(*n), part).ok()?;
        }
        let decoded = decoder.decode().ok()?;
        for (n, block) in lost.iter().zip(&mut blocks) {
            block[start..start + COLUMN].copy_from_slice(decoded.restored_original(index(*n))?);
        }
    }
    Some(blocks)
}
