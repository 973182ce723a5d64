//! The GUID partition table. Source: the UEFI specification, chapter 5.

use std::ops::Range;

use cdi_base::error::ReadError;
use cdi_base::readable::Readable;
use crc::{CRC_32_ISO_HDLC, Crc};

use super::{MAX, Partition, Scheme, Table, le32, le64, sectors, structure, within};
use crate::file_system::Damage;

static CRC32: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// Which of the two tables of a disk may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copies {
    /// The one at the start, or its copy at the end of the disk.
    Both,
    /// The copy only if the one at the start cannot be read. A copy that outlived its table is of a former use of the disk.
    IfUnreadable,
}

/// Reads the table. Returns None if there is none, and an error if there may be one that cannot be read.
pub(super) fn read(disk: &dyn Readable, copies: Copies) -> Result<Option<Table>, ReadError> {
    let sector = u64::from(disk.sector());
    // A disk imaged through an adapter may have another sector size than the one that its table is based on.
    let sizes: Vec<u64> = [sector, 512, 4096]
        .into_iter()
        .enumerate()
        .filter(|(n, size)| *n == 0 || *size != sector)
        .map(|(_, s)| s)
        .collect();
    let mut unreadable = None;
    for size in &sizes {
        match read_at(disk, *size, *size) {
            Ok(Some(found)) => return Ok(Some(found.with_copy(disk, *size))),
            Ok(None) => {}
            Err(e) => unreadable = unreadable.or(Some(e)),
        }
    }
    let first = unreadable.map_or_else(|| Damage::Invalid("it is not valid".into()), Damage::from);
    if copies == Copies::Both || unreadable.is_some() {
        for size in &sizes {
            match disk.size().checked_sub(*size).map(|at| read_at(disk, at, *size)) {
                Some(Ok(Some(found))) => return Ok(Some(found.instead_of(first, *size))),
                Some(Err(e)) => unreadable = unreadable.or(Some(e)),
                _ => {}
            }
        }
    }
    unreadable.map_or(Ok(None), Err)
}

const TABLE: &str = "GUID partition table";
const COPY: &str = "copy of the GUID partition table";
/// The usual size of the entries, in bytes.
const ENTRIES: u64 = 16 << 10;

/// One of the two tables, and where it is.
struct Found {
    partitions: Vec<Partition>,
    /// Why entries may be missing: some of them can be read in neither table.
    lost: Option<ReadError>,
    /// Why some of them were read from the other table.
    mended: Option<ReadError>,
    /// The header and the entries.
    at: Vec<Range<u64>>,
    /// Where its header says that the other one has its header, in bytes.
    other: Option<u64>,
}

impl Found {
    /// Returns the first table. Its copy is read only to say whether it could be.
    fn with_copy(self, disk: &dyn Readable, sector: u64) -> Table {
        let mut table = Table { partitions: self.partitions, ..Table::new(Scheme::Gpt) };
        table.note(TABLE, self.at, self.lost, self.mended);
        let Some(other) = self.other else { return table };
        match read_at(disk, other, sector) {
            Ok(Some(copy)) => table.note(COPY, copy.at, None, copy.mended),
            // Of a disk that became larger or smaller since; nobody misses it.
            Ok(None) => {}
            Err(e) => {
                let cost = "nothing is lost: the table itself can be read".to_owned();
                let at = other.saturating_sub(ENTRIES)..other.saturating_add(sector);
                table.structures.push(structure(COPY, at, Some((e.into(), cost))));
            }
        }
        table
    }

    /// Returns the copy, to be used instead of the first table.
    fn instead_of(self, damage: Damage, sector: u64) -> Table {
        let mut table = Table { partitions: self.partitions, ..Table::new(Scheme::Gpt) };
        let cost = "nothing is lost: its copy at the end of the disk is used".to_owned();
        let at = sector..(2 * sector).saturating_add(ENTRIES);
        table.structures.push(structure(TABLE, at, Some((damage, cost))));
        table.note(COPY, self.at, self.lost, self.mended);
        table
    }
}

/// Reads the table with its header at byte `at`, for sectors of `sector` bytes. Returns None if it is not valid.
fn read_at(disk: &dyn Readable, at: u64, sector: u64) -> Result<Option<Found>, ReadError> {
    if at.checked_add(512).is_none_or(|end| end > disk.size()) {
        return Ok(None);
    }
    let header = sectors(disk, at, 512)?;
    let header_len = le32(&header, 12) as usize;
    if !header.starts_with(b"EFI PART") || !(92..=512).contains(&header_len) {
        return Ok(None);
    }
    let mut summed = header[..header_len].to_vec();
    summed[16..20].fill(0);
    let (count, len) = (le32(&header, 80) as usize, le32(&header, 84) as usize);
    let sizes = (128..=4096).contains(&len) && count <= MAX;
    let entries_at =
        le64(&header, 72).checked_mul(sector).filter(|_| sizes && checksum(&summed) == le32(&header, 16));
    let Some(entries_at) = entries_at else { return Ok(None) };
    if entries_at.checked_add((count * len) as u64).is_none_or(|end| end > disk.size()) {
        return Ok(None);
    }
    let other = le64(&header, 32).checked_mul(sector);
    let (mut lost, mut mended) = (None, None);
    let entries = match sectors(disk, entries_at, count * len) {
        Ok(entries) => entries,
        Err(e) => {
            let mut entries = Entries { bytes: vec![0; count * len], lost: Vec::new() };
            entries.read(disk, entries_at, 0..count * len);
            if let Some(other) = other.and_then(|other| other_entries(disk, at, other, sector, &header)) {
                for part in std::mem::take(&mut entries.lost) {
                    entries.read(disk, other, part);
                }
            }
            (lost, mended) = if entries.lost.is_empty() { (None, Some(e)) } else { (Some(e), None) };
            entries.bytes
        }
    };
    if lost.is_none() && checksum(&entries) != le32(&header, 88) {
        return Ok(None);
    }
    let partitions =
        (1..).zip(entries.chunks_exact(len)).filter_map(|(number, e)| partition(disk, number, e, sector));
    Ok(Some(Found {
        lost,
        mended,
        partitions: partitions.collect(),
        at: vec![at..at + sector, entries_at..entries_at + (count * len) as u64],
        other,
    }))
}

