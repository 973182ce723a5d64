//! Connections: taken as they come, each served on threads of its own, and only so many at once.
//!
//! Every user of the machine may be able to connect. So a client that has shown nothing yet is a stranger, and strangers
//! have places of their own: they cannot take those of others.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use cdi_base::workers::{self, lock};

/// Where connections come from.
pub enum Listener {
    /// A socket in the file system.
    Unix(UnixListener),
    /// A port of this machine.
    Tcp(TcpListener),
}

/// A connection.
pub(super) trait Stream: Read + Write + Send + Sync {
    /// A second handle to it.
    fn another(&self) -> io::Result<Box<dyn Stream>>;
    /// Ends it; reads from it then see its end.
    fn close(&self);
    /// Sets how long one read may wait, for every handle to it.
    fn limit_reads(&self, time: Option<Duration>) -> io::Result<()>;
    /// Sets how long one write may wait, for every handle to it.
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

/// How long nothing is taken when this process has no more files or threads to give.
const PAUSE: Duration = Duration::from_millis(100);
/// How many threads there are besides the first of each connection.
const MORE_THREADS: usize = 32;
/// How often a write that waits looks whether it should go on.
const LOOK: Duration = Duration::from_secs(1);
/// How long a client may take nothing of a reply, and how many bytes a second it must take from then on, while others
/// wait for the memory that the reply is in.
const STALL: Duration = Duration::from_secs(5);
const SLOWEST: u64 = 1 << 20;

/// How many connections a server has at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Of clients that have shown that they are some: see [`Peer::introduce`].
    pub known: usize,
    /// Of strangers, which are all others. For one more, the oldest is closed.
    pub strangers: usize,
    /// How long a known client may do nothing, once its place is wanted. None: as long as it likes.
    pub idle: Option<Duration>,
}

/// The connections of a server.
struct Crowd {
    limits: Limits,
    /// Those that are open, the oldest first.
    open: Mutex<Vec<Arc<Peer>>>,
    /// How many have a thread still, closed ones among them.
    alive: AtomicUsize,
    /// How many threads there are besides the first of each.
    more_threads: AtomicUsize,
    start: Instant,
}

/// The client at the other end of a connection.
pub(super) struct Peer {
    crowd: Arc<Crowd>,
    connection: Box<dyn Stream>,
    known: AtomicBool,
    closed: AtomicBool,
    /// When it last did something, in milliseconds from the crowd's start.
    moved: AtomicU64,
}

impl Crowd {
    fn open(&self) -> MutexGuard<'_, Vec<Arc<Peer>>> {
        lock(&self.open)
    }

    /// Takes in a new connection, as a stranger's.
    fn meet(self: &Arc<Crowd>, stream: &dyn Stream) -> io::Result<Place> {
        stream.limit_writes(Some(LOOK))?;
        let peer = Peer {
            crowd: Arc::clone(self),
            connection: stream.another()?,
            known: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            moved: AtomicU64::new(0),
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
        Ok(Place(peer))
    }
}

impl Peer {
    /// Whether the client has shown that it is one.
    pub(super) fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// Notes that the client has shown that it is one: it is not a stranger from now on. Where all places are taken, that
    /// of the client that has done nothing for the longest time is given to it, or the connection is closed.
    pub(super) fn introduce(&self) -> io::Result<()> {
        self.moved();
        if self.is_known() {
            return Ok(());
        }
        let mut open = self.crowd.open();
        let known = open.iter().filter(|p| p.is_known()).count();
        if known >= self.crowd.limits.known {
            let idle = |p: &Peer| self.crowd.limits.idle.is_some_and(|limit| p.idle() >= limit);
            let place = open.iter().enumerate().filter(|(_, p)| p.is_known() && idle(p));
            match place.max_by_key(|(_, p)| p.idle()).map(|(i, _)| i) {
                Some(place) => open.remove(place).close(),
                None => {
                    self.close();
                    return Err(io::Error::other(format!("there are {known} already")));
                }
            }
        }
        self.known.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Notes that the client has done something.
    pub(super) fn moved(&self) {
        self.moved.store(self.crowd.now(), Ordering::Relaxed);
    }

    fn idle(&self) -> Duration {
        Duration::from_millis(self.crowd.now().saturating_sub(self.moved.load(Ordering::Relaxed)))
    }

    /// Ends the connection.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.connection.close();
    }

