//! The process that serves a disk: how it starts and ends.
//!
//! Success is reported only after a read through the mount has returned the right bytes. Threads are confined from the
//! start, the one that mounts and attaches when it has ([`Served::confine`]).

use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use cdi_base::error::{ErrnoStyle, Error};
use cdi_base::workers;
use cdi_serve::served::Served as ServedDisk;
use cdi_serve::transport::{Desktop, Place};
use cdi_serve::transports::transport;
use cdi_serve::tree::{DISK_NAME, Tree};
use cdi_system::confine::Confine;
use cdi_system::{ending_signals, mounted_at, raise_open_file_limit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;

use crate::attach;
use crate::mount::confined;
use crate::mount::helper::{Helper, Job};
use crate::mount::record::{MountRecord, SERVICE};
use crate::mount::self_test::{self_test, test_device};
use crate::mount::teardown::tear_down;

/// The mount to create.
pub struct MountPlan {
    /// The disk, with its readahead not started.
    pub disk: ServedDisk,
    /// The image, an absolute path.
    pub image: PathBuf,
    /// The mount point: an existing directory, as an absolute path without symbolic links.
    pub dir: PathBuf,
    /// Whether we created that directory.
    pub created_dir: bool,
    /// What reads of bad sectors give, as the option has it.
    pub bad: String,
    /// The errno that reads of bad sectors return.
    pub errno: ErrnoStyle,
    /// Whether other users may read.
    pub allow_other: bool,
    /// Whether to show the file systems inside the disk.
    pub files: bool,
    /// Whether desktops show the mount.
    pub desktop: Desktop,
    /// The front end, if the user named one.
    pub via: Option<&'static str>,
    /// The properties of the block device, if one is requested.
    pub device: Option<attach::Request>,
    /// The attacher, if the user named one.
    pub with: Option<&'static str>,
    /// Whether it belongs to a command, and is unmounted when the command ends.
    pub exec: bool,
    /// The lock that blocks other commands until the record is written.
    pub exclusive: File,
}

impl MountPlan {
    /// Returns the record of the mount, before it is made.
    pub(super) fn record(&self, via: &str) -> MountRecord {
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
            mount_device: None,
            confined: None,
            part: self.disk.part(),
            imaging: self.disk.is_live(),
            // An image of thousands of files is not overwritten by naming one of them, so the first thousand suffice.
            files: self
                .disk
                .paths()
                .into_iter()
                .skip(1)
                .take(1000)
                .filter(|p| p.to_str().is_some())
                .collect(),
            // Recorded before the device exists, so that another command knows that there will be one.
            with: self.device.as_ref().and_then(|_| {
                let first = attach::candidates(self.with).ok()?.first().copied()?;
                Some(first.name().to_owned())
            }),
        }
    }
}

/// A disk that is being served by this process.
pub struct Served {
    /// The record of the mount.
    pub record: MountRecord,
    tree: Arc<Tree>,
    events: Receiver<Event>,
    /// What the user is to be warned of.
    pub warning: Option<String>,
    confine: Confine,
    /// What removes the mount once this process cannot. None if it could not be started, or is not needed.
    helper: Option<Result<Helper, Error>>,
    is_confined: bool,
    _lock: File,
}

enum Event {
    /// The disk is no longer mounted.
    Ended(Result<(), Error>),
    /// The user or the system wants it to end, with this signal.
    Signal(i32),
}

/// How long to wait for the reason why what was mounted cannot be read.
const ENDING: Duration = Duration::from_secs(1);

/// How often the teardown of a disk in use is retried.
const RETRY: Duration = Duration::from_millis(500);

/// How often it is checked whether the user has ejected the device.
const EJECTED: Duration = Duration::from_secs(2);

/// Mounts a disk, and attaches it if requested, in this process. If that fails, everything is torn down again.
pub fn start(plan: MountPlan) -> Result<Served, Error> {
    let transport = transport(plan.via)?;
    let mut record = plan.record(transport.name());
    let begun = spare_files().and_then(|spare| Ok((spare, record.lock()?)));
    let (spare, lock) = begun.inspect_err(|_| {
        if plan.created_dir {
            let _ = fs::remove_dir(&plan.dir);
        }
    })?;
    let saved = record.save();
    // From here on the record is visible to other commands. Unlocked and not merely closed, because the command that
    // started a daemon also has the file open.
    let _ = plan.exclusive.unlock();
    match saved.and_then(|()| bring_up(plan, &mut record)) {
        Ok(Up { tree, events, confine, helper }) => {
            let (warning, is_confined) = (None, false);
            Ok(Served { record, tree, events, warning, confine, helper, is_confined, _lock: lock })
        }
        Err(e) => {
            drop(spare);
            if let Err(left) = tear_down(&mut record, true) {
                log::error!("cannot clean up after a failed start: {left}");
            }
            Err(e)
        }
    }
}

