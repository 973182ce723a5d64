//! The directory that files are copied to: what it may be, the names in it, and how a file appears there.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File, FileTimes};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cdi_base::error::{Error, Kind};
use cdi_fs::names::safe_name;
use cdi_image::disk::Disk;
use nix::libc;
use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::xxh3_64;

use crate::cmd::files::Found;

/// The file that marks a directory as one that `--copy` writes to, and says of which disk.
const MARK: &str = ".cdi-files.json";
/// What a file is called while it is copied. One that an earlier run left behind is overwritten.
const PARTIAL: &str = ".cdi-copy.partial";
/// What is added to the name of a file for the list of its holes.
const HOLES: &str = ".bad.json";

/// A directory that files are copied to.
pub struct Target {
    pub dir: PathBuf,
    /// Directories that exist and are directories, and no links to other places.
    made: BTreeSet<PathBuf>,
    /// Hashes of the paths of directories, and of files; in lower case if both cases are the same here.
    directories: HashSet<u64>,
    files: HashSet<u64>,
    both_cases: bool,
}

impl Target {
    /// Makes the directory, or takes one that an earlier `--copy` of the same disk wrote to.
    pub fn open(disk: &Disk, volumes: &[Found], dir: &Path) -> Result<Target, Error> {
        let failed = |what: &str, e: io::Error| Error::io(what.to_owned(), dir, e);
        match fs::create_dir(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("cannot make the directory", e));
            }
            _ => {}
        }
        let path = dir.join(MARK);
        let before = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or(Value::Null),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut entries = fs::read_dir(dir).map_err(|e| failed("cannot read the directory", e))?;
                if entries.next().is_some() {
                    let e = Error::new(Kind::Busy, "the directory is not empty").at(dir);
                    return Err(e.hint("name one that does not exist yet"));
                }
                Value::Null
            }
            Err(e) => return Err(failed("cannot read the directory", e)),
        };
        let Some(mark) = mark(&before, disk, volumes) else {
            return Err(Error::new(Kind::Busy, "the directory has files of another disk").at(dir));
        };
        let target = Target {
            both_cases: false,
            dir: dir.to_owned(),
            made: BTreeSet::new(),
            directories: HashSet::new(),
            files: HashSet::new(),
        };
        target.write_whole(&path, format!("{mark:#}\n").as_bytes())?;
        Ok(Target { both_cases: dir.join(MARK.to_uppercase()).exists(), ..target })
    }

    /// Writes a small file: it is there whole, or as before.
    pub fn write_whole(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let partial = self.dir.join(PARTIAL);
        let written = fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, path));
        written.map_err(|e| {
            let _ = fs::remove_file(&partial);
            Error::io("cannot write", path, e)
        })
    }

    fn key(&self, path: &str) -> u64 {
        if self.both_cases { xxh3_64(path.to_lowercase().as_bytes()) } else { xxh3_64(path.as_bytes()) }
    }

    /// Reserves the path of a directory, and returns it. Directories whose names become the same are one.
    pub fn directory(&mut self, path: &str) -> PathBuf {
        let safe = safe_path(path);
        let key = self.key(&safe);
        self.directories.insert(key);
        self.dir.join(safe)
    }

    /// Reserves the path of a file, and that of the list of its holes. If another file has that path, it gets the number of
    /// its record: so it has the same name the next time, whichever files are meant then.
    pub fn file(&mut self, path: &str, record: u64) -> PathBuf {
        let whole = safe_path(path);
        let (stem, suffix) = match whole.rsplit_once('.') {
            Some((stem, suffix)) if !suffix.contains('/') && !stem.is_empty() && !stem.ends_with('/') => {
                (stem, format!(".{suffix}"))
            }
            _ => (whole.as_str(), String::new()),
        };
        let mut name = whole.clone();
        let mut number = 1;
        loop {
            let keys = [self.key(&name), self.key(&format!("{name}{HOLES}"))];
            let taken = |key: &u64| self.files.contains(key) || self.directories.contains(key);
            if !keys.iter().any(taken) {
                self.files.extend(keys);
                return self.dir.join(name);
            }
            name = if number == 1 {
                format!("{stem} ({record}){suffix}")
            } else {
                format!("{stem} ({record}-{number}){suffix}")
            };
            number += 1;
        }
    }

    /// Makes a directory below ours, and those above it.
    pub fn make(&mut self, path: &Path) -> io::Result<()> {
        if path == self.dir || self.made.contains(path) {
            return Ok(());
        }
        if let Some(above) = path.parent() {
            self.make(above)?;
        }
        match fs::create_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                if !fs::symlink_metadata(path)?.is_dir() {
                    return Err(io::ErrorKind::NotADirectory.into());
                }
            }
            other => other?,
        }
        self.made.insert(path.to_owned());
        Ok(())
    }

    /// Writes a file by `fill`, which returns the list of its holes, and lets it appear under its name: after that list.
    pub fn put(
        &mut self,
        path: &Path,
        size: u64,
        times: Option<FileTimes>,
        fill: &mut dyn FnMut(&File) -> Result<Option<Value>, Stop>,
    ) -> Result<(), Stop> {
        if let Some(above) = path.parent() {
            self.make(above).map_err(|e| Stop::of(e, path))?;
        }
        let partial = self.dir.join(PARTIAL);
        let stop = |e: io::Error| Stop::of(e, path);
        let mut put = || {
            let mut how = File::options();
            let file =
                how.write(true).create(true).truncate(true).custom_flags(libc::O_NOFOLLOW).open(&partial);
            let file = file.map_err(stop)?;
            file.set_len(size).map_err(stop)?;
            let holes = fill(&file)?;
            if let Some(times) = times {
                file.set_times(times).map_err(stop)?;
            }
            drop(file);
            let list = holes_of(path);
            if let Some(holes) = &holes {
                // Another name than that of the file's own data.
                let partial = self.dir.join(format!("{PARTIAL}{HOLES}"));
                let written =
                    fs::write(&partial, format!("{holes:#}\n")).and_then(|()| fs::rename(&partial, &list));
                written.map_err(|e| Stop::of(e, &list))?;
            }
            fs::rename(&partial, path).map_err(stop)?;
            if holes.is_some() {
                return Ok(());
            }
            match fs::remove_file(&list) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Stop::of(e, &list)),
                _ => Ok(()),
            }
        };
        put().inspect_err(|_| {
            let _ = fs::remove_file(&partial);
        })
    }

    /// Returns whether a file was copied whole before, and has not changed since.
    pub fn has(&self, path: &Path, size: u64, modified: Option<SystemTime>) -> bool {
        let Ok(before) = fs::symlink_metadata(path) else { return false };
        let same_time = |time: SystemTime| {
            let apart = before.modified().map(|m| m.duration_since(time).unwrap_or_else(|e| e.duration()));
            // FAT keeps two seconds.
            apart.is_ok_and(|apart| apart.as_secs() < 2)
        };
        before.is_file() && before.len() == size && modified.is_none_or(same_time) && !holes_of(path).exists()
    }
}

