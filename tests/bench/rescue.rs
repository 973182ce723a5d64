//! The passes next to GNU ddrescue's on the same simulated disks: `cargo bench --bench rescue -- [DIR]`. Needs ddrescue (written for
//! 1.27) and a directory on a file system with sparse files of 32 GiB and O_DIRECT; takes a minute, and 100 MB in the directory.
//!
//! The reads of ddrescue are those in the log of a run with `-H`, where the reads of a sparse file fail as a map says; ours are
//! those of `Passes`, without input or output. Both have sectors of 512 bytes, and in both a read with a bad sector fails as a
//! whole.
//!
//! One model of a drive gives the time of both: 150 MB/s, in the slow zone 1.5 MB/s, seeks as in first.rs, 3 s for a failed read.
//! A drive retries by itself before it reports an error: with SCT error recovery control usually for 7 s at most, without it
//! sometimes for much longer; 3 s is what many need. All times are for these 3 s: where reads fail, they are most of the time.
//!
//! In this simulation ddrescue does not see that a zone is slow. With its default options it would not react to it either: it
//! leaves slow areas for later only with `--min-read-rate`. A run with `-n` and then one without have no row of their own: they do
//! the same reads in the same order as a single run.
//!
//! Large bad areas are not scraped, or the runs would not end: on the disk with a dead head ddrescue has `-n`, and the passes stop
//! by themselves before the bands of that head; on the disk with a bad tail neither program scrapes.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::iter;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cdi_capture::rescue::passes::{Next, Outcome, Passes, RescuePlan};
use cdi_image::badmap::{BadBlocks, BadRange, Reason, Status};

const SIZE: u64 = 32 << 30;
const MIB: u64 = 1 << 20;
const SECTOR: u64 = 512;
const RATE: f64 = 150e6;
const SLOW_RATE: f64 = 1.5e6;
const FAILED_SECONDS: f64 = 3.0;

/// A simulated disk.
struct Disk {
    name: &'static str,
    /// The bad sectors, as sorted ranges that do not touch.
    bad: Vec<Range<u64>>,
    slow: Range<u64>,
    /// Whether the passes scrape.
    scrape: bool,
    /// The options of each run of ddrescue.
    theirs: &'static [&'static [&'static str]],
}

impl Disk {
    /// A disk whose bad areas are in order, and do not touch if they do not overlap.
    fn new(name: &'static str, areas: impl IntoIterator<Item = Range<u64>>) -> Disk {
        let mut bad: Vec<Range<u64>> = Vec::new();
        for area in areas {
            // The last sector is good: ddrescue takes the last good sector for the end of a simulated disk.
            let (start, end) = (area.start, area.end.min(SIZE - SECTOR));
            match bad.last_mut() {
                Some(last) if last.end >= start => last.end = last.end.max(end),
                _ => bad.push(start..end),
            }
        }
        Disk { name, bad, slow: 0..0, scrape: true, theirs: &[&[]] }
    }

    /// Returns the number of bad bytes.
    fn bad_bytes(&self) -> u64 {
        self.bad.iter().map(|bad| bad.end - bad.start).sum()
    }

    /// Returns the parts of `range` that are good.
    fn good_parts(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let first = self.bad.partition_point(|bad| bad.end <= range.start);
        let inside = self.bad[first..].iter().take_while(|bad| bad.start < range.end).cloned();
        let (mut parts, mut at) = (Vec::new(), range.start);
        for bad in inside.chain(iter::once(range.end..range.end)) {
            parts.extend((at < bad.start).then_some(at..bad.start));
            at = bad.end;
        }
        parts
    }

    /// Returns the disk as a mapfile of ddrescue.
    fn map(&self) -> String {
        let (mut map, mut at) = (String::from("0x0 ? 1\n"), 0);
        let mut block = |start: u64, end: u64, status| {
            if start < end {
                map += &format!("{start:#x} {:#x} {status}\n", end - start);
            }
        };
        for bad in &self.bad {
            block(at, bad.start, '+');
            block(bad.start, bad.end, '-');
            at = bad.end;
        }
        block(at, SIZE, '+');
        map
    }
}

fn disks() -> Vec<Disk> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut below = |limit: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    let mut area = |start: u64, room: u64, most: u64| {
        let start = start + below(room / SECTOR) * SECTOR;
        start..start + (1 + below(most)) * SECTOR
    };
    let mut scattered: Vec<_> = (0..1000).map(|_| area(0, SIZE, 8)).collect();
    scattered.sort_by_key(|area| area.start);
    // On each track of 1 MiB up to 32 sectors are bad; where, moves on from track to track.
    let mut track = |n| area(SIZE / 3 / MIB * MIB + n * MIB + n % 64 * 14 * 1024, 64 << 10, 32);
    let scratch: Vec<_> = (0..512).map(&mut track).collect();
    // Bands of 4 heads in the order 0 1 2 3 3 2 1 0, 64 MiB at the start and 40 % shorter at the end; head 1 is dead.
    let (mut head, mut at, mut n) = (Vec::new(), 0, 0);
    while at < SIZE {
        let band = (64 * MIB - 64 * MIB * 4 / 10 * (at * 16 / SIZE) / 16) / SECTOR * SECTOR;
        head.extend([1, 6].contains(&(n % 8)).then_some(at..at + band));
        (at, n) = (at + band, n + 1);
    }
    let tail = SIZE / 10 * 9 / SECTOR * SECTOR..SIZE;
    vec![
        Disk::new("scattered errors", scattered),
        Disk::new("scratch", scratch),
        // The second: as ddrescue's manual advises if there are large bad areas at regular distances.
        Disk { theirs: &[&["-n"], &["-n", "--cpass=1,2", "-K8Mi"]], ..Disk::new("dead head", head) },
        Disk { scrape: false, theirs: &[&["-n"]], ..Disk::new("bad tail", iter::once(tail)) },
        Disk { slow: SIZE / 10 * 4..SIZE / 2, ..Disk::new("slow zone", []) },
    ]
}

