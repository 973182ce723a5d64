//! What a process gives up once it has started, so that a mistake in the code that reads images and answers clients
//! can do little: it keeps its open files, and what [`Needs`] names.
//!
//! On Linux: no new privileges; no capabilities; no other files, no TCP connections, no signals to other processes
//! (Landlock, as far as the kernel has it); no programs, no processes, no sockets, no mounts, no new namespaces, and no
//! other system call than serving takes (seccomp, on x86-64 and ARM64). A refused call returns an error (EPERM or EACCES): a process
//! that died of it would leave its readers with an error for the whole disk. Elsewhere nothing is given up.
//!
//! All of it holds for a thread and those that it starts. A process that still has something to do that takes
//! privileges (to mount) starts its threads with [`Confine::threads`], and gives its own up with
//! [`Confine::last_thread`] when it is done.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod seccomp;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::{io, panic, thread};

use cdi_base::workers::lock;

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
    /// A program that it has started, which it waits for and sends signals to: its process.
    pub child: Option<u32>,
}

/// What the system enforces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Confined {
    /// The version of Landlock's interface that is used; 0 if the kernel does not have it.
    pub landlock: u32,
    /// Whether system calls are filtered.
    pub seccomp: bool,
    /// Whether there are no capabilities but those that are needed.
    pub capabilities: bool,
}

impl Confined {
    /// Returns what holds for both.
    fn and(self, other: Confined) -> Confined {
        Confined {
            landlock: self.landlock.min(other.landlock),
            seccomp: self.seccomp && other.seccomp,
            capabilities: self.capabilities && other.capabilities,
        }
    }
}

/// Confines threads to what the process needs, or leaves them as they are.
#[derive(Debug, Clone, Default)]
pub struct Confine(Option<Arc<Threads>>);

#[derive(Debug)]
struct Threads {
    needs: Needs,
    /// What holds for all threads that were confined so far.
    held: Mutex<Option<Confined>>,
}

impl Threads {
    fn confine(&self, needs: &Needs) -> Confined {
        let now = confine(needs);
        let mut held = lock(&self.held);
        let all = held.map_or(now, |held| held.and(now));
        *held = Some(all);
        all
    }
}

impl Confine {
    /// Confines threads to `needs`.
    pub fn to(needs: Needs) -> Confine {
        Confine(Some(Arc::new(Threads { needs, held: Mutex::default() })))
    }

    /// Leaves threads as they are.
    pub fn nothing() -> Confine {
        Confine(None)
    }

    /// Returns whether it leaves threads as they are.
    pub fn is_nothing(&self) -> bool {
        self.0.is_none()
    }

    /// Calls `start`. The threads that it starts are confined from their first instruction on; the calling thread is not.
    pub fn threads<T: Send>(&self, start: impl FnOnce() -> T + Send) -> io::Result<T> {
        let Some(threads) = &self.0 else { return Ok(start()) };
        thread::scope(|scope| {
            let confined = move || {
                threads.confine(&threads.needs);
                start()
            };
            let started = thread::Builder::new().name("start".into()).spawn_scoped(scope, confined)?;
            Ok(started.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked)))
        })
    }

    /// Confines the calling thread, the last one of the process that is not, for as long as it lives; it keeps what it
    /// takes to wait for the program that runs as the process `child`. Returns what holds now for all threads: what the
    /// system enforced when they were confined, and what it says now of each. What it cannot enforce is logged, and left
    /// out. None if nothing is confined.
    pub fn last_thread(&self, child: Option<u32>) -> Option<Confined> {
        let threads = self.0.as_ref()?;
        let needs = Needs { child, ..threads.needs.clone() };
        let statuses = statuses();
        let held = threads.confine(&needs);
        Some(statuses(&needs).map_or(held, |now| held.and(now)))
    }

    /// Returns what holds for all threads of the process while the calling one stays as it is. None if nothing is
    /// confined.
    pub fn without_last_thread(&self) -> Option<Confined> {
        let threads = self.0.as_ref()?;
        Some(Confined { landlock: 0, ..statuses()(&threads.needs).unwrap_or_default() })
    }
}

/// Returns a function that looks up what the system says of the threads that this process has now; it may be called by a
/// thread that is confined. None if the system cannot be asked. It says nothing of Landlock.
fn statuses() -> impl FnOnce(&Needs) -> Option<Confined> {
    #[cfg(target_os = "linux")]
    let open =
        linux::Statuses::open().inspect_err(|e| log::info!("cannot look up what threads have given up: {e}"));
    move |needs| {
        #[cfg(target_os = "linux")]
        return open.ok().map(|open| open.read(needs)).map(|(seccomp, capabilities)| Confined {
            landlock: u32::MAX,
            seccomp,
            capabilities,
        });
        #[cfg(not(target_os = "linux"))]
        return Some(needs).and(None);
    }
}

/// Returns what this system would enforce.
pub fn enforceable() -> Confined {
    thread::scope(|scope| {
        let tried = thread::Builder::new().spawn_scoped(scope, || confine(&Needs::default()));
        tried.ok().and_then(|thread| thread.join().ok()).unwrap_or_default()
    })
}

#[cfg(target_os = "linux")]
fn confine(needs: &Needs) -> Confined {
    let capabilities = linux::drop_capabilities(needs);
    let landlock = linux::landlock(needs);
    // Last: it would refuse the others.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    let seccomp = seccomp::filter(needs);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let seccomp = false;
    Confined { landlock, seccomp, capabilities }
}

#[cfg(not(target_os = "linux"))]
fn confine(_: &Needs) -> Confined {
    Confined::default()
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
