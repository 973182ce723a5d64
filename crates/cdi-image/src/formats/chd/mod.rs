//! MAME's images of hard disks (`.chd`), version 5: zlib, LZMA, Huffman, FLAC, zstd, with parents.
//!
//! Sources: MAME's header (src/lib/util/chd.h), and what chdman writes and reads. All numbers are big-endian. The disk is in
//! hunks; a hunk is compressed, stored, the same as another, or in the parent.

mod map;

use std::path::Path;
use std::sync::Arc;

use cdi_base::error::{Error, Flaw, ReadError};
use map::{Hunk, Map};

use super::chain::{self, Chain, Found, alike, deeper, zeros};
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
    summary: "MAME's CHD of hard disks, version 5, with parents beside the image",
    integrity: "CRC-16 of each compressed hunk; SHA-1 of the whole, which 'verify' checks. An uncompressed one has neither",
    suffixes: &["chd"],
    probe: |input| input.bytes(0, 8, "the header").is_ok_and(|b| b == MAGIC),
    open,
};

const MAGIC: &[u8] = b"MComprHD";
const HEADER: usize = 124;
/// How many pieces of metadata are looked at, and how long one may be.
const MAX_METADATA_ITEMS: usize = 4096;
const MAX_METADATA: usize = 64 << 10;
/// How many hunks a compressed image may have: of a disk of 1 TiB in hunks of the usual 4 KiB.
const MAX_HUNKS: u64 = 1 << 28;
/// How many files beside the image are looked at for a parent, which is told by its SHA-1 alone.
const MAX_LOOKED_AT: usize = 4096;

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
    /// A table of numbers at this place: where in the file a hunk is, counted in hunks.
    Plain(u64),
    CompressedChunk(Map),
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
        return flaw(0, "this is not a CHD");
    }
    if be32(&start, 12) != 5 {
        let what = format!("version {} is not read; version 5 is", be32(&start, 12));
        return Err(Error::from(Flaw::at(12, what)).hint("'chdman copy -i OLD -o NEW' makes one of it"));
    }
    if be32(&start, 8) as usize != HEADER {
        return flaw(8, format!("a header of {} bytes is not known", be32(&start, 8)));
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
        return flaw(32, format!("a disk of {size} bytes cannot be"));
    }
    if !(1..=MAX_CHUNK).contains(&hunk) {
        return flaw(56, format!("hunks of {hunk} bytes are not read"));
    }
    if unit == 0 || hunk % unit != 0 {
        return flaw(60, format!("units of {unit} bytes cannot be"));
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
                return flaw(16, format!("this is no image of a hard disk: it is compressed by '{name}'"));
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
            return flaw(40, format!("a map of {count} hunks at byte {map} does not lie in the file"));
        }
        Hunks::Plain(map)
    } else if map == 0 {
        return flaw(40, "the file was never finished: it has no map of hunks");
    } else {
        if count > MAX_HUNKS {
            return flaw(32, format!("{count} hunks are too many"));
        }
        Hunks::CompressedChunk(Map::read(input, file, map, count, hunk, unit)?)
    };
    let parent = if header[104..124].iter().all(|b| *b == 0) {
        if matches!(&hunks, Hunks::CompressedChunk(map) if map.needs_parent) {
            return flaw(
                104,
                "the image needs a parent, and does not tell which: its parent was uncompressed",
            );
        }
        None
    } else {
        Some(Box::new(parent(input, &header[104..124], depth, warnings)?))
    };
    Ok(Layer { file, size, hunk, unit, codecs, hunks, parent })
}

/// The parent with this SHA-1, which is all that is told of it: a CHD beside the image.
fn parent(input: &Input, sha1: &[u8], depth: usize, warnings: &mut Vec<String>) -> Result<Layer, Error> {
    let depth = deeper(depth)?;
    let mut names = input.names(Path::new(""))?.unwrap_or_default();
    names.retain(|name| Path::new(name).extension().is_some_and(|x| x.eq_ignore_ascii_case("chd")));
    names.sort_unstable();
    let mut failed = None;
    for name in names.iter().take(MAX_LOOKED_AT) {
        // What cannot be opened or is something else is not the parent.
        let Ok(Some(file)) = input.sibling(Path::new(name)) else { continue };
        let Ok(header) = header(input, file) else { continue };
        if header[84..104] != *sha1 {
            continue;
        }
        let path = input.path_of(file);
        let parent = match open_layer(input, file, &header, depth, warnings) {
            Ok(parent) => parent,
            // Another copy of it may be sound; but not deep in a chain, where there would be no end to it.
            Err(e) if depth > 1 => return Err(e.at(&path)),
            Err(e) => {
                failed = Some(e.at(&path));
                continue;
            }
        };
        warnings.push(format!("what the image does not have comes from its parent, {}", path.display()));
        return Ok(parent);
    }
    if let Some(e) = failed {
        return Err(e);
    }
    let what = format!("the image needs its parent, the CHD whose SHA-1 is {}", hex(sha1));
    Err(Error::bad_image(what).hint("put it beside the image; 'chdman info' tells a CHD's SHA-1"))
}

/// Takes in what the metadata tell of the disk; refuses what is no hard disk.
fn read_metadata(input: &Input, mut at: u64, metadata: &mut Metadata) -> Result<(), Error> {
    for _ in 0..MAX_METADATA_ITEMS {
        if at == 0 {
            return Ok(());
        }
        let head = input.bytes(at, 16, "a piece of metadata")?;
        let (tag, len) = (&head[..4], (be32(&head, 4) & 0xFF_FFFF) as usize);
        let text = || input.bytes(at + 16, len.min(MAX_METADATA), "a piece of metadata");
        match tag {
            b"GDDD" => {
                let text = String::from_utf8_lossy(&text()?).trim_end_matches('\0').to_owned();
                metadata.more.insert("geometry".into(), text.into());
            }
            b"IDNT" => {
                // The words of ATA's IDENTIFY DEVICE have their two bytes swapped.
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
                return flaw(at, "this is an image of an optical disc, and not of a hard disk");
            }
            _ => {}
        }
        at = be64(&head, 8);
    }
    flaw(at, "there is no end to the metadata")
}

impl chain::Layer for Layer {
    fn size(&self) -> u64 {
        self.size
    }

    // Its parent's bytes may be at other places than its own.
    fn find(&self, input: &Input, offset: u64, end: u64) -> Result<Found, ReadError> {
        self.map(input, offset, end).map(Found::Here)
    }
}

impl Layer {
    /// What is at `offset`, at most to `end`. A child may ask for what is behind the disk's end in the last hunk.
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
            Hunks::CompressedChunk(map) => map,
            Hunks::Plain(table) => {
                let mut entry = [0; 4];
                input.read_exact_at(self.file, &mut entry, table + number * 4)?;
                return match (u32::from_be_bytes(entry), &self.parent) {
                    (0, Some(parent)) => parent.map(input, offset, end),
                    (0, None) => {
                        let read = |bytes: &mut [u8], at: u64| input.read_exact_at(self.file, bytes, at);
                        let is = |entry: &[u8]| be32(entry, 0) == 0;
                        let left = self.size.div_ceil(len) - number;
                        let count = alike(&read, table + number * 4, left, 4, &is)?.max(1);
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
        // The same as one that is the same as another is two steps away, and so on.
        let mut hunk = find(number)?;
        for _ in 0..64 {
            match hunk {
                Hunk::Same(other) => hunk = find(other)?,
                _ => break,
            }
        }
        match hunk {
            Hunk::Held { codec, at, len, sum } => {
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
