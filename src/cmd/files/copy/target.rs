//! The directory that files are copied to: what it may be, the names in it, and how a file appears there.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File, FileTimes};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cdi_base::error::{Error, Kind};
use cdi_fs::names::safe_name;
use cdi_image::disk::Disk;
use nix::libc;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::compare::has_more;
use super::mark::mark;
use crate::cmd::files::Found;

/// The file that marks a directory as one that `--copy` writes to, and says of which disk.
const MARK: &str = ".cdi-files.json";
/// What a file is called while it is copied. One that is left of an earlier run is overwritten.
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
    /// The names of the directories of volumes, by where they begin: as in earlier runs, which may have known less of them.
    titles: BTreeMap<u64, String>,
    /// Files whose contents may not be on the disk yet, with the times that they are to have: one that has its time is whole.
    unsynced: Vec<(PathBuf, FileTimes)>,
    unsynced_bytes: u64,
}

/// How many files, and how many bytes, may wait for their times.
const MAX_FILES: usize = 4096;
const MAX_BYTES: u64 = 256 << 20;

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
        let Some((mark, titles)) = mark(&before, disk, volumes) else {
            return Err(Error::new(Kind::Busy, "the directory has files of another disk").at(dir));
        };
        let target = Target {
            both_cases: false,
            dir: dir.to_owned(),
            made: BTreeSet::new(),
            directories: HashSet::new(),
            files: HashSet::new(),
            titles,
            unsynced: Vec::new(),
            unsynced_bytes: 0,
        };
        target.write_whole(&path, format!("{mark:#}\n").as_bytes())?;
        Ok(Target { both_cases: dir.join(MARK.to_uppercase()).exists(), ..target })
    }

    /// Writes a small file: it is there whole, or as before.
    pub fn write_whole(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let partial = self.dir.join(PARTIAL);
        let written = write_new(&partial, bytes).and_then(|()| fs::rename(&partial, path));
        written.map_err(|e| {
            let _ = fs::remove_file(&partial);
            Error::io("cannot write", path, e)
        })
    }

    /// Returns the name of the directory of a volume.
    pub fn title<'a>(&'a self, volume: &'a Found) -> &'a str {
        self.titles.get(&volume.part.range.start).map_or(&volume.title, String::as_str)
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

    /// Reserves the path of a file, and that of the list of its holes. If another file has that path, it gets the number of its
    /// record: so it has the same name the next time, whichever files are meant then.
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

    /// Writes a file by `fill`, which returns the list of its holes, and lets it appear under its name: after that
    /// list. An earlier copy that has data there stays.
    pub fn put(
        &mut self,
        path: &Path,
        size: u64,
        times: Option<FileTimes>,
        fill: &mut dyn FnMut(&File) -> Result<Option<Value>, Stop>,
    ) -> Result<Put, Stop> {
        if let Some(above) = path.parent() {
            self.make(above).map_err(|e| Stop::of(e, path))?;
        }
        let partial = self.dir.join(PARTIAL);
        let stop = |e: io::Error| Stop::of(e, path);
        let mut put = || {
            let file = create_new(&partial).map_err(stop)?;
            file.set_len(size).map_err(stop)?;
            let holes = fill(&file)?;
            let list = holes_of(path);
            if holes.is_some() && has_more(path, &file).map_err(stop)? {
                fs::remove_file(&partial).map_err(stop)?;
                return Ok(Put::Kept);
            }
            drop(file);
            if let Some(holes) = &holes {
                // Another name than that of the file's own data.
                let partial = self.dir.join(format!("{PARTIAL}{HOLES}"));
                let written = write_new(&partial, format!("{holes:#}\n").as_bytes())
                    .and_then(|()| fs::rename(&partial, &list));
                written.map_err(|e| Stop::of(e, &list))?;
            }
            fs::rename(&partial, path).map_err(stop)?;
            if holes.is_some() {
                return Ok(Put::Written);
            }
            match fs::remove_file(&list) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Stop::of(e, &list)),
                _ => Ok(Put::Written),
            }
        };
        let done = put().inspect_err(|_| {
            let _ = fs::remove_file(&partial);
        })?;
        if done == Put::Kept {
            return Ok(done);
        }
        self.unsynced.extend(times.map(|times| (path.to_owned(), times)));
        self.unsynced_bytes += size;
        if self.unsynced.len() >= MAX_FILES || self.unsynced_bytes >= MAX_BYTES {
            self.sync().map_err(Stop::All)?;
        }
        Ok(done)
    }

    /// Waits until the files so far are on the disk, and gives them their times: a file whose contents a power failure took has
    /// another time than it had, and is copied again.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.unsynced_bytes = 0;
        if self.unsynced.is_empty() {
            return Ok(());
        }
        #[cfg(target_os = "linux")]
        {
            let dir = File::open(&self.dir).map_err(|e| Error::io("cannot open", &self.dir, e))?;
            nix::unistd::syncfs(&dir).map_err(|e| Error::io("cannot write to", &self.dir, e.into()))?;
        }
        #[cfg(not(target_os = "linux"))]
        for (path, _) in &self.unsynced {
            let synced = File::open(path).and_then(|file| file.sync_all());
            synced.map_err(|e| Error::io("cannot write", path, e))?;
        }
        for (path, times) in std::mem::take(&mut self.unsynced) {
            let file = File::options().write(true).custom_flags(libc::O_NOFOLLOW).open(&path);
            match file.and_then(|file| file.set_times(times)) {
                // Somebody moved it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io("cannot set the time of", &path, e)),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Makes a symbolic link. One that is there already is kept if it is the same, and replaced if not.
    pub fn link(&mut self, path: &Path, target: &Path) -> Result<(), Stop> {
        let stop = |e: io::Error| Stop::of(e, path);
        if let Some(above) = path.parent() {
            self.make(above).map_err(stop)?;
        }
        match fs::symlink_metadata(path) {
            Ok(before) if before.is_symlink() => {
                if fs::read_link(path).is_ok_and(|old| old == target) {
                    return Ok(());
                }
                fs::remove_file(path).map_err(stop)?;
            }
            Ok(_) => return Err(Stop::File("there is a file of this name already".into())),
            Err(_) => {}
        }
        std::os::unix::fs::symlink(target, path).map_err(|e| match e.kind() {
            // Its directory is there, so it is the target that cannot be: it is empty.
            io::ErrorKind::NotFound => Stop::File(format!("it cannot be made there: {e}")),
            _ => Stop::of(e, path),
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
        // Without a time, nothing says that it was copied to its end.
        before.is_file()
            && before.len() == size
            && modified.is_some_and(same_time)
            && !holes_of(path).exists()
    }
}

/// Makes a file, in place of one that is left of an earlier run.
pub(super) fn create_new(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    File::options().read(true).write(true).create_new(true).open(path)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    create_new(path)?.write_all(bytes)
}

/// Returns a path below a directory whose components are safe. Names that had to be changed for it get a number that is made of
/// what they were: so two of them are never one, whichever of them are known.
fn safe_path(path: &str) -> String {
    let safe = |name: &str| {
        let safe = safe_name(name);
        if safe == name {
            return safe;
        }
        let number = xxh3_64(name.as_bytes()) & 0xFF_FFFF;
        match safe.rsplit_once('.') {
            Some((stem, suffix)) if !stem.is_empty() => format!("{stem} ({number:06x}).{suffix}"),
            _ => format!("{safe} ({number:06x})"),
        }
    };
    path.split('/').map(safe).collect::<Vec<_>>().join("/")
}

/// Returns the path of the list of holes of a damaged file.
pub fn holes_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(HOLES);
    path.with_file_name(name)
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It was written.
    Written,
    /// An earlier copy has data in its holes, and stays.
    Kept,
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
        let kinds = [io::ErrorKind::NotADirectory, io::ErrorKind::InvalidInput, io::ErrorKind::AlreadyExists];
        let kind = kinds.contains(&e.kind()) || e.raw_os_error().is_none();
        if kind || e.raw_os_error().is_some_and(|errno| one.contains(&errno)) {
            Stop::File(format!("it cannot be written there: {e}"))
        } else {
            Stop::All(Error::io("cannot write", path, e))
        }
    }
}
