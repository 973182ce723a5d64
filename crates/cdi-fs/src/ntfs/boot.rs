//! The boot sector and its copy in the last sector of the partition.
//!
//! Facts: `NTFS_BOOT_SECTOR` and `BIOS_PARAMETER_BLOCK` in ntfs-3g's layout.h, `struct NTFS_BOOT` in Linux's fs/ntfs3/ntfs.h.

use std::ops::Range;

use crate::bytes::{array, le16, le64};
use crate::file_system::Damage;
use crate::volume::Volume;

/// How much of a boot sector is read, in bytes, whatever the size of a sector.
pub(super) const SIZE: usize = 512;

/// The name of the system that made the volume: the same for all of NTFS.
const OEM: [u8; 8] = *b"NTFS    ";

/// The sizes of sectors, the likeliest first.
const SECTORS: &[u64] = &[512, 4096, 1024, 2048];

/// The largest cluster of Windows 10, in bytes.
const MAX_CLUSTER: u64 = 2 << 20;

/// What a boot sector says. All sizes are in bytes, all positions bytes of the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Boot {
    /// The size of a sector.
    pub(super) sector: u64,
    /// The size of a cluster.
    pub(super) cluster: u64,
    /// The size of the volume without the last sector, which has the copy.
    pub(super) size: u64,
    /// Where the MFT begins.
    pub(super) mft: u64,
    /// Where the copy of the MFT's first records is.
    pub(super) mirror: u64,
    /// The size of an MFT record.
    pub(super) record: u64,
    /// The size of an index block, where its index does not say.
    pub(super) index: u64,
    /// The serial number.
    pub(super) serial: u64,
}

impl Boot {
    /// Parses a boot sector. An error says what makes no sense.
    pub(super) fn parse(bytes: &[u8]) -> Result<Boot, String> {
        if array(bytes, 3) != Some(OEM) {
            return Err("not a boot sector of NTFS".into());
        }
        Self::fields(bytes).ok_or_else(|| "the sizes and positions in it make no sense".into())
    }

    fn fields(bytes: &[u8]) -> Option<Boot> {
        let sector = u64::from(le16(bytes, 0x0B)?);
        if !sector.is_power_of_two() || !(256..=4096).contains(&sector) {
            return None;
        }
        let per_cluster = *bytes.get(0x0D)?;
        // Clusters of more than 128 sectors are stored as a negative power of two.
        let sectors = if per_cluster > 0x80 {
            1u64.checked_shl(u32::from(per_cluster.wrapping_neg()))?
        } else {
            u64::from(per_cluster)
        };
        let cluster = sector.checked_mul(sectors)?;
        if !cluster.is_power_of_two() || cluster > MAX_CLUSTER {
            return None;
        }
        let size = le64(bytes, 0x28)?.checked_mul(sector).filter(|&size| size <= i64::MAX.unsigned_abs())?;
        let place = |at| le64(bytes, at)?.checked_mul(cluster).filter(|&at| at < size && at > 0);
        let record = unit(*bytes.get(0x40)?, cluster)?;
        let index = unit(*bytes.get(0x44)?, cluster)?;
        let serial = le64(bytes, 0x48)?;
        let boot =
            Boot { sector, cluster, size, mft: place(0x30)?, mirror: place(0x38)?, record, index, serial };
        Some(boot)
    }

    /// Returns the number of whole clusters.
    pub(super) fn clusters(&self) -> u64 {
        self.size / self.cluster
    }

    /// Returns where the copy of the boot sector is.
    pub(super) fn copy(&self) -> u64 {
        self.size
    }
}

/// The size of a record or index block: in clusters, or as a negative power of two in bytes.
fn unit(byte: u8, cluster: u64) -> Option<u64> {
    let size = if byte > 0x7F {
        1u64.checked_shl(u32::from(byte.wrapping_neg()))?
    } else {
        u64::from(byte).checked_mul(cluster)?
    };
    (size.is_power_of_two() && (512..=1 << 16).contains(&size)).then_some(size)
}

/// Returns what the boot sectors of `volume` say, the likeliest first: the first sector, then its copy. None if the volume
/// is no NTFS; an error if it is, and neither makes sense.
pub(super) fn find(volume: &Volume<'_>) -> Result<Vec<Boot>, Damage> {
    match volume.read(0, SIZE) {
        Ok(first) if array(&first, 3) == Some(OEM) => match Boot::parse(&first) {
            Ok(boot) => {
                let copy = copy(volume, &[boot.sector]).map(|(copy, _)| copy).filter(|copy| *copy != boot);
                Ok(std::iter::once(boot).chain(copy).collect())
            }
            Err(text) => match copy(volume, SECTORS) {
                Some((copy, _)) => Ok(vec![copy]),
                None => Err(Damage::Invalid(format!("boot sector: {text}"))),
            },
        },
        Ok(first) => {
            let copy = copy(volume, SECTORS).filter(|(_, copy)| damaged_copy_of(&first, copy, volume));
            Ok(copy.into_iter().map(|(boot, _)| boot).collect())
        }
        Err(_) => Ok(copy(volume, SECTORS).into_iter().map(|(boot, _)| boot).collect()),
    }
}

/// Reads the copy. Its sectors may have any of the sizes `sectors`.
fn copy(volume: &Volume<'_>, sectors: &[u64]) -> Option<(Boot, Vec<u8>)> {
    sectors.iter().find_map(|&sector| {
        let at = (volume.size() / sector).checked_sub(1)? * sector;
        let bytes = volume.read(at, SIZE).ok()?;
        let boot = Boot::parse(&bytes).ok()?;
        (boot.sector == sector && boot.size <= at).then_some((boot, bytes))
    })
}

