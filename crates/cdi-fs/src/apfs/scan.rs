//! Scans a container.

use std::ops::Range;

use super::files::{Files, PARENT_OF_ROOT, ROOT, number};
use super::object::Layout;
use super::records::{self, ENTRY, INODE};
use super::tables::{Tables, VolumeTables};
use super::tree::Tree;
use crate::file_system::{Child, Damage, Data, Kind, Name, Record, Structure, Times, Visitor};
use crate::idset::IdSet;
use crate::volume::Volume;

/// What files have numbers from here on in a volume of which nothing is known.
const NAMELESS: u64 = 1 << 55;
/// The largest number of these that are reported.
const MAX_NAMELESS: u64 = 1 << 24;

/// Returns the record of the root: the container, whose entries are its volumes.
pub(super) fn container_root(handle: u64) -> Record {
    Record {
        number: 0,
        handle,
        kind: Kind::Directory,
        internal: false,
        names: Vec::new(),
        times: Times::default(),
        data: Data::default(),
        target: None,
        streams: Vec::new(),
        metadata: Vec::new(),
        damage: None,
    }
}

/// Reports all records of all volumes. Returns whether the scan goes on.
pub(super) fn volumes(
    volume: &Volume<'_>,
    layout: Layout,
    tables: &Tables,
    visitor: &mut dyn Visitor,
) -> bool {
    visitor.record(container_root(0)) && tables.volumes.iter().all(|one| scan(volume, layout, one, visitor))
}

fn scan(volume: &Volume<'_>, layout: Layout, one: &VolumeTables, visitor: &mut dyn Visitor) -> bool {
    let label = || one.label();
    let Some(root) = number(one.index, ROOT) else { return true };
    let child = Child {
        number: root,
        name: Name { parent: 0, name: label() },
        kind: Some(Kind::Directory),
        size: None,
    };
    if !visitor.child(child) || !structures(layout, one, visitor) {
        return false;
    }
    let (Ok(superblock), false) = (&one.superblock, one.is_encrypted()) else {
        // There is nothing more to be known; its name is kept.
        let damage = one.damage.clone().unwrap_or_else(|| Damage::Invalid("it is encrypted".into()));
        let mut record = container_root(root);
        record.number = root;
        record.names = vec![Name { parent: 0, name: label() }];
        if one.is_encrypted() {
            record.data.packed = Some("encrypted");
        }
        record.damage = Some(damage);
        return visitor.record(record);
    };
    let files = Files::new(volume, layout, &one.tree, one.index, superblock);
    let mut known = IdSet::default();
    for leaf in one.tree.leaves.iter().filter(|leaf| leaf.good) {
        let Ok(node) = files.leaf(leaf) else { continue };
        for i in 0..node.len() {
            let Some((key, value)) = node.record(i) else { continue };
            let go_on = match records::key(key) {
                Some((id, INODE)) => inode(&files, one, id, value, leaf.block, layout, &mut known, visitor),
                Some((id, ENTRY)) => entry(&files, one, id, key, value, &mut known, visitor),
                _ => true,
            };
            if !go_on {
                return false;
            }
        }
    }
    missing(layout, one, superblock.files, &known, visitor)
}

#[allow(clippy::too_many_arguments)] // the state of the loop above
fn inode(
    files: &Files<'_>,
    one: &VolumeTables,
    id: u64,
    value: &[u8],
    block: u64,
    layout: Layout,
    known: &mut IdSet,
    visitor: &mut dyn Visitor,
) -> bool {
    known.insert(id);
    let record = records::inode(value).and_then(|inode| files.make(id, inode, block));
    match (record, number(one.index, id)) {
        (Some(record), _) => visitor.record(record),
        (None, Some(number)) => {
            let at = layout.range(block, 1).unwrap_or(0..0);
            visitor.lost_record(number, at, Some(true), Damage::Invalid("its inode makes no sense".into()))
        }
        (None, None) => true,
    }
}

fn entry(
    files: &Files<'_>,
    one: &VolumeTables,
    directory: u64,
    key: &[u8],
    value: &[u8],
    known: &mut IdSet,
    visitor: &mut dyn Visitor,
) -> bool {
    let Some((name, id, kind)) = records::entry(key, value) else { return true };
    if directory == PARENT_OF_ROOT {
        return true;
    }
    known.insert(id);
    match (files.name(id, (directory, name)), number(one.index, id)) {
        (Some(name), Some(number)) => visitor.child(Child { number, name, kind, size: None }),
        _ => true,
    }
}

/// Reports the structures of a volume, and what is lost of them.
fn structures(layout: Layout, one: &VolumeTables, visitor: &mut dyn Visitor) -> bool {
    let label = one.label();
    let at = |block: u64| layout.range(block, 1).into_iter().collect::<Vec<Range<u64>>>();
    let damage = one.superblock.as_ref().err().map(|d| (d.clone(), "all files of the volume".to_owned()));
    let what = format!("superblock of volume {label}");
    if !visitor.structure(Structure { what, at: at(one.block), damage }) {
        return false;
    }
    if one.is_encrypted() {
        let damage = Some((Damage::Invalid("it is encrypted".into()), "its files cannot be listed".into()));
        return visitor.structure(Structure { what: format!("volume {label}"), at: Vec::new(), damage });
    }
    for (what, at) in [("object map", &one.map.at), ("files", &one.tree.at)] {
        let what = format!("{what} of volume {label}");
        if !at.is_empty() && !visitor.structure(Structure { what, at: at.clone(), damage: None }) {
            return false;
        }
    }
    let maps = one.map.lost.iter().map(|(block, damage)| {
        ("node of the object map", *block, damage, "files whose records this part of the map places")
    });
    let nodes = one.tree.lost.iter().map(|lost| match lost.leaf {
        Some(true) => {
            ("leaf", lost.block, &lost.damage, "records of files; those with an entry are known by name")
        }
        Some(false) => ("index node", lost.block, &lost.damage, "nothing: leaves are scanned"),
        None => ("node", lost.block, &lost.damage, "records of files, if it is a leaf"),
    });
    maps.chain(nodes).all(|(what, block, damage, cost)| {
        visitor.structure(Structure {
            what: format!("{what} of volume {label}"),
            at: at(block),
            damage: Some((damage.clone(), cost.into())),
        })
    })
}

/// Reports that files are lost of which not even a name is known.
fn missing(layout: Layout, one: &VolumeTables, files: u64, known: &IdSet, visitor: &mut dyn Visitor) -> bool {
    let Tree { lost, .. } = &one.tree;
    let lost: Vec<_> = lost.iter().filter(|lost| lost.leaf != Some(false)).collect();
    if lost.is_empty() && one.map.lost.is_empty() {
        return true;
    }
    // The root and the private directory are not counted.
    let known = known.len().map_or(u64::MAX, |len| len.saturating_sub(2));
    let at = lost.first().and_then(|lost| layout.range(lost.block, 1)).unwrap_or(0..0);
    // No more than had room: a part of the map places many nodes. An inode has a hundred bytes or more.
    let nodes = (lost.len() + one.map.lost.len() * 256) as u64;
    let room = nodes * u64::from(layout.block_size) / 100;
    (0..files.saturating_sub(known).min(room).min(MAX_NAMELESS)).all(|i| {
        let damage = Damage::Invalid("it is counted by the volume, and nothing else is known".into());
        let number = number(one.index, NAMELESS + i).unwrap_or(NAMELESS);
        visitor.lost_record(number, at.clone(), Some(true), damage)
    })
}
