//! On damaged volumes nothing is missed, whatever is bad or wrong.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::truth::{self, Tree};
use super::volumes::{filled, make};
use super::{Disk, Random, Seen, free, open, scan};
use crate::file_system::{Kind, Place, Record};
use crate::volume::Volume;

/// Returns the bytes of a volume that are metadata: structures, inodes, blocks of maps and of directories.
fn metadata(seen: &Seen) -> Vec<Range<u64>> {
    let mut found: Vec<Range<u64>> = seen.structures.iter().flat_map(|s| s.at.clone()).collect();
    for record in seen.records.values() {
        found.extend(record.metadata.clone());
        if matches!(record.kind, Kind::Directory | Kind::Link) {
            found.extend(blocks(record));
        }
    }
    found.sort_by_key(|range| range.start);
    found
}

fn blocks(record: &Record) -> Vec<Range<u64>> {
    match &record.data.place {
        Place::Inline(_) => Vec::new(),
        Place::Runs(runs) | Place::Units(_, runs) => {
            runs.iter().filter_map(|r| r.volume.map(|v| v..v + r.len)).collect()
        }
    }
}

/// Checks that each file and each name is there, or is said to be lost.
fn nothing_is_missed(tree: &Tree, seen: &Seen, what: &str) {
    for number in tree.files.keys() {
        let known = seen.records.contains_key(number) || seen.lost.contains_key(number);
        assert!(known, "{what}: inode {number} is missed");
        assert!(seen.lost.get(number).is_none_or(|(used, _)| *used != Some(false)), "{what}: {number}");
    }
    let found: BTreeSet<(u64, &str, u64)> =
        seen.children.iter().map(|c| (c.name.parent, c.name.name.as_str(), c.number)).collect();
    for (parent, name, number) in &tree.names {
        let named = found.contains(&(*parent, name.as_str(), *number));
        let cost = format!("names of an unknown number of files in directory {parent}");
        let said = seen.damaged().iter().any(|s| s.damage.as_ref().is_some_and(|(_, c)| *c == cost));
        let lost = seen.lost.contains_key(parent);
        assert!(named || said || lost, "{what}: {name} in {parent} is missed");
    }
    let truth: BTreeSet<(u64, &str, u64)> = tree.names.iter().map(|(p, n, i)| (*p, n.as_str(), *i)).collect();
    // Behind a bad sector, an entry that was deleted may be taken for the lost name of a file that has its number now.
    let has_its_name = |number: u64| truth.iter().any(|t| t.2 == number && found.contains(t));
    let wrong: Vec<_> = found.difference(&truth).filter(|name| has_its_name(name.2)).collect();
    assert!(wrong.is_empty(), "{what}: {wrong:?}");
}

/// Checks that no block is called free that is not.
fn free_is_free(truth: &[Range<u64>], found: &[Range<u64>], what: &str) {
    for range in found {
        let inside = truth.iter().any(|t| t.start <= range.start && t.end >= range.end);
        assert!(inside, "{what}: {range:?} is not free");
    }
}

/// The options of mke2fs for the volumes that are damaged.
const SORTS: &[&str] = &[
    "-t ext4 -b 1024 -N 4096",
    "-t ext2 -b 1024 -N 4096",
    "-t ext4 -b 1024 -N 4096 -O inline_data,meta_bg,^resize_inode,^metadata_csum",
    "-t ext4 -b 4096 -g 2048 -N 4096 -O ^flex_bg",
];

#[test]
fn each_block_of_metadata_may_be_bad() {
    for sort in SORTS {
        let Some(made) = filled(32, sort) else { continue };
        let tree = truth::of(&made);
        made.finish();
        let mut disk = Disk::new(made.bytes());
        let seen = scan(&disk).unwrap();
        let fr = free(&disk);
        let block = u64::from(open(&disk).unwrap().block_size());
        let mut places: Vec<u64> = metadata(&seen)
            .iter()
            .flat_map(|r| (r.start / block..r.end.div_ceil(block)).collect::<Vec<_>>())
            .collect();
        places.dedup();
        println!("{sort}: {} blocks of metadata", places.len());
        for place in places {
            for size in [block, 512] {
                disk.bad = std::iter::once(place * block..place * block + size).collect();
                let what = format!("{sort}: {size} bytes of block {place} are bad");
                let seen = scan(&disk).expect(&what);
                nothing_is_missed(&tree, &seen, &what);
                free_is_free(&fr, &free(&disk), &what);
            }
        }
    }
}

#[test]
fn damaged_files_are_those_with_bad_blocks() {
    let Some(made) = filled(32, "-t ext4 -b 1024 -N 4096") else { return };
    let tree = truth::of(&made);
    made.finish();
    let mut disk = Disk::new(made.bytes());
    let fr = free(&disk);
    let mut random = Random::new(11);
    let size = disk.bytes.len() as u64 / 512;
    let mut hit = 0;
    for map in 0..1000 {
        disk.bad = (0..1 + random.below(60))
            .map(|_| {
                let at = random.below(size) * 512;
                at..at + 512 * (1 + random.below(64))
            })
            .collect();
        // The superblock alone is bad in another test.
        disk.bad.retain(|bad| bad.start >= 4096);
        let what = format!("map {map}");
        let seen = scan(&disk).expect(&what);
        nothing_is_missed(&tree, &seen, &what);
        free_is_free(&fr, &free(&disk), &what);
        let is_bad = |range: &Range<u64>| disk.bad.iter().any(|b| b.start < range.end && b.end > range.start);
        for (number, truth) in tree.files.iter().filter(|(_, t)| t.kind == Kind::File) {
            let Some(record) = seen.records.get(number) else { continue };
            let end = truth.size.next_multiple_of(1024);
            let runs = truth.runs.iter().flatten().filter(|r| r.file < end && !r.unwritten);
            let mut truly = runs.filter_map(|r| r.volume.map(|v| v..v + r.len.min(end - r.file)));
            let truly = truly.any(|r| is_bad(&r));
            let written = |r: &&crate::file_system::Run| !r.unwritten;
            let Place::Runs(runs) = &record.data.place else { panic!("{what}") };
            let found =
                runs.iter().filter(written).any(|r| r.volume.is_some_and(|v| is_bad(&(v..v + r.len))));
            assert!(truly == found || (truly && record.damage.is_some()), "{what}: {}", truth.path.display());
            hit += u32::from(truly);
        }
    }
    assert!(hit > 1000, "{hit}");
}

