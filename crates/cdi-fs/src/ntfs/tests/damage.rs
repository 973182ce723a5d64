//! Bad sectors: what they hit is known, and nothing else is lost.

#![allow(clippy::single_range_in_vec_init)]

use crate::skip::skip;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::file_system::{Place, Record};
use crate::recognize::{Recognized, recognize};
use crate::volume::Volume;

use super::disk::{Disk, Found, Random};
use super::made::{Made, fragments, kinds, make, many, marks};

/// Whether a part of the contents is bad or unknown.
fn is_damaged(record: &Record, disk: &Disk) -> bool {
    let Place::Runs(runs) = &record.data.place else { return record.damage.is_some() };
    let mut next = 0;
    for run in runs {
        let bad = |at: u64| disk.is_bad(&(at..at + run.len.min(record.data.size - run.file)));
        if run.file != next || (!run.unwritten && run.volume.is_some_and(bad)) {
            return true;
        }
        next += run.len;
    }
    next < record.data.size || record.damage.is_some()
}

/// Sectors that a scan asks for.
fn metadata(disk: &mut Disk) -> BTreeSet<u64> {
    disk.watched = true;
    disk.scan().unwrap();
    disk.watched = false;
    std::mem::take(disk.asked.get_mut().unwrap())
}

/// Every file that is on the volume is listed by its record, by its name, or counted as lost.
fn nothing_is_missed(made: &Made, found: &Found, what: &str) -> usize {
    let mut without_names = 0;
    for (path, truth) in &made.truth {
        let name = path.rsplit('/').next().unwrap();
        let has_record = found.records.contains_key(&truth.number);
        let has_name = found.has_name(truth.number, truth.parent, name);
        let is_lost = found.lost.get(&truth.number).is_some_and(|used| *used != Some(false));
        assert!(has_record || has_name || is_lost, "{path} is missed with {what}");
        assert!(has_record != is_lost, "{path} is neither found nor lost, or both, with {what}");
        without_names += usize::from(!has_name);
    }
    without_names
}

#[test]
fn each_block_of_metadata_may_be_bad() {
    let Some(made) = make(64, &["-c", "4096"], |mnt| {
        kinds(mnt);
        many(mnt);
    }) else {
        return;
    };
    each_is_bad(&made, 8);
}

#[test]
fn each_sector_of_metadata_may_be_bad() {
    let Some(made) = make(32, &["-c", "4096"], kinds) else { return };
    each_is_bad(&made, 1);
}

#[test]
fn each_block_of_fragments_may_be_bad() {
    let Some(made) = make(12, &["-c", "4096"], fragments) else { return };
    each_is_bad(&made, 8);
}

/// Makes each block of so many sectors bad that a scan asks for.
fn each_is_bad(made: &Made, sectors: u64) {
    let mut disk = Disk::new(made.bytes.clone());
    let asked = metadata(&mut disk);
    let blocks: BTreeSet<u64> = asked.iter().map(|sector| sector / sectors).collect();
    let whole = disk.scan().unwrap().1;
    for &block in &blocks {
        let bad = block * sectors * 512..(block + 1) * sectors * 512;
        disk.bad = vec![bad.clone()];
        let (_, found) = disk.scan().unwrap_or_else(|| panic!("not recognised with {bad:?}"));
        let without_names = nothing_is_missed(made, &found, &format!("{bad:?}"));
        assert!(without_names <= 4, "{without_names} names are lost with {bad:?}");
        for (number, record) in &found.records {
            let same =
                record.data == whole.records[number].data && record.streams == whole.records[number].streams;
            assert!(same || record.damage.is_some(), "record {number} differs with {bad:?}: {record:?}");
        }
        let hits_record = found.lost.len() + found.damaged().len();
        let hits_file = found.records.values().filter(|record| record.damage.is_some()).count();
        let beyond = whole
            .records
            .values()
            .all(|r| r.metadata.iter().all(|m| m.end <= bad.start || m.start >= bad.end));
        assert!(hits_record + hits_file > 0 || beyond || sectors == 1, "nothing is said of {bad:?}");
    }
    println!("{} blocks", blocks.len());
}

