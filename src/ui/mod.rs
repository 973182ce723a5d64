//! Every word that a user reads: data on stdout, talk on stderr, progress, and how an error is told.
//!
//! Nothing else prints.

#![allow(clippy::print_stdout, clippy::print_stderr)]

pub mod imaging;
pub mod picture;

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cdi_base::error::{Error, Kind};
use cdi_base::printable;
pub use cdi_base::printable::printable;
use cdi_base::units::human;
use cdi_image::text::listing;
use cdi_image::text::listing::Listing;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::report::{Report, exit_code};

/// How the user wants to be spoken to.
#[derive(Debug, Clone, Copy)]
pub struct Ui {
    /// One JSON object on stdout instead of text; errors and progress as JSON on stderr.
    pub json: bool,
    /// Nothing on stderr but errors.
    pub quiet: bool,
}

impl Ui {
    /// Data for the user, or for the next program: a line on stdout.
    pub fn data(&self, line: impl Display) {
        write_stdout(&format!("{}\n", printable(&line.to_string())));
    }

    /// A line in colours, of nothing that comes from an image.
    pub fn painted(&self, line: impl Display) {
        write_stdout(&format!("{line}\n"));
    }

    /// Data for the next program that must be exact, as a path must. For a terminal, it is as other data.
    pub fn exact(&self, line: impl Display) {
        if io::stdout().is_terminal() { self.data(line) } else { self.painted(line) }
    }

    /// Stdout for bytes that are no text, if it is for a program. None: a person at a terminal would get them.
    pub fn bytes(&self) -> Option<std::fs::File> {
        let out = io::stdout();
        let file = (!out.is_terminal()).then(|| out.as_fd().try_clone_to_owned());
        file?.ok().map(Into::into)
    }

    /// Whether data is for a person who wants colours.
    pub fn colours(&self) -> bool {
        picture::colours_wanted(io::stdout().is_terminal())
    }

    /// Data as it is, without a line end of ours.
    pub fn raw(&self, bytes: &[u8]) {
        write_stdout_bytes(bytes);
    }

    /// A long text, written as it is made.
    pub fn listing(&self, listing: &impl Listing) {
        let mut out = io::stdout().lock();
        written(listing::write(listing, &mut out).and_then(|()| out.flush()));
    }

    /// The result as JSON, if that is wanted. Whether it was.
    pub fn json(&self, value: &impl Serialize) -> bool {
        if self.json {
            let mut out = printable::Json(BufWriter::new(io::stdout().lock()));
            let result = serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from);
            written(result.and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()));
        }
        self.json
    }

    /// A result that may be long, as JSON: an object with one value and one list, written as it comes.
    pub fn json_list(
        &self,
        (name, value): (&str, Value),
        list: &str,
        items: impl Iterator<Item = Result<Value, Error>>,
    ) -> Result<(), Error> {
        let mut out = printable::Json(BufWriter::new(io::stdout().lock()));
        written(write!(out, "{{\n  {}: {value},\n  {}: [", json!(name), json!(list)));
        for (i, item) in items.enumerate() {
            let comma = if i == 0 { "" } else { "," };
            written(write!(out, "{comma}\n    {}", item?));
        }
        written(write!(out, "\n  ]\n}}\n").and_then(|()| out.flush()));
        Ok(())
    }

    /// A result that may be long: lines, written as they come.
    pub fn lines(&self, lines: impl Iterator<Item = Result<String, Error>>) -> Result<(), Error> {
        let mut out = BufWriter::new(io::stdout().lock());
        for line in lines {
            written(writeln!(out, "{}", printable(&line?)));
        }
        written(out.flush());
        Ok(())
    }

    /// Talk: what was done, what to know. Not with `--quiet`, nor with `--json`.
    pub fn say(&self, text: impl Display) {
        if !self.quiet && !self.json {
            write_stderr(&format!("{}\n", printable(&text.to_string())));
        }
    }

    /// Something that the user should know though all goes on.
    pub fn warning(&self, text: impl Display) {
        if self.quiet {
        } else if self.json {
            write_json(&json!({ "warning": text.to_string() }));
        } else {
            write_stderr(&format!("warning: {}\n", printable(&text.to_string())));
        }
    }

    /// An error, with what caused it and the way out.
    pub fn error(&self, error: &Error) {
        let report = Report::of(error);
        if self.json {
            write_json(&json!({ "error": report }));
            return;
        }
        let mut text = format!("cdi: {}\n", printable(&report.line()));
        if let Some(hint) = report.hint {
            text.push_str(&format!("hint: {}\n", printable(&hint)));
        }
        write_stderr(&text);
    }

    /// The progress of something that takes `total` bytes; 0 if nobody knows how many.
    pub fn progress(&self, what: &'static str, total: u64) -> Progress {
        let bar = (!self.quiet && !self.json && io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(5));
            let style = match total {
                0 => "{msg} {bytes} {binary_bytes_per_sec}",
                _ => "{msg} {bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec}, {eta} left",
            };
            bar.set_style(
                ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_message(what);
            bar
        });
        let now = Instant::now();
        Progress { what, bar, events: self.json && !self.quiet, done: 0, total, start: now, told: now }
    }
}

