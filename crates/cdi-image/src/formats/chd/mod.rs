//! MAME's hard disk images (`.chd`), version 5: zlib, LZMA, Huffman, FLAC, zstd, with parents.
//!
//! Sources: MAME's header (src/lib/util/chd.h), and the images that chdman writes and reads. All numbers are
//! big-endian. The disk is divided into hunks; a hunk is compressed, uncompressed, the same as another, or in the
//! parent.

mod map;

use std::path::Path;
use std::sync::Arc;

use cdi_base::error::{Error, Flaw, ReadError};
use map::{Hunk, Map};

use super::chain::{self, Chain, Found, count_matching, next_depth, zeros};
use crate::bytes::{be32, be64, flaw};
use crate::codec::{Codec, Sum};
use crate::details::ImageDetails;
use crate::extent::{CompressedChunk, Extent, FileNo, MAX_CHUNK, Origin};
use crate::image::{Format, Image, OpenOptions};
use crate::input::Input;
use crate::metadata::Metadata;
use crate::stored_hashes::{HashKind, StoredHash};
use cdi_base::printable::hex;

/// MAME's images.
pub const FORMAT: Format = Format {
    name: "chd",
    summary: "MAME's CHD of hard disks, version 5, with parents next to the image",
    integrity: "CRC-16 of each compressed hunk; SHA-1 of the whole disk, checked on verification; uncompressed images have neither",
    suffixes: &["chd"],
    probe: |input| input.bytes(0, 8, "the header").is_ok_and(|b| b == MAGIC),
    open,
};

const MAGIC: &[u8] = b"MComprHD";
const HEADER: usize = 124;
/// Maximum number of metadata entries, and the maximum length of one in bytes.
const MAX_METADATA_ITEMS: usize = 4096;
const MAX_METADATA: usize = 64 << 10;
/// Maximum number of hunks of a compressed image: 1 TiB in hunks of the usual 4 KiB.
const MAX_HUNKS: u64 = 1 << 28;
/// Maximum number of files next to the image to probe for its parent, which is identified only by its SHA-1.
const MAX_PROBED: usize = 4096;

/// One file of a chain.
struct Layer {
    file: FileNo,
    size: u64,
    hunk: u32,
    unit: u32,
    codecs: [Codec; 4],
    hunks: Hunks,
    parent: Option<Box<Layer>>,
}

enum Hunks {
    /// Uncompressed: a table at this file offset, whose entries are file offsets in units of hunks.
    Plain(u64),
    Compressed(Map),
}

fn open(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let mut warnings = Vec::new();
    let header = header(&input, Input::MAIN)?;
    let top = open_layer(&input, Input::MAIN, &header, 0, &mut warnings)?;
    let mut metadata = Metadata { size_bytes: top.size, ..Metadata::default() };
    read_metadata(&input, be64(&header, 48), &mut metadata)?;
    let sector = if top.unit.is_power_of_two() && top.unit >= 512 { top.unit } else { 0 };
    metadata.logical_sector_bytes = options.sector_size.unwrap_or(sector);
    let sha1 = header[64..84].to_vec();
    let mut stored_hashes = Vec::new();
    if sha1.iter().any(|b| *b != 0) {
        metadata.more.insert("sha1_stored".into(), hex(&sha1).into());
        stored_hashes.push(StoredHash::of_disk(top.size, HashKind::Sha1, sha1));
    }
    Ok(Box::new(Chain {
        input,
        top,
        details: ImageDetails { stored_hashes, metadata, warnings, ..ImageDetails::default() },
    }))
}

fn header(input: &Input, file: FileNo) -> Result<Vec<u8>, Error> {
    let start = input.bytes_of(file, 0, 16, "the header")?;
    if !start.starts_with(MAGIC) {
        return flaw(0, "not a CHD image");
    }
    if be32(&start, 12) != 5 {
        let what = format!("unsupported version {} (only version 5 is supported)", be32(&start, 12));
        return Err(Error::from(Flaw::at(12, what)).hint("convert it with 'chdman copy -i OLD -o NEW'"));
    }
    if be32(&start, 8) as usize != HEADER {
        return flaw(8, format!("unsupported header length: {} bytes", be32(&start, 8)));
    }
    input.bytes_of(file, 0, HEADER, "the header")
}

