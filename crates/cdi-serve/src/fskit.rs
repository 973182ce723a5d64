//! FSKit, macOS's interface for file systems in user space: mounts with our extension (fskit-ext) through mount(8). The
//! extension opens the image itself, in a process started by the system, and serves the same directory; so nothing is
//! served here.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use cdi_base::advice::Advice;
use cdi_base::error::Error;
use cdi_system::confine::Needs;
use cdi_system::{FSKIT_TYPE, ask};

use super::mounted::Mounted;
use super::transport::{Place, Serving, Transport};
use super::tree::Tree;

/// FSKit.
pub struct Fskit;

/// Timeout for mounting: the system starts a process, which opens the image.
const MOUNTING: Duration = Duration::from_secs(60);

impl Transport for Fskit {
    fn name(&self) -> &'static str {
        "fskit"
    }

    fn serves_itself(&self) -> bool {
        false
    }

    fn needs(&self, needs: &mut Needs) {
        super::mounted::needs(needs);
    }

    fn serve(&self, _: Arc<Tree>, place: &Place<'_>) -> Result<Box<dyn Serving>, Error> {
        if cfg!(target_os = "macos") && nix::unistd::geteuid().is_root() {
            let error = Error::usage("FSKit extensions are enabled per user, and not for root");
            return Err(error.hint("mount without sudo"));
        }
        let mut mount = Command::new("mount");
        // Without rdonly it requests write access, and the Finder would try to write.
        let options = if place.desktop.show { "rdonly" } else { "rdonly,nobrowse" };
        mount.args(["-F", "-o", options, "-t", FSKIT_TYPE]).arg(place.image).arg(place.dir);
        ask(&mut mount, MOUNTING, "it is a part of macOS").map_err(|e| {
            e.at(place.dir)
                .hint("the FSKit extension must be installed and switched on")
                .then(Advice::CheckSystem)
        })?;
        Ok(Box::new(Mounted::new(place.dir, None)?))
    }
}
