//! Codecs and checksums of compressed chunks: plain functions over bytes.

#[cfg(feature = "apple")]
mod adc;
mod checksum;
mod compress;
#[cfg(feature = "chd")]
mod flac;
#[cfg(feature = "chd")]
pub(crate) mod huffman;
mod run_lengths;

use std::cell::RefCell;
use std::io::Read;

pub use checksum::{Crc32, Sum, adler32, crc16, crc32};
pub use compress::Compressor;
use flate2::{Decompress, FlushDecompress, Status};

/// How a chunk is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// Not compressed at all.
    Stored = 0,
    /// A bare deflate stream (RFC 1951).
    Deflate = 1,
    /// One zstd frame (RFC 8878).
    Zstd = 2,
    // What follows is in images of other programs, and never in a `.cdimg`.
    /// Not compressed; the Adler-32 of the bytes behind them.
    StoredAdler32 = 128,
    /// A zlib stream (RFC 1950) with its checksum.
    Zlib,
    /// The same, and anything behind it.
    ZlibPadded,
    /// A zlib stream that may have no end: as much of it as fills the chunk.
    ZlibUnended,
    /// The same of a bare deflate stream.
    DeflateUnended,
    /// A zstd frame, and anything behind it.
    ZstdPadded,
    /// A bzip2 stream, and anything behind it.
    Bzip2,
    /// An XZ stream, and anything behind it.
    Xz,
    /// Apple's LZFSE blocks up to their end mark, and anything behind it.
    Lzfse,
    /// Apple Data Compression.
    Adc,
    /// A bare LZ4 block.
    Lz4,
    /// A bare snappy block.
    Snappy,
    /// A bare LZMA stream without an end mark, with the parameters that it has in a CHD.
    Lzma,
    /// FLAC frames, as in a CHD.
    Flac,
    /// A Huffman code of bytes, as in a CHD.
    ChdHuffman,
    /// iBored's run lengths.
    IBoredRunLength,
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
            Codec::Bzip2 => "bzip2",
            Codec::Xz => "xz",
            Codec::Lzfse => "lzfse",
            Codec::Adc => "adc",
            Codec::Lz4 => "lz4",
            Codec::Snappy => "snappy",
            Codec::Lzma => "lzma",
            Codec::Flac => "flac",
            Codec::ChdHuffman => "huffman",
            Codec::IBoredRunLength => "run-length",
        }
    }

    /// The levels at which it compresses, and the default among them. What is only uncompressed has none.
    pub fn levels(self) -> (std::ops::RangeInclusive<i32>, i32) {
        match self {
            Codec::Deflate => (1..=9, 6),
            Codec::Zstd => (1..=19, 3),
            _ => (0..=0, 0),
        }
    }
}

/// A compressed chunk did not decompress to what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadStream;

/// How much memory an XZ stream may ask for, in KiB: the dictionary of its strongest preset.
#[cfg(feature = "apple")]
const XZ_MEMORY: u32 = 65 << 10;

thread_local! {
    // Contexts that would otherwise be allocated anew for each chunk: some 100 KiB of zstd, 500 KiB of LZFSE.
    static UNZSTD: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
    #[cfg(feature = "apple")]
    static UNLZFSE: RefCell<Box<lzfse_rust::LzfseRingDecoder>> = RefCell::default();
}

