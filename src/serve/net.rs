//! Connections: taken as they come, each served on threads of its own, and only so many at once.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::parallel;

/// Where connections come from.
pub enum Listener {
    /// A socket in the file system.
    Unix(UnixListener),
    /// A port of this machine.
    Tcp(TcpListener),
}

/// A connection.
pub(super) trait Stream: Read + Write + Send {
    /// A second handle to it.
    fn another(&self) -> io::Result<Box<dyn Stream>>;
    /// Ends it; whoever reads from it sees its end.
    fn close(&self);
}

impl Stream for UnixStream {
    fn another(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(self.try_clone()?))
    }
    fn close(&self) {
        let _ = self.shutdown(std::net::Shutdown::Both);
    }
}

impl Stream for TcpStream {
    fn another(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(self.try_clone()?))
    }
    fn close(&self) {
        let _ = self.shutdown(std::net::Shutdown::Both);
    }
}

/// How long nothing is taken when this process has no more files or threads to give.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes connections, at most `most` at once, each served on a thread of this name. Does not return but for an error of
/// the listener; that there are too many files open or threads running is none, for others may end.
pub(super) fn take_connections(
    listener: &Listener,
    name: &str,
    most: usize,
    serve: impl Fn(Box<dyn Stream>) -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<()> {
    let serve = Arc::new(serve);
    let connections = Arc::new(AtomicUsize::new(0));
    let mut told = None::<Instant>;
    // Whoever fills up our places is not to fill up our log.
    let mut tell = move |what: &str| {
        if told.is_none_or(|told| told.elapsed() > Duration::from_secs(60)) {
            log::warn!("a connection was refused: {what}");
            told = Some(Instant::now());
        }
    };
    loop {
        let accepted: io::Result<Box<dyn Stream>> = match listener {
            Listener::Unix(l) => l.accept().map(|(s, _)| Box::new(s) as Box<dyn Stream>),
            Listener::Tcp(l) => l.accept().map(|(s, _)| {
                let _ = s.set_nodelay(true);
                Box::new(s) as Box<dyn Stream>
            }),
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(e) if is_passing(&e) => {
                tell(&e.to_string());
                thread::sleep(PAUSE);
                continue;
            }
            Err(e) => return Err(e),
        };
        let place = Place::take(&connections);
        if place.0.load(Ordering::SeqCst) > most {
            tell(&format!("there are {most}"));
            continue;
        }
        let serve = Arc::clone(&serve);
        let run = move || {
            let _place = place;
            if let Err(e) = serve(stream) {
                log::info!("a connection ended: {e}");
            }
        };
        if let Err(e) = thread::Builder::new().name(name.into()).spawn(run) {
            tell(&e.to_string());
            thread::sleep(PAUSE);
        }
    }
}

/// Whether it is not the listener that failed: the connection was gone before it was taken, or this process or the system
/// has too much open just now.
fn is_passing(e: &io::Error) -> bool {
    use nix::errno::Errno;
    let full = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS, Errno::EAGAIN, Errno::EPROTO];
    let gone = [Errno::ECONNABORTED, Errno::ECONNRESET, Errno::EINTR, Errno::EINVAL];
    e.raw_os_error().is_some_and(|n| full.iter().chain(&gone).any(|errno| *errno as i32 == n))
}

/// A place among the connections, given back when it is dropped, however that comes.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(all: &Arc<AtomicUsize>) -> Place {
        all.fetch_add(1, Ordering::SeqCst);
        Place(Arc::clone(all))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Serves the requests of one connection on several threads: `receive` reads them and hands each on, until it is told
/// that nobody takes them any more; `answer` answers one, with a buffer that it may use. At most `waiting` wait for a
/// thread; a client that sends more is not read from until then. `close` ends the connection when an answer cannot be
/// given.
pub(super) fn in_flight<J: Send>(
    waiting: usize,
    receive: impl FnOnce(&dyn Fn(J) -> bool) -> io::Result<()>,
    answer: impl Fn(J, &mut Vec<u8>) -> io::Result<()> + Sync,
    close: impl Fn() + Sync,
) -> io::Result<()> {
    let (jobs, next) = sync_channel::<J>(waiting);
    let next = Mutex::new(next);
    let over = AtomicBool::new(false);
    let work = || {
        let mut buf = Vec::new();
        loop {
            let job = next.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(job) = job else { return };
            // What still comes after the end is taken and dropped: whoever hands it on must not wait for ever.
            if !over.load(Ordering::Relaxed) && answer(job, &mut buf).is_err() {
                // Nobody takes the answers: the connection is over, and whoever reads from it is to know.
                over.store(true, Ordering::Relaxed);
                close();
            }
        }
    };
    thread::scope(|scope| {
        for n in 0..parallel::cores().clamp(2, 8) {
            let started = thread::Builder::new().name("answers".into()).spawn_scoped(scope, work);
            // One is enough to go on with.
            if n == 0 {
                started?;
            }
        }
        let ended = receive(&|job| jobs.send(job).is_ok());
        drop(jobs);
        ended
    })
}
