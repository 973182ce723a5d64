//! Codecs and checksums of packed chunks: plain functions over bytes.

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use xxhash_rust::xxh3::xxh3_64;

/// How a chunk is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// Not packed at all.
    Stored = 0,
    /// A bare deflate stream (RFC 1951).
    Deflate = 1,
    /// One zstd frame (RFC 8878).
    Zstd = 2,
    /// A zlib stream (RFC 1950) with its checksum. Not in a `.cdimg`.
    Zlib = 128,
    /// A zlib stream that may have no end: as much of it as fills the chunk. Not in a `.cdimg`.
    ZlibUnended = 129,
    /// The same of a bare deflate stream. Not in a `.cdimg`.
    DeflateUnended = 133,
    /// iBored's run lengths. Not in a `.cdimg`.
    IBoredRunLength = 130,
    /// A zlib stream with its checksum, and anything behind it. Not in a `.cdimg`.
    ZlibPadded = 131,
    /// A zstd frame, and anything behind it. Not in a `.cdimg`.
    ZstdPadded = 134,
    /// Not packed; the Adler-32 of the bytes behind them. Not in a `.cdimg`.
    StoredAdler32 = 132,
}

impl Codec {
    /// The codec with this number in a `.cdimg`.
    pub fn from_number(number: u8) -> Option<Codec> {
        [Codec::Stored, Codec::Deflate, Codec::Zstd].into_iter().find(|c| *c as u8 == number)
    }

    /// Its name, as `--codec` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Codec::Stored | Codec::StoredAdler32 => "stored",
            Codec::Deflate | Codec::DeflateUnended => "deflate",
            Codec::Zstd | Codec::ZstdPadded => "zstd",
            Codec::Zlib | Codec::ZlibUnended | Codec::ZlibPadded => "zlib",
            Codec::IBoredRunLength => "run-length",
        }
    }

    /// The levels at which it packs, and the default among them. What is only unpacked has none.
    pub fn levels(self) -> (std::ops::RangeInclusive<i32>, i32) {
        match self {
            Codec::Stored
            | Codec::StoredAdler32
            | Codec::Zlib
            | Codec::ZlibUnended
            | Codec::ZlibPadded
            | Codec::DeflateUnended
            | Codec::ZstdPadded
            | Codec::IBoredRunLength => (0..=0, 0),
            Codec::Deflate => (1..=9, 6),
            Codec::Zstd => (1..=19, 3),
        }
    }
}

/// A checksum of a packed chunk, as it lies in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sum {
    /// The format has none: damage cannot be noticed here.
    None,
    /// XXH3, 64 bits, seed 0.
    Xxh3(u64),
}

impl Sum {
    /// Whether `packed` has this checksum.
    pub fn holds(self, packed: &[u8]) -> bool {
        match self {
            Sum::None => true,
            Sum::Xxh3(sum) => xxh3_64(packed) == sum,
        }
    }
}

/// A packed chunk did not unpack to what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadStream;

thread_local! {
    // A zstd context is some 100 KiB that would otherwise be allocated anew for each chunk.
    static UNZSTD: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Unpacks `packed` into `out`, which it must fill exactly: a stream that gives more or less is an error.
pub fn unpack(codec: Codec, packed: &[u8], out: &mut [u8]) -> Result<(), BadStream> {
    match codec {
        Codec::Stored => {
            if packed.len() != out.len() {
                return Err(BadStream);
            }
            out.copy_from_slice(packed);
            Ok(())
        }
        Codec::StoredAdler32 => {
            let (bytes, sum) = packed.split_last_chunk::<4>().ok_or(BadStream)?;
            if bytes.len() != out.len() || adler32(bytes) != u32::from_le_bytes(*sum) {
                return Err(BadStream);
            }
            out.copy_from_slice(bytes);
            Ok(())
        }
        Codec::Deflate | Codec::Zlib | Codec::ZlibPadded => {
            let mut inflate = Decompress::new(codec != Codec::Deflate);
            let status = inflate.decompress(packed, out, FlushDecompress::Finish).map_err(|_| BadStream)?;
            let all_read = codec == Codec::ZlibPadded || inflate.total_in() == packed.len() as u64;
            let whole = inflate.total_out() == out.len() as u64 && all_read;
            if status == Status::StreamEnd && whole { Ok(()) } else { Err(BadStream) }
        }
        Codec::ZlibUnended | Codec::DeflateUnended => {
            let mut inflate = Decompress::new(codec == Codec::ZlibUnended);
            // An error behind the last byte that is wanted is none of ours.
            let _ = inflate.decompress(packed, out, FlushDecompress::None);
            if inflate.total_out() == out.len() as u64 { Ok(()) } else { Err(BadStream) }
        }
        Codec::ZstdPadded => {
            let frame = zstd::zstd_safe::find_frame_compressed_size(packed).map_err(|_| BadStream)?;
            unpack(Codec::Zstd, packed.get(..frame).ok_or(BadStream)?, out)
        }
        Codec::IBoredRunLength => unpack_run_lengths(packed, out).ok_or(BadStream),
        Codec::Zstd => UNZSTD.with_borrow_mut(|context| {
            if context.is_none() {
                *context = Some(zstd::bulk::Decompressor::new().map_err(|_| BadStream)?);
            }
            let context = context.as_mut().ok_or(BadStream)?;
            match context.decompress_to_buffer(packed, out) {
                Ok(len) if len == out.len() => Ok(()),
                _ => Err(BadStream),
            }
        }),
    }
}

/// What the zlib stream at the start of `packed` holds, if it is sound and at most `most` bytes.
pub fn inflate(packed: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut inflate = Decompress::new(true);
    let mut out = Vec::with_capacity(most.min(packed.len().saturating_mul(4).max(4096)));
    loop {
        let from = usize::try_from(inflate.total_in()).ok()?;
        let status = inflate.decompress_vec(packed.get(from..)?, &mut out, FlushDecompress::Finish).ok()?;
        match status {
            Status::StreamEnd => return Some(out),
            _ if out.len() == out.capacity() && out.len() < most => {
                out.reserve_exact(out.len().min(most - out.len()));
            }
            _ => return None,
        }
    }
}

/// Adler-32 (RFC 1950).
pub fn adler32(bytes: &[u8]) -> u32 {
    let (mut a, mut b) = (1u32, 0u32);
    // So many bytes cannot make the sums overflow.
    for part in bytes.chunks(5552) {
        for byte in part {
            a += u32::from(*byte);
            b += a;
        }
        (a, b) = (a % 65_521, b % 65_521);
    }
    b << 16 | a
}

/// iBored's run lengths: a head of 16 bytes, then segments of 16 bytes and a pattern, which fills a number of bytes.
fn unpack_run_lengths(packed: &[u8], out: &mut [u8]) -> Option<()> {
    let number =
        |bytes: &[u8], at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize);
    if !packed.starts_with(b"\0RLE") || number(packed, 4)? != packed.len() || number(packed, 8)? != out.len()
    {
        return None;
    }
    let (mut rest, mut left) = (packed.get(16..)?, out);
    while !rest.is_empty() {
        let (segment, filled, pattern) = (number(rest, 4)?, number(rest, 8)?, number(rest, 12)?);
        let pattern = rest.get(16..16usize.checked_add(pattern)?)?;
        // A segment is at least as long as its head and its pattern, or there would be no end.
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
