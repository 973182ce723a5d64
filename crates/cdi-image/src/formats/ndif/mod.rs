//! The images of DiskCopy 6 (NDIF, `.img`): chunks in the data fork of a Mac's file, and a table of them in its resource
//! fork.
//!
//! Sources: the readers of the format in ndif2raw, Aaru and granny-smith, whose authors compared them with images by
//! DiskCopy 6.3. All numbers are big-endian. The resource 'bcem' is a header of 128 bytes and 12 bytes for each chunk: the
//! first sector (24 bits), the kind, and where it is in the data fork. A chunk ends where the next one begins. The
//! checksum is a CRC-32 whose polynomial is that of zip, but not reversed, although bits are taken from the low end.

mod container;

use std::sync::Arc;

use cdi_base::error::{Error, ReadError};
use cdi_base::units::SECTOR;

use self::container::{Forks, forks};
use super::resource_fork::resources;
use crate::bytes::{be16, be32, flaw};
use crate::codec::{Codec, Sum};
use crate::details::ImageDetails;
use crate::extent::{CompressedChunk, Extent, MAX_CHUNK, Origin};
use crate::image::{Format, Image, OpenOptions};
use crate::input::Input;
use crate::metadata::Metadata;
use crate::stored_hashes::{HashKind, StoredHash};

/// DiskCopy 6.
pub const FORMAT: Format = Format {
    name: "ndif",
    summary: "images by Apple's DiskCopy 6 (NDIF), as MacBinary or AppleDouble: ADC, uncompressed",
    integrity: "a CRC-32 of the disk, checked on verification",
    suffixes: &["ndif"],
    probe: |input| matches!(table(input), Ok(Some(_))),
    open,
};

const HEADER: usize = 128;
const ENTRY: usize = 12;

struct Ndif {
    size: u64,
    /// In the order of the disk, without gaps.
    runs: Vec<Run>,
    details: ImageDetails,
}

/// A run of sectors.
struct Run {
    /// The first sector.
    first: u64,
    source: Source,
}

enum Source {
    Zeros,
    Plain { at: u64 },
    Adc { at: u64, len: u32 },
}

/// Finds the table of an image. None if the file is not an NDIF image.
fn table(input: &Input) -> Result<Option<(Forks, Vec<u8>)>, Error> {
    let Some(forks) = forks(input)? else { return Ok(None) };
    let Some(mut tables) = resources(&forks.resources, b"bcem") else {
        return flaw(forks.at, "the resource fork is damaged").map_err(|e| e.at(&forks.path));
    };
    match (tables.pop(), tables.is_empty()) {
        (None, _) => Ok(None),
        (Some((_, table)), true) => Ok(Some((forks, table))),
        (Some(_), false) => wrong(&forks, "there are several (not supported)".into()),
    }
}

fn open(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let Some((forks, table)) = table(&input)? else {
        return Err(Error::bad_image("no resource fork with a chunk table ('bcem'): not an NDIF image").hint(
            "without its resource fork the image is lost; from a Mac, bring it over as MacBinary (.bin), or with \
             the file ._NAME of its resource fork",
        ));
    };
    if table.len() < HEADER {
        return wrong(&forks, format!("{} bytes are too few", table.len()));
    }
    let field = |at: usize| be32(&table, at);
    let (version, sectors, offset, count) = (be16(&table, 0), field(68), field(76), field(124));
    if !(10..=12).contains(&version) {
        return wrong(&forks, format!("version {version} (not supported)"));
    }
    for (field_at, what) in [(84, "image in segments"), (116, "encrypted image")] {
        if field(field_at) != 0 {
            return wrong(&forks, format!("{what} (not supported)"));
        }
    }
    if sectors == 0 {
        return wrong(&forks, "the disk has no sectors".into());
    }
    let list = &table[HEADER..];
    if (list.len() / ENTRY) < count as usize {
        return wrong(&forks, format!("{count} entries do not fit into {} bytes", table.len()));
    }
    let runs = runs(&list[..count as usize * ENTRY], &forks, u64::from(offset), sectors.into())
        .or_else(|what| wrong(&forks, what))?;
    let size = u64::from(sectors) * u64::from(SECTOR);
    let mut metadata = Metadata {
        size_bytes: size,
        logical_sector_bytes: options.sector_size.unwrap_or(SECTOR),
        ..Metadata::default()
    };
    let name = table[5..68].get(..usize::from(table[4])).unwrap_or_default();
    if !name.is_empty() {
        // In the Mac's own character set; other characters than ASCII are not worth a conversion table.
        let text: String = name.iter().map(|b| if b.is_ascii() { char::from(*b) } else { '?' }).collect();
        metadata.more.insert("volume_name".into(), text.into());
    }
    // Some writers leave it out.
    let sum = Some(table[80..84].to_vec()).filter(|sum| sum.iter().any(|b| *b != 0));
    let stored_hashes =
        sum.map(|sum| StoredHash::of_disk(size, HashKind::DiskCopy6, sum)).into_iter().collect();
    let warnings = forks.warning.into_iter().collect();
    let details = ImageDetails { metadata, warnings, stored_hashes, ..ImageDetails::default() };
    Ok(Box::new(Ndif { size, runs, details }))
}

