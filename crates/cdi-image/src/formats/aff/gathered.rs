//! What the segments of an AFF image say: where its pages are, sizes, hashes, metadata.

use cdi_base::error::{Error, Flaw};
use cdi_base::printable::hex;
use cdi_base::units::index;

use super::segments::Segment;
use crate::bytes::{be32, flaw};
use crate::extent::FileNo;
use crate::input::Input;
use crate::metadata::Metadata;
use crate::stored_hashes::HashKind;

/// Maximum number of pages of an image. One takes 24 bytes of memory, and usually has 16 MiB of the disk.
const MAX_PAGES: usize = 1 << 20;
/// Maximum length of a metadata text in bytes. Longer ones are ignored.
const MAX_TEXT: u64 = 64 << 10;
/// Maximum sector size in bytes: the length of a bad sector's mark.
const MAX_SECTOR: u32 = 64 << 10;

/// How a page is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Stored,
    Zlib,
    Lzma,
    /// Zeros, whose number is stored.
    Zeros,
}

/// A page: a part of the disk, which begins at a multiple of the page size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page {
    /// The file offset of its data.
    pub at: u64,
    pub number: u32,
    pub file: FileNo,
    /// The length of its data in bytes.
    pub len: u32,
    pub kind: Kind,
}

/// Texts, by the name of their segment, and the names that they have in the metadata.
const TEXTS: &[(&str, &str)] = &[
    ("acquisition_commandline", "acquisition_commandline"),
    ("acquisition_date", "acquired"),
    ("acquisition_iso_country", "acquisition_country"),
    ("acquisition_macaddr", "acquisition_macaddr"),
    ("acquisition_tecnician", "examiner"),
    ("batch_item_name", "batch_item_name"),
    ("batch_name", "batch_name"),
    ("case_num", "case_number"),
    ("device_capabilities", "device_capabilities"),
    ("device_firmware", "device_firmware"),
    ("device_manufacturer", "device_manufacturer"),
    ("device_source", "device_source"),
    ("location_in_computer", "location_in_computer"),
];

/// What was read from the segments so far.
#[derive(Default)]
pub(super) struct Gathered {
    /// In the order of the files, then in that of their numbers.
    pub pages: Vec<Page>,
    /// Whether there are pages that are encrypted.
    pub is_encrypted: bool,
    /// The page size and the sector size in bytes, and the size of the disk.
    pub page_size: Option<u32>,
    pub sector: Option<u32>,
    pub size: Option<u64>,
    /// The number of bad sectors, and the bytes that they have in the image.
    pub bad_sectors: u64,
    pub mark: Vec<u8>,
    pub hashes: Vec<(HashKind, Vec<u8>)>,
    metadata: Metadata,
    /// The program that made the image, and its version or that of its library.
    creator: Option<String>,
    version: Option<String>,
    /// AFF, or AFD or AFM for images of several files.
    pub file_type: Option<String>,
    /// The suffix of the first raw file of an AFM, and how many pages are in each raw file.
    pub raw_suffix: Option<String>,
    pub raw_pages: Option<u64>,
}

impl Gathered {
    /// Takes in a segment. The first one of a name counts, as for AFFLIB.
    pub(super) fn segment(&mut self, input: &Input, segment: &Segment) -> Result<(), Error> {
        let Segment { name, flag, data, .. } = segment;
        let len = data.end - data.start;
        let bytes = |max: u64| match len {
            len if len > max => Ok(None),
            len => input.bytes_of(segment.file, data.start, index(len), "a segment").map(Some),
        };
        // 64-bit numbers are stored with their lower half first; each half is big-endian.
        let quad = || {
            let bytes = bytes(8)?.filter(|_| len == 8);
            Ok::<_, Error>(bytes.map(|b| u64::from(be32(&b, 4)) << 32 | u64::from(be32(&b, 0))))
        };
        let text = || {
            let text =
                bytes(MAX_TEXT)?.map(|b| String::from_utf8_lossy(&b).trim_end_matches('\0').to_owned());
            Ok::<_, Error>(text.filter(|text| !text.is_empty()))
        };
        match name.as_str() {
            "pagesize" | "segsize" => set(&mut self.page_size, Some(*flag)),
            "sectorsize" => set(&mut self.sector, Some(*flag).filter(|bytes| *bytes > 0)),
            // Of the files of an AFD, only the last one may have the right size.
            "imagesize" => self.size = self.size.max(quad()?.filter(|size| *size > 0)),
            "badsectors" => self.bad_sectors = self.bad_sectors.max(quad()?.unwrap_or(0)),
            "badflag" if self.mark.is_empty() => {
                self.mark = bytes(MAX_SECTOR.into())?.unwrap_or_default();
            }
            "md5" => self.hash(HashKind::Md5, "md5_stored", 16, bytes(64)?),
            "sha1" => self.hash(HashKind::Sha1, "sha1_stored", 20, bytes(64)?),
            "sha256" => self.hash(HashKind::Sha256, "sha256_stored", 32, bytes(64)?),
            "aff_file_type" => set(&mut self.file_type, text()?),
            "raw_image_file_extension" => set(&mut self.raw_suffix, text()?),
            "pages_per_raw_image_file" => set(&mut self.raw_pages, quad()?),
            "device_model" => set(&mut self.metadata.model, text()?),
            "device_sn" => set(&mut self.metadata.serial, text()?),
            "acquisition_device" => set(&mut self.metadata.source, text()?),
            "acquisition_notes" if self.metadata.notes.is_empty() => self.metadata.notes.extend(text()?),
            "creator" => set(&mut self.creator, text()?),
            "afflib_version" => set(&mut self.version, text()?),
            "image_gid" => self.more("image_gid", bytes(64)?.map(|b| hex(&b))),
            name => match page_number(name) {
                Some(number) => self.page(number, segment)?,
                None if name.strip_suffix("/aes256").and_then(page_number).is_some() => {
                    self.is_encrypted = true;
                }
                None => {
                    if let Some((_, key)) = TEXTS.iter().find(|(segment, _)| *segment == name) {
                        self.more(key, text()?);
                    }
                }
            },
        }
        Ok(())
    }

