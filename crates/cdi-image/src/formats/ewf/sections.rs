//! Reads the sections of an EWF image's segments, in one pass.

use cdi_base::error::{Error, Flaw};
use cdi_base::units::index;

use super::segments::{Segment, check_chunk};
use super::tables::Table;
use super::xways::Sealing;
use super::{HEADER, MAGIC, MAX_ENTRIES, MAX_TEXT, SECTION, texts};
use crate::badmap::{BadRange, MAX_RANGES, Status};
use crate::bytes::{flaw, le32, le64};
use crate::codec::{Codec, ZSTD_MAGIC, adler32, expand};
use crate::extent::FileNo;
use crate::input::Input;
use crate::metadata::Metadata;
use crate::stored_hashes::HashKind;
use cdi_base::printable::hex;

/// The lengths in bytes of the section that describes the disk.
const LONG: u64 = 1052;
const SHORT: u64 = 94;
/// What X-Ways adds to the byte after the magic.
const ZSTD: u8 = 0x20;
const ENCRYPTED: u8 = 0x80;

/// A section of a segment.
struct Section {
    file: FileNo,
    name: String,
    /// The range of its payload in the file.
    data: std::ops::Range<u64>,
}

/// Everything collected from the sections.
#[derive(Default)]
pub(super) struct Gathered {
    pub tables: Vec<Table>,
    pub chunks: u64,
    /// The end of the last "sectors" section, until its table is read.
    sectors_end: Option<u64>,
    /// Whether the last table had any entries.
    has_table: bool,
    /// The error of a damaged table whose copy has not been read yet.
    damaged: Option<Error>,
    /// Whether an earlier segment is missing or incomplete: it is then unknown which chunks a table lists.
    after_gap: bool,
    pub media: Option<Media>,
    /// Whether X-Ways encrypted the chunks, by the first segment's header.
    pub is_encrypted: bool,
    /// Whether it compressed them with zstd, by that header or by the metadata, which it then compressed likewise.
    pub has_zstd: bool,
    /// How the chunks are encrypted.
    pub sealings: Vec<Sealing>,
    pub metadata: Metadata,
    /// Hashes of the whole disk.
    pub hashes: Vec<(HashKind, Vec<u8>)>,
    pub ranges: Vec<BadRange>,
    pub warnings: Vec<String>,
}

pub(super) struct Media {
    pub sectors: u64,
    pub sector: u32,
    pub chunk: u64,
    /// The GUID of the set of segments; zeros if written by an older program.
    set: [u8; 16],
    /// Whether it has the short form, in which tables are not followed by checksums.
    is_short: bool,
}

impl Media {
    /// Checks whether both may belong to the same set of segments.
    fn is_same(&self, other: &Media) -> bool {
        let named = [self.set, other.set].iter().all(|set| *set != [0; 16]);
        (self.sectors, self.sector, self.chunk) == (other.sectors, other.sector, other.chunk)
            && (!named || self.set == other.set)
    }
}

impl Gathered {
    /// Reads a segment's sections. `after_gap` says that an earlier segment is missing or incomplete.
    pub(super) fn segment(
        &mut self,
        input: &Input,
        file: FileNo,
        number: u32,
        after_gap: bool,
    ) -> Result<Segment, Error> {
        self.after_gap |= after_gap;
        (self.sectors_end, self.damaged) = (None, None);
        let walked = self.header(input, file, number).and_then(|()| self.sections(input, file));
        match walked {
            Ok(true) => Ok(Segment::Next),
            Ok(false) => Ok(Segment::Last),
            // Nothing can be read without the description of the disk.
            Err(e) if number == 1 && self.media.is_none() => Err(e),
            Err(e) => Ok(Segment::Damaged(e)),
        }
    }

    fn header(&mut self, input: &Input, file: FileNo, number: u32) -> Result<(), Error> {
        let header = input.bytes_of(file, 0, index(HEADER), "the header")?;
        if !header.starts_with(MAGIC) {
            return flaw(0, "not a segment of an EWF image");
        }
        let is = u32::from(u16::from_le_bytes([header[9], header[10]]));
        if is != number {
            let error = Error::from(Flaw::at(9, format!("this is segment {is}, expected segment {number}")));
            return Err(if number == 1 { error.hint("open the first segment") } else { error });
        }
        self.has_zstd |= number == 1 && header[8] & ZSTD != 0;
        self.is_encrypted |= number == 1 && header[8] & ENCRYPTED != 0;
        Ok(())
    }

