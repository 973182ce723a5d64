//! Codecs and checksums of compressed chunks: pure functions over bytes.

#[cfg(feature = "apple")]
mod adc;
mod checksum;
mod compress;
#[cfg(feature = "chd")]
mod flac;
#[cfg(feature = "chd")]
pub(crate) mod huffman;
#[cfg(feature = "aff4")]
pub(crate) mod lz4_len;
mod run_lengths;

use std::cell::RefCell;
use std::io::Read;

pub use checksum::{Crc32, Sum, adler32, crc16, crc16_xmodem, crc32, crc32_state, disk_copy_6};
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
    /// A bare LZ4 block ("LZ4 Block Format Description").
    Lz4 = 3,
    // The following are used in other programs' images only, never in a `.cdimg`.
    /// Not compressed, followed by the Adler-32 of the bytes.
    StoredAdler32 = 128,
    /// A zlib stream (RFC 1950) with its checksum.
    Zlib,
    /// A zlib stream with its checksum, followed by anything.
    ZlibPadded,
    /// A zlib stream that may have no end; only as much of it is used as fills the chunk.
    ZlibUnended,
    /// A bare deflate stream that may have no end; only as much of it is used as fills the chunk.
    DeflateUnended,
    /// A zstd frame, followed by anything.
    ZstdPadded,
    /// A bzip2 stream, followed by anything.
    Bzip2,
    /// An XZ stream, followed by anything.
    Xz,
    /// Apple's LZFSE blocks up to their end mark, followed by anything.
    Lzfse,
    /// Apple Data Compression.
    Adc,
    /// A bare snappy block.
    Snappy,
    /// A bare LZMA stream without an end mark, with the parameters used in a CHD.
    Lzma,
    /// An LZMA stream with its header of 13 bytes, and no end mark.
    LzmaAlone,
    /// FLAC frames, as in a CHD.
    Flac,
    /// A Huffman code for bytes, as in a CHD.
    ChdHuffman,
    /// iBored's run lengths.
    IBoredRunLength,
    /// A zstd frame without its magic; or one byte of 0, which stands for zeros: as X-Ways stores chunks in E01 images. Or a
    /// zlib stream, if the image says by mistake that it has zstd: the first byte of one has a bit that no frame sets.
    XWaysZstd,
}

impl Codec {
    /// Returns the codec with this number in a `.cdimg`.
    pub fn from_number(number: u8) -> Option<Codec> {
        [Codec::Stored, Codec::Deflate, Codec::Zstd, Codec::Lz4].into_iter().find(|c| *c as u8 == number)
    }

    /// Returns its name, as accepted by `--codec`.
    pub fn name(self) -> &'static str {
        match self {
            Codec::Stored | Codec::StoredAdler32 => "none",
            Codec::Deflate | Codec::DeflateUnended => "deflate",
            Codec::Zstd | Codec::ZstdPadded | Codec::XWaysZstd => "zstd",
            Codec::Zlib | Codec::ZlibUnended | Codec::ZlibPadded => "zlib",
            Codec::Bzip2 => "bzip2",
            Codec::Xz => "xz",
            Codec::Lzfse => "lzfse",
            Codec::Adc => "adc",
            Codec::Lz4 => "lz4",
            Codec::Snappy => "snappy",
            Codec::Lzma | Codec::LzmaAlone => "lzma",
            Codec::Flac => "flac",
            Codec::ChdHuffman => "huffman",
            Codec::IBoredRunLength => "run-length",
        }
    }

    /// Returns the range of compression levels, and the default level. Codecs that are only read have the level 0 only.
    pub fn levels(self) -> (std::ops::RangeInclusive<i32>, i32) {
        match self {
            Codec::Deflate => (1..=9, 6),
            Codec::Zstd => (1..=19, 2),
            _ => (0..=0, 0),
        }
    }
}

/// A chunk could not be decompressed, or to a different length than it should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadStream;

/// Maximum memory for an XZ or LZMA stream in KiB: the dictionary of the strongest preset.
#[cfg(any(feature = "aff", feature = "apple"))]
const XZ_MEMORY: u32 = 65 << 10;

/// What a zstd frame begins with.
pub(crate) const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
/// The maximum window of a zstd frame of unknown length, as a power of two: 16 MiB.
const MAX_WINDOW_LOG: u32 = 24;

