//! What a process that serves an image does after its start.

use cdi_serve::served::Served;
use cdi_system::confine::{Confine, Confined, Needs};

use crate::mount::record::Confinement;

/// Returns what a process that serves `disk` is confined to. `more` adds what it takes besides reading the image. A
/// process that images the disk is not confined.
pub fn confine(disk: &Served, more: impl FnOnce(&mut Needs)) -> Confine {
    if disk.is_live() || !cfg!(target_os = "linux") {
        return Confine::nothing();
    }
    // Those of the image's files that are opened when they are read.
    let mut needs = Needs { read: disk.to_open(), ..Needs::default() };
    if let Some((read, write)) = disk.remote_needs() {
        needs.connects = true;
        needs.read.extend(read);
        needs.write.extend(write);
    }
    more(&mut needs);
    Confine::to(needs)
}

/// Returns what the system enforces for the threads that `confine` confines. None if it confines nothing.
pub fn held(confine: &Confine) -> Option<Confinement> {
    let Confined { landlock, seccomp } = confine.enforced()?;
    if landlock == 0 || !seccomp {
        log::info!("this system does not enforce everything that the process gives up: see 'cdi doctor'");
    }
    Some(Confinement { landlock, seccomp })
}
