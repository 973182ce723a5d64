//! Packing chunks, as a `.cdimg` has them.

use flate2::{Compress, Compression, FlushCompress, Status};

use super::Codec;

/// Packs chunks, one after the other, reusing its memory.
pub struct Packer {
    codec: Codec,
    level: i32,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl Packer {
    /// A packer for `codec` at `level`, which must be one of [`Codec::levels`].
    pub fn new(codec: Codec, level: i32) -> std::io::Result<Packer> {
        let zstd = match codec {
            Codec::Zstd => Some(zstd::bulk::Compressor::new(level)?),
            _ => None,
        };
        Ok(Packer { codec, level, zstd })
    }

    /// Packs `data` to the end of `out`. `None`, and nothing there, where packing gains less than a sixteenth: such a
    /// chunk is better stored, for it costs nothing to unpack.
    pub fn pack_to(&mut self, data: &[u8], out: &mut Vec<u8>) -> std::io::Result<Option<Codec>> {
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

    /// `data` packed, by itself.
    pub fn pack(&mut self, data: &[u8]) -> std::io::Result<Option<(Codec, Vec<u8>)>> {
        let mut out = Vec::new();
        Ok(self.pack_to(data, &mut out)?.map(|codec| (codec, out)))
    }
}

/// Whether zstd says that the room is too small. The crate gives its words and not its number.
fn is_full(e: &std::io::Error) -> bool {
    e.to_string().contains("too small")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{BadStream, unpack};

    fn text() -> Vec<u8> {
        (0..20_000u32).flat_map(|i| format!("sector {} ", i / 7).into_bytes()).take(65536).collect()
    }

    #[test]
    fn what_is_packed_comes_back_and_nothing_else_does() {
        for codec in [Codec::Deflate, Codec::Zstd] {
            let data = text();
            let (got, packed) = Packer::new(codec, codec.levels().1).unwrap().pack(&data).unwrap().unwrap();
            assert_eq!(got, codec);
            assert!(packed.len() * 4 < data.len());
            let mut out = vec![0; data.len()];
            unpack(codec, &packed, &mut out).unwrap();
            assert!(out == data);
            for wrong in [data.len() - 1, data.len() + 1, 0] {
                assert_eq!(unpack(codec, &packed, &mut vec![0; wrong]), Err(BadStream), "{codec:?} {wrong}");
            }
            assert_eq!(unpack(codec, &packed[..packed.len() - 1], &mut out), Err(BadStream));
        }
    }

    #[test]
    fn what_does_not_pack_is_left_as_it_is() {
        let mut random = 1u64;
        let noise: Vec<u8> = (0..65536)
            .map(|_| {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (random >> 56) as u8
            })
            .collect();
        for codec in [Codec::Stored, Codec::Deflate, Codec::Zstd] {
            let packer = &mut Packer::new(codec, codec.levels().1).unwrap();
            assert!(packer.pack(&noise).unwrap().is_none(), "{codec:?}");
        }
    }
}
