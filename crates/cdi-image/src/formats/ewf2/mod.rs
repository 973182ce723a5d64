//! EnCase 7's images (`.Ex01`): zlib, bzip2, pattern fill, the error table.
//!
//! Sources: "Expert Witness Compression Format 2 (EWF2)", the libewf project's documentation of the format; checked
//! against images by libewf. All numbers are little-endian. A section's data comes before its header, so a segment is
//! read from its end. The chunks' locations are in tables; a chunk is compressed, or uncompressed bytes followed by
//! their Adler-32, or a pattern of eight bytes to be repeated.

mod sections;

use cdi_base::workers::lock;
use std::num::NonZero;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cdi_base::error::{Error, Flaw, ReadError};
use cdi_base::units::index;
use lru::LruCache;
use sections::{Gathered, Media};

use super::ewf::errors::classify;
use super::ewf::{segments, tail};
use crate::badmap::{BadBlocks, BadRange};
use crate::bytes::{flaw, le32, le64};
use crate::codec::{Codec, Sum, adler32, decompress};
use crate::details::ImageDetails;
use crate::extent::{CompressedChunk, Extent, FileNo, Origin};
use crate::image::{CheckCancelled, Format, Image, OpenOptions};
use crate::input::Input;
use crate::stored_hashes::StoredHash;

/// EnCase 7's images.
pub const FORMAT: Format = Format {
    name: "ewf2",
    summary: "EnCase 7's images (Ex01) with all their segments",
    integrity: "a checksum of every chunk and table; MD5 and SHA-1 of the whole disk, if stored, checked on verification",
    suffixes: &["ex01"],
    probe: |input| input.bytes(0, 8, "the header").is_ok_and(|b| b == MAGIC || b == LOGICAL),
    open,
};

const MAGIC: &[u8] = b"EVF2\r\n\x81\0";
/// The magic of logical images, which contain files, not a disk.
const LOGICAL: &[u8] = b"LEF2\r\n\x81\0";
/// The length of a table entry in bytes.
const ENTRY: usize = 16;
/// How many tables are cached in memory.
const TABLES_KEPT: NonZero<usize> = NonZero::new(64).expect("not 0");
/// Flags of a chunk.
const COMPRESSED: u32 = 1;
const CHECKSUM: u32 = 2;
const PATTERN: u32 = 4;

/// A chunk table in a file.
struct Table {
    /// The number of its first chunk, and its number of chunks.
    first: u64,
    count: u32,
    file: FileNo,
    /// The file offsets of its entries, and of the first chunk.
    entries: u64,
    chunks: u64,
}

/// The location of a chunk's data.
#[derive(Debug, Clone, Copy)]
enum Chunk {
    Data {
        at: u64,
        len: u32,
        codec: Codec,
    },
    Pattern([u8; 8]),
    /// The pattern is in the file, at this offset.
    PatternAt(u64),
}

struct Ewf2 {
    input: Arc<Input>,
    media: Media,
    size: u64,
    chunk: u64,
    codec: Codec,
    tables: Vec<Table>,
    kept: Mutex<LruCache<usize, Arc<[Chunk]>>>,
    /// The number of bytes in the disk's last chunk, if it is more than the disk has of it.
    last: Option<u32>,
    details: ImageDetails,
}

fn open(input: Arc<Input>, _: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    if input.bytes(0, 8, "the header")? == LOGICAL {
        return Err(Error::bad_image("logical image (Lx01): it contains files, not a disk"));
    }
    let mut gathered = Gathered::default();
    let gaps = segments::walk(&input, segment_name, |file, number, after_gap| {
        gathered.segment(&input, file, number, after_gap)
    })?;
    let Gathered { tables, media, codec, mut metadata, hashes, ranges, warnings, .. } = gathered;
    if media.sectors == 0
        && let Some(error) = gaps.first_error(&input)
    {
        return Err(error);
    }
    let Media { sectors, sector, per_chunk, .. } = media;
    let size = sectors.checked_mul(sector).filter(|size| *size > 0 && i64::try_from(*size).is_ok());
    let Some(size) = size else {
        return flaw(0, format!("invalid disk size: {sectors} sectors of {sector} bytes"));
    };
    let chunk = segments::check_chunk(0, per_chunk, sector)?;
    if chunk % 8 != 0 {
        return flaw(0, format!("invalid chunk size: {chunk} bytes"));
    }
    metadata.size_bytes = size;
    let is_usual = sector.is_power_of_two() && sector >= 512;
    metadata.logical_sector_bytes = u32::try_from(sector).ok().filter(|_| is_usual).unwrap_or(0);
    let bytes = |sectors: u64| sectors.saturating_mul(sector).min(size);
    let listed = ranges.iter().map(|r| BadRange { start: bytes(r.start), end: bytes(r.end), ..*r });
    let bad = BadBlocks::from_unsorted(listed);
    let stored_hashes =
        hashes.into_iter().map(|(kind, value)| StoredHash::of_disk(size, kind, value)).collect();
    let kept = Mutex::new(LruCache::new(TABLES_KEPT));
    let details = ImageDetails { bad, stored_hashes, metadata, warnings, ..ImageDetails::default() };
    let mut image = Ewf2 { input, media, size, chunk, codec, tables, kept, last: None, details };
    image.read_tail();
    let lost = image.unlisted();
    // Lost ranges cannot be classified.
    lost.iter().for_each(|range| image.details.bad.replace(range.clone(), &[]));
    if !image.details.bad.is_empty() {
        let (bad, warning) =
            classify(&image.details.bad, sector, chunk, &|at, bytes| image.read_chunk(at, bytes));
        image.details.bad = bad;
        image.details.warnings.push(warning);
    }
    gaps.report(lost, true, &mut image.details);
    Ok(Box::new(image))
}

