//! The volume for FSKit: its items, their attributes, and reads of them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cdi_base::error::{ErrnoStyle, Error};
use cdi_base::workers;
use cdi_image::disk::{Disk, Options};
use cdi_image::image::OpenOptions;
use cdi_image::open::open;
use cdi_serve::transport::volume_name;
use cdi_serve::tree::{EntryKind, Failure, Id, ROOT, Tree};

use crate::errno::{Errno, Refused};
use crate::identity::{self, Uuid};

/// The block size of the volume in bytes.
pub const BLOCK: u32 = 4096;

/// The preferred length of a read in bytes: a chunk of an image.
pub const IO_SIZE: u32 = 128 << 10;

/// The maximum number of links to an item: what is in a file system inside the disk may have many names.
pub const MAX_LINKS: u32 = 1 << 15;

/// The maximum length of a name in a lookup, in bytes.
pub const MAX_NAME: u32 = 255;

/// How long a call waits for the scan of a volume inside the disk.
const SCANNING: Duration = Duration::from_secs(20);

/// The name of the file system type.
pub const TYPE_NAME: &str = "cdi";

/// Returns the number of an item in FSKit's numbering: 1 is the parent of the root, 2 is the root.
pub fn file_id(id: Id) -> u64 {
    id.0 + 1
}

/// All attributes of an item. FSKit drops items whose attributes are incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Its kind, with its size.
    pub kind: EntryKind,
    /// Its permission bits, without write permission.
    pub mode: u32,
    /// The number of links to it.
    pub link_count: u32,
    /// Its owner: the user who mounted it, for whom this process runs.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// BSD flags: none.
    pub flags: u32,
    /// Its size in bytes.
    pub size: u64,
    /// Its allocated size in bytes, as `du` reports it.
    pub alloc_size: u64,
    /// Its number, in FSKit's numbering.
    pub file_id: u64,
    /// The number of its parent directory.
    pub parent_id: u64,
    /// Its modification, access and creation time, since 1970: that of the image's last modification, the same at each
    /// mount.
    pub time: Duration,
    /// Its change time, since 1970.
    pub changed: Duration,
}

/// The statistics for `df`, in blocks of [`BLOCK`] bytes. All blocks are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    /// The number of blocks, all of them used.
    pub blocks: u64,
    /// The number of items.
    pub files: u64,
}

/// An open image, ready to be mounted.
pub struct Volume {
    tree: Tree,
    name: String,
    uuid: Uuid,
    owner: (u32, u32),
}

impl Volume {
    /// Opens the image at `path`. Every error of the image is found here.
    pub fn open(path: &Path) -> Result<Volume, Refused> {
        let disk = Disk::new(open(path, &OpenOptions::default())?, Options::default());
        let uuid = identity::uuid(&disk);
        let mut tree = Tree::new(Arc::new(disk), ErrnoStyle::Io, false);
        // This is only ever mounted on macOS.
        tree.finder = true;
        // No option reaches an extension. It costs nothing until somebody looks into it.
        tree.show_files();
        Ok(Volume {
            tree,
            name: volume_name(path),
            uuid,
            owner: (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()),
        })
    }

    /// Starts the readahead threads. They are not needed to probe an image.
    pub fn start(&self) -> Result<(), Refused> {
        let started = self.tree.disk().start_readahead(workers::cores());
        Ok(started.map_err(|e| Error::failed("cannot start threads").because(e))?)
    }

    /// Returns the directory that is mounted.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Returns the name of the volume.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the UUID of the volume.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Returns the attributes of an item.
    ///
    /// Only the owner may access it. However, the system counts every user as the owner (FSKit's mounts are
    /// `noowners`): other users are only kept out by the directory in which it is mounted.
    pub fn attributes(&self, id: Id) -> Result<Attributes, Errno> {
        self.wait(id, true)?;
        let all = self.tree.attributes(id).map_err(|e| self.errno(e))?;
        let kind = all.kind;
        let size = match kind {
            EntryKind::Directory => 0,
            EntryKind::File(size) | EntryKind::Link(size) => size,
        };
        Ok(Attributes {
            kind,
            mode: self.tree.mode(kind),
            link_count: all.links,
            uid: self.owner.0,
            gid: self.owner.1,
            flags: 0,
            size,
            alloc_size: size.div_ceil(512).saturating_mul(512),
            file_id: file_id(id),
            parent_id: if id == ROOT { 1 } else { file_id(self.tree.parent(id)) },
            time: since_1970(all.modified),
            changed: since_1970(all.changed),
        })
    }

