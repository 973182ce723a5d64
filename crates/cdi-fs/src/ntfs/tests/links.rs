//! Reparse points, names whose directories were deleted, and what is left if lists are lost.

use crate::skip::skip;
use std::fs;
use std::path::Path;

use crate::file_system::{Kind, Place};

use super::disk::Disk;
use super::made::{Made, fragments, make, run};

/// A reparse point with a tag, as `setfattr` takes it.
fn reparse(path: &Path, tag: u32, data: &[u8]) -> bool {
    let len = u16::try_from(data.len()).unwrap();
    let head = [&tag.to_le_bytes()[..], &len.to_le_bytes(), &[0, 0], data].concat();
    let hex: String = head.iter().map(|byte| format!("{byte:02x}")).collect();
    let value = format!("0x{hex}");
    run("setfattr", &["-n", "system.ntfs_reparse_data", "-v", &value, path.to_str().unwrap()])
}

/// The part of a reparse point that has the two names of a link.
fn names(flags: &[u8], stored: &str, shown: &str) -> Vec<u8> {
    let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let (stored, shown) = (wide(stored), wide(shown));
    let numbers =
        [0, stored.len(), stored.len(), shown.len()].map(|n| u16::try_from(n).unwrap().to_le_bytes());
    [numbers.as_flattened(), flags, &stored, &shown].concat()
}

#[test]
fn reparse_points() {
    let mut done = true;
    let Some(made) = make(16, &[], |mnt| {
        fs::write(mnt.join("symlink"), b"").unwrap();
        fs::create_dir(mnt.join("junction")).unwrap();
        fs::write(mnt.join("overlay"), b"").unwrap();
        fs::write(mnt.join("overlay:WofCompressedData"), vec![7; 5000]).unwrap();
        fs::write(mnt.join("wsl"), b"").unwrap();
        done &= reparse(&mnt.join("symlink"), 0xA000_000C, &names(&[1, 0, 0, 0], "sub\\file", "sub\\file"));
        done &= reparse(&mnt.join("junction"), 0xA000_0003, &names(&[], r"\??\C:\Users", r"C:\Users"));
        done &= reparse(&mnt.join("overlay"), 0x8000_0017, &[1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        done &= reparse(&mnt.join("wsl"), 0xA000_001D, b"\x02\0\0\0../other");
    }) else {
        return;
    };
    if !done {
        return skip("setfattr (or it refuses reparse points)");
    }
    let found = Disk::new(made.bytes).scan().unwrap().1;
    let target = |name: &str| {
        let record = found.named(name);
        assert_eq!(record.kind, Kind::Link);
        String::from_utf8(record.target.clone().unwrap()).unwrap()
    };
    assert_eq!(target("symlink"), r"sub\file");
    assert_eq!(target("junction"), r"C:\Users");
    assert_eq!(target("wsl"), "../other");
    let overlay = found.named("overlay");
    assert_eq!((overlay.kind, overlay.data.packed), (Kind::File, Some("compressed")));
    assert_eq!(overlay.streams[0].0, "WofCompressedData");
}

/// The place of a record that follows record 0.
fn record_at(number: u64) -> usize {
    usize::try_from(4 * 4096 + number * 1024).unwrap()
}

#[test]
fn a_name_in_a_deleted_directory_has_no_place() {
    let Some(mut made) = make(16, &["-c", "4096"], |mnt| {
        fs::create_dir(mnt.join("directory")).unwrap();
        fs::write(mnt.join("directory/file"), b"").unwrap();
        fs::write(mnt.join("directory/other"), b"").unwrap();
    }) else {
        return;
    };
    let file = made.truth["directory/file"].number;
    let parent = made.truth["directory"].number;
    // The reference in the name: the directory's number, then how often its record was used.
    let record = record_at(file);
    let reference = [&parent.to_le_bytes()[..6], &1u16.to_le_bytes()].concat();
    let at = made.bytes[record..record + 1024].windows(8).position(|bytes| bytes == reference).unwrap();
    made.bytes[record + at + 6] = 9;
    let mut disk = Disk::new(std::mem::take(&mut made.bytes));
    let found = disk.scan().unwrap().1;
    assert_eq!(found.named("file").names[0].parent, u64::MAX);
    assert_eq!(found.named("other").names[0].parent, parent);
    let lost = u64::try_from(record_at(parent)).unwrap();
    disk.bad.push(lost..lost + 1024);
    let found = disk.scan().unwrap().1;
    assert_eq!(found.named("file").names[0].parent, parent, "nobody knows how often the record was used");
}

#[test]
fn lists_of_runs_are_found_without_the_list_of_attributes() {
    let Some(Made { bytes, .. }) = make(64, &["-c", "4096"], fragments) else { return };
    let mut disk = Disk::new(bytes);
    let whole = disk.scan().unwrap().1;
    let large = whole.named("large");
    let list = large.metadata.last().unwrap().clone();
    assert_eq!(list.end - list.start, 4096);
    disk.bad = vec![list];
    let found = disk.scan().unwrap().1;
    let again = found.named("large");
    assert!(again.damage.is_some() && again.data == large.data && again.streams == large.streams);
    // The MFT's own list: its first record and the copy are lost.
    let places = |number: u64| match &whole.records[&number].data.place {
        Place::Runs(runs) | Place::Units(_, runs) => runs[0].volume.unwrap(),
        Place::Inline(_) => panic!(),
    };
    assert!(whole.records[&0].metadata.len() > 1, "the MFT has too few runs");
    disk.bad = [0, 1].map(places).map(|at| at..at + 1024).to_vec();
    disk.bad.sort_by_key(|range| range.start);
    let found = disk.scan().unwrap().1;
    println!("{} of {} records", found.records.len(), whole.records.len());
    let counted = |number: &u64| found.records.contains_key(number) || found.lost.contains_key(number);
    let missed: Vec<_> = whole.records.keys().filter(|number| !counted(number)).collect();
    assert!(missed.is_empty(), "{missed:?}");
    assert!(found.records.len() * 100 > whole.records.len() * 75);
    let list = whole.records[&0].metadata.last().unwrap().clone();
    if list.start.is_multiple_of(4096) {
        disk.bad = vec![list];
        let found = disk.scan().unwrap().1;
        println!("{} of {} records without the list", found.records.len(), whole.records.len());
        assert_eq!(found.records.len(), whole.records.len());
    }
}
