//! An image's files: opened once, read only by position, and never past their end.
//!
//! Formats never open files themselves; they can only read what is opened here, which excludes files outside the
//! directories that the user named.

mod derived;
mod faults;
mod opening;
pub mod parity;
pub(crate) mod pieces;
#[cfg(feature = "remote")]
mod remote;
pub mod salvaged;
mod siblings;
mod source;
mod stamp;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use cdi_base::error::{Error, Flaw, ReadError};
use derived::{Derived, Joined};
pub use faults::{Required, end_reads_when, forget_flag};
use parity::unreadable;
use siblings::Parts;
pub(crate) use source::SourceReader;
pub use source::{PackedFile, ReadAt, RemoteStats};

use super::extent::FileNo;

/// The list of partitions in a directory by Clonezilla. Other directories may have a file of this name.
pub(crate) const CLONEZILLA: &str = "parts";
/// An image's files.
pub struct Input {
    source: Arc<dyn ReadAt>,
    path: PathBuf,
    /// The path with the name of what is in the main file: that of a packed file without its suffix.
    name: PathBuf,
    /// Whether the main file is made of others.
    is_derived: bool,
    len: u64,
    /// The length of the main file as it is stored: decompressed it has `len` bytes.
    stored_len: u64,
    device: bool,
    /// The list that represents an image that is a directory.
    list: Option<&'static str>,
    is_copy: bool,
    modified: Option<SystemTime>,
    parts: Arc<Parts>,
    derived: Derived,
    encryption: Arc<OnceLock<String>>,
    /// The directory in which blocks of remote files are kept.
    cache: Option<PathBuf>,
}

/// Where blocks of remote files are kept on this system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteCache {
    /// The directory.
    pub dir: PathBuf,
    /// The maximum length of all blocks together, in bytes.
    pub bytes: u64,
}

/// Returns whether `path` is the address of a file on another system.
#[cfg(feature = "remote")]
pub fn is_remote(path: &Path) -> bool {
    remote::is_remote(path)
}

/// Returns whether `path` is the address of a file on another system. This program was built without support for them.
#[cfg(not(feature = "remote"))]
pub fn is_remote(_: &Path) -> bool {
    false
}

/// Ends all threads that read remote files, for a process that is about to fork. The next read starts them again.
pub fn rest() {
    #[cfg(feature = "remote")]
    remote::rest();
}

impl Input {
    /// Returns whether the image is on another system.
    pub fn is_remote(&self) -> bool {
        is_remote(&self.path)
    }

    /// Returns what was fetched of remote files so far, if there are any.
    pub fn remote_stats(&self) -> Option<RemoteStats> {
        self.source.remote().or_else(|| self.parts.stats())
    }

    /// Returns an input for the file at `path` that is read through `source`.
    pub fn new(source: Box<dyn ReadAt>, path: &Path) -> Result<Input, Error> {
        let len = source.len().map_err(|e| Error::io("cannot determine the size", path, e))?;
        Ok(Input {
            source: source.into(),
            path: path.to_owned(),
            name: path.to_owned(),
            is_derived: false,
            len,
            stored_len: len,
            device: false,
            list: None,
            is_copy: false,
            modified: None,
            parts: Arc::new(Parts::new(path)),
            derived: Derived::default(),
            encryption: Arc::default(),
            cache: None,
        })
    }

    /// Returns the same image with another main file, which is read through `source`: what this image's main file is
    /// when it is decompressed or decrypted. `name` is the path that it would have. Other files have the same numbers in
    /// both.
    pub fn within(&self, source: Arc<dyn ReadAt>, name: &Path) -> Result<Input, Error> {
        let len = source.len().map_err(|e| Error::io("cannot determine the size", &self.path, e))?;
        Ok(Input {
            source,
            path: self.path.clone(),
            name: name.to_owned(),
            is_derived: true,
            len,
            stored_len: self.stored_len,
            device: self.device,
            list: self.list,
            is_copy: self.is_copy,
            modified: self.modified,
            parts: Arc::clone(&self.parts),
            derived: self.derived.clone(),
            encryption: Arc::clone(&self.encryption),
            cache: self.cache.clone(),
        })
    }

