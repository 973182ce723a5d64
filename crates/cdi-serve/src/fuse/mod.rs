//! The directory as a FUSE file system, on Linux and with macFUSE if built in. The only module that uses fuser.
//!
//! The settings are the measured ones of docs/SEMANTICS.md: a cached file (`FOPEN_DIRECT_IO` only while the disk is being
//! imaged), asynchronous
//! direct I/O, several threads each with a descriptor of its own; and never a short reply. macFUSE sends events to one
//! thread only, so there that thread passes reads on to a pool.

mod options;
mod session;

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cdi_base::advice::Advice;
use cdi_base::error::Error;
use cdi_base::workers::Pool;
use cdi_base::{error, workers};
use cdi_system::confine::Needs;
use cdi_system::open_kernel_device;
use fuser::{
    AccessFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use super::transport::{Place, Serving, Transport};
use super::tree::{EntryKind, Failure, Id, ROOT, Tree};

/// FUSE.
pub struct Fuse;

/// How long the kernel may cache entries: they do not change, except for `device`, which appears and disappears, and the
/// files about a disk that is being imaged.
const TTL: Duration = Duration::from_secs(3600);
const TTL_CHANGING: Duration = Duration::ZERO;

impl Transport for Fuse {
    fn name(&self) -> &'static str {
        "fuse"
    }

    fn needs(&self, needs: &mut Needs) {
        // Each thread has a descriptor of its own, which is opened when it starts.
        needs.devices.push(FUSE.into());
    }

    fn serve(&self, tree: Arc<Tree>, place: &Place<'_>) -> Result<Box<dyn Serving>, Error> {
        let dir = place.dir;
        // Loads the module if root may; whether the device can be used is reported by mounting.
        let _ = open_kernel_device(Path::new(FUSE), "fuse");
        let threads = match tree.disk().is_live() {
            // Each read may have to wait for the disk.
            true => Some(LIVE_READS),
            false if cfg!(target_os = "linux") => None,
            false => Some(workers::cores().clamp(2, 16)),
        };
        let pool = place.confine.threads(|| threads.map(|threads| pool(&tree, threads)).transpose());
        let pool = pool.flatten().map_err(|e| refused(dir, e))?;
        let filesystem = FuseFs {
            tree: Arc::clone(&tree),
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
            pool,
        };
        let mut mounted = Err(io::ErrorKind::Unsupported.into());
        for config in options::attempts(&tree, place) {
            mounted = session::mount(filesystem.clone(), dir, &config, place.confine);
            match &mounted {
                Ok(_) => break,
                Err(e) => log::info!("cannot mount with {:?}: {e}", config.mount_options),
            }
        }
        mounted.map(|running| Box::new(running) as Box<dyn Serving>).map_err(|e| refused(dir, e))
    }
}

fn refused(dir: &Path, e: io::Error) -> Error {
    let error = Error::new(error::Kind::Unavailable, "cannot mount on this directory").at(dir);
    let error = match e.kind() {
        io::ErrorKind::NotFound if !Path::new(FUSE).exists() => {
            error.hint("load the kernel's fuse module (modprobe fuse); in a container, pass in the device (--device /dev/fuse)")
        }
        io::ErrorKind::PermissionDenied if is_closed_to_us() => {
            error.hint("only root can open /dev/fuse on this system; to let every user mount, run: chmod 666 /dev/fuse")
        }
        io::ErrorKind::PermissionDenied => error.hint(
            "an ordinary user needs fusermount3 (package fuse3), a mount point of their own, and 'user_allow_other' in \
             /etc/fuse.conf to let others read",
        ),
        _ => error.hint(Advice::CheckSystem),
    };
    error.because(e)
}

/// The FUSE device.
const FUSE: &str = "/dev/fuse";

/// Returns whether this user has no permission to open the FUSE device.
fn is_closed_to_us() -> bool {
    let opened = std::fs::File::options().read(true).write(true).open(FUSE);
    opened.is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
}

/// The number of threads that read a disk that is being imaged.
const LIVE_READS: usize = 48;

/// A read that waits for a thread of the pool.
struct Read {
    id: Id,
    offset: u64,
    size: usize,
    reply: ReplyData,
}

/// Starts the threads that answer reads, so that decompressing never blocks the one thread that receives events.
fn pool(tree: &Arc<Tree>, threads: usize) -> io::Result<Pool<Read>> {
    Pool::start("fuse-read", threads, 64, || {
        let tree = Arc::clone(tree);
        move |read| answer(&tree, read)
    })
}

/// Answers a read with all bytes or an errno: in a cached file the kernel would take a short reply for the end of the
/// file.
fn answer(tree: &Tree, read: Read) {
    tree.read_for(read.id, read.offset, read.size, |bytes| match bytes {
        Ok(bytes) => read.reply.data(bytes),
        Err(e) => read.reply.error(Errno::from_i32(e.errno(tree.errno))),
    });
}

#[derive(Clone)]
struct FuseFs {
    tree: Arc<Tree>,
    uid: u32,
    gid: u32,
    /// The threads that answer reads, if those that receive requests do not.
    pool: Option<Pool<Read>>,
}

impl FuseFs {
    fn read_now(&self, read: Read) {
        // On Linux, the threads that receive requests can read an image.
        let pool =
            self.pool.as_ref().filter(|_| self.tree.disk().is_live() || cfg!(not(target_os = "linux")));
        match pool {
            None => answer(&self.tree, read),
            Some(pool) => {
                if let Err(refused) = pool.send(read) {
                    refused.reply.error(Errno::EIO);
                }
            }
        }
    }

