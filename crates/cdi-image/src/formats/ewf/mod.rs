//! Expert Witness images: EnCase (`.E01`), in its newer and older forms, and SMART (`.s01`).
//!
//! Sources: "Expert Witness Compression Format (EWF)", the libewf project's documentation of the format; for what
//! X-Ways adds, the crate ewf-image 0.6; checked against images by several programs. All numbers are little-endian. A
//! file is a header and a chain of sections; the chunks of the disk are in "sectors" sections, their offsets in the
//! "table" that follows each, and again in "table2". A chunk is a zlib stream, or uncompressed bytes followed by their
//! Adler-32. X-Ways may compress with zstd, without its magic and without a checksum, and encrypt the chunks
//! (`xways.rs`).

mod decrypted;
pub(super) mod errors;
mod samples;
mod sections;
pub(super) mod segments;
mod tables;
pub(super) mod tail;
pub(super) mod texts;
mod xways;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use cdi_base::error::{Error, Flaw, ReadError};
use cdi_base::units::index;
use decrypted::Decrypted;
use sections::{Gathered, Media};
use tables::{Place, Tables};
use xways::Unlocked;

use crate::badmap::{BadBlocks, BadRange};
use crate::bytes::flaw;
use crate::codec::{Codec, Sum, decompress};
use crate::details::ImageDetails;
use crate::extent::{CompressedChunk, Extent, FileNo, Origin};
use crate::image::{CheckCancelled, Format, Image, OpenOptions};
use crate::input::Input;
use crate::stored_hashes::StoredHash;

/// EnCase's images.
pub const FORMAT: Format = Format {
    name: "ewf",
    summary: "EnCase's and SMART's images (E01, S01) with all their segments",
    integrity: "Adler-32 of every table and chunk (not if compressed with zstd); MD5 and SHA-1 of the whole disk, if stored",
    suffixes: &["e01", "s01"],
    probe: |input| input.bytes(0, 8, "the header").is_ok_and(|b| b == MAGIC || b == ADCRYPT),
    open,
};

const MAGIC: &[u8] = b"EVF\x09\x0d\x0a\xff\x00";
/// The magic of images encrypted by AccessData's programs.
const ADCRYPT: &[u8] = b"ADCRYPT\0";
/// The length in bytes of a file's header, and of a section's.
const HEADER: u64 = 13;
const SECTION: usize = 76;
/// Maximum length of a metadata text in bytes, compressed or not.
const MAX_TEXT: usize = 1 << 20;
/// Maximum number of entries of a table.
const MAX_ENTRIES: u32 = 1 << 20;
/// How much longer than twice the uncompressed length a compressed chunk may be, in bytes.
const SURPLUS: u32 = 64 << 10;
struct Ewf {
    input: Arc<Input>,
    size: u64,
    chunk: u64,
    tables: Arc<Tables>,
    /// The segments whose chunks are encrypted, and each as a file that is not.
    decrypted: BTreeMap<FileNo, FileNo>,
    /// The number of bytes in the disk's last chunk, if it is more than the disk has of it.
    last: Option<u32>,
    details: ImageDetails,
}

