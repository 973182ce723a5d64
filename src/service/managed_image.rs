//! An image of the service: when it is brought up, what is done when it fails, how it is taken away.

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
use crate::mount::teardown::clean_up_after_the_dead;

/// How often it is looked whether an image has come or changed, and whether what was taken over is alive.
const LOOK: Duration = Duration::from_secs(2);
/// How long after a failure it is tried again: doubled each time, up to the longest.
const SHORTEST: Duration = Duration::from_secs(1);
const MAX_LEN: Duration = Duration::from_secs(60);
/// What was up for so long has not failed at once: its failures are forgotten.
const SETTLED: Duration = Duration::from_secs(60);
/// How long an image may stay because it is in use when the service ends, and when its process is killed.
const POLITE: Duration = Duration::from_secs(15);
const PATIENT: Duration = Duration::from_secs(40);

/// An image, and what is done about it. Nothing here touches the image's file or waits for another command: either may
/// hang, and one image is not to stop the others.
pub(super) struct ManagedImage {
    /// Told apart from every other, also from an earlier one of the same image.
    pub id: u64,
    pub entry: Entry,
    pub state: ImageState,
    /// When it is looked at next, and whether somebody is looking.
    look: Instant,
    looking: bool,
    /// When it is tried again.
    retry: Instant,
    /// What the image's file was when it failed.
    stamp: Option<(u64, SystemTime)>,
    /// Why it failed, as it was logged.
    logged: Option<String>,
    up_since: Option<Instant>,
    /// What was up before the service was, and is no child of it.
    taken_over: Option<MountRecord>,
    /// Whether the configuration still names it.
    pub wanted: bool,
    /// Since when it is being taken away, and how many signals it got.
    pub stopping: Option<(Instant, u8)>,
}