fn open_layer(
    input: &Input,
    file: FileNo,
    header: &[u8],
    depth: usize,
    warnings: &mut Vec<String>,
) -> Result<Layer, Error> {
    let (size, map) = (be64(header, 32), be64(header, 40));
    let (hunk, unit) = (be32(header, 56), be32(header, 60));
    if size == 0 || i64::try_from(size).is_err() {
        return flaw(32, format!("invalid disk size: {size} bytes"));
    }
    if !(1..=MAX_CHUNK).contains(&hunk) {
        return flaw(56, format!("unsupported hunk size: {hunk} bytes"));
    }
    if unit == 0 || hunk % unit != 0 {
        return flaw(60, format!("invalid unit size: {unit} bytes"));
    }
    let mut codecs = [Codec::Stored; 4];
    for (n, codec) in codecs.iter_mut().enumerate() {
        let tag = &header[16 + n * 4..20 + n * 4];
        *codec = match tag {
            b"\0\0\0\0" => Codec::Stored,
            b"zlib" => Codec::Deflate,
            b"lzma" => Codec::Lzma,
            b"huff" => Codec::ChdHuffman,
            b"flac" => Codec::Flac,
            b"zstd" => Codec::Zstd,
            _ => {
                let name = String::from_utf8_lossy(tag);
                return flaw(16, format!("not an image of a hard disk: compressed with '{name}'"));
            }
        };
    }
    let count = size.div_ceil(hunk.into());
    let hunks = if be32(header, 16) == 0 {
        if count
            .checked_mul(4)
            .and_then(|len| map.checked_add(len))
            .is_none_or(|end| end > input.len_of(file))
        {
            return flaw(
                40,
                format!("the map of {count} hunks at byte {map} extends past the end of the file"),
            );
        }
        Hunks::Plain(map)
    } else if map == 0 {
        return flaw(40, "the image is incomplete: it has no map of hunks");
    } else {
        if count > MAX_HUNKS {
            return flaw(32, format!("too many hunks: {count}"));
        }
        Hunks::Compressed(Map::read(input, file, map, count, hunk, unit)?)
    };
    let parent = if header[104..124].iter().all(|b| *b == 0) {
        if matches!(&hunks, Hunks::Compressed(map) if map.needs_parent) {
            return flaw(
                104,
                "the image needs a parent, but does not identify it (its parent was uncompressed)",
            );
        }
        None
    } else {
        Some(Box::new(parent(input, &header[104..124], depth, warnings)?))
    };
    Ok(Layer { file, size, hunk, unit, codecs, hunks, parent })
}

/// Finds and opens the parent: a CHD next to the image with this SHA-1, which is all that the image records of it.
fn parent(input: &Input, sha1: &[u8], depth: usize, warnings: &mut Vec<String>) -> Result<Layer, Error> {
    let depth = next_depth(depth)?;
    let mut names = input.names(Path::new(""))?.unwrap_or_default();
    names.retain(|name| Path::new(name).extension().is_some_and(|x| x.eq_ignore_ascii_case("chd")));
    names.sort_unstable();
    let mut failed = None;
    for name in names.iter().take(MAX_PROBED) {
        // Skip files that are no CHD.
        let Some(file) = input.candidate(Path::new(name))? else { continue };
        let Ok(header) = header(input, file) else { continue };
        if header[84..104] != *sha1 {
            continue;
        }
        let path = input.path_of(file);
        let parent = match open_layer(input, file, &header, depth, warnings) {
            Ok(parent) => parent,
            // Another copy may be intact. Do not try others deeper in the chain: the search could take forever.
            Err(e) if depth > 1 => return Err(e.at(&path)),
            Err(e) => {
                failed = Some(e.at(&path));
                continue;
            }
        };
        warnings.push(format!("data not in the image is read from its parent {}", path.display()));
        return Ok(parent);
    }
    if let Some(e) = failed {
        return Err(e);
    }
    let what = format!("parent not found next to the image: the CHD with SHA-1 {}", hex(sha1));
    Err(Error::bad_image(what).hint("copy it there; 'chdman info' shows the SHA-1 of a CHD"))
}