    /// Reads all sections. Returns whether the last one says that another segment follows.
    fn sections(&mut self, input: &Input, file: FileNo) -> Result<bool, Error> {
        let file_len = input.len_of(file);
        let mut at = HEADER;
        loop {
            let header = input.bytes_of(file, at, SECTION, "a section")?;
            if adler32(&header[..SECTION - 4]) != le32(&header, SECTION - 4) {
                return flaw(at, "checksum mismatch of the section header");
            }
            let name: String = header[..16].iter().take_while(|b| **b != 0).map(|b| char::from(*b)).collect();
            let (next, size) = (le64(&header, 16), le64(&header, 24));
            let start = at + SECTION as u64;
            // Some programs do not store the size.
            let end = if size >= SECTION as u64 { at.saturating_add(size) } else { next.max(start) };
            let last = next == at || name == "done" || name == "next";
            let limit = if last { file_len } else { next.min(file_len) };
            let section = Section { file, name, data: start..end.min(limit).max(start) };
            self.section(input, &section)?;
            let name = section.name;
            if last {
                return Ok(name == "next");
            }
            if next < start {
                return flaw(at, format!("invalid offset of the section after '{name}': {next}"));
            }
            if next > file_len {
                let what = format!(
                    "section '{name}' should end at byte {next}, but the file has only {file_len} bytes"
                );
                return flaw(at, what);
            }
            at = next;
        }
    }

    fn section(&mut self, input: &Input, section: &Section) -> Result<(), Error> {
        if self.after_gap && matches!(section.name.as_str(), "sectors" | "table" | "table2") {
            return Ok(());
        }
        if section.name == "table2" && self.damaged.take().is_some() {
            return self.table(input, section);
        }
        if let Some(e) = self.damaged.take() {
            return Err(e);
        }
        match section.name.as_str() {
            // Use the first one.
            "volume" | "disk" if self.media.is_none() => self.media = Some(Gathered::volume(input, section)?),
            // Segments of another acquisition may have the same name.
            "data" => {
                let other = Gathered::volume(input, section).ok();
                let is_other =
                    self.media.as_ref().zip(other).is_some_and(|(media, other)| !media.is_same(&other));
                if is_other {
                    return flaw(
                        section.data.start,
                        "this segment does not belong to the same set as the first one",
                    );
                }
            }
            "header" | "header2" => {
                // Some programs write the same text twice. An unreadable one is no reason to refuse the image.
                if let Some(text) = self.text(input, section) {
                    self.parse_text(&text);
                }
            }
            "sectors" => self.sectors_end = Some(section.data.end),
            // Its copy may replace it.
            "table" => self.damaged = self.table(input, section).err(),
            "table2" => {
                let table = self.tables.last_mut().filter(|t| t.file == section.file && self.has_table);
                if let Some(table) = table {
                    table.copy = Some(section.data.start + 24);
                }
            }
            "error2" => self.errors(input, section)?,
            "x_encryption" => {
                let len = section.data.end - section.data.start;
                self.sealings.push(Sealing::read(input, section.file, section.data.start, len)?);
            }
            "hash" | "digest" => self.hashes(input, section),
            _ => {}
        }
        Ok(())
    }

    /// Reads the hashes: an MD5 in both types of section, a SHA-1 in "digest". Unreadable hashes are skipped.
    fn hashes(&mut self, input: &Input, section: &Section) {
        let len = if section.name == "digest" { 76 } else { 32 };
        let Ok(bytes) = input.bytes_of(section.file, section.data.start, len + 4, "the hashes") else {
            return;
        };
        if adler32(&bytes[..len]) != le32(&bytes, len) {
            self.warnings.push("the hashes stored in the image are damaged".into());
            return;
        }
        for (kind, name, value) in
            [(HashKind::Md5, "md5_stored", &bytes[..16]), (HashKind::Sha1, "sha1_stored", &bytes[16..36])]
        {
            let is_present =
                value.iter().any(|b| *b != 0) && (kind == HashKind::Md5 || section.name == "digest");
            let first = !self.metadata.more.contains_key(name);
            if is_present && first {
                self.metadata.more.insert(name.into(), hex(value).into());
                self.hashes.push((kind, value.into()));
            }
        }
    }

