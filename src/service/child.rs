//! A child of the service: `cdi attach --foreground` or `cdi mount --foreground`, and what it says.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::SystemTime;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

use crate::report::Report;

use super::config::Entry;
use crate::mount::record::{MountRecord, SERVICE};

/// What the service hears.
pub(super) enum Event {
    /// A signal for the service.
    Signal(i32),
    /// A child says that its disk is shown.
    Up(u64, Box<MountRecord>),
    /// A child says why it cannot go on.
    Error(u64, String),
    /// The image's file, if it is there: its length and time.
    Looked(u64, Option<(u64, SystemTime)>),
    /// A child has ended.
    Ended(u64, io::Result<ExitStatus>),
}

/// Starts `program` to show an image. Its process; whatever becomes of it is told to `send`.
pub(super) fn start(id: u64, program: &Path, entry: &Entry, send: Sender<Event>) -> io::Result<i32> {
    let mut child = Command::new(program)
        .args(entry.command())
        .env(SERVICE, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A Ctrl-C at the service's terminal is the service's to answer.
        .process_group(0)
        .spawn()?;
    let pid = child.id().cast_signed();
    let image = entry.image.clone();
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let errors = send.clone();
    let started = thread::Builder::new()
        .name("child-errors".into())
        .spawn(move || listen(id, &image, err, &errors))
        .and_then(|listener| {
            let wait = move || wait(id, &mut child, out, listener, &send);
            thread::Builder::new().name("child".into()).spawn(wait)
        });
    if started.is_err() {
        // Nobody would ever know how it ended.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    started.map(|_| pid)
}

/// An error as a child writes it to stderr.
#[derive(Deserialize)]
struct Said {
    error: Report,
}

/// Hears what a child says on stderr: what it cannot do for the status, everything for the log.
fn listen(id: u64, image: &Path, err: Option<impl Read>, send: &Sender<Event>) {
    let Some(err) = err else { return };
    let mut lines = BufReader::new(err);
    let mut line = Vec::new();
    // A line is at most as long as one may be; the rest of a longer one is a line of its own.
    while lines.by_ref().take(64 << 10).read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        match serde_json::from_str::<Said>(&text) {
            Ok(Said { error }) => {
                let hint = error.hint.as_ref().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
                let _ = send.send(Event::Error(id, error.line() + &hint));
            }
            Err(_) => log::warn!("{}: {text}", image.display()),
        }
        line.clear();
    }
}

/// Waits for a child: until it says that its disk is shown, then until it ends.
fn wait(
    id: u64,
    child: &mut Child,
    out: Option<impl Read>,
    listener: thread::JoinHandle<()>,
    send: &Sender<Event>,
) {
    if let Some(out) = out {
        let mut said = serde_json::Deserializer::from_reader(BufReader::new(out)).into_iter::<MountRecord>();
        if let Some(Ok(record)) = said.next() {
            let _ = send.send(Event::Up(id, Box::new(record)));
        }
    }
    let status = child.wait();
    // What it said last is why it ended.
    let _ = listener.join();
    let _ = send.send(Event::Ended(id, status));
}
