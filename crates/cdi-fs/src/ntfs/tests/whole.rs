//! Volumes without damage: all files with their names, sizes and contents.

use crate::file_system::{Kind, Place};
use crate::skip::skip;
use crate::volume::Volume;

use super::disk::{Disk, Found, contents};
use super::made::{Made, fragments, kinds, make, many, run};

/// Compares everything.
pub(super) fn check(made: &mut Made) -> (Disk, Found) {
    let disk = Disk::new(std::mem::take(&mut made.bytes));
    let (files, found) = disk.scan().expect("it is NTFS");
    assert_eq!(files.label().as_deref(), Some("Größe"));
    assert!(found.damaged().is_empty(), "{:?}", found.damaged());
    assert!(found.lost.is_empty(), "{:?}", found.lost);
    for (path, truth) in &made.truth {
        let name = path.rsplit('/').next().unwrap();
        let record = found.records.get(&truth.number).unwrap_or_else(|| panic!("{path} is missing"));
        assert_eq!(record.damage, None, "{path}");
        assert!(
            record.names.iter().any(|n| n.name == name && n.parent == truth.parent),
            "{path}: {record:?}"
        );
        let child = |c: &&crate::file_system::Child| c.number == truth.number && c.name.name == name;
        assert_eq!(found.children.iter().filter(child).count(), 1, "{path}");
        assert_eq!(record.kind == Kind::Directory, truth.directory, "{path}");
        assert_eq!(record.times.modified, Some(truth.modified), "{path}");
        match &truth.target {
            Some(target) => {
                assert_eq!(record.target.as_deref(), target.to_str().map(str::as_bytes), "{path}")
            }
            None if truth.directory => {}
            None => {
                let bytes = contents(&disk.bytes, &record.data);
                assert!(bytes.as_ref() == Some(&truth.contents), "{path} differs: {:?}", record.data);
            }
        }
        let again = files.record(&Volume::new(&disk, 0..u64::MAX), record.handle).unwrap();
        assert_eq!(again.names, record.names);
        assert_eq!(again.data, record.data);
    }
    let numbers: std::collections::BTreeSet<u64> = made.truth.values().map(|entry| entry.number).collect();
    for record in found.records.values().filter(|record| !record.internal && record.number != 5) {
        assert!(numbers.contains(&record.number), "too much: {record:?}");
    }
    (disk, found)
}

#[test]
fn everything_is_found() {
    let Some(mut made) = make(64, &["-c", "4096"], |mnt| {
        kinds(mnt);
        many(mnt);
    }) else {
        return;
    };
    let (disk, found) = check(&mut made);
    let names = |name: &str| found.named(name).names.len();
    assert_eq!((names("resident"), names("a long name.text")), (2, 1));
    let streams = &found.named("resident").streams;
    assert_eq!(streams.len(), 2);
    for (name, data) in streams {
        let expected = match name.as_str() {
            "stream" => b"in the record".to_vec(),
            _ => super::made::tagged(9000, 50_000),
        };
        assert!(contents(&disk.bytes, data) == Some(expected), "{name}");
    }
    let Place::Runs(runs) = &found.named("initialized in part").data.place else { panic!() };
    assert!(runs.iter().any(|run| run.unwritten && run.file == 5000), "{runs:?}");
    assert_eq!(found.named("text").data.packed, None);
    assert_eq!(found.named("tiny").data.packed, None);
    assert!(
        found.records.values().filter(|record| record.number >= 24 && record.number < 64).all(|r| r.internal)
    );
}

#[test]
fn fragments_in_many_records() {
    let Some(mut made) = make(64, &["-c", "4096"], fragments) else { return };
    let (_, found) = check(&mut made);
    let large = found.named("large");
    let Place::Runs(runs) = &large.data.place else { panic!() };
    println!("{} runs, {:?}, MFT {:?}", runs.len(), large.metadata, found.records[&0].data.place);
    assert!(runs.len() > 1000 && large.metadata.len() > 5);
    assert!(matches!(&found.records[&0].data.place, Place::Runs(runs) if runs.len() > 1));
}

/// The clusters that `partclone` says are used.
#[test]
fn what_is_free_is_what_others_say() {
    let Some(made) = make(64, &["-c", "4096"], many) else { return };
    let disk = Disk::new(made.bytes.clone());
    let (files, _) = disk.scan().unwrap();
    let volume = Volume::new(&disk, 0..u64::MAX);
    let mut free = Vec::new();
    files.free(&volume, &mut |range| free.push(range));
    assert!(free.windows(2).all(|pair| pair[0].end < pair[1].start));
    let place = super::made::Place::new();
    let (image, log) = (place.path.join("image"), place.path.join("domain"));
    std::fs::write(&image, &made.bytes).unwrap();
    let (image, log) = (image.to_str().unwrap(), log.to_str().unwrap());
    if !run("partclone.ntfs", &["-D", "-F", "-s", image, "-o", log]) {
        return skip("partclone.ntfs");
    }
    let text = std::fs::read_to_string(log).unwrap();
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let lines =
        text.lines().filter(|line| line.starts_with("0x")).map(|line| line.split_whitespace().collect());
    let lines: Vec<Vec<&str>> = lines.filter(|line: &Vec<&str>| line.len() == 3).collect();
    let theirs = lines.iter().filter(|line| line[2] != "+");
    let theirs: Vec<_> = theirs.map(|line| number(line[0])..number(line[0]) + number(line[1])).collect();
    assert_eq!(free, theirs);
}