/// Cleans up what processes that died have left, on a thread of its own. Waits for that no longer than `timeout`.
pub(super) fn clean_up(timeout: Duration) {
    let (done, end) = channel();
    let work = move || {
        let cleaned = exclusive().map(|_exclusive| clean_up_after_the_dead());
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

/// What a service runs, and is still served.
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
            look: now,
            looking: false,
            retry: now,
            stamp: None,
            logged: None,
            up_since: None,
            taken_over: None,
            wanted: true,
            stopping: None,
        }
    }

    /// What an earlier service showed and this one is not to: it goes.
    pub(super) fn outdated(id: u64, record: MountRecord) -> ManagedImage {
        let mut slot = ManagedImage::new(id, Entry::of(&record));
        slot.take_over(record);
        slot.stop();
        slot
    }

    fn take_over(&mut self, record: MountRecord) {
        self.up(&record);
        self.taken_over = Some(record);
    }

    /// How it stands with it.
    pub(super) fn snapshot(&self) -> ImageState {
        ImageState { taken_over: self.taken_over.is_some(), ..self.state.clone() }
    }

    /// Has it tried at once.
    pub(super) fn hurry(&mut self) {
        if matches!(self.state.phase, Phase::Detached | Phase::Failed) {
            self.state.phase = Phase::Waiting;
            self.look = Instant::now();
        }
    }

    /// How long nothing has to be done about it; None: until something is heard.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        match self.state.phase {
            Phase::Failed | Phase::Waiting if self.looking => None,
            Phase::Failed => Some(self.retry.min(self.look).saturating_duration_since(now)),
            Phase::Waiting => Some(self.look.saturating_duration_since(now)),
            Phase::Stopping => Some(Duration::from_millis(500)),
            Phase::Up if self.taken_over.is_some() => Some(LOOK),
            Phase::Up | Phase::Starting | Phase::Detached => None,
        }
    }

    /// Does what has to be done by now.
    pub(super) fn step(&mut self, now: Instant, send: &Sender<Event>) {
        match self.state.phase {
            _ if self.stopping.is_some() => self.press(now),
            Phase::Up => self.look_whether_alive(),
            Phase::Waiting | Phase::Failed if !self.looking => {
                let failed = self.state.phase == Phase::Failed;
                if now >= self.look || (failed && now >= self.retry) {
                    self.look_at_file(send);
                }
            }
            _ => {}
        }
    }

    /// Has the image's file looked at, on a thread of its own: where it is, looking may hang.
    fn look_at_file(&mut self, send: &Sender<Event>) {
        let (id, image, send) = (self.id, self.entry.image.clone(), send.clone());
        let look = move || {
            let file = fs::metadata(image).and_then(|meta| Ok((meta.len(), meta.modified()?)));
            send.send(Event::Looked(id, file.ok()))
        };
        self.looking = workers::spawn("look", look).is_ok();
        self.look = Instant::now() + LOOK;
        if !self.looking {
            self.retry = self.look;
        }
    }

    /// Hears what the image's file is. Whether it is to be brought up.
    pub(super) fn looked(&mut self, file: Option<(u64, SystemTime)>) -> bool {
        self.looking = false;
        if self.stopping.is_some() || !matches!(self.state.phase, Phase::Waiting | Phase::Failed) {
            return false;
        }
        if file.is_none() {
            self.state.phase = Phase::Waiting;
            self.state.why = Some("the image is not there".into());
            return false;
        }
        let due = self.state.phase == Phase::Waiting || Instant::now() >= self.retry || self.stamp != file;
        self.stamp = file;
        if due {
            // Should something be in the way, not before then.
            self.retry = Instant::now() + LOOK;
        }
        due
    }

    /// The words of the command that shows it, as a record has them.
    pub(super) fn words(&self) -> Vec<String> {
        self.entry.command().iter().map(|w| w.to_string_lossy().into_owned()).collect()
    }

    /// Brings it up; or takes it over, if a service before this one has, in the same way.
    pub(super) fn start(&mut self, program: &Path, send: Sender<Event>) {
        let words = self.words();
        let shown = of_services().unwrap_or_default().into_iter().find(|r| r.argv == words);
        match shown {
            Some(record) if record.ready => return self.take_over(record),
            // It is still coming up, or does not: that will be seen.
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

    /// Hears that it is up.
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
        log::info!("{} is up at {}", self.entry.image.display(), at.display());
    }

    /// Hears that its process has ended.
    pub(super) fn ended(&mut self, status: std::io::Result<ExitStatus>) {
        // Ended by a signal it could not clean up after itself.
        if status.as_ref().is_ok_and(|s| s.signal().is_some()) {
            clean_up(Duration::ZERO);
        }
        self.state.pid = None;
        self.state.mountpoint = None;
        self.state.device = None;
        self.taken_over = None;
        if self.stopping.take().is_some() {
            log::info!("{} is gone", self.entry.image.display());
            self.wanted = false;
            return;
        }
        match status {
            Ok(status) if status.success() => {
                self.state.phase = Phase::Detached;
                self.state.why = Some("somebody took it away".into());
                log::info!("{} was taken away", self.entry.image.display());
            }
            Ok(status) => {
                let why = self.state.why.take().unwrap_or_else(|| format!("its process ended: {status}"));
                self.fail(why);
            }
            Err(e) => self.fail(format!("its process is lost: {e}")),
        }
    }

    fn fail(&mut self, why: String) {
        if self.up_since.take().is_some_and(|since| since.elapsed() >= SETTLED) {
            self.state.failures = 0;
        }
        // Said once, and not at every try.
        if self.state.failures == 0 || self.logged.as_ref() != Some(&why) {
            log::error!("{}: {why}", self.entry.image.display());
            self.logged = Some(why.clone());
        }
        let pause = SHORTEST.saturating_mul(1 << self.state.failures.min(10)).min(MAX_LEN);
        self.state.failures += 1;
        self.state.phase = Phase::Failed;
        self.state.why = Some(why);
        self.retry = Instant::now() + pause;
        self.look = Instant::now() + LOOK;
    }

    /// What was taken over is no child of ours: nobody tells when it ends.
    fn look_whether_alive(&mut self) {
        let Some(record) = self.taken_over.as_ref().filter(|r| !r.is_served()) else { return };
        // Who goes down in order takes his record away.
        let dead = records().map_or(true, |all| all.iter().any(|r| r.pid == record.pid));
        self.ended(Ok(ExitStatus::from_raw(if dead { 9 } else { 0 })));
    }

    /// Has it taken away.
    pub(super) fn stop(&mut self) {
        self.wanted = false;
        if self.stopping.is_none() && self.state.pid.is_some() {
            self.state.phase = Phase::Stopping;
            self.stopping = Some((Instant::now(), 1));
            self.signal(Signal::SIGTERM);
        }
    }

    /// Goes on having it taken away: the second signal means it, and the last one is no question.
    fn press(&mut self, now: Instant) {
        let Some((since, signals)) = self.stopping else { return };
        let late = now.saturating_duration_since(since);
        let next = match signals {
            1 if late >= POLITE => Some(Signal::SIGTERM),
            2 if late >= PATIENT => Some(Signal::SIGKILL),
            _ => None,
        };
        if let Some(signal) = next {
            self.stopping = Some((since, signals + 1));
            self.signal(signal);
        }
        self.look_whether_alive();
    }

    fn signal(&self, signal: Signal) {
        // The number of what was taken over may be another's by now; a child's is not before it was waited for.
        if let Some(pid) = self.state.pid
            && self.taken_over.as_ref().is_none_or(MountRecord::is_served)
        {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}
