//! How an image's main file is opened: a file, a directory that is an image, or an address.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
#[cfg(feature = "remote")]
use std::{io, sync::Arc};

use cdi_base::error::Error;

#[cfg(feature = "remote")]
use super::siblings::Parts;
use super::{CLONEZILLA, Input, RemoteCache};
#[cfg(feature = "remote")]
use super::{is_remote, remote};

/// The files that represent an image that is a directory, each with the list that it is, or is a copy of: the property
/// list of Apple's bundles, the descriptor of Parallels' disks, and the lists of what Clonezilla saved. (The copy of
/// Parallels' descriptor may be of an earlier state.)
const LISTS: [(&str, &str); 5] = [
    ("Info.plist", "Info.plist"),
    ("Info.bckup", "Info.plist"),
    ("DiskDescriptor.xml", "DiskDescriptor.xml"),
    (CLONEZILLA, CLONEZILLA),
    ("disk", CLONEZILLA),
];
/// How many files of a directory that is no image are examined for images.
const EXAMINED: usize = 1000;

/// The first file of an image that is a directory of AFF files. It is opened like any file.
const AFD_FIRST: &str = "file_000.aff";

impl Input {
    /// Opens the file at `path` for reading: a path of this system, or an address (see [`is_remote`]).
    pub fn open(path: &Path) -> Result<Input, Error> {
        Input::open_cached(path, None)
    }

    /// Opens the file at `path` for reading. If it is an address, what is fetched is kept in `cache`.
    pub fn open_cached(path: &Path, cache: Option<&RemoteCache>) -> Result<Input, Error> {
        #[cfg(feature = "remote")]
        if is_remote(path) {
            return Input::open_remote(path, cache);
        }
        let _ = cache;
        let open = |e| Error::io("cannot open", path, e);
        // Opening a pipe without a writer would block.
        let nonblock = nix::fcntl::OFlag::O_NONBLOCK.bits();
        let file = File::options().read(true).custom_flags(nonblock).open(path).map_err(open)?;
        let meta = file.metadata().map_err(open)?;
        let kind = meta.file_type();
        if kind.is_dir() {
            return Input::open_directory(path);
        }
        let device = kind.is_block_device() || kind.is_char_device();
        if !kind.is_file() && !device {
            return Err(Error::bad_image("not a regular file or device").at(path));
        }
        let mut input = Input::new(Box::new(file), path)?;
        input.device = device;
        input.modified = meta.modified().ok();
        Ok(input)
    }

    /// Opens an image that is a directory (Apple's bundles, Parallels' disks, an AFD). Its list or the copy of that is opened
    /// as the main file; all other files are next to it.
    fn open_directory(path: &Path) -> Result<Input, Error> {
        if is_file_in(path, AFD_FIRST) {
            return Input::open(&path.join(AFD_FIRST));
        }
        let Some((file, list)) = list_in(path) else {
            let entries = path.read_dir().into_iter().flatten().flatten().take(EXAMINED);
            let images =
                entries.filter(|entry| list_in(&entry.path()).is_some_and(|(_, list)| list != CLONEZILLA));
            let names: Vec<_> = images.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
            let error = Error::bad_image("is a directory, not an image").at(path);
            return Err(match names.is_empty() {
                true => error,
                false => error.hint(format!("open an image in it: {}", names.join(", "))),
            });
        };
        let mut input = Input::open(&path.join(file))?;
        (input.path, input.name, input.list) = (path.to_owned(), path.to_owned(), Some(list));
        input.is_copy = file != list;
        Ok(input)
    }

    #[cfg(feature = "remote")]
    fn open_remote(path: &Path, cache: Option<&RemoteCache>) -> Result<Input, Error> {
        let opened = remote::open(path, cache)?;
        // A daemon has another working directory.
        let kept = cache.and_then(|cache| cache.dir.canonicalize().ok());
        let folder = match opened {
            remote::Remote::File(file, folder) => {
                let modified = file.modified();
                let parts = Arc::new(Parts::remote(path, folder));
                return Ok(Input { modified, parts, cache: kept, ..Input::new(Box::new(file), path)? });
            }
            remote::Remote::Folder(folder) => folder,
        };
        // A directory: its list, or the copy of that, is the main file.
        let names = LISTS.iter().map(|(file, list)| (*file, Some(*list))).chain([(AFD_FIRST, None)]);
        for (name, list) in names {
            let Some(found) = folder.find(Path::new(""), name)? else { continue };
            let own = if list.is_some() { path } else { found.path.as_path() };
            let input = Input::new(Box::new(found.source), own)?;
            let (parts, modified) = (Arc::new(Parts::remote(own, folder)), found.modified);
            let is_copy = list.is_some_and(|list| list != name);
            return Ok(Input { parts, modified, list, is_copy, cache: kept, ..input });
        }
        Err(Error::io("cannot open", path, io::ErrorKind::NotFound.into()))
    }
}

/// Returns the file that represents the image in the directory at `path`, and the list that it stands for.
fn list_in(path: &Path) -> Option<(&'static str, &'static str)> {
    LISTS.into_iter().find(|(file, _)| is_file_in(path, file))
}

/// Returns whether there is a regular file of this name. Symbolic links could lead elsewhere, so they are not followed.
fn is_file_in(dir: &Path, name: &str) -> bool {
    dir.join(name).symlink_metadata().is_ok_and(|meta| meta.is_file())
}
