//! On intact volumes of all sorts, everything is found as it is.

use cdi_base::readable::Readable;

use super::truth::{self, Tree, join};
use super::volumes::filled;
use super::{Disk, Seen, free, open, scan};
use crate::file_system::{Kind, Place, Record};
use crate::volume::Volume;

/// Options of mke2fs.
const SORTS: &[&str] = &[
    "-t ext2 -b 1024",
    "-t ext2 -b 4096 -g 2048",
    "-t ext2 -b 1024 -r 0",
    "-t ext2 -b 1024 -I 128 -O ^sparse_super,^resize_inode",
    "-t ext2 -b 1024 -O ^filetype",
    "-t ext3 -b 2048 -g 4096",
    "-t ext4 -b 1024",
    "-t ext4 -b 2048 -g 4096",
    "-t ext4 -b 4096 -g 2048",
    "-t ext4 -b 4096 -I 1024",
    "-t ext4 -b 1024 -I 128",
    "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg",
    "-t ext4 -b 1024 -O ^metadata_csum,^uninit_bg",
    "-t ext4 -b 1024 -O ^64bit",
    "-t ext4 -b 1024 -O ^extents,^64bit",
    "-t ext4 -b 1024 -O ^flex_bg",
    "-t ext4 -b 1024 -O inline_data",
    "-t ext4 -b 4096 -I 512 -O inline_data,^has_journal",
    "-t ext4 -b 1024 -O bigalloc -C 8192",
    "-t ext4 -b 4096 -O bigalloc -C 16384",
    "-t ext4 -b 1024 -O meta_bg,^resize_inode",
    "-t ext4 -b 1024 -O meta_bg,^resize_inode,^flex_bg,^64bit",
    "-t ext4 -b 1024 -O sparse_super2",
    "-t ext4 -b 1024 -O sparse_super2,^resize_inode -E num_backup_sb=1",
    "-t ext4 -b 1024 -O mmp,ea_inode,large_dir",
    "-t ext4 -b 1024 -O verity,encrypt,orphan_file,stable_inodes",
    "-t ext4 -b 1024 -G 4 -E lazy_itable_init=0",
    "-t ext4 -b 1024 -G 4 -O metadata_csum_seed,^uninit_bg",
];

#[test]
fn all_files_are_found() {
    // Most of the time is spent waiting for the disk.
    std::thread::scope(|scope| {
        for part in SORTS.chunks(SORTS.len().div_ceil(6)) {
            scope.spawn(move || part.iter().for_each(|sort| all_is_found(sort)));
        }
    });
}

fn all_is_found(sort: &str) {
    let Some(made) = filled(64, sort) else { return };
    let tree = truth::of(&made);
    made.finish();
    let disk = Disk::new(made.bytes());
    let seen = scan(&disk).unwrap();
    assert_eq!(seen.damaged(), Vec::<&crate::file_system::Structure>::new(), "{sort}");
    assert!(seen.lost.is_empty(), "{sort}: {:?}", seen.lost);
    compare(&tree, &seen, &disk, sort);
    again(&seen, &disk, sort);
    let block = u64::from(open(&disk).unwrap().block_size());
    assert_eq!(free(&disk), truth::free(&made, block), "{sort}");
}

/// Compares what was found with the truth.
pub(super) fn compare(tree: &Tree, seen: &Seen, disk: &Disk, sort: &str) {
    let mut names: Vec<_> =
        seen.children.iter().map(|c| (c.name.parent, c.name.name.clone(), c.number)).collect();
    names.sort();
    assert_eq!(names, tree.names, "{sort}");
    let numbers = |kinds: bool| -> Vec<u64> {
        if kinds {
            tree.files.keys().copied().collect()
        } else {
            seen.records.values().filter(|r| !r.internal).map(|r| r.number).collect()
        }
    };
    assert_eq!(numbers(false), numbers(true), "{sort}");
    for (number, truth) in &tree.files {
        let record = &seen.records[number];
        let what = format!("{sort}: {}", truth.path.display());
        assert_eq!((record.kind, &record.damage), (truth.kind, &None), "{what}");
        assert_eq!((record.data.size, &record.target), (truth.size, &truth.target), "{what}");
        let times = (record.times.modified, record.times.changed);
        // Small inodes have no nanoseconds; the kernel remembers them until it forgets the inode.
        if record.times.created.is_some_and(|t| t > 0) {
            assert_eq!(times, (Some(truth.modified), Some(truth.changed)), "{what}");
        }
        for child in seen.children.iter().filter(|c| c.number == *number) {
            assert!(child.kind.is_none_or(|kind| kind == truth.kind), "{what}");
        }
        if truth.kind == Kind::File {
            if !truth.content.is_empty() {
                assert!(content(record, disk) == truth.content, "{what}: {record:?}");
            }
            runs(record, truth.runs.as_deref(), &what);
        }
    }
}

fn runs(record: &Record, truth: Option<&[crate::file_system::Run]>, what: &str) {
    match (&record.data.place, truth) {
        (Place::Runs(found), Some(truth)) => {
            // All of the file is known, and what lies after its end is left out.
            let end = found.iter().fold(0, |end, run| {
                assert_eq!(run.file, end, "{what}");
                run.file + run.len
            });
            assert!(end >= record.data.size, "{what}");
            let cut = truth.iter().filter(|r| r.file < end);
            let cut = cut.map(|r| crate::file_system::Run { len: r.len.min(end - r.file), ..*r });
            assert_eq!(join(found.iter().copied()), join(cut), "{what}");
        }
        (Place::Units(..), _) => panic!("{what}"),
        (Place::Inline(_), None) => {}
        (Place::Runs(found), None) => assert!(found.is_empty(), "{what}"),
        (Place::Inline(_), Some(truth)) => assert!(truth.is_empty(), "{what}"),
    }
}

/// Returns the contents of a file as the record says they are.
pub(super) fn content(record: &Record, disk: &Disk) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(record.data.size).unwrap()];
    match &record.data.place {
        Place::Inline(inline) => bytes.copy_from_slice(inline),
        Place::Runs(runs) | Place::Units(_, runs) => {
            for run in runs.iter().filter(|run| !run.unwritten) {
                let Some(volume) = run.volume else { continue };
                let from = usize::try_from(run.file).unwrap();
                let to = usize::try_from(run.file + run.len).unwrap().min(bytes.len());
                disk.read(&mut bytes[from..to], volume).unwrap();
            }
        }
    }
    bytes
}

/// Reads each record again.
fn again(seen: &Seen, disk: &Disk, sort: &str) {
    let fs = open(disk).unwrap();
    let volume = Volume::new(disk, 0..disk.size());
    for record in seen.records.values() {
        assert_eq!(fs.record(&volume, record.handle).as_ref(), Ok(record), "{sort}");
    }
    for none in [0, 3000, u64::MAX] {
        assert!(fs.record(&volume, none).is_err());
    }
}
