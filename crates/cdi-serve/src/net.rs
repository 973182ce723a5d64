//! Accepts connections up to a limit, and serves each on threads of its own.
//!
//! Every user of the machine may be able to connect. So a client that has not authenticated yet is a stranger, and
//! strangers have a limit of their own: they cannot exhaust the connections of known clients.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use cdi_base::workers::{self, lock};

/// A listening socket.
pub enum Listener {
    /// A Unix domain socket.
    Unix(UnixListener),
    /// A TCP port.
    Tcp(TcpListener),
}

/// A connection.
pub(super) trait Stream: Read + Write + Send + Sync {
    /// Returns a second handle to it.
    fn another(&self) -> io::Result<Box<dyn Stream>>;
    /// Shuts it down; reads from it then return its end.
    fn close(&self);
    /// Sets the timeout of a single read, for every handle to it.
    fn limit_reads(&self, time: Option<Duration>) -> io::Result<()>;
    /// Sets the timeout of a single write, for every handle to it.
    fn limit_writes(&self, time: Option<Duration>) -> io::Result<()>;
}

macro_rules! stream {
    ($stream:ty) => {
        impl Stream for $stream {
            fn another(&self) -> io::Result<Box<dyn Stream>> {
                Ok(Box::new(self.try_clone()?))
            }
            fn close(&self) {
                let _ = self.shutdown(std::net::Shutdown::Both);
            }
            fn limit_reads(&self, time: Option<Duration>) -> io::Result<()> {
                self.set_read_timeout(time)
            }
            fn limit_writes(&self, time: Option<Duration>) -> io::Result<()> {
                self.set_write_timeout(time)
            }
        }
    };
}
stream!(UnixStream);
stream!(TcpStream);

/// The pause in accepting connections when this process cannot open more files or start more threads.
const PAUSE: Duration = Duration::from_millis(100);
/// The maximum number of threads in addition to the first of each connection.
const MAX_EXTRA_THREADS: usize = 32;
/// How often a blocked write checks whether to continue.
const WRITE_POLL: Duration = Duration::from_secs(1);
/// How long a client may accept nothing of a reply, and the minimum rate in bytes per second at which it must accept it
/// afterwards, while others wait for the memory that holds the reply.
const STALL: Duration = Duration::from_secs(5);
const MIN_RATE: u64 = 1 << 20;

/// The maximum number of simultaneous connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The limit for clients that have authenticated: see [`Peer::introduce`].
    pub known: usize,
    /// The limit for strangers, that is all others. When one more connects, the oldest is closed.
    pub strangers: usize,
    /// How long a known client may be idle before it can be replaced by another. `None`: forever.
    pub idle: Option<Duration>,
}

/// The connections of a server.
struct Connections {
    limits: Limits,
    /// The open connections, the oldest first.
    open: Mutex<Vec<Arc<Peer>>>,
    /// The number of connections that still have a thread, including closed ones.
    alive: AtomicUsize,
    /// The number of threads in addition to the first of each connection.
    extra_threads: AtomicUsize,
    start: Instant,
}

/// The client at the other end of a connection.
pub(super) struct Peer {
    connections: Arc<Connections>,
    connection: Box<dyn Stream>,
    known: AtomicBool,
    closed: AtomicBool,
    /// When it was last active, in milliseconds since the server's start.
    active_at: AtomicU64,
}

impl Connections {
    fn open(&self) -> MutexGuard<'_, Vec<Arc<Peer>>> {
        lock(&self.open)
    }

    /// Adds a new connection, as a stranger.
    fn admit(self: &Arc<Connections>, stream: &dyn Stream) -> io::Result<Slot> {
        stream.limit_writes(Some(WRITE_POLL))?;
        let peer = Peer {
            connections: Arc::clone(self),
            connection: stream.another()?,
            known: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            active_at: AtomicU64::new(0),
        };
        let peer = Arc::new(peer);
        let mut open = self.open();
        open.push(Arc::clone(&peer));
        let strangers = open.iter().filter(|p| !p.is_known()).count();
        if strangers > self.limits.strangers
            && let Some(oldest) = open.iter().position(|p| !p.is_known())
        {
            open.remove(oldest).close();
        }
        self.alive.fetch_add(1, Ordering::Relaxed);
        Ok(Slot(peer))
    }
}

