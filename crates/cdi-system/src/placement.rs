//! Checks whether a file that is being written is still in place.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cdi_base::advice::{Advice, Saved};
use cdi_base::error::Error;

use crate::path_of_open;

/// How often a file that is being written is checked to be still in place.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The location of a file that is being written. It may be moved or deleted in the meantime, and then all the writing is
/// in vain.
pub struct Placed {
    file: File,
    path: PathBuf,
    /// Device and inode numbers, if they are stable on this file system.
    id: Option<(u64, u64)>,
}

impl Placed {
    /// Records that `file` is at `path`.
    pub fn new(file: &File, path: &Path) -> Result<Placed, Error> {
        let failed = |e| Error::io("cannot examine", path, e);
        let own = file.metadata().map_err(failed)?;
        let id = (own.dev(), own.ino());
        // Open the file again by its name, so that the system can report its path even after a rename.
        let named = File::open(path)
            .ok()
            .filter(|f| f.metadata().is_ok_and(|there| (there.dev(), there.ino()) == id));
        // On some network file systems, a file has a different inode number each time.
        let is_stable = named.is_some();
        let file = named.map_or_else(|| file.try_clone(), Ok).map_err(failed)?;
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Ok(Placed { file, path, id: is_stable.then_some(id) })
    }

    /// Returns where the file is now.
    pub fn place(&self) -> Place {
        let Some(id) = self.id else { return Place::Here };
        match fs::metadata(&self.path) {
            Ok(there) if (there.dev(), there.ino()) == id => return Place::Here,
            Err(e) if !is_not_found(&e) => return Place::Here,
            _ => {}
        }
        let Ok(own) = self.file.metadata() else { return Place::Unknown };
        if own.nlink() == 0 {
            return Place::Deleted;
        }
        let path = path_of_open(&self.file)
            .filter(|path| fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == id));
        path.map_or(Place::Unknown, Place::Elsewhere)
    }

    /// Returns an error if the file is no longer at its path.
    pub fn check(&self) -> Result<(), Error> {
        let what = match self.place() {
            Place::Here => return Ok(()),
            _ if fs::metadata(&self.path).is_ok() => {
                "was replaced by another file while it was being written"
            }
            _ => "was moved or deleted while it was being written",
        };
        Err(Error::failed(what).at(&self.path))
    }

    /// Returns advice for the user on where the written data is, if the file is no longer in place. A deleted file is
    /// copied, because its data is lost once it is closed.
    pub fn where_it_is(&self) -> Option<Advice> {
        Some(match self.place() {
            Place::Here => return None,
            Place::Elsewhere(path) => Advice::Resume(Saved::In(path)),
            Place::Deleted => match self.save() {
                Some(saved) => Advice::Resume(Saved::In(saved)),
                None => {
                    "the image was deleted, and no copy could be saved: the data read so far is lost".into()
                }
            },
            Place::Unknown => {
                let inode = self.id.map_or(0, |(_, inode)| inode);
                format!(
                    "the image was renamed, or its file system was unmounted; search with 'find / -inum {inode}'"
                )
                .into()
            }
        })
    }

    /// Copies the file to its former directory, or to the current directory, or to the directory for temporary files.
    fn save(&self) -> Option<PathBuf> {
        let name = self.path.file_name()?;
        let places = [
            self.path.parent().map(Path::to_owned),
            std::env::current_dir().ok(),
            Some(std::env::temp_dir()),
        ];
        places.into_iter().flatten().find_map(|dir| {
            let mut path = dir.join(name);
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
        })
    }
}

/// The location of a file that was opened by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Still in place, as far as is known.
    Here,
    /// At this path.
    Elsewhere(PathBuf),
    /// Deleted: no name is left.
    Deleted,
    /// It has a name, but the system does not report it.
    Unknown,
}

/// Checks whether an error means that nothing exists at a path. After any other error, the file may still be there.
fn is_not_found(e: &io::Error) -> bool {
    use nix::errno::Errno;
    let gone = [Errno::ENOENT, Errno::ENOTDIR, Errno::ELOOP, Errno::ENAMETOOLONG].map(|e| Some(e as i32));
    gone.contains(&e.raw_os_error())
}
