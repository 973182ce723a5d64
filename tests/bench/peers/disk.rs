//! The disks that are measured on: an ext4 of real files, and two for creating images only.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write, copy};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Whence, lseek};

const SIZE: u64 = 4 << 30;
/// Bytes of real files, and of files that do not compress after them.
const FILES: u64 = 2000 << 20;
const RANDOM: u64 = 300 << 20;

/// Bytes of data in a disk that is half something else, and of that.
const HALF: u64 = 1000 << 20;

/// A disk, as a raw image.
pub struct Disk {
    pub path: PathBuf,
    /// Where it contains data.
    pub data: Vec<std::ops::Range<u64>>,
}

/// What the second half of a disk for creating images consists of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// Random bytes.
    Noise,
    /// A hole.
    Empty,
}

impl Half {
    /// Its name as a value of `--half`.
    pub fn named(name: &str) -> Option<Half> {
        match name {
            "noise" => Some(Half::Noise),
            "empty" => Some(Half::Empty),
            _ => None,
        }
    }

    /// The directory of its disk and images.
    pub fn dir(self) -> &'static str {
        if self == Half::Noise { "half-noise" } else { "half-empty" }
    }
}

impl Disk {
    pub const SIZE: u64 = SIZE;

    /// Makes a disk in `dir` whose first half is from the start of this one, or takes the one that is there.
    pub fn half(&self, dir: &Path, half: Half) -> Disk {
        let path = dir.join("disk.raw");
        if !path.exists() {
            let partial = dir.join("disk.new");
            let mut file = fs::File::create(&partial).unwrap();
            for run in &self.data {
                let room = HALF - file.stream_position().unwrap();
                let mut from = fs::File::open(&self.path).unwrap();
                from.seek(SeekFrom::Start(run.start)).unwrap();
                copy(&mut from.take(room.min(run.end - run.start)), &mut file).unwrap();
            }
            assert_eq!(file.stream_position().unwrap(), HALF, "the disk of files has too little data");
            if half == Half::Noise {
                copy(&mut fs::File::open("/dev/urandom").unwrap().take(HALF), &mut file).unwrap();
            }
            file.set_len(2 * HALF).unwrap();
            fs::rename(&partial, &path).unwrap();
        }
        let data = data(&path);
        Disk { path, data }
    }

    /// Makes one in `dir`, of files below `from`; or takes the one that is there.
    pub fn of_real_files(dir: &Path, from: &Path) -> Disk {
        let path = dir.join("disk.raw");
        if !path.exists() {
            eprintln!("making a disk of the files below {}", from.display());
            let stage = dir.join("stage");
            let _ = fs::remove_dir_all(&stage);
            gather(from, &stage);
            let partial = dir.join("disk.new");
            fs::File::create(&partial).unwrap().set_len(SIZE).unwrap();
            let mut mke2fs = Command::new("mke2fs");
            mke2fs.args(["-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-d"]);
            assert!(mke2fs.arg(&stage).arg(&partial).status().unwrap().success(), "mke2fs failed");
            fs::remove_dir_all(&stage).unwrap();
            fs::rename(&partial, &path).unwrap();
        }
        let data = data(&path);
        Disk { path, data }
    }

    pub fn used(&self) -> u64 {
        self.data.iter().map(|r| r.end - r.start).sum()
    }
}

/// Copies a sample of the files below `from`: some of every directory, always the same ones.
fn gather(from: &Path, stage: &Path) {
    let mut files = Vec::new();
    let mut folders = vec![from.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => folders.push(entry.path()),
                Ok(meta) if meta.is_file() && meta.size() > 0 => files.push((entry.path(), meta.size())),
                _ => {}
            }
        }
    }
    files.sort_by_key(|(path, _)| xxhash_rust::xxh3::xxh3_64(path.as_os_str().as_encoded_bytes()));
    let mut total = 0;
    for (path, size) in files {
        if total + size <= FILES {
            let to = stage.join(path.strip_prefix("/").unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            total += fs::copy(&path, &to).unwrap_or(0);
        }
    }
    assert!(total > FILES / 2, "there are only {total} bytes of files below {}", from.display());
    let mut random = fs::File::open("/dev/urandom").unwrap();
    for n in 0..6 {
        let mut file = fs::File::create(stage.join(format!("random-{n}"))).unwrap();
        let mut block = vec![0; 1 << 20];
        for _ in 0..(RANDOM / 6) >> 20 {
            random.read_exact(&mut block).unwrap();
            file.write_all(&block).unwrap();
        }
    }
}

/// The parts of a sparse file that are not holes.
fn data(path: &Path) -> Vec<std::ops::Range<u64>> {
    let file = fs::File::open(path).unwrap();
    let mut at = 0;
    let mut found = Vec::new();
    while let Ok(start) = lseek(&file, at, Whence::SeekData) {
        at = lseek(&file, start, Whence::SeekHole).unwrap();
        found.push(start as u64..at as u64);
    }
    found
}