impl Peer {
    /// Returns whether the client has authenticated.
    pub(super) fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// Records that the client has authenticated: it is no longer a stranger. If the limit of known clients is reached,
    /// it replaces the one that has been idle for the longest time, or else its own connection is closed.
    pub(super) fn introduce(&self) -> io::Result<()> {
        self.record_activity();
        if self.is_known() {
            return Ok(());
        }
        let mut open = self.connections.open();
        let known = open.iter().filter(|p| p.is_known()).count();
        if known >= self.connections.limits.known {
            let idle = |p: &Peer| self.connections.limits.idle.is_some_and(|limit| p.idle() >= limit);
            let idle_peers = open.iter().enumerate().filter(|(_, p)| p.is_known() && idle(p));
            match idle_peers.max_by_key(|(_, p)| p.idle()).map(|(i, _)| i) {
                Some(longest) => open.remove(longest).close(),
                None => {
                    self.close();
                    return Err(io::Error::other(format!("too many connections ({known})")));
                }
            }
        }
        self.known.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Records that the client was active just now.
    pub(super) fn record_activity(&self) {
        self.active_at.store(self.connections.now(), Ordering::Relaxed);
    }

    fn idle(&self) -> Duration {
        Duration::from_millis(self.connections.now().saturating_sub(self.active_at.load(Ordering::Relaxed)))
    }

    /// Closes the connection.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.connection.close();
    }

    /// Returns whether the connection was closed from this side.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Writes the parts of a reply. Gives up on a client that is too slow to accept it once `wanted` returns that
    /// others wait for the memory that holds it.
    pub(super) fn write(
        &self,
        out: &mut dyn Stream,
        parts: &[&[u8]],
        wanted: impl Fn() -> bool,
    ) -> io::Result<()> {
        let (start, mut sent) = (Instant::now(), 0);
        for part in parts {
            let mut left = *part;
            while !left.is_empty() {
                match out.write(left) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(n) => {
                        left = &left[n..];
                        sent += n as u64;
                        self.record_activity();
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                    Err(e) => return Err(e),
                }
                let timeout = STALL + Duration::from_secs(sent / MIN_RATE);
                if start.elapsed() > timeout && !left.is_empty() && wanted() {
                    return Err(io::Error::other("client does not read its replies while others wait"));
                }
            }
        }
        Ok(())
    }
}

