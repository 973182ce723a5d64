//! A file that appears under its name only when it is whole: written under another name beside it, then renamed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::guard::Guard;
use crate::error::{Error, Kind};

/// A file in the making. Dropped before [`Target::finish`], it is gone.
pub struct Target {
    path: PathBuf,
    partial: PathBuf,
    force: bool,
    done: bool,
    placed: Placed,
    /// When it was last looked whether the file is still there.
    looked: Instant,
    /// The file whose place is to be taken: nobody writes it meanwhile.
    _old: Option<File>,
}

impl Target {
    /// Begins the file that is to be at `path`, if the guard lets it be written.
    pub fn create(path: &Path, guard: &Guard) -> Result<(Target, File), Error> {
        let force = guard.forces();
        let exists = || {
            Error::new(Kind::Busy, "is there already")
                .at(path)
                .hint("--force writes over it; nothing was changed")
        };
        guard.check(path)?;
        match fs::symlink_metadata(path) {
            Ok(_) if !force => return Err(exists()),
            Ok(meta) if !meta.is_file() => {
                return Err(Error::usage("is not a plain file; it is not written over").at(path));
            }
            _ => {}
        }
        Target::begin(path, force)
    }

    /// Begins a file that is to take the place of the one at `path`, of which it is made.
    pub fn replace(path: &Path) -> Result<(Target, File), Error> {
        Target::begin(path, true)
    }

    fn begin(path: &Path, force: bool) -> Result<(Target, File), Error> {
        let old = match fs::symlink_metadata(path) {
            Ok(_) => Some(open_locked(path, false)?),
            Err(_) => None,
        };
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if path.file_name().is_none() {
            return Err(Error::usage("is not the name of a file").at(path));
        }
        let partial = path.with_file_name(format!(
            ".cdi-{}-{}.partial",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        ));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&partial);
        let file = file.map_err(|e| Error::io("cannot be created", path, e))?;
        let placed = Placed::new(&file, &partial)?;
        let looked = Instant::now();
        let target = Target { path: path.to_owned(), partial, force, done: false, placed, looked, _old: old };
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

    /// Makes a file whose contents `write` writes.
    pub fn write(
        path: &Path,
        guard: &Guard,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), Error> {
        let (target, mut file) = Target::create(path, guard)?;
        let written = write(&mut file).and_then(|()| file.sync_all());
        written.map_err(|e| Error::io("cannot be written", path, e))?;
        target.finish()
    }

    /// Gives the file its name. It must have been synced.
    pub fn finish(mut self) -> Result<(), Error> {
        self.rename().map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => {
                Error::new(Kind::Busy, "has come into being meanwhile").at(&self.path)
            }
            _ => Error::io("cannot be given its name", &self.path, e),
        })?;
        self.done = true;
        // The name, too, has to reach the disk.
        let dir = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)
            .and_then(|d| d.sync_all())
            .map_err(|e| Error::io("its folder cannot be synced", &self.path, e))
    }

    fn rename(&self) -> io::Result<()> {
        if self.force {
            return fs::rename(&self.partial, &self.path);
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

/// Where a file is that is being written under a name: it may be moved or deleted meanwhile, and then all that is written
/// is for nothing.
pub struct Placed {
    file: File,
    path: PathBuf,
    /// Device and inode, where the file system keeps them.
    id: Option<(u64, u64)>,
}

impl Placed {
    /// Takes note of where `file` is: at `path`.
    pub fn new(file: &File, path: &Path) -> Result<Placed, Error> {
        let failed = |e| Error::io("cannot be looked at", path, e);
        let own = file.metadata().map_err(failed)?;
        let id = (own.dev(), own.ino());
        // Opened by its name: the system then knows it by that, and by the one that it gets later.
        let named = File::open(path)
            .ok()
            .filter(|f| f.metadata().is_ok_and(|there| (there.dev(), there.ino()) == id));
        // Some file systems of networks give a file another number each time.
        let keeps = named.is_some();
        let file = named.map_or_else(|| file.try_clone(), Ok).map_err(failed)?;
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Ok(Placed { file, path, id: keeps.then_some(id) })
    }

    /// An error if the file is no longer at its path.
    pub fn check(&self) -> Result<(), Error> {
        let Some(id) = self.id else { return Ok(()) };
        let what = match fs::metadata(&self.path) {
            Ok(there) if (there.dev(), there.ino()) == id => return Ok(()),
            Ok(_) => "was replaced by another file while it was written",
            Err(e) if e.kind() == io::ErrorKind::NotFound => "was moved or deleted while it was written",
            // What cannot be looked at may be there.
            Err(_) => return Ok(()),
        };
        let error = Error::failed(what).at(&self.path);
        Err(match self.elsewhere() {
            Some(path) => error.hint(format!("it is at {} now", path.display())),
            None => error,
        })
    }

    /// Where the file is by now, if it still has a name.
    fn elsewhere(&self) -> Option<PathBuf> {
        if self.file.metadata().ok()?.nlink() == 0 {
            return None;
        }
        let path = open_path(&self.file)?;
        let there = fs::metadata(&path).ok()?;
        (Some((there.dev(), there.ino())) == self.id).then_some(path)
    }

    /// Copies a file that has no name any more to one next to where it was: when it is closed it is gone. Its new path, if
    /// it was copied.
    pub fn save(&self) -> Option<PathBuf> {
        if self.file.metadata().ok()?.nlink() > 0 {
            return None;
        }
        let mut path = self.path.clone();
        path.as_mut_os_string().push(format!(".saved-{}.cdimg", std::process::id()));
        let mut out = OpenOptions::new().write(true).create_new(true).open(&path).ok()?;
        let mut from = &self.file;
        let copied = io::Seek::seek(&mut from, io::SeekFrom::Start(0))
            .and_then(|_| io::copy(&mut from, &mut out))
            .and_then(|_| out.sync_all());
        if copied.is_err() {
            let _ = fs::remove_file(&path);
            return None;
        }
        Some(path)
    }
}

/// The path of an open file, as the system has it.
#[cfg(target_os = "linux")]
fn open_path(file: &File) -> Option<PathBuf> {
    use std::os::fd::AsRawFd;
    fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

/// The path of an open file, as the system has it.
#[cfg(target_os = "macos")]
fn open_path(file: &File) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_GETPATH(&mut path)).ok()?;
    Some(path)
}

/// How often it is looked whether a file that is written is still there.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long an image is waited for that somebody writes: he may be about to end.
const PATIENCE: Duration = Duration::from_secs(5);

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
            Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => {
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

impl Drop for Target {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.partial);
        }
    }
}
