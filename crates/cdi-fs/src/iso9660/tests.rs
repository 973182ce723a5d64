//! Against images of genisoimage and xorriso.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::fat::testing::checks::{Known, runs};
use crate::fat::testing::disk::{Disk, Found, scan};
use crate::fat::testing::tree::{Writer, fill};
use crate::fat::testing::{Random, TempDir, have, run};
use crate::file_system::{Kind, Record};

/// A directory that an image is made of.
struct Stage(PathBuf);

impl Writer for Stage {
    fn copy(&mut self, from: &Path) {
        run("cp", &["-r", &format!("{}/.", from.display()), &self.0.display().to_string()], from);
    }

    fn remove(&mut self, path: &str) {
        std::fs::remove_file(self.0.join(path)).unwrap();
    }
}

/// Makes an image by a program and its options.
fn image(test: &str, program: &[&str], count: u32) -> Option<Known> {
    if !have(test, &program[..1]) {
        return None;
    }
    let dir = TempDir::new(test);
    let stage = dir.0.join("stage");
    std::fs::create_dir_all(stage.join("an empty directory")).unwrap();
    let mut writer = Stage(stage.clone());
    let files = fill(&dir.0, count, &mut writer);
    let (path, stage) = (dir.0.join("disc.iso").display().to_string(), stage.display().to_string());
    let args: Vec<&str> = program[1..].iter().copied().chain(["-V", "LABEL", "-o", &path, &stage]).collect();
    run(program[0], &args, &dir.0);
    Some(Known::new(std::fs::read(&path).unwrap(), files))
}

/// Returns the files that have contents, by their number in these.
fn by_id<'a>(known: &Known, found: &'a Found) -> BTreeMap<u32, &'a Record> {
    let files = found.records.iter().filter(|record| record.kind == Kind::File);
    files.filter_map(|r| Some((*known.owners.get(&(runs(r).first()?.volume? / 512))?, r))).collect()
}

/// Makes each sector of the metadata bad, and returns how often a file was not found.
fn check_each_sector(known: &Known, joliet: bool, joliet_only: bool) -> usize {
    let mut missing = 0;
    for sector in &known.metadata {
        let disk = Disk::new(&known.image, BTreeSet::from([*sector]));
        let Some((_, found)) = scan(&disk) else {
            assert!(*sector == 64 && !joliet, "not recognised without sector {sector}");
            continue;
        };
        // Without Joliet's descriptor, names are short.
        let names = joliet_only && (64..80).contains(sector);
        let ids = by_id(known, &found);
        let numbers: BTreeSet<u64> = found.records.iter().map(|r| r.number).collect();
        for (number, record) in &known.records {
            let counted = || {
                let mut at = record;
                // It, or a directory above it.
                loop {
                    if found.lost_ranges.iter().any(|range| range.contains(&at.number)) {
                        break true;
                    }
                    let Some(name) = at.names.first() else { break false };
                    at = &known.records[&name.parent];
                }
            };
            let there = match known.files.get(&known.paths[number]) {
                Some(stamp) if stamp.size > 0 => {
                    ids.get(&stamp.id).is_some_and(|now| now.data == record.data)
                }
                _ => {
                    names
                        || numbers.contains(number)
                        || found.records.iter().any(|r| {
                            r.names.first().map(|n| &n.name) == record.names.first().map(|n| &n.name)
                        })
                }
            };
            if !there {
                missing += 1;
                assert!(counted(), "sector {sector}: {} is missed", known.paths[number]);
            }
        }
        let files = found.records.iter().filter(|r| r.kind == Kind::File).count();
        assert!(files <= known.files.len(), "sector {sector}: files are listed twice");
        for name in found.records.iter().flat_map(|r| &r.names).filter(|name| name.parent != 0) {
            assert!(numbers.contains(&name.parent), "sector {sector}: {name:?} has no parent");
        }
    }
    missing
}

fn check_maps(known: &Known, count: u64) {
    let mut random = Random(0xFEED_5EED_0000_0001);
    let sectors = known.image.len() as u64 / 512;
    for map in 0..count {
        let mut bad = BTreeSet::new();
        for _ in 0..1 + random.below(30) {
            let first = random.below(sectors);
            bad.extend((first..first + 1 + random.below(16)).filter(|s| *s < sectors));
        }
        let hit: BTreeSet<u32> = bad.iter().filter_map(|s| known.owners.get(s).copied()).collect();
        let disk = Disk::new(&known.image, bad);
        let Some((_, found)) = scan(&disk) else { continue };
        for (id, record) in by_id(known, &found) {
            let damaged = runs(record)
                .iter()
                .any(|run| disk.is_bad(&(run.volume.unwrap()..run.volume.unwrap() + run.len)));
            assert_eq!(damaged, hit.contains(&id), "map {map}: {:?}", record.names);
        }
    }
}

#[test]
fn rock_ridge_and_joliet() {
    let Some(known) = image("iso-rj", &["genisoimage", "-quiet", "-R", "-J", "-input-charset", "utf-8"], 240)
    else {
        return;
    };
    assert_eq!(check_each_sector(&known, true, false), 0, "the other tree has what is lost");
    known.check_imaging();
    check_maps(&known, 1000);
    known.check_corruptions(2000);
}

#[test]
fn rock_ridge() {
    let Some(known) = image("iso-r", &["xorriso", "-as", "mkisofs", "-quiet", "-R"], 240) else { return };
    println!("{} files were missing", check_each_sector(&known, false, false));
    known.check_imaging();
    check_maps(&known, 1000);
    known.check_corruptions(2000);
}

#[test]
fn joliet() {
    let Some(known) = image("iso-j", &["genisoimage", "-quiet", "-J", "-input-charset", "utf-8"], 240) else {
        return;
    };
    println!("{} files were missing", check_each_sector(&known, true, true));
    known.check_imaging();
    check_maps(&known, 1000);
    known.check_corruptions(2000);
}
