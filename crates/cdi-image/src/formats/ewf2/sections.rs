//! The sections of an EWF2 image's segments.

use cdi_base::error::{Error, Flaw};
use cdi_base::units::index;

use super::{MAGIC, Table};
use crate::badmap::{BadRange, MAX_RANGES, Status};
use crate::bytes::{flaw, le32, le64};
use crate::codec::{Codec, adler32, expand};
use crate::extent::FileNo;
use crate::formats::ewf::segments::Segment;
use crate::formats::ewf::texts;
use crate::input::Input;
use crate::metadata::Metadata;
use crate::stored_hashes::HashKind;
use cdi_base::printable::hex;

/// The length in bytes of a segment's header, a section's header, and a table's header.
const HEADER: u64 = 32;
const SECTION_HEADER: u64 = 64;
const TABLE_HEADER: usize = 32;
/// Maximum number of sections in a segment, and maximum length of a metadata text in bytes, compressed or not.
const MAX_SECTIONS: usize = 1 << 20;
const MAX_TEXT: usize = 1 << 20;
/// Maximum number of entries of a table.
const MAX_ENTRIES: u32 = 1 << 20;
/// Maximum number of chunks of a disk: 2^63 bytes in chunks of 512.
const MAX_CHUNKS: u64 = 1 << 54;
/// Types of sections.
const DEVICE: u32 = 1;
const CASE: u32 = 2;
const SECTORS: u32 = 3;
const TABLE: u32 = 4;
const ERRORS: u32 = 5;
const MD5: u32 = 8;
const SHA1: u32 = 9;
const KEYS: u32 = 11;
const NEXT: u32 = 13;
const DONE: u32 = 15;
/// The section flag for encryption.
const ENCRYPTED: u32 = 2;

/// A section: its type, and the offset and length of its data in bytes.
struct Section {
    file: FileNo,
    kind: u32,
    at: u64,
    len: u64,
}

/// The description of the disk in the metadata texts.
#[derive(Default)]
pub(super) struct Media {
    pub sectors: u64,
    pub sector: u64,
    pub per_chunk: u64,
    pub chunks: u64,
}

/// Everything collected from the sections.
pub(super) struct Gathered {
    pub tables: Vec<Table>,
    pub chunks: u64,
    /// The file offset of the last section of chunks, until its table is read.
    sectors: u64,
    pub codec: Codec,
    /// Whether an earlier segment is missing or incomplete.
    after_gap: bool,
    /// The GUID of the set of segments.
    set: [u8; 16],
    pub media: Media,
    pub metadata: Metadata,
    /// Hashes of the whole disk.
    pub hashes: Vec<(HashKind, Vec<u8>)>,
    pub ranges: Vec<BadRange>,
    pub warnings: Vec<String>,
}

impl Default for Gathered {
    fn default() -> Gathered {
        Gathered {
            tables: Vec::new(),
            chunks: 0,
            sectors: 0,
            codec: Codec::ZlibPadded,
            after_gap: false,
            set: [0; 16],
            media: Media::default(),
            metadata: Metadata::default(),
            hashes: Vec::new(),
            ranges: Vec::new(),
            warnings: Vec::new(),
        }
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
        self.after_gap = after_gap;
        let header = self.header(input, file, number);
        // Without the first segment's header, no segment can be read.
        if number == 1 {
            header?;
        } else if let Err(e) = header {
            return Ok(Segment::Damaged(e));
        }
        let (sections, continues) = match sections(input, file) {
            Ok(found) => found,
            Err(SectionsError::Encrypted(e)) => return Err(e),
            Err(SectionsError::Damaged(e)) => return Ok(Segment::Damaged(e)),
        };
        for section in sections.iter().rev() {
            if let Err(e) = self.section(input, section) {
                return Ok(Segment::Damaged(e));
            }
        }
        Ok(if continues { Segment::Next } else { Segment::Last })
    }