impl Connections {
    /// Returns the milliseconds since the start.
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A connection's slot within the limits, released when it is dropped.
struct Slot(Arc<Peer>);

impl Drop for Slot {
    fn drop(&mut self) {
        let connections = &self.0.connections;
        connections.open().retain(|p| !Arc::ptr_eq(p, &self.0));
        connections.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream with one deadline for all reads and writes.
pub(super) struct Until<'a> {
    stream: &'a mut Box<dyn Stream>,
    end: Instant,
}

impl<'a> Until<'a> {
    /// Sets the deadline to `time` from now. When this is dropped, reads have no timeout any more.
    pub(super) fn new(stream: &'a mut Box<dyn Stream>, time: Duration) -> Until<'a> {
        Until { stream, end: Instant::now() + time }
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Until<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.limit_reads(Some(self.left()?))?;
        self.stream.read(buf)
    }
}

impl Write for Until<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.left()?;
        self.stream.write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Drop for Until<'_> {
    fn drop(&mut self) {
        let _ = self.stream.limit_reads(None);
    }
}

/// Accepts connections, up to `limits` at once, and serves each on a thread of this name. Returns only if the listener
/// fails; too many open files or running threads are not an error, because other connections may end.
pub(super) fn accept_connections(
    listener: &Listener,
    name: &str,
    limits: Limits,
    serve: impl Fn(Box<dyn Stream>, &Arc<Peer>) -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<()> {
    let serve = Arc::new(serve);
    let connections = Arc::new(Connections {
        limits,
        open: Mutex::default(),
        alive: AtomicUsize::new(0),
        extra_threads: AtomicUsize::new(0),
        start: Instant::now(),
    });
    let mut warned = None::<Instant>;
    // Rate-limited, so that a flood of connections does not fill up the log.
    let mut warn = move |what: &str| {
        if warned.is_none_or(|warned| warned.elapsed() > Duration::from_secs(60)) {
            log::warn!("connection refused: {what}");
            warned = Some(Instant::now());
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
            Err(e) if is_temporary(&e) => {
                warn(&e.to_string());
                thread::sleep(PAUSE);
                continue;
            }
            Err(e) => return Err(e),
        };
        // Closed connections end soon, unless they are in a read that hangs.
        let alive = connections.alive.load(Ordering::Relaxed);
        if alive >= 2 * (limits.known + limits.strangers) {
            warn(&format!("too many connections ({alive})"));
            continue;
        }
        let slot = match connections.admit(&*stream) {
            Ok(slot) => slot,
            Err(e) => {
                warn(&e.to_string());
                continue;
            }
        };
        let serve = Arc::clone(&serve);
        let run = move || {
            if let Err(e) = serve(stream, &slot.0) {
                log::info!("connection closed: {e}");
            }
        };
        if let Err(e) = thread::Builder::new().name(name.into()).spawn(run) {
            warn(&e.to_string());
            thread::sleep(PAUSE);
        }
    }
}

/// Returns whether an error of `accept` is not a failure of the listener: the connection was gone before it was
/// accepted, or this process or the system has too many files open at the moment.
fn is_temporary(e: &io::Error) -> bool {
    use nix::errno::Errno;
    let full = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS, Errno::EAGAIN, Errno::EPROTO];
    let gone = [Errno::ECONNABORTED, Errno::ECONNRESET, Errno::EINTR, Errno::EINVAL];
    e.raw_os_error().is_some_and(|n| full.iter().chain(&gone).any(|errno| *errno as i32 == n))
}

/// Serves the requests of one connection on several threads: `receive` reads them and passes each on, until the
/// callback returns that the connection is closed; `answer` answers one, with a buffer that it may use. At most
/// `waiting` requests wait for a thread; no more are read from the client until one of them is taken. The connection is
/// closed if an answer cannot be sent.
pub(super) fn serve_requests<J: Send>(
    peer: &Peer,
    waiting: usize,
    receive: impl FnOnce(&dyn Fn(J) -> bool) -> io::Result<()>,
    answer: impl Fn(J, &mut Vec<u8>) -> io::Result<()> + Sync,
) -> io::Result<()> {
    let (jobs, next) = sync_channel::<J>(waiting);
    let next = Mutex::new(next);
    let work = || {
        let mut buf = Vec::new();
        while let Some(job) = workers::next(&next) {
            // Requests that arrive after the end are taken and dropped: `receive` must not wait forever.
            if !peer.is_closed() && answer(job, &mut buf).is_err() {
                peer.close();
            }
        }
    };
    let extra_threads = &peer.connections.extra_threads;
    let extra = || {
        work();
        extra_threads.fetch_sub(1, Ordering::Relaxed);
    };
    thread::scope(|scope| {
        let thread = || thread::Builder::new().name("answers".into());
        thread().spawn_scoped(scope, work)?;
        // One thread is enough; the others are optional.
        for _ in 1..workers::cores().clamp(2, 8) {
            if extra_threads.fetch_add(1, Ordering::Relaxed) >= MAX_EXTRA_THREADS
                || thread().spawn_scoped(scope, extra).is_err()
            {
                extra_threads.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let ended = receive(&|job| {
            peer.record_activity();
            !peer.is_closed() && jobs.send(job).is_ok()
        });
        drop(jobs);
        ended
    })
}
