//! FAT12, FAT16 and FAT32.
//!
//! A directory entry is the record of a file, and its chain of clusters is in the table alone. Directories have no known
//! places: they are read from the root on, level by level, and one that is lost costs what is in it. The clusters of a file are
//! not guessed where the table is lost in both copies.

mod beyond;
mod boot;
pub(crate) mod clusters;
mod entry;
mod names;
mod orphans;
pub(crate) mod record;
pub(crate) mod scan;
pub(crate) mod slots;
pub(crate) mod structures;
pub(crate) mod table;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub(crate) mod time;

pub(crate) use boot::is_valid as is_boot_sector;

use std::ops::{ControlFlow, Range};

use crate::file_system::{Damage, FileSystem, Record, Visitor};
use crate::volume::Volume;
use boot::{Boot, Root};
use clusters::{Follower, Heap};
use entry::Entry;
use table::{Layout, Link, Table, Width};

/// A FAT volume.
struct Fat {
    boot: Boot,
    /// Why the boot sector could not be used, if its copy was.
    boot_damage: Option<Damage>,
    label: Option<String>,
}

/// Recognises FAT.
pub(crate) fn open(volume: &Volume<'_>) -> Result<Option<Box<dyn FileSystem>>, Damage> {
    let Some(boot::Found { boot, damage }) = boot::find(volume)? else { return Ok(None) };
    let mut fat = Fat { boot, boot_damage: damage, label: None };
    fat.label = fat.root_label(volume).or_else(|| fat.boot.label.take());
    Ok(Some(Box::new(fat)))
}

impl Fat {
    fn is_32(&self) -> bool {
        self.boot.table.width == Width::Fat32
    }

    /// Returns the label in the part of the root directory whose place is known without the table.
    fn root_label(&self, volume: &Volume<'_>) -> Option<String> {
        let heap = &self.boot.heap;
        let first = match &self.boot.root {
            Root::At(range) => range.clone(),
            Root::Chain(cluster) if heap.has(*cluster) => heap.at(*cluster)..heap.at(*cluster) + heap.cluster,
            Root::Chain(_) => return None,
        };
        let mut label = None;
        let _ = slots::each(volume, &[first], &mut |_, slot| match slot
            .map(|slot| entry::parse(slot, self.is_32()))
        {
            Ok(Entry::End) => ControlFlow::Break(()),
            Ok(Entry::Label(name)) => {
                label = Some(name);
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        });
        label
    }
}

impl FileSystem for Fat {
    fn name(&self) -> &'static str {
        match self.boot.table.width {
            Width::Fat12 => "fat12",
            Width::Fat16 => "fat16",
            _ => "fat32",
        }
    }

    fn label(&self) -> Option<String> {
        self.label.clone()
    }

    fn block_size(&self) -> u32 {
        u32::try_from(self.boot.heap.cluster).unwrap_or(u32::MAX)
    }

    fn id(&self) -> Option<String> {
        self.boot.serial.map(|serial| format!("{serial:08x}"))
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
        free(volume, &self.boot.table, self.boot.heap, found);
    }

    fn record(&self, volume: &Volume<'_>, handle: u64) -> Result<Record, Damage> {
        let mut follower = Follower::new(Table::new(volume, &self.boot.table), self.boot.heap);
        if handle == 0 {
            return Ok(record::root(self, volume, &mut follower).0);
        }
        if !handle.is_multiple_of(slots::SLOT) {
            return orphans::record(self, volume, &mut follower, handle);
        }
        let bytes = volume.read(handle, 32)?;
        match bytes.first_chunk().map(|slot| entry::parse(slot, self.is_32())) {
            Some(Entry::Short(short)) => Ok(record::record(volume, &mut follower, handle, &short)),
            // A directory whose entry in the one above is lost.
            Some(Entry::Dots) => orphans::record(self, volume, &mut follower, handle),
            _ => Err(Damage::Invalid("this is no directory entry of a file".into())),
        }
    }
}

fn free(volume: &Volume<'_>, layout: &Layout, heap: Heap, found: &mut dyn FnMut(Range<u64>)) {
    let mut table = Table::new(volume, layout);
    let mut free: Option<Range<u64>> = None;
    for cluster in 2..=layout.last() {
        if table.in_page(cluster) != Link::Free {
            continue;
        }
        let range = heap.at(cluster)..(heap.at(cluster) + heap.cluster).min(volume.size());
        match &mut free {
            _ if range.is_empty() => break,
            Some(last) if last.end == range.start => last.end = range.end,
            last => {
                if let Some(done) = last.replace(range) {
                    found(done);
                }
            }
        }
    }
    if let Some(done) = free {
        found(done);
    }
}
