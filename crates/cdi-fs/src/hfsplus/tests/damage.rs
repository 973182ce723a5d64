//! Bad sectors and corruptions.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use super::disk::{Disk, Found, Random};
use super::{PLAIN, SMALL, Truth, is_compressed, volume};
use crate::file_system::{Damage, Kind, Place};

/// Returns the sectors of all metadata.
fn metadata(disk: &Disk) -> Vec<u64> {
    let found = disk.scan();
    let mut sectors: Vec<u64> = found
        .structures
        .iter()
        .flat_map(|s| s.at.clone())
        .flat_map(|r| r.start / 512..r.end.div_ceil(512))
        .collect();
    sectors.sort_unstable();
    sectors.dedup();
    sectors
}

/// Checks that each file that exists is known by its record, by its name, or counted as lost, and that nothing is wrong that
/// is not marked.
fn nothing_is_missed(disk: &Disk, whole: &Found, truth: &[Truth], what: &str) -> Found {
    let found = disk.scan();
    let (known, counted) = found.known();
    let numbers: HashSet<u64> = truth.iter().map(|t| t.number).collect();
    let missing: Vec<_> = numbers.iter().filter(|n| !known.contains(n)).collect();
    assert!(missing.len() <= counted, "{what}: {missing:?} are missing, {counted} counted");
    for record in found.records.values().filter(|r| r.damage.is_none()) {
        let Some(want) = whole.records.get(&record.number) else {
            panic!("{what}: {record:?} is not on the volume");
        };
        // Of two copies in the catalogue, the older may be found; it is the same.
        let mut want = want.clone();
        (want.handle, want.metadata) = (record.handle, record.metadata.clone());
        let target_is_lost = record.kind == Kind::Link && record.target.is_none();
        assert!(
            target_is_lost || record.data.packed.is_some() || *record == want,
            "{what}: {record:?}\n{want:?}"
        );
    }
    found
}

/// Makes every `step` sectors of the metadata bad, one at a time.
fn each_is_bad(fixture: (&[u8], &str), step: u64) {
    let (mut disk, truth) = volume(fixture);
    let whole = disk.scan();
    let total = whole.records.len();
    let true_free = disk.free();
    let mut worst = 0;
    let mut pieces: Vec<u64> = metadata(&disk).iter().map(|s| s / step).collect();
    pieces.dedup();
    for piece in pieces {
        disk.spoil(piece * step * 512..(piece + 1) * step * 512);
        let what = format!("{:?} is bad", disk.bad);
        let found = nothing_is_missed(&disk, &whole, &truth, &what);
        worst = worst.max(total.saturating_sub(found.records.len()));
        let unlisted = found.records.len() < total && found.structures.iter().all(|s| s.damage.is_none());
        assert!(!unlisted, "{what}: records are lost, and no structure is damaged");
        for free in disk.free() {
            assert!(true_free.iter().any(|r| r.start <= free.start && free.end <= r.end), "{what}: {free:?}");
        }
    }
    println!("pieces of {step} sectors: at most {worst} records of {total} are lost");
}

#[test]
fn each_sector_of_metadata_is_bad() {
    for fixture in [PLAIN, SMALL] {
        each_is_bad(fixture, 1);
    }
}

#[test]
fn each_node_is_bad() {
    for fixture in [PLAIN, SMALL] {
        each_is_bad(fixture, 8);
        each_is_bad(fixture, 16);
    }
}

#[test]
fn the_copy_of_the_header_is_used() {
    let (mut disk, truth) = volume(PLAIN);
    let whole = disk.scan();
    let end = disk.bytes.len() as u64;
    disk.spoil(1024..1536);
    let found = nothing_is_missed(&disk, &whole, &truth, "the header is bad");
    assert_eq!(found.records.len(), whole.records.len());
    let header = found.structures.iter().find(|s| s.what == "volume header").unwrap();
    assert!(matches!(header.damage, Some((Damage::Unreadable(_), _))));
    disk.bad = vec![1024..1536, end - 1024..end - 512];
    assert!(disk.open().is_none());
    disk.bad = Vec::new();
    disk.bytes[1024] = 0;
    assert!(disk.open().is_none(), "the copy may be left of what was there before");
    disk.bytes[1024] = b'H';
    disk.bytes[1024 + 40..1024 + 44].fill(7);
    assert_eq!(disk.scan().records.len(), whole.records.len());
}