/// 1,000 maps of bad sectors: the files that are damaged are those whose sectors, by their marks, are bad.
#[test]
fn random_maps() {
    let Some(made) = make(32, &["-c", "2048"], many) else { return };
    let mut disk = Disk::new(made.bytes.clone());
    let marks = marks(&made.bytes);
    let ids: BTreeMap<u64, u32> = made
        .truth
        .iter()
        .filter_map(|(path, entry)| {
            let name = path.rsplit('/').next()?.strip_prefix('f')?;
            Some((entry.number, name.parse().ok()?))
        })
        .collect();
    assert_eq!(ids.len(), 400);
    let mut random = Random(11);
    let mut hit = 0;
    for map in 0..1000 {
        disk.bad = bad_ranges(&mut random, disk.bytes.len() as u64 / 512);
        let Some((_, found)) = disk.scan() else {
            assert!(disk.is_bad(&(0..512)));
            continue;
        };
        nothing_is_missed(&made, &found, &format!("map {map}"));
        let bad = disk.bad.iter().flat_map(|range| range.start / 512..range.end / 512);
        let expected: BTreeSet<u32> =
            bad.filter_map(|sector| Some(marks[usize::try_from(sector).unwrap()]?.0)).collect();
        let readable: BTreeSet<u32> =
            ids.iter().filter(|(n, _)| found.records.contains_key(n)).map(|(_, id)| *id).collect();
        let damaged = found.records.values().filter(|record| is_damaged(record, &disk));
        let damaged: BTreeSet<u32> = damaged.filter_map(|record| ids.get(&record.number).copied()).collect();
        assert_eq!(damaged, expected.intersection(&readable).copied().collect(), "map {map}");
        hit += damaged.len();
    }
    println!("{hit} files were damaged");
}

/// 1 to 40 ranges of 1 to 64 sectors, in order.
fn bad_ranges(random: &mut Random, sectors: u64) -> Vec<Range<u64>> {
    let count = 1 + random.below(40);
    let mut bad: Vec<Range<u64>> = Vec::new();
    let mut starts: Vec<u64> = (0..count).map(|_| random.below(sectors)).collect();
    starts.sort_unstable();
    for start in starts {
        let end = (start + 1 + random.below(64)).min(sectors);
        match bad.last_mut() {
            Some(last) if last.end >= start * 512 => last.end = last.end.max(end * 512),
            _ => bad.push(start * 512..end * 512),
        }
    }
    bad
}

/// What `ddru_ntfsfindbad` finds with a map.
#[test]
fn ddrutility_finds_the_same_files() {
    let Some(made) = make(32, &["-c", "4096"], many) else { return };
    let mut disk = Disk::new(made.bytes.clone());
    let marks = marks(&made.bytes);
    let in_files: Vec<u64> =
        marks.iter().zip(0u64..).filter(|(mark, _)| mark.is_some()).map(|(_, at)| at).collect();
    let mut random = Random(3);
    let mut starts: Vec<u64> =
        (0..60).map(|_| in_files[usize::try_from(random.below(in_files.len() as u64)).unwrap()]).collect();
    starts.sort_unstable();
    starts.dedup();
    disk.bad = starts.iter().map(|at| at * 512..at * 512 + 512).collect();
    let place = super::made::Place::new();
    let (image, log) = (place.path.join("image"), place.path.join("map"));
    std::fs::write(&image, &disk.bytes).unwrap();
    let mut map = String::from("0x0 +\n");
    let mut at = 0;
    for bad in &disk.bad {
        if bad.start > at {
            map += &format!("{at:#x} {:#x} +\n", bad.start - at);
        }
        map += &format!("{:#x} 0x200 -\n", bad.start);
        at = bad.end;
    }
    map += &format!("{at:#x} {:#x} +\n", disk.bytes.len() as u64 - at);
    std::fs::write(&log, map).unwrap();
    let out =
        std::process::Command::new("ddru_ntfsfindbad").current_dir(&place.path).args([&image, &log]).output();
    let Ok(_) = out else { return skip("ddru_ntfsfindbad") };
    let text = std::fs::read_to_string(place.path.join("ntfsfindbad.log")).unwrap();
    let numbers = text
        .lines()
        .filter_map(|line| line.split("inode=").nth(1)?.split_whitespace().next()?.parse::<u64>().ok());
    let theirs: BTreeSet<u64> = numbers.collect();
    let (_, found) = disk.scan().unwrap();
    let ours = found.records.values().filter(|record| is_damaged(record, &disk)).map(|record| record.number);
    assert_eq!(ours.collect::<BTreeSet<u64>>(), theirs, "{text}");
    assert!(theirs.len() > 30);
}

