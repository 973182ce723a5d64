//! Imaging reads first what a scan asks for, and learns from reads that fail what it must read next.

use std::ops::Range;
use std::sync::Mutex;

use cdi_base::error::ReadError;
use cdi_base::readable::{Missing, Readable};

use super::volumes::filled;
use super::{Disk, Seen, scan};
use crate::file_system::{Kind, Place};
use crate::volume::Volume;

/// A disk of which some sectors were read.
struct Learning {
    disk: Vec<u8>,
    have: Vec<bool>,
    asked: Mutex<Vec<Range<u64>>>,
}

impl Learning {
    fn sectors(range: Range<u64>) -> Range<usize> {
        usize::try_from(range.start / 512).unwrap()..usize::try_from(range.end.div_ceil(512)).unwrap()
    }
}

impl Readable for Learning {
    fn size(&self) -> u64 {
        self.disk.len() as u64
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> Result<(), ReadError> {
        let range = at..at + buffer.len() as u64;
        if Learning::sectors(range.clone()).any(|sector| !self.have[sector]) {
            self.asked.lock().unwrap().push(range);
            return Err(ReadError::Bad { sector: at / 512, good: 0, untried: true });
        }
        self.disk.read(buffer, at)
    }

    fn missing(&self, range: Range<u64>) -> Vec<Missing> {
        let sectors = Learning::sectors(range.clone()).filter(|sector| !self.have[*sector]);
        let bytes = sectors.map(|s| (s as u64 * 512).max(range.start)..(s as u64 * 512 + 512).min(range.end));
        bytes.map(|range| Missing { range, untried: true }).collect()
    }
}

#[test]
fn what_is_asked_for_is_enough_and_is_metadata() {
    for options in [
        "-t ext4 -b 1024 -N 4096",
        "-t ext2 -b 1024 -N 4096",
        "-t ext4 -b 4096 -g 2048 -O ^flex_bg",
        "-t ext4 -b 1024 -O meta_bg,^resize_inode,inline_data",
    ] {
        let Some(made) = filled(64, options) else { continue };
        made.finish();
        let disk = Disk::new(made.bytes());
        let truth = scan(&disk).unwrap();
        let sectors = disk.bytes.len() / 512;
        let mut learning = Learning { disk: disk.bytes, have: vec![false; sectors], asked: Mutex::default() };
        let mut rounds = 0;
        let seen = loop {
            let mut seen = Seen::default();
            let volume = Volume::new(&learning, 0..learning.size());
            if let Ok(Some(fs)) = crate::ext::open(&volume) {
                fs.scan(&volume, &mut seen);
                fs.free(&volume, &mut |_| {});
            }
            let asked = std::mem::take(&mut *learning.asked.lock().unwrap());
            if asked.is_empty() {
                break seen;
            }
            asked.into_iter().flat_map(Learning::sectors).for_each(|sector| learning.have[sector] = true);
            rounds += 1;
            assert!(rounds < 12, "{options}");
        };
        assert!(seen.records == truth.records && seen.children == truth.children, "{options}");
        assert!(seen.damaged().is_empty() && seen.lost.is_empty(), "{options}");
        let metadata = metadata(&seen, sectors);
        let more = (0..sectors).filter(|s| learning.have[*s] && !metadata[*s]).collect::<Vec<_>>();
        assert_eq!(more, Vec::<usize>::new(), "{options}");
        println!(
            "{options}: {rounds} rounds, {} of {sectors} sectors",
            learning.have.iter().filter(|h| **h).count()
        );
    }
}

/// Returns which sectors are metadata, as far as the scan reports it.
fn metadata(seen: &Seen, sectors: usize) -> Vec<bool> {
    let mut found = vec![false; sectors];
    let mut add = |range: Range<u64>| Learning::sectors(range).for_each(|sector| found[sector] = true);
    seen.structures.iter().flat_map(|s| s.at.clone()).for_each(&mut add);
    for record in seen.records.values() {
        record.metadata.iter().cloned().for_each(&mut add);
        let named = matches!(record.kind, Kind::Directory | Kind::Link);
        if let (true, Place::Runs(runs)) = (named, &record.data.place) {
            runs.iter().filter_map(|r| r.volume.map(|v| v..v + r.len)).for_each(&mut add);
        }
    }
    found
}
