//! Reads with a timeout: a hung source (a disk that spins up, a share that is offline) must not stall other calls of
//! the same client until it considers the server dead. A read that takes longer than [`TIMEOUT`] is answered with "try
//! again later" and continues in the background; when the client tries again, it gets the result.
//!
//! A source that is only slow is never an error, however many reads wait for it. One that has hung for [`HUNG`] is: macOS's
//! client repeats a call that is to be tried later forever, if it reads ahead, and a process that waits for it cannot be
//! killed.
//!
//! What a client does with these answers is simulated in `tests/nfs/macos_client.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cdi_base::error::ReadError;
use cdi_base::workers::{self, Pool, lock};
use nix::errno::Errno;

use super::procedures::Caller;
use crate::tree::{EntryKind, Failure, Id, Tree};

/// Timeout of a read, from when the call was received: less than a client waits for an answer (`timeo`, ten seconds, of
/// the mount). So calls that are queued after reads wait no longer than that either.
pub const TIMEOUT: Duration = Duration::from_secs(6);
/// How long the source may take for one read, from when it was asked. Three of macOS's repetitions, which it makes 4, 8 and
/// 16 seconds after it was told to (NFS_TRYLATERDEL), begin before that.
pub const HUNG: Duration = Duration::from_secs(30);
/// A client that has not repeated a read for this long has given it up. macOS's longest interval is 30 s.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// The maximum number of reads that are remembered.
const REMEMBERED: usize = 4096;
/// The maximum size of results that wait for the client to ask again, in bytes.
const KEPT: usize = 32 << 20;
/// The maximum number of reads that wait for a thread.
const WAITING: usize = 1024;

/// Why there are no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoBytes {
    /// The read failed.
    Error(ReadError),
    /// The read has not finished yet.
    Later,
}

/// What a source answers.
type Answer = Result<Vec<u8>, ReadError>;
/// Which bytes of which entry: offset and length.
type Bytes = (Id, u64, usize);

/// A read that the source has not answered, or whose answer nobody has taken. There is one for the same bytes, however often
/// the client asks for them.
struct Read {
    /// When the client asked last.
    asked: Instant,
    state: State,
    /// Calls that wait for it, by number.
    calls: Vec<(u64, SyncSender<Answer>)>,
}

enum State {
    Queued,
    /// The source was asked at this time.
    Running(Instant),
    Done(Answer),
}

/// The reads that are not finished, and the results that nobody has taken.
#[derive(Default)]
struct Table {
    reads: BTreeMap<Bytes, Read>,
    /// The size of all results, in bytes.
    kept: usize,
    /// The number of the next call.
    next_call: u64,
}

/// What to do with a new call.
enum Entered {
    /// The result is there.
    Result(Answer),
    /// The call waits under this number; the read must be sent to a thread if it is new.
    Waits { call: u64, is_new: bool },
    /// There are too many reads.
    Full,
}

impl Table {
    /// Enters a call for these bytes.
    fn enter(&mut self, bytes: Bytes, back: SyncSender<Answer>, now: Instant) -> Entered {
        if matches!(self.reads.get(&bytes), Some(Read { state: State::Done(_), .. })) {
            return self.take(bytes).map_or(Entered::Full, Entered::Result);
        }
        let is_new = !self.reads.contains_key(&bytes);
        if is_new && self.reads.len() >= REMEMBERED {
            self.forget(now);
            // Then these are too many for a client of the system.
            if self.reads.len() >= REMEMBERED {
                return Entered::Full;
            }
        }
        self.next_call += 1;
        let read =
            self.reads.entry(bytes).or_insert(Read { asked: now, state: State::Queued, calls: Vec::new() });
        read.asked = now;
        read.calls.push((self.next_call, back));
        Entered::Waits { call: self.next_call, is_new }
    }

    /// Takes a result.
    fn take(&mut self, bytes: Bytes) -> Option<Answer> {
        let State::Done(answer) = self.reads.remove(&bytes)?.state else { return None };
        self.kept -= size(&answer);
        Some(answer)
    }

