//! A mount that is maintained by the system or by an extension. Its state is only known from the system's list of
//! mounts.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use cdi_base::error::Error;
use cdi_system::confine::Needs;
use cdi_system::{MOUNTS, MountInfo, mounted_at, mountinfo};

use super::transport::Serving;

/// How often to check whether the mount still exists: with a channel that reports most unmounts, and without one.
const POLL: Duration = Duration::from_secs(30);
const POLL_UNNOTIFIED: Duration = Duration::from_secs(10);

/// Adds what it takes to list the mounts.
pub(super) fn needs(needs: &mut Needs) {
    needs.read.push(MOUNTS.into());
}

/// A mount at a directory.
pub(super) struct Mounted {
    mount: MountInfo,
    may_be_gone: Option<Receiver<()>>,
}

impl Mounted {
    /// Returns the mount that was just made at `dir`. A message on `may_be_gone` says that it is worth checking.
    pub(super) fn new(dir: &Path, may_be_gone: Option<Receiver<()>>) -> Result<Mounted, Error> {
        let mount = mounted_at(dir)?.filter(MountInfo::is_cdi_mount).ok_or_else(|| {
            Error::failed("mounting succeeded, but the system does not list the mount").at(dir)
        })?;
        Ok(Mounted { mount, may_be_gone })
    }
}

impl Serving for Mounted {
    fn wait(mut self: Box<Self>) -> Result<(), Error> {
        loop {
            let notified = self.may_be_gone.as_ref().map(|hint| hint.recv_timeout(POLL));
            match notified {
                // A client unmounts, or closes its connection, a moment before the mount is gone.
                Some(Ok(())) => thread::sleep(Duration::from_millis(100)),
                Some(Err(RecvTimeoutError::Timeout)) => {}
                Some(Err(RecvTimeoutError::Disconnected)) => self.may_be_gone = None,
                None => thread::sleep(POLL_UNNOTIFIED),
            }
            // It is gone when it is no longer listed. A mount on top of it means nothing, and if the mounts cannot be
            // listed, it counts as mounted.
            match mountinfo() {
                Ok(mounts) if !mounts.contains(&self.mount) => return Ok(()),
                Ok(_) => {}
                Err(e) => log::warn!("{e}"),
            }
        }
    }
}