/// Returns the bytes that hold each contents of fill.py, found without looking at metadata.
fn owners(disk: &Disk) -> HashMap<u32, Vec<Range<u64>>> {
    let mut owners: HashMap<u32, Vec<Range<u64>>> = HashMap::new();
    for at in (0..disk.bytes.len()).step_by(4096) {
        let block = &disk.bytes[at..at + 18];
        let number = std::str::from_utf8(&block[..8]).ok().and_then(|text| text.parse().ok());
        if let Some(number) = number.filter(|_| block[8] == b' ' && block[17] == b'\n') {
            owners.entry(number).or_default().push(at as u64..at as u64 + 4096);
        }
    }
    owners
}

#[test]
fn damaged_files_are_those_whose_blocks_are_bad() {
    let (mut disk, truth) = volume(PLAIN);
    let (whole, owners) = (disk.scan(), owners(&disk));
    let mut random = Random(17);
    let sectors = disk.bytes.len() as u64 / 512;
    let (mut damaged, mut lost) = (0, 0);
    for map in 0..1000 {
        disk.bad = (0..1 + random.below(20))
            .map(|_| {
                let first = 3 + random.below(sectors - 64);
                first * 512..(first + 1 + random.below(64)) * 512
            })
            .collect();
        disk.bad.sort_by_key(|r| r.start);
        let found = nothing_is_missed(&disk, &whole, &truth, &format!("map {map}"));
        for truth in truth.iter().filter(|t| t.kind == Kind::File && !is_compressed(t)) {
            let Some(record) = found.records.get(&truth.number).filter(|r| r.damage.is_none()) else {
                lost += 1;
                continue;
            };
            let hit =
                |range: &Range<u64>| disk.bad.iter().any(|b| b.start < range.end && range.start < b.end);
            let want = owners.get(&truth.contents).is_some_and(|blocks| blocks.iter().any(hit));
            let Place::Runs(runs) = &record.data.place else { panic!("{record:?}") };
            let got = runs.iter().any(|run| run.volume.is_some_and(|v| hit(&(v..v + run.len))));
            assert_eq!(got, want, "map {map}: {}", truth.path);
            damaged += usize::from(got);
        }
    }
    println!("1000 maps: {damaged} files damaged, the records of {lost} lost");
    assert!(damaged > 1000 && lost > 1000);
}

#[test]
fn corrupt_metadata_is_survived() {
    let mut random = Random(23);
    for fixture in [PLAIN, SMALL] {
        let (disk, _) = volume(fixture);
        let whole = disk.scan().reports;
        let sectors = metadata(&disk);
        for round in 0..1000 {
            let mut disk = disk.clone();
            for _ in 0..1 + random.below(8) {
                let sector = sectors[usize::try_from(random.below(sectors.len() as u64)).unwrap()];
                let at = usize::try_from(sector * 512 + random.below(512)).unwrap();
                let value = [0, 0xFF, 0x7F, 0x80, 1][usize::try_from(random.below(5)).unwrap()];
                let len = [1, 1, 2, 4, 300][usize::try_from(random.below(5)).unwrap()];
                let end = (at + len).min(disk.bytes.len());
                disk.bytes[at..end].fill(value);
            }
            // The header is hit often.
            if random.below(4) == 0 {
                let at = 1024 + usize::try_from(random.below(512)).unwrap();
                disk.bytes[at] = u8::try_from(random.below(256)).unwrap();
            }
            let start = Instant::now();
            let Some(fs) = disk.open() else { continue };
            let mut found = Found::default();
            fs.scan(&disk.volume(), &mut found);
            let mut last = 0;
            fs.free(&disk.volume(), &mut |range| {
                assert!(last <= range.start && range.end <= disk.bytes.len() as u64, "{range:?}");
                last = range.end;
            });
            for record in found.records.values() {
                let _ = fs.record(&disk.volume(), record.handle);
            }
            assert!(found.reports < whole * 400, "round {round}: {}", found.reports);
            assert!(start.elapsed() < Duration::from_secs(10), "round {round}: {:?}", start.elapsed());
        }
    }
}
