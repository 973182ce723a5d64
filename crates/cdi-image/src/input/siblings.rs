//! An image's other files: segments, extents, parents. Only regular files in the image's own directory, or in those
//! that the user allows, are ever opened; a reference to any other file is an error that names the file.

use cdi_base::workers::lock;
use std::fs::File;
use std::io;
use std::num::NonZero;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use cdi_base::advice::Advice;
use cdi_base::error::{Error, Kind, ReadError};
use lru::LruCache;

use super::source::{Folder, Found, RemoteStats};
use super::{Input, ReadAt};
use crate::extent::FileNo;

/// The number of files that are kept open.
const OPEN: NonZero<usize> = NonZero::new(64).expect("not 0");
/// The maximum number of files that [`Parts::to_open`] names one by one.
const NAMED: usize = 1024;
/// The maximum number of files of an image.
const MAX: usize = 1 << 22;

/// The other files of an image, in the order in which its format requested them.
pub(super) struct Parts {
    /// The image's own path.
    image: PathBuf,
    /// The image's directory, resolved: a daemon has another working directory.
    own: Option<PathBuf>,
    /// The image's place, if that is no directory of this system.
    remote: Option<Arc<dyn Folder>>,
    /// Other directories in which the files may be.
    allowed: Vec<PathBuf>,
    /// Other places that are no directories of this system.
    folders: Vec<Arc<dyn Folder>>,
    known: RwLock<Vec<Part>>,
    /// Directories below the image's whose files the format knows by their names, and finds when it reads them.
    listed: Mutex<Vec<PathBuf>>,
    open: Mutex<LruCache<u32, Arc<File>>>,
}

struct Part {
    path: PathBuf,
    len: u64,
    modified: Option<SystemTime>,
    /// Its device and inode.
    place: Option<(u64, u64)>,
    /// What it is read through, if it is no file of this system.
    source: Option<Arc<dyn ReadAt>>,
}

impl From<Found> for Part {
    fn from(found: Found) -> Part {
        Part {
            path: found.path,
            len: found.len,
            modified: found.modified,
            place: None,
            source: Some(found.source),
        }
    }
}

impl Input {
    /// Finds the file `name` next to the image, if there is one that may be read: for formats that look through the files
    /// of a directory. A file that may not be used, such as a link to another directory, is as good as none; that
    /// nothing can be found out about it is an error.
    pub fn candidate(&self, name: &Path) -> Result<Option<FileNo>, Error> {
        match self.sibling(name) {
            Err(e) if e.kind == Kind::BadImage => Ok(None),
            found => found,
        }
    }
}

impl Parts {
    /// Returns an empty list for the image at `image`.
    pub(super) fn new(image: &Path) -> Parts {
        let open = Mutex::new(LruCache::new(OPEN));
        let dir = image.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Parts {
            image: image.to_owned(),
            own: dir.canonicalize().ok(),
            remote: None,
            allowed: Vec::new(),
            folders: Vec::new(),
            known: RwLock::default(),
            listed: Mutex::default(),
            open,
        }
    }

    /// Returns an empty list for the image at `image`, whose other files are in `folder`.
    #[cfg(feature = "remote")]
    pub(super) fn remote(image: &Path, folder: Arc<dyn Folder>) -> Parts {
        Parts { own: None, remote: Some(folder), ..Parts::new(image) }
    }

    /// Also allows files in `folder`.
    #[cfg(feature = "remote")]
    pub(super) fn allow_folder(&mut self, folder: Arc<dyn Folder>) {
        self.folders.push(folder);
    }

    /// Also allows files in `directory`.
    pub(super) fn allow(&mut self, directory: &Path) -> Result<(), Error> {
        let resolved = directory
            .canonicalize()
            .map_err(|e| Error::io("cannot use as a directory for parents", directory, e))?;
        self.allowed.push(resolved);
        Ok(())
    }

    /// Finds the file `name` next to the image or in one of the allowed directories, if there is one. Numbers start at
    /// 1; 0 is the image itself.
    pub(super) fn find(&self, name: &Path) -> Result<Option<FileNo>, Error> {
        self.find_in(Path::new(""), name)
    }