/// Where a long work stands.
pub struct Progress {
    what: &'static str,
    bar: Option<ProgressBar>,
    events: bool,
    done: u64,
    total: u64,
    start: Instant,
    told: Instant,
}

impl Progress {
    /// So many more bytes are done.
    pub fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
        if self.events && self.told.elapsed() >= Duration::from_secs(1) {
            self.told = Instant::now();
            let rate = self.rate();
            let event = json!({
                "event": "progress",
                "what": self.what,
                "done_bytes": self.done,
                "total_bytes": self.total,
                "bytes_per_second": rate,
                "seconds_left": self.total.saturating_sub(self.done) / rate.max(1),
            });
            write_json(&event);
        }
    }

    /// How long it took, and the rate, for a last sentence.
    pub fn finish(self) -> String {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let seconds = self.start.elapsed().as_secs_f64();
        format!("{seconds:.1} s, {}/s", human(self.rate()))
    }

    /// Bytes a second so far.
    fn rate(&self) -> u64 {
        let millis = self.start.elapsed().as_millis().max(1);
        u64::try_from(u128::from(self.done) * 1000 / millis).unwrap_or(u64::MAX)
    }
}

/// The log goes to stderr: a daemon's stderr is its log file.
pub fn start_log(verbose: u8) {
    struct Stderr;
    impl log::Log for Stderr {
        // The library that speaks FUSE tells much that is no user's business.
        fn enabled(&self, of: &log::Metadata<'_>) -> bool {
            of.target().starts_with("cdi")
                || of.level() == log::Level::Error
                || log::max_level() >= log::Level::Debug
        }
        fn log(&self, record: &log::Record<'_>) {
            if !self.enabled(record.metadata()) {
                return;
            }
            let level = record.level().as_str().to_ascii_lowercase();
            write_stderr(&format!("cdi: {level}: {}\n", printable(&record.args().to_string())));
        }
        fn flush(&self) {}
    }
    let level = match verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Debug,
    };
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(level);
    }
}

fn write_stdout(text: &str) {
    write_stdout_bytes(text.as_bytes());
}

fn write_stdout_bytes(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    written(out.write_all(bytes).and_then(|()| out.flush()));
}

/// Set when there is something to be cleaned up at the end.
static GOES_ON: AtomicBool = AtomicBool::new(false);

/// From now on the program goes on if nobody reads what it prints: it serves somebody else.
pub fn go_on_unheard() {
    GOES_ON.store(true, Ordering::Relaxed);
}

/// Ends the program if stdout could not be written.
fn written(result: io::Result<()>) {
    if let Err(e) = result {
        if GOES_ON.load(Ordering::Relaxed) {
            return log::warn!("stdout could not be written: {e}");
        }
        // Whoever read our output has seen enough.
        let code = if e.kind() == io::ErrorKind::BrokenPipe { 0 } else { exit_code(Kind::Failed) };
        std::process::exit(code.into());
    }
}

/// A line of JSON on stderr.
fn write_json(value: &Value) {
    write_stderr(&format!("{}\n", printable::json(&value.to_string())));
}

fn write_stderr(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
