//! A child of the service (`cdi attach --foreground` or `cdi mount --foreground`) and its output.

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

use super::config::Entry;
use crate::mount::record::{MountRecord, SERVICE};
use crate::report::Report;

/// An event for the service.
pub(super) enum Event {
    /// A signal to the service.
    Signal(i32),
    /// A child reports that its disk is up.
    Up(u64, Box<MountRecord>),
    /// A child reports why it failed.
    Error(u64, String),
    /// The length in bytes and the modification time of an image file, if it exists.
    Checked(u64, Option<(u64, SystemTime)>),
    /// A child has ended.
    Ended(u64, io::Result<ExitStatus>),
}

/// Starts `program` to mount or attach an image. Returns its pid; its events are sent to `send`.
pub(super) fn start(id: u64, program: &Path, entry: &Entry, send: Sender<Event>) -> io::Result<i32> {
    let mut child = Command::new(program)
        .args(entry.command())
        .env(SERVICE, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C in the service's terminal is for the service alone.
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
        // Without these threads, its end would go unnoticed.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    started.map(|_| pid)
}

/// A line that a child prints to stderr: an error, or a line of its log.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Error(Report),
    Log { message: String },
}

/// Reads a child's stderr: errors are sent as events, for the status; everything else is logged.
fn listen(id: u64, image: &Path, err: Option<impl Read>, send: &Sender<Event>) {
    let Some(err) = err else { return };
    let mut lines = BufReader::new(err);
    let mut line = Vec::new();
    // Lines are limited to 64 KiB; the rest of a longer one counts as another line.
    while lines.by_ref().take(64 << 10).read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        match serde_json::from_str::<Line>(&text) {
            Ok(Line::Error(error)) => {
                let hint = error.hint.as_ref().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
                let _ = send.send(Event::Error(id, error.line() + &hint));
            }
            Ok(Line::Log { message }) => log::warn!("{}: {message}", image.display()),
            Err(_) => log::warn!("{}: {text}", image.display()),
        }
        line.clear();
    }
}

/// Waits for a child: first until it reports that its disk is up, then until it ends.
fn wait(
    id: u64,
    child: &mut Child,
    out: Option<impl Read>,
    listener: thread::JoinHandle<()>,
    send: &Sender<Event>,
) {
    if let Some(out) = out {
        let mut output =
            serde_json::Deserializer::from_reader(BufReader::new(out)).into_iter::<MountRecord>();
        if let Some(Ok(record)) = output.next() {
            let _ = send.send(Event::Up(id, Box::new(record)));
        }
    }
    let status = child.wait();
    // Its last error is the reason why it ended, so it must be sent first.
    let _ = listener.join();
    let _ = send.send(Event::Ended(id, status));
}
