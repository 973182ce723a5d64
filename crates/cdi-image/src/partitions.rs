//! Reads the partition table of a disk: MBR with logical partitions, GPT, Apple's partition map.
//!
//! Sources: the UEFI specification, chapter 5 (GPT and the protective MBR); Linux's block/partitions/msdos.c and
//! mac.c for tables as they occur in practice. Partitions are numbered as on Linux. Tables are not trusted: a
//! partition that extends past the end of the disk is cut there.

use std::collections::BTreeSet;

use cdi_base::error::ReadError;

use crate::bytes::{be32, le32, le64};
use crate::codec::crc32;
use crate::disk::Disk;

/// The maximum number of partitions listed: more than any kernel supports.
const MAX: usize = 1024;

/// The kind of a partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// The master boot record of PCs.
    Mbr,
    /// The GUID partition table.
    Gpt,
    /// Apple's partition map, of PowerPC Macs and of optical discs.
    Apple,
}

impl Scheme {
    /// Returns the name used in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Mbr => "mbr",
            Scheme::Gpt => "gpt",
            Scheme::Apple => "apple",
        }
    }
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number, as on Linux.
    pub number: u32,
    /// Its first byte on the disk.
    pub start: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Its type as text, or the number or GUID of an unknown type.
    pub kind: String,
    /// Its name, if the table stores one.
    pub name: Option<String>,
}

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The kind of the table.
    pub scheme: Scheme,
    /// The partitions, by number. Extended partitions, which only contain others, are left out.
    pub partitions: Vec<Partition>,
}

/// Reads the partition table of `disk`. Returns None if it has none, and an error if a sector of the table cannot be
/// read and there is no copy of it.
pub fn table(disk: &Disk) -> Result<Option<Table>, ReadError> {
    if disk.size() < 1024 {
        return Ok(None);
    }
    let first = sectors(disk, 0, 1024);
    // The first sector may be bad while the GPT after it is intact.
    if let Some(table) = gpt(disk) {
        return Ok(Some(table));
    }
    let first = first?;
    if let Some(table) = apple(disk, &first)? {
        return Ok(Some(table));
    }
    mbr(disk, &first)
}

fn sectors(disk: &Disk, at: u64, len: usize) -> Result<Vec<u8>, ReadError> {
    let mut bytes = vec![0; len];
    disk.read_at(&mut bytes, at).map(|()| bytes)
}

/// Returns the partition of `size` bytes at byte `start`, cut at the end of the disk; None if no part of it is on the
/// disk.
fn within(disk: &Disk, number: u32, start: u64, size: u64, kind: String) -> Option<Partition> {
    let size = size.min(disk.size().checked_sub(start)?);
    (size > 0).then_some(Partition { number, start, size, kind, name: None })
}

/// Returns the CRC-32 of `bytes`.
fn checksum(bytes: &[u8]) -> u32 {
    let mut sum = crc32();
    sum.update(bytes);
    sum.finalize()
}

fn gpt(disk: &Disk) -> Option<Table> {
    let sector = u64::from(disk.sector());
    // The table at the start of the disk, or its copy at the end. A disk imaged through an adapter may have another
    // sector size than the one that its table is based on.
    let mut places = vec![(sector, sector), (disk.size().checked_sub(sector)?, sector)];
    for other in [512, 4096].into_iter().filter(|other| *other != sector && disk.size() > *other) {
        places.extend([(other, other), (disk.size() - other, other)]);
    }
    places.into_iter().find_map(|(at, sector)| gpt_at(disk, at, sector))
}

fn gpt_at(disk: &Disk, at: u64, sector: u64) -> Option<Table> {
    let header = sectors(disk, at, 512).ok()?;
    let header_len = le32(&header, 12) as usize;
    if !header.starts_with(b"EFI PART") || !(92..=512).contains(&header_len) {
        return None;
    }
    let mut summed = header[..header_len].to_vec();
    summed[16..20].fill(0);
    if checksum(&summed) != le32(&header, 16) {
        return None;
    }
    let (entries_at, count, len) =
        (le64(&header, 72).checked_mul(sector)?, le32(&header, 80) as usize, le32(&header, 84) as usize);
    if !(128..=4096).contains(&len) || count > MAX {
        return None;
    }
    let entries = sectors(disk, entries_at, count.checked_mul(len)?).ok()?;
    if checksum(&entries) != le32(&header, 88) {
        return None;
    }
    let partitions = (1..).zip(entries.chunks_exact(len)).filter_map(|(number, e)| {
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
        Some(Partition { name, ..within(disk, number, start, size, gpt_kind(&e[..16]))? })
    });
    Some(Table { scheme: Scheme::Gpt, partitions: partitions.collect() })
}

