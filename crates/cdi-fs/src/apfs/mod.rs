//! APFS, the file system of macOS since 10.13.
//!
//! A container has several volumes. There is one tree for all: the root, number 0, is the container, and each volume is a
//! directory in it, with the volume's name. The number of a file is the number of its volume (1 for the first) in the highest
//! byte, and its inode number in the others; what nothing is known of but that it was there has bit 55 set.
//!
//! Each change writes new blocks, and object maps say which are the newest. The nodes of a volume's tree are all in the volume's
//! object map, so that each is read, and the records of leaves used; of a lost part of the map, nodes are not looked for.
//! Snapshots are not listed, nor are volumes whose metadata is encrypted. Of the files of a sealed system volume, contents are not
//! looked for.
//!
//! Facts: Apple File System Reference; libfsapfs' documentation "Apple File System (APFS)"; linux-apfs-rw's apfs_raw.h.

mod container;
mod files;
mod node;
mod object;
mod omap;
mod records;
mod scan;
mod space;
mod superblock;
mod tables;
#[cfg(test)]
mod tests;
mod tree;

use cdi_base::printable::hex;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::file_system::{Damage, FileSystem, Record, Structure, Visitor};
use crate::volume::Volume;

use self::container::Found;
use self::files::Files;
use self::tables::Tables;

/// An APFS container.
struct Apfs {
    found: Found,
    label: Option<String>,
    /// What was last read of the maps and trees.
    tables: Mutex<Option<Arc<Tables>>>,
}

/// Recognises an APFS container.
pub(crate) fn open(volume: &Volume<'_>) -> Result<Option<Box<dyn FileSystem>>, Damage> {
    let Some(found) = container::find(volume)? else { return Ok(None) };
    let container = &found.container;
    let map = omap::ObjectMap::load(volume, container.layout, container.object_map, container.transaction);
    let ids = container.volumes.iter().filter(|id| **id != 0);
    let mut names = ids.filter_map(|id| {
        superblock::Superblock::read(volume, container.layout, map.find(*id)?.block).ok().map(|s| s.name)
    });
    // Of a container with several volumes, none is its name.
    let label = names.next().filter(|_| names.next().is_none());
    Ok(Some(Box::new(Apfs { found, label, tables: Mutex::new(None) })))
}

impl FileSystem for Apfs {
    fn name(&self) -> &'static str {
        "apfs"
    }

    fn label(&self) -> Option<String> {
        self.label.clone()
    }

    fn block_size(&self) -> u32 {
        self.found.container.layout.block_size
    }

    fn id(&self) -> Option<String> {
        Some(hex(&self.found.container.uuid))
    }

    fn size(&self) -> u64 {
        let layout = self.found.container.layout;
        layout.blocks.saturating_mul(layout.block_size.into())
    }

    fn root(&self) -> u64 {
        0
    }

    fn scan(&self, volume: &Volume<'_>, visitor: &mut dyn Visitor) {
        let tables = Arc::new(Tables::load(volume, &self.found));
        *self.tables.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&tables));
        if self.structures(volume, &tables).into_iter().all(|structure| visitor.structure(structure)) {
            scan::volumes(volume, self.found.container.layout, &tables, visitor);
        }
    }

    fn free(&self, volume: &Volume<'_>, found: &mut dyn FnMut(Range<u64>)) {
        Tables::space(volume, &self.found, found);
    }

    fn record(&self, volume: &Volume<'_>, handle: u64) -> Result<Record, Damage> {
        if handle == 0 {
            return Ok(scan::container_root(0));
        }
        let tables = {
            let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(tables.get_or_insert_with(|| Arc::new(Tables::load(volume, &self.found))))
        };
        let (index, id) = (handle >> 56, handle & ((1 << 56) - 1));
        let one = tables.volumes.iter().find(|one| one.index == index);
        let one = one.ok_or_else(|| Damage::Invalid("there is no such volume".into()))?;
        match &one.superblock {
            _ if id == files::ROOT && (one.superblock.is_err() || one.is_encrypted()) => {
                Ok(scan::root_alone(handle, one))
            }
            Ok(superblock) => {
                Files::new(volume, self.found.container.layout, &one.tree, index, superblock).record(id)
            }
            Err(damage) => Err(damage.clone()),
        }
    }
}

impl Apfs {
    /// Returns the structures of the container.
    fn structures(&self, volume: &Volume<'_>, tables: &Tables) -> Vec<Structure> {
        let container = &self.found.container;
        let layout = container.layout;
        let at = |block: u64| layout.range(block, 1).into_iter().collect::<Vec<_>>();
        let mut all = Vec::new();
        let mut add = |what: &str, at: Vec<Range<u64>>, damage: Option<&Damage>, cost: &str| {
            let damage = damage.map(|damage| (damage.clone(), cost.to_owned()));
            all.push(Structure { what: what.into(), at, damage });
        };
        add("container superblock", at(0), self.found.first.as_ref(), "those of the checkpoints are used");
        let unit = u64::from(layout.block_size);
        let newest = container.at..container.at.saturating_add(unit);
        add("superblock of the newest checkpoint", std::iter::once(newest).collect(), None, "");
        add("checkpoint descriptor area", container.descriptor_area().into_iter().collect(), None, "");
        for (block, damage) in &self.found.lost {
            let cost = "the newest checkpoint, if it was there: files may be as they were before";
            add("block of the checkpoint descriptor area", at(*block), Some(damage), cost);
        }
        add("object map of the container", tables.map.at.clone(), None, "");
        for (block, damage) in &tables.map.lost {
            add(
                "node of the container's object map",
                at(*block),
                Some(damage),
                "volumes that only it places",
            );
        }
        match Tables::space(volume, &self.found, &mut |_| {}) {
            Some(space) => {
                add("space manager", space.at, None, "");
                for (block, damage) in &space.lost {
                    add("block of the space manager", at(*block), Some(damage), "blocks count as used");
                }
            }
            None => {
                let damage = Damage::Invalid("no checkpoint map says where it is".into());
                add("space manager", Vec::new(), Some(&damage), "all blocks count as used");
            }
        }
        all
    }
}
