//! Expert Witness images: EnCase (`.E01`), in its newer and older forms, and SMART (`.s01`).
//!
//! Sources: "Expert Witness Compression Format (EWF)", the libewf project's documentation of the format; for what
//! X-Ways adds, the crate ewf-image 0.6; checked against images by several programs. All numbers are little-endian. A
//! file is a header and a chain of sections; the chunks of the disk are in "sectors" sections, their offsets in the
//! "table" that follows each, and again in "table2". A chunk is a zlib stream, or uncompressed bytes followed by their
//! Adler-32.

pub(super) mod errors;
mod sections;
pub(super) mod segments;
pub(super) mod tail;
pub(super) mod texts;

use cdi_base::workers::lock;
use std::num::NonZero;
use std::path::Path;
use std::sync::{Arc, Mutex};

use cdi_base::error::{Error, Flaw, ReadError};
use cdi_base::units::index;
use lru::LruCache;
use sections::{Gathered, Media};

use crate::badmap::{BadBlocks, BadRange};
use crate::bytes::{flaw, le32};
use crate::codec::{Codec, Sum, adler32, decompress};
use crate::details::ImageDetails;
use crate::extent::{CompressedChunk, Extent, FileNo, Origin};
use crate::image::{CheckCancelled, Format, Image, OpenOptions};
use crate::input::Input;
use crate::stored_hashes::StoredHash;

/// EnCase's images.
pub const FORMAT: Format = Format {
    name: "ewf",
    summary: "EnCase's and SMART's images (E01, S01) with all their segments",
    integrity: "Adler-32 of every chunk and table; MD5 and SHA-1 of the whole disk, if stored",
    suffixes: &["e01", "s01"],
    probe: |input| input.bytes(0, 8, "the header").is_ok_and(|b| b == MAGIC || b == ADCRYPT),
    open,
};

const MAGIC: &[u8] = b"EVF\x09\x0d\x0a\xff\x00";
/// The magic of images encrypted by AccessData's programs.
const ADCRYPT: &[u8] = b"ADCRYPT\0";
/// What can be done about an encrypted image.
const DECRYPT: &str = "if it was encrypted by X-Ways, open it there with its password and create an image without encryption; \
     encrypted E01 images are not supported";
/// The length in bytes of a file's header, and of a section's.
const HEADER: u64 = 13;
const SECTION: usize = 76;
/// Maximum length of a metadata text in bytes, compressed or not.
const MAX_TEXT: usize = 1 << 20;
/// Maximum number of entries of a table.
const MAX_ENTRIES: u32 = 1 << 20;
/// How many tables are cached in memory.
const TABLES_KEPT: NonZero<usize> = NonZero::new(64).expect("not 0");
/// How much longer than twice the uncompressed length a compressed chunk may be, in bytes.
const SURPLUS: u32 = 64 << 10;
/// How many chunks are tried at opening to find an intact one.
const MAX_TRIED: u64 = 64;
/// The bit of a chunk's offset that says that it is compressed.
const COMPRESSED: u32 = 1 << 31;

/// A table of chunk offsets in a file.
struct Table {
    /// The number of its first chunk, and its number of chunks.
    first: u64,
    count: u32,
    file: FileNo,
    /// The file offsets of its entries, and of their copy.
    entries: u64,
    copy: Option<u64>,
    /// Whether the entries are followed by a checksum; SMART's are not.
    signed: bool,
    /// The file offset that chunk offsets are relative to, and the end of the last chunk.
    base: u64,
    end: u64,
}

/// The chunks of a table: file offset and whether it is compressed; then a final item with the end of the last one.
type Chunks = Arc<[(u64, bool)]>;

struct Ewf {
    input: Arc<Input>,
    size: u64,
    chunk: u64,
    tables: Vec<Table>,
    kept: Mutex<LruCache<usize, Chunks>>,
    /// The number of bytes in the disk's last chunk, if it is more than the disk has of it.
    last: Option<u32>,
    details: ImageDetails,
}

