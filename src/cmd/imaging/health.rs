//! The health of the drive while it is imaged: smartctl before, after, and every ten minutes.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use cdi_base::workers::{self, lock};
use cdi_capture::health::Health;
use cdi_capture::rescue::progress::View;
use cdi_capture::rescue::source::Source;
use cdi_capture::rescue::{End, Notes, event};
use cdi_image::metadata::rfc3339;
use cdi_system::{is_hardware, run_within};
use serde_json::{Value, json};

use crate::ui::Ui;

/// The interval between two reports.
const INTERVAL: Duration = Duration::from_secs(600);
/// The drive is not asked while a read takes longer than this.
const HANGS: Duration = Duration::from_secs(2);
/// Timeout for a report, and for the last one, when somebody waits for the end.
const TIMEOUT: Duration = Duration::from_secs(60);
const LAST_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest report that is kept whole, in bytes.
const MAX_REPORT: usize = 48 << 10;

/// The last report of a drive.
#[derive(Debug, Clone)]
pub(super) struct Last {
    pub(super) health: Health,
    pub(super) time: String,
    pub(super) warnings: Vec<String>,
}

/// Asks the drive, and notes what it says. Neither the imaging nor the user waits for it.
pub(super) struct Monitor {
    device: PathBuf,
    ui: Ui,
    last: Arc<Mutex<Option<Last>>>,
    /// When the drive was asked last.
    asked: Instant,
    /// The report that is being made.
    answer: Option<Receiver<io::Result<Value>>>,
    /// Whether the drive has answered in this run, and whether it is asked at all.
    answered: bool,
    gives_up: bool,
}

impl Monitor {
    /// Asks the drive for the first time. None if it is no drive.
    pub(super) fn begin(source: &Source, last: &Arc<Mutex<Option<Last>>>, ui: &Ui) -> Option<Monitor> {
        let mut monitor = Monitor {
            device: source.path().to_owned(),
            ui: *ui,
            last: Arc::clone(last),
            asked: Instant::now(),
            answer: None,
            answered: false,
            gives_up: !source.is_device(),
        };
        monitor.ask(TIMEOUT);
        source.is_device().then_some(monitor)
    }

    fn ask(&mut self, timeout: Duration) {
        if self.gives_up {
            return;
        }
        self.asked = Instant::now();
        let (send, answer) = channel();
        let device = self.device.clone();
        let asked = workers::spawn("smartctl", move || {
            let _ = send.send(report(&device, timeout));
        });
        self.answer = asked.is_ok().then_some(answer);
    }

    /// Takes an answer. Returns the event to be noted.
    fn take(&mut self, answer: io::Result<Value>) -> Option<Value> {
        let first = !std::mem::replace(&mut self.answered, true);
        let why = match answer {
            Ok(report) => match self.note(&report, first) {
                Some(event) => return Some(event),
                None => "it says nothing about it".to_owned(),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                "smartctl is not installed (package smartmontools)".into()
            }
            Err(e) => format!("smartctl: {e}"),
        };
        // Once, and not of devices that software makes.
        self.gives_up |= first;
        if first && is_hardware(&self.device) {
            self.ui.message(format!(
                "{}: the health of the drive is not recorded: {why}",
                self.device.display()
            ));
        }
        None
    }

    /// Notes a report: `whole` as it is, too. None if it says nothing.
    fn note(&mut self, report: &Value, whole: bool) -> Option<Value> {
        let health = Health::parse(report)?;
        let mut last = lock(&self.last);
        let new = health.warnings(last.as_ref().map(|last| &last.health));
        new.iter().for_each(|warning| self.ui.warning(format!("{}: {warning}", self.device.display())));
        let mut what = json!({ "health": health });
        if !new.is_empty() {
            what["warnings"] = json!(new);
        }
        if whole && report.to_string().len() <= MAX_REPORT {
            what["smartctl"] = report.clone();
        }
        let warnings =
            last.take().map_or_else(Vec::new, |last| last.warnings).into_iter().chain(new).collect();
        *last = Some(Last { health, time: rfc3339(SystemTime::now()), warnings });
        Some(event("health", what))
    }
}

impl Notes for Monitor {
    fn next(&mut self, view: &View) -> Option<Value> {
        if let Some(answer) = &self.answer {
            let answer = match answer.try_recv() {
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => Err(io::ErrorKind::BrokenPipe.into()),
                Ok(answer) => answer,
            };
            self.answer = None;
            return self.take(answer);
        }
        let hangs = view.reading.is_some_and(|since| since.elapsed() > HANGS);
        if !hangs && self.asked.elapsed() >= INTERVAL {
            self.ask(TIMEOUT);
        }
        None
    }

    fn last(&mut self, end: &End, view: &View) -> Option<Value> {
        // Somebody waits for the end.
        let waits = matches!(end, End::Stopped | End::Gone | End::Timeout) || view.reading.is_some();
        if waits {
            return None;
        }
        if self.answer.is_none() {
            self.ask(LAST_TIMEOUT);
        }
        let answer = self.answer.take()?.recv_timeout(LAST_TIMEOUT).ok()?;
        self.note(&answer.ok()?, true)
    }
}

/// Runs smartctl. Its exit status says little: most of its bits are about the drive.
fn report(device: &Path, timeout: Duration) -> io::Result<Value> {
    let ask = |words: &[&str]| -> io::Result<Value> {
        let output = run_within(Command::new("smartctl").args(words).arg(device), timeout)?;
        serde_json::from_slice(&output.stdout).map_err(|_| {
            let code = output.status.code().map_or_else(String::new, |code| format!(" (exit code {code})"));
            io::Error::other(format!("no report{code}"))
        })
    };
    let mut report = ask(&["-j", "-x"])?;
    // Version 7.4 and later say so if there are values per head, and print them only if asked.
    let farm = &report["seagate_farm_log"];
    if farm["supported"] == true && farm.as_object().is_some_and(|farm| farm.len() <= 2) {
        report["seagate_farm_log"] = ask(&["-j", "-l", "farm"])?["seagate_farm_log"].take();
    }
    Ok(report)
}