fn open(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    if input.bytes(0, ADCRYPT.len(), "the header")? == ADCRYPT {
        return Err(Error::bad_image("image encrypted by FTK's AD encryption (not supported)").hint(
            "open it in FTK Imager with its password or certificate, and export it without encryption",
        ));
    }
    let mut gathered = Gathered::default();
    let gaps = segments::walk(&input, segment_name, |file, number, after_gap| {
        gathered.segment(&input, file, number, after_gap)
    })?;
    let Gathered { tables, chunks, media, mut metadata, hashes, ranges, warnings, .. } = gathered;
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
    let codec = if gathered.has_zstd { Codec::XWaysZstd } else { Codec::ZlibPadded };
    let tables = Arc::new(Tables::new(tables, codec));
    let mut image = Ewf { input, size, chunk, tables, decrypted: BTreeMap::new(), last: None, details };
    let passphrase = options.passphrase.as_ref();
    let sealings = gathered.sealings.split_first();
    let unlocked =
        sealings.map(|sealings| Unlocked::new(&image.input, sealings, passphrase, chunk)).transpose()?;
    if let Some(unlocked) = &unlocked {
        image.decrypt(unlocked)?;
    }
    image.read_tail(sector.into());
    match unlocked.zip(passphrase) {
        Some((unlocked, passphrase)) => samples::check_passphrase(&mut image, &unlocked, passphrase)?,
        None => samples::refuse_encrypted(&mut image, gathered.is_encrypted)?,
    }
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
        let Some((number, table)) = self.tables.all().iter().enumerate().next_back() else { return listed };
        let len = self.input.len_of(table.file);
        match self.tables.chunks(&self.input, number) {
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
        let Some(Place { file, at, len, codec }) = self.place(chunk).ok() else { return };
        let mut stored = vec![0; index(len.min(2 * self.chunk + u64::from(SURPLUS)))];
        if self.input.read_exact_at(file, &mut stored, at).is_err() {
            return;
        }
        let wanted = self.size % self.chunk;
        self.last = tail::note(&mut self.details, sector, codec, &stored, wanted, self.chunk);
    }

    /// Makes each segment a file whose chunks are decrypted.
    fn decrypt(&mut self, unlocked: &Unlocked) -> Result<(), Error> {
        for table in self.tables.all() {
            let file = table.file;
            if self.decrypted.contains_key(&file) {
                continue;
            }
            let keys = unlocked.keys(&self.input, file)?;
            let (input, tables) = (Arc::downgrade(&self.input), Arc::clone(&self.tables));
            let source = Decrypted { input, tables, file, len: self.input.len_of(file), keys };
            let decrypted = self.input.derive(Arc::new(source), &self.input.path_of(file))?;
            self.decrypted.insert(file, decrypted);
        }
        Ok(())
    }

    /// Locates a chunk in the files from which it can be read.
    fn place(&self, chunk: u64) -> Result<Place, ReadError> {
        let place = self.tables.place(&self.input, chunk, self.chunk)?;
        let Some(file) = self.decrypted.get(&place.file) else { return Ok(place) };
        // Bytes are decrypted by where they are: as those of this chunk, unless another one is at the same place.
        match self.tables.around(&self.input, place.file, place.at)? {
            (Some(number), range) if number == chunk && range.start == place.at => {
                Ok(Place { file: *file, ..place })
            }
            _ => Err(ReadError::Corrupt { at: place.at }),
        }
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
}

impl Image for Ewf {
    fn size(&self) -> u64 {
        self.size
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        let chunk = offset / self.chunk;
        let Place { file, at, len, codec } = self.place(chunk)?;
        let disk = chunk * self.chunk..((chunk + 1) * self.chunk).min(self.size);
        let uncompressed = u32::try_from(disk.end - disk.start).unwrap_or(u32::MAX);
        let is_last = disk.end == self.size;
        let uncompressed = self.last.filter(|_| is_last).unwrap_or(uncompressed);
        // Bytes between the end of a chunk and the next one are not part of it.
        let is_compressed = codec != Codec::StoredAdler32;
        let max = if is_compressed { 2 * uncompressed + SURPLUS } else { uncompressed + 4 };
        let len = u32::try_from(len).unwrap_or(u32::MAX).min(max);
        let compressed = CompressedChunk { file, at, len, skip: 0, uncompressed, codec, sum: Sum::None };
        Ok(Extent { disk, origin: Origin::Compressed(compressed) })
    }

    fn check(
        &self,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        for table in self.tables.all() {
            for at in [Some(table.entries), table.copy].into_iter().flatten() {
                if let Err(e) = self.tables.read(&self.input, table, at) {
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