    /// Removes results, and reads that no thread has begun, for which no client asks any more.
    fn forget(&mut self, now: Instant) {
        let kept = &mut self.kept;
        self.reads.retain(|_, read| {
            let forgotten = now.saturating_duration_since(read.asked) >= FORGOTTEN;
            match &read.state {
                State::Done(answer) if forgotten => *kept -= size(answer),
                State::Queued if forgotten => {}
                _ => return true,
            }
            false
        });
    }

    /// Notes that a thread begins a read. Returns whether anybody wants it still.
    fn begin(&mut self, bytes: Bytes, now: Instant) -> bool {
        let Some(read) = self.reads.get_mut(&bytes) else { return false };
        let wanted = now.saturating_duration_since(read.asked) < FORGOTTEN;
        if wanted {
            read.state = State::Running(now);
        } else {
            self.reads.remove(&bytes);
        }
        wanted
    }

    /// Passes the result of a read to the calls that wait for it, or keeps it for the next one.
    fn finish(&mut self, bytes: Bytes, answer: Answer, now: Instant) {
        let Some(mut read) = self.reads.remove(&bytes) else { return };
        let mut calls = std::mem::take(&mut read.calls);
        let last = calls.pop();
        for (_, call) in calls {
            let _ = call.send(answer.clone());
        }
        let answer = match last {
            Some((_, call)) => match call.send(answer) {
                Ok(()) => return,
                Err(not_taken) => not_taken.0,
            },
            None => answer,
        };
        if self.kept + size(&answer) > KEPT {
            self.forget(now);
        }
        if self.kept + size(&answer) <= KEPT {
            self.kept += size(&answer);
            read.state = State::Done(answer);
            self.reads.insert(bytes, read);
        }
    }

    /// Ends the waiting of a call at its timeout. Returns its reply.
    fn give_up(&mut self, bytes: Bytes, call: u64, now: Instant) -> Result<Vec<u8>, NoBytes> {
        let hung = |since: &Instant| now.saturating_duration_since(*since) >= HUNG;
        // A read that no thread has begun waits for those that are running.
        let mut running = self.reads.values().filter_map(|read| match &read.state {
            State::Running(since) => Some(since),
            _ => None,
        });
        let all_hung = running.next().is_some_and(hung) && running.all(hung);
        let Some(read) = self.reads.get_mut(&bytes) else { return Err(NoBytes::Later) };
        read.calls.retain(|(number, _)| *number != call);
        let failed = match &read.state {
            State::Done(_) => {
                return self.take(bytes).unwrap_or(Err(ReadError::PastEnd)).map_err(NoBytes::Error);
            }
            State::Running(since) => hung(since),
            State::Queued => all_hung,
        };
        let timed_out = NoBytes::Error(ReadError::Io { errno: Errno::ETIMEDOUT as i32 });
        Err(if failed { timed_out } else { NoBytes::Later })
    }
}

/// Returns the size of a result in bytes.
fn size(answer: &Answer) -> usize {
    answer.as_ref().map_or(0, Vec::len)
}

/// Reads bytes of a file, or the target of a link.
fn answer(tree: &Tree, (id, offset, len): Bytes) -> Answer {
    if !matches!(tree.kind(id), Some(EntryKind::Link(_))) {
        return tree.read(id, offset, len);
    }
    tree.target(id).map_err(|failure| match failure {
        Failure::Failed(e) => e,
        _ => ReadError::PastEnd,
    })
}

/// The threads that read for all connections.
pub(super) struct Reads {
    tree: Arc<Tree>,
    /// The connections of which a call waits for a scan.
    scan_awaited: Mutex<BTreeSet<usize>>,
    pool: Pool<Bytes>,
    table: Arc<Mutex<Table>>,
}

impl Reads {
    /// Starts the threads. They end when this is dropped.
    pub(super) fn start(tree: &Arc<Tree>) -> io::Result<Reads> {
        let table = Arc::new(Mutex::new(Table::default()));
        let pool = Pool::start("nfs-read", workers::cores().clamp(4, 16), WAITING, || {
            let (tree, table) = (Arc::clone(tree), Arc::clone(&table));
            move |bytes: Bytes| {
                if lock(&table).begin(bytes, Instant::now()) {
                    let answer = answer(&tree, bytes);
                    lock(&table).finish(bytes, answer, Instant::now());
                }
            }
        })?;
        Ok(Reads { tree: Arc::clone(tree), scan_awaited: Mutex::default(), pool, table })
    }