    /// Waits for the scan that an item needs, for its attributes alone or for everything: a while, then the caller has to try
    /// again, because other calls may have to wait for this one.
    pub fn wait(&self, id: Id, attributes_only: bool) -> Result<(), Errno> {
        let end = Instant::now() + SCANNING;
        while let Some(wait) = self.tree.wait(id, attributes_only) {
            if !wait.until(end) {
                return Err(Errno::EAGAIN);
            }
        }
        Ok(())
    }

    /// Returns the error number for a failure.
    pub fn errno(&self, failure: Failure) -> Errno {
        match failure {
            Failure::Missing => Errno::ENOENT,
            Failure::NotDirectory => Errno::ENOTDIR,
            Failure::NotLink => Errno::EINVAL,
            // The error numbers that a read can return are the same on every system.
            Failure::Failed(e) => Errno(e.errno(self.tree.errno)),
        }
    }

    /// Returns the item called `name` in the directory `id`.
    ///
    /// Files that Finder and Spotlight look for on every volume (.DS_Store, ._*, .Trashes, .fseventsd and the like) do
    /// not exist, like any other name that is not listed.
    pub fn lookup(&self, id: Id, name: &[u8]) -> Result<Id, Errno> {
        self.wait(id, false)?;
        // All names are UTF-8. The kernel resolves "." and ".." itself.
        let name = std::str::from_utf8(name).ok().filter(|name| *name != "." && *name != "..");
        let found = self.tree.find(id, name.unwrap_or_default());
        found.map_err(|e| self.errno(e))
    }

    /// Reads an item from `offset`: fills `buf` up to the end of the item, and returns the number of bytes. On an
    /// error, the contents of `buf` are undefined. The kernel takes a short read for the end of the file.
    pub fn read(&self, id: Id, offset: i64, buf: &mut [u8]) -> Result<usize, Errno> {
        self.wait(id, false)?;
        let size = match self.tree.kind(id) {
            Some(EntryKind::File(size)) => size,
            Some(EntryKind::Directory) => return Err(Errno::EISDIR),
            Some(EntryKind::Link(_)) => return Err(Errno::EINVAL),
            None => return Err(Errno::ENOENT),
        };
        let offset = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        // Beyond the end, as at the end, a read returns nothing, and no error.
        let left = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = buf.len().min(left);
        let read = self.tree.read_into(id, offset, &mut buf[..len]);
        // The error numbers that a read can return are the same on every system.
        read.map(|()| len).map_err(|e| Errno(e.errno(self.tree.errno)))
    }

    /// Returns the target of the link `id`.
    pub fn link(&self, id: Id) -> Result<Vec<u8>, Errno> {
        self.wait(id, false)?;
        self.tree.kind(id).ok_or(Errno::ENOENT)?;
        self.tree.target(id).map_err(|e| self.errno(e))
    }

    /// Checks whether `id` may be opened.
    pub fn open_item(&self, id: Id, to_write: bool) -> Result<(), Errno> {
        self.wait(id, true)?;
        self.tree.kind(id).ok_or(Errno::ENOENT)?;
        if to_write { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// Returns the statistics for `df`.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            blocks: self.tree.disk().size().div_ceil(BLOCK.into()),
            // The directory counts, and the disk only once although it has two names.
            files: self.tree.list().len() as u64,
        }
    }
}

fn since_1970(time: SystemTime) -> Duration {
    // Times before 1970 become 1970.
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
}

/// Helpers for the tests of this crate.
#[cfg(test)]
pub(crate) mod testing {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    pub(crate) fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/v1").join(name)
    }

    pub(crate) fn disk_of(path: &Path) -> Disk {
        Disk::new(open(path, &OpenOptions::default()).unwrap(), Options::default())
    }

    pub(crate) fn volume(path: &Path) -> Volume {
        Volume::open(path).unwrap()
    }

    /// A temporary directory for a test.
    pub(crate) struct TempDir(pub(crate) PathBuf);

    impl TempDir {
        pub(crate) fn new() -> TempDir {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let name = format!("cdi-fskit-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let dir = std::env::temp_dir().join(name);
            std::fs::create_dir(&dir).unwrap();
            TempDir(dir)
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

#[cfg(test)]
mod tests;