fn mbr(disk: &Disk, first: &[u8]) -> Result<Option<Table>, ReadError> {
    if first[510..512] != [0x55, 0xAA] {
        return Ok(None);
    }
    let entries = mbr_entries(first);
    // The boot sector of a file system has the same signature, but its "entries" are code and text.
    let plausible = |e: &Entry| matches!(e.flag, 0 | 0x80) && (e.kind != 0 || e.len == 0);
    if !entries.iter().all(plausible) || entries.iter().all(|e| e.kind == 0) {
        return Ok(None);
    }
    let sector = u64::from(disk.sector());
    let mut partitions = Vec::new();
    for (number, e) in (1..).zip(&entries) {
        if e.is_extended() {
            continue;
        }
        let (start, size) = (u64::from(e.first) * sector, u64::from(e.len) * sector);
        partitions.extend(within(disk, number, start, size, mbr_kind(e.kind)).filter(|_| e.kind != 0));
    }
    if let Some(extended) = entries.iter().find(|e| e.is_extended()) {
        logical(disk, extended.first.into(), sector, &mut partitions);
    }
    Ok(Some(Table { scheme: Scheme::Mbr, partitions }))
}

/// Follows the chain of logical partitions until a link cannot be read or has been seen before. Each link contains a
/// partition, relative to the link itself, and the next link, relative to the start of the extended partition.
fn logical(disk: &Disk, extended: u64, sector: u64, partitions: &mut Vec<Partition>) {
    let (mut link, mut number, mut seen) = (extended, 5, BTreeSet::new());
    while seen.insert(link) && seen.len() <= MAX {
        let Ok(bytes) = sectors(disk, link * sector, 512) else { return };
        if bytes[510..512] != [0x55, 0xAA] {
            return;
        }
        let entries = mbr_entries(&bytes);
        for e in entries.iter().filter(|e| e.kind != 0 && !e.is_extended()) {
            let (start, size) = ((link + u64::from(e.first)) * sector, u64::from(e.len) * sector);
            partitions.extend(within(disk, number, start, size, mbr_kind(e.kind)));
            number += 1;
        }
        match entries.iter().find(|e| e.is_extended()) {
            Some(next) => link = extended + u64::from(next.first),
            None => return,
        }
    }
}

struct Entry {
    flag: u8,
    kind: u8,
    first: u32,
    len: u32,
}

impl Entry {
    fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0F | 0x85)
    }
}

fn mbr_entries(sector: &[u8]) -> [Entry; 4] {
    std::array::from_fn(|n| {
        let e = &sector[446 + n * 16..];
        Entry { flag: e[0], kind: e[4], first: le32(e, 8), len: le32(e, 12) }
    })
}

fn apple(disk: &Disk, first: &[u8]) -> Result<Option<Table>, ReadError> {
    if !first.starts_with(b"ER") {
        return Ok(None);
    }
    // The map has a block size of its own, which may differ from the disk's sector size.
    let block = u64::from(u16::from_be_bytes([first[2], first[3]])).max(512);
    let mut partitions = Vec::new();
    let mut count = 1;
    let mut number = 1;
    while number <= count.min(MAX as u64) && (number + 1) * block <= disk.size() {
        let e = sectors(disk, number * block, 512)?;
        if !e.starts_with(b"PM") {
            return Ok(None);
        }
        count = be32(&e, 4).into();
        let text = |at: usize| {
            let bytes = e[at..at + 32].split(|b| *b == 0).next().unwrap_or_default();
            String::from_utf8_lossy(bytes).into_owned()
        };
        let (start, size) = (u64::from(be32(&e, 8)) * block, u64::from(be32(&e, 12)) * block);
        let name = Some(text(16)).filter(|name| !name.is_empty());
        let partition = within(disk, u32::try_from(number).unwrap_or(u32::MAX), start, size, text(48));
        partitions.extend(partition.map(|p| Partition { name, ..p }));
        number += 1;
    }
    Ok(Some(Table { scheme: Scheme::Apple, partitions }))
}

