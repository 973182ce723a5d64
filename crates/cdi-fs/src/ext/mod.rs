//! ext2, ext3 and ext4.
//!
//! Inodes are read from the tables of all groups, not through directories: what is lost of one costs no other. The names come
//! from the directories. The journal is not replayed: what was not written to its place yet is shown as it was before.
//! Names in encrypted directories are shown in hexadecimal.

mod bitmap;
mod checksum;
mod contents;
mod directory;
mod doubtful;
mod extents;
mod find;
mod free;
mod groups;
mod indirect;
mod inode;
mod map;
mod names;
mod reader;
mod scan;
mod structures;
mod superblock;
mod system;
#[cfg(test)]
mod tests;

use cdi_base::printable::hex;
use std::ops::Range;

use crate::file_system::{Damage, FileSystem, Record, Visitor};
use crate::volume::Volume;
use inode::Inode;
use reader::Reader;
use scan::{Found, Scan};

/// A volume with ext2, ext3 or ext4.
struct Ext {
    found: find::Found,
}

/// Recognises ext2, ext3 and ext4.
pub(crate) fn open(volume: &Volume<'_>) -> Result<Option<Box<dyn FileSystem>>, Damage> {
    Ok(find::find(volume)?.map(|found| Box::new(Ext { found }) as Box<dyn FileSystem>))
}

impl FileSystem for Ext {
    fn name(&self) -> &'static str {
        self.found.superblock.name()
    }

    fn label(&self) -> Option<String> {
        let label = &self.found.superblock.label;
        (!label.is_empty()).then(|| label.clone())
    }

    fn block_size(&self) -> u32 {
        u32::try_from(self.found.superblock.block).unwrap_or(u32::MAX)
    }

    fn is_internal(&self, number: u64) -> bool {
        number < u64::from(self.found.superblock.first_inode) && number != u64::from(contents::ROOT)
    }

    fn id(&self) -> Option<String> {
        Some(hex(&self.found.superblock.uuid))
    }

    fn size(&self) -> u64 {
        self.found.superblock.blocks.saturating_mul(self.found.superblock.block)
    }

    fn root(&self) -> u64 {
        contents::ROOT.into()
    }

    fn scan(&self, volume: &Volume<'_>, visitor: &mut dyn Visitor) {
        let reader = Reader::new(&self.found.superblock, volume);
        let groups = groups::read(reader.sb, volume);
        if !system::report(&self.found, &groups, volume, visitor) {
            return;
        }
        let mut scan = Scan { reader: &reader, visitor };
        let _ = scan.block_bitmaps(&groups.list)
            && scan.inodes(&groups.list)
            && doubtful::report(&reader, &groups.list, visitor);
    }

    fn free(&self, volume: &Volume<'_>, found: &mut dyn FnMut(Range<u64>)) {
        free::report(&self.found.superblock, volume, found);
    }

    fn record(&self, volume: &Volume<'_>, handle: u64) -> Result<Record, Damage> {
        let sb = &self.found.superblock;
        let none = || Damage::Invalid("there is no such inode".into());
        let number = u32::try_from(handle).ok().filter(|n| (1..=sb.inodes).contains(n)).ok_or_else(none)?;
        let (group, within) = ((number - 1) / sb.group_inodes, (number - 1) % sb.group_inodes);
        let group = groups::read_one(sb, volume, group.into())?;
        let reader = Reader::new(sb, volume);
        let at = reader.bytes(group.table, 1).start + u64::from(within) * sb.inode_size as u64;
        let bytes = volume.read(at, sb.inode_size)?;
        let inode = Inode::new(number, &bytes);
        match scan::judge(&reader, &group, inode, None) {
            Found::Used(damage) => {
                Ok(contents::build(&reader, inode, at..at + sb.inode_size as u64, damage).record)
            }
            Found::Free => Err(none()),
            Found::Lost(damage) => Err(damage),
        }
    }
}
