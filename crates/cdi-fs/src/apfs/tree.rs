//! The tree of a volume's files: where its leaves are.
//!
//! All nodes are virtual objects, so that the object map has all of them: each is read, and a lost index node costs nothing but
//! the order of lost leaves.

use std::collections::HashMap;
use std::ops::Range;

use cdi_base::units::index;

use super::node::Node;
use super::object::Layout;
use super::omap::{Object, ObjectMap};
use super::records::{Key, key, order};
use crate::file_system::Damage;
use crate::volume::Volume;

/// The number of blocks that are read at once, at most.
const PIECE: u64 = 64;
/// The largest number of children of lost index nodes that are kept.
const MAX_CHILDREN: usize = 1 << 20;

/// A leaf.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaf {
    /// Its first key, if it could be read, or if its parent could.
    pub(super) first: Key,
    /// The order of leaves that begin with the same object.
    order: u64,
    pub(super) block: u64,
    pub(super) headerless: bool,
    /// Whether it could be read.
    pub(super) good: bool,
}

/// A node that could not be used.
#[derive(Debug)]
pub(super) struct LostNode {
    pub(super) block: u64,
    /// Whether it is a leaf, if its parent could be read.
    pub(super) leaf: Option<bool>,
    pub(super) damage: Damage,
}

/// All nodes of a volume's tree.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// In the order of keys. Of lost leaves, those that a parent knows.
    pub(super) leaves: Vec<Leaf>,
    pub(super) lost: Vec<LostNode>,
    /// Where all nodes are.
    pub(super) at: Vec<Range<u64>>,
}

/// What index nodes say of their children: how they begin, and whether they are leaves.
type Children = HashMap<u64, (Key, u64, bool)>;

fn leaf(object: &Object, first: Key, order: u64, good: bool) -> Leaf {
    Leaf { first, order, block: object.block, headerless: object.has_no_header(), good }
}

impl Tree {
    /// Reads all nodes.
    pub(super) fn load(volume: &Volume<'_>, layout: Layout, map: &ObjectMap) -> Tree {
        let mut tree = Tree::default();
        let mut objects: Vec<&Object> = map.objects.iter().collect();
        objects.sort_unstable_by_key(|o| o.block);
        let mut lost = Vec::new();
        let mut children = HashMap::new();
        let mut i = 0;
        while let Some(first) = objects.get(i).map(|o| o.block) {
            let near = |o: &&&Object| o.block - first < PIECE;
            let together = objects[i..].iter().take_while(near).count();
            // Blocks of others between them are not read.
            let pairs = objects[i..i + together].windows(2);
            let count = 1 + pairs.take_while(|pair| pair[1].block - pair[0].block <= 1).count();
            let piece = &objects[i..i + count];
            i += count;
            let blocks = piece[count - 1].block - first + 1;
            let Some(range) = layout.range(first, blocks) else {
                let damage = || Damage::Invalid("it is outside of the container".into());
                lost.extend(piece.iter().map(|o| (**o, damage())));
                continue;
            };
            tree.at.push(range.clone());
            let part = volume.read_part(range);
            for object in piece {
                let unit = u64::from(layout.block_size);
                let bytes = part.get(object.block * unit, index(unit)).map(<[u8]>::to_vec);
                let node = bytes.map_err(Damage::from).and_then(|b| object.parse(b));
                match node {
                    Ok(node) => tree.node(object, &node, &mut children),
                    Err(damage) => lost.push((**object, damage)),
                }
            }
        }
        for (object, damage) in lost {
            let parent = children.get(&object.id);
            if let Some((first, order, true)) = parent {
                tree.leaves.push(leaf(&object, *first, *order, false));
            }
            tree.lost.push(LostNode { block: object.block, leaf: parent.map(|p| p.2), damage });
        }
        tree.leaves.sort_by_key(|leaf| (leaf.first, leaf.order));
        tree
    }

    fn node(&mut self, object: &Object, node: &Node, children: &mut Children) {
        let begin = |bytes: &[u8]| Some((key(bytes)?, order(bytes)?));
        if !node.leaf {
            for i in 0..node.len() {
                if let Some((bytes, child)) = node.child(i)
                    && let Some((first, order)) = begin(bytes)
                    && children.len() < MAX_CHILDREN
                {
                    children.insert(child, (first, order, node.level == 1));
                }
            }
        } else if let Some((first, order)) = node.record(0).and_then(|(bytes, _)| begin(bytes)) {
            self.leaves.push(leaf(object, first, order, true));
        }
    }

    /// Returns the leaves that may have records with keys from `from` to `to`.
    pub(super) fn leaves_of(&self, from: Key, to: Key) -> &[Leaf] {
        let start = self.leaves.partition_point(|leaf| leaf.first < from).saturating_sub(1);
        let end = self.leaves.partition_point(|leaf| leaf.first <= to);
        self.leaves.get(start..end.max(start)).unwrap_or_default()
    }
}
