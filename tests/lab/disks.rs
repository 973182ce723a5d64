//! The sample disk, what readers get of it, and maps.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

use nix::libc::O_DIRECT;

use crate::checks::{Checks, run};
use crate::guest::WORK;

/// The unit of every set of sectors here, in bytes.
pub const SECTOR: usize = 512;
/// The size of a page of the kernel's cache in bytes.
pub const PAGE: usize = 4096;
/// The size of the sample disk in sectors: 4 MiB, because system calls are slow in user-mode Linux.
pub const SECTORS: u64 = 8192;
/// The bad sectors of the sample (first sector, number): single ones, neighbours, one page, several, the last.
const BAD: &[(u64, u64)] =
    &[(100, 1), (1000, 3), (3182, 1), (4096, 8), (5000, 1), (5007, 1), (6001, 64), (8191, 1)];

/// Sectors of 512 bytes.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Sectors(BTreeSet<u64>);

impl Sectors {
    pub fn new(ranges: &[(u64, u64)]) -> Sectors {
        Sectors(ranges.iter().flat_map(|&(first, count)| first..first + count).collect())
    }

    /// Returns the sectors that a mapfile does not mark as finished.
    pub fn of_map(text: &str) -> Sectors {
        let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).unwrap();
        let mut sectors = Sectors::default();
        // The first line that is no comment is the position.
        for line in text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()).skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (start, end) = (number(words[0]), number(words[0]) + number(words[1]));
            if words[2] != "+" {
                sectors.0.extend(start / SECTOR as u64..end.div_ceil(SECTOR as u64));
            }
        }
        sectors
    }

    /// Returns the sectors with the rest of their blocks of `bytes`.
    pub fn whole(&self, bytes: usize) -> Sectors {
        let n = (bytes / SECTOR) as u64;
        Sectors(self.0.iter().flat_map(|s| s / n * n..s / n * n + n).collect())
    }

    pub fn contains(&self, sector: u64) -> bool {
        self.0.contains(&sector)
    }
}

/// `118 sectors: 100, 1000-1002`.
impl fmt::Debug for Sectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sectors", self.0.len())?;
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for &s in &self.0 {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == s => *last = s,
                _ => ranges.push((s, s)),
            }
        }
        for (n, (first, last)) in ranges.iter().take(20).enumerate() {
            write!(f, "{} {first}", if n == 0 { ":" } else { "," })?;
            if last > first {
                write!(f, "-{last}")?;
            }
        }
        if ranges.len() > 20 { write!(f, ", …") } else { Ok(()) }
    }
}

/// Returns a disk whose sectors all differ: each begins with its number, and goes on with bytes that follow from it.
pub fn disk(sectors: u64) -> Vec<u8> {
    let mut disk = Vec::with_capacity(sectors as usize * SECTOR);
    for sector in 0..sectors {
        disk.extend_from_slice(format!("sector {sector:09}").as_bytes());
        let mut state = (sector + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for _ in 0..(SECTOR - 16) / 8 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Half of the sectors cannot be compressed.
            disk.extend_from_slice(&if sector % 2 == 0 { state } else { sector }.to_le_bytes());
        }
    }
    disk
}

/// The sample: its disk, its bad sectors, and an image of it.
pub struct Sample {
    pub disk: Vec<u8>,
    pub bad: Sectors,
    pub image: String,
}

impl Sample {
    /// Makes the sample: `disk.raw`, `disk.map` and from them `disk.cdimg`.
    pub fn new(c: &mut Checks) -> Sample {
        let sample =
            Sample { disk: disk(SECTORS), bad: Sectors::new(BAD), image: format!("{WORK}/disk.cdimg") };
        fs::write("disk.raw", &sample.disk).unwrap();
        let mut map = "0x0 + 1\n".to_owned();
        let mut at = 0;
        for &(first, count) in BAD {
            map += &format!("{:#x} {:#x} +\n", at * SECTOR as u64, (first - at) * SECTOR as u64);
            map += &format!("{:#x} {:#x} -\n", first * SECTOR as u64, count * SECTOR as u64);
            at = first + count;
        }
        fs::write("disk.map", map).unwrap();
        let created = c.cdi(&["create", "-q", "disk.raw", &sample.image, "--mapfile", "disk.map"]);
        c.code("create of the sample, which has bad sectors", &created, 4);
        sample
    }

