//! A B-tree, scanned node by node: a lost index node costs nothing.
//!
//! Facts: TN1150, "B-Trees": header node, map of used nodes.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use cdi_base::units::index;

use super::fork::{FilePart, Fork};
use super::node::{DESCRIPTOR, Descriptor, Leaf, Length, Node, NodeKind, descriptor};
use crate::bytes::{be16, be32};
use crate::file_system::Damage;
use crate::volume::Volume;

/// How much is read at once, in bytes.
const PIECE: u64 = 1 << 20;
/// Where the first record of the header node is, and the third, the map.
const HEADER_RECORD: usize = DESCRIPTOR;
const MAP_RECORD: usize = 248;
/// The sizes of nodes that are tried if the header node is lost, the most usual first.
const NODE_SIZES: [u32; 7] = [8192, 4096, 16384, 32768, 1024, 2048, 512];
/// The largest number of lost nodes that are kept.
const MAX_LOST: usize = 1 << 17;

/// A B-tree.
pub(super) struct Tree {
    pub(super) fork: Fork,
    pub(super) node_size: u32,
    nodes: u32,
    /// A bit a node, the highest first: whether it is used. Ones where it is not known.
    map: Vec<u8>,
    /// Whether the map could be read and fits the header.
    map_is_sure: bool,
    /// The nodes of the map.
    map_nodes: HashSet<u32>,
    /// The first node of the leaves.
    pub(super) first_leaf: Option<u32>,
    length: Length,
    /// The header node, and nodes of the map that could not be used.
    pub(super) damaged: Vec<Lost>,
}

/// A node of which something is lost.
#[derive(Debug, Clone)]
pub(super) struct Lost {
    pub(super) node: u32,
    /// What it is, if that is known.
    pub(super) kind: Option<NodeKind>,
    pub(super) damage: Damage,
    /// The node that follows it, if that is known.
    pub(super) next: Option<u32>,
}

impl Lost {
    fn header(node: u32, damage: Damage) -> Lost {
        Lost { node, kind: Some(NodeKind::Header), damage, next: None }
    }
}

/// What the header node says.
struct TreeHeader {
    node_size: u32,
    first_leaf: u32,
    nodes: u32,
    free: u32,
    next_map: u32,
}

impl Tree {
    /// Opens the tree in a file. None if it has no nodes.
    pub(super) fn open(volume: &Volume<'_>, fork: Fork, length: Length) -> Option<Tree> {
        if fork.size == 0 || fork.runs.is_empty() {
            return None;
        }
        let header = read_header(volume, &fork);
        let node_size = match &header {
            Ok(header) => header.node_size,
            Err(_) => guess_node_size(volume, &fork, length),
        };
        // No more than there are blocks for: a size that is wrong must not cost time.
        let end = fork.runs.last().map_or(0, |run| run.file + run.len);
        let nodes =
            u32::try_from(fork.size.min(end).min(volume.size()) / u64::from(node_size)).unwrap_or(u32::MAX);
        let mut tree = Tree {
            fork,
            node_size,
            nodes,
            map: Vec::new(),
            map_is_sure: false,
            map_nodes: HashSet::new(),
            first_leaf: header.as_ref().ok().map(|header| header.first_leaf),
            length,
            damaged: Vec::new(),
        };
        match header {
            Ok(header) => tree.read_map(volume, &header),
            Err(damage) => tree.damaged.push(Lost::header(0, damage)),
        }
        Some(tree)
    }