fn open(input: Arc<Input>, _: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    if input.bytes(0, ADCRYPT.len(), "the header")? == ADCRYPT {
        return Err(Error::bad_image("image encrypted by FTK's AD encryption (not supported)").hint(
            "open it in FTK Imager with its password or certificate, and export it without encryption",
        ));
    }
    let mut gathered = Gathered::default();
    let gaps = segments::walk(&input, segment_name, |file, number, after_gap| {
        gathered.segment(&input, file, number, after_gap)
    })?;
    let Gathered { tables, chunks, media, mut metadata, hashes, ranges, warnings, has_zstd, .. } = gathered;
    if let Some(method) = gathered.encryption {
        let cipher = ["AES-128", "AES-256"].get(usize::from(method)).copied().unwrap_or("an unknown cipher");
        let what = format!("image encrypted by X-Ways with {cipher} (not supported)");
        return Err(Error::bad_image(what).hint(DECRYPT));
    }
    let Some(Media { sectors, sector, chunk, .. }) = media else {
        let error = gaps.first_error(&input);
        return error.map_or_else(
            || flaw(HEADER, "the volume section, which contains the size of the disk, is missing"),
            Err,
        );
    };
    let size = sectors * u64::from(sector);
    // One more chunk may contain the rest of a source that was not a multiple of the sector size.
    if chunks > size.div_ceil(chunk) + 1 {
        let what = format!("the segments list {chunks} chunks, but the disk has {}", size.div_ceil(chunk));
        let error = Error::bad_image(what);
        return Err(
            error.hint("some segments belong to another disk: put the image into a directory of its own")
        );
    }
    metadata.size_bytes = size;
    metadata.logical_sector_bytes = if sector.is_power_of_two() && sector >= 512 { sector } else { 0 };
    let bad = BadBlocks::from_unsorted(ranges.into_iter().map(|r| BadRange {
        start: (r.start * u64::from(sector)).min(size),
        end: (r.end * u64::from(sector)).min(size),
        ..r
    }));
    let stored_hashes =
        hashes.into_iter().map(|(kind, value)| StoredHash::of_disk(size, kind, value)).collect();
    let details = ImageDetails { bad, stored_hashes, metadata, warnings, ..ImageDetails::default() };
    let kept = Mutex::new(LruCache::new(TABLES_KEPT));
    let mut image = Ewf { input, size, chunk, tables, kept, last: None, details };
    image.read_tail(sector.into());
    image.refuse_encrypted(has_zstd)?;
    let end = image.chunks_present(chunks).saturating_mul(chunk).min(size);
    let lost: Vec<_> = std::iter::once(end..size).filter(|range| range.start < range.end).collect();
    // Lost ranges cannot be classified.
    lost.iter().for_each(|range| image.details.bad.replace(range.clone(), &[]));
    if !image.details.bad.is_empty() {
        let decompress = |at, bytes: &mut Vec<u8>| image.read_chunk(at, bytes);
        let (bad, warning) = errors::classify(&image.details.bad, sector.into(), chunk, &decompress);
        image.details.bad = bad;
        image.details.warnings.push(warning);
    }
    gaps.report(lost, false, &mut image.details);
    Ok(Box::new(image))
}

/// Returns the name of segment `number` of the image whose first one is `first`: E01 to E99, EAA to EZZ, FAA to ZZZ.
fn segment_name(first: &Path, number: u32) -> Option<std::path::PathBuf> {
    let suffix = first.extension()?.to_str()?;
    let letter = suffix.bytes().next()?;
    let small = letter.is_ascii_lowercase();
    let suffix = if number <= 99 {
        format!("{}{number:02}", char::from(letter))
    } else {
        let n = number - 100;
        let letters = [n / 676, n / 26 % 26, n % 26];
        let first = u32::from(letter.to_ascii_uppercase()) + letters[0];
        let last = |n: u32| char::from_u32(u32::from(b'A') + n);
        let text: String =
            [char::from_u32(first).filter(|c| *c <= 'Z')?, last(letters[1])?, last(letters[2])?]
                .into_iter()
                .collect();
        if small { text.to_ascii_lowercase() } else { text }
    };
    Some(Path::new(first.file_name()?).with_extension(suffix))
}

impl Ewf {
    /// Returns how many of the chunks in the tables are in the files. If a segment whose chunks follow their table is
    /// truncated, the table lists more chunks than there are.
    fn chunks_present(&self, listed: u64) -> u64 {
        let Some((number, table)) = self.tables.iter().enumerate().next_back() else { return listed };
        let len = self.input.len_of(table.file);
        match self.chunks(number) {
            Ok(chunks) if table.end >= len => {
                // A chunk ends where the next one begins; the end of the last one is unknown, and may be the end of the
                // file.
                let whole = chunks.windows(2).take_while(|pair| pair[1].0 <= len && pair[0].0 < pair[1].0);
                let whole = whole.count() as u64;
                let count = u64::from(table.count);
                let cut = whole == count && !self.is_intact(table.first + count - 1);
                table.first + if cut { whole - 1 } else { whole }
            }
            _ => listed,
        }
    }

