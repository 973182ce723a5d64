//! macOS's own way to a file system in user space: our extension (fskit-ext), asked for by mount(8). It opens the image
//! itself, in a process of the system's, and shows the same folder; so nothing is served here.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use cdi_base::advice::Advice;
use cdi_base::error::Error;
use cdi_system::{FSKIT_TYPE, ask};

use super::mounted::Mounted;
use super::transport::{Place, Serving, Transport};
use super::tree::Tree;

/// FSKit.
pub struct Fskit;

/// How long the system may take: it starts a process, which opens the image.
const MOUNTING: Duration = Duration::from_secs(60);

impl Transport for Fskit {
    fn name(&self) -> &'static str {
        "fskit"
    }

    fn serves_itself(&self) -> bool {
        false
    }

    fn serve(&self, _: Arc<Tree>, place: &Place<'_>) -> Result<Box<dyn Serving>, Error> {
        if cfg!(target_os = "macos") && nix::unistd::geteuid().is_root() {
            let error =
                Error::usage("the extension is switched on for each user by himself, and not for root");
            return Err(error.hint("mount without sudo"));
        }
        let mut mount = Command::new("mount");
        // Unless told otherwise it asks for the right to write, and the desktop would try to.
        mount.args(["-F", "-o", "rdonly,nobrowse", "-t", FSKIT_TYPE]).arg(place.image).arg(place.dir);
        ask(&mut mount, MOUNTING, "it is a part of macOS").map_err(|e| {
            e.at(place.dir).hint("the extension must be installed and switched on").then(Advice::CheckSystem)
        })?;
        Ok(Box::new(Mounted::new(place.dir, None)?))
    }
}
