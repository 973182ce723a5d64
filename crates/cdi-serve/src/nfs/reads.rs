//! Reads with a timeout: a hung source (a disk that spins up, a share that is offline) must not stall other calls of
//! the same client until it considers the server dead. A read that takes longer than [`TIMEOUT`] is answered with "try
//! again later" and continues in the background: when the client tries again, the data is in the cache.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use cdi_base::error::ReadError;
use cdi_base::workers::{self, Pool};

use crate::tree::{Id, Tree};

/// Timeout of a read, from when the call was received: less than a client waits for an answer (`timeo`, ten seconds).
/// So calls that are queued after reads wait no longer than that either.
const TIMEOUT: Duration = Duration::from_secs(6);
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

/// The threads that read for all connections.
pub(super) struct Reads(Pool<Read>);

impl Reads {
    /// Starts the threads. They end when this is dropped.
    pub(super) fn start(tree: &Arc<Tree>) -> io::Result<Reads> {
        Pool::start("nfs-read", workers::cores().clamp(4, 16), WAITING, || {
            let tree = Arc::clone(tree);
            move |read: Read| {
                if read.wanted.strong_count() > 0 {
                    let _ = read.back.send(tree.read(read.id, read.offset, read.len));
                }
            }
        })
        .map(Reads)
    }

    /// Reads bytes of an entry for a call that was received at `since`.
    pub(super) fn read(&self, id: Id, offset: u64, len: usize, since: Instant) -> Result<Vec<u8>, NoBytes> {
        let timeout = TIMEOUT.saturating_sub(since.elapsed());
        let wanted = Arc::new(());
        let (back, answer) = sync_channel(1);
        match self.0.try_send(Read { id, offset, len, back, wanted: Arc::downgrade(&wanted) }) {
            Ok(()) => answer.recv_timeout(timeout).map_err(|_| NoBytes::Later)?.map_err(NoBytes::Error),
            Err(_) => Err(NoBytes::Later),
        }
    }
}