    fn header(&mut self, input: &Input, file: FileNo, number: u32) -> Result<(), Error> {
        let header = input.bytes_of(file, 0, index(HEADER), "the header")?;
        if !header.starts_with(MAGIC) {
            return flaw(0, "not a segment of an EWF2 image");
        }
        let is = le32(&header, 12);
        if is != number {
            let error = Error::from(Flaw::at(12, format!("this is segment {is}, expected segment {number}")));
            return Err(if number == 1 { error.hint("open the first segment") } else { error });
        }
        // Segments of another acquisition may have the same name.
        if number > 1 && header[16..32] != self.set {
            return flaw(16, "this segment does not belong to the same set as the first one");
        }
        let codec = match u16::from_le_bytes([header[10], header[11]]) {
            0 | 1 => Codec::ZlibPadded,
            2 => Codec::Bzip2,
            other => return flaw(10, format!("unknown compression {other} (supported: zlib and bzip2)")),
        };
        if number > 1 && codec != self.codec {
            return flaw(10, "this segment is compressed differently than the first one");
        }
        (self.set, self.codec) = (*header[16..].first_chunk().unwrap_or(&[0; 16]), codec);
        Ok(())
    }

    fn section(&mut self, input: &Input, section: &Section) -> Result<(), Error> {
        match section.kind {
            DEVICE | CASE => {
                if let Some(text) = self.text(input, section) {
                    self.parse_text(&text);
                }
            }
            SECTORS => self.sectors = section.at,
            TABLE => self.table(input, section)?,
            ERRORS => self.errors(input, section)?,
            MD5 => self.hash(input, section, HashKind::Md5, "md5_stored", 16),
            SHA1 => self.hash(input, section, HashKind::Sha1, "sha1_stored", 20),
            _ => {}
        }
        Ok(())
    }

    fn table(&mut self, input: &Input, section: &Section) -> Result<(), Error> {
        let at = section.at;
        let header = input.bytes_of(section.file, at, TABLE_HEADER, "a table")?;
        if adler32(&header[..16]) != le32(&header, 16) {
            return flaw(at, "checksum mismatch of a table header");
        }
        let (first, count) = (le64(&header, 0), le32(&header, 8));
        // The first table after a missing segment contains the number at which the chunks continue.
        let fits = first == self.chunks || (self.after_gap && first > self.chunks && first < MAX_CHUNKS);
        if count > MAX_ENTRIES || !fits {
            return flaw(at, format!("invalid table of {count} chunks, beginning at chunk {first}"));
        }
        if count > 0 {
            let entries = at + TABLE_HEADER as u64;
            self.tables.push(Table { first, count, file: section.file, entries, chunks: self.sectors });
            self.chunks = first + u64::from(count);
        }
        Ok(())
    }

    fn errors(&mut self, input: &Input, section: &Section) -> Result<(), Error> {
        let at = section.at;
        let header = input.bytes_of(section.file, at, TABLE_HEADER, "the list of read errors")?;
        let count = le32(&header, 0) as usize;
        if adler32(&header[..16]) != le32(&header, 16) {
            return flaw(at, "checksum mismatch of the list of read errors");
        }
        if count > MAX_RANGES {
            return flaw(at, format!("the list of read errors is too long ({count} entries)"));
        }
        let at = at + TABLE_HEADER as u64;
        let entries = input.bytes_of(section.file, at, count * 16 + 4, "the list of read errors")?;
        if adler32(&entries[..count * 16]) != le32(&entries, count * 16) {
            return flaw(at, "checksum mismatch of the list of read errors");
        }
        // In sectors for now.
        let range = |e: &[u8]| {
            let first = le64(e, 0);
            BadRange::new(first..first.saturating_add(le32(e, 8).into()), Status::Suspect)
        };
        self.ranges = entries[..count * 16].chunks_exact(16).map(range).collect();
        Ok(())
    }

