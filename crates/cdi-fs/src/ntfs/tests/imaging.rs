//! A disk of which nothing was read yet: what a scan asks for is read, until it asks for nothing more.

use std::collections::BTreeSet;

use super::disk::Disk;
use super::made::{fragments, kinds, make, many};

/// Reads what a scan asks for, and returns how often it was scanned, and how many sectors were read.
fn image(disk: &mut Disk) -> (usize, usize) {
    let sectors = disk.bytes.len() as u64 / 512;
    let mut read = BTreeSet::new();
    for round in 1..100 {
        let unread = (0..sectors).filter(|sector| !read.contains(sector));
        disk.bad = unread.map(|sector| sector * 512..sector * 512 + 512).collect();
        disk.untried = true;
        disk.watched = true;
        disk.scan();
        let before = read.len();
        read.append(disk.asked.get_mut().unwrap());
        if read.len() == before {
            return (round, before);
        }
    }
    panic!("it always asks for more");
}

fn check(bytes: Vec<u8>) {
    let mut disk = Disk::new(bytes);
    disk.watched = true;
    let whole = disk.scan().unwrap().1;
    let needed = std::mem::take(disk.asked.get_mut().unwrap()).len();
    let (rounds, read) = image(&mut disk);
    let found = disk.scan().unwrap().1;
    assert_eq!(found.records, whole.records);
    assert_eq!(found.children.len(), whole.children.len());
    assert!(found.lost.is_empty());
    // The contents of these are not needed.
    let not_read = ["$LogFile", "$AttrDef", "$Secure", "$UpCase"];
    let damaged = found.damaged();
    assert!(damaged.iter().all(|s| not_read.iter().any(|name| s.what.starts_with(name))), "{damaged:?}");
    println!("{rounds} rounds, {read} sectors were read, {needed} are needed");
    // The search for records where the MFT begins may read more than there are.
    assert!(read <= needed + 2048 + 64);
}

#[test]
fn all_metadata_is_asked_for() {
    let Some(made) = make(32, &["-c", "4096"], |mnt| {
        kinds(mnt);
        many(mnt);
    }) else {
        return;
    };
    check(made.bytes);
}

#[test]
fn all_metadata_of_fragments_is_asked_for() {
    let Some(made) = make(12, &["-c", "4096"], fragments) else { return };
    check(made.bytes);
}
