//! Whether a file that is being written is still where it should be.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Error;
use crate::system::path_of_open;

/// How often it is looked whether a file that is written is still there.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

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
        let path = path_of_open(&self.file)?;
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
