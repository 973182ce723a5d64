//! A process that keeps the privileges which a daemon gives up, for the one thing that still takes them: to remove what
//! was made for it, its mount or its socket.
//!
//! It is this program once more, with the same name and arguments. It learns what it is to remove before the daemon is confined;
//! from then on the daemon can only say when. It ends with the daemon.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cdi_base::error::Error;
use cdi_system::ending_signals;
use serde::{Deserialize, Serialize};
use signal_hook::iterator::Signals;

use crate::mount::record::{MountRecord, RUNTIME_DIR, runtime_dir};
use crate::mount::teardown::tear_down_for_daemon;
use crate::report::Report;

/// The environment variable that marks the process, whose stdin is a socket connected to the daemon.
const VARIABLE: &str = "CDI_HELPER";
/// Timeout for it to start.
const STARTING: Duration = Duration::from_secs(20);

/// What it is to remove.
#[derive(Serialize, Deserialize)]
pub enum Job {
    /// A mount, with its device and its record.
    Mount(Box<MountRecord>),
    /// A socket in the file system.
    Socket(PathBuf),
}

/// A request of the daemon, as one byte: to remove it unless it is in use, or in any case.
const UNUSED: u8 = b'u';
const FORCE: u8 = b'f';

/// The answer to a request, as a line of JSON.
#[derive(Default, Serialize, Deserialize)]
struct Answer {
    /// The block device that is left.
    device: Option<PathBuf>,
    error: Option<Report>,
}

/// The helper of this process.
pub struct Helper {
    socket: BufReader<UnixStream>,
    gone: bool,
}

impl Helper {
    /// Starts it.
    pub fn start(job: &Job) -> Result<Helper, Error> {
        let failed = |e: io::Error| Error::failed("cannot start the process that unmounts").because(e);
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        Command::new(std::env::current_exe().map_err(failed)?)
            .arg0(std::env::args_os().next().unwrap_or_default())
            .args(std::env::args_os().skip(1))
            .env(VARIABLE, "1")
            // It may be relative, to another directory.
            .env(RUNTIME_DIR, runtime_dir()?)
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // Ctrl-C is for the daemon.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let mut helper = Helper { socket: BufReader::new(ours), gone: false };
        let mut line = serde_json::to_vec(job).map_err(|e| failed(e.into()))?;
        line.push(b'\n');
        helper.socket.get_ref().set_read_timeout(Some(STARTING)).map_err(failed)?;
        helper.ask(&line).map_err(failed)?;
        helper.socket.get_ref().set_read_timeout(None).map_err(failed)?;
        Ok(helper)
    }

    /// Tears down the mount of the job, as [`crate::mount::teardown::tear_down`] does; `record` is that of the daemon.
    pub fn tear_down(&mut self, record: &mut MountRecord, force: bool) -> Result<(), Error> {
        let answer = self.ask(&[if force { FORCE } else { UNUSED }]).map_err(|e| {
            self.gone = true;
            let error = Error::failed("cannot unmount: the process that does is gone").because(e);
            error.at(&record.mountpoint).hint("'cdi unmount' cleans up")
        })?;
        record.device = answer.device;
        answer.error.map_or(Ok(()), |report| Err(report.into_error()))
    }

    /// Removes the socket of the job.
    pub fn remove_socket(&mut self) {
        // If the helper is gone, so is the socket.
        let _ = self.ask(&[FORCE]);
    }

    /// Returns whether it has ended, so that this process cannot remove anything any more.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    fn ask(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.socket.get_mut().write_all(request)?;
        let mut line = String::new();
        match self.socket.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(serde_json::from_str(&line)?),
        }
    }
}

/// Returns whether this process was started as a helper.
pub fn is_helper() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Removes what the daemon wants to have removed, until the daemon ends. Returns the exit code.
pub fn run() -> u8 {
    match serve() {
        Ok(()) => 0,
        Err(e) => {
            log::error!("the process that unmounts: {e}");
            1
        }
    }
}

fn serve() -> io::Result<()> {
    // A service manager sends them to all processes: the daemon decides what they mean.
    let _caught = Signals::new(ending_signals())?;
    let mut socket = BufReader::new(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?));
    let mut line = String::new();
    if socket.read_line(&mut line)? == 0 {
        return Ok(());
    }
    let mut job: Job = serde_json::from_str(&line)?;
    answer(&mut socket, &Answer::default())?;
    let mut request = [0];
    while socket.read(&mut request)? > 0 {
        let done = match &mut job {
            Job::Mount(record) => {
                let result = tear_down_for_daemon(record, request[0] == FORCE);
                Answer { device: record.device.clone(), error: result.err().map(|e| Report::of(&e)) }
            }
            Job::Socket(path) => {
                remove_socket(path);
                Answer::default()
            }
        };
        answer(&mut socket, &done)?;
    }
    if let Job::Socket(path) = &job {
        // The server was killed.
        remove_socket(path);
    }
    Ok(())
}

fn answer(socket: &mut BufReader<UnixStream>, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    socket.get_mut().write_all(&line)
}

/// Removes a socket, but no other file.
pub fn remove_socket(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        let _ = fs::remove_file(path);
    }
}