/// Returns the name of segment `number`: Ex01 to Ex99, then ExAA to ExZZ, EyAA to EzZZ.
fn segment_name(first: &Path, number: u32) -> Option<PathBuf> {
    let suffix = first.extension()?.to_str()?;
    let (start, _) = suffix.split_at_checked(2)?;
    let suffix = if number <= 99 {
        format!("{start}{number:02}")
    } else {
        let n = number - 100;
        let mut letters = start.chars();
        let (first, second) = (letters.next()?, letters.next()?);
        let second = char::from_u32(u32::from(second) + n / 676)
            .filter(|c| c.eq_ignore_ascii_case(&'z') || *c < 'z')?;
        let base = if second.is_ascii_uppercase() || first.is_ascii_uppercase() { 'A' } else { 'a' };
        let letter = |n: u32| char::from_u32(u32::from(base) + n % 26);
        [first, second, letter(n / 26)?, letter(n)?].into_iter().collect()
    };
    Some(Path::new(first.file_name()?).with_extension(suffix))
}

impl Ewf2 {
    /// Returns the parts of the disk that no table covers, in bytes.
    fn unlisted(&self) -> Vec<Range<u64>> {
        let bytes = |chunk: u64| chunk.saturating_mul(self.chunk).min(self.size);
        let mut at = 0;
        let mut ranges = Vec::new();
        for table in &self.tables {
            ranges.push(at..bytes(table.first));
            at = bytes(table.first + u64::from(table.count));
        }
        ranges.push(at..self.size);
        ranges.retain(|range| range.start < range.end);
        ranges
    }

    /// Finds a chunk. Returns its table and its location.
    fn find(&self, chunk: u64) -> Result<(&Table, Chunk), ReadError> {
        let unmapped = ReadError::Unmapped { offset: chunk.saturating_mul(self.chunk) };
        let number = self.tables.partition_point(|t| t.first + u64::from(t.count) <= chunk);
        let table = self.tables.get(number).filter(|t| t.first <= chunk).ok_or(unmapped)?;
        let found = *self.chunks(number)?.get(index(chunk - table.first)).ok_or(unmapped)?;
        Ok((table, found))
    }

    /// Reads the disk's last chunk to find its length, and any bytes after the end of the disk.
    fn read_tail(&mut self) {
        let Ok((table, Chunk::Data { at, len, codec })) = self.find(self.size / self.chunk) else { return };
        let mut stored = vec![0; len.min(2 * crate::extent::MAX_CHUNK) as usize];
        if self.input.read_exact_at(table.file, &mut stored, at).is_err() {
            return;
        }
        let wanted = self.size % self.chunk;
        self.last = tail::note(&mut self.details, self.media.sector, codec, &stored, wanted, self.chunk);
    }

