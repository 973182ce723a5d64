//! The process that serves a disk: how it comes up, how it is left in the background, how it ends.
//!
//! No thread is started before the process has forked. Success is told only after a read through the mount has
//! given the right bytes.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cdi_base::error::{ErrnoStyle, Error};
use cdi_base::workers;
use cdi_image::disk::Disk;
use cdi_image::part::PART_OF_DISK;
use cdi_serve::transport::Place;
use cdi_serve::transports::transport;
use cdi_serve::tree::{DISK_NAME, Tree};
use cdi_system::{allow_files, ending_signals, mounted_at};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;

use crate::attach;
use crate::mount::record::{MountRecord, SERVICE};
use crate::mount::self_test::{self_test, test_device};
use crate::mount::teardown::down;
use crate::report::{Report, exit_code};

/// What is to be brought up.
pub struct MountPlan {
    /// The disk; its readahead not started.
    pub disk: Disk,
    /// The image, an absolute path.
    pub image: PathBuf,
    /// The folder to mount at, an absolute path without symbolic links. It is there.
    pub dir: PathBuf,
    /// Whether we made the folder.
    pub created_dir: bool,
    /// What reads of bad sectors give, as the option has it.
    pub bad: String,
    /// Which errno bad sectors are answered with.
    pub errno: ErrnoStyle,
    /// Whether other users may read.
    pub allow_other: bool,
    /// The front end, if the user named one.
    pub via: Option<&'static str>,
    /// How the block device is to be, if there is to be one.
    pub device: Option<attach::Request>,
    /// The attacher, if the user named one.
    pub with: Option<&'static str>,
    /// Whether a command runs on it, which takes it away when it ends.
    pub exec: bool,
    /// Holds off other commands until the record is written.
    pub exclusive: File,
}

impl MountPlan {
    fn record(&self, via: &str) -> MountRecord {
        MountRecord {
            image: self.image.clone(),
            mountpoint: self.dir.clone(),
            device: None,
            exec: self.exec,
            pid: std::process::id().cast_signed(),
            created_dir: self.created_dir,
            via: via.into(),
            argv: std::env::args_os().skip(1).map(|w| w.to_string_lossy().into_owned()).collect(),
            service: std::env::var_os(SERVICE).is_some(),
            ready: false,
            bad: self.bad.clone(),
            part: self.disk.metadata().more.get(PART_OF_DISK).cloned(),
            // What has thousands of files is not written over by name.
            files: self
                .disk
                .input()
                .paths()
                .into_iter()
                .skip(1)
                .take(1000)
                .filter(|p| p.to_str().is_some())
                .collect(),
            // Known before there is a device, so that another command sees that there will be one.
            with: self.device.as_ref().and_then(|_| {
                let first = attach::candidates(self.with).ok()?.first().copied()?;
                Some(first.name().to_owned())
            }),
        }
    }
}

/// A disk that is being served by this process.
pub struct Up {
    /// The record of it.
    pub record: MountRecord,
    tree: Arc<Tree>,
    events: Receiver<Event>,
    _lock: File,
}

enum Event {
    /// It is no longer mounted.
    Ended(Result<(), Error>),
    /// The user, or the system, wants it to end: by this signal.
    Signal(i32),
}

/// How often it is tried again to end what was in use.
const RETRY: Duration = Duration::from_millis(500);

/// Brings a disk up in this process. What was made is taken away again if that fails.
pub fn up(plan: MountPlan) -> Result<Up, Error> {
    let transport = transport(plan.via)?;
    let mut record = plan.record(transport.name());
    let lock = record.lock()?;
    let saved = record.save();
    // From here on others see what is here. Unlocked and not only closed: the command that started a daemon has it, too.
    let _ = plan.exclusive.unlock();
    match saved.and_then(|()| bring_up(plan, &mut record)) {
        Ok((tree, events)) => Ok(Up { record, tree, events, _lock: lock }),
        Err(e) => {
            if let Err(left) = down(&mut record, true) {
                log::error!("cannot clean up after a failed start: {left}");
            }
            Err(e)
        }
    }
}