    /// Waits for the scan that an entry needs, for its attributes alone or for everything, like a read that waits for its
    /// source. One call of a connection waits at a time: the others get "try again later" at once, so that threads remain
    /// for reads.
    pub(super) fn scanned(&self, id: Id, attributes_only: bool, caller: &Caller<'_>) -> Result<(), NoBytes> {
        let Some(wait) = self.tree.wait(id, attributes_only) else { return Ok(()) };
        let (since, connection) = (caller.since, Arc::as_ptr(caller.peer).addr());
        if lock(&self.scan_awaited).insert(connection) {
            let mut end = wait.until(since + TIMEOUT);
            // After the partition table, a volume.
            while end && let Some(wait) = self.tree.wait(id, attributes_only) {
                end = wait.until(since + TIMEOUT);
            }
            lock(&self.scan_awaited).remove(&connection);
            if end {
                return Ok(());
            }
        }
        let hung = wait.quiet() >= HUNG;
        let timed_out = NoBytes::Error(ReadError::Io { errno: Errno::ETIMEDOUT as i32 });
        Err(if hung { timed_out } else { NoBytes::Later })
    }

    /// Returns the target of a link for a call that was received at `since`.
    pub(super) fn target(&self, id: Id, since: Instant) -> Result<Vec<u8>, NoBytes> {
        if self.tree.is_in_memory(id) {
            return answer(&self.tree, (id, 0, 0)).map_err(NoBytes::Error);
        }
        self.read(id, 0, 0, since)
    }

