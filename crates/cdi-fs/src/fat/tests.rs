//! Against volumes of mkfs.fat and mtools.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::clusters::{Follower, Heap};
use super::table::{Layout, Table, Width};
use super::testing::checks::Known;
use super::testing::disk::{Disk, scan};
use super::testing::tree::{Writer, fill};
use super::testing::{TempDir, have, run};
use crate::file_system::Damage;

struct Mtools<'a> {
    dir: &'a Path,
    image: PathBuf,
}

impl Writer for Mtools<'_> {
    fn copy(&mut self, from: &Path) {
        let mut args =
            vec!["-s".to_owned(), "-o".to_owned(), "-i".to_owned(), self.image.display().to_string()];
        let mut entries: Vec<_> = std::fs::read_dir(from).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        args.extend(entries.iter().map(|path| path.display().to_string()));
        args.push("::".into());
        let args: Vec<&str> = args.iter().map(|arg| &**arg).collect();
        run("mcopy", &args, self.dir);
    }

    fn remove(&mut self, path: &str) {
        run("mdel", &["-i", &self.image.display().to_string(), &format!("::{path}")], self.dir);
    }
}

/// Makes a volume of `kib` KiB with `count` files.
fn volume(test: &str, options: &[&str], kib: u32, count: u32) -> Option<Known> {
    if !have(test, &["mkfs.fat", "mcopy", "mdel"]) {
        return None;
    }
    let dir = TempDir::new(test);
    let image = dir.0.join("fat.img");
    let (path, size) = (image.display().to_string(), kib.to_string());
    let args: Vec<&str> = options.iter().copied().chain(["-n", "LABEL", "-C", &path, &size]).collect();
    run("mkfs.fat", &args, &dir.0);
    let mut writer = Mtools { dir: &dir.0, image: image.clone() };
    let files = fill(&dir.0, count, &mut writer);
    if have(test, &["fsck.fat"]) {
        run("fsck.fat", &["-n", &path], &dir.0);
    }
    Some(Known::new(std::fs::read(&image).unwrap(), files))
}

fn check(known: &Known) {
    known.check_imaging();
    check_tables(known);
    let (without, named) = known.check_each_sector();
    println!("{without} records were lost, {named} of them have names");
    known.check_maps(1000);
    known.check_corruptions(2000);
}

/// Makes each sector of the table bad in both copies.
fn check_tables(known: &Known) {
    let found = super::boot::find(&crate::volume::Volume::new(&known.image, 0..u64::MAX)).unwrap().unwrap();
    let (first, second) = (found.boot.copies[0].clone(), found.boot.copies[1].start / 512);
    let sectors = (first.end - first.start) / 512;
    let damaged = known.check_sets((0..sectors).map(|n| BTreeSet::from([first.start / 512 + n, second + n])));
    assert!(damaged > 0);
    println!("{damaged} files were not whole without a sector of the table");
    // Without any table, the parts of directories are found by what is in them.
    let disk = Disk::new(
        &known.image,
        (first.start / 512..first.start / 512 + sectors).chain(second..second + sectors).collect(),
    );
    let (_, found) = scan(&disk).unwrap();
    // By number: a long name whose entries are in two parts is lost.
    let numbers: BTreeSet<u64> = found.records.iter().map(|record| record.number).collect();
    let files = known.paths.iter().filter(|(_, path)| known.files.contains_key(*path));
    let missed: Vec<_> = files.filter(|(number, _)| !numbers.contains(number)).collect();
    assert!(missed.is_empty(), "{missed:?}");
    // Any of the first copy, and the others of the second.
    let half = (0..sectors).map(|n| if n % 2 == 0 { first.start / 512 + n } else { second + n }).collect();
    assert_eq!(known.check_sets(std::iter::once(half)), 0);
}

#[test]
fn fat12() {
    if let Some(known) = volume("fat12", &["-F", "12"], 4096, 150) {
        check(&known);
    }
}

#[test]
fn fat16() {
    if let Some(known) = volume("fat16", &["-F", "16", "-s", "1"], 8192, 240) {
        check(&known);
    }
}

#[test]
fn fat32() {
    if let Some(known) = volume("fat32", &["-F", "32", "-s", "1"], 36_000, 300) {
        check(&known);
    }
}

#[test]
fn fat16_with_large_sectors() {
    if let Some(known) = volume("fat16-4k", &["-F", "16", "-s", "1", "-S", "4096"], 20_000, 200) {
        check(&known);
    }
}

/// Chains in a table of FAT16, one entry for each cluster from 2.
fn follow(links: &[u16], first: u32, clusters: u64) -> (Vec<(u32, u32)>, Option<String>) {
    let count = u32::try_from(links.len()).unwrap();
    let bytes: Vec<u8> = [0xFFF8, 0xFFFF].iter().chain(links).flat_map(|link| link.to_le_bytes()).collect();
    let layout = Layout { width: Width::Fat16, copies: vec![0], clusters: count };
    let volume = crate::volume::Volume::new(&bytes, 0..u64::MAX);
    let heap = Heap { start: 0, cluster: 512, count };
    let mut follower = Follower::new(Table::new(&volume, &layout), heap);
    let chain = follower.file(first, clusters);
    let damage = chain.damage.map(|damage| match damage {
        Damage::Invalid(text) => text,
        Damage::Unreadable(error) => error.to_string(),
    });
    (chain.runs, damage)
}

#[test]
fn chains() {
    let end = 0xFFFF;
    assert_eq!(follow(&[3, 4, end, end], 2, 3), (vec![(2, 3)], None));
    assert_eq!(follow(&[3, 5, end, 4], 2, 4), (vec![(2, 2), (5, 1), (4, 1)], None));
    // What is after the size of the file does not matter.
    assert_eq!(follow(&[3, 0, 0], 2, 2), (vec![(2, 2)], None));
    let text = |links: &[u16], first, clusters| follow(links, first, clusters).1.unwrap();
    assert!(text(&[3, end, 0], 2, 3).contains("ends after 2 of 3"));
    assert!(text(&[3, 2, 0], 2, 30).contains("loop"));
    assert!(text(&[3, 4, 3], 2, 30).contains("loop"));
    assert!(text(&[3, 0, 3], 2, 30).contains("free"));
    assert!(text(&[3, 9, 3], 2, 30).contains("cluster 9 cannot follow 3"));
    assert!(text(&[3, 0xFFF7, 3], 2, 30).contains("cannot follow"));
    assert!(text(&[3], 7, 30).contains("does not exist"));
}

#[test]
fn clusters_of_two_files_are_said() {
    let bytes: Vec<u8> =
        [0xFFF8u16, 0xFFFF, 3, 4, 0xFFFF, 3].iter().flat_map(|link| link.to_le_bytes()).collect();
    let layout = Layout { width: Width::Fat16, copies: vec![0], clusters: 4 };
    let volume = crate::volume::Volume::new(&bytes, 0..u64::MAX);
    let mut follower = Follower::new(Table::new(&volume, &layout), Heap { start: 0, cluster: 512, count: 4 });
    assert!(follower.file(2, 3).damage.is_none());
    let second = follower.file(5, 3);
    assert!(second.damage.is_some());
    assert_eq!(second.runs, [(5, 1), (3, 2)]);
}