/// Reads the CHD's metadata into `metadata`; returns an error if it is not an image of a hard disk.
fn read_metadata(input: &Input, mut at: u64, metadata: &mut Metadata) -> Result<(), Error> {
    for _ in 0..MAX_METADATA_ITEMS {
        if at == 0 {
            return Ok(());
        }
        let header = input.bytes(at, 16, "a metadata entry")?;
        let (tag, len) = (&header[..4], (be32(&header, 4) & 0xFF_FFFF) as usize);
        let text = || input.bytes(at + 16, len.min(MAX_METADATA), "a metadata entry");
        match tag {
            b"GDDD" => {
                let text = String::from_utf8_lossy(&text()?).trim_end_matches('\0').to_owned();
                metadata.more.insert("geometry".into(), text.into());
            }
            b"IDNT" => {
                // The two bytes of each word of ATA's IDENTIFY DEVICE data are swapped.
                let words = text()?;
                let part = |from: usize, to: usize| {
                    let swapped: Vec<u8> =
                        words.get(from..to)?.chunks_exact(2).flat_map(|w| [w[1], w[0]]).collect();
                    let text = String::from_utf8_lossy(&swapped).trim_matches([' ', '\0']).to_owned();
                    Some(text).filter(|t| !t.is_empty())
                };
                (metadata.serial, metadata.model) = (part(20, 40), part(54, 94));
            }
            b"CHCD" | b"CHTR" | b"CHT2" | b"CHGT" | b"CHGD" | b"DVD " | b"AVAV" | b"AVLD" => {
                return flaw(at, "not an image of a hard disk, but of an optical disc");
            }
            _ => {}
        }
        at = be64(&header, 8);
    }
    flaw(at, "too many metadata entries")
}

impl chain::Layer for Layer {
    fn size(&self) -> u64 {
        self.size
    }

    // Parents are handled here, since hunks may refer to other offsets of the parent.
    fn find(&self, input: &Input, offset: u64, end: u64) -> Result<Found, ReadError> {
        self.map(input, offset, end).map(Found::Here)
    }
}

impl Layer {
    /// Finds the data at `offset`, up to `end` at most. A child may ask for bytes past the end of the disk, within the
    /// last hunk.
    fn map(&self, input: &Input, offset: u64, end: u64) -> Result<Extent, ReadError> {
        let len = u64::from(self.hunk);
        let number = offset / len;
        let start = number * len;
        let limit = end.min(self.size);
        let end = end.min(start + len);
        if number >= self.size.div_ceil(len) {
            return Err(ReadError::Unmapped { offset });
        }
        let map = match &self.hunks {
            Hunks::Compressed(map) => map,
            Hunks::Plain(table) => {
                let mut entry = [0; 4];
                input.read_exact_at(self.file, &mut entry, table + number * 4)?;
                return match (u32::from_be_bytes(entry), &self.parent) {
                    (0, Some(parent)) => parent.map(input, offset, end),
                    (0, None) => {
                        let read = |bytes: &mut [u8], at: u64| input.read_exact_at(self.file, bytes, at);
                        let is = |entry: &[u8]| be32(entry, 0) == 0;
                        let left = self.size.div_ceil(len) - number;
                        let count = count_matching(&read, table + number * 4, left, 4, &is)?.max(1);
                        Ok(zeros(offset, limit.min(start.saturating_add(count * len)).max(end)))
                    }
                    (n, _) => {
                        let at = u64::from(n) * len + (offset - start);
                        Ok(Extent { disk: offset..end, origin: Origin::Stored { file: self.file, at } })
                    }
                };
            }
        };
        let find = |number| map.hunk(number).ok_or(ReadError::Unmapped { offset });
        // A hunk may be the same as one that is itself the same as another, and so on.
        let mut hunk = find(number)?;
        for _ in 0..64 {
            match hunk {
                Hunk::Same(other) => hunk = find(other)?,
                _ => break,
            }
        }
        match hunk {
            Hunk::Data { codec, at, len, sum } => {
                let codec = self.codecs.get(usize::from(codec)).copied().unwrap_or(Codec::Stored);
                let sum = Sum::Crc16Uncompressed(sum);
                let compressed = CompressedChunk {
                    file: self.file,
                    at,
                    len,
                    skip: 0,
                    uncompressed: self.hunk,
                    codec,
                    sum,
                };
                let whole = Extent {
                    disk: start..start + u64::from(self.hunk),
                    origin: Origin::Compressed(compressed),
                };
                Ok(whole.cut(offset, end))
            }
            Hunk::Parent(unit) => {
                let parent = self.parent.as_ref().ok_or(ReadError::Unmapped { offset })?;
                let from = unit.checked_mul(self.unit.into()).and_then(|at| at.checked_add(offset - start));
                let from =
                    from.filter(|from| i64::try_from(*from).is_ok()).ok_or(ReadError::Unmapped { offset })?;
                let found = parent.map(input, from, from + (end - offset))?.cut(from, from + (end - offset));
                let disk = offset..offset + (found.disk.end - found.disk.start);
                Ok(Extent { disk, ..found })
            }
            Hunk::Same(_) => Err(ReadError::Unmapped { offset }),
        }
    }
}
