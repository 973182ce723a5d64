//! The master boot record of PCs, with logical partitions. Source: Linux's block/partitions/msdos.c, which defines the
//! numbers, also for tables as they occur in practice.

use std::collections::BTreeSet;
use std::ops::Range;

use cdi_base::error::ReadError;
use cdi_base::readable::Readable;

use super::{BOOT_RECORD, MAX, Scheme, Table, le32, sectors, structure, within};

/// What says where a logical partition is.
const LINK: &str = "table of a logical partition";

/// An entry of a boot record.
struct Entry {
    kind: u8,
    /// In sectors.
    first: u64,
    /// In sectors.
    len: u64,
}

impl Entry {
    fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0F | 0x85)
    }
}

/// The boot record of a disk.
pub(super) struct BootRecord([Entry; 4]);

impl BootRecord {
    /// Reads the boot record in the first sector of a disk. Returns None if there is none: the boot sector of a file system
    /// has the same signature, but its "entries" are code and text.
    pub(super) fn of(first: &[u8]) -> Option<BootRecord> {
        let flags = (0..4).all(|n| matches!(first[446 + n * 16], 0 | 0x80));
        let file_system = [b"NTFS    ", b"EXFAT   "].iter().any(|name| first[3..11] == **name);
        (flags && !file_system).then_some(())?;
        entries(first).filter(|entries| entries.iter().any(|e| e.len > 0)).map(BootRecord)
    }

    /// Reads the partitions.
    pub(super) fn read(&self, disk: &dyn Readable) -> Table {
        let sector = u64::from(disk.sector());
        let mut table = Table::new(Scheme::Mbr);
        table.structures.push(structure(BOOT_RECORD, 0..sector, None));
        let used = (1..).zip(&self.0).filter(|(_, e)| e.len > 0);
        for (number, e) in used.clone().filter(|(_, e)| !e.is_extended()) {
            table.partitions.extend(within(disk, number, e.first * sector, e.len * sector, kind(e.kind)));
        }
        let mut number = 5;
        for (_, e) in used.filter(|(_, e)| e.is_extended()) {
            // Without the rest of a chain, the numbers of the next one are not known.
            if let Err((at, damage)) = logical(disk, e, sector, &mut number, &mut table) {
                table.lose(LINK, at, damage);
                break;
            }
        }
        table
    }
}

/// Returns whether the first sector of a disk only protects a GUID partition table, whatever else is in it.
pub(super) fn is_protective(first: &[u8]) -> bool {
    entries(first).is_some_and(|entries| entries.iter().any(|e| e.kind == 0xEE))
}

/// Returns the entries of a sector; None if it has no signature.
fn entries(sector: &[u8]) -> Option<[Entry; 4]> {
    (sector[510..512] == [0x55, 0xAA]).then(|| {
        std::array::from_fn(|n| {
            let e = &sector[446 + n * 16..];
            Entry { kind: e[4], first: le32(e, 8).into(), len: le32(e, 12).into() }
        })
    })
}

/// Follows the chain of logical partitions until it ends or comes back to itself. Each link contains a partition, relative
/// to the link itself, and the next link, relative to the start of the extended partition.
fn logical(
    disk: &dyn Readable,
    extended: &Entry,
    sector: u64,
    number: &mut u32,
    table: &mut Table,
) -> Result<(), (Range<u64>, ReadError)> {
    let (mut link, mut link_len) = (extended.first, extended.len);
    let mut seen = BTreeSet::new();
    while seen.insert(link) && seen.len() <= MAX && (link + 1) * sector <= disk.size() {
        let at = link * sector..(link + 1) * sector;
        let bytes = sectors(disk, at.start, 512).map_err(|e| (at.clone(), e))?;
        let Some(entries) = entries(&bytes) else { return Ok(()) };
        table.structures.push(structure(LINK, at, None));
        for (n, e) in (0..).zip(&entries).filter(|(_, e)| e.len > 0 && !e.is_extended()) {
            // The third and fourth entries may be garbage.
            let start = link + e.first;
            let inside = e.first + e.len <= link_len && start + e.len <= extended.first + extended.len;
            if n < 2 || inside {
                table.partitions.extend(within(disk, *number, start * sector, e.len * sector, kind(e.kind)));
                *number += 1;
            }
        }
        let Some(next) = entries.iter().find(|e| e.len > 0 && e.is_extended()) else { return Ok(()) };
        (link, link_len) = (extended.first + next.first, next.len);
    }
    Ok(())
}

/// Returns the name of a partition type.
fn kind(kind: u8) -> String {
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
        0xEF => "EFI system",
        0xFD => "Linux RAID",
        _ => return format!("type {kind:#04x}"),
    };
    known.into()
}