    /// Reads bytes of an entry for a call that was received at `since`.
    pub(super) fn read(&self, id: Id, offset: u64, len: usize, since: Instant) -> Result<Vec<u8>, NoBytes> {
        if self.tree.is_in_memory(id) {
            return self.tree.read(id, offset, len).map_err(NoBytes::Error);
        }
        let bytes = (id, offset, len);
        let (back, answer) = sync_channel(1);
        let (call, is_new) = match lock(&self.table).enter(bytes, back, Instant::now()) {
            Entered::Result(answer) => return answer.map_err(NoBytes::Error),
            Entered::Waits { call, is_new } => (call, is_new),
            Entered::Full => return Err(NoBytes::Later),
        };
        if is_new && self.pool.try_send(bytes).is_err() {
            lock(&self.table).reads.remove(&bytes);
            return Err(NoBytes::Later);
        }
        match answer.recv_timeout(TIMEOUT.saturating_sub(since.elapsed())) {
            Ok(answer) => answer.map_err(NoBytes::Error),
            Err(_) => lock(&self.table).give_up(bytes, call, Instant::now()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: Bytes = (Id(2), 4096, 4);
    const LATER: Result<Vec<u8>, NoBytes> = Err(NoBytes::Later);

    /// A table, and the time at which it begins.
    struct Server(Table, Instant);

    impl Server {
        fn new() -> Server {
            Server(Table::default(), Instant::now())
        }

        fn at(&self, second: u64) -> Instant {
            self.1 + Duration::from_secs(second)
        }

        fn enter(&mut self, bytes: Bytes, second: u64) -> Entered {
            let now = self.at(second);
            self.0.enter(bytes, sync_channel(1).0, now)
        }

        /// A call that is received at this second, and gets no result until its timeout.
        fn call(&mut self, bytes: Bytes, second: u64) -> Result<Vec<u8>, NoBytes> {
            match self.enter(bytes, second) {
                Entered::Waits { call, .. } => {
                    let now = self.at(second) + TIMEOUT;
                    self.0.give_up(bytes, call, now)
                }
                Entered::Result(answer) => answer.map_err(NoBytes::Error),
                Entered::Full => LATER,
            }
        }

        fn begin(&mut self, bytes: Bytes, second: u64) -> bool {
            let now = self.at(second);
            self.0.begin(bytes, now)
        }

        fn finish(&mut self, bytes: Bytes, second: u64) {
            let now = self.at(second);
            self.0.finish(bytes, Ok(vec![1; bytes.2]), now);
        }
    }

    fn is_error(reply: &Result<Vec<u8>, NoBytes>) -> bool {
        matches!(reply, Err(NoBytes::Error(ReadError::Io { .. })))
    }

    #[test]
    fn a_source_that_never_answers_is_an_error_after_half_a_minute() {
        let mut server = Server::new();
        assert!(matches!(server.enter(BYTES, 0), Entered::Waits { is_new: true, .. }));
        server.begin(BYTES, 0);
        // As macOS's client repeats it.
        let errors: Vec<bool> = [0, 10, 24, 46].map(|at| is_error(&server.call(BYTES, at))).to_vec();
        assert_eq!(errors, [false, false, true, true]);
        // Another read that a thread has begun has all of its time; one that none has begun has not.
        let (other, queued) = ((Id(2), 0, 512), (Id(2), 512, 512));
        assert_eq!(
            server.call(queued, 50),
            Err(NoBytes::Error(ReadError::Io { errno: Errno::ETIMEDOUT as i32 }))
        );
        server.enter(other, 50);
        server.begin(other, 50);
        assert_eq!(server.call(other, 50), LATER);
        assert_eq!(server.call(queued, 51), LATER, "a thread is not hung yet");
        // When the source answers, the next call gets it.
        server.finish(BYTES, 60);
        assert_eq!(server.call(BYTES, 61), Ok(vec![1; 4]));
        assert_eq!(server.0.kept, 0);
    }

    #[test]
    fn a_slow_source_is_no_error_however_long_the_queue_is() {
        let mut server = Server::new();
        let all: Vec<Bytes> = (0..128).map(|n| (Id(2), n * 4096, 4096)).collect();
        for bytes in &all {
            assert!(matches!(server.enter(*bytes, 0), Entered::Waits { is_new: true, .. }));
        }
        // One thread, two seconds a read; the client repeats what is not there after 4, 8, 16, 30, 30 s.
        let mut done = 0;
        for second in (0..256).step_by(2) {
            server.begin(all[done], second);
            if [10, 24, 46, 82, 118, 154, 190, 226].contains(&second) {
                for bytes in &all[done..] {
                    assert_eq!(server.call(*bytes, second - 6), LATER, "{second} s");
                }
            }
            server.finish(all[done], second + 2);
            done += 1;
        }
        assert_eq!(done, all.len());
    }

    #[test]
    fn what_nobody_asks_for_any_more_is_not_read() {
        let mut server = Server::new();
        server.enter(BYTES, 0);
        assert!(!server.begin(BYTES, 100) && server.0.reads.is_empty());
    }

    #[test]
    fn what_is_remembered_is_limited() {
        let mut server = Server::new();
        for n in 0..2 * REMEMBERED as u64 {
            let bytes = (Id(2), n << 20, 1 << 20);
            assert_eq!(server.call(bytes, 0), LATER);
            server.begin(bytes, 1);
            server.finish(bytes, 2);
            assert!(server.0.kept <= KEPT && server.0.reads.len() <= REMEMBERED);
        }
        assert_eq!(server.0.reads.len(), KEPT >> 20);
        assert_eq!(server.call((Id(3), 0, 1), 500), LATER);
        server.begin((Id(3), 0, 1), 500);
        server.finish((Id(3), 0, 1), 500);
        server.0.forget(server.1 + 2 * FORGOTTEN);
        assert_eq!((server.0.reads.len(), server.0.kept), (1, 1));
    }

    #[test]
    fn every_call_that_waits_gets_the_answer() {
        let mut server = Server::new();
        let (first, second) = (sync_channel(1), sync_channel(1));
        let now = server.1;
        server.0.enter(BYTES, first.0, now);
        assert!(matches!(server.0.enter(BYTES, second.0, now), Entered::Waits { is_new: false, .. }));
        server.begin(BYTES, 0);
        server.finish(BYTES, 1);
        assert_eq!((first.1.recv(), second.1.recv()), (Ok(Ok(vec![1; 4])), Ok(Ok(vec![1; 4]))));
        assert!(server.0.reads.is_empty());
    }
}
