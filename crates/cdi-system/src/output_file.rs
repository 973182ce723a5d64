//! A file that appears under its name only when it is whole: written under another name beside it, then renamed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{io, thread};

use cdi_base::advice::Advice;
use cdi_base::error::{Error, Kind};

use super::placement::{LOOK_EVERY, Placed};

/// A file in the making. Dropped before [`OutputFile::finish`], it is gone.
pub struct OutputFile {
    path: PathBuf,
    partial: PathBuf,
    force: bool,
    done: bool,
    placed: Placed,
    /// When it was last looked whether the file is still there.
    looked: Instant,
    /// The file whose place is to be taken: nobody writes it meanwhile.
    old: Option<File>,
}

impl OutputFile {
    /// Begins the file that is to be at `path`. With `force` it may take the place of a plain file that is there. What else
    /// must not be written over is for the caller to say.
    pub fn create(path: &Path, force: bool) -> Result<(OutputFile, File), Error> {
        let exists = || Error::new(Kind::Busy, "file exists").at(path).hint(Advice::Overwrite);
        match fs::symlink_metadata(path) {
            Ok(_) if !force => return Err(exists()),
            Ok(meta) if !meta.is_file() => {
                return Err(Error::usage("is not a plain file; it is not written over").at(path));
            }
            _ => {}
        }
        OutputFile::begin(path, force)
    }

    /// Begins a file that is to take the place of the one at `path`, of which it is made.
    pub fn replace(path: &Path) -> Result<(OutputFile, File), Error> {
        OutputFile::begin(path, true)
    }

    fn begin(path: &Path, force: bool) -> Result<(OutputFile, File), Error> {
        let old = match fs::symlink_metadata(path) {
            Ok(_) => Some(open_locked(path, false)?),
            Err(_) => None,
        };
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if path.file_name().is_none() {
            return Err(Error::usage("is not the name of a file").at(path));
        }
        let (partial, file) = loop {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let partial = path.with_file_name(format!(".cdi-{}-{number}.partial", std::process::id()));
            match OpenOptions::new().read(true).write(true).create_new(true).open(&partial) {
                Ok(file) => break (partial, file),
                // One that another process of this number has left.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && number < 1000 => {}
                Err(e) => return Err(Error::io("cannot be created", path, e)),
            }
        };
        let placed = Placed::new(&file, &partial)?;
        let looked = Instant::now();
        let target = OutputFile { path: path.to_owned(), partial, force, done: false, placed, looked, old };
        Ok((target, file))
    }

    /// An error if the file was moved or deleted meanwhile. Looks once a second, however often it is called.
    pub fn check(&mut self) -> Result<(), Error> {
        if self.looked.elapsed() < LOOK_EVERY {
            return Ok(());
        }
        self.looked = Instant::now();
        self.placed.check()
    }

    /// Gives the file its name. It must have been synced. What has come into being under the name since the beginning is not
    /// written over: then the file stays under the name that it has, which the error says.
    pub fn finish(mut self) -> Result<(), Error> {
        self.done = true;
        self.rename().map_err(|e| {
            let error = match e.kind() {
                io::ErrorKind::AlreadyExists => {
                    Error::new(Kind::Busy, "has come into being, or was replaced, meanwhile").at(&self.path)
                }
                _ => Error::io("cannot be given its name", &self.path, e),
            };
            error.hint(format!("the new file is whole, and is {}", self.partial.display()))
        })?;
        // The name, too, has to reach the disk.
        let dir = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)
            .and_then(|d| d.sync_all())
            .map_err(|e| Error::io("its folder cannot be synced", &self.path, e))
    }

    fn rename(&self) -> io::Result<()> {
        let id = |meta: &fs::Metadata| (meta.dev(), meta.ino());
        if let Some(old) = &self.old {
            // Only the file that was there, and may be written over, goes.
            let same = fs::symlink_metadata(&self.path)
                .is_ok_and(|there| old.metadata().is_ok_and(|o| id(&o) == id(&there)));
            if same && self.force {
                return fs::rename(&self.partial, &self.path);
            }
        }
        // A link fails where a rename would write over somebody's file.
        match fs::hard_link(&self.partial, &self.path) {
            Ok(()) => fs::remove_file(&self.partial),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(e),
            // A file system without links.
            Err(_) if fs::symlink_metadata(&self.path).is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => fs::rename(&self.partial, &self.path),
        }
    }
}

/// Writes a small file of our own, whole or not at all, whoever reads it meanwhile. It takes the place of what is there.
pub fn replace(path: &Path, contents: &[u8]) -> Result<(), Error> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".new");
    fs::write(&partial, contents)
        .and_then(|()| fs::rename(&partial, path))
        .map_err(|e| Error::io("cannot be written", path, e))
}

/// How long an image is waited for that somebody writes: he may be about to end.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Opens a file that nobody else is writing, and keeps others from it as long as it is open.
pub fn open_locked(path: &Path, write: bool) -> Result<File, Error> {
    let cannot = |e| Error::io("cannot be opened", path, e);
    loop {
        let file = File::options().read(true).write(write).open(path).map_err(cannot)?;
        lock(&file, path)?;
        // Whoever had it may have put another file into its place.
        let (ours, there) = (file.metadata().map_err(cannot)?, fs::metadata(path).map_err(cannot)?);
        if (ours.dev(), ours.ino()) == (there.dev(), there.ino()) {
            return Ok(file);
        }
    }
}

/// Takes the right to write an image, which only one has at a time.
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
            // A file system that cannot lock does not keep anybody from imaging.
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