    /// Returns a source that reads these files of the image, one after the other. It does not keep this input.
    pub fn joined(&self, files: &[FileNo]) -> Arc<dyn ReadAt> {
        let source = |file: &FileNo| -> (Arc<dyn ReadAt>, u64) {
            let len = self.len_of(*file);
            match *file {
                Self::MAIN => (Arc::clone(&self.source), len),
                file => match self.derived.source(file) {
                    Some(source) => (source, len),
                    None => (Arc::new(siblings::Sibling::new(Arc::clone(&self.parts), file)), len),
                },
            }
        };
        Arc::new(Joined::new(files.iter().map(source)))
    }

    /// Makes `source`, which is made of files of this image, a file of the image; `path` is its name in messages.
    pub fn derive(&self, source: Arc<dyn ReadAt>, path: &Path) -> Result<FileNo, Error> {
        let len = source.len().map_err(|e| Error::io("cannot determine the size", path, e))?;
        Ok(self.derived.add(source, len, path))
    }

    /// Notes in words how the image is encrypted, without anything secret.
    pub(crate) fn note_encryption(&self, how: String) {
        let _ = self.encryption.set(how);
    }

    /// Returns how the image is encrypted, if it is.
    pub fn encryption(&self) -> Option<&str> {
        self.encryption.get().map(String::as_str)
    }

    /// Returns when the file was last modified, if known.
    pub fn modified(&self) -> Option<SystemTime> {
        self.modified
    }

    /// Returns the path that the user gave.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path with the name of what is in the main file: that of a packed file without its suffix.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// Returns whether the main file is a regular file, which may be a piece of something.
    pub fn is_plain_file(&self) -> bool {
        !self.device && !self.is_directory() && !self.is_derived
    }

    /// Returns the length in bytes at the time the file was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether the file is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns whether it is a device and not a regular file.
    pub fn is_device(&self) -> bool {
        self.device
    }

    /// Returns whether it is a directory; a list in it is the image's main file.
    pub fn is_directory(&self) -> bool {
        self.list.is_some()
    }

