//! Volumes that somebody damaged on purpose: no panic, no endless loop.

use std::time::{Duration, Instant};

use crate::volume::Volume;

use super::disk::{Disk, Random};
use super::made::{fragments, kinds, make, many};

/// Flips bytes in what a scan reads, with the fixups as they are, and without.
fn flip(bytes: &[u8], maps: u64, seed: u64) {
    let mut disk = Disk::new(bytes.to_vec());
    disk.watched = true;
    let clean = disk.scan().unwrap().1;
    disk.watched = false;
    let sectors: Vec<u64> = disk.asked.get_mut().unwrap().iter().copied().collect();
    let mut random = Random(seed);
    for map in 0..maps {
        let mut changed = Vec::new();
        for _ in 0..1 + random.below(200) {
            let sector = sectors[usize::try_from(random.below(sectors.len() as u64)).unwrap()];
            let at = usize::try_from(sector * 512 + random.below(510)).unwrap();
            changed.push((at, disk.bytes[at]));
            disk.bytes[at] = match random.below(4) {
                0 => 0xFF,
                1 => 0,
                2 => disk.bytes[at] ^ (1 << random.below(8)),
                _ => random.next().to_le_bytes()[0],
            };
        }
        let start = Instant::now();
        if let Some((files, found)) = disk.scan() {
            let volume = Volume::new(&disk, 0..u64::MAX);
            let mut last = 0;
            files.free(&volume, &mut |range| {
                assert!(range.start >= last && range.end > range.start && range.end <= bytes.len() as u64);
                last = range.end;
            });
            for number in (0..20).map(|_| random.below(600)) {
                let _ = files.record(&volume, number);
            }
            assert!(found.records.len() <= clean.records.len() + 100);
        }
        assert!(start.elapsed() < Duration::from_secs(10), "map {map} took {:?}", start.elapsed());
        for (at, byte) in changed.into_iter().rev() {
            disk.bytes[at] = byte;
        }
    }
}

#[test]
fn flipped_bytes() {
    let Some(made) = make(32, &["-c", "4096"], |mnt| {
        kinds(mnt);
        many(mnt);
    }) else {
        return;
    };
    flip(&made.bytes, 2000, 1);
}

#[test]
fn flipped_bytes_of_fragments() {
    let Some(made) = make(12, &["-c", "4096"], fragments) else { return };
    flip(&made.bytes, 1000, 2);
}

/// The boot sector says that the volume has 4 EiB, and the MFT that it has 32 GiB.
#[test]
fn sizes_that_are_too_large() {
    let Some(made) = make(16, &["-c", "4096"], many) else { return };
    let mut disk = Disk::new(made.bytes);
    let end = disk.bytes.len() - 512;
    for at in [0, end] {
        disk.bytes[at + 0x28..at + 0x30].copy_from_slice(&(1u64 << 53).to_le_bytes());
    }
    let mirror =
        usize::try_from(u64::from_le_bytes(disk.bytes[0x38..0x40].try_into().unwrap()) * 4096).unwrap();
    for record in [4 * 4096, mirror] {
        let attribute =
            (record..record + 400).step_by(8).find(|&at| disk.bytes[at..at + 4] == [0x80, 0, 0, 0]).unwrap();
        for at in [0x28, 0x30, 0x38] {
            disk.bytes[attribute + at..attribute + at + 8].copy_from_slice(&(1u64 << 35).to_le_bytes());
        }
        disk.bytes[attribute + 0x18..attribute + 0x20].copy_from_slice(&0x7F_FFFEu64.to_le_bytes());
        let runs = attribute + usize::from(disk.bytes[attribute + 0x20]);
        disk.bytes[runs..runs + 6].copy_from_slice(&[0x13, 0xFF, 0xFF, 0x7F, 4, 0]);
    }
    let start = Instant::now();
    let (files, found) = disk.scan().unwrap();
    println!("{} records, {} lost in {:?}", found.records.len(), found.lost.len(), start.elapsed());
    assert!(found.records.len() > 400 && found.lost.len() < 1 << 21);
    files.free(&Volume::new(&disk, 0..u64::MAX), &mut |_| {});
    assert!(start.elapsed() < Duration::from_secs(60));
}