/// Decompresses `compressed` into `out`, which it must fill exactly: a stream that gives more or less is an error.
pub fn decompress(codec: Codec, compressed: &[u8], out: &mut [u8]) -> Result<(), BadStream> {
    match codec {
        Codec::Stored => {
            if compressed.len() != out.len() {
                return Err(BadStream);
            }
            out.copy_from_slice(compressed);
            Ok(())
        }
        Codec::StoredAdler32 => {
            let (bytes, sum) = compressed.split_last_chunk::<4>().ok_or(BadStream)?;
            if bytes.len() != out.len() || adler32(bytes) != u32::from_le_bytes(*sum) {
                return Err(BadStream);
            }
            out.copy_from_slice(bytes);
            Ok(())
        }
        Codec::Deflate | Codec::Zlib | Codec::ZlibPadded => {
            let mut inflate = Decompress::new(codec != Codec::Deflate);
            let status =
                inflate.decompress(compressed, out, FlushDecompress::Finish).map_err(|_| BadStream)?;
            let all_read = codec == Codec::ZlibPadded || inflate.total_in() == compressed.len() as u64;
            let whole = inflate.total_out() == out.len() as u64 && all_read;
            if status == Status::StreamEnd && whole { Ok(()) } else { Err(BadStream) }
        }
        Codec::ZlibUnended | Codec::DeflateUnended => {
            let mut inflate = Decompress::new(codec == Codec::ZlibUnended);
            // An error behind the last byte that is wanted is none of ours.
            let _ = inflate.decompress(compressed, out, FlushDecompress::None);
            if inflate.total_out() == out.len() as u64 { Ok(()) } else { Err(BadStream) }
        }
        Codec::ZstdPadded => {
            let frame = zstd::zstd_safe::find_frame_compressed_size(compressed).map_err(|_| BadStream)?;
            decompress(Codec::Zstd, compressed.get(..frame).ok_or(BadStream)?, out)
        }
        Codec::Zstd => UNZSTD.with_borrow_mut(|context| {
            if context.is_none() {
                *context = Some(zstd::bulk::Decompressor::new().map_err(|_| BadStream)?);
            }
            let context = context.as_mut().ok_or(BadStream)?;
            match context.decompress_to_buffer(compressed, out) {
                Ok(len) if len == out.len() => Ok(()),
                _ => Err(BadStream),
            }
        }),
        #[cfg(any(feature = "apple", feature = "ewf"))]
        Codec::Bzip2 => {
            let mut stream = bzip2::Decompress::new(false);
            let status = stream.decompress(compressed, out).map_err(|_| BadStream)?;
            // Where the room is full before the end mark was read, another call reads that.
            let status = match status {
                bzip2::Status::StreamEnd => status,
                _ => {
                    let rest = usize::try_from(stream.total_in()).ok().and_then(|n| compressed.get(n..));
                    stream.decompress(rest.ok_or(BadStream)?, &mut []).map_err(|_| BadStream)?
                }
            };
            let whole = stream.total_out() == out.len() as u64;
            if status == bzip2::Status::StreamEnd && whole { Ok(()) } else { Err(BadStream) }
        }
        #[cfg(feature = "apple")]
        Codec::Xz => fill(lzma_rust2::XzReader::new_mem_limit(compressed, false, XZ_MEMORY), out),
        #[cfg(feature = "apple")]
        Codec::Lzfse => UNLZFSE.with_borrow_mut(|decoder| fill(decoder.reader_bytes(compressed), out)),
        #[cfg(feature = "apple")]
        Codec::Adc => adc::decompress(compressed, out).ok_or(BadStream),
        #[cfg(feature = "aff4")]
        Codec::Lz4 => match lz4_flex::block::decompress_into(compressed, out) {
            Ok(len) if len == out.len() => Ok(()),
            _ => Err(BadStream),
        },
        #[cfg(feature = "aff4")]
        Codec::Snappy => match snap::raw::Decoder::new().decompress(compressed, out) {
            Ok(len) if len == out.len() => Ok(()),
            _ => Err(BadStream),
        },
        #[cfg(feature = "chd")]
        Codec::Lzma => {
            // lc, lp, pb; a dictionary as long as what it decompresses to is as good as any.
            let len = u32::try_from(out.len()).map_err(|_| BadStream)?;
            let stream = lzma_rust2::LzmaReader::new(compressed, len.into(), 3, 0, 2, len, None);
            fill(stream.map_err(|_| BadStream)?, out)
        }
        #[cfg(feature = "chd")]
        Codec::Flac => flac::decompress(compressed, out).ok_or(BadStream),
        #[cfg(feature = "chd")]
        Codec::ChdHuffman => huffman::decompress(compressed, out).ok_or(BadStream),
        Codec::IBoredRunLength => run_lengths::decompress(compressed, out).ok_or(BadStream),
        // The codecs of formats that are not built in.
        #[allow(unreachable_patterns)]
        _ => Err(BadStream),
    }
}

/// Fills `out` with all that `stream` gives: no less, and no more.
#[cfg(any(feature = "apple", feature = "chd"))]
fn fill(mut stream: impl Read, out: &mut [u8]) -> Result<(), BadStream> {
    stream.read_exact(out).map_err(|_| BadStream)?;
    match stream.read(&mut [0]) {
        Ok(0) => Ok(()),
        _ => Err(BadStream),
    }
}

/// All that a zlib or bzip2 stream holds, whatever stands behind it, if it is sound and decompresses to at most `most` bytes.
pub fn expand(codec: Codec, compressed: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut limited: Box<dyn Read> = match codec {
        #[cfg(any(feature = "apple", feature = "ewf"))]
        Codec::Bzip2 => Box::new(bzip2::read::BzDecoder::new(compressed)),
        _ => Box::new(flate2::read::ZlibDecoder::new(compressed)),
    };
    limited.by_ref().take(most as u64).read_to_end(&mut out).ok()?;
    matches!(limited.read(&mut [0]), Ok(0)).then_some(out)
}
