//! exFAT.
//!
//! As with FAT, a directory entry is the record of a file, and directories are read from the root on. Most files are contiguous,
//! and their clusters are known without the table.

mod boot;
mod entry;
mod orphans;
mod record;
mod root;
mod scan;
mod set;
mod structures;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::fat::clusters::Follower;
use crate::fat::table::Table;
use crate::file_system::{Damage, FileSystem, Record, Visitor};
use crate::volume::Volume;
use boot::Boot;

/// An exFAT volume.
struct Exfat {
    boot: Boot,
    /// Why the boot sector could not be used, if its backup was.
    boot_damage: Option<Damage>,
    label: Option<String>,
}

/// Recognises exFAT.
pub(crate) fn open(volume: &Volume<'_>) -> Result<Option<Box<dyn FileSystem>>, Damage> {
    let Some(boot::Found { boot, damage }) = boot::find(volume)? else { return Ok(None) };
    let mut exfat = Exfat { boot, boot_damage: damage, label: None };
    let mut follower = exfat.follower(volume);
    let label = root::find(&exfat, volume, &mut follower).label;
    exfat.label = label;
    Ok(Some(Box::new(exfat)))
}

impl Exfat {
    fn follower<'a>(&'a self, volume: &Volume<'a>) -> Follower<'a> {
        Follower::new(Table::new(volume, &self.boot.table), self.boot.heap)
    }
}

impl FileSystem for Exfat {
    fn name(&self) -> &'static str {
        "exfat"
    }

    fn label(&self) -> Option<String> {
        self.label.clone()
    }

    fn block_size(&self) -> u32 {
        u32::try_from(self.boot.heap.cluster).unwrap_or(u32::MAX)
    }

    fn id(&self) -> Option<String> {
        Some(format!("{:08x}", self.boot.serial))
    }

    fn size(&self) -> u64 {
        self.boot.size
    }

    fn root(&self) -> u64 {
        0
    }

    fn scan(&self, volume: &Volume<'_>, visitor: &mut dyn Visitor) {
        let _ = scan::scan(self, volume, visitor);
    }

    fn free(&self, volume: &Volume<'_>, found: &mut dyn FnMut(Range<u64>)) {
        structures::free(self, volume, found);
    }

    fn record(&self, volume: &Volume<'_>, handle: u64) -> Result<Record, Damage> {
        let mut follower = self.follower(volume);
        if handle == 0 {
            return Ok(root::record(self, volume, &mut follower));
        }
        if let Some(record) = orphans::record(self, volume, &mut follower, handle) {
            return record;
        }
        set::record(self, volume, &mut follower, handle)
    }
}