/// The entries of a table, and the parts of them that cannot be read.
struct Entries {
    bytes: Vec<u8>,
    lost: Vec<Range<usize>>,
}

impl Entries {
    /// Reads what can be read of a part of them, sector by sector. They begin at byte `at` of the disk.
    fn read(&mut self, disk: &dyn Readable, at: u64, part: Range<usize>) {
        let unit = disk.sector() as usize;
        for start in part.clone().step_by(unit) {
            let place = start..(start + unit).min(part.end);
            if disk.read(&mut self.bytes[place.clone()], at + start as u64).is_err() {
                self.bytes[place.clone()].fill(0);
                self.lost.push(place);
            }
        }
    }
}

/// Returns where the entries of the other table are, whose header is at byte `other`: as that says, or where they usually are.
fn other_entries(disk: &dyn Readable, at: u64, other: u64, sector: u64, header: &[u8]) -> Option<u64> {
    let size = (u64::from(le32(header, 80)) * u64::from(le32(header, 84))).next_multiple_of(sector);
    let usual = if other > at { other.checked_sub(size)? } else { other.checked_add(sector)? };
    let own = sectors(disk, other, 512).ok().filter(|other| other.starts_with(b"EFI PART"));
    // Of the same table.
    let same = |own: &Vec<u8>| own[88..92] == header[88..92] && own[56..72] == header[56..72];
    let at = match own {
        Some(own) if same(&own) => le64(&own, 72).checked_mul(sector)?,
        Some(_) => return None,
        None => usual,
    };
    at.checked_add(size).filter(|end| *end <= disk.size()).map(|_| at)
}

/// Returns the partition of an entry; None if the entry is unused or not on the disk.
fn partition(disk: &dyn Readable, number: u32, e: &[u8], sector: u64) -> Option<Partition> {
    if e[..16].iter().all(|b| *b == 0) {
        return None;
    }
    let (first, last) = (le64(e, 32), le64(e, 40));
    let start = first.checked_mul(sector)?;
    let size = last.checked_sub(first)?.checked_add(1)?.checked_mul(sector)?;
    let units: Vec<u16> = e[56..128]
        .chunks_exact(2)
        .map(|b| u16::from_le_bytes([b[0], b[1]]))
        .take_while(|u| *u != 0)
        .collect();
    let name = Some(String::from_utf16_lossy(&units)).filter(|name| !name.is_empty());
    Some(Partition { name, ..within(disk, number, start, size, kind(&e[..16]))? })
}

/// Returns the CRC-32 of `bytes`.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    CRC32.checksum(bytes)
}

/// The GUIDs of known partition types, and their names.
const GUIDS: [(&str, &str); 18] = [
    ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "EFI system"),
    ("21686148-6449-6e6f-744e-656564454649", "BIOS boot"),
    ("e3c9e316-0b5c-4db8-817d-f92df00215ae", "Microsoft reserved"),
    ("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", "Microsoft basic data"),
    ("de94bba4-06d1-4d40-a16a-bfd50179d6ac", "Windows recovery"),
    ("5808c8aa-7e8f-42e0-85d2-e1e90434cfb3", "Windows dynamic disk metadata"),
    ("af9b60a0-1431-4f62-bc68-3311714a69ad", "Windows dynamic disk data"),
    ("0fc63daf-8483-4772-8e79-3d69d8477de4", "Linux"),
    ("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "Linux swap"),
    ("e6d6d379-f507-44c2-a23c-238f2a3df928", "Linux LVM"),
    ("a19d880f-05fc-4d3b-a006-743f0f84911e", "Linux RAID"),
    ("4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "Linux root (x86-64)"),
    ("ca7d7ccb-63ed-4c53-861c-1742536059cc", "LUKS"),
    ("48465300-0000-11aa-aa11-00306543ecac", "Apple HFS+"),
    ("7c3457ef-0000-11aa-aa11-00306543ecac", "Apple APFS"),
    ("426f6f74-0000-11aa-aa11-00306543ecac", "Apple boot"),
    ("53746f72-6167-11aa-aa11-00306543ecac", "Apple Core Storage"),
    ("516e7cb6-6ecf-11d6-8ff8-00022d09712b", "FreeBSD UFS"),
];

/// Returns the name of a partition type.
fn kind(guid: &[u8]) -> String {
    let hex = |bytes: &[u8]| cdi_base::printable::hex(bytes);
    let swapped = |bytes: &[u8]| hex(&bytes.iter().rev().copied().collect::<Vec<_>>());
    let text = format!(
        "{}-{}-{}-{}-{}",
        swapped(&guid[..4]),
        swapped(&guid[4..6]),
        swapped(&guid[6..8]),
        hex(&guid[8..10]),
        hex(&guid[10..16])
    );
    GUIDS.iter().find(|(known, _)| *known == text).map_or(text, |(_, name)| (*name).to_owned())
}