/// Returns the mark of a directory with copies of this disk; None if it has those of another one. An image may know more of
/// its disk than it did before.
fn mark(before: &Value, disk: &Disk, volumes: &[Found]) -> Option<Value> {
    let size = disk.size();
    let serial = disk.metadata().serial.clone();
    let mut titles: Map<String, Value> = before["volumes"].as_object().cloned().unwrap_or_default();
    let same = |key: &str, now: &Value| before[key].is_null() || now.is_null() || before[key] == *now;
    if !same("size_bytes", &json!(size)) || !same("serial", &json!(serial)) {
        return None;
    }
    for volume in volumes.iter().filter(|v| v.catalogue.is_some()) {
        let title = json!(volume.title);
        let known = titles.entry(volume.part.range.start.to_string()).or_insert_with(|| title.clone());
        if *known != title {
            return None;
        }
    }
    Some(json!({ "size_bytes": size, "serial": serial, "volumes": titles }))
}

/// Returns a path below a directory whose components are safe.
fn safe_path(path: &str) -> String {
    path.split('/').map(safe_name).collect::<Vec<_>>().join("/")
}

/// Returns the path of the list of holes of a damaged file.
pub fn holes_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(HOLES);
    path.with_file_name(name)
}

/// Why a file was not written.
#[derive(Debug)]
pub enum Stop {
    /// This one file cannot be written there.
    File(String),
    /// Nothing can.
    All(Error),
}

impl Stop {
    /// Returns whether an error is of one file, or of the file system it is written to.
    pub fn of(e: io::Error, path: &Path) -> Stop {
        let one = [
            libc::EISDIR,
            libc::ENOTDIR,
            libc::EEXIST,
            libc::ENOTEMPTY,
            libc::EFBIG,
            libc::ENAMETOOLONG,
            libc::EINVAL,
            libc::EILSEQ,
            libc::ELOOP,
            libc::EOVERFLOW,
        ];
        let kind = e.kind() == io::ErrorKind::NotADirectory;
        if kind || e.raw_os_error().is_some_and(|errno| one.contains(&errno)) {
            Stop::File(format!("it cannot be written there: {e}"))
        } else {
            Stop::All(Error::io("cannot write", path, e))
        }
    }
}
