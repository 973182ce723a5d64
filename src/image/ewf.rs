//! Expert Witness images: EnCase (`.E01`), in its newer and older forms.
//!
//! Facts: "Expert Witness Compression Format (EWF)", the libewf project's documentation of the format; checked against
//! images by several programs. All numbers are little-endian. A file is a header and a chain of sections; the chunks of
//! the disk lie in "sectors" sections, their offsets in the "table" that follows each, and again in "table2". A chunk is
//! a zlib stream, or bytes and their Adler-32.

use std::num::NonZero;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use super::bad::{BadBlocks, BadRange, MOST_RANGES, Status};
use super::codec::{Codec, Sum, adler32, inflate};
use super::facts::Facts;
use super::input::Input;
use super::{Extent, FileNo, Format, Image, LONGEST_CHUNK, OpenOptions, Origin, Packed};
use crate::error::{Error, Flaw, ReadError};
use crate::units::index;

/// EnCase's images.
pub const FORMAT: Format = Format {
    name: "ewf",
    summary: "EnCase images (E01) with all their segments",
    integrity: "Adler-32 of every chunk and table; MD5 and SHA-1 of the whole where they were stored",
    suffixes: &["e01"],
    probe: |input| input.bytes(0, 8, "the header").is_ok_and(|b| b == MAGIC),
    open,
};

const MAGIC: &[u8] = b"EVF\x09\x0d\x0a\xff\x00";
/// The length of a file's header, and of a section's.
const HEADER: u64 = 13;
const SECTION: usize = 76;
/// The longest text about the disk that is read, packed or not, in bytes.
const LONGEST_TEXT: usize = 1 << 20;
/// How many entries a table has at most.
const MOST_ENTRIES: u32 = 1 << 20;
/// How many tables are kept in memory.
const TABLES_KEPT: NonZero<usize> = NonZero::new(64).expect("not 0");
/// A chunk's offset has this bit if it is compressed.
const COMPRESSED: u32 = 1 << 31;

/// A table of chunk offsets, as it lies in a file.
struct Table {
    /// The number of its first chunk, and how many it has.
    first: u64,
    count: u32,
    file: FileNo,
    /// Where its entries are, and where their copy is.
    entries: u64,
    copy: Option<u64>,
    /// What their offsets are counted from, and where the last chunk ends.
    base: u64,
    end: u64,
}

/// The chunks of a table: where each begins, and whether it is compressed; then where the last one ends.
type Chunks = Arc<[(u64, bool)]>;

struct Ewf {
    input: Arc<Input>,
    size: u64,
    chunk: u64,
    tables: Vec<Table>,
    kept: Mutex<LruCache<usize, Chunks>>,
    bad: BadBlocks,
    facts: Facts,
    remarks: Vec<String>,
}

/// A section of a segment.
struct Section {
    file: FileNo,
    name: String,
    /// Where its payload is.
    data: std::ops::Range<u64>,
}

/// What is gathered while the sections are walked over.
#[derive(Default)]
struct Gathered {
    tables: Vec<Table>,
    chunks: u64,
    /// Where the last "sectors" section ends, until its table comes.
    sectors_end: Option<u64>,
    media: Option<Media>,
    facts: Facts,
    ranges: Vec<BadRange>,
    remarks: Vec<String>,
}

struct Media {
    sectors: u64,
    sector: u32,
    chunk: u64,
}

fn flaw<T>(at: u64, what: impl Into<String>) -> Result<T, Error> {
    Err(Flaw::at(at, what).into())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
}

