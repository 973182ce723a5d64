//! Comparisons with other programs; skipped where those are missing.

use crate::skip::skip;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::disk::Disk;
use super::{PLAIN, SMALL, volume};

/// A file in the temporary directory that is removed when it is no longer needed.
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    fn new(name: &str) -> TemporaryFile {
        TemporaryFile(std::env::temp_dir().join(format!("cdi-hfsplus-{}-{name}", std::process::id())))
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Runs a program. None if it is missing.
fn run(program: &str, args: &[&str]) -> Option<String> {
    match Command::new(program).args(args).output() {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(_) => {
            // hfsprogs are not in Debian's main archive.
            if program.contains("hfsplus") {
                println!("SKIPPED: {program} is missing");
            } else {
                skip(program);
            }
            None
        }
    }
}

#[test]
fn volumes_of_all_shapes_are_as_mkfs_says() {
    let shapes: [&[&str]; 7] = [
        &[],
        &["-s"],
        &["-b", "512"],
        &["-b", "32768"],
        &["-n", "c=32768,e=1024"],
        &["-J", "1M"],
        &["-c", "c=100,e=9"],
    ];
    for (i, options) in shapes.into_iter().enumerate() {
        let file = TemporaryFile::new(&format!("{i}.img"));
        fs::write(&file.0, vec![0; 20 << 20]).unwrap();
        let path = file.0.to_str().unwrap();
        let Some(_) = run("mkfs.hfsplus", &[options, &["-v", "Név", path]].concat()) else { return };
        let bytes = fs::read(&file.0).unwrap();
        let free = u64::from(u32::from_be_bytes(bytes[1024 + 48..][..4].try_into().unwrap()));
        let disk = Disk::new(bytes);
        let fs = disk.open().unwrap();
        let found = disk.scan();
        assert_eq!(
            disk.free().iter().map(|r| r.end - r.start).sum::<u64>(),
            free * u64::from(fs.block_size())
        );
        assert!(fs.label().is_some_and(|label| label.starts_with('N')), "{:?}", fs.label());
        assert!(found.records.contains_key(&2), "{options:?}");
        assert!(found.structures.iter().all(|s| s.damage.is_none()), "{options:?} {:?}", found.structures);
        let journal = found.structures.iter().any(|s| s.what == "journal" && !s.at.is_empty());
        assert_eq!(journal, options.contains(&"-J"), "{:?}", found.structures);
    }
}

#[test]
fn runs_are_those_of_sleuthkit() {
    for (name, fixture) in [("plain", PLAIN), ("small", SMALL)] {
        let (disk, _) = volume(fixture);
        let unit = u64::from(disk.open().unwrap().block_size());
        let file = TemporaryFile::new(name);
        fs::write(&file.0, &disk.bytes).unwrap();
        let path = file.0.to_str().unwrap();
        let found = disk.scan();
        let mut compared = 0;
        for record in found.records.values().filter(|r| r.number >= 16 && r.data.packed.is_none()) {
            let crate::file_system::Place::Runs(runs) = &record.data.place else { continue };
            let Some(text) = run("istat", &["-f", "hfs", path, &record.number.to_string()]) else { return };
            let Some((_, rest)) = text.split_once("Data Fork Blocks:") else { continue };
            let blocks = rest.lines().skip(1).take_while(|l| !l.trim().is_empty());
            let range = |word: &str| {
                let (first, last) = word.split_once('-').unwrap_or((word, word));
                first.parse().unwrap()..=last.parse().unwrap()
            };
            let theirs: Vec<u64> = blocks.flat_map(str::split_whitespace).flat_map(range).collect();
            let used = |run: &crate::file_system::Run| {
                let first = run.volume.unwrap() / unit;
                first..first + run.len / unit
            };
            let ours: Vec<u64> = runs.iter().flat_map(used).collect();
            assert_eq!(ours, theirs, "{name} {record:?}");
            compared += usize::from(!ours.is_empty());
        }
        assert!(compared > 100, "{compared}");
    }
}
