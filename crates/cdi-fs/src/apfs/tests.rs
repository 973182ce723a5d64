//! Tests on a container that Linux filled: tests/fixtures/apfs/README.md.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use cdi_base::readable::Readable;

use super::object::checksum_fits;
use crate::file_system::{Kind, Place};
use crate::hfsplus::tests::disk::{Disk, Found, Random};
use crate::hfsplus::tests::{Truth, truth_of, written};

const IMAGE: &[u8] = include_bytes!("../../tests/fixtures/apfs/fixture.packed.zst");
const TRUTH: &str = include_str!("../../tests/fixtures/apfs/fixture.truth");

fn container() -> (Disk, Vec<Truth>) {
    let mut truth = truth_of(TRUTH);
    truth.iter_mut().for_each(|truth| truth.number |= 1 << 56);
    (Disk::unpack(&zstd::decode_all(IMAGE).unwrap()), truth)
}

#[test]
fn all_files_are_found_with_their_contents() {
    let (disk, truth) = container();
    let fs = disk.open().unwrap();
    assert_eq!((fs.name(), fs.label().as_deref(), fs.root()), ("apfs", Some("Fixture"), 0));
    let found = disk.scan();
    let paths = found.paths(0);
    for truth in &truth {
        let path = format!("Fixture/{}", truth.path);
        let number = *paths.get(&path).unwrap_or_else(|| panic!("{path} is missing"));
        let record = &found.records[&number];
        assert_eq!((number, record.kind), (truth.number, truth.kind), "{path}");
        assert_eq!(record.times.modified.map(|t| t / 1_000_000_000), Some(truth.time), "{path}");
        assert!(record.damage.is_none() && !record.internal, "{record:?}");
        match truth.kind {
            Kind::File => {
                let mut want = written(truth.contents, truth.size);
                if truth.path == "dir08/sparse" {
                    for at in (0..want.len()).step_by(4096).filter(|at| at / 4096 % 4 != 0) {
                        let end = want.len().min(at + 4096);
                        want[at..end].fill(0);
                    }
                }
                assert_eq!(record.data.size, truth.size, "{path}");
                assert!(disk.contents(record) == want, "contents of {path}");
            }
            Kind::Link => assert_eq!(record.target.as_deref(), Some(truth.target.as_bytes())),
            _ => assert_eq!(record.data.size, 0),
        }
    }
    assert_eq!(paths.len(), truth.len() + 1, "nothing else but the root of the volume");
    let large = &found.records[&paths["Fixture/dir01/large attribute"]];
    assert_eq!(
        large.streams.iter().map(|(n, d)| (n.as_str(), d.size)).collect::<Vec<_>>(),
        [("large", 9000)]
    );
    assert!(found.lost.is_empty() && found.structures.iter().all(|s| s.damage.is_none()));
}

#[test]
fn records_are_read_again_by_their_handles() {
    let (disk, _) = container();
    let fs = disk.open().unwrap();
    for record in disk.scan().records.values() {
        assert_eq!(fs.record(&disk.volume(), record.handle).as_ref(), Ok(record));
    }
    for handle in [1, 1 << 56, 2 << 56 | 2, u64::MAX, 1 << 56 | 99999] {
        assert!(fs.record(&disk.volume(), handle).is_err(), "{handle}");
    }
}

#[test]
fn free_blocks_are_those_of_no_file() {
    let (disk, _) = container();
    let free = disk.free();
    // The space manager's own count of them.
    let found = disk.scan();
    let manager = found.structures.iter().find(|s| s.what == "space manager").unwrap().at[0].start;
    let mut count = [0; 8];
    disk.raw(&mut count, manager + 72).unwrap();
    assert_eq!(free.iter().map(|r| r.end - r.start).sum::<u64>(), u64::from_le_bytes(count) * 4096);
    assert!(free.windows(2).all(|pair| pair[0].end < pair[1].start), "in order, and merged");
    let runs = found.records.values().flat_map(|r| match &r.data.place {
        Place::Runs(runs) | Place::Units(_, runs) => runs.clone(),
        Place::Inline(_) => Vec::new(),
    });
    let used = runs.filter_map(|run| run.volume.map(|v| v..v + run.len));
    for used in used.chain(found.structures.iter().flat_map(|s| s.at.clone())) {
        let hit = free.iter().find(|free| free.start < used.end && used.start < free.end);
        assert_eq!(hit, None, "{used:?}");
    }
}