    /// Returns the chunks of a table.
    fn chunks(&self, number: usize) -> Result<Arc<[Chunk]>, ReadError> {
        let lock = || lock(&self.kept);
        if let Some(kept) = lock().get(&number) {
            return Ok(Arc::clone(kept));
        }
        let table = &self.tables[number];
        let len = table.count as usize * ENTRY;
        let mut bytes = vec![0; len + 4];
        self.input.read_exact_at(table.file, &mut bytes, table.entries)?;
        if adler32(&bytes[..len]) != le32(&bytes, len) {
            return Err(ReadError::Corrupt { at: table.entries });
        }
        // One writer (libewf of 2024) stores the pattern among the chunks, and its offset where the pattern should be.
        let mut next = table.chunks;
        let chunk = |e: &[u8]| {
            let (at, len, flags) = (le64(e, 0), le32(e, 8), le32(e, 12));
            let (here, padded) = (next, next.checked_next_multiple_of(16).unwrap_or(next));
            if flags & COMPRESSED != 0 && flags & PATTERN != 0 {
                let is_place = len == 8 && here != 0 && (at == here || at == padded);
                next = if is_place { at } else { here }.saturating_add(len.into());
                return if is_place { Chunk::PatternAt(at) } else { Chunk::Pattern(at.to_le_bytes()) };
            }
            next = at.saturating_add(len.into());
            let codec = match flags & (COMPRESSED | CHECKSUM) {
                0 => Codec::Stored,
                CHECKSUM => Codec::StoredAdler32,
                _ => self.codec,
            };
            Chunk::Data { at, len, codec }
        };
        let chunks: Arc<[Chunk]> = bytes[..len].chunks_exact(ENTRY).map(chunk).collect();
        lock().put(number, Arc::clone(&chunks));
        Ok(chunks)
    }

    /// Reads the chunk around `offset` into `chunk`. Returns whether it could be read and decompressed.
    fn read_chunk(&self, offset: u64, chunk: &mut Vec<u8>) -> bool {
        let Ok(extent) = self.map(offset) else { return false };
        chunk.clear();
        chunk.resize(index(extent.disk.end - extent.disk.start), 0);
        match extent.origin {
            Origin::Compressed(p) => {
                chunk.resize(p.uncompressed as usize, 0);
                if p.len > 2 * crate::extent::MAX_CHUNK {
                    return false;
                }
                let mut stored = vec![0; p.len as usize];
                self.input.read_exact_at(p.file, &mut stored, p.at).is_ok()
                    && decompress(p.codec, &stored, chunk).is_ok()
            }
            Origin::Fill(pattern) => {
                chunk.chunks_mut(8).for_each(|part| part.copy_from_slice(&pattern[..part.len()]));
                true
            }
            _ => false,
        }
    }
}

impl Image for Ewf2 {
    fn size(&self) -> u64 {
        self.size
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        let chunk = offset / self.chunk;
        let (table, found) = self.find(chunk)?;
        let disk = chunk * self.chunk..((chunk + 1) * self.chunk).min(self.size);
        let origin = match found {
            Chunk::Pattern(pattern) => Origin::Fill(pattern),
            Chunk::PatternAt(at) => {
                let mut pattern = [0; 8];
                self.input.read_exact_at(table.file, &mut pattern, at)?;
                Origin::Fill(pattern)
            }
            Chunk::Data { at, len, codec } => {
                let uncompressed = u32::try_from(disk.end - disk.start).unwrap_or(u32::MAX);
                let is_last = disk.end == self.size;
                let uncompressed = self.last.filter(|_| is_last).unwrap_or(uncompressed);
                // Anything after uncompressed bytes is padding.
                let len = match codec {
                    Codec::Stored => len.min(uncompressed),
                    Codec::StoredAdler32 => len.min(uncompressed + 4),
                    _ => len,
                };
                let sum = Sum::None;
                Origin::Compressed(CompressedChunk {
                    file: table.file,
                    at,
                    len,
                    skip: 0,
                    uncompressed,
                    codec,
                    sum,
                })
            }
        };
        Ok(Extent { disk, origin })
    }

    fn check(
        &self,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        for (number, table) in self.tables.iter().enumerate() {
            if let Err(e) = self.chunks(number) {
                report(
                    Flaw::at(table.entries, format!("damaged chunk table: {e}")),
                    "all chunks listed in this table",
                );
            }
            check_cancelled()?;
        }
        let expected = self.media.chunks;
        let listed = self.tables.last().map_or(0, |t| t.first + u64::from(t.count));
        if expected != 0 && expected != listed && self.details.lost.is_empty() {
            let what = format!("the image should have {expected} chunks, but its tables list {listed}");
            report(Flaw::at(0, what), "the chunks that are not listed");
        }
        Ok(())
    }

    fn details(&self) -> &ImageDetails {
        &self.details
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_named_as_encase_names_them() {
        let name = |first: &str, n| segment_name(Path::new(first), n).map(|p| p.display().to_string());
        for (n, expect) in [
            (2, "d.Ex02"),
            (99, "d.Ex99"),
            (100, "d.ExAA"),
            (126, "d.ExBA"),
            (775, "d.ExZZ"),
            (776, "d.EyAA"),
            (2127, "d.EzZZ"),
        ] {
            assert_eq!(name("/x/d.Ex01", n), Some(expect.into()));
        }
        assert_eq!(name("d.Ex01", 2128), None);
    }
}
