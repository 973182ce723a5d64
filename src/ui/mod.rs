//! Everything that is printed: data on stdout, messages on stderr, progress, and errors. Nothing else prints.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod ask;
pub mod imaging;
pub mod page;
pub mod picture;

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cdi_base::error::{Error, Kind};
use cdi_base::printable;
pub use cdi_base::printable::printable;
use cdi_base::printable::redacted;
use cdi_base::units::human;
use cdi_image::text::listing;
use cdi_image::text::listing::Listing;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};

use crate::report::{Report, exit_code};

/// The options for output.
#[derive(Debug, Clone, Copy)]
pub struct Ui {
    /// One JSON object on stdout instead of text; errors and progress as JSON on stderr.
    pub json: bool,
    /// Only errors on stderr.
    pub quiet: bool,
}

impl Ui {
    /// Prints a line of data on stdout.
    pub fn data(&self, line: impl Display) {
        write_stdout(&format!("{}\n", printable(&line.to_string())));
    }

    /// Prints a line with colours. Nothing in it may come from an image.
    pub fn painted(&self, line: impl Display) {
        write_stdout(&format!("{line}\n"));
    }

    /// Prints data that another program needs byte for byte, such as a path. On a terminal it is made printable like
    /// other data.
    pub fn exact(&self, line: impl Display) {
        if io::stdout().is_terminal() { self.data(line) } else { self.painted(line) }
    }

    /// Returns stdout for binary data; None if it is a terminal.
    pub fn bytes(&self) -> Option<std::fs::File> {
        let out = io::stdout();
        let file = (!out.is_terminal()).then(|| out.as_fd().try_clone_to_owned());
        file?.ok().map(Into::into)
    }

    /// Checks whether data is printed in colours.
    pub fn colours(&self) -> bool {
        picture::colours_wanted(io::stdout().is_terminal())
    }

    /// Prints binary data unchanged.
    pub fn raw(&self, bytes: &[u8]) {
        write_stdout_bytes(bytes);
    }

    /// Prints a long text while it is generated.
    pub fn listing(&self, listing: &impl Listing) {
        let mut out = io::stdout().lock();
        written(listing::write(listing, &mut out).and_then(|()| out.flush()));
    }

    /// Prints the result as JSON with `--json`. Returns whether it did.
    pub fn json(&self, value: &impl Serialize) -> bool {
        if self.json {
            let mut out = printable::Json(BufWriter::new(io::stdout().lock()));
            let result = serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from);
            written(result.and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()));
        }
        self.json
    }

    /// Prints an event on stderr with `--json`. Returns whether output is JSON.
    pub fn event(&self, value: &Value) -> bool {
        if self.json && !self.quiet {
            write_json(value);
        }
        self.json
    }

    /// Prints a result that may be long as JSON: an object with some values and one list.
    pub fn json_list(
        &self,
        values: &[(&str, Value)],
        list: &str,
        items: impl Iterator<Item = Result<Value, Error>>,
    ) -> Result<(), Error> {
        let mut out = printable::Json(BufWriter::new(io::stdout().lock()));
        written(writeln!(out, "{{"));
        for (name, value) in values {
            written(writeln!(out, "  {}: {value},", json!(name)));
        }
        written(write!(out, "  {}: [", json!(list)));
        for (i, item) in items.enumerate() {
            let comma = if i == 0 { "" } else { "," };
            written(write!(out, "{comma}\n    {}", item?));
        }
        written(write!(out, "\n  ]\n}}\n").and_then(|()| out.flush()));
        Ok(())
    }

    /// Prints a result that may be long, line by line.
    pub fn lines(&self, lines: impl Iterator<Item = Result<String, Error>>) -> Result<(), Error> {
        let mut out = BufWriter::new(io::stdout().lock());
        for line in lines {
            written(writeln!(out, "{}", printable(&line?)));
        }
        written(out.flush());
        Ok(())
    }

    /// Prints rows of columns; each column is as wide as its widest cell.
    pub fn table<const N: usize>(&self, rows: Vec<[String; N]>) {
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; N] = std::array::from_fn(width);
        for row in &rows {
            // Not by the formatter, which takes no width above 65,535.
            let pad = |cell: &String, width: usize| " ".repeat(width - cell.chars().count());
            let cells = row.iter().zip(widths).map(|(cell, width)| cell.clone() + &pad(cell, width));
            self.data(cells.collect::<Vec<_>>().join("  ").trim_end());
        }
    }

    /// Prints a message on stderr; not with `--quiet` or `--json`.
    pub fn message(&self, text: impl Display) {
        self.message_with_address(redacted(&text.to_string()));
    }

    /// The same, with an address of our own in it, which the user needs as a whole.
    pub fn message_with_address(&self, text: impl Display) {
        if !self.quiet && !self.json {
            write_stderr(&format!("{}\n", printable(&text.to_string())));
        }
    }

    /// Prints a warning on stderr; not with `--quiet`.
    pub fn warning(&self, text: impl Display) {
        if self.quiet {
        } else if self.json {
            write_json(&json!({ "warning": redacted(&text.to_string()) }));
        } else {
            write_stderr(&format!("warning: {}\n", printable(&redacted(&text.to_string()))));
        }
    }

    /// Prints the text of an error in the command line, which begins with "error: ".
    pub fn usage(&self, text: &str) {
        write_stderr(&redacted(text));
    }

    /// Prints an error, its causes, and what to do about it.
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

    /// Starts the display of the progress of `what`, which takes `total` bytes; 0 if that is not known.
    pub fn progress(&self, what: &'static str, total: u64) -> Progress {
        self.progress_in(what, None, total)
    }

    /// The same, for things that are counted: `unit` is "records", for example.
    pub fn counting(&self, what: &'static str, unit: &'static str, total: u64) -> Progress {
        self.progress_in(what, Some(unit), total)
    }

    fn progress_in(&self, what: &'static str, unit: Option<&'static str>, total: u64) -> Progress {
        let bar = (!self.quiet && !self.json && io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(5));
            let style = match (total, unit) {
                (0, None) => "{msg} {bytes} {binary_bytes_per_sec}",
                (_, None) => "{msg} {bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec}, {eta} left",
                (0, Some(_)) => "{msg} {human_pos} {per_sec}",
                (_, Some(_)) => "{msg} {bar:30} {human_pos}/{human_len} {per_sec}, {eta} left",
            };
            bar.set_style(
                ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_message(unit.map_or(what.to_owned(), |unit| format!("{what} {unit}")));
            bar
        });
        let now = Instant::now();
        let events = self.json && !self.quiet;
        Progress { what, unit, bar, events, done: 0, total, start: now, last_event: now }
    }
}