/// What comes to be is put into `record` before it does, so that it can be cleaned up by that.
fn bring_up(plan: MountPlan, record: &mut MountRecord) -> Result<(Arc<Tree>, Receiver<Event>), Error> {
    allow_files();
    let (send, events) = channel();
    let signals = send.clone();
    let mut wanted =
        Signals::new(ending_signals()).map_err(|e| Error::failed("signals cannot be caught").because(e))?;
    workers::spawn("signals", move || {
        wanted.forever().all(|signal| signals.send(Event::Signal(signal)).is_ok())
    })?;

    let transport = transport(plan.via)?;
    if transport.serves_itself() {
        let readahead = plan.disk.start_readahead(workers::cores());
        readahead.map_err(|e| Error::failed("threads cannot be started").because(e))?;
    }
    let tree = Arc::new(Tree::new(Arc::new(plan.disk), plan.errno, plan.allow_other));
    let place = Place { dir: &plan.dir, image: &plan.image };
    let serving = transport.serve(Arc::clone(&tree), &place)?;
    workers::spawn("serving", move || {
        let _ = send.send(Event::Ended(serving.wait()));
    })?;
    raise_readahead(&plan.dir);
    let file = plan.dir.join(DISK_NAME);
    self_test(&tree, &file)?;
    if let Some(request) = plan.device {
        let (device, attacher) = attach::attach(&file, &request, plan.with)?;
        tree.set_device(Some(&device));
        record.device = Some(device);
        record.with = Some(attacher.name().into());
        record.save()?;
        test_device(&tree, record.device.as_deref().unwrap_or(&file))?;
    }
    if transport.serves_itself()
        && let Err(e) = serve_stats(&tree, &record.stats()?)
    {
        // Nobody will know how it does. It does all the same.
        log::warn!("'cdi stats' will not tell of this mount: {e}");
    }
    record.ready = true;
    record.save()?;
    Ok((tree, events))
}

/// Tells whoever connects to the socket what the disk has done so far: JSON, and the end.
fn serve_stats(tree: &Arc<Tree>, socket: &Path) -> Result<(), Error> {
    let failed = |e| Error::io("cannot be listened at", socket, e);
    // One that a daemon before this one has left.
    match fs::remove_file(socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let listener = UnixListener::bind(socket).map_err(failed)?;
    let tree = Arc::clone(tree);
    workers::spawn("stats", move || {
        for connection in listener.incoming().flatten() {
            let stats = tree.disk().stats();
            // Who does not listen is not waited for.
            let _ = connection.set_write_timeout(Some(Duration::from_secs(1)));
            let _ = serde_json::to_writer(connection, &stats);
        }
    })
}

/// FUSE_INIT cannot ask for more readahead than 128 KiB; root may set it afterwards. Buffered readers are three to
/// ten times faster then; where it cannot be set, nothing else is lost.
fn raise_readahead(dir: &Path) {
    if let Ok(Some(mount)) = mounted_at(dir) {
        let _ = fs::write(format!("/sys/class/bdi/{}/read_ahead_kb", mount.device), "4096");
    }
}

impl Up {
    /// Serves until it is unmounted or a signal ends it, and cleans up. The first signal is polite: what is in use stays
    /// until it no longer is; the second ends it all the same.
    pub fn serve(mut self) -> Result<(), Error> {
        let mut asked = false;
        loop {
            let event =
                if asked { self.events.recv_timeout(RETRY) } else { self.events.recv().map_err(Into::into) };
            let force = asked && matches!(event, Ok(Event::Signal(_)));
            match event {
                Ok(Event::Signal(_)) | Err(RecvTimeoutError::Timeout) => {
                    match down(&mut self.record, force) {
                        Ok(()) => return Ok(()),
                        Err(e) => {
                            // The device may be gone all the same.
                            self.tree.set_device(self.record.device.as_deref());
                            if !asked {
                                log::error!(
                                    "{e}; it ends when it is no longer in use, or at a second signal"
                                );
                            } else if force {
                                log::error!("{e}");
                            }
                            asked = true;
                        }
                    }
                }
                Ok(Event::Ended(result)) => {
                    let cleaned = down(&mut self.record, true);
                    return result.and(cleaned);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::failed("the serving threads are gone"));
                }
            }
        }
    }
}

