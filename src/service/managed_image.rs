//! An image of the service: when it is started, what is done when it fails, how it is stopped.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant, SystemTime};

use cdi_base::error::Error;
use cdi_base::workers;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::child;
use super::child::Event;
use super::config::Entry;
use super::state::{ImageState, Phase};
use crate::mount::record::{MountRecord, exclusive, records};
use crate::mount::teardown::clean_up_stale_mounts;

/// How often to check whether an image file has appeared or changed, and whether a mount that was taken over is alive.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// The pause before a failed image is tried again: doubled after each failure, up to the maximum.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// The failures of an image that was up for this long are forgotten: it has not failed at once.
const SETTLED: Duration = Duration::from_secs(60);
/// How long an image in use may stay up after it was asked to stop: until the second SIGTERM, and until SIGKILL.
const TERM_AFTER: Duration = Duration::from_secs(15);
const KILL_AFTER: Duration = Duration::from_secs(40);

/// An image and its process. Nothing here accesses the image file or waits for another command: either may hang, and
/// one image must not block the others.
pub(super) struct ManagedImage {
    /// Unique, also among earlier entries for the same image.
    pub id: u64,
    pub entry: Entry,
    pub state: ImageState,
    /// When the image file is checked next, and whether a check is running.
    next_check: Instant,
    checking: bool,
    /// When it is tried again.
    retry: Instant,
    /// The length and time of the image file when it failed.
    stamp: Option<(u64, SystemTime)>,
    /// The error that was logged last.
    logged: Option<String>,
    up_since: Option<Instant>,
    /// The mount of an earlier service, whose process is not a child of this one.
    taken_over: Option<MountRecord>,
    /// Whether the configuration still lists it.
    pub wanted: bool,
    /// When it was asked to stop, and how many signals it was sent.
    pub stopping: Option<(Instant, u8)>,
}

/// Cleans up the mounts of processes that died, on a thread of its own. Waits for it no longer than `timeout`.
pub(super) fn clean_up(timeout: Duration) {
    let (done, end) = channel();
    let work = move || {
        let cleaned = exclusive().map(|_exclusive| clean_up_stale_mounts());
        if let Err(e) = cleaned {
            log::error!("{e}");
        }
        let _ = done.send(());
    };
    match workers::spawn("clean-up", work) {
        Ok(()) => {
            let _ = end.recv_timeout(timeout);
        }
        Err(e) => log::error!("{e}"),
    }
}

/// Returns the mounts that a service started and that are still served.
pub(super) fn of_services() -> Result<Vec<MountRecord>, Error> {
    Ok(records()?.into_iter().filter(|r| r.service && r.is_served()).collect())
}

impl ManagedImage {
    pub(super) fn new(id: u64, entry: Entry) -> ManagedImage {
        let state = ImageState {
            image: entry.image.clone(),
            phase: Phase::Waiting,
            why: None,
            pid: None,
            mountpoint: None,
            device: None,
            failures: 0,
            taken_over: false,
        };
        let now = Instant::now();
        ManagedImage {
            id,
            entry,
            state,
            next_check: now,
            checking: false,
            retry: now,
            stamp: None,
            logged: None,
            up_since: None,
            taken_over: None,
            wanted: true,
            stopping: None,
        }
    }

    /// Takes over a mount of an earlier service that is no longer configured, and stops it.
    pub(super) fn outdated(id: u64, record: MountRecord) -> ManagedImage {
        let mut managed = ManagedImage::new(id, Entry::of(&record));
        managed.take_over(record);
        managed.stop();
        managed
    }

    fn take_over(&mut self, record: MountRecord) {
        self.up(&record);
        self.taken_over = Some(record);
    }

    /// Returns its current state.
    pub(super) fn snapshot(&self) -> ImageState {
        ImageState { taken_over: self.taken_over.is_some(), ..self.state.clone() }
    }

    /// Makes a detached or failed image be tried again at once.
    pub(super) fn retry_now(&mut self) {
        if matches!(self.state.phase, Phase::Detached | Phase::Failed) {
            self.state.phase = Phase::Waiting;
            self.next_check = Instant::now();
        }
    }

