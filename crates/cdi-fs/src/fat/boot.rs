//! The boot sector of FAT, and FAT32's copy of it.
//!
//! Sources: Microsoft's "FAT: General Overview of On-Disk Format" 1.03, "Boot Sector and BPB" and "FAT Type Determination";
//! `fs/fat/inode.c` of Linux (`fat_read_bpb`) for what is accepted.

use std::ops::Range;

use super::clusters::Heap;
use super::table::{Layout, Width};
use crate::bytes::{array, le16, le32};
use crate::file_system::Damage;
use crate::volume::Volume;

/// What the boot sector says.
#[derive(Debug, Clone)]
pub(super) struct Boot {
    /// The sector size in bytes.
    pub(super) sector: u64,
    /// The size of the volume in bytes.
    pub(super) size: u64,
    pub(super) table: Layout,
    /// Every copy of the table, in order, with those that are not in use.
    pub(super) copies: Vec<Range<u64>>,
    pub(super) heap: Heap,
    pub(super) root: Root,
    /// FAT32's FSInfo sector and the copy of the boot sector, by their first byte.
    pub(super) info: Option<u64>,
    pub(super) backup: Option<u64>,
    pub(super) label: Option<String>,
    /// The serial number.
    pub(super) serial: Option<u32>,
}

/// Where the root directory is.
#[derive(Debug, Clone)]
pub(super) enum Root {
    /// At a place of its own: FAT12 and FAT16.
    At(Range<u64>),
    /// It begins with this cluster: FAT32.
    Chain(u32),
}

/// The boot sector, and whether it is the copy because the first could not be used.
pub(super) struct Found {
    pub(super) boot: Boot,
    pub(super) damage: Option<Damage>,
}

/// Finds the boot sector or FAT32's copy of it. None if there is no sign of FAT; an error if there is, but they cannot be used.
pub(super) fn find(volume: &Volume<'_>) -> Result<Option<Found>, Damage> {
    let mut named = false;
    let damage = match volume.read(0, 512) {
        Ok(bytes) => match parse(&bytes) {
            Some(boot) => return Ok(Some(Found { boot, damage: None })),
            None => {
                named = is_named(&bytes);
                Damage::Invalid("it makes no sense".into())
            }
        },
        Err(error) => Damage::Unreadable(error),
    };
    let copy = [512, 1024, 2048, 4096].into_iter().find_map(|sector| {
        // Sector 6 is where every known program has put it, and where Windows looks for it.
        let boot = parse(&volume.read(6 * sector, 512).ok()?)?;
        (boot.sector == sector && boot.backup == Some(6 * sector)).then_some(boot)
    });
    match copy {
        Some(boot) => Ok(Some(Found { boot, damage: Some(damage) })),
        None if named => Err(damage),
        None => Ok(None),
    }
}

/// Returns whether a boot sector that cannot be used has the name of FAT.
fn is_named(bytes: &[u8]) -> bool {
    let name = |at: usize| bytes.get(at..at + 8);
    name(82) == Some(b"FAT32   ") || name(54).is_some_and(|name| name == b"FAT12   " || name == b"FAT16   ")
}

/// Returns whether this can be a boot sector of FAT.
pub(crate) fn is_valid(bytes: &[u8]) -> bool {
    parse(bytes).is_some()
}

