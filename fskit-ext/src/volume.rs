//! The volume, as FSKit asks for it: which items there are, what they are, and what a read of them gives.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cdi_base::error::{ErrnoStyle, Error};
use cdi_base::workers;
use cdi_image::disk::{Disk, Options};
use cdi_image::image::OpenOptions;
use cdi_image::open::open;
use cdi_serve::tree::{EntryKind, Id, ROOT, Tree};

use crate::errno::{Errno, Refused};
use crate::identity::{self, Uuid};

/// The block size that the volume tells, in bytes.
pub const BLOCK: u32 = 4096;

/// How many bytes a reader does best to ask for at once: a chunk of an image.
pub const IO_SIZE: u32 = 128 << 10;

/// How many names an item has at most: the disk has two.
pub const MAX_LINKS: u32 = 2;

/// The longest name that an item may be asked for by, in bytes.
pub const MAX_NAME: u32 = 255;

/// What the system says the type of the file system is.
pub const TYPE_NAME: &str = "cdi";

/// An item's number as FSKit counts: 1 is what the volume is mounted in, 2 is its root.
pub fn file_id(id: Id) -> u64 {
    id.0 + 1
}

/// Everything that can be asked of an item. FSKit drops items of which something is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// What it is, and its size.
    pub kind: EntryKind,
    /// Who may do what. Nobody may write.
    pub mode: u32,
    /// How many names it has.
    pub link_count: u32,
    /// Its owner: whoever this runs for, who had it mounted.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// BSD flags: none.
    pub flags: u32,
    /// How many bytes are in it.
    pub size: u64,
    /// How many bytes it takes, as `du` counts.
    pub alloc_size: u64,
    /// Its number, as FSKit counts.
    pub file_id: u64,
    /// The number of the folder that it is in.
    pub parent_id: u64,
    /// When its bytes were last written, were read, and came to be, from 1970 on: when the image was last written, the
    /// same at each mount.
    pub time: Duration,
    /// When what is said here last changed.
    pub changed: Duration,
}

/// What `df` tells, in blocks of [`BLOCK`] bytes. All of it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    /// How many blocks there are, all used.
    pub blocks: u64,
    /// How many items there are.
    pub files: u64,
}

/// An image, opened to be shown.
pub struct Volume {
    tree: Tree,
    name: String,
    uuid: Uuid,
    owner: (u32, u32),
}

impl Volume {
    /// Opens the image at `path`. Everything that can be wrong with it is found here.
    pub fn open(path: &Path) -> Result<Volume, Refused> {
        let disk = Disk::new(open(path, &OpenOptions::default())?, Options::default());
        let uuid = identity::uuid(&disk);
        let mut tree = Tree::new(Arc::new(disk), ErrnoStyle::Io, false);
        // Nobody but macOS ever looks.
        tree.finder = true;
        Ok(Volume {
            tree,
            name: identity::name(path),
            uuid,
            owner: (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()),
        })
    }

    /// Starts to read ahead. Whoever only wants to know what an image is needs no threads.
    pub fn start(&self) -> Result<(), Refused> {
        let started = self.tree.disk().start_readahead(workers::cores());
        Ok(started.map_err(|e| Error::failed("threads cannot be started").because(e))?)
    }

    /// What is shown.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The name under which it appears.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is known by.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// What is known of an item.
    ///
    /// It is for its owner alone. The system counts every user as the owner, though (FSKit's mounts are `noowners`): what
    /// keeps others out is the folder that it is mounted in.
    pub fn attributes(&self, id: Id) -> Result<Attributes, Errno> {
        let kind = self.tree.kind(id).ok_or(Errno::ENOENT)?;
        let size = match kind {
            EntryKind::Directory => 0,
            EntryKind::File(size) | EntryKind::Link(size) => size,
        };
        Ok(Attributes {
            kind,
            mode: self.tree.mode(kind),
            link_count: self.tree.links(id),
            uid: self.owner.0,
            gid: self.owner.1,
            flags: 0,
            size,
            alloc_size: size.div_ceil(512).saturating_mul(512),
            file_id: file_id(id),
            parent_id: if id == ROOT { 1 } else { file_id(ROOT) },
            time: since_1970(self.tree.time(id)),
            changed: since_1970(self.tree.changed(id)),
        })
    }

    /// The item called `name` in the folder `id`, and its name.
    ///
    /// What Finder and Spotlight look for on every volume (.DS_Store, ._*, .Trashes, .fseventsd and the like) is as
    /// unknown here as anything else that is not listed.
    pub fn lookup(&self, id: Id, name: &[u8]) -> Result<(Id, &'static str), Errno> {
        self.folder(id)?;
        let found = self.tree.list().into_iter().find(|(_, n)| n.as_bytes() == name);
        found.ok_or(Errno::ENOENT)
    }

    /// Whether `id` is a folder.
    pub fn folder(&self, id: Id) -> Result<(), Errno> {
        match self.tree.kind(id) {
            Some(EntryKind::Directory) => Ok(()),
            Some(_) => Err(Errno::ENOTDIR),
            None => Err(Errno::ENOENT),
        }
    }

    /// Reads an item from `offset` on. Fills `buf` as far as the item goes, and says how far; or an error, and
    /// nothing of use is in `buf`. A kernel that gets less than it asked for takes it for the end.
    pub fn read(&self, id: Id, offset: i64, buf: &mut [u8]) -> Result<usize, Errno> {
        let size = match self.tree.kind(id) {
            Some(EntryKind::File(size)) => size,
            Some(EntryKind::Directory) => return Err(Errno::EISDIR),
            Some(EntryKind::Link(_)) => return Err(Errno::EINVAL),
            None => return Err(Errno::ENOENT),
        };
        let offset = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        // Beyond the end there is as much as at the end: nothing, and no error.
        let left = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = buf.len().min(left);
        let read = self.tree.read_into(id, offset, &mut buf[..len]);
        // The numbers of errors that a read can give are the same on every system.
        read.map(|()| len).map_err(|e| Errno(e.errno(self.tree.errno)))
    }

    /// Where the link `id` points.
    pub fn link(&self, id: Id) -> Result<Vec<u8>, Errno> {
        match (self.tree.kind(id), self.tree.device()) {
            (Some(EntryKind::Link(_)), Some(device)) => Ok(device.into_os_string().into_encoded_bytes()),
            (None, _) => Err(Errno::ENOENT),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Whether `id` may be opened.
    pub fn open_item(&self, id: Id, to_write: bool) -> Result<(), Errno> {
        self.tree.kind(id).ok_or(Errno::ENOENT)?;
        if to_write { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// What `df` tells.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            blocks: self.tree.disk().size().div_ceil(BLOCK.into()),
            // The folder, and the disk only once.
            files: self.tree.list().len() as u64,
        }
    }
}

fn since_1970(time: SystemTime) -> Duration {
    // A file of before 1970 is from 1970.
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
}

/// What the tests of this crate share.
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

    /// A folder of a test's own.
    pub(crate) struct Folder(pub(crate) PathBuf);

    impl Folder {
        pub(crate) fn new() -> Folder {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let name = format!("cdi-fskit-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let dir = std::env::temp_dir().join(name);
            std::fs::create_dir(&dir).unwrap();
            Folder(dir)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

#[cfg(test)]
mod tests;
