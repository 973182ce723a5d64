//! Checks of a scan against what is known of a volume.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::Random;
use super::disk::{Disk, Found, scan};
use super::tree::{Stamp, contents, owner};
use crate::file_system::{Kind, Place, Record, Run};

/// A volume, and what is on it.
pub(crate) struct Known {
    pub(crate) image: Vec<u8>,
    pub(crate) files: BTreeMap<String, Stamp>,
    /// The records of the undamaged volume, by number.
    pub(crate) records: BTreeMap<u64, Record>,
    /// The path of each.
    pub(crate) paths: BTreeMap<u64, String>,
    /// The sectors that a scan reads.
    pub(crate) metadata: Vec<u64>,
    /// The file that each sector belongs to, by its number.
    pub(crate) owners: BTreeMap<u64, u32>,
}

fn name(record: &Record) -> &str {
    record.names.first().map_or("", |name| &name.name)
}

fn paths(records: &BTreeMap<u64, Record>) -> BTreeMap<u64, String> {
    let path = |record: &Record| {
        let mut path = name(record).to_owned();
        let mut parent = record.names.first().map_or(0, |name| name.parent);
        while parent != 0 {
            let above = &records[&parent];
            path = format!("{}/{path}", name(above));
            parent = above.names[0].parent;
        }
        path
    };
    records.iter().map(|(number, record)| (*number, path(record))).collect()
}

pub(crate) fn runs(record: &Record) -> &[Run] {
    match &record.data.place {
        Place::Runs(runs) | Place::Units(_, runs) => runs,
        Place::Inline(_) => &[],
    }
}

impl Known {
    /// Scans an undamaged volume and compares everything.
    pub(crate) fn new(image: Vec<u8>, files: BTreeMap<String, Stamp>) -> Known {
        let disk = Disk::new(&image, BTreeSet::new());
        let (system, found) = scan(&disk).expect("recognised");
        let damaged: Vec<_> = found.structures.iter().filter(|s| s.damage.is_some()).collect();
        assert!(damaged.is_empty(), "{damaged:?}");
        assert!(found.lost.is_empty() && found.children.is_empty());
        let records: BTreeMap<_, _> = found.records.iter().map(|r| (r.number, r.clone())).collect();
        assert_eq!(records.len(), found.records.len(), "numbers are unique");
        let paths = paths(&records);
        let by_path: BTreeMap<_, _> = records
            .values()
            .filter(|r| r.kind == Kind::File)
            .map(|r| (paths[&r.number].clone(), r))
            .collect();
        assert_eq!(by_path.keys().collect::<Vec<_>>(), files.keys().collect::<Vec<_>>());
        let mut fragments = 0;
        for (path, stamp) in &files {
            let record = by_path[path];
            assert_eq!((record.data.size, &record.damage), (stamp.size, &None), "{path}");
            assert_eq!(copy(&image, record), contents(*stamp), "{path}");
            fragments += runs(record).len();
            let mut again =
                system.record(&crate::volume::Volume::new(&disk, 0..u64::MAX), record.handle).unwrap();
            (again.names, again.metadata) = (record.names.clone(), record.metadata.clone());
            assert_eq!(&again, record);
        }
        println!("{}: {} files in {fragments} runs", system.name(), files.len());
        let live: BTreeSet<u32> = files.values().map(|stamp| stamp.id).collect();
        let sectors = image.chunks(512).enumerate();
        let owners: BTreeMap<u64, u32> = sectors
            .filter_map(|(n, sector)| Some((n as u64, owner(sector)?.0)).filter(|(_, id)| live.contains(id)))
            .collect();
        let metadata = disk.read.lock().unwrap().iter().copied().collect();
        let known = Known { image, files, records, paths, metadata, owners };
        known.check_free(&found);
        let data = known.metadata.iter().filter(|sector| known.owners.contains_key(sector)).count();
        assert_eq!(data, 0, "sectors of files were read");
        known
    }

    /// What is in use is not free; what belongs to nothing is.
    fn check_free(&self, found: &Found) {
        let mut last = 0;
        for range in &found.free {
            assert!(range.start >= last && range.end > range.start, "{range:?}");
            last = range.end;
            for sector in range.start / 512..range.end / 512 {
                assert!(!self.owners.contains_key(&sector), "sector {sector} is free");
            }
        }
    }

    fn runs_are_of(&self, record: &Record, id: u32) {
        for run in runs(record) {
            for at in (run.file..run.file + run.len).step_by(512).filter(|at| *at < record.data.size) {
                let sector = (run.volume.unwrap() + at - run.file) / 512;
                assert_eq!(self.owners.get(&sector), Some(&id), "{:?}", record.names);
            }
        }
    }