impl Up {
    /// Waits for a command that uses the disk. SIGINT comes from the terminal and reaches the command, too, and is
    /// its to answer; what was sent to this process alone is passed on.
    pub fn wait_for(&self, command: &mut Child) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = command.try_wait()? {
                return Ok(status);
            }
            if let Ok(Event::Signal(signal)) = self.events.recv_timeout(Duration::from_millis(20))
                && signal != SIGINT
                && let Ok(signal) = Signal::try_from(signal)
            {
                let _ = kill(Pid::from_raw(command.id().cast_signed()), signal);
            }
        }
    }
}

/// What the daemon tells the command that started it.
#[derive(Serialize, Deserialize)]
enum Message {
    Up(MountRecord),
    Failed(Report),
}

/// Brings a disk up in a process of its own, which stays in the background.
pub fn up_in_background(plan: MountPlan) -> Result<MountRecord, Error> {
    let failed = |e: io::Error| Error::failed("a daemon cannot be started").because(e);
    let (mut from_daemon, mut to_parent) = io::pipe().map_err(failed)?;
    let record = plan.record("");
    let log_path = record.log()?;
    let log = File::create(&log_path).map_err(|e| Error::io("cannot be created", &log_path, e))?;
    // Never start(): it exits with 0 when the daemon has failed.
    let daemonize = daemonize::Daemonize::new().working_directory("/").umask(0o077).stderr(log);
    match daemonize.execute() {
        daemonize::Outcome::Parent(started) => {
            started.map_err(|e| Error::failed("a daemon cannot be started").because(e))?;
            drop(to_parent);
            let mut text = Vec::new();
            from_daemon.read_to_end(&mut text).map_err(failed)?;
            match serde_json::from_slice(&text) {
                Ok(Message::Up(record)) => Ok(record),
                Ok(Message::Failed(report)) => Err(report.into_error()),
                Err(_) => {
                    let said = fs::read_to_string(&log_path).unwrap_or_default();
                    let said = said.lines().rev().take(3).collect::<Vec<_>>().join("; ");
                    Err(Error::failed(format!("the daemon died before it was ready: {said}")).at(&plan.image))
                }
            }
        }
        daemonize::Outcome::Child(started) => {
            drop(from_daemon);
            close_inherited();
            let up = started
                .map_err(|e| Error::failed("a daemon cannot be started").because(e))
                .and_then(|_| up(plan));
            let message = match &up {
                Ok(up) => Message::Up(up.record.clone()),
                Err(e) => Message::Failed(Report::of(e)),
            };
            let told = serde_json::to_vec(&message)
                .map_err(io::Error::from)
                .and_then(|text| to_parent.write_all(&text));
            drop(to_parent);
            let end = match (up, told) {
                (Ok(up), Ok(())) => up.serve(),
                // Nobody is there any more to be told: nobody wants it.
                (Ok(mut up), Err(e)) => down(&mut up.record, true).and(Err(failed(e))),
                (Err(e), _) => Err(e),
            };
            // Not by returning: fuser's session must not be dropped, see crates/cdi-serve/src/fuse/mod.rs.
            match end {
                Ok(()) => std::process::exit(0),
                Err(e) => {
                    log::error!("{e}");
                    std::process::exit(exit_code(e.kind).into())
                }
            }
        }
    }
}

static INHERITED: OnceLock<Vec<i32>> = OnceLock::new();

/// Takes note of the descriptors that the program was started with. A daemon must not keep them: somebody may wait for
/// a pipe to end, or for a lock.
pub fn note_inherited() {
    let open = fs::read_dir(if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" });
    let numbers = open.into_iter().flatten().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    let mut numbers: Vec<i32> = numbers.filter(|n| *n > 2).collect();
    // The last one is that of the folder itself, which is closed by now.
    numbers.retain(|n| fs::read_link(format!("/proc/self/fd/{n}")).is_ok() || !cfg!(target_os = "linux"));
    let _ = INHERITED.set(numbers);
}

fn close_inherited() {
    for number in INHERITED.get().into_iter().flatten() {
        let _ = nix::unistd::close(*number);
    }
}
