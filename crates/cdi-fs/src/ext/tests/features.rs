//! What the kernel does not make in the other tests: checked by hand, with debugfs.

use std::collections::BTreeMap;

use super::volumes::{content, filled, make, run};
use super::whole::content as contents;
use super::{Disk, scan, superblock_of};
use crate::file_system::{Damage, Kind, Place};

#[test]
fn names_are_those_of_blkid() {
    for (options, name) in [
        ("-t ext2 -L label", "ext2"),
        ("-t ext3 -L label", "ext3"),
        ("-t ext4 -L label", "ext4"),
        ("-t ext4 -L label -O ^has_journal", "ext4"),
    ] {
        let Some(made) = make(16, options) else { continue };
        let fs = super::open(&Disk::new(made.bytes())).unwrap();
        assert_eq!((fs.name(), fs.label().as_deref(), fs.root()), (name, Some("label"), 2));
        let blkid = run("blkid", &["-o", "value", "-s", "TYPE", made.image().to_str().unwrap()]);
        assert!(blkid.is_none_or(|found| found.trim() == name));
    }
}

#[test]
fn inodes_of_the_file_system_are_internal() {
    let Some(made) = make(64, "-t ext4 -b 1024 -O quota,project,orphan_file") else { return };
    let seen = scan(&Disk::new(made.bytes())).unwrap();
    let internal: Vec<u64> = seen.records.values().filter(|r| r.internal).map(|r| r.number).collect();
    for number in [3, 4, 7, 8] {
        assert!(internal.contains(&number), "{number}");
    }
    let names: Vec<u64> = seen.records.values().filter(|r| !r.internal).map(|r| r.number).collect();
    assert_eq!(names, [2, 11]);
}