/// Returns an error about the table in the resource fork.
fn wrong<T>(forks: &Forks, what: String) -> Result<T, Error> {
    flaw(forks.at, format!("the chunk table: {what}")).map_err(|e| e.at(&forks.path))
}

/// Reads the entries of the table. `offset` is where their offsets begin to count in the data fork.
fn runs(list: &[u8], forks: &Forks, offset: u64, sectors: u64) -> Result<Vec<Run>, String> {
    let entries: Vec<(u64, &[u8])> =
        list.chunks_exact(ENTRY).map(|e| (u64::from(be32(e, 0) >> 8), e)).collect();
    let mut runs: Vec<Run> = Vec::new();
    for (n, (first, entry)) in entries.iter().enumerate() {
        let wrong = |what: String| Err(format!("entry {n}: {what}"));
        let kind = entry[3];
        if kind == 0xFF {
            return match *first == sectors {
                true => Ok(runs),
                false => wrong(format!("the disk ends at sector {first}, not {sectors}")),
            };
        }
        let end = entries.get(n + 1).map_or(sectors, |(next, _)| *next);
        let expected = if n == 0 { 0 } else { *first };
        if *first != expected || end <= *first || end > sectors {
            return wrong(format!("invalid range of sectors: {first} to {end}"));
        }
        let (at, len) = (u64::from(be32(entry, 4)) + offset, be32(entry, 8));
        let uncompressed = (end - first) * u64::from(SECTOR);
        let place = forks.data.start + at;
        let inside = place + u64::from(len) <= forks.data.end;
        let source = match kind {
            0 => Source::Zeros,
            _ if !inside => return wrong("the chunk extends past the end of the data fork".into()),
            2 if u64::from(len) < uncompressed => {
                return wrong(format!("{len} bytes are too few for {uncompressed} bytes of the disk"));
            }
            2 => Source::Plain { at: place },
            0x83 if uncompressed > MAX_CHUNK.into() || len > 2 * MAX_CHUNK => {
                return wrong(format!("the chunk is too long ({uncompressed} bytes)"));
            }
            0x83 => Source::Adc { at: place, len },
            0x80 => return wrong("compressed with KenCode (not supported)".into()),
            0x81 => return wrong("run lengths (not supported)".into()),
            0x82 => return wrong("compressed with LZH (not supported)".into()),
            0xF0 => return wrong("compressed with StuffIt (not supported)".into()),
            kind => return wrong(format!("unknown chunk type {kind:#x}")),
        };
        runs.push(Run { first: *first, source });
    }
    // The mark of the end may be missing: the last chunk ends with the disk.
    if runs.is_empty() { Err("there are no chunks".into()) } else { Ok(runs) }
}

impl Image for Ndif {
    fn size(&self) -> u64 {
        self.size
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        let sector = u64::from(SECTOR);
        let next = self.runs.partition_point(|run| run.first * sector <= offset);
        let run = next.checked_sub(1).and_then(|n| self.runs.get(n)).ok_or(ReadError::Unmapped { offset })?;
        let disk = run.first * sector..self.runs.get(next).map_or(self.size, |run| run.first * sector);
        let origin = match run.source {
            Source::Zeros => Origin::Fill([0; 8]),
            Source::Plain { at } => Origin::Stored { file: Input::MAIN, at },
            Source::Adc { at, len } => Origin::Compressed(CompressedChunk {
                file: Input::MAIN,
                at,
                len,
                skip: 0,
                uncompressed: u32::try_from(disk.end - disk.start).unwrap_or(u32::MAX),
                codec: Codec::Adc,
                sum: Sum::None,
            }),
        };
        Ok(Extent { disk, origin })
    }

    fn details(&self) -> &ImageDetails {
        &self.details
    }
}