fn open(input: Arc<Input>, _: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let mut gathered = Gathered::default();
    let (mut file, mut number) = (Input::MAIN, 1u32);
    loop {
        let more = gathered.segment(&input, file, number).map_err(|e| e.at(&input.path_of(file)))?;
        if !more {
            break;
        }
        number += 1;
        let name = segment_name(input.path(), number);
        let next = name.as_deref().map(|n| input.beside(n)).transpose()?.flatten();
        file = next.ok_or_else(|| {
            let name = name.unwrap_or_default();
            Error::bad_image(format!(
                "the image goes on in segment {number}, '{}', which is missing",
                name.display()
            ))
        })?;
    }
    let Gathered { tables, chunks, media, mut facts, ranges, mut remarks, .. } = gathered;
    let Some(Media { sectors, sector, chunk }) = media else {
        return flaw(HEADER, "no section tells the size of the disk");
    };
    let size = sectors * u64::from(sector);
    if chunks < size.div_ceil(chunk) {
        let held = chunks * chunk;
        remarks.push(format!(
            "the tables speak of {held} bytes of the disk, which has {size}: what comes behind is lost"
        ));
    }
    facts.size_bytes = size;
    facts.logical_sector_bytes = if sector.is_power_of_two() && sector >= 512 { sector } else { 0 };
    let bad = BadBlocks::from_unsorted(ranges.into_iter().map(|r| BadRange {
        start: (r.start * u64::from(sector)).min(size),
        end: (r.end * u64::from(sector)).min(size),
        ..r
    }));
    if !bad.is_empty() {
        remarks.push(format!(
            "the image lists {} sectors as read errors; what it holds for them may be zeros or the disk's bytes, so they \
             are suspect",
            bad.count(Status::Suspect).bytes / u64::from(sector)
        ));
    }
    let kept = Mutex::new(LruCache::new(TABLES_KEPT));
    Ok(Box::new(Ewf { input, size, chunk, tables, kept, bad, facts, remarks }))
}

/// The name of segment `number` of the image whose first one is `first`: E01 to E99, then EAA to EZZ, FAA to ZZZ.
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

impl Gathered {
    /// Walks over a segment's sections. Whether there is another segment.
    fn segment(&mut self, input: &Input, file: FileNo, number: u32) -> Result<bool, Error> {
        let header = input.bytes_of(file, 0, index(HEADER), "the header")?;
        if !header.starts_with(MAGIC) {
            return flaw(0, "this is not a segment of an EWF image");
        }
        let is = u32::from(u16::from_le_bytes([header[9], header[10]]));
        if is != number {
            let error = Error::from(Flaw::at(9, format!("this is segment {is}, and not segment {number}")));
            return Err(if number == 1 { error.hint("name the first segment") } else { error });
        }
        let mut at = HEADER;
        loop {
            let head = input.bytes_of(file, at, SECTION, "a section")?;
            if adler32(&head[..SECTION - 4]) != u32_at(&head, SECTION - 4) {
                return flaw(at, "the checksum of this section's head is wrong");
            }
            let name: String = head[..16].iter().take_while(|b| **b != 0).map(|b| char::from(*b)).collect();
            let (next, size) = (u64_at(&head, 16), u64_at(&head, 24));
            let start = at + SECTION as u64;
            // Some programs leave the size out.
            let end = if size >= SECTION as u64 { at.saturating_add(size) } else { next.max(start) };
            let last = next == at || name == "done" || name == "next";
            let limit = if last { input.len_of(file) } else { next.min(input.len_of(file)) };
            self.section(
                input,
                &Section { file, name: name.clone(), data: start..end.min(limit).max(start) },
            )?;
            if last {
                return Ok(name == "next");
            }
            if next < start {
                return flaw(at, format!("the section behind '{name}' cannot begin at byte {next}"));
            }
            at = next;
        }
    }

