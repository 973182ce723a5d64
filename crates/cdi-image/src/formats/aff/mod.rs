//! AFF images, versions 1 to 3: one file (`.aff`), several in a directory (`.afd`), or raw files with a file of metadata
//! (`.afm`).
//!
//! Sources: "Advanced Forensic Format" (Garfinkel), the behaviour of AFFLIB 3.7 and of Guymager. A file is a series of
//! named segments; numbers are big-endian. The disk is in pages, one segment each, of 16 MiB by default; a page that is
//! not there was not read. A sector that could not be read contains a mark, random bytes that are the same for the whole
//! image. Opening reads the head of each segment, and nothing else.

mod files;
mod gathered;
mod marks;
mod segments;

use std::ops::Range;
use std::sync::Arc;

use cdi_base::error::{Error, ReadError};
use cdi_base::units::SECTOR;
use files::RawFiles;
use gathered::{Gathered, Kind, Page};

use crate::badmap::{BadBlocks, BadRange, Status};
use crate::bytes::{be32, flaw, le64};
use crate::codec::{Codec, Sum, expand};
use crate::details::ImageDetails;
use crate::extent::{CompressedChunk, Extent, MAX_CHUNK, Origin};
use crate::formats::chain::zeros;
use crate::image::{Format, Image, OpenOptions};
use crate::input::Input;
use crate::stored_hashes::StoredHash;

/// AFF's images, before AFF4.
pub const FORMAT: Format = Format {
    name: "aff",
    summary: "AFF images, versions 1 to 3 (AFF, AFD, AFM)",
    integrity: "MD5, SHA-1 and SHA-256 of the whole disk, if stored; zlib's checksum in compressed pages",
    suffixes: &["aff", "afm"],
    probe: |input| input.bytes(0, MAGIC.len(), "the header").is_ok_and(|b| b == MAGIC),
    open,
};

const MAGIC: &[u8] = b"AFF10\r\n\0";
/// How to get an image without encryption.
const DECRYPT: &str =
    "with its passphrase in AFFLIB_PASSPHRASE, convert it: affconvert -r -e raw FILE (afflib-tools)";

struct Aff {
    input: Arc<Input>,
    size: u64,
    sector: u32,
    page_size: u64,
    pages: Vec<Page>,
    raw: Option<RawFiles>,
    /// What unreadable sectors contain.
    mark: Option<Vec<u8>>,
    details: ImageDetails,
}

fn open(input: Arc<Input>, _: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    if input.bytes(0, MAGIC.len(), "the header")? != MAGIC {
        return flaw(0, "not an AFF image");
    }
    let mut details = ImageDetails::default();
    let mut gathered = files::gather(&input, &mut details)?;
    gathered.sort_pages()?;
    if gathered.is_encrypted {
        return Err(Error::bad_image("encrypted AFF image (not supported)").hint(DECRYPT));
    }
    let sector = gathered.sector.unwrap_or(SECTOR);
    if !sector.is_power_of_two() || !(512..=64 << 10).contains(&sector) {
        return flaw(segments::HEADER, format!("invalid sector size: {sector} bytes"));
    }
    let page_size = gathered.page_size.unwrap_or(0);
    if page_size == 0 || page_size % sector != 0 {
        return flaw(segments::HEADER, format!("invalid page size: {page_size} bytes"));
    }
    let compressed = |page: &&Page| matches!(page.kind, Kind::Zlib | Kind::Lzma);
    if page_size > MAX_CHUNK
        && let Some(page) = gathered.pages.iter().find(compressed)
    {
        let what = format!(
            "page {} is compressed and has {page_size} bytes: more than {MAX_CHUNK} are not supported",
            page.number
        );
        return flaw(page.at, what);
    }
    let is_damaged = details.incomplete;
    let size = match gathered.size {
        Some(size) => size,
        None => {
            let size = size_by_pages(&input, &gathered, page_size)?;
            details.warnings.push(format!(
                "the image does not record the size of the disk, so it was not finished; its pages end at byte {size}"
            ));
            details.incomplete = true;
            size
        }
    };
    if size == 0 || i64::try_from(size).is_err() {
        return flaw(segments::HEADER, format!("invalid disk size: {size} bytes"));
    }
    details.metadata = gathered.metadata();
    let Gathered { pages, hashes, mark, bad_sectors, raw_suffix, raw_pages, .. } = gathered;
    details.metadata.size_bytes = size;
    details.metadata.logical_sector_bytes = sector;
    let raw = match raw_suffix {
        Some(suffix) => Some(RawFiles::find(&input, &suffix, raw_pages, page_size.into(), size)?),
        None => None,
    };
    let page_size = u64::from(page_size);
    let mut image = Aff { input, size, sector, page_size, pages, raw, mark: None, details };
    image.note_missing(is_damaged);
    image.note_marks(mark, bad_sectors);
    if image.details.bad.is_empty() && bad_sectors == 0 {
        let stored = hashes.into_iter().map(|(kind, value)| StoredHash::of_disk(size, kind, value));
        image.details.stored_hashes = stored.collect();
    }
    Ok(Box::new(image))
}

