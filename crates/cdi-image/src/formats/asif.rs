//! Apple's sparse image format (ASIF, `.asif`), of macOS 26: chunks listed in tables, and tables listed in a directory.
//!
//! Sources: "ASIF binary specification" (github.com/huven/asif-format), "Dissecting Apple's Sparse Image Format"
//! (schamper.dev, 2026), and the behaviour of dissect.hypervisor. All numbers are big-endian. Two directories are
//! written in turn; the one with the higher version is valid. A table consists of groups: the entries of 4 × sector size
//! chunks of data, then the entry of a chunk with two bits for each sector of these. An entry is a status (two bits),
//! seven reserved bits, and the number of a chunk in the file. States that have not been observed in images are errors.

use std::sync::Arc;

use cdi_base::error::{Error, ReadError};
use cdi_base::units::index;

use super::chain::{count_matching, zeros};
use super::property_list::{self, Dictionary};
use crate::bytes::{be16, be32, be64, flaw};
use crate::details::ImageDetails;
use crate::extent::{Extent, Origin};
use crate::image::{Format, Image, OpenOptions};
use crate::input::Input;
use crate::metadata::Metadata;

/// Apple's sparse image format.
pub const FORMAT: Format = Format {
    name: "asif",
    summary: "Apple's sparse image format (ASIF)",
    integrity: "none: the format has no checksums, so damage cannot be detected",
    suffixes: &["asif"],
    probe: |input| input.bytes(0, MAGIC.len(), "the header").is_ok_and(|b| b == MAGIC),
    open,
};

const MAGIC: &[u8] = b"shdw";
const HEADER: usize = 0x70;
/// Maximum number of tables in a directory. Apple's images of 4 PiB have 33,289.
const MAX_TABLES: u64 = 1 << 20;
/// Maximum length of the property list in bytes.
const MAX_LIST: u64 = 64 << 10;

/// The bits of a table's entry.
const CHUNK: u64 = (1 << 55) - 1;
const RESERVED: u64 = 0x7F << 55;
/// The status of an entry without a chunk may be 0, or this.
const UNMAPPED: u64 = 2 << 62;

struct Asif {
    input: Arc<Input>,
    /// The size of the disk in bytes, and the size to which it can grow. Metadata is stored near the end of that.
    size: u64,
    max_size: u64,
    layout: Layout,
    /// The file offset of the directory's first entry.
    directory: u64,
    details: ImageDetails,
}

/// How chunks are grouped. Lengths are in bytes.
struct Layout {
    sector: u64,
    chunk: u64,
    /// The number of data chunks in a group.
    group_chunks: u64,
    /// The length of a group's entries in a table.
    group_entries: u64,
    /// How much of the disk a group and a table describe.
    group: u64,
    table: u64,
}

impl Layout {
    /// Returns the layout for these sizes; None if they are not possible.
    fn new(sector: u64, chunk: u64) -> Option<Layout> {
        let is_possible = sector.is_power_of_two() && sector >= 512 && chunk.is_power_of_two();
        let group_chunks = 4 * sector;
        let group_entries = 8 * (group_chunks + 1);
        let groups = chunk / group_entries;
        // No overflow: the sector size has 16 bits, and the chunk size has 32.
        let group = group_chunks * chunk;
        let layout = Layout { sector, chunk, group_chunks, group_entries, group, table: groups * group };
        (is_possible && groups > 0).then_some(layout)
    }
}

fn open(input: Arc<Input>, _: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let header = input.bytes(0, HEADER, "the header")?;
    if !header.starts_with(MAGIC) {
        return flaw(0, "not an ASIF image");
    }
    if be32(&header, 4) != 1 {
        return flaw(4, format!("unsupported version {} (only version 1 is supported)", be32(&header, 4)));
    }
    if be32(&header, 12) != 0 {
        return flaw(
            12,
            format!("unknown features are in use: flags {:#x} (not supported)", be32(&header, 12)),
        );
    }
    let (chunk, sector) = (u64::from(be32(&header, 0x40)), u64::from(be16(&header, 0x44)));
    let Some(layout) = Layout::new(sector, chunk) else {
        return flaw(0x40, format!("invalid sizes: chunks of {chunk} bytes, sectors of {sector} bytes"));
    };
    if be16(&header, 0x46) != 0 {
        return flaw(0x46, format!("image of {} segments (not supported)", be16(&header, 0x46)));
    }
    let (sectors, max_sectors) = (be64(&header, 0x30), be64(&header, 0x38));
    let bytes = |sectors: u64| sectors.checked_mul(sector).filter(|bytes| i64::try_from(*bytes).is_ok());
    let (Some(size @ 1..), Some(max_size)) = (bytes(sectors), bytes(max_sectors)) else {
        return flaw(0x30, format!("invalid disk size: {sectors} sectors, at most {max_sectors}"));
    };
    if size > max_size {
        return flaw(
            0x30,
            format!("the disk of {sectors} sectors is larger than its maximum of {max_sectors}"),
        );
    }
    let tables = max_size.div_ceil(layout.table);
    if tables > MAX_TABLES {
        return flaw(0x38, format!("more tables than supported: {tables}"));
    }
    let directory = newer_directory(&input, [be64(&header, 0x10), be64(&header, 0x18)], tables)?;
    let metadata = Metadata {
        size_bytes: size,
        logical_sector_bytes: be16(&header, 0x44).into(),
        ..Metadata::default()
    };
    let details = ImageDetails { metadata, ..ImageDetails::default() };
    let mut image = Asif { input, size, max_size, layout, directory, details };
    image.details.metadata.more.insert("image_guid".into(), guid(&header[0x20..0x30]).into());
    match image.property_list(be64(&header, 0x48)) {
        Ok(list) => {
            let internal = list.as_ref().and_then(|list| list.get("internal metadata")?.as_dictionary());
            let uuid = internal.and_then(|internal| internal.get("stable uuid")?.as_string());
            image.details.metadata.more.extend(uuid.map(|uuid| ("stable_uuid".into(), uuid.into())));
        }
        Err(e) => image.details.warnings.push(format!("the image's metadata is ignored: {e}")),
    }
    Ok(Box::new(image))
}

