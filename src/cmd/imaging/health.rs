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
const LAST_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest report that is kept whole, in bytes.
const MAX_REPORT: usize = 48 << 10;

/// The last report of a drive.
#[derive(Debug, Clone)]
pub(super) struct Last {
    pub(super) health: Health,
    pub(super) time: String,
    pub(super) warnings: Vec<String>,
}

/// Asks the drive, and notes what it says.
pub(super) struct Monitor {
    device: PathBuf,
    ui: Ui,
    last: Arc<Mutex<Option<Last>>>,
    /// When the drive was asked last; None: it says nothing.
    asked: Option<Instant>,
    answer: Option<Receiver<Option<Value>>>,
}

impl Monitor {
    /// Asks the drive before it is read. Returns what else is to be asked during the imaging, and the event to be noted.
    pub(super) fn begin(
        source: &Source,
        last: &Arc<Mutex<Option<Last>>>,
        ui: &Ui,
    ) -> (Option<Monitor>, Option<Value>) {
        if !source.is_device() {
            return (None, None);
        }
        let report = match report(source.path(), TIMEOUT) {
            Ok(report) => report,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if is_hardware(source.path()) {
                    ui.message(
                        "smartctl is not installed, so the health of the drive is not recorded (package smartmontools)",
                    );
                }
                return (None, None);
            }
            Err(e) => {
                ui.warning(format!("smartctl: {e}: the health of the drive is not known"));
                return (None, None);
            }
        };
        let mut monitor = Monitor {
            device: source.path().to_owned(),
            ui: *ui,
            last: Arc::clone(last),
            asked: Some(Instant::now()),
            answer: None,
        };
        match monitor.note(&report, true) {
            Some(event) => (Some(monitor), Some(event)),
            None => (None, None),
        }
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
            let report = match answer.try_recv() {
                Err(TryRecvError::Empty) => return None,
                Ok(report) => report,
                Err(TryRecvError::Disconnected) => None,
            };
            self.answer = None;
            return self.note(&report?, false);
        }
        let hangs = view.reading.is_some_and(|since| since.elapsed() > HANGS);
        if hangs || self.asked.is_some_and(|at| at.elapsed() < INTERVAL) {
            return None;
        }
        self.asked = Some(Instant::now());
        let (send, answer) = channel();
        let device = self.device.clone();
        let asked = workers::spawn("smartctl", move || {
            let _ = send.send(report(&device, TIMEOUT).ok());
        });
        self.answer = asked.is_ok().then_some(answer);
        None
    }

    fn last(&mut self, end: &End, view: &View) -> Option<Value> {
        let gone = matches!(end, End::Gone | End::Timeout);
        let hangs = view.reading.is_some();
        if gone || hangs || self.answer.is_some() {
            return None;
        }
        self.note(&report(&self.device, LAST_TIMEOUT).ok()?, true)
    }
}

/// Runs smartctl. Its exit status says little: most of its bits are about the drive.
fn report(device: &Path, timeout: Duration) -> io::Result<Value> {
    let ask = |words: &[&str]| -> io::Result<Value> {
        let output = run_within(Command::new("smartctl").args(words).arg(device), timeout)?;
        Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
    };
    let mut report = ask(&["-j", "-x"])?;
    // Version 7.4 and later say so if there are values per head, and print them only if asked.
    let farm = &report["seagate_farm_log"];
    if farm["supported"] == true && farm.as_object().is_some_and(|farm| farm.len() <= 2) {
        report["seagate_farm_log"] = ask(&["-j", "-l", "farm"])?["seagate_farm_log"].take();
    }
    Ok(report)
}