fn parse(bytes: &[u8]) -> Option<Boot> {
    if !matches!(bytes.first()?, 0xEB | 0xE9 | 0)
        || bytes.get(3..11)? == b"NTFS    "
        || bytes.get(3..11)? == b"EXFAT   "
    {
        return None;
    }
    let sector = u64::from(le16(bytes, 11)?);
    let per_cluster = u64::from(*bytes.get(13)?);
    let reserved = u64::from(le16(bytes, 14)?);
    let tables = u64::from(*bytes.get(16)?);
    let root_entries = u64::from(le16(bytes, 17)?);
    let media = *bytes.get(21)?;
    if !matches!(sector, 512 | 1024 | 2048 | 4096) || !per_cluster.is_power_of_two() || reserved == 0 {
        return None;
    }
    if !(1..=4).contains(&tables) || !(media == 0xF0 || media >= 0xF8) {
        return None;
    }
    let sectors = match u64::from(le16(bytes, 19)?) {
        0 => u64::from(le32(bytes, 32)?),
        small => small,
    };
    // A table of FAT12 or FAT16 has its length here; FAT32 has none.
    let (small, is_32) = (u64::from(le16(bytes, 22)?), le16(bytes, 22)? == 0);
    let table_sectors = if is_32 { u64::from(le32(bytes, 36)?) } else { small };
    let root_bytes = root_entries * 32;
    let data = reserved + tables * table_sectors + root_bytes.div_ceil(sector);
    let clusters = sectors.checked_sub(data)? / per_cluster;
    if table_sectors == 0
        || clusters == 0
        || (is_32 && le16(bytes, 42)? != 0)
        || (!is_32 && root_entries == 0)
    {
        return None;
    }
    let width = match clusters {
        _ if is_32 => Width::Fat32,
        ..4085 => Width::Fat12,
        _ => Width::Fat16,
    };
    let most = match width {
        Width::Fat12 => 0xFF4,
        Width::Fat16 => 0xFFF4,
        _ => 0x0FFF_FFF4,
    };
    let table_bytes = table_sectors * sector;
    let count = clusters.min(most).min(width.entries(table_bytes).checked_sub(2)?);
    let count = u32::try_from(count).ok().filter(|count| *count > 0)?;
    let start = reserved * sector;
    let copies: Vec<_> =
        (0..tables).map(|n| start + n * table_bytes..start + (n + 1) * table_bytes).collect();
    let flags = if is_32 { le16(bytes, 40)? } else { 0 };
    let in_use = match copies.get(usize::from(flags & 15)) {
        // Not mirrored: the others are out of date.
        Some(active) if flags & 0x80 != 0 => vec![active.start],
        _ => copies.iter().map(|copy| copy.start).collect(),
    };
    let sector_at =
        |number: u16| (is_32 && number != 0 && number != 0xFFFF).then(|| u64::from(number) * sector);
    let root_start = start + tables * table_bytes;
    Some(Boot {
        sector,
        size: sectors * sector,
        table: Layout { width, copies: in_use, clusters: count },
        copies,
        heap: Heap { start: data * sector, cluster: per_cluster * sector, count },
        root: if is_32 {
            Root::Chain(le32(bytes, 44)? & 0x0FFF_FFFF)
        } else {
            Root::At(root_start..root_start + root_bytes)
        },
        info: sector_at(le16(bytes, 48)?),
        backup: sector_at(le16(bytes, 50)?),
        label: label(bytes, if is_32 { 66 } else { 38 }),
        serial: serial(bytes, if is_32 { 66 } else { 38 }),
    })
}

/// Returns the serial number in the boot sector, which has it if `signature` is there.
fn serial(bytes: &[u8], signature: usize) -> Option<u32> {
    matches!(bytes.get(signature), Some(0x28 | 0x29)).then(|| le32(bytes, signature + 1))?
}

/// Returns the label in the boot sector, which has it if `signature` is there.
fn label(bytes: &[u8], signature: usize) -> Option<String> {
    if *bytes.get(signature)? != 0x29 {
        return None;
    }
    let name: [u8; 11] = array(bytes, signature + 5)?;
    (&name != b"NO NAME    ")
        .then(|| super::names::text(&name).trim_end().to_owned())
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns a boot sector of a volume with tables of `table` sectors and `sectors` in all.
    pub(in crate::fat) fn sector(fat32: bool, table: u16, sectors: u32) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[0] = 0xEB;
        bytes[11..13].copy_from_slice(&512u16.to_le_bytes());
        (bytes[13], bytes[14], bytes[16], bytes[21]) = (1, if fat32 { 32 } else { 1 }, 2, 0xF8);
        bytes[32..36].copy_from_slice(&sectors.to_le_bytes());
        if fat32 {
            bytes[36..38].copy_from_slice(&table.to_le_bytes());
            (bytes[44], bytes[48], bytes[50]) = (2, 1, 6);
        } else {
            bytes[17] = 16;
            bytes[22..24].copy_from_slice(&table.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn the_type_is_by_the_number_of_clusters() {
        let width = |fat32, table, clusters: u32| {
            let first = if fat32 { 32 + u32::from(table) * 2 } else { 2 + u32::from(table) * 2 };
            parse(&sector(fat32, table, clusters + first)).map(|boot| (boot.table.width, boot.heap.count))
        };
        assert_eq!(width(false, 12, 4084), Some((Width::Fat12, 4084)));
        assert_eq!(width(false, 16, 4085), Some((Width::Fat16, 4085)));
        assert_eq!(width(false, 256, 65524), Some((Width::Fat16, 65524)));
        assert_eq!(width(true, 600, 70000), Some((Width::Fat32, 70000)));
        // A table that is too small for the clusters.
        assert_eq!(width(true, 1, 70000), Some((Width::Fat32, 126)));
        assert_eq!(width(false, 0, 4084), None);
    }

    #[test]
    fn the_copy_is_used_without_mirroring_only_the_active_table() {
        let mut volume = vec![0; 8 * 512];
        volume[6 * 512..7 * 512].copy_from_slice(&sector(true, 600, 70000));
        volume[6 * 512 + 40] = 0x81;
        let found = find(&Volume::new(&volume, 0..8 * 512)).unwrap().unwrap();
        assert!(found.damage.is_some());
        assert_eq!(found.boot.table.copies, [(32 + 600) * 512]);
        volume[6 * 512 + 50] = 7;
        assert!(find(&Volume::new(&volume, 0..8 * 512)).unwrap().is_none());
        volume[82..90].copy_from_slice(b"FAT32   ");
        assert!(find(&Volume::new(&volume, 0..8 * 512)).is_err());
    }
}
