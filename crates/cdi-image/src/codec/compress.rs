//! Compresses the chunks of a `.cdimg`.

use flate2::{Compress, Compression, FlushCompress, Status};
use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};

use super::Codec;

/// Compresses chunks one after another, reusing its buffers.
pub struct Compressor {
    codec: Codec,
    level: i32,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    lz4: CompressTable,
}

impl Compressor {
    /// Creates a compressor for `codec` at `level`, which must be one of [`Codec::levels`].
    pub fn new(codec: Codec, level: i32) -> std::io::Result<Compressor> {
        let zstd = match codec {
            Codec::Zstd => Some(zstd::bulk::Compressor::new(level)?),
            _ => None,
        };
        Ok(Compressor { codec, level, zstd, lz4: CompressTable::default() })
    }

    /// Compresses `data` and appends the result to `out`. Returns `None` and appends nothing if compression would save
    /// less than a sixteenth: such a chunk is better stored uncompressed, since reading it then costs no decompression.
    pub fn compress_to(&mut self, data: &[u8], out: &mut Vec<u8>) -> std::io::Result<Option<Codec>> {
        let from = out.len();
        if matches!(self.codec, Codec::Zstd | Codec::Deflate) && self.is_noise(data, out)? {
            return Ok(None);
        }
        // A longer result is not worth it, so compression may stop there.
        let max = (data.len() - data.len() / 16).saturating_sub(1);
        // LZ4 asks for room for the longest result.
        let room = if self.codec == Codec::Lz4 { get_maximum_output_size(data.len()) } else { max };
        out.resize(from + room, 0);
        let room = &mut out[from..];
        let len = match (self.codec, &mut self.zstd) {
            (Codec::Zstd, Some(zstd)) => match zstd.compress_to_buffer(data, room) {
                Ok(len) => Some(len),
                Err(e) if is_full(&e) => None,
                Err(e) => return Err(e),
            },
            (Codec::Deflate, _) => {
                let mut deflate = Compress::new(Compression::new(self.level.unsigned_abs()), false);
                let status =
                    deflate.compress(data, room, FlushCompress::Finish).map_err(std::io::Error::other)?;
                usize::try_from(deflate.total_out()).ok().filter(|_| status == Status::StreamEnd)
            }
            (Codec::Lz4, _) => {
                let len =
                    compress_into_with_table(data, room, &mut self.lz4).map_err(std::io::Error::other)?;
                Some(len).filter(|len| *len <= max)
            }
            _ => None,
        };
        out.truncate(from + len.unwrap_or(0));
        Ok(len.map(|_| self.codec))
    }

    /// Returns whether `data` cannot be compressed, as far as can be found out quickly: no byte is more frequent than others
    /// in a sample of it, and LZ4, which does not spend more time on such data than copying it takes, finds next to no
    /// repetitions. Most of what fills disks is compressed already, and zstd would need seven times as long for it. `out`
    /// is as before afterwards.
    fn is_noise(&mut self, data: &[u8], out: &mut Vec<u8>) -> std::io::Result<bool> {
        if data.len() < SAMPLE || !is_flat(data) {
            return Ok(false);
        }
        let from = out.len();
        out.resize(from + get_maximum_output_size(data.len()), 0);
        let len = compress_into_with_table(data, &mut out[from..], &mut self.lz4);
        out.truncate(from);
        Ok(len.map_err(std::io::Error::other)? > data.len() - data.len() / 64)
    }

    /// Compresses `data` into a new buffer; see [`Compressor::compress_to`].
    pub fn compress(&mut self, data: &[u8]) -> std::io::Result<Option<(Codec, Vec<u8>)>> {
        let mut out = Vec::new();
        Ok(self.compress_to(data, &mut out)?.map(|codec| (codec, out)))
    }
}

/// The number of bytes of a sample.
const SAMPLE: usize = 1024;
/// The length of each run of bytes of which a sample consists.
const RUN: usize = 16;

/// Returns whether no byte is much more frequent than others in a sample of `data`, which is at least as long: whether two
/// bytes of the sample are equal no more often than by a quarter more than those of random data.
fn is_flat(data: &[u8]) -> bool {
    let mut counts = [0u32; 256];
    let step = data.len() / (SAMPLE / RUN);
    data.chunks(step).for_each(|part| part.iter().take(RUN).for_each(|byte| counts[usize::from(*byte)] += 1));
    let total: u32 = counts.iter().sum();
    let equal: u32 = counts.iter().map(|n| n * n).sum::<u32>() - total;
    equal <= total * total / 256 * 5 / 4
}

/// Checks whether zstd reports that the buffer is too small. The crate passes on the message, but not the error code.
fn is_full(e: &std::io::Error) -> bool {
    e.to_string().contains("too small")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{BadStream, decompress};

    fn text() -> Vec<u8> {
        (0..20_000u32).flat_map(|i| format!("sector {} ", i / 7).into_bytes()).take(65536).collect()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut random = 1u64;
        let next = || {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 56) as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    #[test]
    fn compressed_data_round_trips_and_damaged_data_fails() {
        for codec in [Codec::Deflate, Codec::Zstd, Codec::Lz4] {
            let data = text();
            let (got, compressed) =
                Compressor::new(codec, codec.levels().1).unwrap().compress(&data).unwrap().unwrap();
            assert_eq!(got, codec);
            assert!(compressed.len() * 4 < data.len());
            let mut out = vec![0; data.len()];
            decompress(codec, &compressed, &mut out).unwrap();
            assert!(out == data);
            for wrong in [data.len() - 1, data.len() + 1, 0] {
                assert_eq!(
                    decompress(codec, &compressed, &mut vec![0; wrong]),
                    Err(BadStream),
                    "{codec:?} {wrong}"
                );
            }
            assert_eq!(decompress(codec, &compressed[..compressed.len() - 1], &mut out), Err(BadStream));
        }
    }

    /// Bytes that look like noise one by one, but repeat, or are noise in a part only.
    #[test]
    fn what_only_looks_like_noise_is_compressed() {
        let noise = noise(65536);
        let repeated = [&noise[..16384], &noise[..16384], &noise[..32768]].concat();
        let half = [&noise[..32768], &text()[..32768]].concat();
        for data in [repeated, half] {
            let compressor = &mut Compressor::new(Codec::Zstd, 3).unwrap();
            let (_, compressed) = compressor.compress(&data).unwrap().unwrap();
            assert!(compressed.len() < data.len() * 4 / 5, "{}", compressed.len());
        }
    }

    #[test]
    fn incompressible_data_is_not_compressed() {
        let noise = noise(65536);
        for codec in [Codec::Stored, Codec::Deflate, Codec::Zstd, Codec::Lz4] {
            let compressor = &mut Compressor::new(codec, codec.levels().1).unwrap();
            assert!(compressor.compress(&noise).unwrap().is_none(), "{codec:?}");
        }
    }
}
