//! Reads with an end: a source that hangs (a disk that spins up, a share that is away) must not hold up a client's other
//! calls until it takes the server for dead. What takes longer than [`TIMEOUT`] is answered with "try again later", and
//! goes on meanwhile: who asks again finds it in the cache.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use cdi_base::error::ReadError;
use cdi_base::workers::{self, Pool};

use crate::tree::{Id, Tree};

/// How long a read may take from when it was asked for: less than a client waits for an answer (`timeo`, ten seconds). So
/// whatever waits behind reads waits no longer than that either.
const TIMEOUT: Duration = Duration::from_secs(6);
/// How many reads wait for a thread.
const WAITING: usize = 256;

/// Why there are no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoBytes {
    /// The disk has none.
    Error(ReadError),
    /// Not yet.
    Later,
}

struct Read {
    id: Id,
    offset: u64,
    len: usize,
    /// Who waits for it. Once nobody does, it need not be begun.
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

    /// The bytes of an entry, which were asked for at `since`.
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
