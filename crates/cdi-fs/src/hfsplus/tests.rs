//! Tests on volumes that Linux filled: tests/fixtures/hfsplus/README.md.

mod damage;
pub(crate) mod disk;
mod programs;

use std::collections::HashMap;

use self::disk::Disk;
use crate::file_system::{Kind, Place, Record};

const PLAIN: (&[u8], &str) = (
    include_bytes!("../../tests/fixtures/hfsplus/plain.img.zst"),
    include_str!("../../tests/fixtures/hfsplus/plain.truth"),
);
const SMALL: (&[u8], &str) = (
    include_bytes!("../../tests/fixtures/hfsplus/small.img.zst"),
    include_str!("../../tests/fixtures/hfsplus/small.truth"),
);

/// A file that is known to be on a volume.
pub(crate) struct Truth {
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    pub(crate) size: u64,
    pub(crate) contents: u32,
    pub(crate) time: i64,
    pub(crate) path: String,
    pub(crate) target: String,
}

fn volume(fixture: (&[u8], &str)) -> (Disk, Vec<Truth>) {
    (Disk::new(zstd::decode_all(fixture.0).unwrap()), truth_of(fixture.1))
}

/// Reads what fill.py printed.
pub(crate) fn truth_of(text: &str) -> Vec<Truth> {
    let truth = text.lines().map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        let kind = match fields[1] {
            "dir" => Kind::Directory,
            "link" => Kind::Link,
            _ => Kind::File,
        };
        Truth {
            number: fields[0].parse().unwrap(),
            kind,
            size: fields[2].parse().unwrap(),
            contents: fields[3].parse().unwrap(),
            time: fields[4].parse().unwrap(),
            path: fields[5].to_owned(),
            target: fields[6].to_owned(),
        }
    });
    let mut truth: Vec<Truth> = truth.collect();
    // The contents of a file are known by the name that it was written under: the others are links to it.
    let mut contents = HashMap::<u64, u32>::new();
    for truth in &truth {
        let known = contents.entry(truth.number).or_default();
        *known = truth.contents.max(*known);
    }
    truth.iter_mut().for_each(|truth| truth.contents = contents[&truth.number]);
    truth
}

/// Returns what fill.py wrote.
pub(crate) fn written(number: u32, size: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let size = usize::try_from(size).unwrap();
    for block in 0..size.div_ceil(4096) {
        let mut unit = format!("{number:08} {block:08}\n").into_bytes();
        unit.resize(4096, b'.');
        bytes.extend(unit);
    }
    bytes.truncate(size);
    bytes
}

/// Returns whether a file was made a compressed one, which Linux does not know.
fn is_compressed(truth: &Truth) -> bool {
    truth.path.starts_with("dir01/compressed")
}

fn same_as_truth(disk: &Disk, record: &Record, truth: &Truth) {
    let path = &truth.path;
    assert_eq!((record.kind, record.number), (truth.kind, truth.number), "{path}");
    assert_eq!(record.times.modified, Some(truth.time * 1_000_000_000), "{path}");
    assert_eq!(record.damage, None, "{path}");
    assert!(!record.internal, "{path}");
    if is_compressed(truth) {
        return;
    }
    assert_eq!(record.data.size, truth.size, "{path}");
    match truth.kind {
        Kind::Link => assert_eq!(record.target.as_deref(), Some(truth.target.as_bytes()), "{path}"),
        Kind::File => {
            assert!(disk.contents(record) == written(truth.contents, truth.size), "contents of {path}");
        }
        _ => {}
    }
}

#[test]
fn all_files_are_found_with_their_contents() {
    for fixture in [PLAIN, SMALL] {
        let (disk, truth) = volume(fixture);
        let fs = disk.open().unwrap();
        assert_eq!((fs.label().as_deref(), fs.root()), (Some("Fixture"), 2));
        let found = disk.scan();
        let paths = found.paths(fs.root());
        for truth in &truth {
            let number = paths.get(&truth.path).unwrap_or_else(|| panic!("{} is missing", truth.path));
            same_as_truth(&disk, &found.records[number], truth);
        }
        let private = paths.keys().filter(|p| p.contains("HFS+ Private")).count();
        assert_eq!(paths.len(), truth.len() + private, "nothing else");
        assert_eq!(private, 1, "the directory for what hard links point to");
        assert!(found.lost.is_empty() && found.structures.iter().all(|s| s.damage.is_none()));
    }
}

