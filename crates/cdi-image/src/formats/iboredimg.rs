//! iBored's compressed disk images (`.iboredimg`), versions 1 and 2, compressed with zlib or run lengths.
//!
//! Sources: github.com/tempelmann/iBored-compressed-disk-image (README.md, and the behaviour of its decoder where the
//! README is silent). All numbers are little-endian. A header of 256 bytes is followed by chunks, in any place, and a
//! table of their offsets. The format does not record bad blocks: unreadable sectors are stored as zeros.

use std::sync::Arc;

use cdi_base::error::{Error, Flaw, ReadError};
use cdi_base::units::{human, index};

use crate::bytes::le64;
use crate::codec::{Codec, Sum};
use crate::details::ImageDetails;
use crate::extent::{CompressedChunk, Extent, MAX_CHUNK, Origin};
use crate::image::{Format, Image, OpenOptions};
use crate::input::Input;
use crate::metadata::Metadata;

/// iBored's images.
pub const FORMAT: Format = Format {
    name: "iboredimg",
    summary: "iBored's compressed disk image, versions 1 and 2 (zlib, run length)",
    integrity: "Adler-32 in zlib chunks of version 2; none otherwise, so damage may not be detected",
    suffixes: &["iboredimg"],
    probe: |input| {
        input.len() >= HEADER && input.bytes(0, IDENT.len(), "the header").is_ok_and(|b| b == IDENT)
    },
    open,
};

const IDENT: &[u8] =
    b"iBored compressed disk image\rhttp://github.com/tempelmann/iBored-compressed-disk-image\r\0";
/// The length of the header in bytes.
const HEADER: u64 = 256;
/// Maximum length of the disk information in bytes.
const MAX_INFO: u32 = 1 << 20;
/// The length of the header of a run-length chunk in bytes.
const RLE_HEADER: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Method {
    Zlib,
    RunLength,
}

struct IBored {
    input: Arc<Input>,
    size: u64,
    chunk: u64,
    table: u64,
    method: Method,
    /// Whether each chunk is preceded by its length (since version 2).
    lengths: bool,
    details: ImageDetails,
}

fn open(input: Arc<Input>, _: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let header = input.bytes(0, index(HEADER), "the header")?;
    let fail = |at: u64, what: String| -> Error { Flaw::at(at, what).into() };
    if !header.starts_with(IDENT) {
        return Err(fail(0, "not an iBored image".into()));
    }
    let [version, method] = [header[0x5B], header[0x5C]];
    if !(1..=2).contains(&version) {
        return Err(fail(0x5B, format!("unsupported version {version} (supported: 1 and 2)")));
    }
    let method = match method {
        1 => Method::Zlib,
        2 => Method::RunLength,
        other => return Err(fail(0x5C, format!("unknown compression method {other}"))),
    };
    let number = |at: usize| le64(&header, at);
    let (size, chunk, table) = (number(0x60), number(0x68), number(0x80));
    if size == 0 || i64::try_from(size).is_err() {
        return Err(fail(0x60, format!("invalid disk size: {size} bytes")));
    }
    if chunk < 512 || chunk > u64::from(MAX_CHUNK) {
        let max = human(MAX_CHUNK.into());
        return Err(fail(
            0x68,
            format!("unsupported chunk size: {chunk} bytes (supported: 512 bytes to {max})"),
        ));
    }
    let entries = size.div_ceil(chunk);
    if entries.checked_mul(8).and_then(|len| table.checked_add(len)).is_none_or(|end| end > input.len())
        || table < HEADER
    {
        return Err(fail(
            0x80,
            format!("the table of {entries} chunks at byte {table} is not within the file"),
        ));
    }
    let block = u32::try_from(number(0x7C) & 0xFFFF_FFFF).unwrap_or(0);
    let mut metadata = Metadata { size_bytes: size, ..Metadata::default() };
    if block.is_power_of_two() && (512..=65536).contains(&block) {
        metadata.physical_sector_bytes = block;
    }
    let mut warnings = Vec::new();
    let (info_at, info_len) = (number(0x70), u32::try_from(number(0x78) & 0xFFFF_FFFF).unwrap_or(0));
    if info_len > 0 {
        let info = (info_len <= MAX_INFO)
            .then(|| input.bytes(info_at, index(info_len.into()), "the disk information").ok())
            .flatten()
            .and_then(|bytes| {
                serde_json::from_slice(bytes.trim_ascii_end().strip_suffix(b"\0").unwrap_or(&bytes)).ok()
            });
        match info {
            Some(info) => _ = metadata.more.insert("disk_info".into(), info),
            None => warnings
                .push("the disk information is damaged; the disk itself can be read without it".into()),
        }
    }
    Ok(Box::new(IBored {
        input,
        size,
        chunk,
        table,
        method,
        lengths: version >= 2,
        details: ImageDetails { metadata, warnings, ..ImageDetails::default() },
    }))
}

impl IBored {
    fn read<const N: usize>(&self, at: u64) -> Result<[u8; N], ReadError> {
        let mut bytes = [0; N];
        self.input.read_exact_at(Input::MAIN, &mut bytes, at)?;
        Ok(bytes)
    }
}

impl Image for IBored {
    fn size(&self) -> u64 {
        self.size
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        let number = offset / self.chunk;
        let disk = number * self.chunk..((number + 1) * self.chunk).min(self.size);
        let mut at = u64::from_le_bytes(self.read(self.table + number * 8)?);
        let corrupt = ReadError::Corrupt { at };
        let mut len = None;
        if self.lengths {
            let prefix = u64::from_le_bytes(self.read(at)?);
            at = at.checked_add(8).ok_or(corrupt)?;
            // Compression never adds more than this: run lengths add up to 32 bytes, zlib less than a thousandth.
            len = Some(prefix).filter(|len| *len <= self.chunk + self.chunk / 512 + 1024);
            len.ok_or(corrupt)?;
        }
        let want = disk.end - disk.start;
        let (codec, len, uncompressed) = match self.method {
            Method::Zlib => match len {
                Some(len) => (Codec::Zlib, len, want),
                // The end of the stream is not recorded; whatever follows it is ignored.
                None => {
                    let rest = self.input.len().checked_sub(at).ok_or(corrupt)?;
                    (Codec::ZlibUnended, rest.min(self.chunk + self.chunk / 512 + 1024), want)
                }
            },
            Method::RunLength => {
                let header: [u8; RLE_HEADER] = self.read(at)?;
                let [total, uncompressed] =
                    [4, 8].map(|i| header[i..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b)));
                let total = u64::from(total);
                let right =
                    len.is_none_or(|len| total <= len) && total <= self.chunk + self.chunk / 512 + 1024;
                // The last chunk may decompress to a whole one.
                let uncompressed = u64::from(uncompressed);
                if !right || (uncompressed != want && uncompressed != self.chunk) {
                    return Err(corrupt);
                }
                (Codec::IBoredRunLength, total, uncompressed)
            }
        };
        let short = |n: u64| u32::try_from(n).map_err(|_| corrupt);
        let compressed = CompressedChunk {
            file: Input::MAIN,
            at,
            len: short(len)?,
            skip: 0,
            uncompressed: short(uncompressed)?,
            codec,
            sum: Sum::None,
        };
        Ok(Extent { disk, origin: Origin::Compressed(compressed) })
    }

    fn details(&self) -> &ImageDetails {
        &self.details
    }
}
