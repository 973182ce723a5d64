//! The threads that talk to servers. They exist only while remote files are read, and can be stopped: a process must
//! have no other threads when it forks.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

/// The threads that send requests and receive answers.
const WORKERS: usize = 2;
/// The maximum number of threads in which blocks are fetched ahead.
const AHEAD: usize = 32;
/// How long to wait for threads to end, which takes no longer than the longest read.
const END: Duration = Duration::from_secs(90);

static RUNTIME: RwLock<Option<(u64, Runtime)>> = RwLock::new(None);
static STARTED: AtomicU64 = AtomicU64::new(0);
/// Whether the threads are being ended.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Which threads do something.
#[derive(Debug, Clone, Copy)]
pub(super) enum Threads {
    /// Those that are running, or new ones.
    Any,
    /// Those of this start, and no others.
    Of(u64),
}

/// Calls `work` with the running threads, which go on until it returns, and with the number of their start: what was made
/// under an earlier number is of no use any more.
pub(super) fn with<T>(which: Threads, work: impl FnOnce(u64, &Handle) -> T) -> io::Result<T> {
    loop {
        let running = RUNTIME.read().unwrap_or_else(PoisonError::into_inner);
        match (&*running, which) {
            (Some((number, _)), Threads::Of(wanted)) if *number != wanted => {}
            (Some((number, runtime)), _) => return Ok(work(*number, runtime.handle())),
            (None, _) => {}
        }
        drop(running);
        if let Threads::Of(_) = which {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if ENDING.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        let mut running = RUNTIME.write().unwrap_or_else(PoisonError::into_inner);
        if running.is_none() {
            *running = Some((STARTED.fetch_add(1, Ordering::Relaxed), start()?));
        }
    }
}

fn start() -> io::Result<Runtime> {
    // An error means that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(WORKERS).max_blocking_threads(AHEAD).thread_name("remote").enable_all().build()
}

/// Ends all threads that read remote files, after what they are reading. The next read starts them again.
pub(in crate::input) fn rest() {
    ENDING.store(true, Ordering::SeqCst);
    let running = RUNTIME.write().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((_, runtime)) = running {
        runtime.shutdown_timeout(END);
    }
    ENDING.store(false, Ordering::SeqCst);
}
