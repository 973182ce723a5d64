//! What a process gives up once it has started, so that a mistake in the code that reads images and answers clients
//! can do little: it keeps its open files, and what [`Needs`] names.
//!
//! On Linux: no new privileges; no capabilities; no other files, no TCP connections, no signals to other processes
//! (Landlock, as far as the kernel has it); no programs, no sockets, no mounts, no new namespaces, and no other system
//! call than serving takes (seccomp, on x86-64 and ARM64). A refused call returns an error (EPERM or EACCES): a process
//! that died of it would leave its readers with an error for the whole disk. Elsewhere nothing is given up.
//!
//! All of it holds for a thread and those that it starts. A process that still has something to do that takes
//! privileges (to mount) starts its threads with [`Confine::threads`], and gives its own up with
//! [`Confine::this_thread`] when it is done.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod seccomp;

use std::path::PathBuf;
use std::{io, panic, thread};

/// What a process does after its start, besides using the files and sockets that are open.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// Files that it opens to read them, and directories whose files it does. What is not there is left out.
    pub read: Vec<PathBuf>,
    /// Directories in which it writes, creates, renames and removes files.
    pub write: Vec<PathBuf>,
    /// Devices that it opens for reading and writing, and sends ioctls to.
    pub devices: Vec<PathBuf>,
    /// Whether it connects to other machines.
    pub connects: bool,
    /// Whether it waits for a program that it has started, and sends signals to it.
    pub child: bool,
}

/// What the system enforces for a thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Confined {
    /// The version of Landlock's interface that is used; 0 if the kernel does not have it.
    pub landlock: u32,
    /// Whether system calls are filtered.
    pub seccomp: bool,
}

/// Confines threads to what the process needs, or leaves them as they are.
#[derive(Debug, Clone, Default)]
pub struct Confine(Option<Needs>);

impl Confine {
    /// Confines threads to `needs`.
    pub fn to(needs: Needs) -> Confine {
        Confine(Some(needs))
    }

    /// Leaves threads as they are.
    pub fn nothing() -> Confine {
        Confine(None)
    }

    /// Returns what the system enforces for a thread that is confined, tried on one. None if nothing is confined.
    pub fn enforced(&self) -> Option<Confined> {
        thread::scope(|scope| {
            let tried = thread::Builder::new().spawn_scoped(scope, || self.this_thread());
            tried.ok().and_then(|thread| thread.join().ok()).flatten()
        })
    }

    /// Calls `start`. The threads that it starts are confined from their first instruction on; the calling thread is not.
    pub fn threads<T: Send>(&self, start: impl FnOnce() -> T + Send) -> io::Result<T> {
        let Some(needs) = &self.0 else { return Ok(start()) };
        thread::scope(|scope| {
            let confined = move || {
                confine(needs);
                start()
            };
            let started = thread::Builder::new().name("start".into()).spawn_scoped(scope, confined)?;
            Ok(started.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked)))
        })
    }

    /// Confines the calling thread, for as long as it lives. Returns what holds now: what the system cannot enforce is
    /// logged, and left out. None if nothing is confined.
    pub fn this_thread(&self) -> Option<Confined> {
        self.0.as_ref().map(confine)
    }
}

/// Returns what this system would enforce.
pub fn enforceable() -> Confined {
    Confine::to(Needs::default()).enforced().unwrap_or_default()
}

#[cfg(target_os = "linux")]
fn confine(needs: &Needs) -> Confined {
    linux::drop_capabilities(needs);
    let landlock = linux::landlock(needs);
    // Last: it would refuse the others.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    let seccomp = seccomp::filter(needs);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let seccomp = false;
    Confined { landlock, seccomp }
}

#[cfg(not(target_os = "linux"))]
fn confine(_: &Needs) -> Confined {
    Confined::default()
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