    /// Checks whether a chunk can be decompressed and has the right checksum.
    fn is_intact(&self, chunk: u64) -> bool {
        chunk
            .checked_mul(self.chunk)
            .filter(|at| *at < self.size)
            .is_none_or(|at| self.read_chunk(at, &mut Vec::new()))
    }

    /// Reads the disk's last chunk to find its length, and any bytes after the end of the disk.
    fn read_tail(&mut self, sector: u64) {
        let chunk = self.size / self.chunk;
        let Some((table, compressed, at, len)) = self.place(chunk).ok() else { return };
        let codec = if compressed { Codec::ZlibPadded } else { Codec::StoredAdler32 };
        let mut stored = vec![0; index(len.min(2 * self.chunk + u64::from(SURPLUS)))];
        if self.input.read_exact_at(table, &mut stored, at).is_err() {
            return;
        }
        let wanted = self.size % self.chunk;
        self.last = tail::note(&mut self.details, sector, codec, &stored, wanted, self.chunk);
    }

    /// Refuses images with intact structures, but no intact chunk: those by X-Ways with Zstandard, and those that some
    /// program encrypted without a mark. `has_zstd` says that the header is that of the former.
    fn refuse_encrypted(&self, has_zstd: bool) -> Result<(), Error> {
        let count =
            self.tables.last().map_or(0, |t| t.first + u64::from(t.count)).min(self.size / self.chunk);
        let step = count.div_ceil(MAX_TRIED).max(1);
        let (mut tried, mut seen) = (0u32, [0u32; 256]);
        for chunk in (0..count).step_by(index(step)) {
            let Ok((file, compressed, at, len)) = self.place(chunk) else { continue };
            if self.read_chunk(chunk * self.chunk, &mut Vec::new()) {
                return Ok(());
            }
            let mut start = vec![0; index(len.min(4096))];
            if self.input.read_exact_at(file, &mut start, at).is_err() {
                continue;
            }
            // A zlib stream with a valid header is only damaged, not encrypted.
            if compressed
                && start[0] & 0x0F == 8
                && (u32::from(start[0]) << 8 | u32::from(start[1])) % 31 == 0
            {
                return Ok(());
            }
            start.iter().for_each(|byte| seen[usize::from(*byte)] += 1);
            tried += 1;
        }
        if has_zstd && tried > 0 {
            let what = "image compressed by X-Ways with Zstandard (not supported)";
            let hint = "open it in X-Ways, and create an image that is compatible with other programs";
            return Err(Error::bad_image(what).hint(hint));
        }
        let bytes: u32 = seen.iter().sum();
        // In random data, no byte value is much more frequent than the others.
        let is_random = bytes >= 4096 && seen.iter().all(|n| *n > 0 && *n < bytes / 256 * 3);
        if tried < 2 || !is_random {
            return Ok(());
        }
        Err(Error::bad_image(format!(
            "encrypted or completely damaged image: its structures are intact, but none of {tried} sampled chunks passes \
             its check, and all look random"
        ))
        .hint(DECRYPT))
    }

    /// Locates a chunk: file, whether it is compressed, offset, and the distance to the next one, more than 4 bytes.
    fn place(&self, chunk: u64) -> Result<(FileNo, bool, u64, u64), ReadError> {
        let unmapped = ReadError::Unmapped { offset: chunk.saturating_mul(self.chunk) };
        let number = self.tables.partition_point(|t| t.first + u64::from(t.count) <= chunk);
        let table = self.tables.get(number).ok_or(unmapped)?;
        let chunks = self.chunks(number)?;
        let at = index(chunk - table.first);
        let [(start, compressed), (end, _)] = chunks[at..at + 2] else { return Err(unmapped) };
        let len = end.checked_sub(start).filter(|len| *len > 4).ok_or(ReadError::Corrupt { at: start })?;
        Ok((table.file, compressed, start, len))
    }