/// Opens as many files as cleaning up takes, for a start that fails because no more can be opened.
fn spare_files() -> Result<Vec<File>, Error> {
    let root = Path::new("/");
    (0..8).map(|_| File::open(root).map_err(|e| Error::io("cannot open", root, e))).collect()
}

/// A disk that is mounted, and attached if requested.
struct Up {
    tree: Arc<Tree>,
    events: Receiver<Event>,
    confine: Confine,
    helper: Option<Result<Helper, Error>>,
}

/// Mounts and attaches the disk. Each step is entered into `record` before it is taken, so that it can be cleaned up.
fn bring_up(plan: MountPlan, record: &mut MountRecord) -> Result<Up, Error> {
    raise_open_file_limit();
    let (send, events) = channel();
    let signals = send.clone();
    let mut wanted = Signals::new(ending_signals())
        .map_err(|e| Error::failed("cannot install signal handlers").because(e))?;
    let transport = transport(plan.via)?;
    let confine = confined::confine(&plan.disk, |needs| {
        transport.needs(needs);
    });
    // Before a thread runs that reads the image.
    let helper = (!confine.is_nothing()).then(|| Helper::start(Job::Mount(Box::new(record.clone()))));
    let threads = |e| Error::failed("cannot start threads").because(e);
    let forward = move || wanted.forever().all(|signal| signals.send(Event::Signal(signal)).is_ok());
    confine.threads(|| workers::spawn("signals", forward)).map_err(threads)??;
    if transport.serves_itself() {
        let cores = workers::cores();
        confine.threads(|| plan.disk.start_readahead(cores)).flatten().map_err(threads)?;
    }
    let is_live = plan.disk.is_live();
    let ahead = match transport.name() == "nfs" && plan.disk.has_failing_reads() {
        false if !is_live => READAHEAD,
        _ => 0,
    };
    let mut tree = Tree::new(plan.disk, plan.errno, plan.allow_other);
    if plan.files {
        tree.show_files();
    }
    let tree = Arc::new(tree);
    let place = Place { dir: &plan.dir, image: &plan.image, desktop: plan.desktop, confine: &confine };
    let serving = transport.serve(Arc::clone(&tree), &place)?;
    let device = mounted_at(&plan.dir)?.map(|mount| mount.device);
    record.mount_device = device.filter(|device| !device.is_empty());
    record.save()?;
    let wait = move || send.send(Event::Ended(serving.wait()));
    confine.threads(|| workers::spawn("serving", wait)).map_err(threads)??;
    set_readahead(&plan.dir, ahead);
    let file = plan.dir.join(DISK_NAME);
    self_test(&tree, &file).map_err(|e| match events.recv_timeout(ENDING) {
        Ok(Event::Ended(Err(why))) => why,
        _ => e,
    })?;
    if let Some(request) = plan.device {
        let (device, attacher) = attach::attach(&file, &request, plan.with)?;
        tree.set_device(Some(&device));
        record.device = Some(device);
        record.with = Some(attacher.name().into());
        record.save()?;
        test_device(&tree, record.device.as_deref().unwrap_or(&file))?;
    }
    if transport.serves_itself()
        && let Err(e) = serve_stats(&tree, &record.stats()?, &confine)
    {
        // The disk works without it.
        log::warn!("'cdi stats' is not available for this mount: {e}");
    }
    record.ready = true;
    record.save()?;
    Ok(Up { tree, events, confine, helper })
}

