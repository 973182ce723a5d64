//! `cdi service run`: a child for each image, started when the image is there, started again when it dies, ended in
//! order. One thread decides; others only wait and tell it.

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

/// How long cleaning up may take at the end: launchd and systemd wait for a minute in all.
const AT_THE_END: Duration = Duration::from_secs(15);

struct Supervisor {
    /// This program, as it was when the service started: it may be replaced while it runs.
    program: PathBuf,
    config: PathBuf,
    config_error: Option<String>,
    slots: Vec<ManagedImage>,
    next_id: u64,
    send: Sender<Event>,
    ending: bool,
    /// What it told of itself last, and why that could not be written.
    told: Option<State>,
    unsaved: Option<String>,
}

/// Runs the service until a signal ends it.
pub fn run(path: &Path) -> Result<(), Error> {
    let _lock = lock()?;
    let config = config::read(path)?;
    let (send, events) = channel();
    let signals = send.clone();
    let mut wanted =
        Signals::new(ending_signals()).map_err(|e| Error::failed("signals cannot be caught").because(e))?;
    let told = move || wanted.forever().all(|signal| signals.send(Event::Signal(signal)).is_ok());
    workers::spawn("signals", told)?;
    clean_up(Duration::ZERO);
    let program = std::env::current_exe().map_err(|e| Error::failed("who am I?").because(e))?;
    let path = std::path::absolute(path).map_err(|e| Error::io("is not a path", path, e))?;
    let mut supervisor = Supervisor {
        program,
        config: path,
        config_error: None,
        slots: Vec::new(),
        next_id: 0,
        send,
        ending: false,
        told: None,
        unsaved: None,
    };
    supervisor.take(config);
    supervisor.end_outdated();
    let ended = supervisor.serve(&events);
    State::remove();
    ended
}

/// Has the service that runs read its configuration again. Whether one runs.
pub fn reload() -> Result<bool, Error> {
    let Some(state) = State::read()? else { return Ok(false) };
    kill(Pid::from_raw(state.pid), Signal::SIGHUP)
        .map_err(|e| Error::failed(format!("the service (pid {}) cannot be told", state.pid)).because(e))?;
    Ok(true)
}

impl Supervisor {
    fn serve(&mut self, events: &Receiver<Event>) -> Result<(), Error> {
        loop {
            let now = Instant::now();
            self.slots.iter_mut().for_each(|slot| slot.step(now, &self.send));
            self.slots.retain(|slot| slot.wanted || slot.stopping.is_some());
            self.publish_state();
            if self.ending && self.slots.is_empty() {
                clean_up(AT_THE_END);
                return Ok(());
            }
            // A signal or a child may always come before.
            let pauses = self.slots.iter().filter_map(|slot| slot.pause(Instant::now()));
            let pause = pauses.min().unwrap_or(Duration::from_secs(3600));
            match events.recv_timeout(pause.max(Duration::from_millis(20))) {
                Ok(event) => self.hear(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Error::failed("the threads are gone")),
            }
        }
    }

    /// Writes what it tells of itself, if that has changed. That nobody can be told is no reason to end.
    fn publish_state(&mut self) {
        let state = self.state();
        if self.told.as_ref() == Some(&state) {
            return;
        }
        let unsaved = state.save().err().map(|e| e.to_string());
        if let Some(why) = unsaved.as_ref().filter(|why| self.unsaved.as_ref() != Some(why)) {
            log::error!("{why}");
        }
        self.told = Some(state).filter(|_| unsaved.is_none());
        self.unsaved = unsaved;
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Signal(SIGHUP) if !self.ending => match config::read(&self.config) {
                Ok(config) => {
                    log::info!("{}: read again", self.config.display());
                    self.config_error = None;
                    self.take(config);
                }
                Err(e) => {
                    log::error!("{e}; all stays as it is");
                    self.config_error = Some(e.to_string());
                }
            },
            Event::Signal(SIGHUP) => {}
            Event::Signal(_) => {
                self.ending = true;
                self.slots.iter_mut().for_each(ManagedImage::stop);
            }
            Event::Up(id, record) => {
                if let Some(slot) = self.slot(id) {
                    slot.up(&record);
                }
            }
            Event::Error(id, why) => {
                if let Some(slot) = self.slot(id) {
                    slot.state.why = Some(why);
                }
            }
            Event::Looked(id, file) => {
                if self.slot(id).is_some_and(|slot| slot.looked(file)) {
                    self.start(id);
                }
            }
            Event::Ended(id, status) => {
                if let Some(slot) = self.slot(id) {
                    slot.ended(status);
                }
            }
        }
    }

    fn slot(&mut self, id: u64) -> Option<&mut ManagedImage> {
        self.slots.iter_mut().find(|slot| slot.id == id)
    }

    /// Takes a configuration: what it no longer names goes, what it names anew comes, what is as it was stays. What was
    /// taken away or failed is tried at once.
    fn take(&mut self, config: Config) {
        for slot in &mut self.slots {
            if !config.images.contains(&slot.entry) {
                slot.wanted = false;
                slot.stop();
            } else {
                slot.hurry();
            }
        }
        for entry in config.images {
            if !self.slots.iter().any(|slot| slot.wanted && slot.entry == entry) {
                self.next_id += 1;
                self.slots.push(ManagedImage::new(self.next_id, entry));
            }
        }
    }

    fn start(&mut self, id: u64) {
        let Some(entry) = self.slot(id).map(|slot| slot.entry.clone()) else { return };
        // An earlier entry for the same image or folder has to be gone first.
        let in_the_way = |other: &ManagedImage| {
            let same_dir = entry.dir.is_some() && other.entry.dir == entry.dir;
            other.id != id && (other.entry.image == entry.image || same_dir)
        };
        if !self.slots.iter().any(in_the_way) {
            let (program, send) = (self.program.clone(), self.send.clone());
            if let Some(slot) = self.slot(id) {
                slot.start(&program, send);
            }
        }
    }

    /// What an earlier service showed and this one is not to, or not so, goes.
    fn end_outdated(&mut self) {
        let wanted: Vec<_> = self.slots.iter().map(ManagedImage::words).collect();
        let outdated = of_services().unwrap_or_default().into_iter().filter(|r| !wanted.contains(&r.argv));
        for record in outdated {
            self.next_id += 1;
            self.slots.push(ManagedImage::outdated(self.next_id, record));
        }
    }

    fn state(&self) -> State {
        State {
            pid: std::process::id().cast_signed(),
            config: self.config.clone(),
            config_error: self.config_error.clone(),
            images: self.slots.iter().map(ManagedImage::snapshot).collect(),
        }
    }
}
