//! What a process that serves an image does after its start.

use cdi_base::error::Error;
use cdi_serve::served::Served;
use cdi_system::confine::{Confine, Confined, Needs};

use crate::mount::inherited::close_inherited;
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

/// Confines the calling thread, the last one of the process that is not; it keeps what it takes to wait for the program
/// that runs as the process `child`. If `helper` could not be started, which does for this process what a confined one
/// cannot, the thread stays as it is. Returns what holds now for all threads, None if nothing is to be confined; and what
/// the user is to be warned of.
pub fn conclude(
    confine: &Confine,
    helper: Result<(), &Error>,
    child: Option<u32>,
) -> (Option<Confinement>, Option<String>) {
    close_inherited();
    // This thread has started threads that read a remote image; those that a confined thread starts are confined.
    cdi_image::input::rest();
    let held = match helper {
        Ok(()) => confine.last_thread(child),
        Err(_) => confine.without_last_thread(),
    };
    let Some(Confined { landlock, seccomp, capabilities }) = held else { return (None, None) };
    let warning = match helper {
        Err(e) => Some(format!("the process that serves the disk keeps its privileges: {e}")),
        Ok(()) if !capabilities => Some(
            "the process that serves the disk keeps its capabilities: the system refuses to take them"
                .to_owned(),
        ),
        Ok(()) => None,
    };
    if warning.is_none() && (landlock == 0 || !seccomp) {
        log::info!("this system does not enforce everything that the process gives up: see 'cdi doctor'");
    }
    (Some(Confinement { landlock, seccomp, capabilities }), warning)
}