/// Returns the file offset of the first entry of the directory with the higher version. `at` has the file offsets of
/// both, each of which has entries for `tables` tables.
fn newer_directory(input: &Input, at: [u64; 2], tables: u64) -> Result<u64, Error> {
    let len = 8 + tables * 8;
    let mut versions = [0; 2];
    for (n, at) in at.into_iter().enumerate() {
        // Without one of them it is not known which is newer.
        if at.checked_add(len).is_none_or(|end| end > input.len()) {
            let what = format!("the directory of {len} bytes at byte {at} extends past the end of the file");
            return flaw(0x10 + 8 * n as u64, what);
        }
        versions[n] = be64(&input.bytes(at, 8, "a directory")?, 0);
    }
    if versions[0] == versions[1] && at[0] != at[1] {
        let entries = |at: u64| input.bytes(at, index(len), "a directory");
        if entries(at[0])? != entries(at[1])? {
            let what = format!("both directories have version {}, but they differ", versions[0]);
            return flaw(at[1], what);
        }
    }
    Ok(8 + if versions[1] > versions[0] { at[1] } else { at[0] })
}

/// Formats a GUID as text.
fn guid(bytes: &[u8]) -> String {
    let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    [0..4, 4..6, 6..8, 8..10, 10..16].map(|part| hex[part].concat()).join("-")
}

impl Asif {
    fn number(&self, at: u64) -> Result<u64, ReadError> {
        let mut number = [0; 8];
        self.input.read_exact_at(Input::MAIN, &mut number, at)?;
        Ok(u64::from_be_bytes(number))
    }

    /// Counts the entries in a row, of the `count` from file offset `at` on, that satisfy `is`; at least 1.
    fn count(&self, at: u64, count: u64, is: &dyn Fn(u64) -> bool) -> Result<u64, ReadError> {
        let read = |bytes: &mut [u8], at: u64| self.input.read_exact_at(Input::MAIN, bytes, at);
        Ok(count_matching(&read, at, count, 8, &|entry| is(be64(entry, 0)))?.max(1))
    }

    /// Finds the run of data around `offset`, which ends at `end` at the latest.
    fn find(&self, offset: u64, end: u64) -> Result<Extent, ReadError> {
        let layout = &self.layout;
        let table = offset / layout.table;
        let listed_at = self.directory + table * 8;
        let listed = self.number(listed_at)?;
        if listed == 0 {
            let count = self.count(listed_at, end.div_ceil(layout.table) - table, &|listed| listed == 0)?;
            return Ok(zeros(offset, end.min((table + count).saturating_mul(layout.table))));
        }
        let group = offset % layout.table / layout.group;
        let slot = offset % layout.group / layout.chunk;
        let group_at =
            listed.checked_mul(layout.chunk).and_then(|at| at.checked_add(group * layout.group_entries));
        // The last entry of the group.
        let bitmap_at = group_at.and_then(|at| at.checked_add(layout.group_chunks * 8));
        let Some(bitmap_at) = bitmap_at else { return Err(ReadError::Corrupt { at: listed_at }) };
        let left = layout.group_chunks - slot;
        let entry_at = bitmap_at - left * 8;
        let entry = self.number(entry_at)?;
        let start = offset - offset % layout.chunk;
        match (entry >> 62, entry & CHUNK) {
            _ if entry & RESERVED != 0 => Err(ReadError::Corrupt { at: entry_at }),
            (0 | 2, 0) => {
                let count = self.count(entry_at, left, &|entry| entry & !UNMAPPED == 0)?;
                Ok(zeros(offset, end.min(start.saturating_add(count * layout.chunk))))
            }
            (1, chunk @ 1..) => self.stored(chunk, entry_at, offset, end.min(start + layout.chunk)),
            (3, chunk @ 1..) => {
                let bitmap = self.number(bitmap_at)?;
                let (is_stored, stop) = self.sectors(bitmap, bitmap_at, offset)?;
                let stop = stop.min(end);
                if is_stored { self.stored(chunk, entry_at, offset, stop) } else { Ok(zeros(offset, stop)) }
            }
            _ => Err(ReadError::Corrupt { at: entry_at }),
        }
    }