    /// Reads the chunk around `offset` into `chunk`. Returns whether it could be read and decompressed.
    fn read_chunk(&self, offset: u64, chunk: &mut Vec<u8>) -> bool {
        let Ok(Extent { origin: Origin::Compressed(p), .. }) = self.map(offset) else { return false };
        if p.len > 2 * crate::extent::MAX_CHUNK {
            return false;
        }
        let mut stored = vec![0; p.len as usize];
        chunk.clear();
        chunk.resize(p.uncompressed as usize, 0);
        self.input.read_exact_at(p.file, &mut stored, p.at).is_ok()
            && decompress(p.codec, &stored, chunk).is_ok()
    }

    /// Returns the chunks of a table, read from it or, if it is damaged, from its copy.
    fn chunks(&self, number: usize) -> Result<Chunks, ReadError> {
        let lock = || lock(&self.kept);
        if let Some(kept) = lock().get(&number) {
            return Ok(Arc::clone(kept));
        }
        let table = &self.tables[number];
        let chunks = self.read_chunks(table, table.entries).or_else(|e| match table.copy {
            Some(copy) => self.read_chunks(table, copy),
            None => Err(e),
        })?;
        lock().put(number, Arc::clone(&chunks));
        Ok(chunks)
    }

    fn read_chunks(&self, table: &Table, at: u64) -> Result<Chunks, ReadError> {
        let len = table.count as usize * 4;
        let mut bytes = vec![0; if table.signed { len + 4 } else { len }];
        self.input.read_exact_at(table.file, &mut bytes, at)?;
        if table.signed && adler32(&bytes[..len]) != le32(&bytes, len) {
            return Err(ReadError::Corrupt { at });
        }
        // EnCase 6.7 let offsets grow into the bit for "compressed"; from there on, no chunk is compressed.
        let (mut before, mut overflowed) = (0, false);
        let mut chunks: Vec<(u64, bool)> = bytes[..len]
            .chunks_exact(4)
            .map(|e| {
                let entry = le32(e, 0);
                overflowed |= entry & !COMPRESSED < before;
                before = if overflowed { 0 } else { entry & !COMPRESSED };
                let offset = if overflowed { entry } else { entry & !COMPRESSED };
                (table.base.saturating_add(offset.into()), !overflowed && entry & COMPRESSED != 0)
            })
            .collect();
        chunks.push((table.end, false));
        Ok(chunks.into())
    }
}

impl Image for Ewf {
    fn size(&self) -> u64 {
        self.size
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        let chunk = offset / self.chunk;
        let (file, compressed, at, len) = self.place(chunk)?;
        let disk = chunk * self.chunk..((chunk + 1) * self.chunk).min(self.size);
        let uncompressed = u32::try_from(disk.end - disk.start).unwrap_or(u32::MAX);
        let is_last = disk.end == self.size;
        let uncompressed = self.last.filter(|_| is_last).unwrap_or(uncompressed);
        let codec = if compressed { Codec::ZlibPadded } else { Codec::StoredAdler32 };
        // Bytes between the end of a chunk and the next one are not part of it.
        let max = if compressed { 2 * uncompressed + SURPLUS } else { uncompressed + 4 };
        let len = u32::try_from(len).unwrap_or(u32::MAX).min(max);
        let compressed = CompressedChunk { file, at, len, skip: 0, uncompressed, codec, sum: Sum::None };
        Ok(Extent { disk, origin: Origin::Compressed(compressed) })
    }

    fn check(
        &self,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        for table in &self.tables {
            for at in [Some(table.entries), table.copy].into_iter().flatten() {
                if let Err(e) = self.read_chunks(table, at) {
                    report(
                        Flaw::at(at, format!("damaged chunk table: {e}")),
                        "nothing, if the other copy of the table is intact",
                    );
                }
                check_cancelled()?;
            }
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
        let name = |n| {
            segment_name(Path::new("/x/disk.E01"), n).map(|p| p.display().to_string()).unwrap_or_default()
        };
        assert_eq!(
            [name(2), name(99), name(100), name(101), name(126), name(775), name(776), name(14_971)],
            ["disk.E02", "disk.E99", "disk.EAA", "disk.EAB", "disk.EBA", "disk.EZZ", "disk.FAA", "disk.ZZZ"]
        );
        assert_eq!(name(14_972), "");
        assert_eq!(segment_name(Path::new("d.e01"), 100), Some("d.eaa".into()));
        assert_eq!(segment_name(Path::new("d.s01"), 12), Some("d.s12".into()));
    }
}