    /// Returns the name of the list that represents the image, if it is a directory.
    pub fn list(&self) -> Option<&'static str> {
        self.list
    }

    /// Returns whether it is a directory whose list is missing, so that a copy of it is used instead.
    pub fn is_copy(&self) -> bool {
        self.is_copy
    }

    /// The file number of the image's main file.
    pub const MAIN: FileNo = FileNo(0);

    /// Finds the file `name` next to the image, if there is one: a segment, an extent, a parent. A name that leads to
    /// another directory is an error, even if that is below the image's directory.
    pub fn sibling(&self, name: &Path) -> Result<Option<FileNo>, Error> {
        self.parts.find(name)
    }

    /// Finds the file `name` in the directory `dir` next to the image, if there is one: only for formats that consist
    /// of directories. `dir` must not be taken from the image.
    pub fn sibling_in(&self, dir: &str, name: &Path) -> Result<Option<FileNo>, Error> {
        self.parts.find_in(Path::new(dir), name)
    }

    /// Lists the file names in the directory `name` next to the image, if there is one.
    pub fn names(&self, name: &Path) -> Result<Option<Vec<String>>, Error> {
        self.parts.names(name)
    }

    /// Also allows the image's other files to be in these directories. To be called before anything is made of the
    /// image's files.
    pub fn allow(&mut self, directories: &[PathBuf]) -> Result<(), Error> {
        let Some(parts) = Arc::get_mut(&mut self.parts) else {
            return Err(Error::failed("files of the image are in use already").at(&self.path));
        };
        directories.iter().try_for_each(|dir| {
            #[cfg(feature = "remote")]
            if is_remote(dir) {
                parts.allow_folder(remote::folder(dir, None)?);
                return Ok(());
            }
            parts.allow(dir)
        })
    }

    /// Returns the length of one of the image's files in bytes, at the time it was found.
    pub fn len_of(&self, file: FileNo) -> u64 {
        match file {
            Self::MAIN => self.len,
            file => self.derived.len(file).unwrap_or_else(|| self.parts.len(file)),
        }
    }

    /// Returns the path of one of the image's files.
    pub fn path_of(&self, file: FileNo) -> PathBuf {
        let derived = self.derived.path(file);
        derived.or_else(|| self.parts.path(file)).unwrap_or_else(|| self.path.clone())
    }

    /// Returns the length in bytes of all files that the image has referred to so far, together.
    pub fn total_len(&self) -> u64 {
        self.parts.lens().fold(self.stored_len, u64::saturating_add)
    }

    /// Returns the paths of all files that the image has referred to so far, its main file first.
    pub fn paths(&self) -> Vec<PathBuf> {
        std::iter::once(self.path.clone()).chain(self.parts.paths()).collect()
    }

    /// Returns what reading the image's remote files takes besides connections: files and directories that are read, and
    /// the directory in which blocks are kept. None if it has no remote files.
    pub fn remote_needs(&self) -> Option<(Vec<PathBuf>, Option<PathBuf>)> {
        self.remote_stats()?;
        #[cfg(feature = "remote")]
        return Some((remote::places(), self.cache.clone()));
        #[cfg(not(feature = "remote"))]
        None
    }

    /// Returns the files, and the directories whose files, may be opened while the image is read, now that it is open.
    pub fn to_open(&self) -> Vec<PathBuf> {
        self.parts.to_open()
    }

    /// Fills `buf` from offset `at`. A short read is an error.
    pub fn read_exact_at(&self, file: FileNo, buf: &mut [u8], at: u64) -> Result<(), ReadError> {
        if at.checked_add(buf.len() as u64).is_none_or(|end| end > self.len_of(file)) {
            return Err(ReadError::Corrupt { at });
        }
        let mut done = 0;
        while done < buf.len() {
            let (rest, here) = (&mut buf[done..], at + done as u64);
            let read = if file == Self::MAIN {
                match self.source.read_at(rest, here) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    other => other?,
                }
            } else if let Some(source) = self.derived.source(file) {
                source.read_at(rest, here)?
            } else {
                self.parts.read_at(file, rest, here)?
            };
            // The file was truncated since it was opened.
            if read == 0 {
                return Err(ReadError::Corrupt { at: here });
            }
            done += read;
        }
        Ok(())
    }

    /// Returns what the main file is read through.
    pub(crate) fn source(&self) -> Arc<dyn ReadAt> {
        Arc::clone(&self.source)
    }

    /// Reads `len` bytes from offset `at` on. For a format's own structures: the caller limits `len`, and `what` names
    /// the structure in errors.
    pub fn bytes(&self, at: u64, len: usize, what: &str) -> Result<Vec<u8>, Error> {
        self.bytes_of(Self::MAIN, at, len, what)
    }

    /// As [`Input::bytes`], for any of the image's files.
    pub fn bytes_of(&self, file: FileNo, at: u64, len: usize, what: &str) -> Result<Vec<u8>, Error> {
        let file_len = self.len_of(file);
        if at.checked_add(len as u64).is_none_or(|end| end > file_len) {
            return Err(Flaw::at(
                at,
                format!("{what} ({len} bytes) extends past the end of the file ({file_len} bytes)"),
            )
            .into());
        }
        let mut bytes = vec![0; len];
        self.read_exact_at(file, &mut bytes, at).map_err(|e| unreadable(e, at, what))?;
        Ok(bytes)
    }

    /// Prepares what is needed to read `range` of a file, if that takes time and is not done yet.
    pub fn prefetch(&self, file: FileNo, range: std::ops::Range<u64>) {
        match file {
            Self::MAIN => self.source.prefetch(range),
            file => {
                if let Some(source) = self.derived.source(file) {
                    source.prefetch(range);
                }
            }
        }
    }

    /// Makes reads of the main file fail where it was unpacked, but may be wrong.
    pub fn refuse_suspect(&self) {
        self.source.refuse_suspect();
    }

    /// Returns what is known about the packed file of which the main file is the contents.
    pub fn packed(&self) -> Option<&PackedFile> {
        self.source.packed()
    }

    /// Returns what is known about the packed file of which `file` is the contents.
    pub fn packed_of(&self, file: FileNo) -> Option<PackedFile> {
        match file {
            Self::MAIN => self.source.packed().cloned(),
            file => self.derived.source(file)?.packed().cloned(),
        }
    }

    /// Returns when one of the image's files was last modified, if known.
    pub fn modified_of(&self, file: FileNo) -> Option<SystemTime> {
        if file == Self::MAIN { self.modified } else { self.parts.modified(file) }
    }

    /// Returns the run of data at or after `at`; the bytes between `at` and its start are a hole in the file.
    pub fn data_run(&self, at: u64) -> Result<std::ops::Range<u64>, ReadError> {
        if self.device {
            return Ok(at..self.len);
        }
        Ok(self.source.data_run(at, self.len)?)
    }
}
