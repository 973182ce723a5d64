//! Extent trees.
//!
//! Source: Linux, Documentation/filesystems/ext4/ifork.rst and fs/ext4/ext4_extents.h.

use super::checksum::crc32c;
use super::map::Map;
use super::reader::Reader;
use crate::bytes::{array, le16, le32};
use crate::file_system::Damage;

/// The largest depth of a tree.
const MAX_DEPTH: u16 = 5;
/// The size of a header and of an entry in bytes.
const ENTRY: usize = 12;
/// The length from which on an extent is one that was not written.
const UNWRITTEN: u64 = 32768;
/// The block after the last one that a file may have.
const LAST: u64 = 1 << 32;

/// A node of a tree.
struct Node {
    bytes: Vec<u8>,
    count: usize,
    depth: u16,
    /// The next entry to look at.
    at: usize,
    /// The block of the file at which the node ends.
    end: u64,
}

impl Node {
    fn parse(bytes: Vec<u8>, end: u64) -> Option<Node> {
        let (count, max) = (le16(&bytes, 2)?, le16(&bytes, 4)?);
        let room = (bytes.len() - ENTRY) / ENTRY;
        let depth = le16(&bytes, 6)?;
        let valid =
            le16(&bytes, 0)? == 0xf30a && count <= max && usize::from(max) <= room && depth <= MAX_DEPTH;
        valid.then_some(Node { bytes, count: count.into(), depth, at: 0, end })
    }

    fn entry(&self, number: usize) -> Option<[u8; ENTRY]> {
        array(&self.bytes, ENTRY * (1 + number)).filter(|_| number < self.count)
    }

    /// Returns the first block of the file that an entry is about.
    fn first(&self, number: usize) -> Option<u64> {
        le32(&self.entry(number)?, 0).map(u64::from)
    }
}

/// Adds the blocks of the tree whose root is in an inode. `seed` is what the inode's checksums begin with.
pub(super) fn walk(reader: &Reader<'_>, map: &mut Map, root: &[u8], seed: u32) {
    let Some(root) = Node::parse(root.to_vec(), LAST) else {
        return map.lose(0, LAST, Damage::Invalid("its extent tree makes no sense".into()));
    };
    let mut path = vec![root];
    while let Some(node) = path.last_mut() {
        let (Some(entry), Some(from)) = (node.entry(node.at), node.first(node.at)) else {
            path.pop();
            continue;
        };
        let end = node.first(node.at + 1).unwrap_or(node.end).min(node.end);
        node.at += 1;
        if map.is_full() {
            return map.lose(from, LAST, Damage::Invalid("it has too many extents".into()));
        }
        let parsed = if node.depth == 0 {
            extent(reader, map, &entry, from, end)
        } else {
            branch(&entry, from, end, map)
        };
        let child = match parsed {
            Err(what) => {
                // If it does not begin before the next one, it is not known where it begins.
                let start = if from < end { map.next().max(from) } else { map.next() };
                map.lose(start, map.next().max(end), Damage::Invalid(what.into()));
                continue;
            }
            Ok(None) => continue,
            Ok(Some(block)) => block,
        };
        let depth = node.depth - 1;
        if !reader.is_valid(child, 1) {
            map.lose(from, end, Damage::Invalid("a block of its extent tree is not on the volume".into()));
            continue;
        }
        super::structures::join(&mut map.metadata, reader.bytes(child, 1));
        match read(reader, map, child, seed, end) {
            Ok(child) if child.depth == depth => path.push(child),
            Ok(_) => map.lose(from, end, Damage::Invalid("a block of its extent tree makes no sense".into())),
            Err(damage) => {
                map.lost.push((reader.bytes(child, 1), damage.clone()));
                map.lose(from, end, damage);
            }
        }
    }
}

/// Adds an extent.
fn extent(
    reader: &Reader<'_>,
    map: &mut Map,
    entry: &[u8],
    from: u64,
    end: u64,
) -> Result<Option<u64>, &'static str> {
    let field =
        || Some((u64::from(le16(entry, 4)?), u64::from(le16(entry, 6)?) << 32 | u64::from(le32(entry, 8)?)));
    let (len, to) = field().ok_or("an extent is cut")?;
    let (len, unwritten) = if len > UNWRITTEN { (len - UNWRITTEN, true) } else { (len, false) };
    if len == 0 || from < map.next() || from + len > end {
        return Err("its extents are not in order");
    }
    if !reader.is_valid(to, len) {
        return Err("an extent is not on the volume");
    }
    map.add(from, len, to, unwritten);
    Ok(None)
}

/// Returns the block of the node below.
fn branch(entry: &[u8], from: u64, end: u64, map: &Map) -> Result<Option<u64>, &'static str> {
    if from >= end || from < map.next() {
        return Err("its extent tree is not in order");
    }
    let block = le32(entry, 4).zip(le16(entry, 8)).map(|(low, high)| u64::from(high) << 32 | u64::from(low));
    block.map(Some).ok_or("an extent is cut")
}

