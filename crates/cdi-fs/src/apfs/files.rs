//! Records as the rest of cdi knows them, made of those of a volume's tree.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use super::node::Node;
use super::object::Layout;
use super::records::{self, ATTRIBUTE, Attribute, EXTENT, Extent, INODE, Inode, Key, SIBLING};
use super::tree::{Leaf, Tree};
use crate::bytes::{le32, le64};
use crate::file_system::{Damage, Data, Kind, MAX_RUNS, Name, Place, Record, Run};
use crate::volume::Volume;

/// The number of leaves that are kept.
const CACHED: usize = 8;
/// The number of the root directory in a volume, of its parent, and of the directory for files that are to be deleted.
pub(super) const ROOT: u64 = 2;
pub(super) const PARENT_OF_ROOT: u64 = 1;
pub(super) const PRIVATE: u64 = 3;

/// Makes the number of a file in a container: that of the volume is in the highest byte.
pub(super) fn number(volume: u64, id: u64) -> Option<u64> {
    ((1..256).contains(&volume) && id < 1 << 56).then_some(volume << 56 | id)
}

/// The files of a volume.
pub(super) struct Files<'a> {
    volume: &'a Volume<'a>,
    layout: Layout,
    tree: &'a Tree,
    /// Which volume it is: 1 for the first.
    index: u64,
    /// Its name.
    name: &'a str,
    /// Whether its files may be encrypted, each by itself.
    encrypted: bool,
    sealed: bool,
    cache: RefCell<Vec<(u64, Rc<Node>)>>,
    /// How many leaves may yet be looked at: many files may say that they share the contents of another.
    budget: Cell<u64>,
}

/// The number of leaves that are looked at in a scan, at most.
const BUDGET: u64 = 1 << 24;

/// Takes the beginning of a key, the key, and the value.
type Take<'a> = dyn FnMut(Key, &[u8], &[u8]) + 'a;

/// What a volume's tree says of one file, other than the inode.
#[derive(Default)]
struct Details {
    names: Vec<(u64, String)>,
    target: Option<Vec<u8>>,
    /// The method and size of com.apple.decmpfs.
    compressed: Option<(u32, u64)>,
    /// Attributes with contents of their own.
    streams: Vec<(String, u64, u64)>,
}