/// Adds a range to a set of sectors. Returns the number of bytes that were not in it.
fn add(set: &mut [u64], range: &Range<u64>) -> u64 {
    let mut added = 0;
    for sector in range.start / SECTOR..range.end / SECTOR {
        let word = &mut set[usize::try_from(sector / 64).unwrap()];
        added += !*word >> (sector % 64) & 1;
        *word |= 1 << (sector % 64);
    }
    added * SECTOR
}

/// What a program has read from a drive, and how long that took.
#[derive(Default)]
struct Drive {
    at: u64,
    seconds: f64,
    failed: u64,
    /// The failed reads before the last good sector was saved.
    failed_before_all: Option<u64>,
    tried: Vec<u64>,
    saved: Vec<u64>,
    /// Good bytes: read again, after a failed or a successful read; read again after a successful read; saved; in all.
    again: u64,
    twice: u64,
    saved_bytes: u64,
    good: u64,
    /// The time of each read that saved something, and the number of bytes saved until then.
    curve: Vec<(f64, u64)>,
}

impl Drive {
    fn new(disk: &Disk) -> Drive {
        let set = vec![0; usize::try_from(SIZE.div_ceil(SECTOR * 64)).unwrap()];
        Drive { good: SIZE - disk.bad_bytes(), tried: set.clone(), saved: set, ..Drive::default() }
    }

    /// Reads a range. Returns whether that failed, and the seconds it took.
    fn read(&mut self, disk: &Disk, range: &Range<u64>) -> (bool, f64) {
        let mut took = match range.start.checked_sub(self.at) {
            Some(gap) if gap <= MIB => gap as f64 / RATE,
            _ => {
                let part = range.start.abs_diff(self.at) as f64 / SIZE as f64;
                60.0 / 7200.0 / 2.0 + 0.8e-3 + 13.3e-3 * part.sqrt()
            }
        };
        let good = disk.good_parts(range);
        for part in &good {
            self.again += part.end - part.start - add(&mut self.tried, part);
        }
        let failed = good != [range.clone()];
        if failed {
            took += FAILED_SECONDS;
            self.failed += 1;
        } else {
            let len = range.end - range.start;
            let slow = disk.slow.end.min(range.end).saturating_sub(disk.slow.start.max(range.start));
            took += (len - slow) as f64 / RATE + slow as f64 / SLOW_RATE;
            let saved = add(&mut self.saved, range);
            self.twice += len - saved;
            self.saved_bytes += saved;
            if saved > 0 {
                self.curve.push((self.seconds + took, self.saved_bytes));
                self.failed_before_all = (self.saved_bytes == self.good).then_some(self.failed);
            }
        }
        (self.at, self.seconds) = (range.end, self.seconds + took);
        (failed, took)
    }

    /// Checks the map at the end: nothing is left but the bad sectors, if all good ones were saved.
    fn check(&self, disk: &Disk, left: impl Iterator<Item = Range<u64>>) {
        let left = Disk::new("", left).bad;
        assert!(self.saved_bytes < self.good || left == disk.bad, "{}: another map", disk.name);
    }

    /// Returns the percentage of the good bytes that was saved after a time in seconds.
    fn saved_after(&self, seconds: f64) -> f64 {
        let n = self.curve.partition_point(|(at, _)| *at <= seconds);
        self.curve[..n].last().map_or(0.0, |(_, saved)| *saved as f64 * 100.0 / self.good as f64)
    }

    /// Returns the hours after which 99 % of the good bytes were saved.
    fn nearly_all(&self) -> f64 {
        let n = self.curve.partition_point(|(_, saved)| *saved < self.good / 100 * 99);
        self.curve.get(n).map_or(f64::INFINITY, |(at, _)| at / 3600.0)
    }
}