thread_local! {
    // Contexts that would otherwise be allocated for each chunk: about 100 KiB for zstd, 500 KiB for LZFSE.
    static UNZSTD: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
    #[cfg(feature = "apple")]
    static UNLZFSE: RefCell<Box<lzfse_rust::LzfseRingDecoder>> = RefCell::default();
}

/// Decompresses `compressed` into `out`. Returns an error unless the result fills `out` exactly.
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
            // An error after the last wanted byte does not matter.
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
        Codec::XWaysZstd if compressed == [0] => {
            out.fill(0);
            Ok(())
        }
        Codec::XWaysZstd if is_zlib(compressed) => decompress(Codec::ZlibPadded, compressed, out),
        Codec::XWaysZstd => decompress(Codec::Zstd, &[&ZSTD_MAGIC, compressed].concat(), out),
        #[cfg(any(feature = "apple", feature = "ewf"))]
        Codec::Bzip2 => {
            let mut stream = bzip2::Decompress::new(false);
            let status = stream.decompress(compressed, out).map_err(|_| BadStream)?;
            // If the output is full before the end mark was read, another call reads it.
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
            // lc, lp, pb; a dictionary as long as the output is always large enough.
            let len = u32::try_from(out.len()).map_err(|_| BadStream)?;
            let stream = lzma_rust2::LzmaReader::new(compressed, len.into(), 3, 0, 2, len, None);
            fill(stream.map_err(|_| BadStream)?, out)
        }
        #[cfg(feature = "aff")]
        Codec::LzmaAlone => {
            let stream = lzma_rust2::LzmaReader::new_mem_limit(compressed, XZ_MEMORY, None);
            fill(stream.map_err(|_| BadStream)?, out)
        }
        #[cfg(feature = "chd")]
        Codec::Flac => flac::decompress(compressed, out).ok_or(BadStream),
        #[cfg(feature = "chd")]
        Codec::ChdHuffman => huffman::decompress(compressed, out).ok_or(BadStream),
        Codec::IBoredRunLength => run_lengths::decompress(compressed, out).ok_or(BadStream),
        // Codecs of formats that are not compiled in.
        #[allow(unreachable_patterns)]
        _ => Err(BadStream),
    }
}

/// Reads the whole `stream` into `out`. Returns an error if its length is not that of `out`.
#[cfg(any(feature = "aff", feature = "apple", feature = "chd"))]
fn fill(mut stream: impl Read, out: &mut [u8]) -> Result<(), BadStream> {
    stream.read_exact(out).map_err(|_| BadStream)?;
    match stream.read(&mut [0]) {
        Ok(0) => Ok(()),
        _ => Err(BadStream),
    }
}

/// Decompresses a zlib or bzip2 stream, or a zstd frame, of unknown length; anything after it is ignored. Returns None if
/// it is damaged or decompresses to more than `max` bytes.
pub fn expand(codec: Codec, compressed: &[u8], max: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut limited: Box<dyn Read> = match codec {
        #[cfg(any(feature = "apple", feature = "ewf"))]
        Codec::Bzip2 => Box::new(bzip2::read::BzDecoder::new(compressed)),
        Codec::Zstd => unzstd(compressed)?,
        Codec::XWaysZstd if !is_zlib(compressed) => unzstd(ZSTD_MAGIC.as_slice().chain(compressed))?,
        _ => Box::new(flate2::read::ZlibDecoder::new(compressed)),
    };
    limited.by_ref().take(max as u64).read_to_end(&mut out).ok()?;
    matches!(limited.read(&mut [0]), Ok(0)).then_some(out)
}

/// Returns whether a chunk by X-Ways is a zlib stream and not a zstd frame, in whose first byte this bit is reserved.
fn is_zlib(compressed: &[u8]) -> bool {
    compressed.first().is_some_and(|first| first & 0x08 != 0)
}

/// Returns the decompressed contents of the zstd frame at the start of `compressed`.
fn unzstd<'a>(compressed: impl Read + 'a) -> Option<Box<dyn Read + 'a>> {
    let mut frame = zstd::stream::read::Decoder::new(compressed).ok()?.single_frame();
    frame.window_log_max(MAX_WINDOW_LOG).ok()?;
    Some(Box::new(frame))
}
