//! The published state of a running service: a file that is rewritten at every change, next to a lock file that shows
//! whether the service is alive.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use cdi_base::error::{Error, Kind};
use cdi_system::liveness_lock;
use cdi_system::output_file::replace;
use serde::{Deserialize, Serialize};

use crate::mount::record::{path_text, runtime_dir};

/// The phase of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The image does not exist; it is started when it appears.
    Waiting,
    /// It is being mounted or attached.
    Starting,
    /// It is mounted or attached.
    Up,
    /// It could not be started, or its process ended; it is tried again.
    Failed,
    /// It was detached manually, and stays so until the configuration is read again.
    Detached,
    /// It is being detached or unmounted.
    Stopping,
}

impl Phase {
    /// Returns its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Waiting => "waiting",
            Phase::Starting => "starting",
            Phase::Up => "up",
            Phase::Failed => "failed",
            Phase::Detached => "detached",
            Phase::Stopping => "stopping",
        }
    }
}

/// An image of the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageState {
    /// The path of the image.
    #[serde(with = "path_text")]
    pub image: PathBuf,
    /// Its phase.
    pub phase: Phase,
    /// The reason why it is not up.
    pub why: Option<String>,
    /// The process that serves it.
    pub pid: Option<i32>,
    /// The mount point.
    pub mountpoint: Option<String>,
    /// The block device.
    pub device: Option<String>,
    /// The number of failures since it was last up.
    pub failures: u32,
    /// Whether it was already up when the service started.
    pub taken_over: bool,
}

/// A running service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Its process.
    pub pid: i32,
    /// The path of its configuration.
    #[serde(with = "path_text")]
    pub config: PathBuf,
    /// The reason why the current configuration file is not used.
    pub config_error: Option<String>,
    /// Its images.
    pub images: Vec<ImageState>,
}

fn path(suffix: &str) -> Result<PathBuf, Error> {
    // Not .json, which is the extension of records.
    Ok(runtime_dir()?.join(format!("service.{suffix}")))
}

/// Takes the lock which shows that the service is running. It is held until the file is closed. Removes the state of an
/// earlier service, whose pid may have been reused.
pub fn lock() -> Result<File, Error> {
    let lock = liveness_lock::take(&path("lock")?)?;
    let lock = lock.ok_or_else(|| {
        Error::new(Kind::Busy, "the service is already running").hint("'cdi service status' shows its state")
    })?;
    State::remove();
    Ok(lock)
}

impl State {
    /// Writes the state atomically.
    pub fn save(&self) -> Result<(), Error> {
        let path = path("state")?;
        let text = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::failed("cannot write the service's state").because(e))?;
        replace(&path, &text)
    }

    /// Returns the state of the running service, if there is one.
    pub fn read() -> Result<Option<State>, Error> {
        if !liveness_lock::is_held(&path("lock")?) {
            return Ok(None);
        }
        let path = path("state")?;
        let text = match fs::read(&path) {
            Ok(text) => text,
            // The service is just starting or just ending.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("cannot read", &path, e)),
        };
        let read = |text: &[u8], path: &Path| {
            serde_json::from_slice(text)
                .map_err(|e| Error::failed("not a service state file").at(path).because(e))
        };
        read(&text, &path).map(Some)
    }

    /// Removes the state, because the service has ended. (The lock file stays: a process that waits for it has it
    /// open.)
    pub fn remove() {
        let _ = path("state").map(fs::remove_file);
    }
}