    /// Returns the extent from `offset` to `end`, which is in a chunk of the file. Its entry is at file offset
    /// `entry_at`.
    fn stored(&self, chunk: u64, entry_at: u64, offset: u64, end: u64) -> Result<Extent, ReadError> {
        let at =
            chunk.checked_mul(self.layout.chunk).and_then(|at| at.checked_add(offset % self.layout.chunk));
        // The last chunk of the file may be short.
        let left = at.and_then(|at| self.input.len().checked_sub(at)).filter(|left| *left > 0);
        let (Some(at), Some(left)) = (at, left) else { return Err(ReadError::Corrupt { at: entry_at }) };
        let end = end.min(offset.saturating_add(left));
        Ok(Extent { disk: offset..end, origin: Origin::Stored { file: Input::MAIN, at } })
    }

    /// Looks up the sectors of a chunk that was written in part: returns whether the one at `offset` was, and where
    /// that changes. `entry`, at file offset `entry_at`, is that of the chunk with the bits.
    fn sectors(&self, entry: u64, entry_at: u64, offset: u64) -> Result<(bool, u64), ReadError> {
        let layout = &self.layout;
        let bits_at = entry.checked_mul(layout.chunk).filter(|at| *at > 0);
        let first = offset % layout.group / layout.sector;
        let at = bits_at.and_then(|at| at.checked_add(first / 4));
        let Some(at) = at else { return Err(ReadError::Corrupt { at: entry_at }) };
        let chunk_sectors = layout.chunk / layout.sector;
        let chunk_end = (first / chunk_sectors + 1) * chunk_sectors;
        let mut bits = [0; 512];
        let len = index(chunk_end / 4 - first / 4).min(bits.len());
        self.input.read_exact_at(Input::MAIN, &mut bits[..len], at)?;
        let state = |n: u64| bits[index(n / 4 - first / 4)] >> (n % 4 * 2) & 3;
        let here = state(first);
        if here > 1 {
            return Err(ReadError::Corrupt { at });
        }
        let bits_end = (first / 4 + len as u64) * 4;
        let same = (first..bits_end).take_while(|n| state(*n) == here).count() as u64;
        Ok((here == 1, offset - offset % layout.sector + same * layout.sector))
    }

    /// Reads the property list of the image, which is stored like a part of the disk at `chunk`; 0 if there is none.
    fn property_list(&self, chunk: u64) -> Result<Option<Dictionary>, String> {
        if chunk == 0 {
            return Ok(None);
        }
        let at = chunk.checked_mul(self.layout.chunk).filter(|at| *at < self.max_size);
        let at = at.ok_or("its chunk is past the largest possible end of the disk")?;
        let header = self.structure(at, 20)?;
        let header_len = u64::from(be32(&header, 8));
        if !header.starts_with(b"meta") || !(20..self.layout.chunk).contains(&header_len) {
            return Err("its header is damaged".into());
        }
        let text = self.structure(at + header_len, MAX_LIST.min(self.layout.chunk - header_len))?;
        let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
        let list = property_list::read(&text[..end])?;
        Ok(list.into_dictionary())
    }

    /// Reads at most `len` bytes at `offset`, which may be after the end of the disk.
    fn structure(&self, offset: u64, len: u64) -> Result<Vec<u8>, String> {
        let end = offset.saturating_add(len).min(self.max_size);
        let mut bytes = vec![0; index(end.saturating_sub(offset))];
        let mut at = offset;
        while at < end {
            let extent = self.find(at, end).map_err(|e| e.to_string())?;
            if let Origin::Stored { file, at: stored_at } = extent.origin {
                let part = &mut bytes[index(at - offset)..index(extent.disk.end - offset)];
                self.input.read_exact_at(file, part, stored_at).map_err(|e| e.to_string())?;
            }
            at = extent.disk.end;
        }
        Ok(bytes)
    }
}

impl Image for Asif {
    fn size(&self) -> u64 {
        self.size
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        self.find(offset, self.size)
    }

    fn details(&self) -> &ImageDetails {
        &self.details
    }
}

#[cfg(test)]
mod tests {
    use super::Layout;

    /// The two directories of the image in "Dissecting Apple's Sparse Image Format" are at bytes 0x200 and 0x41400.
    #[test]
    fn the_directory_has_the_length_that_apple_gives_it() {
        let layout = Layout::new(512, 1 << 20).unwrap();
        assert_eq!(layout.table, 126 << 30);
        let tables = (0x800_0000_0000u64 * 512).div_ceil(layout.table);
        assert_eq!(tables, 33_289);
        assert_eq!(0x200 + (8 + tables * 8).next_multiple_of(512), 0x41400);
        assert!(Layout::new(512, 16 << 10).is_none() && Layout::new(512, 1_000_000).is_none());
        assert!(Layout::new(0, 1 << 20).is_none() && Layout::new(4096, 64 << 10).is_none());
    }
}