/// Returns the blocks of all metadata.
fn metadata(disk: &Disk) -> Vec<u64> {
    let found = disk.scan();
    let at = found.structures.iter().flat_map(|s| s.at.clone());
    let mut blocks: Vec<u64> = at.flat_map(|r| r.start / 4096..r.end.div_ceil(4096)).collect();
    blocks.sort_unstable();
    blocks.dedup();
    blocks
}

/// Checks that each file is known by its record, by its name, or counted as lost, or that all of its volume is.
fn nothing_is_missed(disk: &Disk, whole: &Found, truth: &[Truth], what: &str) -> Found {
    let found = disk.scan();
    let nameless = |n: &&u64| **n & 1 << 55 != 0;
    let counted = found.lost.iter().filter(nameless).count();
    let mut known: HashSet<u64> = found.records.keys().copied().collect();
    known.extend(found.children.iter().map(|c| c.number));
    known.extend(found.lost.iter().filter(|n| !nameless(n)));
    let numbers: HashSet<u64> = truth.iter().map(|t| t.number).collect();
    let missing = numbers.iter().filter(|n| !known.contains(n)).count();
    let all = found.structures.iter().any(|s| {
        s.damage
            .as_ref()
            .is_some_and(|(_, cost)| cost.starts_with("all files") || cost.starts_with("volumes"))
    });
    assert!(missing <= counted || all, "{what}: {missing} are missing, {counted} counted");
    for record in found.records.values().filter(|r| r.damage.is_none()) {
        let want = &whole.records[&record.number];
        assert_eq!((record.kind, record.times, &record.data), (want.kind, want.times, &want.data), "{what}");
    }
    found
}

#[test]
fn each_block_of_metadata_is_bad() {
    let (mut disk, truth) = container();
    let whole = disk.scan();
    let (total, true_free) = (whole.records.len(), disk.free());
    let (mut leaves, mut most) = (0, 0);
    for block in metadata(&disk) {
        disk.spoil(block * 4096..(block + 1) * 4096);
        let what = format!("block {block} is bad");
        let found = nothing_is_missed(&disk, &whole, &truth, &what);
        let lost = total - found.records.len();
        let damaged = found.structures.iter().any(|s| s.damage.is_some());
        assert!(damaged, "{what}: no structure is damaged");
        if found.structures.iter().any(|s| s.what.starts_with("leaf")) {
            leaves += 1;
            most = most.max(lost);
        }
        for free in disk.free() {
            assert!(true_free.iter().any(|r| r.start <= free.start && free.end <= r.end), "{what}: {free:?}");
        }
    }
    println!("{leaves} leaves, of which one costs at most {most} records of {total}");
    assert!(leaves > 10 && most < 40);
}

#[test]
fn damaged_files_are_those_whose_blocks_are_bad() {
    let (mut disk, truth) = container();
    let whole = disk.scan();
    let (_, places) = disk.sparse.clone().unwrap();
    // Blocks are found without looking at metadata.
    let mut owners = std::collections::HashMap::<u32, Vec<u64>>::new();
    for (block, place) in &places {
        let text = &disk.bytes[*place..place + 18];
        if text[8] == b' ' && text[17] == b'\n' {
            let number = std::str::from_utf8(&text[..8]).ok().and_then(|t| t.parse().ok());
            owners.entry(number.unwrap_or(0)).or_default().push(*block);
        }
    }
    let mut blocks: Vec<u64> = places.keys().copied().collect();
    blocks.sort_unstable();
    let mut random = Random(31);
    let (mut damaged, mut lost) = (0, 0);
    for map in 0..1000 {
        let bad = (0..1 + random.below(30)).map(|_| {
            let block = blocks[usize::try_from(random.below(blocks.len() as u64)).unwrap()];
            block * 4096 + 512 * random.below(8)
        });
        disk.bad = bad.filter(|at| *at > 4096).map(|at| at..at + 512).collect();
        disk.bad.sort_by_key(|r| r.start);
        let found = nothing_is_missed(&disk, &whole, &truth, &format!("map {map}"));
        for truth in truth.iter().filter(|t| t.kind == Kind::File) {
            let Some(record) = found.records.get(&truth.number).filter(|r| r.damage.is_none()) else {
                lost += 1;
                continue;
            };
            let hit = |from: u64, to: u64| disk.bad.iter().any(|b| b.start < to && from < b.end);
            let mine = owners.get(&truth.contents);
            let want = mine.is_some_and(|blocks| blocks.iter().any(|b| hit(b * 4096, (b + 1) * 4096)));
            let Place::Runs(runs) = &record.data.place else { panic!("{record:?}") };
            let got = runs.iter().any(|run| run.volume.is_some_and(|v| hit(v, v + run.len)));
            assert_eq!(got, want, "map {map}: {}", truth.path);
            damaged += usize::from(got);
        }
    }
    println!("1000 maps: {damaged} files damaged, the records of {lost} lost");
    assert!(damaged > 1000 && lost > 1000);
}

