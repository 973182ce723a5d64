//! Looks for file systems where no partition table says where they are.
//!
//! Partitions begin at multiples of 1 MiB since Windows Vista; before that, the first one at sector 63, and on Macs at sector
//! 40. A file system says how large it is, so the next one is looked for after its end. Where the first sector of one is lost,
//! it is found by NTFS's copy of it, which is the last sector of a partition, or by copies that it keeps elsewhere.

use std::ops::Range;

use cdi_base::readable::Readable;
use cdi_base::units::SECTOR;

use crate::file_system::FileSystem;
use crate::ntfs;
use crate::recognize::{Recognized, has_magic, recognize};
use crate::volume::Volume;

/// The multiple at which partitions begin, in bytes.
pub(crate) const STEP: u64 = 1 << 20;
/// Where else the first partition begins: on Macs, and on PCs before that.
const FIRST: [u64; 3] = [34 * SECTOR as u64, 40 * SECTOR as u64, 63 * SECTOR as u64];
/// The size of the copy of a GUID partition table, in bytes.
const GPT_COPY: u64 = 33 * SECTOR as u64;
/// The largest number of places that are looked at: 32 GiB without any file system.
const MAX_PLACES: u32 = 32 << 10;

/// What was found.
pub struct Search {
    /// The file systems, in order, without overlap.
    pub found: Vec<(Range<u64>, Box<dyn FileSystem>)>,
    /// How many bytes at the end were not looked at.
    pub left: u64,
}

/// Looks for file systems in `ranges` of a disk. What was not read yet is not looked at: imaging does not ask for all of it.
pub fn search(disk: &dyn Readable, ranges: &[Range<u64>]) -> Search {
    let mut search = Search { found: Vec::new(), left: 0 };
    let mut places = 0;
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            if places >= MAX_PLACES {
                search.left += range.end - at;
                break;
            }
            places += 1;
            let last = search.found.last().map_or(0, |(found, _)| found.end);
            if last < at
                && let Some(found) = ends(disk, at, range)
            {
                // Others in it are files: images of disks.
                search.found.retain(|(other, _)| other.start < found.0.start);
                search.found.push(found);
            }
            at = match look(disk, at, range) {
                Some((found, file_system)) => {
                    let end = found.end.max(at + 1);
                    search.found.push((found, file_system));
                    end
                }
                None => next(at),
            };
        }
        // The last partition may end anywhere, and mostly before a copy of the partition table.
        for end in [disk.size().saturating_sub(GPT_COPY), range.end] {
            let last = search.found.last().map_or(0, |(found, _)| found.end);
            if (range.start + 1..=range.end).contains(&end)
                && last < end
                && let Some(found) = ends(disk, end, range)
            {
                search.found.retain(|(other, _)| other.start < found.0.start);
                search.found.push(found);
            }
        }
    }
    search
}

/// Returns the place after `at`.
fn next(at: u64) -> u64 {
    FIRST.into_iter().find(|first| at < *first).unwrap_or((at / STEP + 1) * STEP)
}

/// Returns the file system that begins at byte `at`.
fn look(disk: &dyn Readable, at: u64, range: &Range<u64>) -> Option<(Range<u64>, Box<dyn FileSystem>)> {
    let volume = Volume::new(disk, at..range.end);
    let first = volume.missing(0..SECTOR.into());
    if first.iter().any(|missing| missing.untried) || (first.is_empty() && !has_magic(&volume)) {
        return None;
    }
    let Recognized::Files(found) = recognize(&volume) else { return None };
    let end = at.saturating_add(found.size()).min(range.end);
    // The copy at the end of the disk belongs to the partition that ends there.
    let is_other = !first.is_empty() && found.name() == "ntfs" && end + STEP < range.end;
    (!is_other && end > at).then_some((at..end, found))
}

/// Returns the NTFS that ends before byte `at`, by its copy of the boot sector.
fn ends(disk: &dyn Readable, at: u64, range: &Range<u64>) -> Option<(Range<u64>, Box<dyn FileSystem>)> {
    let copy = at.checked_sub(SECTOR.into()).filter(|copy| *copy >= range.start)?;
    if Volume::new(disk, copy..at).missing(0..SECTOR.into()).iter().any(|missing| missing.untried) {
        return None;
    }
    let size = ntfs::size_by_copy(&Volume::new(disk, copy..at))?;
    let start = at.checked_sub(size).filter(|start| *start >= range.start)?;
    match recognize(&Volume::new(disk, start..at)) {
        Recognized::Files(found) if found.name() == "ntfs" => Some((start..at, found)),
        _ => None,
    }
}
