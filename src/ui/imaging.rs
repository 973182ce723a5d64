//! The display while a disk is imaged.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use cdi_base::units::{human, plural};
use cdi_capture::rescue::areas::Direction;
use cdi_capture::rescue::first::FileCount;
use cdi_capture::rescue::progress::{Stage, View};
use cdi_capture::rescue::rate::per_second;
use cdi_image::badmap::Status;
use serde_json::{Value, json};

use super::{StatusLine, Ui, write_json};
use crate::ui::picture;

/// Displays the progress of imaging a disk, on a terminal or as JSON events.
pub struct Imaging {
    line: StatusLine,
    events: bool,
    name: String,
    last_shown: Instant,
    /// Samples of the last minute: the time, the bytes read so far, and the bytes not settled yet.
    before: Vec<(Instant, u64, u64)>,
}

/// The period over which the displayed rate is averaged.
const RATE: Duration = Duration::from_secs(5);
/// The period from which the remaining time is estimated.
const LEFT: Duration = Duration::from_secs(60);

impl Ui {
    /// Starts the display of the imaging of `name`.
    pub fn imaging(&self, name: &str) -> Imaging {
        Imaging {
            line: self.status(),
            events: self.json && !self.quiet,
            name: super::printable(name),
            last_shown: Instant::now(),
            before: Vec::new(),
        }
    }
}

impl Imaging {
    /// Updates the display, if the last update was long enough ago.
    pub fn show(&mut self, view: &View) {
        let now = Instant::now();
        if now - self.last_shown < Duration::from_millis(if self.line.is_shown() { 200 } else { 1000 }) {
            return;
        }
        self.last_shown = now;
        let unsettled = unsettled(view);
        self.before.push((now, view.read, unsettled));
        let ago = |time| self.before.iter().rposition(|(at, ..)| now - *at >= time).unwrap_or(0);
        let (rate_from, oldest) = (self.before[ago(RATE)], ago(LEFT));
        self.before.drain(..oldest);
        let rate = per_second((view.read - rate_from.1, now - rate_from.0));
        let average = per_second((view.read, view.began.elapsed()));
        let (since, before) = (self.before[0].0, self.before[0].2);
        let settled = per_second((before.saturating_sub(unsettled), now - since));
        let seconds_left = (settled > 0).then(|| unsettled / settled);
        let silent = view.last_good.elapsed().as_secs();
        let waiting = view.reading.map_or(0, |since| since.elapsed().as_secs());
        if self.events {
            let mut event = values(view);
            event["event"] = json!("imaging");
            event["bytes_per_second"] = json!(rate);
            event["seconds_left"] = json!(seconds_left);
            event["map"] = json!(picture::letters(&view.line()));
            for (status, bytes) in view.left {
                event[format!("{}_bytes", status.name().replace('-', "_"))] = json!(bytes);
            }
            write_json(&event);
        }
        if !self.line.is_shown() {
            return;
        }
        let share = view.rescued() as f64 * 100.0 / view.wanted.max(1) as f64;
        let eta = seconds_left.map_or("unknown".into(), time);
        let mut text = format!(
            "{}: {}, {} at {}\n{}\nrescued {} of {} ({share:.2} %), {}/s (average {}/s), time left {eta}\n",
            self.name,
            view.pass.0.name(),
            direction(view.pass.1),
            human(view.at),
            picture::line(&view.line(), picture::colours_wanted(io::stderr().is_terminal())),
            human(view.rescued()),
            human(view.wanted),
            human(rate),
            human(average),
        );
        for (status, bytes) in view.left {
            text.push_str(&format!("{} {}, ", status.name(), human(bytes)));
        }
        text.push_str(&format!(
            "{}, {}",
            plural(view.areas as u64, "area"),
            plural(view.errors, "failed read")
        ));
        let first = first_line(&view.stages, view.files, view.scanning.is_some());
        if !first.is_empty() {
            text.push_str(&format!("\n{first}"));
        }
        if waiting >= 3 {
            text.push_str(&format!("\nthe disk has been busy with one read for {}", time(waiting)));
        } else if silent >= 3 {
            text.push_str(&format!("\nnothing could be read for {}", time(silent)));
        }
        self.line.show_printable(text);
    }
}

