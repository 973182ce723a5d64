//! `cdi service run`: runs a child for each image, started when the image exists, restarted when it dies, and shut down
//! cleanly. One thread makes all decisions; the others only wait and send it events.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use cdi_base::error::Error;
use cdi_base::workers;
use cdi_system::ending_signals;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;

use super::child::Event;
use super::config;
use super::config::Config;
use super::managed_image::{ManagedImage, clean_up, of_services};
use super::state::{State, lock};

/// Timeout for the final cleanup: launchd and systemd wait for a minute in all.
const FINAL_CLEANUP: Duration = Duration::from_secs(15);

struct Supervisor {
    /// The path of this program when the service started: it may be replaced while the service runs.
    program: PathBuf,
    config: PathBuf,
    config_error: Option<String>,
    images: Vec<ManagedImage>,
    next_id: u64,
    send: Sender<Event>,
    ending: bool,
    /// The state that was written last, and the error if writing failed.
    published: Option<State>,
    save_error: Option<String>,
}

/// Runs the service until a signal ends it.
pub fn run(path: &Path) -> Result<(), Error> {
    let _lock = lock()?;
    let config = config::read(path)?;
    let (send, events) = channel();
    let signals = send.clone();
    let mut wanted = Signals::new(ending_signals())
        .map_err(|e| Error::failed("cannot install signal handlers").because(e))?;
    let forward = move || wanted.forever().all(|signal| signals.send(Event::Signal(signal)).is_ok());
    workers::spawn("signals", forward)?;
    clean_up(Duration::ZERO);
    let program = std::env::current_exe()
        .map_err(|e| Error::failed("cannot find the path of the cdi executable").because(e))?;
    let path = std::path::absolute(path).map_err(|e| Error::io("is not a path", path, e))?;
    let mut supervisor = Supervisor {
        program,
        config: path,
        config_error: None,
        images: Vec::new(),
        next_id: 0,
        send,
        ending: false,
        published: None,
        save_error: None,
    };
    supervisor.apply(config);
    supervisor.end_outdated();
    let ended = supervisor.serve(&events);
    State::remove();
    ended
}

/// Makes the running service read its configuration again. Returns whether a service is running.
pub fn reload() -> Result<bool, Error> {
    let Some(state) = State::read()? else { return Ok(false) };
    kill(Pid::from_raw(state.pid), Signal::SIGHUP)
        .map_err(|e| Error::failed(format!("cannot signal the service (pid {})", state.pid)).because(e))?;
    Ok(true)
}

impl Supervisor {
    fn serve(&mut self, events: &Receiver<Event>) -> Result<(), Error> {
        loop {
            let now = Instant::now();
            self.images.iter_mut().for_each(|image| image.step(now, &self.send));
            self.images.retain(|image| image.wanted || image.stopping.is_some());
            self.publish_state();
            if self.ending && self.images.is_empty() {
                clean_up(FINAL_CLEANUP);
                return Ok(());
            }
            // An event from a signal or a child may arrive earlier at any time.
            let pauses = self.images.iter().filter_map(|image| image.pause(Instant::now()));
            let pause = pauses.min().unwrap_or(Duration::from_secs(3600));
            match events.recv_timeout(pause.max(Duration::from_millis(20))) {
                Ok(event) => self.handle(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Error::failed("worker threads exited")),
            }
        }
    }

    /// Writes the state if it has changed. A failure to write it is logged, but does not end the service.
    fn publish_state(&mut self) {
        let state = self.state();
        if self.published.as_ref() == Some(&state) {
            return;
        }
        let save_error = state.save().err().map(|e| e.to_string());
        if let Some(why) = save_error.as_ref().filter(|why| self.save_error.as_ref() != Some(why)) {
            log::error!("{why}");
        }
        self.published = Some(state).filter(|_| save_error.is_none());
        self.save_error = save_error;
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Signal(SIGHUP) if !self.ending => match config::read(&self.config) {
                Ok(config) => {
                    log::info!("{}: configuration reloaded", self.config.display());
                    self.config_error = None;
                    self.apply(config);
                }
                Err(e) => {
                    log::error!("{e}; keeping the current configuration");
                    self.config_error = Some(e.to_string());
                }
            },
            Event::Signal(SIGHUP) => {}
            Event::Signal(_) => {
                self.ending = true;
                self.images.iter_mut().for_each(ManagedImage::stop);
            }
            Event::Up(id, record) => {
                if let Some(image) = self.image(id) {
                    image.up(&record);
                }
            }
            Event::Error(id, why) => {
                if let Some(image) = self.image(id) {
                    image.state.why = Some(why);
                }
            }
            Event::Checked(id, file) => {
                if self.image(id).is_some_and(|image| image.checked(file)) {
                    self.start(id);
                }
            }
            Event::Ended(id, status) => {
                if let Some(image) = self.image(id) {
                    image.ended(status);
                }
            }
        }
    }

    fn image(&mut self, id: u64) -> Option<&mut ManagedImage> {
        self.images.iter_mut().find(|image| image.id == id)
    }

    /// Applies a configuration: images that it no longer lists are stopped, new ones are started, unchanged ones are
    /// left alone. Images that were detached or failed are tried again at once.
    fn apply(&mut self, config: Config) {
        for image in &mut self.images {
            if !config.images.contains(&image.entry) {
                image.wanted = false;
                image.stop();
            } else {
                image.retry_now();
            }
        }
        for entry in config.images {
            if !self.images.iter().any(|image| image.wanted && image.entry == entry) {
                self.next_id += 1;
                self.images.push(ManagedImage::new(self.next_id, entry));
            }
        }
    }

    fn start(&mut self, id: u64) {
        let Some(entry) = self.image(id).map(|image| image.entry.clone()) else { return };
        // An earlier entry for the same image or mount point has to be gone first.
        let in_the_way = |other: &ManagedImage| {
            let same_dir = entry.dir.is_some() && other.entry.dir == entry.dir;
            other.id != id && (other.entry.image == entry.image || same_dir)
        };
        if !self.images.iter().any(in_the_way) {
            let (program, send) = (self.program.clone(), self.send.clone());
            if let Some(image) = self.image(id) {
                image.start(&program, send);
            }
        }
    }

    /// Stops the mounts of an earlier service that are not in the configuration, or not with the same options.
    fn end_outdated(&mut self) {
        let wanted: Vec<_> = self.images.iter().map(ManagedImage::argv).collect();
        let outdated = of_services().unwrap_or_default().into_iter().filter(|r| !wanted.contains(&r.argv));
        for record in outdated {
            self.next_id += 1;
            self.images.push(ManagedImage::outdated(self.next_id, record));
        }
    }

    fn state(&self) -> State {
        State {
            pid: std::process::id().cast_signed(),
            config: self.config.clone(),
            config_error: self.config_error.clone(),
            images: self.images.iter().map(ManagedImage::snapshot).collect(),
        }
    }
}
