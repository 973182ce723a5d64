//! Block maps: direct blocks, and blocks of numbers of blocks (ext2, ext3).
//!
//! Source: Linux, Documentation/filesystems/ext4/ifork.rst, "Direct/Indirect Block Addressing".

use super::map::Map;
use super::reader::Reader;
use super::structures::join;
use crate::bytes::le32;
use crate::file_system::Damage;

/// The number of direct blocks in an inode.
const DIRECT: u64 = 12;

/// A block of numbers.
struct Node {
    bytes: Vec<u8>,
    next: u64,
    /// How many levels of blocks are below; 0: the numbers are those of the file's blocks.
    level: u32,
    /// The first block of the file that it is about.
    from: u64,
}

/// Adds the blocks of a block map, whose 15 numbers are in an inode.
pub(super) fn walk(reader: &Reader<'_>, map: &mut Map, numbers: &[u8]) {
    let per = reader.sb.block / 4;
    for number in 0..DIRECT {
        direct(reader, map, number, pointer(numbers, number));
    }
    let mut from = DIRECT;
    for level in 0..3 {
        tree(reader, map, pointer(numbers, DIRECT + u64::from(level)), level, from);
        from += per.pow(level + 1);
    }
}

fn pointer(bytes: &[u8], number: u64) -> u64 {
    usize::try_from(number).ok().and_then(|n| le32(bytes, n * 4)).map_or(0, u64::from)
}

fn direct(reader: &Reader<'_>, map: &mut Map, from: u64, block: u64) {
    if block == 0 || from >= map.end() || map.is_full() {
        return;
    }
    match reader.is_valid(block, 1) {
        true => map.add(from, 1, block, false),
        false => map.lose(from, from + 1, Damage::Invalid("a block is not on the volume".into())),
    }
}

/// Adds the blocks below a block of numbers.
fn tree(reader: &Reader<'_>, map: &mut Map, top: u64, level: u32, from: u64) {
    let per = reader.sb.block / 4;
    let mut path = Vec::new();
    open(reader, map, &mut path, top, level, from);
    while let Some(node) = path.last_mut() {
        let span = per.pow(node.level);
        let from = node.from + node.next * span;
        if node.next == per || from >= map.end() || map.is_full() {
            path.pop();
            continue;
        }
        let block = pointer(&node.bytes, node.next);
        node.next += 1;
        match node.level {
            0 => direct(reader, map, from, block),
            level => open(reader, map, &mut path, block, level - 1, from),
        }
    }
    if map.is_full() {
        map.lose(map.next(), map.end(), Damage::Invalid("it has too many runs".into()));
    }
}

/// Reads a block of numbers, if there is one and the file is as long.
fn open(reader: &Reader<'_>, map: &mut Map, path: &mut Vec<Node>, block: u64, level: u32, from: u64) {
    if block == 0 || from >= map.end() {
        return;
    }
    let end = from + (reader.sb.block / 4).pow(level + 1);
    if !reader.is_valid(block, 1) {
        return map.lose(from, end, Damage::Invalid("a block of its block map is not on the volume".into()));
    }
    join(&mut map.metadata, reader.bytes(block, 1));
    match reader.block(block) {
        Ok(bytes) => path.push(Node { bytes, next: 0, level, from }),
        Err(damage) => {
            map.lost.push((reader.bytes(block, 1), damage.clone()));
            map.lose(from, end, damage);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ext::superblock::{Superblock, tests::made};
    use crate::volume::Volume;

    fn walked(numbers: [u32; 15], disk: &Vec<u8>, end: u64) -> Map {
        let sb = Superblock::parse(&made(), false).unwrap();
        let reader = Reader::new(&sb, &Volume::new(disk, 0..disk.len() as u64));
        let mut map = Map::new(&reader, end, false);
        let bytes: Vec<u8> = numbers.into_iter().flat_map(u32::to_le_bytes).collect();
        walk(&reader, &mut map, &bytes);
        map.finish();
        map
    }

    fn block(disk: &mut [u8], block: usize, numbers: &[u32]) {
        for (n, number) in numbers.iter().enumerate() {
            disk[block * 4096 + n * 4..][..4].copy_from_slice(&number.to_le_bytes());
        }
    }

    #[test]
    fn blocks_of_all_levels_are_followed() {
        let mut disk = vec![0; 16 * 4096];
        block(&mut disk, 5, &[100, 101]);
        block(&mut disk, 6, &[0, 7]);
        block(&mut disk, 7, &[200]);
        let mut numbers = [0; 15];
        (numbers[0], numbers[12], numbers[13]) = (50, 5, 6);
        let map = walked(numbers, &disk, 12 + 1024 + 1025);
        let runs: Vec<_> =
            map.runs.iter().map(|r| (r.file / 4096, r.len / 4096, r.volume.map(|v| v / 4096))).collect();
        let expected = [
            (0, 1, Some(50)),
            (1, 11, None),
            (12, 2, Some(100)),
            (14, 2046, None),
            (12 + 2048, 1, Some(200)),
        ];
        assert_eq!(runs, expected);
        assert!(map.damage.is_none());
        assert_eq!((map.metadata.len(), map.metadata[0].clone()), (1, 5 * 4096..8 * 4096));
    }

    #[test]
    fn lost_blocks_are_no_holes_and_loops_end() {
        let mut numbers = [0; 15];
        numbers[12] = 99;
        let map = walked(numbers, &vec![0; 16 * 4096], 5000);
        assert_eq!(map.runs.iter().map(|r| r.len / 4096).collect::<Vec<_>>(), [12, 5000 - 12 - 1024]);
        assert_eq!((map.damage.is_some(), map.lost.len()), (true, 1));
        // A block that names itself everywhere.
        let mut disk = vec![0; 16 * 4096];
        block(&mut disk, 5, &[5; 1024]);
        let map = walked([5; 15], &disk, 1 << 32);
        assert!(map.damage.is_some() && map.runs.len() <= crate::file_system::MAX_RUNS);
    }
}