/// 12 records of the MFT are bad, among them those of directories: all files are listed.
#[test]
fn twelve_records_of_2500_files() {
    let Some(made) = make(96, &["-c", "4096"], |mnt| {
        let mut random = Random(5);
        let mut directories = vec![mnt.to_path_buf()];
        for number in 0..60 {
            let parent =
                directories[usize::try_from(random.below(directories.len() as u64)).unwrap()].clone();
            directories.push(parent.join(format!("dir{number}")));
            std::fs::create_dir(&directories[directories.len() - 1]).unwrap();
        }
        for number in 0..2500 {
            let directory = &directories[usize::try_from(random.below(61)).unwrap()];
            std::fs::write(
                directory.join(format!("file{number}")),
                vec![1; usize::try_from(random.below(9000)).unwrap()],
            )
            .unwrap();
        }
    }) else {
        return;
    };
    let mut disk = Disk::new(made.bytes.clone());
    let whole = disk.scan().unwrap().1;
    let Place::Runs(mft) = &whole.records[&0].data.place else { panic!() };
    let start = mft[0].volume.unwrap();
    let (directories, files) = (start + 80 * 1024, start + 1000 * 1024);
    for bad in [vec![directories..directories + 12 * 1024], vec![files..files + 12 * 1024]] {
        disk.bad = bad;
        let found = disk.scan().unwrap().1;
        let all = |directory: bool| made.truth.iter().filter(move |(_, entry)| entry.directory == directory);
        let by_record = all(false).filter(|(_, entry)| found.records.contains_key(&entry.number)).count();
        let named = all(false).filter(|(path, entry)| {
            found.has_name(entry.number, entry.parent, path.rsplit('/').next().unwrap())
        });
        assert_eq!(named.count(), 2500);
        println!("{by_record} files by their records");
        assert_eq!(
            by_record + found.lost.len(),
            2500 + all(true).filter(|(_, e)| found.lost.contains_key(&e.number)).count()
        );
    }
}

/// The second half of a record is bad, and has no meaning: the file is whole.
#[test]
fn the_unused_end_of_a_record_may_be_bad() {
    let Some(made) = make(16, &["-c", "4096"], |mnt| std::fs::write(mnt.join("file"), [7; 4096]).unwrap())
    else {
        return;
    };
    let mut disk = Disk::new(made.bytes);
    let number = made.truth["file"].number;
    let place = disk.scan().unwrap().1.records[&number].metadata[0].clone();
    disk.bad = vec![place.start + 512..place.end];
    let found = disk.scan().unwrap().1;
    assert_eq!(found.records[&number].metadata, [place.start..place.start + 512]);
    assert_eq!(found.records[&number].damage, None);
    disk.bad = vec![place.start..place.start + 512];
    let found = disk.scan().unwrap().1;
    assert!(found.lost.contains_key(&number) && found.has_name(number, 5, "file"));
}

/// A volume of which only the MFT's records can be read, or the boot sector's copy.
#[test]
fn copies_are_used() {
    let Some(made) = make(32, &["-c", "4096"], many) else { return };
    let mut disk = Disk::new(made.bytes.clone());
    let whole = disk.scan().unwrap().1;
    let Place::Runs(mft) = &whole.records[&0].data.place else { panic!() };
    let Place::Runs(mirror) = &whole.records[&1].data.place else { panic!() };
    let (mft, mirror) = (mft[0].volume.unwrap(), mirror[0].volume.unwrap());
    let size = disk.bytes.len() as u64;
    let record = |number: u64| mft + number * 1024..mft + number * 1024 + 1024;
    let all = whole.records.len();
    for (bad, lost) in [
        (vec![0..512], 0),
        (vec![size - 512..size], 0),
        (vec![record(0)], 0),
        (vec![mft..mft + 4096], 0),
        (vec![mirror..mirror + 4096], 0),
        (vec![0..512, record(0)], 0),
        (vec![record(0), mirror..mirror + 1024], 1),
        (vec![0..512, mft..mft + 8192, mirror..mirror + 4096], 8),
    ] {
        disk.bad = bad.clone();
        disk.bad.sort_by_key(|range| range.start);
        let (files, found) = disk.scan().unwrap();
        assert_eq!(found.records.len() + lost, all, "{bad:?}");
        assert_eq!(
            found.lost.values().filter(|used| **used != Some(false)).count(),
            lost,
            "{bad:?} {:?}",
            found.lost
        );
        assert_eq!(files.label().is_some(), lost < 8);
        assert!(!found.damaged().is_empty());
    }
    disk.bad = vec![0..512, size - 512..size];
    assert!(matches!(recognize(&Volume::new(&disk, 0..size)), Recognized::Unknown(_)));
}