    /// Everything is listed, or counted as lost.
    fn check_nothing_is_missed(&self, found: &Found, what: &dyn std::fmt::Debug) {
        let there: BTreeMap<u64, &Record> = found.records.iter().map(|r| (r.number, r)).collect();
        let children: BTreeMap<u64, &str> =
            found.children.iter().map(|child| (child.number, &*child.name.name)).collect();
        let damaged: Vec<_> = found.structures.iter().filter(|s| s.damage.is_some()).collect();
        for (number, record) in &self.records {
            match there.get(number) {
                Some(now) if record.kind == Kind::File && now.kind == Kind::File => {
                    let id = self.files[&self.paths[number]].id;
                    if now.damage.is_none() {
                        assert_eq!(now.data, record.data, "{what:?}: {}", self.paths[number]);
                    }
                    self.runs_are_of(now, id);
                }
                Some(now) => assert_eq!(now.kind, record.kind, "{what:?}: {}", self.paths[number]),
                None => {
                    let parent = record.names.first().map_or(0, |name| name.parent);
                    let above = !there.contains_key(&parent) || there[&parent].damage.is_some();
                    let counted = found.lost.contains(number) || above;
                    assert!(counted, "{what:?}: {} at {number} is missed", self.paths[number]);
                    assert!(!damaged.is_empty() || found.lost.contains(number));
                }
            }
            if let Some(child) = children.get(number) {
                let (said, is) = (child.trim_start_matches('\u{FFFD}'), name(record));
                let parts: Vec<_> = said.split('\u{FFFD}').collect();
                assert!(parts.iter().all(|part| is.contains(part)), "{child} is {is}");
            }
        }
        // So may a file: all of it is of one.
        let is_nameless = |r: &Record| r.names.first().is_some_and(|name| name.parent == u64::MAX);
        for record in there.values().filter(|r| is_nameless(r)) {
            let sectors = runs(record).iter().filter_map(|run| Some((run.volume? / 512, run.len / 512)));
            let of: BTreeSet<_> =
                sectors.flat_map(|(at, len)| at..at + len).filter_map(|s| self.owners.get(&s)).collect();
            assert!(of.len() <= 1 && record.damage.is_some(), "{what:?}: {} is of {of:?}", record.number);
        }
        // A directory whose entry is lost may be found without a name.
        let is_named = |r: &Record| !is_nameless(r) && (r.kind != Kind::Directory || !r.names.is_empty());
        for (number, _) in there.iter().filter(|(_, r)| is_named(r)) {
            assert!(
                self.records.contains_key(number),
                "{what:?}: {number} was not there: {:?}",
                there[number]
            );
        }
    }

    /// Makes each sector of the metadata bad, alone. Returns the number of files without a record, and how many of these have a
    /// name.
    pub(crate) fn check_each_sector(&self) -> (usize, usize) {
        let (mut without, mut named, mut unrecognised) = (0, 0, Vec::new());
        for sector in &self.metadata {
            let disk = Disk::new(&self.image, BTreeSet::from([*sector]));
            let Some((_, found)) = scan(&disk) else {
                unrecognised.push(*sector);
                continue;
            };
            let damage = found.structures.iter().any(|s| s.damage.is_some());
            // A sector after the end of a directory is not missed.
            let same = found.records.iter().all(|r| self.records.get(&r.number) == Some(r));
            let whole = same && found.records.len() == self.records.len();
            assert!(damage || !found.lost.is_empty() || whole, "sector {sector} is bad, and nothing says so");
            self.check_nothing_is_missed(&found, sector);
            let there: BTreeSet<u64> = found.records.iter().map(|r| r.number).collect();
            let children: BTreeSet<u64> = found.children.iter().map(|c| c.number).collect();
            without += self.records.keys().filter(|number| !there.contains(number)).count();
            named += self.records.keys().filter(|n| !there.contains(n) && children.contains(n)).count();
        }
        println!("not recognised without sectors {unrecognised:?} of {}", self.metadata.len());
        assert!(unrecognised.len() <= 1);
        (without, named)
    }

    /// Reads a volume as imaging does: first nothing, then what a scan asked for, until it asks for nothing more.
    pub(crate) fn check_imaging(&self) {
        let mut disk = Disk::new(&self.image, (0..self.image.len() as u64 / 512).collect());
        disk.untried = true;
        let mut rounds = 0;
        loop {
            let found = scan(&disk).map(|(_, found)| found);
            let asked: Vec<u64> =
                disk.read.lock().unwrap().iter().copied().filter(|s| disk.bad.contains(s)).collect();
            if asked.is_empty() {
                let records = found.unwrap().records;
                assert!(records.iter().all(|r| self.records.get(&r.number) == Some(r)));
                assert_eq!(records.len(), self.records.len());
                break;
            }
            disk.bad.retain(|sector| !asked.contains(sector));
            rounds += 1;
            assert!(rounds < 100);
        }
        let read: Vec<u64> = disk.read.lock().unwrap().iter().copied().collect();
        let data = read.iter().filter(|sector| self.owners.contains_key(sector)).count();
        println!(
            "{rounds} rounds read {} sectors, {} once nothing is bad, {data} of files",
            read.len(),
            self.metadata.len()
        );
        // Backups of boot sectors are looked for at fixed places, before it is known what the volume is.
        assert!(data <= 8, "{data} sectors of files were read");
    }