fn ours(disk: &Disk) -> Drive {
    let plan = RescuePlan { scrape: disk.scrape, ..RescuePlan::whole(SIZE, SECTOR) };
    let all = BadBlocks::from_unsorted([BadRange::new(0..SIZE, Status::NonTried)]);
    let (mut passes, mut drive) = (Passes::new(plan, &all), Drive::new(disk));
    while let Next::Read(read) = passes.next_read() {
        let (failed, took) = drive.read(disk, &read.range);
        let good = if failed { 0 } else { read.range.end - read.range.start };
        let reason = failed.then_some(Reason::errno(5));
        passes
            .got(&read, &Outcome { good, reason, took: Duration::from_secs_f64(took), ..Outcome::default() });
        passes.changes();
    }
    drive.check(disk, passes.areas().iter().map(|area| area.start..area.end));
    drive
}

const COMMAND: &str = "ddrescue -q -d -S -H disk.map --log-reads=reads.log";
const FILES: &str = "in.raw out.raw out.map";

fn theirs(dir: &Path, disk: &Disk, options: &[&str]) -> Drive {
    let files = || FILES.split(' ').chain(["disk.map", "reads.log"]).map(|name| dir.join(name));
    // With the map of a run that was interrupted it would be resumed.
    files().for_each(|file| drop(fs::remove_file(file)));
    fs::write(dir.join("disk.map"), disk.map()).unwrap();
    File::create(dir.join("in.raw")).unwrap().set_len(SIZE).unwrap();
    let words = COMMAND.split(' ').skip(1).chain(options.iter().copied()).chain(FILES.split(' '));
    let status = Command::new("ddrescue").args(words).current_dir(dir).status().unwrap();
    assert!(status.success(), "{}: {status}", disk.name);
    let hex = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).unwrap();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut drive = Drive::new(disk);
    for line in BufReader::new(File::open(dir.join("reads.log")).unwrap()).lines().map(Result::unwrap) {
        if line.starts_with("0x") {
            let words = words(&line);
            let (start, size) = (hex(&words[0]), words[1].parse::<u64>().unwrap());
            let (failed, _) = drive.read(disk, &(start..start + size));
            assert_eq!((words[2] == "0", words[3] != "0"), (failed, failed), "{}: {line}", disk.name);
        }
    }
    let map = fs::read_to_string(dir.join("out.map")).unwrap();
    // The first line that is no comment is the position in the pass.
    let blocks = map.lines().filter(|line| !line.starts_with('#')).skip(1).map(words);
    drive.check(disk, blocks.filter(|b| b[2] != "+").map(|b| hex(&b[0])..hex(&b[0]) + hex(&b[1])));
    files().for_each(|file| fs::remove_file(file).unwrap());
    drive
}

/// What the columns mean, and their names.
const HEAD: &str = "\
failed: reads, and those of them until all good data was saved; again: good data that was read again, after a failed
read or any other, and after it was saved; saved: % of the good data after parts of t, the total time of the slower one
of cdi and the first ddrescue; 99 %: when so much of it was saved; missed: good data that was not

                                      failed until all MiB again KiB saved   0.1 t   0.5 t   0.9 t  99 %, h total, h missed KiB";

fn main() {
    let arg = std::env::args().skip(1).find(|a| a != "--bench");
    let dir = arg.map_or_else(|| std::env::temp_dir().join("cdi-bench-rescue"), PathBuf::from);
    fs::create_dir_all(&dir).unwrap();
    let version = Command::new("ddrescue").arg("--version").output().unwrap().stdout;
    println!("{}", String::from_utf8_lossy(&version).lines().next().unwrap());
    println!("{COMMAND} [OPTIONS] {FILES}");
    println!("{} GiB, {FAILED_SECONDS} s for a failed read\n{HEAD}", SIZE >> 30);
    for disk in disks() {
        println!("{}: {} bad areas, {} bad sectors", disk.name, disk.bad.len(), disk.bad_bytes() / SECTOR);
        let mut rows = vec![(if disk.scrape { "cdi" } else { "cdi --no-scrape" }.to_owned(), ours(&disk))];
        for options in disk.theirs {
            rows.push((format!("ddrescue {}", options.join(" ")), theirs(&dir, &disk, options)));
        }
        let t = rows[0].1.seconds.max(rows[1].1.seconds);
        for (name, drive) in rows {
            let [first, half, last] = [0.1, 0.5, 0.9].map(|part| drive.saved_after(t * part));
            let all = drive.failed_before_all.map_or("never".into(), |n| n.to_string());
            let (again, twice) = (drive.again as f64 / MIB as f64, drive.twice as f64 / 1024.0);
            let missed = (drive.good - drive.saved_bytes) as f64 / 1024.0;
            let (nearly, hours, failed) = (drive.nearly_all(), drive.seconds / 3600.0, drive.failed);
            println!(
                "  {name:<34} {failed:>7} {all:>9} {again:>9.1} {twice:>9.1} {first:>7.2} {half:>7.2} {last:>7.2} \
                 {nearly:>8.2} {hours:>8.2} {missed:>10.1}"
            );
        }
    }
    let _ = fs::remove_dir(&dir);
}