impl<'a> Files<'a> {
    pub(super) fn new(
        volume: &'a Volume<'a>,
        layout: Layout,
        tree: &'a Tree,
        index: u64,
        superblock: &'a super::superblock::Superblock,
    ) -> Files<'a> {
        Files {
            volume,
            layout,
            tree,
            index,
            name: &superblock.name,
            encrypted: superblock.encrypted,
            sealed: superblock.sealed,
            cache: RefCell::new(Vec::new()),
            budget: Cell::new(BUDGET),
        }
    }

    /// Reads a leaf.
    pub(super) fn leaf(&self, leaf: &Leaf) -> Result<Rc<Node>, Damage> {
        let mut cache = self.cache.borrow_mut();
        if let Some((_, node)) = cache.iter().find(|(block, _)| *block == leaf.block) {
            return Ok(Rc::clone(node));
        }
        let node = Rc::new(Node::parse(self.layout.read(self.volume, leaf.block)?, leaf.headerless)?);
        if cache.len() >= CACHED {
            cache.remove(0);
        }
        cache.push((leaf.block, Rc::clone(&node)));
        Ok(node)
    }

    /// Reports all records with keys from `from` to `to`. Returns why some are lost, if they are.
    fn each(&self, from: Key, to: Key, take: &mut Take<'_>) -> Option<Damage> {
        let mut damage = None;
        for leaf in self.tree.leaves_of(from, to) {
            let Some(left) = self.budget.get().checked_sub(1) else {
                return Some(Damage::Invalid("too many files share their contents with others".into()));
            };
            self.budget.set(left);
            let node = match self.leaf(leaf) {
                Ok(node) => node,
                Err(error) => {
                    damage.get_or_insert(error);
                    continue;
                }
            };
            let at = |i: usize| node.record(i).and_then(|(key, _)| records::key(key));
            // The first that is not before `from`; keys are in order.
            let (mut low, mut high) = (0, node.len());
            while low < high {
                let middle = low.midpoint(high);
                if at(middle).is_some_and(|key| key < from) { low = middle + 1 } else { high = middle }
            }
            for i in low..node.len() {
                let Some((bytes, value)) = node.record(i) else { continue };
                match records::key(bytes) {
                    Some(key) if key > to => break,
                    Some(key) if key >= from => take(key, bytes, value),
                    _ => {}
                }
            }
        }
        damage
    }

    /// Reads the record of a file again.
    pub(super) fn record(&self, id: u64) -> Result<Record, Damage> {
        let mut found = None;
        let mut at = None;
        let lost = self.each((id, INODE), (id, INODE), &mut |_, _, value| {
            found = found.take().or(records::inode(value))
        });
        if found.is_some() {
            at = self.tree.leaves_of((id, INODE), (id, INODE)).last().map(|leaf| leaf.block);
        }
        match (found, lost) {
            (Some(inode), _) => self.make(id, inode, at.unwrap_or(0)).ok_or_else(|| no_record(id)),
            (None, Some(damage)) => Err(damage),
            (None, None) => Err(no_record(id)),
        }
    }

    /// Makes the record of an inode that is in the leaf in block `block`.
    pub(super) fn make(&self, id: u64, inode: Inode, block: u64) -> Option<Record> {
        let number = number(self.index, id)?;
        let mut details = Details::default();
        let mut damage = self.each((id, ATTRIBUTE), (id, SIBLING), &mut |key, bytes, value| match key.1 {
            ATTRIBUTE => details.attribute(bytes, value),
            _ => details.names.extend(records::sibling(value)),
        });
        if details.names.is_empty() {
            details.names.extend(inode.name.clone().map(|name| (inode.parent, name)));
        }
        let mut metadata: Vec<Range<u64>> = self.layout.range(block, 1).into_iter().collect();
        // All contents of a file together have no more runs than one may have.
        let mut room = MAX_RUNS;
        let mut contents = |id: u64, size: u64| {
            let (data, lost) = self.contents(id, size, room, &mut metadata);
            if let Place::Runs(runs) = &data.place {
                room -= runs.len();
            }
            damage = damage.take().or(lost);
            data
        };
        let mut data = Data::default();
        if inode.kind != Kind::Directory && inode.size > 0 {
            data = contents(inode.contents, inode.size);
        }
        let mut streams = Vec::new();
        for (name, id, size) in details.streams {
            let name = if name == "com.apple.ResourceFork" { "rsrc".to_owned() } else { name };
            streams.push((name, contents(id, size)));
        }
        if inode.compressed && inode.size == 0 {
            data = compressed(details.compressed, &mut streams);
            if details.compressed.is_none() {
                let why = "its attribute com.apple.decmpfs, and so its size, is lost";
                damage.get_or_insert_with(|| Damage::Invalid(why.into()));
            }
        }
        Some(Record {
            internal: id == PRIVATE || inode.parent == PRIVATE,
            names: details.names.into_iter().filter_map(|name| self.name(id, name)).collect(),
            times: inode.times,
            data,
            target: details.target,
            streams,
            metadata,
            damage,
            ..Record::new(number, inode.kind)
        })
    }

    /// Returns the name of a file. The root of a volume has that of the volume, in the root of the container.
    pub(super) fn name(&self, id: u64, (parent, name): (u64, String)) -> Option<Name> {
        match (parent, id) {
            (PARENT_OF_ROOT, ROOT) => Some(Name { parent: 0, name: self.name.to_owned() }),
            (PARENT_OF_ROOT, _) => None,
            _ => Some(Name { parent: number(self.index, parent)?, name }),
        }
    }

    /// Returns contents, and why they are not complete. Adds the leaves that say where they are to `metadata`.
    fn contents(
        &self,
        id: u64,
        size: u64,
        room: usize,
        metadata: &mut Vec<Range<u64>>,
    ) -> (Data, Option<Damage>) {
        if self.sealed {
            let why = "it is on a sealed system volume, of which contents are not looked for";
            return (Data { size, ..Data::default() }, Some(Damage::Invalid(why.into())));
        }
        let mut runs: Vec<Run> = Vec::new();
        let (mut encrypted, mut outside) = (false, false);
        let damage = self.each((id, EXTENT), (id, EXTENT), &mut |_, key, value| {
            let Some(extent) = records::extent(key, value) else { return };
            encrypted |= extent.encrypted;
            let end = runs.last().map_or(0, |run| run.file + run.len);
            if extent.file >= size || extent.file < end || runs.len() >= room || extent.len == 0 {
                return;
            }
            match self.run(&extent) {
                Some(run) => runs.push(run),
                None => outside = true,
            }
        });
        if damage.is_none() {
            let own = metadata.first().cloned();
            let leaves = self.tree.leaves_of((id, EXTENT), (id, EXTENT)).iter();
            let places = leaves.filter_map(|leaf| self.layout.range(leaf.block, 1));
            metadata.extend(places.filter(|range| Some(range) != own.as_ref()));
        }
        let complete = runs.last().is_some_and(|run| run.file + run.len >= size)
            && runs.first().is_some_and(|run| run.file == 0)
            && runs.windows(2).all(|pair| pair[0].file + pair[0].len == pair[1].file);
        let damage = damage.or_else(|| {
            let what = if outside {
                "an extent is outside of the container"
            } else {
                "some of its extents are lost"
            };
            (!complete).then(|| Damage::Invalid(what.into()))
        });
        let packed = (encrypted && self.encrypted).then_some("encrypted");
        (Data { size, place: Place::Runs(runs), packed }, damage)
    }

    fn run(&self, extent: &Extent) -> Option<Run> {
        let blocks = extent.len.div_ceil(u64::from(self.layout.block_size));
        extent.file.checked_add(extent.len)?;
        let volume = match extent.block {
            0 => None,
            block => Some(self.layout.range(block, blocks)?.start),
        };
        Some(Run { file: extent.file, len: extent.len, volume, unwritten: false })
    }
}

impl Details {
    fn attribute(&mut self, key: &[u8], value: &[u8]) {
        match records::attribute(key, value) {
            Some((name, Attribute::Inline(bytes))) if name == "com.apple.fs.symlink" => {
                self.target = Some(bytes.split(|b| *b == 0).next().unwrap_or_default().to_vec());
            }
            Some((name, Attribute::Inline(bytes)))
                if name == "com.apple.decmpfs" && bytes.starts_with(b"fpmc") =>
            {
                self.compressed = le32(bytes, 4).zip(le64(bytes, 8));
            }
            Some((name, Attribute::Extents(id, size))) => self.streams.push((name, id, size)),
            _ => {}
        }
    }
}

/// Returns the contents of a compressed file: the resource fork, or in the attribute.
fn compressed(method: Option<(u32, u64)>, streams: &mut Vec<(String, Data)>) -> Data {
    let (kind, size) = method.unwrap_or_default();
    let fork =
        streams.iter().position(|(name, _)| name == "rsrc").filter(|_| matches!(kind, 4 | 8 | 10 | 12 | 14));
    let place = fork.map_or(Place::Inline(Vec::new()), |i| streams.remove(i).1.place);
    Data { size, place, packed: Some("compressed") }
}

fn no_record(id: u64) -> Damage {
    Damage::Invalid(format!("there is no record of inode {id}"))
}