    /// Reports all records of the leaves. Returns the nodes of which something is lost, or None if `visit` said that it ends.
    pub(super) fn scan(
        &self,
        volume: &Volume<'_>,
        visit: &mut dyn FnMut(Leaf<'_>) -> bool,
    ) -> Option<Vec<Lost>> {
        let mut lost = LostNodes::default();
        let mut node = 1;
        while node < self.nodes {
            let Some(run) = self.used_from(node) else { break };
            let range = self.place(run.start).start..self.place(run.end - 1).end;
            let part = self.fork.read_part(volume, range);
            for node in run.clone() {
                if !self.scan_node(&part, node, visit, &mut lost) {
                    return None;
                }
            }
            node = run.end;
        }
        Some(lost.found)
    }

    fn scan_node(
        &self,
        part: &FilePart,
        node: u32,
        visit: &mut dyn FnMut(Leaf<'_>) -> bool,
        lost: &mut LostNodes,
    ) -> bool {
        let mut go_on = true;
        let view = Node { part, at: self.place(node).start, size: self.node_size };
        let state = view.records(self.length, visit, &mut go_on);
        match state.descriptor {
            Some(found) => {
                lost.links(node, &found);
                if let Some(damage) = state.damage {
                    lost.add(node, Some(found.kind), damage);
                }
            }
            None if state.empty && self.map_is_sure => {
                lost.add(node, None, Damage::Invalid("it is in use, and empty".into()));
            }
            None if state.empty => {}
            None => {
                let damage = state.damage.unwrap_or_else(|| Damage::Invalid("it is no node".into()));
                lost.add(node, None, damage);
            }
        }
        go_on
    }

    /// Reads the beginning of the first record of a node.
    pub(super) fn first_record(&self, volume: &Volume<'_>, node: u32, len: u64) -> Option<Vec<u8>> {
        let at = self.place(node).start.checked_add(DESCRIPTOR as u64)?;
        let end = at.checked_add(len)?.min(self.place(node).end);
        let part = self.fork.read_part(volume, at..end);
        let readable = part.lost_in(at..part.end()).map_or(part.end(), |(lost, _)| lost.start.max(at));
        part.get(at, index(readable - at)).ok().map(<[u8]>::to_vec)
    }

    /// Returns the node that has byte `at` of the file.
    pub(super) fn node_of(&self, at: u64) -> u32 {
        u32::try_from(at / u64::from(self.node_size)).unwrap_or(u32::MAX)
    }

    /// Returns the bytes of a node in the file.
    pub(super) fn place(&self, node: u32) -> Range<u64> {
        let start = u64::from(node) * u64::from(self.node_size);
        start..start + u64::from(self.node_size)
    }

    /// Returns where a node is on the volume.
    pub(super) fn on_volume(&self, node: u32) -> Vec<Range<u64>> {
        self.fork.on_volume(self.place(node))
    }

    /// Returns the next nodes in a row that are used, from `node` on, as many as are read at once.
    fn used_from(&self, node: u32) -> Option<Range<u32>> {
        let used = |node: &u32| {
            let byte = self.map.get((*node / 8) as usize).copied().unwrap_or(0xFF);
            byte & (0x80 >> (*node % 8)) != 0 && !self.map_nodes.contains(node)
        };
        let start = (node..self.nodes).find(used)?;
        let most = u32::try_from(PIECE / u64::from(self.node_size)).unwrap_or(1).max(1);
        let end = self.nodes.min(start.saturating_add(most));
        Some(start..(start..end).find(|node| !used(node)).unwrap_or(end))
    }

    /// Reads the map of used nodes, in the header node and in the nodes that follow it.
    fn read_map(&mut self, volume: &Volume<'_>, header: &TreeHeader) {
        let bytes = index(u64::from(self.nodes.div_ceil(8)));
        let first = self.map_record(volume, 0, MAP_RECORD, 3);
        let (mut next, mut sure) = (header.next_map, true);
        match first {
            Ok(record) => self.map = record,
            Err(damage) => {
                self.damaged.push(Lost::header(0, damage));
                return;
            }
        }
        while next != 0 && self.map.len() < bytes {
            // Each has many bytes, or there would be too many.
            let most = bytes / index(u64::from(self.node_size) / 2) + 1;
            if next >= self.nodes || self.map_nodes.len() > most || !self.map_nodes.insert(next) {
                sure = false;
                break;
            }
            let start = self.place(next).start;
            let link =
                self.fork.read_part(volume, start..start + 4).get(start, 4).ok().and_then(|b| be32(b, 0));
            match self.map_record(volume, next, DESCRIPTOR, 1) {
                Ok(record) => self.map.extend(record),
                Err(damage) => {
                    // What follows it is not known to be where; so are its own bits.
                    self.damaged.push(Lost::header(next, damage));
                    sure = false;
                    break;
                }
            }
            next = link.unwrap_or(0);
        }
        // The file may be larger than the tree, and smaller if a part of its extents is lost.
        let used = |n: &u32| self.map.get((*n / 8) as usize).is_some_and(|b| b & (0x80 >> (*n % 8)) != 0);
        let count = (0..header.nodes.min(self.nodes)).filter(used).count() as u64;
        let fits = count == u64::from(header.nodes).saturating_sub(u64::from(header.free));
        if sure && header.nodes <= self.nodes && !fits {
            let damage = Damage::Invalid("its map of used nodes contradicts its counts".into());
            self.damaged.push(Lost::header(0, damage));
            self.map.clear();
        } else if sure && header.nodes <= self.nodes {
            self.nodes = header.nodes;
            self.map_is_sure = true;
        }
    }

    /// Reads the record of the map in a node: where it begins, and its end by entry `entry` of the table.
    fn map_record(&self, volume: &Volume<'_>, node: u32, from: usize, entry: u64) -> Result<Vec<u8>, Damage> {
        let place = self.place(node);
        let part = self.fork.read_part(volume, place.clone());
        let end = part.get(place.end - 2 * (entry + 1), 2)?;
        let end = be16(end, 0).map_or(0, usize::from);
        let room = index(u64::from(self.node_size)) - 2 * index(entry + 1);
        if end <= from || end > room {
            return Err(Damage::Invalid("its map of used nodes makes no sense".into()));
        }
        Ok(part.get(place.start + from as u64, end - from)?.to_vec())
    }
}

fn read_header(volume: &Volume<'_>, fork: &Fork) -> Result<TreeHeader, Damage> {
    let part = fork.read_part(volume, 0..512.min(fork.size));
    let bytes = part.get(0, 120)?;
    let word = |at: usize| be32(bytes, HEADER_RECORD + at).unwrap_or(0);
    let node_size = u32::from(be16(bytes, HEADER_RECORD + 18).unwrap_or(0));
    let header = descriptor(bytes).filter(|found| found.kind == NodeKind::Header);
    match header {
        Some(found) if NODE_SIZES.contains(&node_size) && u64::from(node_size) <= fork.size => {
            Ok(TreeHeader {
                node_size,
                first_leaf: word(10),
                nodes: word(22),
                free: word(26),
                next_map: found.next,
            })
        }
        _ => Err(Damage::Invalid("its header node makes no sense".into())),
    }
}

/// Returns the size of nodes that makes the most sense of the file's beginning.
fn guess_node_size(volume: &Volume<'_>, fork: &Fork, length: Length) -> u32 {
    let part = fork.read_part(volume, 0..PIECE.min(fork.size));
    let score = |size: u32| {
        let nodes = part.end() / u64::from(size);
        let records =
            (1..nodes).filter_map(|n| Node { part: &part, at: n * u64::from(size), size }.plausible(length));
        records.sum::<usize>()
    };
    let best = NODE_SIZES.into_iter().rev().map(|size| (score(size), size)).max_by_key(|(score, _)| *score);
    match best {
        Some((1.., size)) => size,
        // Nothing can be read. With the smaller of the usual sizes, the first leaf is not taken for a part of the header.
        _ => 4096,
    }
}

/// The nodes of which something is lost, and what their neighbours say of them.
#[derive(Default)]
struct LostNodes {
    found: Vec<Lost>,
    /// Nodes that are yet to be read: what a neighbour says that they are, and the node that follows them.
    expected: HashMap<u32, (NodeKind, Option<u32>)>,
}

impl LostNodes {
    /// Takes what a node says of its neighbours, which are of the same kind.
    fn links(&mut self, node: u32, found: &Descriptor) {
        self.expected.remove(&node);
        for (other, next) in [(found.previous, Some(node)), (found.next, None)] {
            if other > node {
                if self.expected.len() < MAX_LOST * 2 {
                    let known = self.expected.entry(other).or_insert((found.kind, next));
                    known.1 = known.1.or(next);
                }
            } else if let Ok(i) = self.found.binary_search_by_key(&other, |lost| lost.node) {
                let lost = &mut self.found[i];
                lost.kind.get_or_insert(found.kind);
                lost.next = lost.next.or(next);
            }
        }
    }

    fn add(&mut self, node: u32, kind: Option<NodeKind>, damage: Damage) {
        let expected = self.expected.remove(&node);
        let next = expected.and_then(|(_, next)| next);
        if self.found.len() < MAX_LOST {
            self.found.push(Lost { node, kind: kind.or(expected.map(|(kind, _)| kind)), damage, next });
        }
    }
}