    fn more(&mut self, key: &str, value: Option<String>) {
        if let Some(value) = value {
            self.metadata.more.entry(key.to_owned()).or_insert_with(|| value.into());
        }
    }

    fn hash(&mut self, kind: HashKind, key: &str, len: usize, value: Option<Vec<u8>>) {
        let is_new = !self.metadata.more.contains_key(key);
        // A hash that was not computed is stored as zeros.
        if let Some(value) = value.filter(|v| is_new && v.len() == len && v.iter().any(|b| *b != 0)) {
            self.more(key, Some(hex(&value)));
            self.hashes.push((kind, value));
        }
    }

    fn page(&mut self, number: u64, segment: &Segment) -> Result<(), Error> {
        let Segment { name, flag, file, data } = segment;
        let fail = |what: &str| Err(Flaw::at(data.start, format!("segment '{name}': {what}")).into());
        let kind = match (flag & 1, flag & 0xF0) {
            (0, _) => Kind::Stored,
            (_, 0x00) => Kind::Zlib,
            (_, 0x20) => Kind::Lzma,
            (_, 0x30) => Kind::Zeros,
            (_, 0x10) => return fail("compression by bzip2, which no program writes (not supported)"),
            (_, method) => return fail(&format!("unknown compression method {method:#x}")),
        };
        let (Ok(number), Ok(len)) = (u32::try_from(number), u32::try_from(data.end - data.start)) else {
            return fail("invalid number of a page");
        };
        if self.pages.len() >= MAX_PAGES {
            return fail(&format!("the image has more than {MAX_PAGES} pages (not supported)"));
        }
        self.pages.push(Page { at: data.start, number, file: *file, len, kind });
        Ok(())
    }

    /// Returns the metadata.
    pub(super) fn metadata(&mut self) -> Metadata {
        let version =
            self.version.take().map(|version| match version.starts_with(|c: char| c.is_ascii_digit()) {
                true => format!("AFFLIB {version}"),
                false => version,
            });
        let tool: Vec<String> = [self.creator.take(), version].into_iter().flatten().collect();
        self.metadata.tool = Some(tool.join(", ")).filter(|tool| !tool.is_empty());
        std::mem::take(&mut self.metadata)
    }

    /// Sorts the pages by their numbers. A page that is stored twice is an error.
    pub(super) fn sort_pages(&mut self) -> Result<(), Error> {
        self.pages.sort_unstable_by_key(|page| (page.number, page.file, page.at));
        match self.pages.windows(2).find(|pair| pair[0].number == pair[1].number) {
            Some(pair) => flaw(pair[1].at, format!("page {} is stored twice", pair[1].number)),
            None => Ok(()),
        }
    }
}

/// Sets what has not been set.
fn set<T>(place: &mut Option<T>, value: Option<T>) {
    if place.is_none() {
        *place = value;
    }
}

/// Returns the number of a page from the name of its segment, which the oldest images call "seg".
fn page_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("page").or_else(|| name.strip_prefix("seg"))?;
    digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::page_number;

    #[test]
    fn only_pages_are_taken_for_pages() {
        for (name, number) in [("page0", 0), ("page17", 17), ("seg3", 3)] {
            assert_eq!(page_number(name), Some(number));
        }
        for name in ["page", "page1_md5", "page1/sha256", "pagesize", "segsize", "page+1", "page-1", "page 1"]
        {
            assert_eq!(page_number(name), None, "{name}");
        }
    }
}