/// Returns whether a first sector without NTFS's name is NTFS's all the same: nearly equal to the copy, or overwritten with
/// one byte. A copy alone proves nothing: it outlives formatting with another file system.
fn damaged_copy_of(first: &[u8], copy: &[u8], volume: &Volume<'_>) -> bool {
    let equal = first.iter().zip(copy).filter(|(a, b)| a == b).count();
    let zeros = first.iter().filter(|&&byte| byte == 0).count();
    if equal >= SIZE - 32 && zeros < SIZE - 32 {
        return true;
    }
    first.windows(2).all(|pair| pair[0] == pair[1]) && !OTHERS.iter().any(|other| other.is_on(volume))
}

/// A mark of a file system or volume manager that leaves the first sector empty.
struct Mark(u64, &'static [u8]);

impl Mark {
    fn is_on(&self, volume: &Volume<'_>) -> bool {
        volume.read(self.0, self.1.len()).is_ok_and(|found| found == self.1)
    }
}

/// ext, HFS+, Btrfs, swap, LVM, md, ISO 9660.
const OTHERS: &[Mark] = &[
    Mark(1080, &[0x53, 0xEF]),
    Mark(1024, b"H+"),
    Mark(1024, b"HX"),
    Mark(65_600, b"_BHRfS_M"),
    Mark(4086, b"SWAPSPACE2"),
    Mark(512, b"LABELONE"),
    Mark(4096, &[0xFC, 0x4E, 0x2B, 0xA9]),
    Mark(32_769, b"CD001"),
];

/// Returns where `boot` and its copy are.
pub(super) fn places(boot: &Boot) -> [Range<u64>; 2] {
    let size = SIZE as u64;
    [0..size, boot.copy()..boot.copy().saturating_add(size)]
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A boot sector of a volume of 2,048 sectors, in clusters of 4 KiB.
    pub(in super::super) fn sector() -> Vec<u8> {
        let mut bytes = vec![0u8; SIZE];
        bytes[3..11].copy_from_slice(&OEM);
        bytes[0x0B..0x0D].copy_from_slice(&512u16.to_le_bytes());
        bytes[0x0D] = 8;
        bytes[0x28..0x30].copy_from_slice(&2047u64.to_le_bytes());
        bytes[0x30..0x38].copy_from_slice(&4u64.to_le_bytes());
        bytes[0x38..0x40].copy_from_slice(&100u64.to_le_bytes());
        bytes[0x40] = 0xF6;
        bytes[0x44] = 1;
        bytes[510..].copy_from_slice(&[0x55, 0xAA]);
        bytes
    }

    fn with_copy(first: &[u8], copy: &[u8]) -> Vec<u8> {
        let mut disk = vec![0u8; 1 << 20];
        disk[..SIZE].copy_from_slice(first);
        disk[(1 << 20) - SIZE..].copy_from_slice(copy);
        disk
    }

    fn found(disk: &Vec<u8>) -> Result<usize, Damage> {
        find(&Volume::new(disk, 0..1 << 20)).map(|found| found.len())
    }

    #[test]
    fn sizes_are_clusters_or_negative_powers() {
        let boot = Boot::parse(&sector()).unwrap();
        assert_eq!((boot.cluster, boot.record, boot.index), (4096, 1024, 4096));
        assert_eq!((boot.mft, boot.mirror, boot.size), (4 * 4096, 100 * 4096, 2047 * 512));
        let mut bytes = sector();
        bytes[0x28..0x30].copy_from_slice(&(1u64 << 30).to_le_bytes());
        bytes[0x0D] = 0xF4;
        bytes[0x44] = 0xF4;
        assert_eq!(Boot::parse(&bytes).unwrap().cluster, 2 << 20);
        for (at, byte) in
            [(0x0D, 0xF3), (0x0D, 3), (0x0D, 0), (0x40, 0x80), (0x40, 0), (0x0C, 0x20), (0x2F, 0xFF)]
        {
            let mut bytes = sector();
            bytes[at] = byte;
            assert!(Boot::parse(&bytes).is_err(), "{at:#x} {byte:#x}");
        }
    }

    #[test]
    fn the_copy_is_used_only_where_the_first_was_ntfs() {
        let good = sector();
        assert_eq!(found(&with_copy(&good, &good)), Ok(1));
        let mut other = good.clone();
        other[0x30] = 5;
        assert_eq!(found(&with_copy(&good, &other)), Ok(2));
        assert_eq!(found(&with_copy(&good, &[0; SIZE])), Ok(1));
        let mut flipped = good.clone();
        flipped[5] ^= 4;
        assert_eq!(
            found(&with_copy(&flipped, &good)),
            Ok(0),
            "a sector of zeros with a name is not nearly equal"
        );
        flipped[0x50..].fill(0x90);
        let mut boot = good.clone();
        boot[0x50..].fill(0x90);
        assert_eq!(found(&with_copy(&flipped, &boot)), Ok(1));
        assert_eq!(found(&with_copy(&[0; SIZE], &good)), Ok(1));
        let mut ext = with_copy(&[0; SIZE], &good);
        ext[1080..1082].copy_from_slice(&[0x53, 0xEF]);
        assert_eq!(found(&ext), Ok(0));
        let mut nonsense = good.clone();
        nonsense[0x0D] = 3;
        assert!(found(&with_copy(&nonsense, &[0; SIZE])).is_err());
        assert_eq!(found(&with_copy(&nonsense, &good)), Ok(1));
    }
}
