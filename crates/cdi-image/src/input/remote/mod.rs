//! Files on web servers and in object stores, read in ranges.
//!
//! A file is read in blocks of 1 MiB, which are kept in memory and, if the user wants that, in a directory. Blocks are
//! fetched by the reader who needs them, and ahead of readers who read on, several at a time. A read is answered by the
//! version of the file that was opened, or fails.

mod ahead;
mod aws;
mod bounded;
mod connector;
mod disk_cache;
mod fault;
mod folder;
mod location;
mod names;
mod object;
mod outage;
mod places;
mod runtime;
mod session;
mod settings;
mod store;
mod watch;

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cdi_base::error::{Error, ReadError};
pub(super) use location::is_remote;
pub(super) use places::places;
pub(super) use runtime::rest;
pub(super) use watch::{end_reads_when, forget};

use self::ahead::Ahead;
use self::fault::Fault;
use self::folder::RemoteFolder;
use self::location::Location;
use self::object::Object;
use self::runtime::Threads;
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
    // The user waits, and can try again.
    match Object::open(&store, location.key.clone(), url, BLOCK, limit / 4) {
        Ok((object, start)) => {
            if !object.version().is_known() {
                let url = url.display();
                log::warn!(
                    "{url}: the server names no version of the file, so that a change may go unnoticed"
                );
            }
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
        // If there are no threads, the reader gets the error.
        let _ = runtime::with(Threads::Any, |start, threads| {
            for block in blocks {
                let (session, object, number) =
                    (Arc::clone(&self.session), Arc::clone(&self.object), self.number);
                threads.spawn_blocking(move || session.prepare(number, &object, block, Threads::Of(start)));
            }
        });
    }
}

impl ReadAt for RemoteFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let len = self.object.version().len;
        if at >= len || buf.is_empty() {
            return Ok(0);
        }
        let block = at / BLOCK;
        let end = at.saturating_add(buf.len() as u64).min(len);
        let ahead = self.ahead.read(block..end.div_ceil(BLOCK));
        if !ahead.is_empty() && !self.object.is_changed() {
            self.fetch_ahead(ahead);
        }
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

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;

    /// A server that answers the first request with the start of a file of 8 MiB, and sends `then` for all others, whose
    /// connections stay open.
    fn server(then: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for (n, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
                let mut to = &stream;
                if n == 0 {
                    to.write_all(
                        b"HTTP/1.1 206 Partial Content\r\nETag: \"1\"\r\nContent-Length: 1048576\r\nConnection: close\r\n\
                          Content-Range: bytes 0-1048575/8388608\r\n\r\n",
                    )
                    .unwrap();
                    to.write_all(&vec![7; 1 << 20]).unwrap();
                } else {
                    to.write_all(then).unwrap();
                    kept.push(stream);
                }
            }
        });
        format!("http://{address}/disk.raw")
    }

    #[test]
    fn a_server_that_stays_silent_costs_the_time_limit_and_no_more() {
        let limit = Duration::from_secs(2);
        let half = b"HTTP/1.1 206 Partial Content\r\nETag: \"1\"\r\nContent-Length: 1048576\r\n\
                     Content-Range: bytes 1048576-2097151/8388608\r\n\r\nhalf";
        for then in [&b""[..], half] {
            let url = server(then);
            let Ok(Remote::File(file, _)) = open_in_time(Path::new(&url), None, limit * 4) else {
                panic!("not opened")
            };
            let mut sector = [0; 512];
            assert_eq!(file.read_at(&mut sector, 4096).unwrap(), 512);
            assert_eq!(sector, [7; 512]);
            let session = Arc::new(Session::new(None, limit).unwrap());
            session.watch.opened();
            let again =
                RemoteFile { session, number: 0, object: Arc::clone(&file.object), ahead: Ahead::default() };
            let start = Instant::now();
            let error = again.read_at(&mut sector, 1 << 20).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::ETIMEDOUT as i32));
            assert!(start.elapsed() >= limit && start.elapsed() < limit * 2, "{:?}", start.elapsed());
            // It is known now that the server is silent: nobody waits for it that long again.
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        (2..8).for_each(|n| drop(again.read_at(&mut [0; 512], n << 20).unwrap_err()))
                    });
                }
            });
            assert!(start.elapsed() < limit * 2, "{:?}", start.elapsed());
        }
        // In the same test, because the threads are those of the process.
        the_threads_end_and_start_again();
    }

    #[test]
    fn a_server_that_is_not_found_is_not_a_file_that_is_not_found() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let kind = |url: &str| {
            let error = open(Path::new(url), None).err().unwrap();
            let cause = std::error::Error::source(&error).unwrap();
            cause.downcast_ref::<io::Error>().unwrap().kind()
        };
        assert_eq!(kind(&format!("http://{closed}/disk.raw")), io::ErrorKind::ConnectionRefused);
        assert_eq!(kind("http://nothing.invalid/disk.raw"), io::ErrorKind::Other);
    }

    fn the_threads_end_and_start_again() {
        let url = server(b"");
        let Ok(Remote::File(file, _)) = open(Path::new(&url), None) else { panic!("not opened") };
        rest();
        let mut sector = [0; 512];
        assert_eq!(file.read_at(&mut sector, 0).unwrap(), 512);
    }
}