#[test]
fn encrypted_files_are_marked() {
    let Some(made) = filled(32, "-t ext4 -b 1024 -N 4096 -O encrypt,^metadata_csum") else { return };
    made.finish();
    let image = made.image();
    let image = image.to_str().unwrap();
    // The flags alone: that is enough to be shown as encrypted.
    for path in ["/large", "/dir1", "/link900"] {
        let command = format!("set_inode_field {path} flags 0x80800");
        run("debugfs", &["-w", "-R", &command, image]).unwrap();
    }
    let seen = scan(&Disk::new(made.bytes())).unwrap();
    let find = |name: &str| {
        let child = seen.children.iter().find(|c| c.name.name == name && c.name.parent == 2).unwrap();
        &seen.records[&child.number]
    };
    assert_eq!((find("large").data.packed, find("dir1").data.packed), (Some("encrypted"), None));
    assert_eq!((find("link900").data.packed, &find("link900").target), (Some("encrypted"), &None));
    assert_eq!(find("link1").target.as_deref(), Some(&b"l"[..]));
    let directory = find("dir1").number;
    let mut names: Vec<&str> =
        seen.children.iter().filter(|c| c.name.parent == directory).map(|c| c.name.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!((names.len(), names[0]), (12, "66696c6530"), "file0 in hexadecimal");
}

#[test]
fn a_wrong_checksum_is_damage_but_the_file_is_shown() {
    let Some(made) = filled(32, "-t ext4 -b 1024 -N 4096") else { return };
    made.finish();
    let mut disk = Disk::new(made.bytes());
    let seen = scan(&disk).unwrap();
    let large = seen.children.iter().find(|c| c.name.name == "large").unwrap().number;
    let record = &seen.records[&large];
    let at = usize::try_from(record.metadata[0].start).unwrap();
    disk.bytes[at + 0x9c] ^= 0xff;
    let found = &scan(&disk).unwrap().records[&large];
    assert_eq!(found.damage, Some(Damage::Invalid("its checksum is wrong".into())));
    assert_eq!(found.data, record.data);
    // Something in a block of a directory: the names are there, and it is said.
    let root = &seen.records[&2];
    let Place::Runs(runs) = &root.data.place else { panic!() };
    let mut disk = Disk::new(made.bytes());
    let block = usize::try_from(runs[0].volume.unwrap()).unwrap();
    disk.bytes[block + 1023] ^= 1;
    let again = scan(&disk).unwrap();
    assert_eq!(again.children.len(), seen.children.len());
    let damage = again.damaged();
    assert_eq!((damage.len(), damage[0].what.as_str()), (1, "block of directory 2"));
}

#[test]
fn the_bad_blocks_of_mkfs_are_internal() {
    let Some(made) = make(16, "-t ext4 -b 1024") else { return };
    let list = made.root().join("list");
    std::fs::write(&list, "9000\n9001\n9005\n").unwrap();
    let image = made.image();
    if run("mke2fs", &["-q", "-F", "-b", "1024", "-l", list.to_str().unwrap(), image.to_str().unwrap()])
        .is_none()
    {
        return println!("SKIPPED: mke2fs -l does not work");
    }
    let seen = scan(&Disk::new(made.bytes())).unwrap();
    let record = &seen.records[&1];
    assert_eq!((record.internal, record.kind, record.data.size), (true, Kind::Other, 3072));
    let Place::Runs(runs) = &record.data.place else { panic!() };
    let found: Vec<_> = runs.iter().map(|r| r.volume.unwrap() / 1024).collect();
    assert_eq!(found, [9000, 9005]);
}

#[test]
fn a_volume_that_is_cut_shows_what_is_there() {
    let Some(made) = filled(64, "-t ext4 -b 1024 -N 8192 -O ^flex_bg") else { return };
    made.finish();
    let mut disk = Disk::new(made.bytes());
    let all = scan(&disk).unwrap();
    let sb = superblock_of(&disk);
    disk.bytes.truncate(20 << 20);
    let seen = scan(&disk).unwrap();
    let limit = u64::from(sb.group_inodes) * 2;
    for number in all.records.keys().filter(|n| **n <= limit) {
        assert_eq!(seen.records.get(number), all.records.get(number));
    }
    assert!(seen.damaged().iter().any(|s| s.what == "end of the file system"));
    assert!(super::free(&disk).iter().all(|range| range.end <= 20 << 20));
}

#[test]
fn deep_trees_and_maps_are_followed() {
    for options in ["-t ext4 -b 1024", "-t ext2 -b 1024"] {
        let Some(made) = make(64, options) else { continue };
        assert!(made.mount());
        let path = made.root().join("file");
        let file = std::fs::File::create(&path).unwrap();
        // With extents: 8,000 of them. With a map: three levels.
        let mut whole = Vec::new();
        for n in 0..8000_usize {
            let part = content(n, 1024);
            std::os::unix::fs::FileExt::write_all_at(&file, &part, n as u64 * 4096).unwrap();
            whole.extend_from_slice(&part);
            whole.resize((n + 1) * 4096, 0);
        }
        std::os::unix::fs::FileExt::write_all_at(&file, b"end", 100 << 20).unwrap();
        whole.resize(100 << 20, 0);
        whole.extend_from_slice(b"end");
        drop(file);
        made.finish();
        let disk = Disk::new(made.bytes());
        let seen = scan(&disk).unwrap();
        let record = &seen.records[&12];
        assert!(record.damage.is_none() && record.metadata.len() > 1, "{options}");
        assert!(contents(record, &disk) == whole, "{options}");
    }
}

/// Returns which inodes have each block: of their contents and of their metadata, without the tables of inodes.
fn owners(seen: &super::Seen, block: u64) -> BTreeMap<u64, u64> {
    let mut owners = BTreeMap::new();
    for record in seen.records.values() {
        let runs = match &record.data.place {
            Place::Runs(runs) | Place::Units(_, runs) => runs.clone(),
            Place::Inline(_) => Vec::new(),
        };
        let contents = runs.iter().filter_map(|r| r.volume.map(|v| v..v + r.len));
        for range in contents.chain(record.metadata.iter().skip(1).cloned()) {
            owners.extend((range.start / block..range.end / block).map(|b| (b, record.number)));
        }
    }
    owners
}

#[test]
fn debugfs_finds_the_same_owners_of_blocks() {
    for options in
        ["-t ext4 -b 1024 -N 4096", "-t ext2 -b 1024 -N 4096", "-t ext4 -b 1024 -N 4096 -O bigalloc"]
    {
        let Some(made) = filled(32, options) else { continue };
        made.finish();
        let disk = Disk::new(made.bytes());
        let mut owners = owners(&scan(&disk).unwrap(), 1024);
        let mut truth = BTreeMap::new();
        let all: Vec<String> = (1..32768).map(|block| block.to_string()).collect();
        for chunk in all.chunks(8192) {
            let command = format!("icheck {}", chunk.join(" "));
            let text = run("debugfs", &["-R", &command, made.image().to_str().unwrap()]).unwrap();
            for line in text.lines() {
                let mut fields = line.split_whitespace().map(str::parse::<u64>);
                if let (Some(Ok(block)), Some(Ok(inode))) = (fields.next(), fields.next()) {
                    truth.insert(block, inode);
                }
            }
        }
        // Blocks after the end of a file that were reserved for it are left out: nothing is in them.
        let kept = run("debugfs", &["-R", "stat /kept", made.image().to_str().unwrap()]).unwrap();
        let kept: u64 = kept.split_whitespace().nth(1).unwrap().parse().unwrap();
        truth.retain(|block, inode| *inode != kept || owners.contains_key(block));
        // The inode for growing has its blocks in copies of the descriptors, too.
        for map in [&mut truth, &mut owners] {
            map.retain(|_, inode| *inode != 7);
        }
        assert!(truth.len() > 3000, "{}", truth.len());
        let differs = truth.iter().find(|(block, inode)| owners.get(block) != Some(inode));
        assert_eq!(differs.map(|(b, i)| (b, i, owners.get(b))), None, "{options}");
        assert_eq!(owners.len(), truth.len(), "{options}");
    }
}

#[test]
fn blocks_after_the_end_are_metadata_of_verity() {
    let Some(made) = filled(32, "-t ext4 -b 1024 -N 4096 -O verity,^metadata_csum") else { return };
    made.finish();
    let image = made.image();
    let before = scan(&Disk::new(made.bytes())).unwrap();
    run("debugfs", &["-w", "-R", "set_inode_field /kept flags 0x180000", image.to_str().unwrap()]).unwrap();
    let after = scan(&Disk::new(made.bytes())).unwrap();
    let number = after.children.iter().find(|c| c.name.name == "kept").unwrap().number;
    let (before, after) = (&before.records[&number], &after.records[&number]);
    assert_eq!(before.data, after.data);
    let len = |ranges: &[std::ops::Range<u64>]| ranges.iter().map(|r| r.end - r.start).sum::<u64>();
    assert_eq!(len(&after.metadata) - len(&before.metadata), 98 * 1024);
}

#[test]
fn zeros_that_mke2fs_leaves_inline_are_whole() {
    let Some(made) = make(16, "-t ext4 -b 1024") else { return };
    let (image, source) = (made.image(), made.image().with_extension("source"));
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("zeros"), vec![0; 300_000]).unwrap();
    let (image, from) = (image.to_str().unwrap(), source.to_str().unwrap());
    let args = ["-q", "-F", "-t", "ext4", "-I", "512", "-O", "inline_data", "-d", from, image];
    if run("mke2fs", &args).is_none() {
        return;
    }
    let disk = Disk::new(made.bytes());
    let seen = scan(&disk).unwrap();
    let zeros = seen.children.iter().find(|child| child.name.name == "zeros").unwrap();
    let record = &seen.records[&zeros.number];
    assert_eq!((record.data.size, &record.damage), (300_000, &None));
    assert!(contents(record, &disk).iter().all(|byte| *byte == 0));
}
