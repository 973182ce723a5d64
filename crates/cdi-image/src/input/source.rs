//! What an image's file is read through: a file of the system, or what is made of one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use cdi_base::error::Error;
use serde::{Deserialize, Serialize};

use super::parity::Parity;

/// A source that can be read by position: a file, or in tests a source that fails on demand.
pub trait ReadAt: Send + Sync {
    /// Reads like `pread`: may return fewer bytes than requested, and returns 0 at the end.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;
    /// Returns the length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Returns whether it is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Returns the first byte from `at` on that may be data, and the start of the first hole after it. If holes are not
    /// supported, returns `at` and `end`.
    fn data_run(&self, at: u64, end: u64) -> io::Result<std::ops::Range<u64>> {
        Ok(at..end)
    }
    /// Prepares what is needed to read this range, if that takes time and is not done yet.
    fn prefetch(&self, _range: std::ops::Range<u64>) {}
    /// Makes reads of bytes fail that may be wrong, because the checksum of what was unpacked is.
    fn refuse_suspect(&self) {}
    /// Returns what is known about the packed file whose unpacked bytes this is.
    fn packed(&self) -> Option<&PackedFile> {
        None
    }
    /// Returns what was fetched so far, if it is on another system.
    fn remote(&self) -> Option<RemoteStats> {
        None
    }
    /// Returns the parity of the file, if it has any.
    fn parity(&self) -> Option<&dyn Parity> {
        None
    }
}

/// What was done to read the remote files of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteStats {
    /// Ranges that were fetched.
    pub fetched: u64,
    /// Their length in bytes.
    pub fetched_bytes: u64,
    /// Ranges that were found in the cache on disk.
    pub cached: u64,
    /// Ranges that could not be fetched.
    pub failed: u64,
}

/// Reads a source from its start to its end.
pub(crate) struct SourceReader {
    source: Arc<dyn ReadAt>,
    at: u64,
}

impl SourceReader {
    /// Begins at the start of `source`.
    pub(crate) fn new(source: Arc<dyn ReadAt>) -> SourceReader {
        SourceReader { source, at: 0 }
    }
}

impl io::Read for SourceReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read_at(buf, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// A place on another system where files are.
pub(super) trait Folder: Send + Sync {
    /// Finds the file `name` in `dir`, a path below this place, if there is one.
    fn find(&self, dir: &Path, name: &str) -> Result<Option<Found>, Error>;
    /// Returns whether this file, which was not found, may be there all the same, because access to it was denied.
    fn is_denied(&self, path: &Path) -> bool;
    /// Returns the address of a file to which access was denied, if there is one.
    fn denied(&self) -> Option<PathBuf>;
    /// Returns why a file could not be read or looked for, as an error of the whole work: the first such fault.
    fn fault(&self) -> Option<Error>;
    /// Begins, or ends, to want that every read succeeds: then after the first fault all reads fail at once.
    fn require(&self, begins: bool);
    /// Notes that the image is open.
    fn opened(&self);
    /// Lists the names of the files in `dir`, if there are any and they can be listed.
    fn names(&self, dir: &Path) -> Result<Option<Vec<String>>, Error>;
}

/// A file that was found in a [`Folder`].
pub(super) struct Found {
    /// What it is read through.
    pub(super) source: Arc<dyn ReadAt>,
    /// Its address.
    pub(super) path: PathBuf,
    /// Its length in bytes.
    pub(super) len: u64,
    /// When it was modified, if that is known.
    pub(super) modified: Option<SystemTime>,
}

/// What is known about a packed file.
#[derive(Debug, Clone, Default)]
pub struct PackedFile {
    /// Its path, or that of its first piece.
    pub path: PathBuf,
    /// How it is packed: the name of the program.
    pub packing: &'static str,
    /// Its length in bytes.
    pub packed_bytes: u64,
    /// The number of its restart points.
    pub points: u64,
    /// Whether all of it has checksums, which were right but for what is suspect.
    pub is_checked: bool,
    /// Whether it ends too early, so that unpacked bytes are missing at the end.
    pub cut: bool,
    /// The ranges of the unpacked bytes that could not be decompressed, in order.
    pub lost: Vec<std::ops::Range<u64>>,
    /// The ranges of the unpacked bytes whose checksum is wrong, in order.
    pub suspect: Vec<std::ops::Range<u64>>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

impl ReadAt for File {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(self, buf, at)
    }

    fn len(&self) -> io::Result<u64> {
        let meta = self.metadata()?;
        if meta.is_file() {
            return Ok(meta.len());
        }
        // For a block device, seek to the end to get the size. (Positioned reads do not use the file offset.)
        io::Seek::seek(&mut &*self, io::SeekFrom::End(0))
    }

    #[cfg(any(target_os = "linux", target_os = "macos"))]
    fn data_run(&self, at: u64, end: u64) -> io::Result<std::ops::Range<u64>> {
        use nix::unistd::{Whence, lseek};
        let seek = |from: u64, whence| -> io::Result<u64> {
            let from = i64::try_from(from).map_err(io::Error::other)?;
            match lseek(self, from, whence) {
                Ok(to) => u64::try_from(to).map_err(io::Error::other),
                // A hole up to the end; or the file has become shorter: the missing part is not a hole, reading it must
                // fail.
                Err(nix::errno::Errno::ENXIO) if self.metadata()?.len() < end => Ok(at),
                Err(nix::errno::Errno::ENXIO) => Ok(end),
                // A file system without support for holes has none.
                Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOTSUP) => {
                    Ok(if matches!(whence, Whence::SeekData) { at } else { end })
                }
                Err(e) => Err(e.into()),
            }
        };
        let data = seek(at, Whence::SeekData)?.clamp(at, end);
        let hole = if data < end { seek(data, Whence::SeekHole)?.clamp(data, end) } else { end };
        let hole = if hole == data { end } else { hole };
        Ok(data..hole)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Arc<T> {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        (**self).read_at(buf, at)
    }
    fn len(&self) -> io::Result<u64> {
        (**self).len()
    }
    fn data_run(&self, at: u64, end: u64) -> io::Result<std::ops::Range<u64>> {
        (**self).data_run(at, end)
    }
    fn prefetch(&self, range: std::ops::Range<u64>) {
        (**self).prefetch(range);
    }
    fn refuse_suspect(&self) {
        (**self).refuse_suspect();
    }
    fn packed(&self) -> Option<&PackedFile> {
        (**self).packed()
    }
    fn remote(&self) -> Option<RemoteStats> {
        (**self).remote()
    }
    fn parity(&self) -> Option<&dyn Parity> {
        (**self).parity()
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let rest = usize::try_from(at).ok().and_then(|at| self.get(at..)).unwrap_or(&[]);
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
    fn len(&self) -> io::Result<u64> {
        Ok(Vec::len(self) as u64)
    }
}
