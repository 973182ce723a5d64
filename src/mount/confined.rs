//! What a process that serves an image does after its start.

use cdi_serve::served::Served;
use cdi_system::confine::{Confine, Confined, Needs};

use crate::mount::record::Confinement;

/// Returns what reading `disk` takes, besides the files that are open: those of its files that are opened when they are
/// read.
pub fn needs(disk: &Served) -> Needs {
    Needs { read: disk.to_open(), ..Needs::default() }
}

/// Returns what the system enforces for the threads that `confine` confines, tried on one. None if it confines nothing.
pub fn held(confine: &Confine) -> Option<Confinement> {
    let Confined { landlock, seccomp } = confine.threads(|| confine.this_thread()).ok().flatten()?;
    if landlock == 0 || !seccomp {
        log::info!("this system does not enforce everything that the process gives up: see 'cdi doctor'");
    }
    Some(Confinement { landlock, seccomp })
}