/// A line on the terminal that changes.
pub struct StatusLine(Option<ProgressBar>);

impl Ui {
    /// Starts a line that changes; only on a terminal.
    pub fn status(&self) -> StatusLine {
        let bar = (!self.quiet && !self.json && io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
            let plain = ProgressStyle::with_template("{msg}");
            bar.set_style(plain.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar
        });
        StatusLine(bar)
    }
}

impl StatusLine {
    /// Returns whether there is a terminal to show it on.
    pub fn is_shown(&self) -> bool {
        self.0.is_some()
    }

    /// Shows a text.
    pub fn show(&self, text: &str) {
        self.show_printable(printable(text));
    }

    /// Shows a text with colours. Nothing in it may come from an image.
    pub fn show_printable(&self, text: String) {
        if let Some(bar) = &self.0 {
            bar.set_message(text);
            bar.tick();
        }
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// The progress of a long operation.
pub struct Progress {
    what: &'static str,
    /// What is counted; None: bytes.
    unit: Option<&'static str>,
    bar: Option<ProgressBar>,
    events: bool,
    done: u64,
    total: u64,
    start: Instant,
    last_event: Instant,
}

impl Progress {
    /// Counts `more` bytes, or what is counted, as done.
    pub fn advance(&mut self, more: u64) {
        self.done += more;
        if let Some(bar) = &self.bar {
            bar.inc(more);
        }
        if self.events && self.last_event.elapsed() >= Duration::from_secs(1) {
            self.last_event = Instant::now();
            let rate = self.rate();
            let unit = self.unit.unwrap_or("bytes");
            write_json(&json!({
                "event": "progress",
                "what": self.what,
                format!("done_{unit}"): self.done,
                format!("total_{unit}"): self.total,
                format!("{unit}_per_second"): rate,
                "seconds_left": self.total.saturating_sub(self.done) / rate.max(1),
            }));
        }
    }

    /// Ends the display. Returns the elapsed time and the rate, for the summary.
    pub fn finish(self) -> String {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let seconds = self.start.elapsed().as_secs_f64();
        format!("{seconds:.1} s, {}/s", human(self.rate()))
    }

    /// Returns the average rate in bytes per second.
    fn rate(&self) -> u64 {
        let millis = self.start.elapsed().as_millis().max(1);
        u64::try_from(u128::from(self.done) * 1000 / millis).unwrap_or(u64::MAX)
    }
}

/// Sends the log to stderr; the stderr of a daemon is its log file.
pub fn start_log(verbose: u8, json: bool) {
    struct Stderr {
        json: bool,
    }
    impl log::Log for Stderr {
        // Much of what the FUSE library logs is of no use to users.
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
            if self.json {
                return write_json(
                    &json!({ "log": { "level": level, "message": redacted(&record.args().to_string()) } }),
                );
            }
            let level = if level == "warn" { "warning".to_owned() } else { format!("cdi: {level}") };
            write_stderr(&format!("{level}: {}\n", printable(&redacted(&record.args().to_string()))));
        }
        fn flush(&self) {}
    }
    let level = match verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Debug,
    };
    static LOGGER: OnceLock<Stderr> = OnceLock::new();
    if log::set_logger(LOGGER.get_or_init(|| Stderr { json })).is_ok() {
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

/// Set while the program serves a disk that has to be cleaned up at the end.
static IGNORE_CLOSED_STDOUT: AtomicBool = AtomicBool::new(false);

/// Keeps the program running from now on even if stdout is closed, because it serves a disk.
pub fn ignore_closed_stdout() {
    IGNORE_CLOSED_STDOUT.store(true, Ordering::Relaxed);
}

/// Ends the program if writing to stdout failed.
fn written(result: io::Result<()>) {
    if let Err(e) = result {
        if IGNORE_CLOSED_STDOUT.load(Ordering::Relaxed) {
            return log::warn!("cannot write to stdout: {e}");
        }
        // The program that reads the output has exited.
        let code = if e.kind() == io::ErrorKind::BrokenPipe { 0 } else { exit_code(Kind::Failed) };
        std::process::exit(code.into());
    }
}

/// Prints a line of JSON on stderr.
fn write_json(value: &Value) {
    write_stderr(&format!("{}\n", printable::json(&value.to_string())));
}

fn write_stderr(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