    /// Finds the file `name` in the directory `dir` next to the image, for formats that consist of directories. `dir`
    /// is a constant of the format, and never taken from the image.
    pub(super) fn find_in(&self, dir: &Path, name: &Path) -> Result<Option<FileNo>, Error> {
        let refuse = |why: &str| {
            let what = format!("the image refers to the file '{}', which {why}", name.display());
            Err(Error::bad_image(what).at(&self.image).hint(Advice::AllowDirectory))
        };
        let not_next_to = "is not the name of a file in the image's directory";
        // Exactly one component: `x/` and `./x` are more than a name.
        let mut components = name.components();
        let plain = matches!(components.next(), Some(Component::Normal(only)) if only == name.as_os_str());
        if name.as_os_str().is_empty() {
            return refuse(not_next_to);
        }
        let Some(own) = &self.own else {
            return match name.to_str().filter(|_| plain) {
                Some(name) => self.find_remote(self.places(), dir, name),
                None if plain => Ok(None),
                None => refuse(not_next_to),
            };
        };
        // A path to another directory is only looked up if the user allows other directories.
        let path = if plain || !self.allowed.is_empty() {
            own.join(dir).join(name).canonicalize().ok()
        } else {
            None
        };
        let mut allowed = self.allowed.iter();
        let found = match path {
            Some(path) if plain && path.parent() == Some(own.join(dir).as_path()) => Some(path),
            // Only in the allowed directory itself: the user did not allow those below it.
            Some(path) if self.allowed.iter().any(|dir| path.parent() == Some(dir.as_path())) => Some(path),
            Some(_) if plain => return refuse("is reached by a symbolic link to another directory"),
            _ if plain && dir.as_os_str().is_empty() => allowed.find_map(|dir| {
                dir.join(name).canonicalize().ok().filter(|path| path.parent() == Some(dir.as_path()))
            }),
            _ if plain => None,
            _ => return refuse(not_next_to),
        };
        let Some(path) = found else {
            // The target of a dangling link is missing, which differs from no file at all.
            if plain && own.join(dir).join(name).symlink_metadata().is_ok() {
                return refuse("is a dangling symbolic link");
            }
            let name = name.to_str().filter(|_| plain && dir.as_os_str().is_empty());
            return name.map_or(Ok(None), |name| self.find_remote(self.folders.iter(), dir, name));
        };
        let meta = path.metadata().map_err(|e| Error::io("cannot get the file status", &path, e))?;
        if !meta.is_file() {
            return refuse("is not a regular file");
        }
        let (len, modified, place) = (meta.len(), meta.modified().ok(), Some((meta.dev(), meta.ino())));
        self.add(Part { path, len, modified, place, source: None }).map(Some)
    }