#[test]
fn corrupt_metadata_is_survived() {
    for (sort, rounds) in [(SORTS[0], 1000), (SORTS[1], 500), (SORTS[2], 500)] {
        let Some(made) = filled(32, sort) else { continue };
        made.finish();
        let intact = Disk::new(made.bytes());
        let places = metadata(&scan(&intact).unwrap());
        let all = scan(&intact).unwrap().records.len();
        let mut random = Random::new(5);
        let mut disk = intact.clone();
        for round in 0..rounds {
            let mut changed = Vec::new();
            for _ in 0..1 + random.below(40) {
                let place = &places[usize::try_from(random.below(places.len() as u64)).unwrap()];
                let mut at = usize::try_from(place.start + random.below(place.end - place.start)).unwrap();
                if random.below(3) == 0 {
                    at =
                        usize::try_from(place.start + random.below(64.min(place.end - place.start))).unwrap();
                }
                changed.push(at);
                disk.bytes[at] = random.below(256).to_le_bytes()[0];
            }
            let begun = Instant::now();
            survive(&disk, &mut random, all);
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "{sort}: round {round}: {:?}",
                begun.elapsed()
            );
            for at in changed {
                disk.bytes[at] = intact.bytes[at];
            }
        }
    }
}

fn survive(disk: &Disk, random: &mut Random, all: usize) {
    let Some(seen) = scan(disk) else { return };
    let runs: usize = seen.records.values().map(|r| blocks(r).len() + r.metadata.len()).sum();
    assert!(
        runs < 4_000_000 && seen.records.len() < all + 5000,
        "{runs} runs, {} records",
        seen.records.len()
    );
    free(disk);
    if let Some(fs) = open(disk) {
        let volume = Volume::new(disk, 0..disk.bytes.len() as u64);
        for _ in 0..10 {
            let _ = fs.record(&volume, random.below(5000));
        }
    }
}

/// Counts what is reported.
#[derive(Default)]
struct Count(u64);

impl crate::file_system::Visitor for Count {
    fn record(&mut self, _: Record) -> bool {
        self.0 += 1;
        true
    }

    fn child(&mut self, _: crate::file_system::Child) -> bool {
        self.0 += 1;
        true
    }

    fn lost_record(&mut self, _: u64, _: Range<u64>, _: Option<bool>, _: crate::file_system::Damage) -> bool {
        self.0 += 1;
        true
    }

    fn structure(&mut self, _: crate::file_system::Structure) -> bool {
        self.0 += 1;
        true
    }
}

#[test]
fn superblocks_that_lie_cost_no_time() {
    let Some(made) = make(8, "-t ext4 -b 1024 -O ^metadata_csum,^uninit_bg") else { return };
    let mut disk = Disk::new(made.bytes());
    let intact = disk.bytes[1024..2048].to_vec();
    let mut random = Random::new(3);
    let mut opened = 0;
    for round in 0..1000 {
        disk.bytes[1024..2048].copy_from_slice(&intact);
        let mut put =
            |at: usize, value: u32| disk.bytes[1024 + at..][..4].copy_from_slice(&value.to_le_bytes());
        let group_blocks = 8_u32 << random.below(14);
        let group_inodes = (1_u32 << random.below(17)).min(group_blocks * 4);
        let groups = 1_u32 << random.below(22);
        put(0x4, groups.saturating_mul(group_blocks).saturating_add(1));
        put(0x14, 1);
        put(0x20, group_blocks);
        put(0x28, group_inodes);
        put(0, groups.saturating_mul(group_inodes));
        let bit = |random: &mut Random| 1_u32 << random.below(18);
        put(0x5c, 0x4 | if random.below(2) == 0 { 0x200 } else { 0 });
        put(0x60, 0x2c2 | bit(&mut random) | bit(&mut random));
        put(0x64, bit(&mut random) & !0x400);
        put(0x104, u32::try_from(random.below(100)).unwrap());
        put(0x174, u32::try_from(random.below(40)).unwrap());
        put(0x24c, u32::try_from(random.below(3)).unwrap());
        let Some(fs) = open(&disk) else { continue };
        opened += 1;
        let volume = Volume::new(&disk, 0..disk.bytes.len() as u64);
        let begun = Instant::now();
        let mut count = Count::default();
        fs.scan(&volume, &mut count);
        fs.free(&volume, &mut |_| {});
        assert!(begun.elapsed() < Duration::from_secs(10), "round {round}: {:?}", begun.elapsed());
        assert!(count.0 < 5_000_000, "round {round}: {}", count.0);
    }
    assert!(opened > 200, "{opened}");
}