/// Reads a node. A wrong checksum is noted; what the node says may be right.
fn read(reader: &Reader<'_>, map: &mut Map, block: u64, seed: u32, end: u64) -> Result<Node, Damage> {
    let bytes = reader.block(block)?;
    let invalid = || Damage::Invalid("a block of its extent tree makes no sense".into());
    let node = Node::parse(bytes, end).ok_or_else(invalid)?;
    if reader.sb.metadata_csum() {
        let tail = ENTRY * (1 + le16(&node.bytes, 4).map_or(0, usize::from));
        let right = node.bytes.get(..tail).map(|b| crc32c(seed, &[b]));
        if right.is_none() || right != le32(&node.bytes, tail) {
            map.spoil(Damage::Invalid("the checksum of a block of its extent tree is wrong".into()));
        }
    }
    Ok(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ext::superblock::{Superblock, tests::made};
    use crate::file_system::Run;
    use crate::volume::Volume;

    /// A run in blocks: of the file, their number, of the volume.
    type Blocks = (u64, u64, Option<u64>);

    fn node(depth: u16, entries: &[[u32; 3]]) -> Vec<u8> {
        let count = u16::try_from(entries.len()).unwrap();
        let head = [0xf30a, count, 4, depth, 0, 0];
        let mut bytes: Vec<u8> = head.into_iter().flat_map(u16::to_le_bytes).collect();
        bytes.extend(entries.iter().flatten().copied().flat_map(u32::to_le_bytes));
        bytes.resize(60, 0);
        bytes
    }

    /// An extent: its first block, its length, its first block on the volume.
    fn leaf(from: u32, len: u32, to: u32) -> [u32; 3] {
        [from, len, to]
    }

    fn branch(from: u32, block: u32) -> [u32; 3] {
        [from, block, 0]
    }

    /// Walks a tree of a file of 100 blocks. `blocks` are those of the volume.
    fn walked(root: &[u8], blocks: &[(usize, Vec<u8>)]) -> (Vec<Blocks>, bool, usize) {
        let sb = Superblock::parse(&made(), false).unwrap();
        let mut disk = vec![0; 32 * 4096];
        for (block, bytes) in blocks {
            disk[block * 4096..][..60].copy_from_slice(bytes);
        }
        let reader = Reader::new(&sb, &Volume::new(&disk, 0..32 * 4096));
        let mut map = Map::new(&reader, 100, false);
        walk(&reader, &mut map, root, 0);
        map.finish();
        let run = |r: &Run| (r.file / 4096, r.len / 4096, r.volume.map(|v| v / 4096));
        (map.runs.iter().map(run).collect(), map.damage.is_some(), map.metadata.len())
    }

    #[test]
    fn what_is_between_extents_is_a_hole() {
        let (runs, damaged, _) = walked(&node(0, &[leaf(2, 3, 50), leaf(10, 90, 200)]), &[]);
        assert_eq!(runs, [(0, 2, None), (2, 3, Some(50)), (5, 5, None), (10, 90, Some(200))]);
        assert!(!damaged);
        let (runs, damaged, _) = walked(&node(0, &[]), &[]);
        assert_eq!((runs, damaged), (vec![(0, 100, None)], false));
    }

    #[test]
    fn extents_that_make_no_sense_are_lost_alone() {
        for wrong in [leaf(20, 0, 60), leaf(20, 50, 60), leaf(70, 5, 60), leaf(20, 5, 99_999), leaf(20, 5, 0)]
        {
            let (runs, damaged, _) = walked(&node(0, &[leaf(0, 10, 50), wrong, leaf(40, 60, 200)]), &[]);
            let known: Vec<_> = runs.iter().filter(|r| r.2.is_some()).copied().collect();
            assert_eq!(known, [(0, 10, Some(50)), (40, 60, Some(200))], "{wrong:?}");
            assert!(damaged, "{wrong:?}");
        }
    }

    #[test]
    fn a_lost_block_of_the_tree_is_no_hole() {
        let root = node(1, &[branch(0, 5), branch(30, 1000), branch(60, 6)]);
        let blocks = [(5, node(0, &[leaf(0, 10, 50)])), (6, node(0, &[leaf(70, 30, 90)]))];
        let (runs, damaged, metadata) = walked(&root, &blocks);
        assert_eq!(runs, [(0, 10, Some(50)), (10, 20, None), (60, 10, None), (70, 30, Some(90))]);
        assert_eq!((damaged, metadata), (true, 3));
    }

    #[test]
    fn loops_end() {
        let root = node(5, &[branch(0, 5)]);
        let around = |depth| node(depth, &[branch(0, 5), branch(1, 5), branch(2, 5)]);
        for depth in 0..6 {
            let (runs, damaged, _) = walked(&root, &[(5, around(depth))]);
            assert!(damaged && runs.iter().all(|r| r.2.is_none() || depth == 0), "{depth}");
        }
        assert!(walked(&[0xff; 60], &[]).1);
    }
}
