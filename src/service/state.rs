//! What a running service tells of itself: a file, written whole at every change, beside a lock that says it is alive.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use cdi_base::error::{Error, Kind};
use cdi_system::liveness_lock;
use cdi_system::output_file::replace;
use serde::{Deserialize, Serialize};

use crate::mount::record::{path_text, runtime_dir};

/// How it stands with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The image is not there; it is taken when it comes.
    Waiting,
    /// It is being brought up.
    Starting,
    /// It is shown.
    Up,
    /// It could not be brought up, or came down; it is tried again.
    Failed,
    /// Somebody took it away by hand, and it stays away until the configuration is read again.
    Detached,
    /// It is being taken away.
    Stopping,
}

impl Phase {
    /// Its name, as in JSON.
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
    /// The image.
    #[serde(with = "path_text")]
    pub image: PathBuf,
    /// How it stands with it.
    pub phase: Phase,
    /// Why it is not up.
    pub why: Option<String>,
    /// The process that shows it.
    pub pid: Option<i32>,
    /// Where it is mounted.
    pub mountpoint: Option<String>,
    /// The block device.
    pub device: Option<String>,
    /// How often it failed since it was last up.
    pub failures: u32,
    /// Whether it was up already when the service started.
    pub taken_over: bool,
}

/// A running service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Its process.
    pub pid: i32,
    /// Its configuration.
    #[serde(with = "path_text")]
    pub config: PathBuf,
    /// Why the configuration that is there now is not used.
    pub config_error: Option<String>,
    /// Its images.
    pub images: Vec<ImageState>,
}

fn path(suffix: &str) -> Result<PathBuf, Error> {
    // Not .json: that is what records are called.
    Ok(runtime_dir()?.join(format!("service.{suffix}")))
}

/// Takes the lock that says that the service runs. It holds until the file is closed. What an earlier service told is
/// gone then: its process may be somebody else's by now.
pub fn lock() -> Result<File, Error> {
    let lock = liveness_lock::take(&path("lock")?)?;
    let lock = lock.ok_or_else(|| {
        Error::new(Kind::Busy, "the service runs already").hint("'cdi service status' shows what it does")
    })?;
    State::remove();
    Ok(lock)
}

impl State {
    /// Writes it, whole or not at all.
    pub fn save(&self) -> Result<(), Error> {
        let path = path("state")?;
        let text = serde_json::to_vec_pretty(self).map_err(|e| Error::failed("no JSON").because(e))?;
        replace(&path, &text)
    }

    /// That of the service that runs, if one does.
    pub fn read() -> Result<Option<State>, Error> {
        if !liveness_lock::is_held(&path("lock")?) {
            return Ok(None);
        }
        let path = path("state")?;
        let text = match fs::read(&path) {
            Ok(text) => text,
            // It is just beginning, or just ending.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("cannot be read", &path, e)),
        };
        let read = |text: &[u8], path: &Path| {
            serde_json::from_slice(text).map_err(|e| Error::failed("is not a service's").at(path).because(e))
        };
        read(&text, &path).map(Some)
    }

    /// Removes it: the service has ended. (Not the lock: whoever waits for it has it open.)
    pub fn remove() {
        let _ = path("state").map(fs::remove_file);
    }
}
