//! One file of a chain of VHDX disks: its structures and the location of its blocks.

use std::path::Path;

use cdi_base::error::{Error, Flaw, ReadError};

use super::log::Overlay;
use super::{CHECKSUM, MAGIC, crc32c_of};
use crate::bytes::{flaw, le32, le64};
use crate::extent::{Extent, FileNo, Origin};
use crate::formats::chain::{self, Found, next_depth, zeros};
use crate::image::CheckCancelled;
use crate::input::Input;

const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
const HEADER: usize = 4096;
const REGIONS: [u64; 2] = [192 << 10, 256 << 10];
const REGION_TABLE: usize = 64 << 10;
const METADATA_TABLE: usize = 64 << 10;
/// The unit of offsets in the block allocation table, in bytes.
const MIB: u64 = 1 << 20;
/// The largest disk that the format allows, in bytes.
const MAX_SIZE: u64 = 64 << 40;

/// Maximum number of key/value pairs read from a parent locator: the format defines five.
const MAX_PAIRS: usize = 64;

/// GUIDs, as stored in the file.
const BAT: [u8; 16] = guid(0x2DC2_7766, 0xF623, 0x4200, 0x9D64_115E_9BFD_4A08);
const METADATA: [u8; 16] = guid(0x8B7C_A206, 0x4790, 0x4B9A, 0xB8FE_575F_050F_886E);
const PARAMETERS: [u8; 16] = guid(0xCAA1_6737, 0xFA36, 0x4D43, 0xB3B6_33F0_AA44_E76B);
const SIZE: [u8; 16] = guid(0x2FA5_4224, 0xCD1B, 0x4876, 0xB211_5DBE_D83B_F4B8);
const LOGICAL_SECTOR: [u8; 16] = guid(0x8141_BF1D, 0xA96F, 0x4709, 0xBA47_F233_A8FA_AB5F);
const PHYSICAL_SECTOR: [u8; 16] = guid(0xCDA3_48C7, 0x445D, 0x4471, 0x9CC9_E988_5251_C556);
const PARENT: [u8; 16] = guid(0xA8D3_5F2D, 0xB30B, 0x454D, 0xABF7_D3D8_4834_AB0C);
const PAGE_83: [u8; 16] = guid(0xBECA_12AB, 0xB2E6, 0x4523, 0x93EF_C309_E000_C746);

/// States of a block.
const UNDEFINED: u64 = 1;
const ZERO: u64 = 2;
const UNMAPPED: u64 = 3;
const PRESENT: u64 = 6;
const PARTIALLY_PRESENT: u64 = 7;

