//! An image's other files: segments, extents, parents. Only what lies beside the image, and is a plain file there, is
//! ever opened; an image that asks for anything else is told what it asked for.

use std::fs::File;
use std::num::NonZero;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use lru::LruCache;

use super::FileNo;
use crate::error::{Error, ReadError};

/// How many of them are kept open.
const OPEN: NonZero<usize> = NonZero::new(64).expect("not 0");
/// How many an image may have.
const MOST: usize = 1 << 22;

/// The other files of an image, in the order in which its format asked for them.
pub(super) struct Parts {
    /// The image's own path.
    image: PathBuf,
    /// Its folder, resolved: a daemon works somewhere else.
    own: Option<PathBuf>,
    /// Folders besides that in which they may lie.
    allowed: Vec<PathBuf>,
    known: RwLock<Vec<Part>>,
    open: Mutex<LruCache<u32, Arc<File>>>,
}

struct Part {
    path: PathBuf,
    len: u64,
}

impl Parts {
    /// Those of the image at `path`.
    pub(super) fn new(image: &Path) -> Parts {
        let open = Mutex::new(LruCache::new(OPEN));
        let dir = image.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Parts {
            image: image.to_owned(),
            own: dir.canonicalize().ok(),
            allowed: Vec::new(),
            known: RwLock::default(),
            open,
        }
    }

    /// Lets them lie in `folder`, too.
    pub(super) fn allow(&mut self, folder: &Path) -> Result<(), Error> {
        let resolved = folder.canonicalize().map_err(|e| Error::io("is no folder for parents", folder, e))?;
        self.allowed.push(resolved);
        Ok(())
    }

    /// The file `name` beside the image or in one of the allowed folders, if there is one. Numbers begin at 1: 0 is the
    /// image itself.
    pub(super) fn find(&self, name: &Path) -> Result<Option<FileNo>, Error> {
        let refuse = |why: &str| {
            let what = format!("the image asks for the file '{}', which {why}", name.display());
            Err(Error::bad_image(what).at(&self.image).hint(
                "only plain files beside the image are read, or in folders named by --allow-parent DIR",
            ))
        };
        if name.as_os_str().is_empty() {
            return refuse("is not a name of something beside it");
        }
        let plain = name.components().all(|c| matches!(c, Component::Normal(_)));
        let Some(own) = &self.own else { return Ok(None) };
        // A name that leads elsewhere is looked at only where the user allows an elsewhere.
        let path = if plain || !self.allowed.is_empty() { own.join(name).canonicalize().ok() } else { None };
        let mut allowed = self.allowed.iter();
        let found = match path {
            Some(path) if plain && path.starts_with(own) => Some(path),
            Some(path) if self.allowed.iter().any(|dir| path.starts_with(dir)) => Some(path),
            Some(_) if plain => return refuse("a symbolic link leads somewhere else"),
            _ if plain => allowed
                .find_map(|dir| dir.join(name).canonicalize().ok().filter(|path| path.starts_with(dir))),
            _ => return refuse("is not a name of something beside it"),
        };
        let Some(path) = found else { return Ok(None) };
        let meta = path.metadata().map_err(|e| Error::io("cannot be looked at", &path, e))?;
        if !meta.is_file() {
            return refuse("is no plain file");
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        // A chain that comes back to itself asks for the same again and again.
        if let Some(n) = known.iter().rev().take(64).position(|part| part.path == path) {
            return Ok(u32::try_from(known.len() - n).ok().map(FileNo));
        }
        if known.len() >= MOST {
            return refuse("would be one too many");
        }
        known.push(Part { path, len: meta.len() });
        Ok(u32::try_from(known.len()).ok().map(FileNo))
    }

    /// The names in the folder `name` beside the image, if it is there.
    pub(super) fn names(&self, name: &Path) -> Result<Option<Vec<String>>, Error> {
        let Some(own) = &self.own else { return Ok(None) };
        let Ok(path) = own.join(name).canonicalize() else { return Ok(None) };
        let failed = |e| Error::io("cannot be listed", &path, e);
        if !path.starts_with(own) {
            let what = format!("the image's folder '{}' leads somewhere else", name.display());
            return Err(Error::bad_image(what).at(&self.image));
        }
        let mut names = Vec::new();
        for entry in path.read_dir().map_err(failed)? {
            names.extend(entry.map_err(failed)?.file_name().into_string());
            if names.len() > MOST {
                return Err(Error::bad_image(format!("has more than {MOST} files")).at(&path));
            }
        }
        Ok(Some(names))
    }

    fn with<T>(&self, file: FileNo, use_it: impl FnOnce(&Part) -> T) -> Option<T> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let part = usize::try_from(file.0).ok()?.checked_sub(1)?;
        known.get(part).map(use_it)
    }

    /// The length of a file in bytes, as it was when it was found.
    pub(super) fn len(&self, file: FileNo) -> u64 {
        self.with(file, |part| part.len).unwrap_or(0)
    }

    /// Where it is.
    pub(super) fn path(&self, file: FileNo) -> Option<PathBuf> {
        self.with(file, |part| part.path.clone())
    }

    /// Returns where all of them are that were found so far.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|part| part.path.clone()).collect()
    }

    fn file(&self, file: FileNo) -> Result<Arc<File>, ReadError> {
        let lock = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = lock().get(&file.0) {
            return Ok(Arc::clone(open));
        }
        let path = self.path(file).ok_or(ReadError::Corrupt { at: 0 })?;
        // What was a plain file when it was found must not have become a link or a pipe.
        let flags = (nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK).bits();
        let opened = Arc::new(File::options().read(true).custom_flags(flags).open(path)?);
        lock().put(file.0, Arc::clone(&opened));
        Ok(opened)
    }

    /// Reads once; as `pread`, it may read less.
    pub(super) fn read_at(&self, file: FileNo, buf: &mut [u8], at: u64) -> Result<usize, ReadError> {
        loop {
            match FileExt::read_at(&*self.file(file)?, buf, at) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                other => return Ok(other?),
            }
        }
    }
}