    /// Returns how long nothing has to be done for it, or `None` if that is until the next event.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        match self.state.phase {
            Phase::Failed | Phase::Waiting if self.checking => None,
            Phase::Failed => Some(self.retry.min(self.next_check).saturating_duration_since(now)),
            Phase::Waiting => Some(self.next_check.saturating_duration_since(now)),
            Phase::Stopping => Some(Duration::from_millis(500)),
            Phase::Up if self.taken_over.is_some() => Some(CHECK_INTERVAL),
            Phase::Up | Phase::Starting | Phase::Detached => None,
        }
    }

    /// Does everything that is due by now.
    pub(super) fn step(&mut self, now: Instant, send: &Sender<Event>) {
        match self.state.phase {
            _ if self.stopping.is_some() => self.continue_stopping(now),
            Phase::Up => self.check_alive(),
            Phase::Waiting | Phase::Failed if !self.checking => {
                let failed = self.state.phase == Phase::Failed;
                if now >= self.next_check || (failed && now >= self.retry) {
                    self.check_file(send);
                }
            }
            _ => {}
        }
    }

    /// Checks the image file on a thread of its own, because accessing it may hang.
    fn check_file(&mut self, send: &Sender<Event>) {
        let (id, image, send) = (self.id, self.entry.image.clone(), send.clone());
        let check = move || {
            let file = fs::metadata(image).and_then(|meta| Ok((meta.len(), meta.modified()?)));
            send.send(Event::Checked(id, file.ok()))
        };
        self.checking = workers::spawn("check-file", check).is_ok();
        self.next_check = Instant::now() + CHECK_INTERVAL;
        if !self.checking {
            self.retry = self.next_check;
        }
    }

    /// Handles the result of a check of the image file. Returns whether the image is to be started.
    pub(super) fn checked(&mut self, file: Option<(u64, SystemTime)>) -> bool {
        self.checking = false;
        if self.stopping.is_some() || !matches!(self.state.phase, Phase::Waiting | Phase::Failed) {
            return false;
        }
        if file.is_none() {
            self.state.phase = Phase::Waiting;
            self.state.why = Some("image file not found".into());
            return false;
        }
        let due = self.state.phase == Phase::Waiting || Instant::now() >= self.retry || self.stamp != file;
        self.stamp = file;
        if due {
            // If it cannot be started yet, it is not tried again before then.
            self.retry = Instant::now() + CHECK_INTERVAL;
        }
        due
    }

    /// Returns the arguments of its command, in the form that a record has them.
    pub(super) fn argv(&self) -> Vec<String> {
        self.entry.command().iter().map(|w| w.to_string_lossy().into_owned()).collect()
    }

    /// Starts it, or takes it over if an earlier service has started it with the same arguments.
    pub(super) fn start(&mut self, program: &Path, send: Sender<Event>) {
        let argv = self.argv();
        let running = of_services().unwrap_or_default().into_iter().find(|r| r.argv == argv);
        match running {
            Some(record) if record.ready => return self.take_over(record),
            // It is still starting, or hangs: a later check will show.
            Some(_) => return,
            None => {}
        }
        self.state.phase = Phase::Starting;
        self.state.why = None;
        match child::start(self.id, program, &self.entry, send) {
            Ok(pid) => self.state.pid = Some(pid),
            Err(e) => self.fail(e.to_string()),
        }
    }

    /// Records that it is up.
    pub(super) fn up(&mut self, record: &MountRecord) {
        let text = |path: &Path| path.display().to_string();
        self.state.pid = Some(record.pid);
        self.state.mountpoint = Some(text(&record.mountpoint));
        self.state.device = record.device.as_deref().map(text);
        if self.stopping.is_none() {
            self.state.phase = Phase::Up;
            self.state.why = None;
            self.up_since = Some(Instant::now());
        }
        let at = record.device.as_ref().unwrap_or(&record.mountpoint);
        log::info!("{}: up at {}", self.entry.image.display(), at.display());
    }

    /// Handles the end of its process.
    pub(super) fn ended(&mut self, status: std::io::Result<ExitStatus>) {
        // A process that was killed could not clean up after itself.
        if status.as_ref().is_ok_and(|s| s.signal().is_some()) {
            clean_up(Duration::ZERO);
        }
        self.state.pid = None;
        self.state.mountpoint = None;
        self.state.device = None;
        self.taken_over = None;
        if self.stopping.take().is_some() {
            log::info!("{}: stopped", self.entry.image.display());
            self.wanted = false;
            return;
        }
        match status {
            Ok(status) if status.success() => {
                self.state.phase = Phase::Detached;
                self.state.why = Some("detached manually".into());
                log::info!("{}: detached manually", self.entry.image.display());
            }
            Ok(status) => {
                let why = self.state.why.take().unwrap_or_else(|| format!("the process ended: {status}"));
                self.fail(why);
            }
            Err(e) => self.fail(format!("the process is lost: {e}")),
        }
    }

    fn fail(&mut self, why: String) {
        if self.up_since.take().is_some_and(|since| since.elapsed() >= SETTLED) {
            self.state.failures = 0;
        }
        // Logged once, and not at every attempt.
        if self.state.failures == 0 || self.logged.as_ref() != Some(&why) {
            log::error!("{}: {why}", self.entry.image.display());
            self.logged = Some(why.clone());
        }
        let pause = MIN_PAUSE.saturating_mul(1 << self.state.failures.min(10)).min(MAX_PAUSE);
        self.state.failures += 1;
        self.state.phase = Phase::Failed;
        self.state.why = Some(why);
        self.retry = Instant::now() + pause;
        self.next_check = Instant::now() + CHECK_INTERVAL;
    }

    /// Checks whether a mount that was taken over is alive: it is not a child, so there is no event when it ends.
    fn check_alive(&mut self) {
        let Some(record) = self.taken_over.as_ref().filter(|r| !r.is_served()) else { return };
        // A daemon that shuts down cleanly removes its record.
        let dead = records().map_or(true, |all| all.iter().any(|r| r.pid == record.pid));
        self.ended(Ok(ExitStatus::from_raw(if dead { 9 } else { 0 })));
    }

    /// Stops it: its process detaches or unmounts the image.
    pub(super) fn stop(&mut self) {
        self.wanted = false;
        if self.stopping.is_none() && self.state.pid.is_some() {
            self.state.phase = Phase::Stopping;
            self.stopping = Some((Instant::now(), 1));
            self.signal(Signal::SIGTERM);
        }
    }

    /// Escalates a stop that takes too long: the second SIGTERM forces it, and the last signal is SIGKILL.
    fn continue_stopping(&mut self, now: Instant) {
        let Some((since, signals)) = self.stopping else { return };
        let late = now.saturating_duration_since(since);
        let next = match signals {
            1 if late >= TERM_AFTER => Some(Signal::SIGTERM),
            2 if late >= KILL_AFTER => Some(Signal::SIGKILL),
            _ => None,
        };
        if let Some(signal) = next {
            self.stopping = Some((since, signals + 1));
            self.signal(signal);
        }
        self.check_alive();
    }

    fn signal(&self, signal: Signal) {
        // The pid of a process that was taken over may have been reused; that of a child is not until it was waited
        // for.
        if let Some(pid) = self.state.pid
            && self.taken_over.as_ref().is_none_or(MountRecord::is_served)
        {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}