/// Returns a GUID as stored in the file: its first three parts are little-endian numbers, the rest is bytes.
const fn guid(a: u32, b: u16, c: u16, d: u64) -> [u8; 16] {
    let (a, b, c, d) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes(), d.to_be_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

/// One file of a chain of disks.
pub(crate) struct Layer {
    file: FileNo,
    pub size: u64,
    pub sector: u32,
    pub physical_sector: u32,
    /// The data write GUID, by which a child identifies its parent.
    name: [u8; 16],
    block: u64,
    /// How many blocks share a sector bitmap, whose BAT entry follows theirs.
    ratio: u64,
    table: u64,
    log: Overlay,
    parent: Option<Box<Layer>>,
}

/// Opens the file and its parents.
pub(crate) fn open(
    input: &Input,
    file: FileNo,
    depth: usize,
    warnings: &mut Vec<String>,
) -> Result<Layer, Error> {
    if input.bytes_of(file, 0, 8, "the header")? != MAGIC {
        return flaw(0, "not a VHDX image");
    }
    let header = header(input, file)?;
    let log = if header[48..64].iter().all(|b| *b == 0) {
        Overlay::default()
    } else {
        let (len, at) = (u64::from(le32(&header, 68)), le64(&header, 72));
        let Some(end) = at.checked_add(len) else { return flaw(at, "invalid log position") };
        Overlay::of(input, file, at..end, &header[48..64])?
    };
    if !log.is_empty() {
        warnings
            .push("the image was not closed properly; the updates in its log were applied in memory".into());
    }
    let read = |at: u64, len: usize, what: &str| {
        let mut bytes = vec![0; len];
        match log.read(input, file, &mut bytes, at) {
            Ok(()) => Ok(bytes),
            Err(e) => flaw(at, format!("{what}: {e}")),
        }
    };
    let regions = regions(&read)?;
    let (table, table_len) = regions.table;
    let meta = metadata(&read, regions.metadata)?;
    let Metadata { size, sector, block, .. } = meta;
    let ratio = (u64::from(sector) << 23) / block;
    let blocks = size.div_ceil(block);
    let entries = match &meta.parent {
        Some(_) => blocks.div_ceil(ratio) * (ratio + 1),
        None => blocks + blocks.saturating_sub(1) / ratio,
    };
    if table_len < entries * 8 || table.checked_add(table_len).is_none_or(|end| end > input.len_of(file)) {
        let what = format!(
            "the block table of {table_len} bytes at byte {table} does not have room for {entries} entries"
        );
        return flaw(table, what);
    }
    let parent = match &meta.parent {
        Some(locator) => Some(Box::new(parent(input, locator, depth, warnings)?)),
        None => None,
    };
    if let Some(parent) = parent.as_ref().filter(|p| p.sector != sector) {
        let what =
            format!("the parent has a sector size of {} bytes, but this image has {sector}", parent.sector);
        return Err(Error::bad_image(what));
    }
    let name = *header[32..].first_chunk().unwrap_or(&[0; 16]);
    let physical_sector = meta.physical_sector;
    Ok(Layer { file, size, sector, physical_sector, name, block, ratio, table, log, parent })
}

/// Returns the newer of the two headers, or if one is damaged, the other.
fn header(input: &Input, file: FileNo) -> Result<Vec<u8>, Error> {
    let read_valid = |at: &u64| {
        let bytes = input.bytes_of(file, *at, HEADER, "a header").ok()?;
        (bytes.starts_with(b"head") && crc32c_of(&bytes, CHECKSUM) == le32(&bytes, CHECKSUM))
            .then_some((*at, bytes))
    };
    let Some((at, header)) = HEADERS.iter().filter_map(read_valid).max_by_key(|(_, header)| le64(header, 8))
    else {
        return flaw(HEADERS[0], "both headers are damaged");
    };
    match u16::from_le_bytes([header[66], header[67]]) {
        1 => Ok(header),
        version => flaw(at + 66, format!("unsupported version {version} (only version 1 is supported)")),
    }
}

/// The file offset and length, in bytes, of the required regions.
struct Regions {
    table: (u64, u64),
    metadata: (u64, u64),
}

/// Reads a structure at a file offset: offset, length in bytes, and its name for errors.
type Read<'a> = dyn Fn(u64, usize, &str) -> Result<Vec<u8>, Error> + 'a;

fn regions(read: &Read<'_>) -> Result<Regions, Error> {
    let read_valid = |at: &u64| {
        let bytes = read(*at, REGION_TABLE, "a region table").ok()?;
        (bytes.starts_with(b"regi") && crc32c_of(&bytes, CHECKSUM) == le32(&bytes, CHECKSUM))
            .then_some((*at, bytes))
    };
    let Some((at, bytes)) = REGIONS.iter().find_map(read_valid) else {
        return flaw(REGIONS[0], "both region tables are damaged");
    };
    let (mut table, mut metadata) = (None, None);
    for e in bytes[16..].chunks_exact(32).take(le32(&bytes, 8) as usize) {
        let place = (le64(e, 16), u64::from(le32(e, 24)));
        match e.first_chunk::<16>() {
            Some(id) if *id == BAT => table = Some(place),
            Some(id) if *id == METADATA => metadata = Some(place),
            _ if le32(e, 28) & 1 != 0 => {
                return flaw(at, "the image requires a region of unknown type (not supported)");
            }
            _ => {}
        }
    }
    match (table, metadata) {
        (Some(table), Some(metadata)) => Ok(Regions { table, metadata }),
        _ => flaw(at, "the block table region or the metadata region is missing"),
    }
}

struct Metadata {
    size: u64,
    sector: u32,
    physical_sector: u32,
    block: u64,
    /// The parent locator of a differencing disk.
    parent: Option<Vec<u8>>,
}

fn metadata(read: &Read<'_>, (at, len): (u64, u64)) -> Result<Metadata, Error> {
    let table = read(at, METADATA_TABLE, "the metadata table")?;
    if !table.starts_with(b"metadata") {
        return flaw(at, "the metadata table is missing");
    }
    let count = usize::from(u16::from_le_bytes([table[10], table[11]]));
    let mut meta = Metadata { size: 0, sector: 0, physical_sector: 0, block: 0, parent: None };
    let (mut has_parent, mut locator) = (false, None);
    for e in table[32..].chunks_exact(32).take(count) {
        let (offset, item_len) = (u64::from(le32(e, 16)), u64::from(le32(e, 20)));
        let item = |max: usize| {
            let inside = offset.checked_add(item_len).is_some_and(|end| end <= len);
            match usize::try_from(item_len).ok().filter(|l| *l <= max && inside) {
                Some(item_len) => read(at + offset, item_len, "a metadata item"),
                None => flaw(at, format!("invalid metadata item: {item_len} bytes at offset {offset}")),
            }
        };
        match e.first_chunk::<16>() {
            Some(id) if *id == PARAMETERS => {
                let item = item(8)?;
                (meta.block, has_parent) = (u64::from(le32(&item, 0)), le32(&item, 4) & 2 != 0);
            }
            Some(id) if *id == SIZE => meta.size = le64(&item(8)?, 0),
            Some(id) if *id == LOGICAL_SECTOR => meta.sector = le32(&item(4)?, 0),
            Some(id) if *id == PHYSICAL_SECTOR => meta.physical_sector = le32(&item(4)?, 0),
            Some(id) if *id == PARENT => locator = Some(item(1 << 20)?),
            Some(id) if *id == PAGE_83 => {}
            _ if le32(e, 24) & 4 != 0 => {
                return flaw(at, "the image requires metadata of unknown type (not supported)");
            }
            _ => {}
        }
    }
    let Metadata { size, sector, block, .. } = meta;
    if size == 0 || size > MAX_SIZE {
        return flaw(at, format!("invalid disk size: {size} bytes"));
    }
    if !matches!(sector, 512 | 4096) {
        return flaw(at, format!("invalid sector size: {sector} bytes"));
    }
    if !block.is_power_of_two() || !(MIB..=256 * MIB).contains(&block) {
        return flaw(at, format!("invalid block size: {block} bytes"));
    }
    if !matches!(meta.physical_sector, 512 | 4096) {
        meta.physical_sector = 0;
    }
    meta.parent = match (has_parent, locator) {
        (false, _) => None,
        (true, Some(locator)) => Some(locator),
        (true, None) => return flaw(at, "differencing image without a parent locator"),
    };
    Ok(meta)
}

/// Opens the parent at the first path that the parent locator contains, and checks its data write GUID.
fn parent(input: &Input, locator: &[u8], depth: usize, warnings: &mut Vec<String>) -> Result<Layer, Error> {
    let depth = next_depth(depth)?;
    let count = locator.get(18..20).map_or(0, |b| usize::from(u16::from_le_bytes([b[0], b[1]])));
    let text = |at: u32, len: usize| {
        let at = at as usize;
        let units = locator.get(at..at.checked_add(len)?)?.chunks_exact(2);
        Some(String::from_utf16_lossy(&units.map(|b| u16::from_le_bytes([b[0], b[1]])).collect::<Vec<_>>()))
    };
    let entries = locator.get(20..).unwrap_or_default().chunks_exact(12).take(count.min(MAX_PAIRS));
    let pairs: Vec<(String, String)> = entries
        .filter_map(|e| {
            let len = |at: usize| usize::from(u16::from_le_bytes([e[at], e[at + 1]]));
            Some((text(le32(e, 0), len(8))?, text(le32(e, 4), len(10))?))
        })
        .collect();
    let value = |key: &str| pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
    let parent_path = ["relative_path", "absolute_win32_path", "volume_path"].into_iter().find_map(value);
    let Some(parent_path) = parent_path else {
        return Err(Error::bad_image("differencing image whose parent locator contains no path"));
    };
    let file = chain::parent(input, parent_path.as_ref())?;
    let path = input.path_of(file);
    let parent = open(input, file, depth, warnings).map_err(|e| e.at(&path))?;
    // The GUID as text, {83ed08c3-5b1b-4e8d-9f2a-...}, with its first parts as numbers.
    let named = ["parent_linkage", "parent_linkage2"].into_iter().filter_map(value);
    let is = text_of(&parent.name);
    let mut named = named.map(|v| v.trim_matches(['{', '}']).to_ascii_lowercase()).peekable();
    if named.peek().is_some() && !named.any(|name| name == is) {
        let name = Path::new(path.file_name().unwrap_or_default()).display();
        let what = format!("'{name}' is not the parent of this differencing image: its GUID does not match");
        return Err(Error::bad_image(what));
    }
    warnings.push(format!("differencing image: blocks not in it are read from {}", path.display()));
    Ok(parent)
}

/// Formats a GUID as text.
fn text_of(g: &[u8; 16]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::new();
    for (n, at) in order.into_iter().enumerate() {
        if matches!(n, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text += &format!("{:02x}", g[at]);
    }
    text
}

impl chain::Layer for Layer {
    fn size(&self) -> u64 {
        self.size
    }

    fn parent(&self) -> Option<&dyn chain::Layer> {
        Some(&**self.parent.as_ref()?)
    }

    fn check(
        &self,
        input: &Input,
        report: &mut dyn FnMut(Flaw, &str),
        _: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        self.check_regions(input, report);
        Ok(())
    }

    fn find(&self, input: &Input, offset: u64, end: u64) -> Result<Found, ReadError> {
        let block = offset / self.block;
        let start = block * self.block;
        let limit = end;
        let end = limit.min(start + self.block);
        let entry_at = self.table + (block + block / self.ratio) * 8;
        let entry = self.entry(input, entry_at)?;
        let place = (entry >> 20) * MIB;
        let stored = |end: u64| {
            let is_inside =
                place != 0 && place.checked_add(end - start).is_some_and(|e| e <= input.len_of(self.file));
            if !is_inside {
                return Err(ReadError::Corrupt { at: entry_at });
            }
            let at = place + (offset - start);
            Ok(Found::Here(Extent { disk: offset..end, origin: Origin::Stored { file: self.file, at } }))
        };
        // Where the run of blocks in the same state ends. It ends at a bitmap's BAT entry at the latest.
        let run = |is: &dyn Fn(u64) -> bool| {
            let read = |bytes: &mut [u8], at: u64| self.log.read(input, self.file, bytes, at);
            let left = (self.ratio - block % self.ratio).min(self.size.div_ceil(self.block) - block);
            let count =
                chain::count_matching(&read, entry_at, left, 8, &|entry| is(le64(entry, 0) & 7))?.max(1);
            Ok::<u64, ReadError>(start.saturating_add(count.saturating_mul(self.block)).min(limit))
        };
        match (entry & 7, self.parent.is_some()) {
            (0, true) => Ok(Found::Below(offset..run(&|state| state == 0)?)),
            (UNDEFINED | ZERO | UNMAPPED, true) => {
                Ok(Found::Here(zeros(offset, run(&|state| matches!(state, 1..=3))?)))
            }
            (0 | UNDEFINED | ZERO | UNMAPPED, false) => Ok(Found::Below(offset..run(&|state| state <= 3)?)),
            (PRESENT, _) => stored(end),
            (PARTIALLY_PRESENT, true) => {
                let (here, stop) = self.run(input, block, offset, end)?;
                if here { stored(stop) } else { Ok(Found::Below(offset..stop)) }
            }
            _ => Err(ReadError::Corrupt { at: entry_at }),
        }
    }
}

impl Layer {
    /// Looks up the sector bitmap of a partially present block: returns whether the sector at `offset` is in this file,
    /// and the disk offset where that changes, at most `end`.
    fn run(&self, input: &Input, block: u64, offset: u64, end: u64) -> Result<(bool, u64), ReadError> {
        let group = block / self.ratio;
        let bitmap_at = self.table + (group * (self.ratio + 1) + self.ratio) * 8;
        let entry = self.entry(input, bitmap_at)?;
        let place = (entry >> 20) * MIB;
        if entry & 7 != PRESENT || place == 0 {
            return Err(ReadError::Corrupt { at: bitmap_at });
        }
        let sector = u64::from(self.sector);
        let first = (offset - group * self.ratio * self.block) / sector;
        // Read the bitmap in parts: 4096 sectors at a time.
        let mut bits = [0; 512];
        let byte = first / 8;
        let len = usize::try_from(MIB - byte).map_or(512, |left| left.min(512));
        self.log.read(input, self.file, &mut bits[..len], place + byte)?;
        let is_here = |n: u64| bits[usize::try_from(n / 8 - byte).unwrap_or(0)] >> (n % 8) & 1 != 0;
        let here = is_here(first);
        let bits_end = (byte + len as u64) * 8;
        let same = (first..bits_end).take_while(|n| is_here(*n) == here).count() as u64;
        let stop = offset - offset % sector + same * sector;
        Ok((here, stop.min(end)))
    }

    fn entry(&self, input: &Input, at: u64) -> Result<u64, ReadError> {
        let mut entry = [0; 8];
        self.log.read(input, self.file, &mut entry, at)?;
        Ok(u64::from_le_bytes(entry))
    }

    /// Reports a damaged copy of the region table. (A damaged header is not reported, since one of the two may never
    /// have been written.)
    fn check_regions(&self, input: &Input, report: &mut dyn FnMut(Flaw, &str)) {
        for at in REGIONS {
            let valid = input.bytes_of(self.file, at, REGION_TABLE, "a region table");
            let valid =
                valid.is_ok_and(|b| b.starts_with(b"regi") && crc32c_of(&b, CHECKSUM) == le32(&b, CHECKSUM));
            if !valid {
                report(Flaw::at(at, "a region table is damaged"), "nothing: the other copy is used");
            }
        }
    }
}