    /// Finds the file `name` in the first of these places that has it.
    fn find_remote<'a>(
        &self,
        places: impl Iterator<Item = &'a Arc<dyn Folder>>,
        dir: &Path,
        name: &str,
    ) -> Result<Option<FileNo>, Error> {
        for place in places {
            if let Some(found) = place.find(dir, name)? {
                return self.add(found.into()).map(Some);
            }
        }
        Ok(None)
    }

    /// Adds a file, unless it is one of the last that were added, and returns its number.
    fn add(&self, part: Part) -> Result<FileNo, Error> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        // A cyclic chain requests the same file again and again.
        let again = known.iter().rev().take(64).position(|there| there.path == part.path);
        if again.is_none() {
            known.push(part);
        }
        let number = u32::try_from(known.len() - again.unwrap_or(0)).ok().filter(|_| known.len() <= MAX);
        let many = || Error::bad_image(format!("refers to more than {MAX} files")).at(&self.image);
        number.map(FileNo).ok_or_else(many)
    }

    /// Returns whether this file, which was not found, may be there all the same, because access to it was denied.
    pub(super) fn is_denied(&self, path: &Path) -> bool {
        self.remote.as_ref().is_some_and(|folder| folder.is_denied(path))
    }

    /// Returns the address of a file to which access was denied, if there is one.
    pub(super) fn denied(&self) -> Option<PathBuf> {
        self.remote.as_ref()?.denied()
    }

    /// The places on other systems.
    pub(super) fn places(&self) -> impl Iterator<Item = &Arc<dyn Folder>> {
        self.remote.iter().chain(&self.folders)
    }

    /// Lists the file names in the directory `name` next to the image, if there is one.
    pub(super) fn names(&self, name: &Path) -> Result<Option<Vec<String>>, Error> {
        if let Some(remote) = &self.remote {
            return remote.names(name);
        }
        let Some(own) = &self.own else { return Ok(None) };
        let Ok(path) = own.join(name).canonicalize() else { return Ok(None) };
        let failed = |e| Error::io("cannot list the directory", &path, e);
        if path != own.join(name) {
            let what = format!(
                "the image's directory '{}' is reached by a symbolic link to another directory",
                name.display()
            );
            return Err(Error::bad_image(what).at(&self.image));
        }
        let mut names = Vec::new();
        for entry in path.read_dir().map_err(failed)? {
            names.extend(entry.map_err(failed)?.file_name().into_string());
            if names.len() > MAX {
                return Err(Error::bad_image(format!("has more than {MAX} files")).at(&path));
            }
        }
        if path != *own {
            lock(&self.listed).push(path);
        }
        Ok(Some(names))
    }

    fn with<T>(&self, file: FileNo, use_it: impl FnOnce(&Part) -> T) -> Option<T> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let part = usize::try_from(file.0).ok()?.checked_sub(1)?;
        known.get(part).map(use_it)
    }

    /// Returns the length of a file in bytes, at the time it was found.
    pub(super) fn len(&self, file: FileNo) -> u64 {
        self.with(file, |part| part.len).unwrap_or(0)
    }

    /// Returns when a file was last modified, at the time it was found.
    pub(super) fn modified(&self, file: FileNo) -> Option<SystemTime> {
        self.with(file, |part| part.modified).flatten()
    }

    /// Returns the path of a file.
    pub(super) fn path(&self, file: FileNo) -> Option<PathBuf> {
        self.with(file, |part| part.path.clone())
    }

    /// Returns what was fetched of the files so far, if some are on other systems.
    pub(super) fn stats(&self) -> Option<RemoteStats> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().find_map(|part| part.source.as_ref()?.remote())
    }

    /// Returns the lengths in bytes of all files found so far.
    pub(super) fn lens(&self) -> impl Iterator<Item = u64> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|part| part.len).collect::<Vec<_>>().into_iter()
    }

    /// Returns the paths of all files found so far.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|part| part.path.clone()).collect()
    }

    /// Passes path, length, modification time, and device and inode of all files found so far to `each`, as they were when
    /// each was found.
    pub(super) fn each_found(
        &self,
        mut each: impl FnMut(&Path, u64, Option<SystemTime>, Option<(u64, u64)>),
    ) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().for_each(|part| each(&part.path, part.len, part.modified, part.place));
    }

    /// Returns the directories whose files are found when they are read.
    pub(super) fn listed(&self) -> Vec<PathBuf> {
        lock(&self.listed).clone()
    }

    /// Returns the files, and directories of files, that may be opened from now on: not all of an image's files are kept
    /// open. Of very many, their directories.
    pub(super) fn to_open(&self) -> Vec<PathBuf> {
        let mut paths = self.paths();
        if paths.len() > NAMED {
            paths = paths.iter().filter_map(|path| Some(path.parent()?.to_owned())).collect();
            paths.sort_unstable();
            paths.dedup();
        }
        paths.extend(lock(&self.listed).iter().cloned());
        paths
    }

    fn file(&self, file: FileNo) -> Result<Arc<File>, ReadError> {
        let lock = || lock(&self.open);
        if let Some(open) = lock().get(&file.0) {
            return Ok(Arc::clone(open));
        }
        let found = self.with(file, |part| (part.path.clone(), part.place));
        let (path, place) = found.ok_or(ReadError::Corrupt { at: 0 })?;
        // A regular file may have been replaced by a link or a pipe since it was found, or by another file, whose bytes are
        // not the image's.
        let flags = (nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK).bits();
        let opened = Arc::new(File::options().read(true).custom_flags(flags).open(path)?);
        let meta = opened.metadata()?;
        if place.is_some_and(|place| place != (meta.dev(), meta.ino())) {
            return Err(io::Error::from_raw_os_error(nix::errno::Errno::ESTALE as i32).into());
        }
        lock().put(file.0, Arc::clone(&opened));
        Ok(opened)
    }

    /// Reads once, like `pread`: may return fewer bytes than requested.
    pub(super) fn read_at(&self, file: FileNo, buf: &mut [u8], at: u64) -> Result<usize, ReadError> {
        if let Some(source) = self.with(file, |part| part.source.clone()).flatten() {
            return Ok(source.read_at(buf, at)?);
        }
        loop {
            match FileExt::read_at(&*self.file(file)?, buf, at) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return Ok(other?),
            }
        }
    }
}

/// One of an image's other files, as a source of its own.
pub(super) struct Sibling {
    parts: Arc<Parts>,
    file: FileNo,
}

impl Sibling {
    pub(super) fn new(parts: Arc<Parts>, file: FileNo) -> Sibling {
        Sibling { parts, file }
    }
}

impl ReadAt for Sibling {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        Ok(self.parts.read_at(self.file, buf, at)?)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.parts.len(self.file))
    }
}
