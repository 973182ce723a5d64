//! Whether a file that is being written is still where it should be.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cdi_base::advice::Advice;
use cdi_base::error::Error;

use crate::path_of_open;

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

    /// Says where the file is by now.
    pub fn place(&self) -> Place {
        let Some(id) = self.id else { return Place::Here };
        match fs::metadata(&self.path) {
            Ok(there) if (there.dev(), there.ino()) == id => return Place::Here,
            Err(e) if !means_gone(&e) => return Place::Here,
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

    /// An error if the file is no longer at its path.
    pub fn check(&self) -> Result<(), Error> {
        let what = match self.place() {
            Place::Here => return Ok(()),
            _ if fs::metadata(&self.path).is_ok() => "was replaced by another file while it was written",
            _ => "was moved or deleted while it was written",
        };
        Err(Error::failed(what).at(&self.path))
    }

    /// Says where what was written is, as advice for the user, if it is not where it should be. A file without a name is
    /// copied: when it is closed it is gone.
    pub fn where_it_is(&self) -> Option<Advice> {
        Some(match self.place() {
            Place::Here => return None,
            Place::Elsewhere(path) => Advice::Resume(Some(path)),
            Place::Deleted => match self.save() {
                Some(saved) => Advice::Resume(Some(saved)),
                None => {
                    "the image was deleted, and there was no room to save what was read: it is lost".into()
                }
            },
            Place::Unknown => {
                let inode = self.id.map_or(0, |(_, inode)| inode);
                format!(
                    "the image has another name by now, or its file system was unmounted: find / -inum {inode}"
                )
                .into()
            }
        })
    }

    /// Copies the file to a new one next to where it was, or where the program was started, or among temporary files.
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

/// Where a file is that was opened under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Where it was, as far as can be known.
    Here,
    /// At this path.
    Elsewhere(PathBuf),
    /// It has no name any more.
    Deleted,
    /// It has a name, and nobody says which.
    Unknown,
}

/// Whether an error says that there is nothing at a path. What cannot be looked at for another reason may be there.
fn means_gone(e: &io::Error) -> bool {
    use nix::errno::Errno;
    let gone = [Errno::ENOENT, Errno::ENOTDIR, Errno::ELOOP, Errno::ENAMETOOLONG].map(|e| Some(e as i32));
    gone.contains(&e.raw_os_error())
}
