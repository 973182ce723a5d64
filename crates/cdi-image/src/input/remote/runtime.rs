//! The threads that talk to servers. They exist only while remote files are read, and can be stopped: a process must
//! have no other threads when it forks.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cdi_base::workers::lock;
use tokio::runtime::{Builder, Handle, Runtime};

/// The threads that send requests and receive answers.
const WORKERS: usize = 2;
/// The maximum number of threads in which blocks are fetched ahead.
const AHEAD: usize = 32;
/// How long to wait for threads to end, which takes no longer than the longest read.
const END: Duration = Duration::from_secs(90);

static RUNTIME: Mutex<Option<(u64, Runtime)>> = Mutex::new(None);
static STARTED: AtomicU64 = AtomicU64::new(0);

/// Returns the running threads, started if there are none, and the number of this start: what was made under an earlier
/// number is of no use any more.
pub(super) fn running() -> io::Result<(u64, Handle)> {
    let mut runtime = lock(&RUNTIME);
    if let Some((number, running)) = &*runtime {
        return Ok((*number, running.handle().clone()));
    }
    // An error means that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let running = Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(AHEAD)
        .thread_name("remote")
        .enable_all()
        .build()?;
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    let handle = running.handle().clone();
    *runtime = Some((number, running));
    Ok((number, handle))
}

/// Ends all threads that read remote files. The next read starts them again.
pub(in crate::input) fn rest() {
    let running = lock(&RUNTIME).take();
    if let Some((_, runtime)) = running {
        runtime.shutdown_timeout(END);
    }
}