    /// Reads the section that describes the disk. Later segments have a copy of it.
    fn volume(input: &Input, section: &Section) -> Result<Media, Error> {
        let at = section.data.start;
        let len = section.data.end - at;
        // EnCase's is long; SMART's, and the one in the format's first description, has only 32 bits for sectors.
        let is_short = len < LONG;
        let len = index(if is_short { SHORT } else { LONG });
        let bytes = input.bytes_of(section.file, at, len, "the volume section")?;
        if adler32(&bytes[..len - 4]) != le32(&bytes, len - 4) {
            return flaw(at, "checksum mismatch of the volume section");
        }
        let (per_chunk, sector) = (le32(&bytes, 8), le32(&bytes, 12));
        let sectors = if is_short { le32(&bytes, 16).into() } else { le64(&bytes, 16) };
        let size = sectors.checked_mul(sector.into()).filter(|s| *s > 0 && i64::try_from(*s).is_ok());
        if size.is_none() {
            return flaw(at, format!("invalid disk size: {sectors} sectors of {sector} bytes"));
        }
        let chunk = check_chunk(at, per_chunk.into(), sector.into())?;
        let set = bytes[64..].first_chunk().filter(|_| !is_short).copied().unwrap_or_default();
        Ok(Media { sectors, sector, chunk, set, is_short })
    }

    fn table(&mut self, input: &Input, section: &Section) -> Result<(), Error> {
        let at = section.data.start;
        let header = input.bytes_of(section.file, at, 24, "a table")?;
        let count = le32(&header, 0);
        if adler32(&header[..20]) != le32(&header, 20) {
            return flaw(at, "checksum mismatch of a table header");
        }
        if count > MAX_ENTRIES {
            return flaw(at, format!("invalid number of chunks in a table: {count}"));
        }
        let signed = self.media.as_ref().is_none_or(|media| !media.is_short);
        let len = u64::from(count) * 4 + if signed { 4 } else { 0 };
        if at.saturating_add(24 + len) > input.len_of(section.file) {
            return flaw(at, format!("a table of {count} chunks extends past the end of the file"));
        }
        self.has_table = count > 0;
        if count == 0 {
            return Ok(());
        }
        // Older forms have the chunks after the table, in the same section.
        let end = self.sectors_end.take().unwrap_or(section.data.end);
        self.tables.push(Table {
            first: self.chunks,
            count,
            file: section.file,
            entries: at + 24,
            copy: None,
            signed,
            base: le64(&header, 8),
            end,
        });
        self.chunks += u64::from(count);
        Ok(())
    }

    fn errors(&mut self, input: &Input, section: &Section) -> Result<(), Error> {
        let at = section.data.start;
        let header = input.bytes_of(section.file, at, 520, "the list of read errors")?;
        let count = le32(&header, 0) as usize;
        if adler32(&header[..516]) != le32(&header, 516) {
            return flaw(at, "checksum mismatch of the list of read errors");
        }
        if count > MAX_RANGES {
            return flaw(at, format!("the list of read errors is too long ({count} entries)"));
        }
        let entries = input.bytes_of(section.file, at + 520, count * 8 + 4, "the list of read errors")?;
        if adler32(&entries[..count * 8]) != le32(&entries, count * 8) {
            return flaw(at + 520, "checksum mismatch of the list of read errors");
        }
        // In sectors for now: the sector size may follow later.
        self.ranges = entries[..count * 8]
            .chunks_exact(8)
            .map(|e| {
                let first = u64::from(le32(e, 0));
                BadRange::new(first..first + u64::from(le32(e, 4)), Status::Suspect)
            })
            .collect();
        Ok(())
    }

    /// Reads the text of a header section, compressed with zlib, or by X-Ways with zstd; in "header2", it is UTF-16.
    fn text(&mut self, input: &Input, section: &Section) -> Option<String> {
        let len = usize::try_from(section.data.end - section.data.start).ok().filter(|l| *l <= MAX_TEXT)?;
        let compressed = input.bytes_of(section.file, section.data.start, len, "the metadata text").ok()?;
        let is_zstd = compressed.starts_with(&ZSTD_MAGIC);
        self.has_zstd |= is_zstd;
        let bytes = expand(if is_zstd { Codec::Zstd } else { Codec::Zlib }, &compressed, MAX_TEXT)?;
        if section.name == "header" {
            return Some(bytes.iter().map(|b| char::from(*b)).collect());
        }
        texts::utf16(&bytes)
    }

    /// Adds the values of a text to the metadata.
    fn parse_text(&mut self, text: &str) {
        for (name, value) in texts::values(text) {
            let more = match name.as_str() {
                "md" => {
                    self.metadata.model = Some(value);
                    continue;
                }
                "sn" => {
                    self.metadata.serial = Some(value);
                    continue;
                }
                "t" => {
                    self.metadata.notes = vec![value];
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
            self.metadata.more.insert(more.into(), value.into());
        }
    }
}
