//! What is read of a container before its files.

use std::ops::Range;

use super::container::Found;
use super::object::Layout;
use super::omap::ObjectMap;
use super::space::Space;
use super::superblock::Superblock;
use super::tree::Tree;
use crate::file_system::Damage;
use crate::volume::Volume;

/// What is read of a container before its files.
pub(super) struct Tables {
    pub(super) map: ObjectMap,
    pub(super) volumes: Vec<VolumeTables>,
}

/// What is read of a volume before its files.
pub(super) struct VolumeTables {
    /// 1 for the first.
    pub(super) index: u64,
    /// The block of its superblock; 0 if it is not known.
    pub(super) block: u64,
    pub(super) superblock: Result<Superblock, Damage>,
    pub(super) map: ObjectMap,
    pub(super) tree: Tree,
    /// Why there is nothing.
    pub(super) damage: Option<Damage>,
}

impl VolumeTables {
    /// Returns the name of the volume.
    pub(super) fn label(&self) -> String {
        match &self.superblock {
            Ok(superblock) if !superblock.name.is_empty() => superblock.name.clone(),
            _ => format!("volume {}", self.index),
        }
    }

    /// Returns whether the tree of files is encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.superblock.as_ref().is_ok_and(|s| s.encrypted)
            && self.map.objects.iter().any(|o| o.is_encrypted())
    }
}

impl Tables {
    /// Reads the object maps, the superblocks of volumes, and the nodes of their trees.
    pub(super) fn load(volume: &Volume<'_>, found: &Found) -> Tables {
        let container = &found.container;
        let layout = container.layout;
        let map = ObjectMap::load(volume, layout, container.object_map, container.transaction);
        let mut volumes = Vec::new();
        for (index, id) in (1..).zip(&container.volumes) {
            if *id != 0 {
                let place = map.find(*id).map(|object| object.block);
                volumes.push(load(volume, layout, container.transaction, index, place));
            }
        }
        Tables { map, volumes }
    }

    /// Reads the bitmaps, and reports what is free.
    pub(super) fn space(
        volume: &Volume<'_>,
        found: &Found,
        free: &mut dyn FnMut(Range<u64>),
    ) -> Option<Space> {
        Some(Space::load(volume, found.container.layout, found.space_manager?, free))
    }
}

fn load(volume: &Volume<'_>, layout: Layout, newest: u64, index: u64, place: Option<u64>) -> VolumeTables {
    let superblock = match place {
        Some(block) => Superblock::read(volume, layout, block),
        None => Err(Damage::Invalid("the object map of the container does not say where it is".into())),
    };
    let damage = superblock.as_ref().err().cloned();
    let mut tables = VolumeTables {
        index,
        block: place.unwrap_or(0),
        superblock,
        map: ObjectMap::default(),
        tree: Tree::default(),
        damage,
    };
    if let Ok(superblock) = &tables.superblock {
        tables.map = ObjectMap::load(volume, layout, superblock.object_map, newest);
        if !tables.is_encrypted() {
            tables.tree = Tree::load(volume, layout, &tables.map);
        }
    }
    tables
}