/// Gives an object the checksum that it must have.
fn seal(block: &mut [u8]) {
    let (mut low, mut high) = (0u64, 0u64);
    for word in block[8..].as_chunks::<4>().0 {
        low = (low + u64::from(u32::from_le_bytes(*word))) % 0xFFFF_FFFF;
        high = (high + low) % 0xFFFF_FFFF;
    }
    let first = 0xFFFF_FFFF - (low + high) % 0xFFFF_FFFF;
    let second = 0xFFFF_FFFF - (low + first) % 0xFFFF_FFFF;
    block[..8].copy_from_slice(&(second << 32 | first).to_le_bytes());
    assert!(checksum_fits(block));
}

#[test]
fn corrupt_metadata_is_survived() {
    let (mut disk, _) = container();
    let whole = disk.scan().reports;
    let (_, places) = disk.sparse.clone().unwrap();
    let blocks: Vec<usize> = metadata(&disk).iter().filter_map(|b| places.get(b).copied()).collect();
    let clean = disk.bytes.clone();
    let mut random = Random(37);
    for round in 0..2000 {
        disk.bytes.copy_from_slice(&clean);
        for _ in 0..1 + random.below(6) {
            let place = blocks[usize::try_from(random.below(blocks.len() as u64)).unwrap()];
            // Most of what counts is at the beginning of a block.
            let most = [128, 512, 4096][usize::try_from(random.below(3)).unwrap()];
            let at = place + usize::try_from(random.below(most)).unwrap();
            let value = [0, 0xFF, 0x7F, 0x80, 1][usize::try_from(random.below(5)).unwrap()];
            let end = (at + [1, 1, 2, 4, 300][usize::try_from(random.below(5)).unwrap()]).min(place + 4096);
            disk.bytes[at..end].fill(value);
            // Else the checksum would find all of it.
            if random.below(8) > 0 {
                seal(&mut disk.bytes[place..place + 4096]);
            }
        }
        let start = Instant::now();
        let Some(fs) = disk.open() else { continue };
        let mut found = Found::default();
        fs.scan(&disk.volume(), &mut found);
        let mut last = 0;
        fs.free(&disk.volume(), &mut |range| {
            assert!(last <= range.start && range.end <= disk.size(), "{range:?}");
            last = range.end;
        });
        for record in found.records.values() {
            let _ = fs.record(&disk.volume(), record.handle);
        }
        // The count of files in a superblock may be anything.
        assert!(found.reports - found.lost.len() < whole * 20, "round {round}: {}", found.reports);
        assert!(start.elapsed() < Duration::from_secs(60), "round {round}: {:?}", start.elapsed());
    }
}

#[test]
fn encrypted_volumes_are_named() {
    let (mut disk, _) = container();
    let found = disk.scan();
    let (_, places) = disk.sparse.clone().unwrap();
    let place = |what: &str, i: usize| {
        let at = found.structures.iter().find(|s| s.what == what).unwrap().at[i].start;
        places[&(at / 4096)]
    };
    let superblock = place("superblock of volume Fixture", 0);
    disk.bytes[superblock + 264] &= !1;
    seal(&mut disk.bytes[superblock..superblock + 4096]);
    let nodes = place("object map of volume Fixture", 1);
    let node = &mut disk.bytes[nodes..nodes + 4096];
    let word = |node: &[u8], at: usize| usize::from(u16::from_le_bytes([node[at], node[at + 1]]));
    for i in 0..word(node, 36) {
        let value = word(node, 56 + word(node, 40) + 4 * i + 2);
        node[4096 - 40 - value] |= 4;
    }
    seal(node);
    let found = disk.scan();
    assert_eq!(found.paths(0).into_keys().collect::<Vec<_>>(), ["Fixture"]);
    let root = &found.records[&(1 << 56 | 2)];
    assert_eq!((root.kind, root.data.packed), (Kind::Directory, Some("encrypted")));
    assert_eq!(found.records.len(), 2);
    assert_eq!(disk.open().unwrap().record(&disk.volume(), root.handle).as_ref(), Ok(root));
    let said = found.structures.iter().any(|s| s.what == "volume Fixture" && s.damage.is_some());
    assert!(said, "{:?}", found.structures);
}
