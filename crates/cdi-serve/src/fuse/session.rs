//! A session of fuser: the mount, and the threads that receive its requests.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use std::{io, thread};

use cdi_base::error::Error;
use cdi_system::confine::Confine;
use cdi_system::mounted_at;
use fuser::{Config, Session};

use super::FuseFs;
use crate::transport::Serving;

/// Timeout for macFUSE to mount, and how often to check whether it has.
const MOUNTING: Duration = Duration::from_secs(20);
const MOUNTING_POLL: Duration = Duration::from_millis(50);

/// A mounted directory, and its result when it is no longer mounted.
pub(super) struct Running {
    end: Receiver<io::Result<()>>,
}

impl Serving for Running {
    fn wait(self: Box<Self>) -> Result<(), Error> {
        match self.end.recv() {
            Ok(Ok(())) | Err(_) => Ok(()),
            Ok(Err(e)) if is_aborted(&e) => Ok(()),
            Ok(Err(e)) => Err(Error::failed("the FUSE session ended with an error").because(e)),
        }
    }
}

/// Returns whether the connection was aborted, as by a forced unmount.
fn is_aborted(e: &io::Error) -> bool {
    e.raw_os_error() == Some(nix::errno::Errno::ECONNABORTED as i32)
}

/// Mounts, and serves on fuser's threads. Returns when it is mounted.
pub(super) fn mount(
    filesystem: FuseFs,
    dir: &Path,
    config: &Config,
    confine: &Confine,
) -> io::Result<Running> {
    let session = Session::new(filesystem, dir, config)?;
    let end = confine.threads(|| serve(session)).flatten()?;
    // Linux has mounted it by now. macFUSE mounts when the session answers, which only the list of mounts shows.
    if !cfg!(target_os = "linux") {
        let start = Instant::now();
        while !mounted_at(dir).is_ok_and(|m| m.is_some_and(|m| m.is_cdi_mount())) {
            match end.recv_timeout(MOUNTING_POLL) {
                Ok(result) => {
                    return Err(result
                        .err()
                        .unwrap_or_else(|| io::Error::other("macFUSE ended without mounting")));
                }
                Err(RecvTimeoutError::Timeout) if start.elapsed() < MOUNTING => {}
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }
    Ok(Running { end })
}

/// Starts fuser's threads. The receiver gets the result when the session ends.
fn serve(session: Session<FuseFs>) -> io::Result<Receiver<io::Result<()>>> {
    let session = session.spawn()?;
    // fuser 0.18.0 unmounts the path once more when the session is dropped, which would unmount another file system
    // below if ours is already unmounted. So the session is not dropped: it ends with the process.
    let (ended, end) = channel();
    let keeper = move || {
        // Moves the whole session, not only the part that is used below: the rest would be dropped, and unmount.
        let session = session;
        let result = session.guard.join().unwrap_or_else(|_| Err(io::Error::other("a FUSE thread panicked")));
        // Threads that could not be started, because there are too many or too many open files. Those that the mount has
        // kept waiting get an error once the device is closed.
        let is_dead = result.as_ref().is_err_and(|e| e.raw_os_error().is_some() && !is_aborted(e));
        let _ = ended.send(result);
        if is_dead {
            return;
        }
        loop {
            thread::park();
        }
    };
    thread::Builder::new().name("fuse-session".into()).spawn(keeper)?;
    Ok(end)
}