    /// Answers a request about an entry, at once or when what it needs has been scanned: the threads that receive requests never
    /// wait for that.
    fn when_ready(&self, id: Id, attributes_only: bool, answer: impl FnOnce(&FuseFs) + Send + 'static) {
        match self.tree.wait(id, attributes_only) {
            None => answer(self),
            Some(wait) => {
                let fs = self.clone();
                wait.then(move || fs.when_ready(id, attributes_only, answer));
            }
        }
    }

    fn errno(&self, failure: Failure) -> Errno {
        match failure {
            Failure::Missing => Errno::ENOENT,
            Failure::NotDirectory => Errno::ENOTDIR,
            Failure::NotLink => Errno::EINVAL,
            Failure::Failed(e) => Errno::from_i32(e.errno(self.tree.errno)),
        }
    }

    fn attr(&self, id: Id) -> Result<FileAttr, Errno> {
        let tree = &self.tree;
        let all = tree.attributes(id).map_err(|e| self.errno(e))?;
        let size = match all.kind {
            EntryKind::Directory => 0,
            EntryKind::File(size) | EntryKind::Link(size) => size,
        };
        Ok(FileAttr {
            ino: INodeNo(id.0),
            size,
            blocks: size.div_ceil(512),
            atime: all.modified,
            mtime: all.modified,
            ctime: all.changed,
            crtime: all.modified,
            kind: file_type(all.kind),
            // At most twelve bits.
            perm: u16::try_from(tree.mode(all.kind)).unwrap_or(0),
            nlink: all.links,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: 128 << 10,
            flags: 0,
        })
    }

    fn ttl(&self, id: Id) -> Duration {
        let changes = id == super::tree::DEVICE || id == ROOT || self.tree.changes(id);
        if changes { TTL_CHANGING } else { TTL }
    }
}

fn file_type(kind: EntryKind) -> FileType {
    match kind {
        EntryKind::Directory => FileType::Directory,
        EntryKind::File(_) => FileType::RegularFile,
        EntryKind::Link(_) => FileType::Symlink,
    }
}

impl Filesystem for FuseFs {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without these capabilities, the kernel is only slower.
        #[cfg(target_os = "linux")]
        let _ = config.add_capabilities(fuser::InitFlags::FUSE_ASYNC_DIO);
        #[cfg(target_os = "linux")]
        let _ = config.add_capabilities(fuser::InitFlags::FUSE_PARALLEL_DIROPS);
        let _ = config.set_max_background(64);
        let _ = config.set_max_readahead(1 << 20);
        // There are no writes, so a small buffer for each thread is enough.
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let parent = Id(parent.0);
        // fuser declares the file system case-insensitive to macFUSE; the names of the directory itself are in lower case.
        let lower = cfg!(target_os = "macos") && parent == ROOT;
        let Some(name) = name.to_str().map(|n| if lower { n.to_ascii_lowercase() } else { n.into() }) else {
            return reply.error(Errno::ENOENT);
        };
        self.when_ready(parent, false, move |fs| match fs.tree.find(parent, &name) {
            Ok(id) => fs.when_ready(id, true, move |fs| match fs.attr(id) {
                Ok(attr) => reply.entry(&fs.ttl(id), &attr, Generation(0)),
                Err(e) => reply.error(e),
            }),
            Err(e) => reply.error(fs.errno(e)),
        });
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let id = Id(ino.0);
        self.when_ready(id, true, move |fs| match fs.attr(id) {
            Ok(attr) => reply.attr(&fs.ttl(id), &attr),
            Err(e) => reply.error(e),
        });
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let id = Id(ino.0);
        self.when_ready(id, false, move |fs| match fs.tree.target(id) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(fs.errno(e)),
        });
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.tree.disk().is_live() || self.tree.changes(Id(ino.0)) {
            // The kernel must not read ahead on a disk that is dying, nor keep what changes.
            return reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH);
        }
        // There is nothing to flush on close. And if this process itself has the file open when it is killed, nothing
        // would answer the flush, and the process could not exit.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = Read { id: Id(ino.0), offset, size: size as usize, reply };
        if !self.tree.is_in_files(read.id) {
            return self.read_now(read);
        }
        self.when_ready(read.id, false, move |fs| fs.read_now(read));
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let id = Id(ino.0);
        self.when_ready(id, false, move |fs| {
            let listed = fs.tree.entries(id, offset, &mut |entry| {
                !reply.add(INodeNo(entry.id.0), entry.next, file_type(entry.kind), entry.name)
            });
            match listed {
                Ok(_) => reply.ok(),
                Err(e) => reply.error(fs.errno(e)),
            }
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = self.tree.disk().size().div_ceil(4096);
        reply.statfs(blocks, 0, 0, self.tree.list().len() as u64 + 1, 0, 4096, 255, 4096);
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    // After "not implemented", the kernel does not ask again.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    /// `ls -l` asks for two of each file, unless the kernel knows that there are none. macOS would then make files for them.
    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(if cfg!(target_os = "linux") { Errno::ENOSYS } else { Errno::NO_XATTR });
    }

    fn listxattr(&self, _: &Request, _: INodeNo, size: u32, reply: ReplyXattr) {
        if size == 0 { reply.size(0) } else { reply.data(&[]) }
    }

    #[cfg(target_os = "macos")]
    fn setvolname(&self, _: &Request, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    #[cfg(target_os = "macos")]
    fn exchange(&self, _: &Request, _: INodeNo, _: &OsStr, _: INodeNo, _: &OsStr, _: u64, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    #[cfg(target_os = "macos")]
    fn getxtimes(&self, _: &Request, ino: INodeNo, reply: fuser::ReplyXTimes) {
        match self.attr(Id(ino.0)) {
            Ok(attr) => reply.xtimes(std::time::SystemTime::UNIX_EPOCH, attr.mtime),
            Err(e) => reply.error(e),
        }
    }
}
