//! Object maps: in which blocks objects are.
//!
//! Facts: Apple File System Reference, "Object Maps".

use std::collections::HashSet;
use std::ops::Range;

use super::node::Node;
use super::object::{Layout, OBJECT_MAP};
use crate::bytes::{le32, le64};
use crate::file_system::Damage;
use crate::volume::Volume;

/// The largest number of objects that are kept.
const MAX_OBJECTS: usize = 1 << 20;
/// The largest number of nodes of a map, and of its levels.
const MAX_NODES: usize = 1 << 19;
const MAX_LEVEL: u16 = 12;

/// Flags of an object.
const DELETED: u32 = 1;
const ENCRYPTED: u32 = 4;
const NO_HEADER: u32 = 8;

/// Where an object is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object {
    pub(super) id: u64,
    transaction: u64,
    flags: u32,
    pub(super) block: u64,
}

impl Object {
    pub(super) fn is_encrypted(&self) -> bool {
        self.flags & ENCRYPTED != 0
    }

    pub(super) fn has_no_header(&self) -> bool {
        self.flags & NO_HEADER != 0
    }

    /// Reads the node that the object is.
    pub(super) fn parse(&self, bytes: Vec<u8>) -> Result<Node, Damage> {
        if !self.has_no_header() && le64(&bytes, 8) != Some(self.id) {
            return Err(Damage::Invalid("another object is there".into()));
        }
        Node::parse(bytes, self.has_no_header())
    }
}

/// An object map.
#[derive(Debug, Default)]
pub(super) struct ObjectMap {
    /// The newest version of each object, by its number.
    pub(super) objects: Vec<Object>,
    /// Where the map itself is.
    pub(super) at: Vec<Range<u64>>,
    /// The blocks of it that could not be used.
    pub(super) lost: Vec<(u64, Damage)>,
}

impl ObjectMap {
    /// Reads the map in block `block`, as it was in transaction `newest`.
    pub(super) fn load(volume: &Volume<'_>, layout: Layout, block: u64, newest: u64) -> ObjectMap {
        let mut map = ObjectMap::default();
        map.at.extend(layout.range(block, 1));
        match layout.object(volume, block, OBJECT_MAP) {
            Ok(bytes) => map.read_tree(volume, layout, le64(&bytes, 48).unwrap_or(0), newest),
            Err(damage) => map.lost.push((block, damage)),
        }
        map.keep_newest();
        map.objects.retain(|o| o.flags & DELETED == 0);
        map
    }

    /// Keeps the newest version of each object.
    fn keep_newest(&mut self) {
        self.objects.sort_unstable_by_key(|o| (o.id, std::cmp::Reverse(o.transaction)));
        self.objects.dedup_by_key(|o| o.id);
    }

    fn read_tree(&mut self, volume: &Volume<'_>, layout: Layout, root: u64, newest: u64) {
        let mut seen = HashSet::new();
        let mut todo = vec![(root, MAX_LEVEL)];
        while let Some((block, most)) = todo.pop() {
            if seen.len() >= MAX_NODES || !seen.insert(block) {
                continue;
            }
            self.at.extend(layout.range(block, 1));
            let node = layout.read(volume, block).and_then(|bytes| Node::parse(bytes, false));
            let node = match node {
                Ok(node) if node.level < most || node.level == 0 => node,
                Ok(_) => {
                    self.lost.push((block, Damage::Invalid("it has the wrong level".into())));
                    continue;
                }
                Err(damage) => {
                    self.lost.push((block, damage));
                    continue;
                }
            };
            for i in 0..node.len() {
                if node.leaf {
                    self.add(&node, i, newest);
                } else if let Some((_, child)) = node.child(i) {
                    todo.push((child, node.level));
                }
            }
            if self.objects.len() >= 2 * MAX_OBJECTS {
                self.keep_newest();
            }
            if self.objects.len() > MAX_OBJECTS * 3 / 2 {
                self.lost.push((block, Damage::Invalid("it has more objects than can be kept".into())));
                return;
            }
        }
    }

    fn add(&mut self, node: &Node, i: usize, newest: u64) -> Option<()> {
        let (key, value) = node.record(i)?;
        let transaction = le64(key, 8)?;
        if transaction <= newest {
            let (id, flags, block) = (le64(key, 0)?, le32(value, 0)?, le64(value, 8)?);
            self.objects.push(Object { id, transaction, flags, block });
        }
        Some(())
    }

    /// Returns where an object is.
    pub(super) fn find(&self, id: u64) -> Option<Object> {
        self.objects.binary_search_by_key(&id, |o| o.id).ok().map(|i| self.objects[i])
    }
}