/// Sends the read statistics of the disk, as JSON, to every client that connects to the socket, and closes the
/// connection.
fn serve_stats(tree: &Arc<Tree>, socket: &Path, confine: &Confine) -> Result<(), Error> {
    let failed = |e| Error::io("cannot listen on this socket", socket, e);
    // An earlier daemon may have left its socket.
    match fs::remove_file(socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let listener = UnixListener::bind(socket).map_err(failed)?;
    let tree = Arc::clone(tree);
    let serve = move || {
        for connection in listener.incoming().flatten() {
            let stats = tree.disk().stats();
            // A client that does not read must not block the others.
            let _ = connection.set_write_timeout(Some(Duration::from_secs(1)));
            let _ = serde_json::to_writer(connection, &stats);
        }
    };
    confine.threads(|| workers::spawn("stats", serve)).map_err(failed)?
}

/// The kernel's readahead for a mount, in KiB. FUSE_INIT cannot ask for more than 128; more makes buffered readers three
/// to ten times faster. With the NFS client of Linux there is none if the disk has bad sectors: that of 6.12 reads ahead
/// in folios of up to 128 KiB, and an error would cost the whole folio.
const READAHEAD: u32 = 4096;

/// Notes that the disk of a mount of this process has been imaged: from now on it is like any other.
pub fn imaging_ended(record: &MountRecord) {
    if let Err(e) = record.imaging_ended() {
        log::warn!("{e}");
    }
    if record.via == "fuse" {
        set_readahead(&record.mountpoint, READAHEAD);
    }
}

/// Sets the kernel's readahead for a mount. Only root can; otherwise nothing else is lost.
fn set_readahead(dir: &Path, kib: u32) {
    if let Ok(Some(mount)) = mounted_at(dir) {
        let _ = fs::write(format!("/sys/class/bdi/{}/read_ahead_kb", mount.device), kib.to_string());
    }
}

impl Served {
    /// Confines the calling thread, the only one of this process that is not yet: it keeps what serving takes, and waiting
    /// for the program that runs as the process `child`. What unmounting takes, another process keeps. To be called when
    /// everything is mounted and no program is to be started. What it cannot give up is logged as a warning.
    pub fn confine(&mut self, child: Option<u32>) {
        let helper = match &self.helper {
            None => return,
            Some(helper) => helper.as_ref().map(|_| ()),
        };
        (self.record.confined, self.warning) = confined::conclude(&self.confine, helper, child);
        self.warning.iter().for_each(|warning| log::warn!("{warning}"));
        // A confined thread writes no records.
        let noted = match &mut self.helper {
            Some(Ok(helper)) => {
                self.is_confined = true;
                helper.note(self.record.confined)
            }
            _ => self.record.update(),
        };
        if let Err(e) = noted {
            log::warn!("{e}");
        }
    }

    /// Tears the mount down, as [`tear_down`] does.
    pub fn tear_down(&mut self, force: bool) -> Result<(), Error> {
        match &mut self.helper {
            Some(Ok(helper)) if self.is_confined => helper.tear_down(&mut self.record, force),
            _ => tear_down(&mut self.record, force),
        }
    }

    /// Returns whether this process cannot unmount any more.
    fn is_helpless(&self) -> bool {
        self.is_confined && matches!(&self.helper, Some(Ok(helper)) if helper.is_gone())
    }

    /// Serves the disk until it is unmounted or a signal ends it, and cleans up. After the first signal, a disk in use
    /// stays until it no longer is; the second signal ends it anyway.
    pub fn serve(mut self) -> Result<(), Error> {
        let mut asked = false;
        // On macOS the Finder ejects a disk: then its node in /dev is gone, and nothing else says so. Linux keeps the
        // nodes of loop devices.
        let node = self.record.device.clone().filter(|_| cfg!(target_os = "macos"));
        loop {
            let event = match &node {
                _ if asked => self.events.recv_timeout(RETRY),
                Some(_) => self.events.recv_timeout(EJECTED),
                None => self.events.recv().map_err(Into::into),
            };
            if !asked
                && matches!(event, Err(RecvTimeoutError::Timeout))
                && node.as_ref().is_some_and(|node| !is_gone(node))
            {
                continue;
            }
            let force = asked && matches!(event, Ok(Event::Signal(_)));
            match event {
                Ok(Event::Signal(_)) | Err(RecvTimeoutError::Timeout) => {
                    match self.tear_down(force) {
                        Ok(()) => return Ok(()),
                        Err(e) if self.is_helpless() => return Err(e),
                        Err(e) => {
                            // The device may be gone even so.
                            self.tree.set_device(self.record.device.as_deref());
                            if !asked {
                                log::error!(
                                    "{e}; will exit when it is no longer in use, or on a second signal"
                                );
                            } else if force {
                                log::error!("{e}");
                            }
                            asked = true;
                        }
                    }
                }
                Ok(Event::Ended(result)) => {
                    let cleaned = self.tear_down(true);
                    return result.and(cleaned);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::failed("worker threads exited"));
                }
            }
        }
    }
}

/// Returns whether the device is no longer there. What cannot be looked up counts as there.
fn is_gone(node: &Path) -> bool {
    fs::symlink_metadata(node).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

impl Served {
    /// Waits for a command that uses the disk. SIGINT comes from the terminal and also reaches the command, which
    /// handles it; signals that were sent to this process alone are passed on.
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
