//! An output file that appears under its name only once it is complete: it is written under a temporary name in the
//! same directory, then renamed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{io, thread};

use cdi_base::advice::Advice;
use cdi_base::error::{Error, Kind};

use super::placement::{CHECK_INTERVAL, Placed};

/// A file that is being written. It is deleted if this is dropped before [`OutputFile::finish`].
pub struct OutputFile {
    path: PathBuf,
    partial: PathBuf,
    force: bool,
    done: bool,
    placed: Placed,
    /// When the file was last checked to be still in place.
    last_check: Instant,
    /// The file to be replaced, kept locked so that no other process writes it in the meantime.
    existing: Option<File>,
}

impl OutputFile {
    /// Creates an output file for `path`. With `force` it may replace an existing regular file. The caller must check
    /// for anything else that must not be overwritten.
    pub fn create(path: &Path, force: bool) -> Result<(OutputFile, File), Error> {
        let exists = || Error::new(Kind::Busy, "file exists").at(path).hint(Advice::Overwrite);
        match fs::symlink_metadata(path) {
            Ok(meta) if !meta.is_file() => {
                return Err(Error::usage("is not a regular file (not overwritten)").at(path));
            }
            Ok(_) if !force => return Err(exists()),
            _ => {}
        }
        OutputFile::begin(path, force)
    }

    /// Creates an output file to replace the file at `path`, from which it is made. If that is a symbolic link, the file
    /// that it points to is replaced.
    pub fn replace(path: &Path) -> Result<(OutputFile, File), Error> {
        let target = path.canonicalize().map_err(|e| Error::io("cannot open", path, e))?;
        OutputFile::begin(&target, true)
    }

    fn begin(path: &Path, force: bool) -> Result<(OutputFile, File), Error> {
        let existing = match fs::symlink_metadata(path) {
            Ok(_) => Some(open_locked(path, false)?),
            Err(_) => None,
        };
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if path.file_name().is_none() {
            return Err(Error::usage("is not a file name").at(path));
        }
        let (partial, file) = loop {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let partial = path.with_file_name(format!(".cdi-{}-{number}.partial", std::process::id()));
            match OpenOptions::new().read(true).write(true).create_new(true).open(&partial) {
                Ok(file) => break (partial, file),
                // Left over from another process with the same process ID.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && number < 1000 => {}
                Err(e) => return Err(Error::io("cannot create", path, e)),
            }
        };
        let placed = Placed::new(&file, &partial)?;
        let last_check = Instant::now();
        let target =
            OutputFile { path: path.to_owned(), partial, force, done: false, placed, last_check, existing };
        Ok((target, file))
    }

    /// Returns an error if the file has been moved or deleted. Checks at most once a second, however often it is
    /// called.
    pub fn check(&mut self) -> Result<(), Error> {
        if self.last_check.elapsed() < CHECK_INTERVAL {
            return Ok(());
        }
        self.last_check = Instant::now();
        self.placed.check()
    }

    /// Renames the file to its final name. It must have been synced. A file that was created under this name in the
    /// meantime is not overwritten: then the output file keeps its temporary name, which is part of the error.
    pub fn finish(mut self) -> Result<(), Error> {
        self.done = true;
        self.rename().map_err(|e| {
            let hint = format!("the new file is complete, and is at {}", self.partial.display());
            self.not_renamed(e).hint(hint)
        })?;
        self.sync_directory()
    }

    /// As [`OutputFile::finish`], for a file with nothing in it yet that would be missed: it is deleted if it cannot get
    /// its name.
    pub fn publish(mut self) -> Result<(), Error> {
        let renamed = self.rename();
        self.done = renamed.is_ok();
        renamed.map_err(|e| self.not_renamed(e))?;
        self.sync_directory()
    }

    fn not_renamed(&self, e: io::Error) -> Error {
        match e.kind() {
            io::ErrorKind::AlreadyExists => {
                Error::new(Kind::Busy, "was created or replaced by another program in the meantime")
                    .at(&self.path)
            }
            _ => Error::io("cannot rename it into place", &self.path, e),
        }
    }

    /// Syncs the directory: its entry must also reach the disk.
    fn sync_directory(&self) -> Result<(), Error> {
        let dir = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)
            .and_then(|d| d.sync_all())
            .map_err(|e| Error::io("cannot sync its directory", &self.path, e))
    }

    fn rename(&self) -> io::Result<()> {
        let id = |meta: &fs::Metadata| (meta.dev(), meta.ino());
        if let Some(existing) = &self.existing {
            // Replace only the file that was there at the start, and only if overwriting is allowed.
            let same = fs::symlink_metadata(&self.path)
                .is_ok_and(|there| existing.metadata().is_ok_and(|o| id(&o) == id(&there)));
            if same && self.force {
                return fs::rename(&self.partial, &self.path);
            }
        }
        // A hard link fails where a rename would overwrite an existing file.
        match fs::hard_link(&self.partial, &self.path) {
            Ok(()) => fs::remove_file(&self.partial),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(e),
            // The file system does not support hard links.
            Err(_) if fs::symlink_metadata(&self.path).is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => fs::rename(&self.partial, &self.path),
        }
    }
}

/// Writes a small file of our own atomically, replacing any existing one: readers see either the old or the new
/// contents.
pub fn replace(path: &Path, contents: &[u8]) -> Result<(), Error> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".new");
    fs::write(&partial, contents)
        .and_then(|()| fs::rename(&partial, path))
        .map_err(|e| Error::io("cannot write", path, e))
}

/// Timeout for the lock of an image that another process is writing: it may be about to exit.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Opens a file and locks it for as long as it is open. Returns an error if another process is writing it.
pub fn open_locked(path: &Path, write: bool) -> Result<File, Error> {
    let cannot = |e| Error::io("cannot open", path, e);
    loop {
        let file = File::options().read(true).write(write).open(path).map_err(cannot)?;
        lock(&file, path)?;
        // The previous holder of the lock may have replaced the file.
        let (ours, there) = (file.metadata().map_err(cannot)?, fs::metadata(path).map_err(cannot)?);
        if (ours.dev(), ours.ino()) == (there.dev(), there.ino()) {
            return Ok(file);
        }
    }
}

/// Locks an image for writing: only one process may write it at a time. Returns [`Kind::Busy`] after a timeout.
pub fn lock(file: &File, path: &Path) -> Result<(), Error> {
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if start.elapsed() < TIMEOUT => {
                thread::sleep(Duration::from_millis(50));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(Kind::Busy, "another process is writing this image").at(path));
            }
            // Imaging must also work on a file system without locks.
            Err(TryLockError::Error(_)) => return Ok(()),
        }
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.partial);
        }
    }
}
