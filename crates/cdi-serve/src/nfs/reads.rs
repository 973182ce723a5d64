//! Reads with a timeout: a hung source (a disk that spins up, a share that is offline) must not stall other calls of
//! the same client until it considers the server dead. A read that takes longer than [`TIMEOUT`] is answered with "try
//! again later" and continues in the background: when the client tries again, the data is in the cache. A read that the
//! source has not answered for [`PATIENCE`] is an error: macOS's client repeats a call that is to be tried later for
//! ever, if it reads ahead, and whoever waits for it could not be killed.
//!
//! What a client does with these answers is simulated in `tests/nfs/macos_client.rs`.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cdi_base::error::ReadError;
use cdi_base::workers::{self, Pool, lock};
use nix::errno::Errno;

use crate::tree::{Id, Tree};

/// Timeout of a read, from when the call was received: less than a client waits for an answer (`timeo`, ten seconds, of
/// the mount). So calls that are queued after reads wait no longer than that either.
pub const TIMEOUT: Duration = Duration::from_secs(6);
/// How long the source may take for a read, however often the client asks. Three of macOS's repetitions, which it makes
/// 4, 8 and 16 seconds after it was told to (NFS_TRYLATERDEL), begin before that.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// A client that has not repeated a read for this long has given it up. macOS's longest interval is 30 s.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// The maximum number of reads that are remembered because the source has not answered them.
const REMEMBERED: usize = 4096;
/// The maximum number of reads that wait for a thread.
const WAITING: usize = 256;

/// Why there are no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoBytes {
    /// The read failed.
    Error(ReadError),
    /// The read has not finished yet.
    Later,
}

struct Read {
    id: Id,
    offset: u64,
    len: usize,
    /// The channel for the result. When nobody waits for it any more, the read need not be started.
    back: SyncSender<Result<Vec<u8>, ReadError>>,
    wanted: std::sync::Weak<()>,
}

/// Which bytes of which entry: offset and length.
type Bytes = (Id, u64, usize);

/// The reads that the source has not answered in time.
#[derive(Default)]
struct Unanswered(BTreeMap<Bytes, Waiting>);

/// Since when a read is waited for.
struct Waiting {
    since: Instant,
    /// When the client asked last.
    asked: Instant,
}

impl Unanswered {
    /// Notes that a call that was received at `asked` got no answer until `now`. Returns what to tell the client.
    fn note(&mut self, bytes: Bytes, asked: Instant, now: Instant) -> NoBytes {
        if self.0.len() >= REMEMBERED && !self.0.contains_key(&bytes) {
            self.0.retain(|_, read| now - read.asked < FORGOTTEN);
            // Then these are too many for a client of the system; the read is just not remembered.
            if self.0.len() >= REMEMBERED {
                return NoBytes::Later;
            }
        }
        let read = self.0.entry(bytes).or_insert(Waiting { since: asked, asked });
        if asked.saturating_duration_since(read.asked) > FORGOTTEN {
            read.since = asked;
        }
        read.asked = asked.max(read.asked);
        if now - read.since >= PATIENCE {
            NoBytes::Error(ReadError::Io { errno: Errno::ETIMEDOUT as i32 })
        } else {
            NoBytes::Later
        }
    }
}

/// The threads that read for all connections.
pub(super) struct Reads {
    pool: Pool<Read>,
    unanswered: Arc<Mutex<Unanswered>>,
}

impl Reads {
    /// Starts the threads. They end when this is dropped.
    pub(super) fn start(tree: &Arc<Tree>) -> io::Result<Reads> {
        let unanswered = Arc::new(Mutex::new(Unanswered::default()));
        let pool = Pool::start("nfs-read", workers::cores().clamp(4, 16), WAITING, || {
            let (tree, unanswered) = (Arc::clone(tree), Arc::clone(&unanswered));
            move |read: Read| {
                if read.wanted.strong_count() > 0 {
                    let _ = read.back.send(tree.read(read.id, read.offset, read.len));
                    // Also an answer that comes too late for the call ends the waiting.
                    lock(&unanswered).0.remove(&(read.id, read.offset, read.len));
                }
            }
        })?;
        Ok(Reads { pool, unanswered })
    }

    /// Reads bytes of an entry for a call that was received at `since`.
    pub(super) fn read(&self, id: Id, offset: u64, len: usize, since: Instant) -> Result<Vec<u8>, NoBytes> {
        let timeout = TIMEOUT.saturating_sub(since.elapsed());
        let wanted = Arc::new(());
        let (back, answer) = sync_channel(1);
        let sent = self.pool.try_send(Read { id, offset, len, back, wanted: Arc::downgrade(&wanted) });
        match sent.ok().and_then(|()| answer.recv_timeout(timeout).ok()) {
            Some(read) => read.map_err(NoBytes::Error),
            None => Err(lock(&self.unanswered).note((id, offset, len), since, Instant::now())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: Bytes = (Id(2), 4096, 4096);

    /// Notes a call that was received `asked` seconds after `start`, at its timeout.
    fn tell(reads: &mut Unanswered, start: Instant, asked: u64) -> NoBytes {
        let asked = start + Duration::from_secs(asked);
        reads.note(BYTES, asked, asked + TIMEOUT)
    }

    fn is_error(told: NoBytes) -> bool {
        matches!(told, NoBytes::Error(ReadError::Io { .. }))
    }

    #[test]
    fn a_source_that_never_answers_is_an_error_after_half_a_minute() {
        let (mut reads, start) = (Unanswered::default(), Instant::now());
        // As macOS's client repeats it.
        let told: Vec<bool> = [0, 10, 24, 46].map(|at| is_error(tell(&mut reads, start, at))).to_vec();
        assert_eq!(told, [false, false, true, true]);
        // A client that gave up and comes back much later gets the same time again.
        assert!(!is_error(tell(&mut reads, start, 1000)));
        assert!(is_error(tell(&mut reads, start, 1024)));
        // An answer ends the waiting.
        reads.0.remove(&BYTES);
        assert!(!is_error(tell(&mut reads, start, 1030)));
    }

    #[test]
    fn what_is_remembered_is_limited() {
        let (mut reads, start) = (Unanswered::default(), Instant::now());
        for n in 0..2 * REMEMBERED as u64 {
            assert_eq!(reads.note((Id(2), n, 1), start, start + TIMEOUT), NoBytes::Later);
        }
        assert_eq!(reads.0.len(), REMEMBERED);
        let later = start + 2 * FORGOTTEN;
        reads.note((Id(3), 0, 1), later, later + TIMEOUT);
        assert_eq!(reads.0.len(), 1);
    }
}
