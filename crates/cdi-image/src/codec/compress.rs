//! Compression chunks, as a `.cdimg` has them.

use flate2::{Compress, Compression, FlushCompress, Status};

use super::Codec;

/// Compresses chunks, one after the other, reusing its memory.
pub struct Compressor {
    codec: Codec,
    level: i32,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl Compressor {
    /// A compressor for `codec` at `level`, which must be one of [`Codec::levels`].
    pub fn new(codec: Codec, level: i32) -> std::io::Result<Compressor> {
        let zstd = match codec {
            Codec::Zstd => Some(zstd::bulk::Compressor::new(level)?),
            _ => None,
        };
        Ok(Compressor { codec, level, zstd })
    }

    /// Compresses `data` to the end of `out`. `None`, and nothing there, where compression gains less than a sixteenth: such a
    /// chunk is better stored, for it costs nothing to decompress.
    pub fn compress_to(&mut self, data: &[u8], out: &mut Vec<u8>) -> std::io::Result<Option<Codec>> {
        let from = out.len();
        // What is longer is not worth it, and need not be finished.
        let most = (data.len() - data.len() / 16).saturating_sub(1);
        out.resize(from + most, 0);
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
            _ => None,
        };
        out.truncate(from + len.unwrap_or(0));
        Ok(len.map(|_| self.codec))
    }

    /// `data` compressed, by itself.
    pub fn compress(&mut self, data: &[u8]) -> std::io::Result<Option<(Codec, Vec<u8>)>> {
        let mut out = Vec::new();
        Ok(self.compress_to(data, &mut out)?.map(|codec| (codec, out)))
    }
}

/// Whether zstd says that the room is too small. The crate gives its words and not its number.
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

    #[test]
    fn what_is_compressed_comes_back_and_nothing_else_does() {
        for codec in [Codec::Deflate, Codec::Zstd] {
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

    #[test]
    fn what_does_not_compress_is_left_as_it_is() {
        let mut random = 1u64;
        let noise: Vec<u8> = (0..65536)
            .map(|_| {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (random >> 56) as u8
            })
            .collect();
        for codec in [Codec::Stored, Codec::Deflate, Codec::Zstd] {
            let compressor = &mut Compressor::new(codec, codec.levels().1).unwrap();
            assert!(compressor.compress(&noise).unwrap().is_none(), "{codec:?}");
        }
    }
}
