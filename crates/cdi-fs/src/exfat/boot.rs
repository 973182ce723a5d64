//! The boot region of exFAT, and its backup.
//!
//! Source: Microsoft's "exFAT file system specification", section 3; `fs/exfat/super.c` of Linux for what is accepted.

use std::ops::Range;

use crate::bytes::{array, le16, le32, le64};
use crate::fat::clusters::Heap;
use crate::fat::table::{Layout, Width};
use crate::file_system::Damage;
use crate::volume::Volume;

/// The number of sectors of a boot region. The backup follows the first.
const SECTORS: u64 = 12;
const NAME: &[u8] = b"EXFAT   ";
/// The largest number of clusters.
const MAX_CLUSTERS: u32 = u32::MAX - 10;

/// What the boot sector says.
#[derive(Debug, Clone)]
pub(super) struct Boot {
    /// The sector size in bytes.
    pub(super) sector: u64,
    /// The size of the volume in bytes.
    pub(super) size: u64,
    pub(super) table: Layout,
    /// Every copy of the table. Only one is in use.
    pub(super) copies: Vec<Range<u64>>,
    /// Whether the second table and the second bitmap are in use, and not the first ones.
    pub(super) second: bool,
    pub(super) heap: Heap,
    /// The first cluster of the root directory.
    pub(super) root: u32,
    /// The serial number.
    pub(super) serial: u32,
}

/// A boot sector, and why it is the backup's if it is.
pub(super) struct Found {
    pub(super) boot: Boot,
    pub(super) damage: Option<Damage>,
}

/// Finds the boot sector or its backup. None if there is no sign of exFAT; an error if there is, but both cannot be used.
pub(super) fn find(volume: &Volume<'_>) -> Result<Option<Found>, Damage> {
    let mut named = false;
    let damage = match volume.read(0, 512) {
        Ok(bytes) => match parse(&bytes) {
            Some(boot) => match region(volume, 0, boot.sector) {
                Some(Damage::Invalid(text)) => {
                    let backup = backup(volume, boot.sector);
                    let sound =
                        backup.filter(|_| region(volume, SECTORS * boot.sector, boot.sector).is_none());
                    let damage = sound.is_some().then_some(Damage::Invalid(text));
                    return Ok(Some(Found { boot: sound.unwrap_or(boot), damage }));
                }
                _ => return Ok(Some(Found { boot, damage: None })),
            },
            None if crate::fat::is_boot_sector(&bytes) => return Ok(None),
            None => {
                named = bytes.get(3..11) == Some(NAME);
                Damage::Invalid("it makes no sense".into())
            }
        },
        Err(error) => Damage::Unreadable(error),
    };
    match [512, 1024, 2048, 4096].into_iter().find_map(|sector| backup(volume, sector)) {
        Some(boot) => Ok(Some(Found { boot, damage: Some(damage) })),
        None if named => Err(damage),
        None => Ok(None),
    }
}

fn backup(volume: &Volume<'_>, sector: u64) -> Option<Boot> {
    parse(&volume.read(SECTORS * sector, 512).ok()?).filter(|boot| boot.sector == sector)
}

/// Returns where a boot region is, of two.
pub(super) fn place(boot: &Boot, backup: bool) -> Range<u64> {
    let start = if backup { SECTORS * boot.sector } else { 0 };
    start..start + SECTORS * boot.sector
}

/// Returns what is wrong with the boot region at byte `start`: it cannot be read, or its checksum is wrong.
pub(super) fn region(volume: &Volume<'_>, start: u64, sector: u64) -> Option<Damage> {
    let part = volume.read_part(start..start + SECTORS * sector);
    let len = usize::try_from(SECTORS * sector).ok()?;
    let bytes = match part.get(start, len) {
        Ok(bytes) => bytes,
        Err(error) => return Some(error.into()),
    };
    let (summed, stored) = bytes.split_at(len / 12 * 11);
    if parse(summed).is_none() {
        return Some(Damage::Invalid("it makes no sense".into()));
    }
    // Not the flags of the volume, nor how full it is: they change.
    let fixed = summed.iter().enumerate().filter(|(at, _)| !matches!(at, 106 | 107 | 112));
    let sum = fixed.fold(0, |sum: u32, (_, byte)| add(sum, *byte));
    (le32(stored, 0) != Some(sum)).then(|| Damage::Invalid("its checksum is wrong".into()))
}

/// Adds a byte to a checksum of 32 bits.
pub(super) fn add(sum: u32, byte: u8) -> u32 {
    sum.rotate_right(1).wrapping_add(u32::from(byte))
}

fn parse(bytes: &[u8]) -> Option<Boot> {
    if bytes.get(3..11)? != NAME || array(bytes, 510)? != [0x55, 0xAA] {
        return None;
    }
    let (sector_shift, cluster_shift, tables) = (*bytes.get(108)?, *bytes.get(109)?, *bytes.get(110)?);
    if !(9..=12).contains(&sector_shift) || cluster_shift > 25 - sector_shift || !matches!(tables, 1 | 2) {
        return None;
    }
    let sector = 1u64 << sector_shift;
    let in_bytes = |at| le32(bytes, at).map(|sectors| u64::from(sectors) * sector);
    let (table, table_bytes, heap) = (in_bytes(80)?, in_bytes(84)?, in_bytes(88)?);
    let most = Width::Exfat.entries(table_bytes).saturating_sub(2);
    let count = le32(bytes, 92)?.min(MAX_CLUSTERS).min(u32::try_from(most).unwrap_or(u32::MAX));
    let volume = le64(bytes, 72)?.checked_mul(sector)?;
    if count == 0 || table < SECTORS * 2 * sector || heap < table + table_bytes || volume <= heap {
        return None;
    }
    let copies: Vec<_> =
        (0..u64::from(tables)).map(|n| table + n * table_bytes..table + (n + 1) * table_bytes).collect();
    let second = le16(bytes, 106)? & 1 != 0 && tables == 2;
    Some(Boot {
        sector,
        size: volume,
        table: Layout {
            width: Width::Exfat,
            copies: vec![copies.get(usize::from(second))?.start],
            clusters: count,
        },
        copies,
        second,
        heap: Heap { start: heap, cluster: sector << cluster_shift, count },
        root: le32(bytes, 96)?,
        serial: le32(bytes, 100)?,
    })
}