    /// Checks which sectors a reader cannot read, and that it gets the right bytes of all others.
    pub fn check_reader(&self, c: &mut Checks, what: &str, read: &Readable, bad: &Sectors, errno: i32) {
        c.same(&format!("{what}: unreadable"), &read.failed, bad);
        c.same(&format!("{what}: errnos"), read.errnos.clone(), BTreeSet::from([errno]));
        c.same(&format!("{what}: sectors with wrong bytes"), read.wrong(&self.disk), 0);
    }

    /// Checks that ddrescue reproduces the map and the bytes of a disk from a device or a file.
    pub fn check_ddrescue(&self, c: &mut Checks, what: &str, from: &str, options: &[&str], bad: &Sectors) {
        let read = ddrescue(from, options);
        c.same(&format!("{what}: map"), &read.failed, bad);
        c.same(&format!("{what}: sectors with wrong bytes"), read.wrong(&self.disk), 0);
    }
}

/// What could be read of a disk.
pub struct Readable {
    pub bytes: Vec<u8>,
    pub failed: Sectors,
    pub errnos: BTreeSet<i32>,
}

impl Readable {
    /// Returns how many sectors have other bytes than the disk, except those that could not be read.
    pub fn wrong(&self, disk: &[u8]) -> usize {
        let sectors = 0..(disk.len() / SECTOR) as u64;
        let at = |s: u64| s as usize * SECTOR..(s as usize + 1) * SECTOR;
        sectors.filter(|&s| !self.failed.contains(s) && self.bytes.get(at(s)) != disk.get(at(s))).count()
    }
}

/// Reads a device or a file in pieces of `step` bytes, past the page cache or through it.
pub fn read(path: &Path, size: usize, step: usize, direct: bool) -> Readable {
    if !direct {
        drop_caches();
    }
    let file = open(path, direct);
    // The buffer of a direct read must be aligned.
    let mut buffer = vec![0; step + PAGE];
    let start = buffer.as_ptr().align_offset(PAGE);
    let buffer = &mut buffer[start..start + step];
    let mut read = Readable { bytes: Vec::new(), failed: Sectors::default(), errnos: BTreeSet::new() };
    for at in (0..size).step_by(step) {
        match file.read_at(buffer, at as u64) {
            Ok(n) if n == step => {}
            // A short read is never right here: it is a wrong byte.
            Ok(n) => buffer[n..].fill(0xEE),
            Err(e) => {
                read.errnos.insert(e.raw_os_error().unwrap_or(0));
                read.failed.0.extend((at / SECTOR) as u64..((at + step) / SECTOR) as u64);
            }
        }
        read.bytes.extend_from_slice(buffer);
    }
    read
}

/// Opens a device or a file for reading.
pub fn try_open(path: &Path, direct: bool) -> io::Result<File> {
    File::options().read(true).custom_flags(if direct { O_DIRECT } else { 0 }).open(path)
}

/// The same, if nothing can be wrong with it.
pub fn open(path: &Path, direct: bool) -> File {
    try_open(path, direct).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Makes the kernel forget what it has read.
pub fn drop_caches() {
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

/// Reads a device or a file with ddrescue.
pub fn ddrescue(from: &str, options: &[&str]) -> Readable {
    for file in ["rescued.raw", "rescued.map"] {
        let _ = fs::remove_file(file);
    }
    drop_caches();
    let ran =
        run(Command::new("ddrescue").arg("-q").args(options).args([from, "rescued.raw", "rescued.map"]));
    let map = fs::read_to_string("rescued.map").unwrap_or_else(|e| panic!("{e}: ddrescue {}", ran.stderr));
    Readable {
        bytes: fs::read("rescued.raw").unwrap_or_default(),
        failed: Sectors::of_map(&map),
        errnos: BTreeSet::new(),
    }
}

/// Returns what an image holds of its disk.
pub fn contents(c: &Checks, image: &str) -> Readable {
    for file in ["extracted.raw", "extracted.raw.map", "extracted.map"] {
        let _ = fs::remove_file(file);
    }
    for args in
        [["map", "--export-mapfile", "extracted.map", image], ["extract", "-q", image, "extracted.raw"]]
    {
        let ran = c.cdi(&args);
        // Missing sectors are exit code 4.
        assert!([0, 4].contains(&ran.code), "{args:?}: {}", ran.stderr);
    }
    Readable {
        bytes: fs::read("extracted.raw").unwrap_or_default(),
        failed: Sectors::of_map(&fs::read_to_string("extracted.map").unwrap_or_default()),
        errnos: BTreeSet::new(),
    }
}