#[test]
fn what_only_macos_makes_is_found() {
    for fixture in [PLAIN, SMALL] {
        let (disk, _) = volume(fixture);
        let found = disk.scan();
        let paths = found.paths(2);
        let record = |path: &str| &found.records[&paths[path]];
        let [inside, resource] = [record("dir01/compressed3"), record("dir01/compressed4")];
        assert_eq!((inside.data.size, inside.data.packed), (12345, Some("compressed")));
        assert_eq!((resource.data.size, resource.data.packed), (12346, Some("compressed")));
        assert_eq!(inside.data.place, Place::Inline(Vec::new()));
        let Place::Runs(runs) = &resource.data.place else { panic!("{resource:?}") };
        assert_eq!(runs.iter().map(|r| r.len).sum::<u64>().next_multiple_of(4096), 8192);
        let internal: Vec<_> = found.records.values().filter(|r| r.internal).map(|r| &r.names).collect();
        assert_eq!(internal.len(), 1, "{internal:?}");
    }
}

#[test]
fn records_are_read_again_by_their_handles() {
    for fixture in [PLAIN, SMALL] {
        let (disk, _) = volume(fixture);
        let fs = disk.open().unwrap();
        for record in disk.scan().records.values() {
            assert_eq!(fs.record(&disk.volume(), record.handle).as_ref(), Ok(record));
        }
        for handle in [0, 1, 4096, u64::MAX, 1 << 40, (1 << 62) - 1] {
            assert!(fs.record(&disk.volume(), handle).is_err(), "{handle}");
        }
    }
}

#[test]
fn free_blocks_are_those_of_no_file() {
    for (fixture, free_blocks) in [(PLAIN, 1071), (SMALL, 5504)] {
        let (disk, _) = volume(fixture);
        let unit = u64::from(disk.open().unwrap().block_size());
        let free = disk.free();
        assert_eq!(free.iter().map(|r| r.end - r.start).sum::<u64>(), free_blocks * unit);
        assert!(free.windows(2).all(|pair| pair[0].end < pair[1].start), "in order, and merged");
        let found = disk.scan();
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
}

#[test]
fn a_volume_in_a_wrapper_is_found() {
    let (disk, truth) = volume(PLAIN);
    // A master directory block: its blocks are of 4 KiB and begin at sector 8; the volume is from block 3 on.
    let start = 8 * 512 + 3 * 4096;
    let mut bytes = vec![0; start];
    bytes[1024..1026].copy_from_slice(b"BD");
    bytes[1024 + 20..1024 + 24].copy_from_slice(&4096u32.to_be_bytes());
    bytes[1024 + 28..1024 + 30].copy_from_slice(&8u16.to_be_bytes());
    bytes[1024 + 124..1024 + 126].copy_from_slice(b"H+");
    bytes[1024 + 126..1024 + 128].copy_from_slice(&3u16.to_be_bytes());
    let blocks = u16::try_from(disk.bytes.len() / 4096).unwrap();
    bytes[1024 + 128..1024 + 130].copy_from_slice(&blocks.to_be_bytes());
    bytes.extend_from_slice(&disk.bytes);
    bytes.extend([0; 4096]);
    let wrapped = Disk::new(bytes);
    let (inner, outer) = (disk.scan(), wrapped.scan());
    let paths: HashMap<_, _> = outer.paths(2);
    for truth in &truth {
        same_as_truth(&wrapped, &outer.records[&paths[&truth.path]], truth);
    }
    assert_eq!(inner.records.len(), outer.records.len());
    let moved = disk.free().into_iter().map(|r| r.start + start as u64..r.end + start as u64);
    assert_eq!(wrapped.free(), moved.collect::<Vec<_>>());
}
