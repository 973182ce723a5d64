//! A process that keeps the privileges which a daemon gives up, for the one thing that still takes them: to remove what
//! was made for it, its mount or its socket.
//!
//! It is this program once more. It learns what it is to remove before the daemon reads the image for somebody; from then
//! on the daemon can only say when. It does that once, and ends with the daemon.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use cdi_base::error::Error;
use cdi_system::ending_signals;
use nix::unistd::getppid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use signal_hook::consts::SIGUSR1;
use signal_hook::iterator::Signals;

use crate::mount::inherited::close_inherited;
use crate::mount::record::{Confinement, MountRecord, RUNTIME_DIR, path_text, runtime_dir};
use crate::mount::teardown::tear_down_for_daemon;
use crate::report::Report;

/// The first argument of the process, whose stdin is a socket connected to the daemon. The others are those of the
/// daemon, for people who list processes.
const MARK: &str = "[helper]";
/// Timeout for it to start.
const STARTING: Duration = Duration::from_secs(20);
/// The maximum length of a request in bytes.
const MAX_REQUEST: u64 = 16 << 20;

/// What it is to do: the first line that it gets, as JSON.
#[derive(Serialize, Deserialize)]
struct Start {
    job: Job,
    /// The process that it does it for.
    daemon: i32,
    /// How much is logged: the number of `--verbose`.
    verbose: u8,
}

/// What it is to remove.
#[derive(Serialize, Deserialize)]
pub enum Job {
    /// A mount, with its device and its record.
    Mount(Box<MountRecord>),
    /// A socket in the file system.
    Socket(#[serde(with = "path_text")] PathBuf),
}

/// A request of the daemon, as a line of JSON.
#[derive(Serialize, Deserialize)]
enum Request {
    /// To note in the record what holds for the daemon's threads, which can write no more.
    Note(Option<Confinement>),
    /// To remove it, if it is not in use or in any case.
    Remove { force: bool },
}

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
    /// Starts it, from the main thread: it ends with the thread that has started it.
    pub fn start(job: Job) -> Result<Helper, Error> {
        let failed = |e: io::Error| Error::failed("cannot start the process that cleans up").because(e);
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let mut command = Command::new(cdi_system::own_program().map_err(failed)?);
        if let Job::Mount(_) = job {
            // It may be relative, to another directory.
            command.env(RUNTIME_DIR, runtime_dir()?);
        }
        command
            .arg(MARK)
            .args(std::env::args_os().skip(1))
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // Ctrl-C is for the daemon.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        // With its end of the socket: if it ends at once, this is not waited for.
        drop(command);
        let mut helper = Helper { socket: BufReader::new(ours), gone: false };
        let verbose = match log::max_level() {
            log::LevelFilter::Debug | log::LevelFilter::Trace => 2,
            log::LevelFilter::Info => 1,
            _ => 0,
        };
        let start = Start { job, daemon: std::process::id().cast_signed(), verbose };
        helper.socket.get_ref().set_read_timeout(Some(STARTING)).map_err(failed)?;
        helper.ask(&start).map_err(failed)?;
        helper.socket.get_ref().set_read_timeout(None).map_err(failed)?;
        Ok(helper)
    }

    /// Enters into the record what holds for the threads of this process.
    pub fn note(&mut self, confined: Option<Confinement>) -> Result<(), Error> {
        let failed = |e: io::Error| Error::failed("cannot update the record of the mount").because(e);
        let answer = self.ask(&Request::Note(confined)).map_err(failed)?;
        answer.error.map_or(Ok(()), |report| Err(report.into_error()))
    }

    /// Tears down the mount of the job, as [`crate::mount::teardown::tear_down`] does; `record` is that of the daemon.
    pub fn tear_down(&mut self, record: &mut MountRecord, force: bool) -> Result<(), Error> {
        let answer = self.ask(&Request::Remove { force }).map_err(|e| {
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
        let _ = self.ask(&Request::Remove { force: true });
    }

    /// Returns whether it has ended, so that this process cannot remove anything any more.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    fn ask(&mut self, request: &impl Serialize) -> io::Result<Answer> {
        send(self.socket.get_mut(), request)?;
        let mut line = String::new();
        match self.socket.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(serde_json::from_str(&line)?),
        }
    }
}

/// Sends a line of JSON.
fn send(mut socket: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    socket.write_all(&line)
}

/// Receives a line of JSON. None if the other end is gone.
fn receive<T: DeserializeOwned>(socket: &mut BufReader<UnixStream>) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    match socket.take(MAX_REQUEST).read_until(b'\n', &mut line)? {
        0 => Ok(None),
        _ => Ok(Some(serde_json::from_slice(&line)?)),
    }
}

/// Returns whether this process was started as a helper.
pub fn is_helper() -> bool {
    std::env::args_os().nth(1).is_some_and(|first| first == MARK)
}

/// Removes what the daemon wants to have removed, once, or waits until the daemon ends. `start_log` starts the log, given
/// the number of `--verbose`. Returns the exit code.
pub fn run(start_log: impl FnOnce(u8)) -> u8 {
    close_inherited();
    match serve(start_log) {
        Ok(()) => 0,
        Err(e) => {
            log::error!("the process that cleans up: {e}");
            1
        }
    }
}

fn serve(start_log: impl FnOnce(u8)) -> io::Result<()> {
    // A service manager sends them to all processes: the daemon decides what they mean. SIGUSR1 says that it has ended.
    let mut signals = Signals::new(ending_signals().into_iter().chain([SIGUSR1]))?;
    let mut socket = BufReader::new(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?));
    let Some(Start { mut job, daemon, verbose }) = receive(&mut socket)? else { return Ok(()) };
    start_log(verbose);
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGUSR1)?;
    // Another process may have the daemon's end of the socket, and speak for it.
    let is_orphaned = move || getppid().as_raw() != daemon;
    let end = socket.get_ref().try_clone()?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for _ in signals.forever().filter(|_| is_orphaned()) {
            let _ = end.shutdown(Shutdown::Both);
        }
    })?;
    send(socket.get_ref(), &Answer::default())?;
    while let Some(request) = receive(&mut socket)?
        && !is_orphaned()
    {
        let (answer, done) = obey(&mut job, request);
        let sent = send(socket.get_ref(), &answer);
        if done {
            return sent;
        }
    }
    if let Job::Socket(path) = &job {
        // The server was killed.
        remove_socket(path);
    }
    Ok(())
}

/// Does what is requested. Returns the answer, and whether nothing is left to be done.
fn obey(job: &mut Job, request: Request) -> (Answer, bool) {
    match (job, request) {
        (Job::Mount(record), Request::Note(confined)) => {
            let stored = record.stored_of_this();
            **record = MountRecord { confined, ..stored.unwrap_or_else(|| (**record).clone()) };
            let error = record.update().err().map(|e| Report::of(&e));
            (Answer { error, ..Answer::default() }, false)
        }
        (Job::Mount(record), Request::Remove { force }) => {
            let result = tear_down_for_daemon(record, force);
            let done = result.is_ok();
            let error = result.err().map(|e| Report::of(&e));
            (Answer { device: record.device.clone(), error }, done)
        }
        (Job::Socket(_), Request::Note(_)) => (Answer::default(), false),
        (Job::Socket(path), Request::Remove { .. }) => {
            remove_socket(path);
            (Answer::default(), true)
        }
    }
}

/// Removes a socket, but no other file.
pub fn remove_socket(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        let _ = fs::remove_file(path);
    }
}