    fn section(&mut self, input: &Input, section: &Section) -> Result<(), Error> {
        match section.name.as_str() {
            "volume" | "disk" => self.volume(input, section)?,
            "header" | "header2" => {
                // Some programs write the same twice; that nothing can be made of it is no reason to refuse the disk.
                if let Some(text) = self.text(input, section) {
                    self.told(&text);
                }
            }
            "sectors" => self.sectors_end = Some(section.data.end),
            "table" => self.table(input, section)?,
            "table2" => {
                if let Some(table) = self.tables.last_mut().filter(|t| t.file == section.file) {
                    table.copy = Some(section.data.start + 24);
                }
            }
            "error2" => self.errors(input, section)?,
            "hash" | "digest" => {
                let bytes = input.bytes_of(section.file, section.data.start, 36, "the hashes");
                if let Ok(bytes) = bytes {
                    let hex = |b: &[u8]| b.iter().map(|b| format!("{b:02x}")).collect::<String>();
                    self.facts.more.insert("md5_stored".into(), hex(&bytes[..16]).into());
                    if section.name == "digest" && bytes[16..36].iter().any(|b| *b != 0) {
                        self.facts.more.insert("sha1_stored".into(), hex(&bytes[16..36]).into());
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn volume(&mut self, input: &Input, section: &Section) -> Result<(), Error> {
        let at = section.data.start;
        let len = section.data.end - at;
        if len < 1052 {
            return flaw(at, "this is an image by SMART (S01); only EnCase's form (E01) is read");
        }
        let len = 1052;
        let bytes = input.bytes_of(section.file, at, len, "the section about the disk")?;
        if adler32(&bytes[..len - 4]) != u32_at(&bytes, len - 4) {
            return flaw(at, "the checksum of the section about the disk is wrong");
        }
        let (per_chunk, sector) = (u32_at(&bytes, 8), u32_at(&bytes, 12));
        let sectors = u64_at(&bytes, 16);
        let chunk = u64::from(per_chunk) * u64::from(sector);
        let size = sectors.checked_mul(sector.into()).filter(|s| *s > 0 && i64::try_from(*s).is_ok());
        if size.is_none() {
            return flaw(at, format!("a disk of {sectors} sectors of {sector} bytes cannot be"));
        }
        if chunk == 0 || chunk > u64::from(LONGEST_CHUNK) {
            return flaw(at, format!("chunks of {per_chunk} sectors of {sector} bytes are not read"));
        }
        self.media = Some(Media { sectors, sector, chunk });
        Ok(())
    }

    fn table(&mut self, input: &Input, section: &Section) -> Result<(), Error> {
        let at = section.data.start;
        let head = input.bytes_of(section.file, at, 24, "a table")?;
        let count = u32_at(&head, 0);
        if adler32(&head[..20]) != u32_at(&head, 20) {
            return flaw(at, "the checksum of a table's head is wrong");
        }
        if count > MOST_ENTRIES {
            return flaw(at, format!("a table of {count} chunks cannot be"));
        }
        if count == 0 {
            return Ok(());
        }
        // Older forms keep the chunks behind the table, in the same section.
        let end = self.sectors_end.take().unwrap_or(section.data.end);
        self.tables.push(Table {
            first: self.chunks,
            count,
            file: section.file,
            entries: at + 24,
            copy: None,
            base: u64_at(&head, 8),
            end,
        });
        self.chunks += u64::from(count);
        Ok(())
    }

    fn errors(&mut self, input: &Input, section: &Section) -> Result<(), Error> {
        let at = section.data.start;
        let head = input.bytes_of(section.file, at, 520, "the list of read errors")?;
        let count = u32_at(&head, 0) as usize;
        if adler32(&head[..516]) != u32_at(&head, 516) {
            return flaw(at, "the checksum of the list of read errors is wrong");
        }
        if count > MOST_RANGES {
            return flaw(at, format!("a list of {count} read errors is too long"));
        }
        let entries = input.bytes_of(section.file, at + 520, count * 8 + 4, "the list of read errors")?;
        if adler32(&entries[..count * 8]) != u32_at(&entries, count * 8) {
            return flaw(at + 520, "the checksum of the list of read errors is wrong");
        }
        // In sectors for now: their size may be told later.
        self.ranges = entries[..count * 8]
            .chunks_exact(8)
            .map(|e| {
                let first = u64::from(u32_at(e, 0));
                BadRange::new(first..first + u64::from(u32_at(e, 4)), Status::Suspect)
            })
            .collect();
        Ok(())
    }

    /// The text of a header section: zlib, of UTF-16 in "header2".
    fn text(&self, input: &Input, section: &Section) -> Option<String> {
        let len =
            usize::try_from(section.data.end - section.data.start).ok().filter(|l| *l <= LONGEST_TEXT)?;
        let packed = input.bytes_of(section.file, section.data.start, len, "the text about the disk").ok()?;
        let bytes = inflate(&packed, LONGEST_TEXT)?;
        if section.name == "header" {
            return Some(bytes.iter().map(|b| char::from(*b)).collect());
        }
        let units: Vec<u16> = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
        Some(String::from_utf16_lossy(&units))
    }

    /// Takes in what the text says: a line of names and a line of values, behind "main".
    fn told(&mut self, text: &str) {
        let mut lines =
            text.lines().map(|l| l.trim_start_matches('\u{feff}')).skip_while(|l| *l != "main").skip(1);
        let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return };
        for (name, value) in names.split('\t').zip(values.split('\t')).filter(|(_, v)| !v.trim().is_empty()) {
            let more = match name {
                "md" => {
                    self.facts.model = Some(value.into());
                    continue;
                }
                "sn" => {
                    self.facts.serial = Some(value.into());
                    continue;
                }
                "t" => {
                    self.facts.notes = vec![value.into()];
                    continue;
                }
                "c" => "case_number",
                "n" => "evidence_number",
                "a" => "description",
                "e" => "examiner",
                "av" => "acquired_with",
                "ov" => "acquired_on",
                "m" => "acquired",
                _ => continue,
            };
            self.facts.more.insert(more.into(), value.into());
        }
    }
}

impl Ewf {
    /// Where the chunks of a table are: from it or, if it is damaged, from its copy.
    fn chunks(&self, number: usize) -> Result<Chunks, ReadError> {
        let lock = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
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
        let mut bytes = vec![0; len + 4];
        self.input.read_exact_at(table.file, &mut bytes, at)?;
        if adler32(&bytes[..len]) != u32_at(&bytes, len) {
            return Err(ReadError::Corrupt { at });
        }
        // EnCase 6.7 let offsets grow into the bit that says "compressed"; from there on nothing is.
        let (mut before, mut overflown) = (0, false);
        let mut chunks: Vec<(u64, bool)> = bytes[..len]
            .chunks_exact(4)
            .map(|e| {
                let entry = u32_at(e, 0);
                overflown |= entry & !COMPRESSED < before;
                before = if overflown { 0 } else { entry & !COMPRESSED };
                let offset = if overflown { entry } else { entry & !COMPRESSED };
                (table.base.saturating_add(offset.into()), !overflown && entry & COMPRESSED != 0)
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
        let number = self.tables.partition_point(|t| t.first + u64::from(t.count) <= chunk);
        let table = self.tables.get(number).ok_or(ReadError::Unmapped { offset })?;
        let chunks = self.chunks(number)?;
        let at = index(chunk - table.first);
        let [(start, compressed), (end, _)] = chunks[at..at + 2] else {
            return Err(ReadError::Unmapped { offset });
        };
        let disk = chunk * self.chunk..((chunk + 1) * self.chunk).min(self.size);
        let unpacked = u32::try_from(disk.end - disk.start).unwrap_or(u32::MAX);
        let len = end.checked_sub(start).and_then(|len| u32::try_from(len).ok()).filter(|l| *l > 4);
        let mut len = len.ok_or(ReadError::Corrupt { at: start })?;
        let codec = if compressed { Codec::ZlibPadded } else { Codec::StoredAdler32 };
        if !compressed {
            len = len.min(unpacked + 4);
        }
        let packed = Packed { file: table.file, at: start, len, skip: 0, unpacked, codec, sum: Sum::None };
        Ok(Extent { disk, origin: Origin::Packed(packed) })
    }

    fn bad(&self) -> &BadBlocks {
        &self.bad
    }

    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn remarks(&self) -> &[String] {
        &self.remarks
    }

    fn check(&self, report: &mut dyn FnMut(Flaw, &str)) {
        for table in &self.tables {
            for at in [Some(table.entries), table.copy].into_iter().flatten() {
                if let Err(e) = self.read_chunks(table, at) {
                    report(Flaw::at(at, format!("a table is damaged: {e}")), "nothing if its copy is sound");
                }
            }
        }
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