/// Formats what is read first: how much of it is there, and how many files; `scanning` if the image is being scanned.
fn first_line(stages: &[Stage], files: Option<FileCount>, scanning: bool) -> String {
    let share = |stage: &Stage| match stage.wanted {
        0 => 100,
        // Not rounded to all of it.
        wanted => u128::from(wanted.saturating_sub(stage.left)) * 100 / u128::from(wanted),
    };
    let stages = stages.iter().map(|stage| format!("{} {} %", super::printable(&stage.name), share(stage)));
    let files = files.map(|files| {
        let counted = format!("files whole so far {} of {}", grouped(files.whole), grouped(files.known));
        match files.unreadable_records {
            0 => counted,
            lost => format!("{counted}, and {} unreadable", plural(lost, "record")),
        }
    });
    let scanning = scanning.then(|| "looking for what to read next".to_owned());
    stages.chain(files).chain(scanning).collect::<Vec<_>>().join(", ")
}

/// Formats a number with commas between groups of digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns what is read first as JSON.
pub fn stages(view: &View) -> Value {
    let one = |s: &Stage| json!({ "stage": s.name, "wanted_bytes": s.wanted, "left_bytes": s.left });
    view.stages.iter().map(one).collect()
}

/// Returns what the `imaging` event and the page have in common.
pub fn values(view: &View) -> Value {
    let mut values = json!({
        "pass": view.pass.0.name(),
        "direction": direction(view.pass.1),
        "at_bytes": view.at,
        "wanted_bytes": view.wanted,
        "rescued_bytes": view.rescued(),
        "areas": view.areas,
        "failed_reads": view.errors,
        "average_bytes_per_second": per_second((view.read, view.began.elapsed())),
        "seconds_since_last_read": view.last_good.elapsed().as_secs(),
        "seconds_waiting": view.reading.map_or(0, |since| since.elapsed().as_secs()),
        "stages": stages(view),
        "scanning": view.scanning.is_some(),
    });
    if let Some(files) = view.files {
        values["files_whole"] = json!(files.whole);
        values["files"] = json!(files.known);
        values["unreadable_records"] = json!(files.unreadable_records);
    }
    values
}

/// Returns the bytes that are not settled: bad sectors may be retried, but whether with success cannot be predicted.
pub fn unsettled(view: &View) -> u64 {
    view.left.iter().filter(|(status, _)| *status != Status::Bad).map(|(_, bytes)| bytes).sum()
}

fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Forwards => "forwards",
        Direction::Backwards => "backwards",
    }
}

/// Formats a duration in seconds.
fn time(seconds: u64) -> String {
    match seconds {
        0..=99 => format!("{seconds} s"),
        100..=5999 => format!("{} min", seconds / 60),
        6000..=359_999 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Returns the bytes of each status as JSON.
pub fn statuses(view: &View) -> Value {
    view.left
        .iter()
        .map(|(status, bytes)| (status.name().to_owned(), json!(bytes)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Returns the statuses with bytes left, for the summary.
pub fn left(view: &View) -> impl Iterator<Item = (Status, u64)> + '_ {
    view.left.iter().copied().filter(|(_, bytes)| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_first_is_one_line() {
        let stage = |name: &str, wanted, left| Stage { name: name.into(), wanted, left };
        let stages = [stage("metadata", 1000, 11), stage("used", 1 << 40, 603 << 30)];
        let mut files = FileCount { whole: 12_345, known: 20_001, unreadable_records: 0 };
        let line = first_line(&stages, Some(files), false);
        assert_eq!(line, "metadata 98 %, used 41 %, files whole so far 12,345 of 20,001");
        files.unreadable_records = 12;
        let line = first_line(&[], Some(files), false);
        assert_eq!(line, "files whole so far 12,345 of 20,001, and 12 records unreadable");
        assert_eq!(
            first_line(&[stage("*.jpg", 0, 0)], None, true),
            "*.jpg 100 %, looking for what to read next"
        );
        assert_eq!(first_line(&[], None, false), "");
    }

    #[test]
    fn numbers_are_grouped() {
        let rows = [(0, "0"), (999, "999"), (1000, "1,000"), (12_345, "12,345"), (1_234_567, "1,234,567")];
        rows.into_iter().for_each(|(number, text)| assert_eq!(grouped(number), text));
    }
}
