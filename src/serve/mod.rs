//! How a disk is shown: the folder that every front end serves, and what a front end is.

#[cfg(any(target_os = "linux", all(target_os = "macos", feature = "macfuse")))]
pub mod fuse;
pub mod nbd;
pub mod texts;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use crate::disk::Disk;
use crate::error::{ErrnoStyle, Error, ReadError};
use crate::image::mapfile;

/// What a front end shows of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The folder itself.
    Folder,
    /// A plain file of so many bytes.
    File(u64),
    /// A symbolic link whose target has so many bytes.
    Link(u64),
}

/// An entry of the folder, by number. 1 is the folder itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(pub u64);

/// The folder.
pub const ROOT: Id = Id(1);
/// `disk.raw`: the disk.
pub const DISK: Id = Id(2);
/// `badblocks.json`: what is bad, for programs.
pub const BADBLOCKS: Id = Id(3);
/// `badblocks.map`: what is bad, for ddrescue.
pub const MAPFILE: Id = Id(4);
/// `info.json`: what `cdi info --json` prints.
pub const INFO: Id = Id(5);
/// `device`: the block device, while there is one.
pub const DEVICE: Id = Id(6);

const NAMES: [(Id, &str); 5] = [
    (DISK, "disk.raw"),
    (BADBLOCKS, "badblocks.json"),
    (MAPFILE, "badblocks.map"),
    (INFO, "info.json"),
    (DEVICE, "device"),
];

/// The name of the disk in the folder.
pub const DISK_NAME: &str = NAMES[0].1;

/// The folder: one disk, and what is known about it.
pub struct Tree {
    disk: Arc<Disk>,
    /// Which errno bad sectors are answered with.
    pub errno: ErrnoStyle,
    /// Whether others than the owner may read.
    pub allow_other: bool,
    /// When it was mounted: the time of everything in it.
    pub time: SystemTime,
    info: Vec<u8>,
    /// Made when somebody looks: a long map is long text.
    badblocks: OnceLock<Vec<u8>>,
    mapfile: OnceLock<Vec<u8>>,
    device: Mutex<Option<PathBuf>>,
}

impl Tree {
    /// The folder of `disk`.
    pub fn new(disk: Arc<Disk>, errno: ErrnoStyle, allow_other: bool) -> Tree {
        Tree {
            info: format!("{:#}\n", texts::info(&disk)).into_bytes(),
            disk,
            errno,
            allow_other,
            time: SystemTime::now(),
            badblocks: OnceLock::new(),
            mapfile: OnceLock::new(),
            device: Mutex::new(None),
        }
    }

    /// The disk.
    pub fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// Says which block device shows the disk.
    pub fn set_device(&self, device: Option<&Path>) {
        *self.device.lock().unwrap_or_else(PoisonError::into_inner) = device.map(Path::to_owned);
    }

    /// The block device, while there is one.
    pub fn device(&self) -> Option<PathBuf> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The entry called `name`.
    pub fn lookup(&self, name: &str) -> Option<Id> {
        self.list().into_iter().find(|(_, n)| *n == name).map(|(id, _)| id)
    }

    /// Every entry.
    pub fn list(&self) -> Vec<(Id, &'static str)> {
        NAMES.into_iter().filter(|(id, _)| *id != DEVICE || self.device().is_some()).collect()
    }

    /// What an entry is, if it is there.
    pub fn kind(&self, id: Id) -> Option<Kind> {
        Some(match id {
            ROOT => Kind::Folder,
            DISK => Kind::File(self.disk.size()),
            DEVICE => Kind::Link(self.device()?.as_os_str().len() as u64),
            _ => Kind::File(self.text(id)?.len() as u64),
        })
    }

    /// Reads an entry. At most `len` bytes, exactly as many as there are between `offset` and its end: a read is
    /// answered whole or with an error, never short.
    pub fn read(&self, id: Id, offset: u64, len: usize) -> Result<Vec<u8>, ReadError> {
        if id != DISK {
            let text = self.text(id).unwrap_or(&[]);
            let from = usize::try_from(offset).map_or(text.len(), |o| o.min(text.len()));
            return Ok(text[from..from.saturating_add(len).min(text.len())].to_vec());
        }
        let left = self.disk.size().saturating_sub(offset);
        let mut buf = vec![0; usize::try_from(left).map_or(len, |left| left.min(len))];
        read_disk(&self.disk, &mut buf, offset).map(|()| buf)
    }

    fn text(&self, id: Id) -> Option<&[u8]> {
        Some(match id {
            BADBLOCKS => {
                self.badblocks.get_or_init(|| format!("{:#}\n", texts::badblocks(&self.disk)).into_bytes())
            }
            MAPFILE => {
                self.mapfile.get_or_init(|| mapfile::write(self.disk.bad(), self.disk.size()).into_bytes())
            }
            INFO => &self.info,
            _ => return None,
        })
    }
}

/// Reads the disk for a front end. A panic in a parser or decoder is an error of this read, and a line in the log.
fn read_disk(disk: &Disk, buf: &mut [u8], offset: u64) -> Result<(), ReadError> {
    let len = buf.len();
    let read = std::panic::AssertUnwindSafe(|| disk.read_at(buf, offset));
    std::panic::catch_unwind(read).unwrap_or_else(|_| {
        log::error!("a read of {len} bytes at {offset} panicked: a bug in cdi");
        Err(ReadError::Unmapped { offset })
    })
}

/// A way to show a tree to the system, at a folder.
pub trait Transport {
    /// Its name, as `list` tells it.
    fn name(&self) -> &'static str;
    /// Shows `tree` at `dir`. Returns when it is up. `source` is what the system calls the file system's source.
    fn serve(&self, tree: Arc<Tree>, dir: &Path, source: &str) -> Result<Box<dyn Serving>, Error>;
}

/// A tree that is being shown.
pub trait Serving: Send {
    /// Returns when it is no longer shown, whoever ended it.
    fn wait(self: Box<Self>) -> Result<(), Error>;
}

/// The way to show a tree that this system has.
pub fn transport() -> Result<&'static dyn Transport, Error> {
    #[cfg(any(target_os = "linux", all(target_os = "macos", feature = "macfuse")))]
    return Ok(&fuse::Fuse);
    #[cfg(not(any(target_os = "linux", all(target_os = "macos", feature = "macfuse"))))]
    Err(Error::new(crate::error::Kind::Unavailable, "this build cannot mount on this system")
        .hint("on macOS, build with --features macfuse"))
}