fn mbr_kind(kind: u8) -> String {
    let known = match kind {
        0x01 | 0x04 | 0x06 | 0x0E => "FAT",
        0x07 => "NTFS or exFAT",
        0x0B | 0x0C => "FAT32",
        0x27 => "Windows recovery",
        0x42 => "Windows dynamic disk",
        0x82 => "Linux swap",
        0x83 => "Linux",
        0x8E => "Linux LVM",
        0xA5 => "FreeBSD",
        0xA6 => "OpenBSD",
        0xA9 => "NetBSD",
        0xAB => "Apple boot",
        0xAF => "Apple HFS or HFS+",
        0xEE => "GPT",
        0xEF => "EFI system",
        0xFD => "Linux RAID",
        _ => return format!("type {kind:#04x}"),
    };
    known.into()
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

fn gpt_kind(guid: &[u8]) -> String {
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use cdi_base::units::index;

    use super::*;
    use crate::disk::Options;
    use crate::image::OpenOptions;
    use crate::open::open_source;

    fn disk(bytes: Vec<u8>) -> Disk {
        let how = OpenOptions { format: Some("raw".into()), ..OpenOptions::default() };
        Disk::new(open_source(Box::new(bytes), Path::new("/x/disk.img"), &how).unwrap(), Options::default())
    }

    fn entry(bytes: &mut [u8], at: usize, kind: u8, first: u32, len: u32) {
        bytes[at + 4] = kind;
        bytes[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
        bytes[at + 12..at + 16].copy_from_slice(&len.to_le_bytes());
    }

    fn numbers(disk: &Disk) -> Vec<(u32, u64, u64, String)> {
        let table = table(disk).unwrap().map_or(Vec::new(), |t| t.partitions);
        table.into_iter().map(|p| (p.number, p.start / 512, p.size / 512, p.kind)).collect()
    }

    #[test]
    fn logical_partitions_are_followed_and_loops_end() {
        let mut bytes = vec![0; 512 * 4096];
        for at in [0, 1000, 2000] {
            bytes[at * 512 + 510..at * 512 + 512].copy_from_slice(&[0x55, 0xAA]);
        }
        entry(&mut bytes, 446, 0x83, 64, 500);
        entry(&mut bytes, 462, 0x05, 1000, 3000);
        entry(&mut bytes, 1000 * 512 + 446, 0x07, 8, 100);
        entry(&mut bytes, 1000 * 512 + 462, 0x05, 1000, 100);
        // Longer than the disk, and back to the first link.
        entry(&mut bytes, 2000 * 512 + 446, 0xFF, 8, 1 << 30);
        entry(&mut bytes, 2000 * 512 + 462, 0x05, 0, 100);
        let expect = [
            (1, 64, 500, "Linux".to_owned()),
            (5, 1008, 100, "NTFS or exFAT".into()),
            (6, 2008, 4096 - 2008, "type 0xff".into()),
        ];
        assert_eq!(numbers(&disk(bytes)), expect);
    }

    #[test]
    fn a_damaged_gpt_is_read_from_its_copy() {
        let mut bytes = vec![0; 512 * 4096];
        let last = 4095u64;
        let mut entries = vec![0; 128 * 128];
        // The GUID of Linux in the byte order of the table.
        let guid =
            [0xAF, 0x3D, 0xC6, 0x0F, 0x83, 0x84, 0x72, 0x47, 0x8E, 0x79, 0x3D, 0x69, 0xD8, 0x47, 0x7D, 0xE4];
        entries[128..144].copy_from_slice(&guid);
        entries[128 + 32..128 + 40].copy_from_slice(&100u64.to_le_bytes());
        entries[128 + 40..128 + 48].copy_from_slice(&199u64.to_le_bytes());
        entries[128 + 56..128 + 60].copy_from_slice(b"a\0\xFC\0");
        let mut put = |at: u64, entries_at: u64| {
            let mut header = vec![0; 512];
            header[..8].copy_from_slice(b"EFI PART");
            header[12..16].copy_from_slice(&92u32.to_le_bytes());
            header[72..80].copy_from_slice(&entries_at.to_le_bytes());
            header[80..84].copy_from_slice(&128u32.to_le_bytes());
            header[84..88].copy_from_slice(&128u32.to_le_bytes());
            header[88..92].copy_from_slice(&checksum(&entries).to_le_bytes());
            let sum = checksum(&header[..92]);
            header[16..20].copy_from_slice(&sum.to_le_bytes());
            let (at, entries_at) = (index(at) * 512, index(entries_at) * 512);
            bytes[at..at + 512].copy_from_slice(&header);
            bytes[entries_at..entries_at + entries.len()].copy_from_slice(&entries);
        };
        put(1, 2);
        put(last, last - 32);
        let whole = table(&disk(bytes.clone())).unwrap().unwrap();
        assert_eq!(whole.partitions[0].name.as_deref(), Some("aü"));
        for at in [520, 2 * 512 + 128 + 33] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(numbers(&disk(damaged)), [(2, 100, 100, "Linux".to_owned())], "byte {at}");
        }
        let mut none = bytes.clone();
        (none[520], none[index(last) * 512 + 30]) = (1, 1);
        assert_eq!(numbers(&disk(none)), []);
    }

    #[test]
    fn a_boot_sector_is_not_a_partition_table() {
        let mut bytes = vec![0; 512 * 64];
        bytes[..512].fill(b'x');
        bytes[510..512].copy_from_slice(&[0x55, 0xAA]);
        assert_eq!(table(&disk(bytes)).unwrap(), None);
        assert_eq!(table(&disk(vec![0; 4096])).unwrap(), None);
    }
}