    /// Reads a hash. An unreadable hash is skipped.
    fn hash(&mut self, input: &Input, section: &Section, kind: HashKind, name: &str, len: usize) {
        let Ok(bytes) = input.bytes_of(section.file, section.at, len + 4, "a hash") else { return };
        if adler32(&bytes[..len]) != le32(&bytes, len) {
            self.warnings.push(format!("the {} stored in the image is damaged", kind.name()));
            return;
        }
        let value = bytes[..len].to_vec();
        self.metadata.more.insert(name.into(), hex(&value).into());
        self.hashes.push((kind, value));
    }

    /// Reads the text of a section: compressed UTF-16.
    fn text(&self, input: &Input, section: &Section) -> Option<String> {
        let len = usize::try_from(section.len).ok().filter(|l| *l <= MAX_TEXT)?;
        let compressed = input.bytes_of(section.file, section.at, len, "the metadata text").ok()?;
        texts::utf16(&expand(self.codec, &compressed, MAX_TEXT)?)
    }

    /// Adds the values of a text to the metadata.
    fn parse_text(&mut self, text: &str) {
        for (name, value) in texts::values(text) {
            let number = || value.parse().unwrap_or(0);
            match name.as_str() {
                "ts" => self.media.sectors = number(),
                "bp" => self.media.sector = number(),
                "sb" => self.media.per_chunk = number(),
                "tb" => self.media.chunks = number(),
                "md" => self.metadata.model = Some(value),
                "sn" => self.metadata.serial = Some(value),
                "nt" => self.metadata.notes = vec![value],
                _ => {
                    let name = match name.as_str() {
                        "lb" => "label",
                        "nm" => "description",
                        "cn" => "case_number",
                        "en" => "evidence_number",
                        "ex" => "examiner",
                        "av" => "acquired_with",
                        "os" => "acquired_on",
                        "at" => "acquired",
                        _ => continue,
                    };
                    self.metadata.more.insert(name.into(), value.into());
                }
            }
        }
    }
}

/// Why the sections of a segment cannot be read.
enum SectionsError {
    Encrypted(Error),
    Damaged(Error),
}

impl From<Error> for SectionsError {
    fn from(e: Error) -> SectionsError {
        SectionsError::Damaged(e)
    }
}

/// Finds the sections of a segment, the last one first. Also returns whether another segment follows.
fn sections(input: &Input, file: FileNo) -> Result<(Vec<Section>, bool), SectionsError> {
    let flaw = |at: u64, what: &str| Err(SectionsError::from(Error::from(Flaw::at(at, what))));
    let mut found = Vec::new();
    let Some(mut at) = input.len_of(file).checked_sub(SECTION_HEADER) else {
        return flaw(0, "the segment is truncated");
    };
    loop {
        let header = input.bytes_of(file, at, index(SECTION_HEADER), "a section header")?;
        if adler32(&header[..60]) != le32(&header, 60) {
            return flaw(at, "checksum mismatch of the section header, or the segment is truncated");
        }
        let (kind, flags, before, len) =
            (le32(&header, 0), le32(&header, 4), le64(&header, 8), le64(&header, 16));
        if kind == KEYS || flags & ENCRYPTED != 0 {
            let what = Flaw::at(at, "encrypted image (not supported)");
            return Err(SectionsError::Encrypted(what.into()));
        }
        let start = if before == 0 { HEADER } else { before.saturating_add(SECTION_HEADER) };
        let place = at.checked_sub(len).filter(|place| *place >= start && before < at);
        let Some(place) = place else {
            return flaw(at, &format!("invalid section of {len} bytes after byte {start}"));
        };
        found.push(Section { file, kind, at: place, len });
        if before == 0 {
            break;
        }
        if found.len() > MAX_SECTIONS {
            return flaw(at, "too many sections");
        }
        at = before;
    }
    match found[0].kind {
        NEXT => Ok((found, true)),
        DONE => Ok((found, false)),
        _ => flaw(
            input.len_of(file) - SECTION_HEADER,
            "the segment has no end: it is truncated, or was never finished",
        ),
    }
}