/// Returns the size of the disk up to the end of its last page.
fn size_by_pages(input: &Input, gathered: &Gathered, page_size: u32) -> Result<u64, Error> {
    let Some(page) = gathered.pages.last() else {
        return flaw(segments::HEADER, "the image has neither pages nor the size of the disk");
    };
    let read = |len: usize| input.bytes_of(page.file, page.at, len, "the last page");
    let len = match page.kind {
        Kind::Stored => page.len.into(),
        Kind::Zeros => be32(&read(4)?, 0).into(),
        Kind::Lzma => le64(&read(13)?, 5),
        // A page is never longer than it would be without compression.
        Kind::Zlib => expand(Codec::Zlib, &read(page.len.min(page_size) as usize)?, page_size as usize)
            .map_or(0, |bytes| bytes.len() as u64),
    };
    match len {
        0 => flaw(page.at, format!("page {}, the last one, is damaged", page.number)),
        len => Ok(u64::from(page.number) * u64::from(page_size) + len.min(page_size.into())),
    }
}

impl Aff {
    /// Records the parts of the disk that the image does not have: those of pages that were never read or, if a file is
    /// damaged or missing, that are lost.
    fn note_missing(&mut self, is_damaged: bool) {
        let mut missing: Vec<Range<u64>> = Vec::new();
        let mut add = |range: Range<u64>| match missing.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end.max(last.end),
            _ if range.start < range.end => missing.push(range),
            _ => {}
        };
        let mut is_lost = is_damaged;
        if let Some(raw) = &self.raw {
            raw.missing(&self.input, self.size).into_iter().for_each(add);
            is_lost = true;
        } else {
            let mut at = 0;
            for page in &self.pages {
                let start = (u64::from(page.number) * self.page_size).min(self.size);
                let end = (start + self.page_size).min(self.size);
                add(at..start);
                if page.kind == Kind::Stored {
                    add((start + u64::from(page.len)).min(end)..end);
                }
                at = end;
            }
            add(at..self.size);
        }
        let bytes: u64 = missing.iter().map(|range| range.end - range.start).sum();
        if bytes == 0 {
            return;
        }
        let (status, why) = match is_lost {
            true => (Status::Bad, "are missing from the image's files; they count as bad"),
            false => (Status::NonTried, "are not in the image: they were not read when it was made"),
        };
        self.details.warnings.push(format!("{bytes} of the disk's {} bytes {why}", self.size));
        let ranges = missing.iter().map(|range| BadRange::new(range.clone(), status));
        self.details.bad = BadBlocks::from_unsorted(ranges).rounded(self.sector, self.size);
        if is_lost {
            self.details.lost = missing;
        }
    }

    /// Returns the extent at `offset`, which is in a page; `start..end` is what the page has of the disk.
    fn in_page(&self, page: &Page, offset: u64, start: u64, end: u64) -> Result<Extent, ReadError> {
        let codec = match page.kind {
            Kind::Stored => {
                let stop = end.min(start + u64::from(page.len));
                // The rest of a short page is missing.
                return Ok(match offset < stop {
                    true => {
                        let at = page.at + (offset - start);
                        Extent { disk: offset..stop, origin: Origin::Stored { file: page.file, at } }
                    }
                    false => Extent { disk: offset..end, origin: Origin::Unread },
                });
            }
            Kind::Zeros => {
                let mut count = [0; 4];
                self.input.read_exact_at(page.file, &mut count, page.at)?;
                let is_whole = page.len == 4 && u64::from(u32::from_be_bytes(count)) >= end - start;
                return if is_whole {
                    Ok(zeros(start, end))
                } else {
                    Err(ReadError::Corrupt { at: page.at })
                };
            }
            Kind::Zlib => Codec::Zlib,
            Kind::Lzma => Codec::LzmaAlone,
        };
        let uncompressed = u32::try_from(end - start).map_err(|_| ReadError::Corrupt { at: page.at })?;
        let Page { file, at, len, .. } = *page;
        let chunk = CompressedChunk { file, at, len, skip: 0, uncompressed, codec, sum: Sum::None };
        Ok(Extent { disk: start..end, origin: Origin::Compressed(chunk) })
    }
}

impl Image for Aff {
    fn size(&self) -> u64 {
        self.size
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        if let Some(raw) = &self.raw {
            return Ok(raw.map(&self.input, offset, self.size));
        }
        let number = offset / self.page_size;
        let start = number * self.page_size;
        let end = (start + self.page_size).min(self.size);
        let next = self.pages.partition_point(|page| u64::from(page.number) < number);
        match self.pages.get(next) {
            Some(page) if u64::from(page.number) == number => self.in_page(page, offset, start, end),
            other => {
                let end = other.map_or(self.size, |page| u64::from(page.number) * self.page_size);
                Ok(Extent { disk: start..end.min(self.size), origin: Origin::Unread })
            }
        }
    }

    fn mark(&self) -> Option<&[u8]> {
        self.mark.as_deref()
    }

    fn details(&self) -> &ImageDetails {
        &self.details
    }
}
