//! A mount that somebody else keeps, the system or an extension of it: what is known of it is what the system lists.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use cdi_base::error::Error;
use cdi_system::{MountInfo, mounted_at, mountinfo};

use super::transport::Serving;

/// How often it is looked whether the mount is still there: where something tells of most of its ends, and where nothing
/// does.
const LOOK: Duration = Duration::from_secs(30);
const LOOK_UNTOLD: Duration = Duration::from_secs(10);

/// A mount at a folder.
pub(super) struct Mounted {
    mount: MountInfo,
    may_be_gone: Option<Receiver<()>>,
}

impl Mounted {
    /// What was just mounted at `dir`. `may_be_gone` is told when it is worth looking.
    pub(super) fn new(dir: &Path, may_be_gone: Option<Receiver<()>>) -> Result<Mounted, Error> {
        let mount = mounted_at(dir)?.filter(MountInfo::is_ours).ok_or_else(|| {
            Error::failed("the system says that it mounted it, but does not list it").at(dir)
        })?;
        Ok(Mounted { mount, may_be_gone })
    }
}

impl Serving for Mounted {
    fn wait(mut self: Box<Self>) -> Result<(), Error> {
        loop {
            let told = self.may_be_gone.as_ref().map(|hint| hint.recv_timeout(LOOK));
            match told {
                // A client says goodbye, or ends its connection, a moment before the mount is gone.
                Some(Ok(())) => thread::sleep(Duration::from_millis(100)),
                Some(Err(RecvTimeoutError::Timeout)) => {}
                Some(Err(RecvTimeoutError::Disconnected)) => self.may_be_gone = None,
                None => thread::sleep(LOOK_UNTOLD),
            }
            // It is gone when it is no longer listed. That something is listed above it means nothing; and if nobody can say
            // what is mounted, it stays.
            match mountinfo() {
                Ok(mounts) if !mounts.contains(&self.mount) => return Ok(()),
                Ok(_) => {}
                Err(e) => log::warn!("{e}"),
            }
        }
    }
}
