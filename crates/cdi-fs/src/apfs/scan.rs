//! Scans a container.

use std::ops::Range;

use super::files::{Files, PARENT_OF_ROOT, ROOT, number};
use super::object::Layout;
use super::records::{self, ENTRY, INODE};
use super::tables::{Tables, VolumeTables};
use super::tree::{Leaf, Tree};
use crate::file_system::{Child, Damage, Kind, Name, Record, Structure, Visitor};
use crate::idset::IdSet;
use crate::volume::Volume;

/// What files have numbers from here on in a volume of which nothing is known.
const NAMELESS: u64 = 1 << 55;
/// The largest number of these that are reported.
const MAX_NAMELESS: u64 = 1 << 24;

/// Returns the record of the root: the container, whose entries are its volumes.
pub(super) fn container_root(handle: u64) -> Record {
    Record { handle, ..Record::new(0, Kind::Directory) }
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
        return visitor.record(root_alone(root, one));
    };
    let mut scan = Scan {
        files: Files::new(volume, layout, &one.tree, one.index, superblock),
        index: one.index,
        layout,
        known: IdSet::default(),
        recorded: IdSet::default(),
        visitor,
    };
    for leaf in one.tree.leaves.iter().filter(|leaf| leaf.good) {
        if !scan.leaf(leaf) {
            return false;
        }
    }
    let known = scan.known.len();
    missing(layout, one, superblock.files, known, visitor)
}

/// Returns the root of a volume of which nothing else can be listed.
pub(super) fn root_alone(number: u64, one: &VolumeTables) -> Record {
    let damage = one.damage.clone().unwrap_or_else(|| Damage::Invalid("it is encrypted".into()));
    let mut record = container_root(number);
    record.number = number;
    record.names = vec![Name { parent: 0, name: one.label() }];
    record.data.packed = one.is_encrypted().then_some("encrypted");
    record.damage = Some(damage);
    record
}

struct Scan<'a> {
    files: Files<'a>,
    index: u64,
    layout: Layout,
    /// The inodes of which a record or a name is known.
    known: IdSet,
    /// The inodes of which the record is known.
    recorded: IdSet,
    visitor: &'a mut dyn Visitor,
}

impl Scan<'_> {
    /// Reports all records of a leaf. Returns whether the scan goes on.
    fn leaf(&mut self, leaf: &Leaf) -> bool {
        let Ok(node) = self.files.leaf(leaf) else { return true };
        (0..node.len()).all(|i| {
            let Some((key, value)) = node.record(i) else { return true };
            match records::key(key) {
                // Of two inodes with one number, the second makes no sense.
                Some((id, INODE)) if !self.recorded.contains(id) => self.inode(id, value, leaf.block),
                Some((id, ENTRY)) if id != PARENT_OF_ROOT => self.entry(id, key, value),
                _ => true,
            }
        })
    }

    fn inode(&mut self, id: u64, value: &[u8], block: u64) -> bool {
        self.known.insert(id);
        self.recorded.insert(id);
        let record = records::inode(value).and_then(|inode| self.files.make(id, inode, block));
        match (record, number(self.index, id)) {
            (Some(record), _) => self.visitor.record(record),
            (None, Some(number)) => {
                let at = self.layout.range(block, 1).unwrap_or(0..0);
                let damage = Damage::Invalid("its inode makes no sense".into());
                self.visitor.lost_record(number, at, Some(true), damage)
            }
            (None, None) => true,
        }
    }

    fn entry(&mut self, directory: u64, key: &[u8], value: &[u8]) -> bool {
        let Some((name, id, kind)) = records::entry(key, value) else { return true };
        self.known.insert(id);
        match (self.files.name(id, (directory, name)), number(self.index, id)) {
            (Some(name), Some(number)) => self.visitor.child(Child { number, name, kind, size: None }),
            _ => true,
        }
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
        Some(false) => ("index node", lost.block, &lost.damage, "nothing is lost: leaves are scanned"),
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
fn missing(
    layout: Layout,
    one: &VolumeTables,
    files: u64,
    known: Option<u64>,
    visitor: &mut dyn Visitor,
) -> bool {
    let Tree { lost, .. } = &one.tree;
    let lost: Vec<_> = lost.iter().filter(|lost| lost.leaf != Some(false)).collect();
    if lost.is_empty() && one.map.lost.is_empty() {
        return true;
    }
    // The root and the private directory are not counted.
    let known = known.map_or(u64::MAX, |len| len.saturating_sub(2));
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