    /// Whether the connection was ended from this side.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Writes the parts of a reply. A client that does not take it is given up once `wanted` says that others wait for
    /// the memory that it is in.
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
                        self.moved();
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                    Err(e) => return Err(e),
                }
                let may_take = STALL + Duration::from_secs(sent / SLOWEST);
                if start.elapsed() > may_take && !left.is_empty() && wanted() {
                    return Err(io::Error::other("it does not take its replies, and others wait"));
                }
            }
        }
        Ok(())
    }
}

impl Crowd {
    /// Milliseconds from its start.
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A place among the connections, given back when it is dropped, however that comes.
struct Place(Arc<Peer>);

impl Drop for Place {
    fn drop(&mut self) {
        let crowd = &self.0.crowd;
        crowd.open().retain(|p| !Arc::ptr_eq(p, &self.0));
        crowd.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream whose reads and writes all have to be done by one moment.
pub(super) struct Until<'a> {
    stream: &'a mut Box<dyn Stream>,
    end: Instant,
}

impl<'a> Until<'a> {
    /// Gives the client `time` from now on. Dropped, there is no limit to reads any more.
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

/// Takes connections, as many at once as `limits` says, each served on a thread of this name. Does not return but for an
/// error of the listener; that there are too many files open or threads running is none, for others may end.
pub(super) fn take_connections(
    listener: &Listener,
    name: &str,
    limits: Limits,
    serve: impl Fn(Box<dyn Stream>, &Arc<Peer>) -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<()> {
    let serve = Arc::new(serve);
    let crowd = Arc::new(Crowd {
        limits,
        open: Mutex::default(),
        alive: AtomicUsize::new(0),
        more_threads: AtomicUsize::new(0),
        start: Instant::now(),
    });
    let mut told = None::<Instant>;
    // A flood of connections must not fill up our log.
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
        // Those that were closed end soon, but for one that is in a read that hangs.
        let alive = crowd.alive.load(Ordering::Relaxed);
        if alive >= 2 * (limits.known + limits.strangers) {
            tell(&format!("there are {alive}"));
            continue;
        }
        let place = match crowd.meet(&*stream) {
            Ok(place) => place,
            Err(e) => {
                tell(&e.to_string());
                continue;
            }
        };
        let serve = Arc::clone(&serve);
        let run = move || {
            if let Err(e) = serve(stream, &place.0) {
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

/// Serves the requests of one connection on several threads: `receive` reads them and passes each on, until it is told
/// that the connection is over; `answer` answers one, with a buffer that it may use. At most `waiting` wait for a thread;
/// a client that sends more is not read from until then. The connection is closed when an answer cannot be given.
pub(super) fn in_flight<J: Send>(
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
            // What still comes after the end is taken and dropped: `receive` must not wait for ever.
            if !peer.is_closed() && answer(job, &mut buf).is_err() {
                peer.close();
            }
        }
    };
    let more_threads = &peer.crowd.more_threads;
    let more = || {
        work();
        more_threads.fetch_sub(1, Ordering::Relaxed);
    };
    thread::scope(|scope| {
        let thread = || thread::Builder::new().name("answers".into());
        thread().spawn_scoped(scope, work)?;
        // One is enough to go on with.
        for _ in 1..workers::cores().clamp(2, 8) {
            if more_threads.fetch_add(1, Ordering::Relaxed) >= MORE_THREADS
                || thread().spawn_scoped(scope, more).is_err()
            {
                more_threads.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let ended = receive(&|job| {
            peer.moved();
            !peer.is_closed() && jobs.send(job).is_ok()
        });
        drop(jobs);
        ended
    })
}