    /// Makes the sectors of each set bad, and returns the number of files that are damaged by it.
    pub(crate) fn check_sets(&self, sets: impl Iterator<Item = BTreeSet<u64>>) -> usize {
        let mut damaged = 0;
        for bad in sets {
            let what = bad.clone();
            let disk = Disk::new(&self.image, bad);
            let (_, found) = scan(&disk).unwrap();
            self.check_nothing_is_missed(&found, &what);
            damaged += found.records.iter().filter(|r| r.kind == Kind::File && r.damage.is_some()).count();
        }
        damaged
    }

    /// Compares the damaged files of random maps of bad sectors with those that the image itself says.
    pub(crate) fn check_maps(&self, count: u64) {
        let mut random = Random(0xC0FF_EE00_1234_5677);
        let sectors = self.image.len() as u64 / 512;
        for map in 0..count {
            let mut bad = BTreeSet::new();
            for _ in 0..1 + random.below(30) {
                let first = if random.below(6) == 0 {
                    self.metadata[random.index(self.metadata.len())]
                } else {
                    random.below(sectors)
                };
                bad.extend((first..first + 1 + random.below(16)).filter(|s| *s < sectors));
            }
            let hit: BTreeSet<u32> = bad.iter().filter_map(|s| self.owners.get(s).copied()).collect();
            let disk = Disk::new(&self.image, bad);
            let Some((_, found)) = scan(&disk) else { continue };
            self.check_nothing_is_missed(&found, &map);
            for record in found.records.iter().filter(|r| r.kind == Kind::File) {
                let Some(stamp) = self.paths.get(&record.number).and_then(|path| self.files.get(path)) else {
                    continue;
                };
                let used = |run: &Run| {
                    let len = run.len.min(record.data.size.saturating_sub(run.file));
                    run.volume.map(|at| at..at + len)
                };
                let by_runs = runs(record).iter().filter_map(used).any(|range| disk.is_bad(&range));
                assert!(!by_runs || hit.contains(&stamp.id), "map {map}: {:?} is whole", record.names);
                assert!(
                    by_runs || record.damage.is_some() || !hit.contains(&stamp.id),
                    "map {map}: {:?} is hit",
                    record.names
                );
            }
        }
    }

    /// Changes bytes of the metadata, and scans.
    pub(crate) fn check_corruptions(&self, count: u64) {
        let mut random = Random(0xBAD0_0BAD_DEAD_BEEF);
        let mut longest = Duration::ZERO;
        let mut image = self.image.clone();
        for _ in 0..count {
            let mut changed = Vec::new();
            let mut put = |image: &mut [u8], at: usize, value: u8| {
                changed.push((at, image[at]));
                image[at] = value;
            };
            for _ in 0..1 + random.below(12) {
                let at = self.metadata[random.index(self.metadata.len())] * 512 + random.below(512);
                let value = [0, 0xFF, u8::try_from(random.below(256)).unwrap(), 1, 0x80][random.index(5)];
                put(&mut image, usize::try_from(at).unwrap(), value);
            }
            // Sometimes a sector has what belongs to another one.
            if random.below(4) == 0 {
                let mut sector =
                    || usize::try_from(self.metadata[random.index(self.metadata.len())] * 512).unwrap();
                let (to, from) = (sector(), sector());
                (0..512).for_each(|n| put(&mut image, to + n, self.image[from + n]));
            }
            let start = Instant::now();
            let disk = Disk::new(&image, BTreeSet::new());
            let volume = crate::volume::Volume::new(&disk, 0..image.len() as u64);
            if let Some((files, found)) = scan(&disk) {
                for record in found.records.iter().take(50) {
                    let _ = files.record(&volume, record.handle);
                }
                let _ = files.record(&volume, random.below(u64::MAX));
            }
            longest = longest.max(start.elapsed());
            for (at, value) in changed.into_iter().rev() {
                image[at] = value;
            }
        }
        println!("the longest scan of {count} took {longest:?}");
        assert!(longest < Duration::from_secs(5));
    }
}

/// Returns the contents of a file.
fn copy(image: &[u8], record: &Record) -> Vec<u8> {
    let size = usize::try_from(record.data.size).unwrap();
    let mut bytes = vec![0xEE; size];
    for run in runs(record) {
        let from = usize::try_from(run.file).unwrap();
        let to = usize::try_from(run.file + run.len).unwrap().min(size);
        let at = usize::try_from(run.volume.unwrap()).unwrap();
        if run.unwritten {
            bytes[from..to].fill(0);
        } else {
            bytes[from..to].copy_from_slice(&image[at..at + to - from]);
        }
    }
    bytes
}
