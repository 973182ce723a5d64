//! Where the first superblock or a descriptor is lost, a copy is used.

use std::ops::Range;

use super::superblock_of;
use super::truth::{self, Tree};
use super::volumes::{filled, make};
use super::whole::compare;
use super::{Disk, free, open, scan};
use crate::ext::superblock::tests::made;
use crate::file_system::Damage;
use crate::recognize::{Recognized, recognize};
use crate::volume::Volume;

fn bad(disk: &Disk, range: Range<u64>) -> Disk {
    Disk { bad: std::iter::once(range).collect(), ..disk.clone() }
}

fn sample(megabytes: u64, options: &str) -> Option<(Tree, Disk)> {
    let made = filled(megabytes, options)?;
    let tree = truth::of(&made);
    made.finish();
    Some((tree, Disk::new(made.bytes())))
}

#[test]
fn the_superblock_is_found_without_the_first() {
    for (megabytes, options) in [
        (64, "-t ext4 -b 1024"),
        (64, "-t ext2 -b 1024 -O ^sparse_super,^resize_inode"),
        (64, "-t ext3 -b 2048"),
        (300, "-t ext4 -b 4096"),
        (64, "-t ext4 -b 1024 -O sparse_super2 -E num_backup_sb=1"),
        (64, "-t ext4 -b 1024 -O bigalloc -C 4096"),
        (64, "-t ext4 -b 1024 -O meta_bg,^resize_inode"),
    ] {
        let Some((tree, disk)) = sample(megabytes, options) else { continue };
        let truth = free(&disk);
        let first = bad(&disk, 1024..2048);
        let mut zeroed = disk.clone();
        zeroed.bytes[..2048].fill(0);
        let mut wrong = disk.clone();
        wrong.bytes[1024 + 0x38] ^= 1;
        for (what, disk) in [("bad", first), ("zeros", zeroed), ("signature", wrong)] {
            let what = format!("{options}: {what}");
            let seen = scan(&disk).expect(&what);
            assert!(seen.structures[1].damage.is_some(), "{what}");
            compare(&tree, &seen, &disk, &what);
            assert_eq!(free(&disk), truth, "{what}");
        }
        // The group descriptors are bad, too.
        let both = bad(&disk, 1024..65536);
        let seen = scan(&both).expect(options);
        compare_if_copied(&tree, &seen, options);
    }
}

/// Checks that all files are there, if no inode is lost with what was bad.
fn compare_if_copied(tree: &Tree, seen: &super::Seen, what: &str) {
    for number in tree.files.keys() {
        assert!(seen.records.contains_key(number) || seen.lost.contains_key(number), "{what}: {number}");
    }
}

#[test]
fn blocks_of_64_kib_have_copies() {
    // The kernel cannot mount these where its pages are smaller. A group usually has 32 GiB; here it is smaller.
    let Some(made) = make(2100, "-t ext4 -b 65536 -g 4096 -N 2000") else { return };
    let mut head = Disk::new(made.bytes());
    assert_eq!(open(&head).unwrap().block_size(), 65536);
    let intact = free(&head);
    assert_eq!(intact, truth::free(&made, 65536));
    head.bad = std::iter::once(0..2048).collect();
    assert_eq!(free(&head), intact);
    let seen = scan(&head).unwrap();
    let damaged: Vec<&str> = seen.damaged().iter().map(|s| s.what.as_str()).collect();
    assert_eq!(damaged, ["boot block", "superblock"]);
}

#[test]
fn descriptors_are_found_in_copies() {
    for options in [
        "-t ext4 -b 1024 -g 1024 -N 8192",
        "-t ext2 -b 1024 -g 1024 -N 8192",
        "-t ext4 -b 1024 -g 1024 -N 8192 -O meta_bg,^resize_inode",
    ] {
        let Some((tree, disk)) = sample(64, options) else { continue };
        let intact = scan(&disk).unwrap();
        let places = intact.structures.iter().find(|s| s.what == "group descriptors").unwrap().at.clone();
        for place in places {
            for sector in place.clone().step_by(512) {
                let damaged = bad(&disk, sector..sector + 512);
                let what = format!("{options}: {sector}");
                let seen = scan(&damaged).expect(&what);
                assert!(!seen.damaged().is_empty(), "{what}");
                compare(&tree, &seen, &damaged, &what);
                let found = free(&damaged);
                let truth = free(&disk);
                assert!(
                    found.iter().all(|f| truth.iter().any(|t| t.start <= f.start && t.end >= f.end)),
                    "{what}"
                );
                let mut wrong = disk.clone();
                wrong.bytes[usize::try_from(sector).unwrap() + 9] ^= 0x40;
                let seen = scan(&wrong).expect(&what);
                compare_if_copied(&tree, &seen, &what);
            }
        }
    }
}

#[test]
fn descriptors_that_are_lost_everywhere_cost_their_inodes() {
    let Some((tree, mut disk)) = sample(64, "-t ext4 -b 1024 -N 8192") else { return };
    let sb = superblock_of(&disk);
    let copies = (0..sb.groups).filter(|g| sb.has_super(*g)).map(|g| (sb.super_block(g) + 1) * sb.block);
    disk.bad = copies.map(|at| at..at + 512).collect();
    let seen = scan(&disk).unwrap();
    assert!(seen.records.is_empty());
    assert!(tree.files.keys().all(|number| seen.lost.contains_key(number)));
    assert_eq!(seen.lost.len(), usize::try_from(sb.inodes).unwrap());
    assert!(free(&disk).is_empty());
    let costs = seen.damaged().iter().filter(|s| s.damage.as_ref().unwrap().1 == "up to 1024 files").count();
    assert_eq!(costs, 8);
}

#[test]
fn what_is_no_ext_is_not_taken_for_it() {
    let none = |disk: &Disk| {
        matches!(recognize(&Volume::new(disk, 0..disk.bytes.len() as u64)), Recognized::Unknown(_))
    };
    for len in [0, 512, 1024, 1500, 2048, 1 << 20] {
        assert!(none(&Disk::new(vec![0; len])), "{len}");
        assert!(none(&Disk::new(vec![0xe5; len])), "{len}");
        assert!(none(&bad(&Disk::new(vec![0; len]), 0..len as u64)), "{len}");
    }
    let mut disk = Disk::new(vec![0; 1 << 20]);
    disk.bytes[1024..2048].copy_from_slice(&made());
    disk.bytes[1024 + 0x58] = 3;
    match recognize(&Volume::new(&disk, 0..1 << 20)) {
        Recognized::Damaged("ext", Damage::Invalid(what)) => assert!(what.contains("inodes"), "{what}"),
        _ => panic!("it has the signature"),
    }
}

#[test]
fn what_was_not_read_yet_is_not_looked_for_elsewhere() {
    let Some(made) = make(64, "-t ext4 -b 1024") else { return };
    let mut disk = Disk::new(made.bytes());
    disk.untried = true;
    disk.bad = std::iter::once(0..4096).collect();
    assert!(open(&disk).is_some(), "copies were read");
    disk.bad = std::iter::once(0..64 << 20).collect();
    assert!(open(&disk).is_none());
}
