//! The folder as a FUSE file system. The only file that knows fuser.
//!
//! The settings are the measured ones of docs/SEMANTICS.md: a cached file (never `FOPEN_DIRECT_IO`), asynchronous
//! direct I/O, several threads each with a descriptor of its own; and never a short reply.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use fuser::{
    AccessFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyXattr, Request, Session, SessionACL,
};

use super::{Id, Kind, ROOT, Serving, Transport, Tree};
use crate::error::{self, Error};
use crate::parallel;

/// FUSE.
pub struct Fuse;

/// The subtype of our mounts: `mount` and mountinfo call them `fuse.cdi`.
pub const SUBTYPE: &str = "cdi";

/// Entries do not change, but for `device`, which comes and goes.
const TTL: Duration = Duration::from_secs(3600);
const TTL_DEVICE: Duration = Duration::ZERO;

impl Transport for Fuse {
    fn name(&self) -> &'static str {
        "fuse"
    }

    fn serve(&self, tree: Arc<Tree>, dir: &Path, source: &str) -> Result<Box<dyn Serving>, Error> {
        let mut config = Config::default();
        // A comma would end the option where fusermount passes it on.
        let fsname: String =
            source.chars().map(|c| if c == ',' || c == '\\' || c.is_control() { '_' } else { c }).collect();
        // fuser gives the subtype to fusermount, but not to the kernel when it mounts by itself, as root.
        let subtype = if nix::unistd::geteuid().is_root() {
            MountOption::CUSTOM(format!("subtype={SUBTYPE}"))
        } else {
            MountOption::Subtype(SUBTYPE.into())
        };
        config.mount_options = vec![
            MountOption::FSName(fsname),
            subtype,
            MountOption::RO,
            MountOption::NoSuid,
            MountOption::NoDev,
            MountOption::NoExec,
            MountOption::DefaultPermissions,
        ];
        config.acl = if tree.allow_other { SessionACL::All } else { SessionACL::Owner };
        if cfg!(target_os = "linux") {
            config.n_threads = Some(parallel::cores().clamp(4, 16));
            // Each thread opens /dev/fuse again for itself. An ordinary user who may not still has the descriptor that
            // fusermount3 gave him.
            config.clone_fd = File::options().read(true).write(true).open("/dev/fuse").is_ok();
        }
        let filesystem =
            Shown { tree, uid: nix::unistd::getuid().as_raw(), gid: nix::unistd::getgid().as_raw() };
        let session = Session::new(filesystem, dir, &config).map_err(|e| refused(dir, e))?;
        let session = session.spawn().map_err(|e| refused(dir, e))?;
        // fuser 0.18.0 unmounts the path once more when the session is dropped, and so takes away what lies below
        // if somebody else has unmounted it. So the session is never dropped: it ends with the process.
        let (ended, end) = channel();
        let keeper = move || {
            // All of it, not only the part that is used below: the rest would be dropped, and unmount.
            let session = session;
            let result = session
                .guard
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a thread of the front end panicked")));
            let _ = ended.send(result);
            loop {
                std::thread::park();
            }
        };
        std::thread::Builder::new().name("fuse-session".into()).spawn(keeper).map_err(|e| refused(dir, e))?;
        Ok(Box::new(Running { end }))
    }
}

fn refused(dir: &Path, e: io::Error) -> Error {
    let error = Error::new(error::Kind::Unavailable, "cannot be mounted here").at(dir);
    let error = match e.kind() {
        io::ErrorKind::NotFound if !Path::new("/dev/fuse").exists() => error.hint("load the kernel's fuse module: modprobe fuse"),
        io::ErrorKind::PermissionDenied => error.hint(
            "an ordinary user needs fusermount3 (package fuse3), a mount point of his own, and for --allow-other \
             'user_allow_other' in /etc/fuse.conf",
        ),
        _ => error.hint("'cdi doctor' says what this system lacks"),
    };
    error.because(e)
}

struct Running {
    end: Receiver<io::Result<()>>,
}

impl Serving for Running {
    fn wait(self: Box<Self>) -> Result<(), Error> {
        match self.end.recv() {
            Ok(Ok(())) | Err(_) => Ok(()),
            // The connection was aborted: that is how a forced unmount looks from here.
            Ok(Err(e)) if e.raw_os_error() == Some(nix::errno::Errno::ECONNABORTED as i32) => Ok(()),
            Ok(Err(e)) => Err(Error::failed("the FUSE session ended with an error").because(e)),
        }
    }
}

struct Shown {
    tree: Arc<Tree>,
    uid: u32,
    gid: u32,
}

impl Shown {
    fn attr(&self, id: Id) -> Option<FileAttr> {
        let tree = &self.tree;
        let (kind, size, perm, nlink) = match tree.kind(id)? {
            Kind::Folder => (FileType::Directory, 0, if tree.allow_other { 0o555 } else { 0o500 }, 2),
            Kind::File(size) => {
                (FileType::RegularFile, size, if tree.allow_other { 0o444 } else { 0o400 }, 1)
            }
            Kind::Link(size) => (FileType::Symlink, size, 0o777, 1),
        };
        Some(FileAttr {
            ino: INodeNo(id.0),
            size,
            blocks: size.div_ceil(512),
            atime: tree.time,
            mtime: tree.time,
            ctime: tree.time,
            crtime: tree.time,
            kind,
            perm,
            nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: 128 << 10,
            flags: 0,
        })
    }

    fn ttl(id: Id) -> Duration {
        if id == super::DEVICE || id == ROOT { TTL_DEVICE } else { TTL }
    }
}

impl Filesystem for Shown {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // A kernel that lacks one of these only serves slower.
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        let _ = config.set_max_background(64);
        let _ = config.set_max_readahead(1 << 20);
        // Nobody writes; a small buffer for each thread is enough.
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let id = name.to_str().filter(|_| parent.0 == ROOT.0).and_then(|name| self.tree.lookup(name));
        match id.and_then(|id| Some((id, self.attr(id)?))) {
            Some((id, attr)) => reply.entry(&Self::ttl(id), &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(Id(ino.0)) {
            Some(attr) => reply.attr(&Self::ttl(Id(ino.0)), &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.tree.device().filter(|_| ino.0 == super::DEVICE.0) {
            Some(device) => reply.data(device.as_os_str().as_encoded_bytes()),
            None => reply.error(Errno::EINVAL),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
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
        // Whole or an errno: in a cached file the kernel would take a short reply for the end of the file.
        match self.tree.read(Id(ino.0), offset, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(e) => reply.error(Errno::from_i32(e.errno(self.tree.errno))),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let here = [(ROOT, "."), (ROOT, "..")];
        let all = here.into_iter().chain(self.tree.list());
        for (next, (id, name)) in (1..).zip(all).skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            let kind = match id {
                ROOT => FileType::Directory,
                super::DEVICE => FileType::Symlink,
                _ => FileType::RegularFile,
            };
            if reply.add(INodeNo(id.0), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = self.tree.disk().size().div_ceil(4096);
        reply.statfs(blocks, 0, 0, self.tree.list().len() as u64 + 1, 0, 4096, 255, 4096);
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    // "Not implemented" once, and the kernel does not ask again.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::NO_XATTR);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, size: u32, reply: ReplyXattr) {
        if size == 0 { reply.size(0) } else { reply.data(&[]) }
    }
}
