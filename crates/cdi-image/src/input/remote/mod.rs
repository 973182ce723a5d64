//! Files on web servers and in object stores, read in ranges.
//!
//! A file is read in blocks of 1 MiB, which are kept in memory and, if the user wants that, in a directory. Blocks are
//! fetched by the reader who needs them, and ahead of readers who read on, several at a time. A read is answered by the
//! version of the file that was opened, or fails.

mod ahead;
mod aws;
mod disk_cache;
mod fault;
mod folder;
mod location;
mod object;
mod runtime;
mod session;
mod store;

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cdi_base::error::{Error, ReadError};
pub(super) use location::is_remote;
pub(super) use runtime::rest;

use self::ahead::Ahead;
use self::fault::Fault;
use self::folder::RemoteFolder;
use self::location::Location;
use self::object::Object;
use self::session::{BLOCK, LIMIT, Session, Shared};
use self::store::Store;
use super::RemoteCache;
use super::source::{Folder, ReadAt, RemoteStats};

/// What is at an address.
pub(super) enum Remote {
    /// A file, with the files next to it.
    File(Arc<RemoteFile>, Arc<dyn Folder>),
    /// No file. It may be a folder.
    Folder(Arc<dyn Folder>),
}

/// Opens what is at `url`.
pub(super) fn open(url: &Path, cache: Option<&RemoteCache>) -> Result<Remote, Error> {
    open_in_time(url, cache, LIMIT)
}

fn open_in_time(url: &Path, cache: Option<&RemoteCache>, limit: Duration) -> Result<Remote, Error> {
    let location = Location::parse(url)?;
    let session = Arc::new(Session::new(cache, limit)?);
    let store = Arc::new(Store::new(location.root.clone()));
    match Object::open(&store, location.key.clone(), url, BLOCK, limit) {
        Ok((object, start)) => {
            let folder = RemoteFolder::of_file(&session, &store, &location, url);
            let file = RemoteFile::new(&session, object);
            session.opened(file.number, &file.object, start);
            Ok(Remote::File(Arc::new(file), Arc::new(folder)))
        }
        Err(Fault::Missing) if store.root().can_list() => {
            Ok(Remote::Folder(Arc::new(RemoteFolder::at(&session, &store, &location, url))))
        }
        Err(fault) => Err(Error::io("cannot open", url, fault.io())),
    }
}

/// Returns the folder at `url`, in which other files of an image may be.
pub(super) fn folder(url: &Path, cache: Option<&RemoteCache>) -> Result<Arc<dyn Folder>, Error> {
    let location = Location::parse(url)?;
    let session = Arc::new(Session::new(cache, LIMIT)?);
    let store = Arc::new(Store::new(location.root.clone()));
    Ok(Arc::new(RemoteFolder::at(&session, &store, &location, url)))
}

/// A remote file.
pub(super) struct RemoteFile {
    session: Shared,
    number: u32,
    object: Arc<Object>,
    ahead: Ahead,
}

impl RemoteFile {
    fn new(session: &Shared, object: Object) -> RemoteFile {
        RemoteFile {
            session: Arc::clone(session),
            number: session.number(),
            object: Arc::new(object),
            ahead: Ahead::default(),
        }
    }

    /// Returns when it was modified, if that is known.
    pub(super) fn modified(&self) -> Option<SystemTime> {
        Some(self.object.version().modified).filter(|time| *time > SystemTime::UNIX_EPOCH)
    }

    /// Fetches blocks in other threads.
    fn fetch_ahead(&self, blocks: Range<u64>) {
        let blocks = blocks.start..blocks.end.min(self.object.version().len.div_ceil(BLOCK));
        let Ok((_, handle)) = runtime::running() else { return };
        for block in blocks {
            let (session, object, number) =
                (Arc::clone(&self.session), Arc::clone(&self.object), self.number);
            handle.spawn_blocking(move || session.prepare(number, &object, block));
        }
    }
}

impl ReadAt for RemoteFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let len = self.object.version().len;
        if at >= len || buf.is_empty() {
            return Ok(0);
        }
        if self.object.is_changed() {
            return Err(io::Error::from_raw_os_error(Fault::Changed.errno()));
        }
        let block = at / BLOCK;
        let end = at.saturating_add(buf.len() as u64).min(len);
        self.fetch_ahead(self.ahead.read(block..end.div_ceil(BLOCK)));
        let bytes = self.session.block(self.number, &self.object, block).map_err(|e| match e {
            ReadError::Io { errno } => io::Error::from_raw_os_error(errno),
            other => io::Error::other(other),
        })?;
        let from = usize::try_from(at % BLOCK).unwrap_or(usize::MAX);
        let found = bytes.get(from..).unwrap_or_default();
        let count = found.len().min(buf.len());
        buf[..count].copy_from_slice(&found[..count]);
        Ok(count)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.object.version().len)
    }

    fn remote(&self) -> Option<RemoteStats> {
        Some(self.session.stats())
    }
}
