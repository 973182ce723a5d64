//! The report of `--copy`: what was saved and what was not, as JSON and as a page for the person whose files they are.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use cdi_base::error::Error;
use cdi_base::readable::Readable;
use cdi_base::units::{human, plural};
use cdi_fs::catalogue::State;
use cdi_fs::loss::Loss;
use cdi_image::disk::Disk;
use cdi_image::metadata::rfc3339;
use serde_json::{Value, json};

use super::copy::target::Target;
use super::list::{contents_text, hidden, loss_json};
use super::{Found, Rest};

/// The page in the directory of the copies.
pub const HTML: &str = "cdi-report.html";
/// The same for programs.
const JSON: &str = "cdi-report.json";

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All of it was copied.
    Whole,
    /// It is not whole in this image, and was copied whole from another one of the disk.
    Kept,
    /// It was copied with holes: what is lost.
    WithHoles(String),
    /// It was not copied: why.
    NotSaved(String),
    /// It has no contents to copy: why.
    LeftOut(String),
}

/// A file that was to be copied.
pub struct Saved {
    volume: String,
    path: String,
    size: Option<u64>,
    /// Its state in the image.
    pub state: State,
    /// What became of it.
    pub outcome: Outcome,
    /// What is lost of its contents.
    pub loss: Loss,
    /// Its other streams, which are not copied.
    pub streams: Vec<String>,
    /// The bytes that were read.
    pub copied: u64,
}

impl Saved {
    /// Returns a file of which nothing is copied yet.
    pub fn of(volume: &str, path: &str, size: Option<u64>, state: State) -> Saved {
        Saved {
            volume: volume.into(),
            path: path.into(),
            size,
            state,
            outcome: Outcome::LeftOut(String::new()),
            loss: Loss::default(),
            streams: Vec::new(),
            copied: 0,
        }
    }
}

/// What earlier runs saved in the same directory, of the files that this one was not to copy.
#[derive(Default)]
struct Earlier {
    /// The files of the last report that have not been looked at in this run, by path.
    known: BTreeMap<String, Value>,
    whole: u64,
    whole_bytes: u64,
    /// Files to look at, as in the last report.
    rest: Vec<Value>,
}

/// What was saved.
pub struct Report {
    /// What is lost outside of the volumes.
    elsewhere: Vec<String>,
    earlier: Earlier,
    /// The number of files that were to be copied, and of those that were looked at.
    wanted: u64,
    seen: u64,
    whole: u64,
    whole_bytes: u64,
    /// Files to look at, or that have streams that were not copied.
    rest: Vec<Saved>,
}

impl Report {
    /// Returns the report of a copy of so many files to `dir`, of which none is copied yet.
    pub fn new(wanted: u64, dir: &Path, rest: &Rest) -> Report {
        let before: Value = fs::read(dir.join(JSON))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let files = before["files"].as_array().cloned().unwrap_or_default().into_iter();
        let known = files.filter_map(|file| Some((file["path"].as_str()?.to_owned(), file))).collect();
        let earlier = Earlier { known, ..Earlier::default() };
        Report {
            elsewhere: rest.texts(),
            earlier,
            wanted,
            seen: 0,
            whole: 0,
            whole_bytes: 0,
            rest: Vec::new(),
        }
    }

    /// Adds a file that was not to be copied in this run, if an earlier one did: its path in the report, and that of its copy.
    pub fn not_meant(&mut self, path: &str, copy: &Path, size: Option<u64>) {
        if let Some(file) = self.earlier.known.remove(path) {
            self.earlier.rest.push(file);
        } else if copy.symlink_metadata().is_ok() {
            self.earlier.whole += 1;
            self.earlier.whole_bytes += size.unwrap_or(0);
        }
    }

    /// Adds a file.
    pub fn add(&mut self, saved: Saved) {
        self.seen += 1;
        self.earlier.known.remove(&saved.full_path());
        match saved.outcome {
            Outcome::Whole | Outcome::Kept => {
                self.whole += 1;
                self.whole_bytes += saved.size.unwrap_or(0);
                if saved.outcome == Outcome::Whole
                    && saved.streams.is_empty()
                    && saved.state != State::NameLost
                {
                    return;
                }
            }
            Outcome::WithHoles(_) | Outcome::NotSaved(_) | Outcome::LeftOut(_) => {}
        }
        self.rest.push(saved);
    }

    fn count(&self, which: fn(&Outcome) -> bool) -> u64 {
        self.rest.iter().filter(|s| which(&s.outcome)).count() as u64
    }

    fn with_holes(&self) -> u64 {
        self.count(|o| matches!(o, Outcome::WithHoles(_)))
    }

    fn not_saved(&self) -> u64 {
        self.count(|o| matches!(o, Outcome::NotSaved(_)))
    }

    /// Returns how many files were not reached, because the copy was interrupted.
    fn not_reached(&self) -> u64 {
        self.wanted.saturating_sub(self.seen)
    }

    /// Returns whether every file was copied whole.
    pub fn is_whole(&self) -> bool {
        self.with_holes() + self.not_saved() + self.not_reached() == 0
    }

    /// Returns the sums as one line.
    pub fn line(&self) -> String {
        let holes = self.with_holes();
        format!(
            "{} saved whole ({}), {holes} with holes, {} not saved",
            plural(self.whole, "file"),
            human(self.whole_bytes),
            self.not_saved()
        )
    }

    /// Returns the result for `--json`.
    pub fn json(&self, dir: &Path) -> Value {
        json!({
            "directory": dir.display().to_string(),
            "report": dir.join(JSON).display().to_string(),
            "whole": self.whole,
            "whole_bytes": self.whole_bytes,
            "with_holes": self.with_holes(),
            "not_saved": self.not_saved(),
            "not_reached": self.not_reached(),
        })
    }

    /// Writes both reports.
    pub fn write(&mut self, disk: &Disk, volumes: &[Found], target: &Target) -> Result<(), Error> {
        // Those that an interrupted run did not come to.
        let known = std::mem::take(&mut self.earlier.known);
        self.earlier.rest.extend(known.into_values());
        let mut all = self.json(&target.dir);
        for (key, count) in self.totals() {
            all[key] = json!(count);
        }
        all["whole_bytes"] = json!(self.whole_bytes + self.earlier.whole_bytes);
        all["image"] = json!(disk.input().path().display().to_string());
        all["time"] = json!(rfc3339(SystemTime::now()));
        all["untried_bytes"] = json!(untried(disk));
        all["unknown"] = json!(self.unknown(disk, volumes));
        all["files"] = self.rest.iter().map(Saved::json).chain(self.earlier.rest.iter().cloned()).collect();
        target.write_whole(&target.dir.join(JSON), format!("{all:#}\n").as_bytes())?;
        target.write_whole(&target.dir.join(HTML), self.html(disk, volumes).as_bytes())
    }

    /// Returns what is lost, or may be, and stands in no list of files.
    fn unknown(&self, disk: &Disk, volumes: &[Found]) -> Vec<String> {
        let hidden = volumes.iter().flat_map(|volume| hidden(disk, volume));
        self.elsewhere.iter().cloned().chain(hidden).collect()
    }

    /// Returns how many files are in the directory, or are not, with those of earlier runs; each with its name in JSON.
    fn totals(&self) -> [(&'static str, u64); 4] {
        let earlier =
            |outcome: &str| self.earlier.rest.iter().filter(|file| file["outcome"] == outcome).count() as u64;
        [
            ("whole", self.whole + self.earlier.whole + earlier(WHOLE)),
            ("with_holes", self.with_holes() + earlier(WITH_HOLES)),
            ("not_saved", self.not_saved() + earlier(NOT_SAVED)),
            ("not_reached", self.not_reached()),
        ]
    }

    fn html(&self, disk: &Disk, volumes: &[Found]) -> String {
        let mut page = String::new();
        let image = disk.input().path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let title = format!("Files saved from {image}");
        let _ = write!(
            page,
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title>\n<style>{STYLE}</style></head>\n\
             <body><h1>{0}</h1>\n<p>{1}</p>\n<table class=\"sums\">\n",
            escape(&title),
            date()
        );
        let rows = [
            ("Saved whole", "whole"),
            ("Saved with holes: part of the file is missing", "holes"),
            ("Not saved", "lost"),
            ("Not reached: the copy was interrupted", "lost"),
        ];
        for ((what, class), (_, count)) in rows.into_iter().zip(self.totals()) {
            if count == 0 && class == "lost" {
                continue;
            }
            let _ = writeln!(page, "<tr class=\"{class}\"><td>{what}</td><td>{count}</td></tr>");
        }
        page.push_str("</table>\n");
        let untried = untried(disk);
        if untried > 0 {
            let text =
                format!("{} of the disk were not read yet: imaging may still save more.", human(untried));
            let _ = writeln!(page, "<p>{text}</p>");
        }
        page.push_str("<h2>The disk</h2>\n<ul>\n");
        let metadata = disk.metadata();
        let name =
            [&metadata.model, &metadata.serial].into_iter().flatten().cloned().collect::<Vec<_>>().join(", ");
        let about = if name.is_empty() { String::new() } else { format!("{name}: ") };
        let _ = writeln!(page, "<li>{}</li>", escape(&format!("{about}{}", human(disk.size()))));
        for volume in volumes {
            let size = human(volume.part.range.end - volume.part.range.start);
            let text = format!("{}: {}, {size}", volume.title, contents_text(volume));
            let _ = writeln!(page, "<li>{}</li>", escape(&text));
        }
        page.push_str("</ul>\n");
        let unknown = self.unknown(disk, volumes);
        if !unknown.is_empty() {
            page.push_str("<h2>What else may be missing</h2>\n<ul>\n");
            unknown.iter().for_each(|text| page.push_str(&format!("<li>{}</li>\n", escape(text))));
            page.push_str("</ul>\n");
        }
        if !self.rest.is_empty() || !self.earlier.rest.is_empty() {
            page.push_str("<h2>Files that are not whole</h2>\n<table>\n<tr><th>File</th><th>Size</th><th>What happened</th></tr>\n");
            for file in self.rest.iter().map(Saved::json).chain(self.earlier.rest.iter().cloned()) {
                let text = |key: &str| escape(file[key].as_str().unwrap_or_default());
                let class = match file["outcome"].as_str() {
                    Some(WITH_HOLES) => "holes",
                    Some(NOT_SAVED) => "lost",
                    _ => "whole",
                };
                let (path, what) = (text("path"), text("what"));
                let size = file["size_bytes"].as_u64().map_or_else(String::new, human);
                let _ = writeln!(
                    page,
                    "<tr class=\"{class}\"><td>{path}</td><td>{size}</td><td>{what}</td></tr>"
                );
            }
            page.push_str("</table>\n");
        }
        page.push_str("<p>The holes of a file are zeros; where they are is in the file NAME.bad.json next to it.</p>\n</body></html>\n");
        page
    }
}

const STYLE: &str = "body{font:15px/1.4 sans-serif;max-width:70em;margin:2em auto;padding:0 1em}\
table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #ccc;overflow-wrap:anywhere}\
.sums td+td{text-align:right;font-weight:bold}.whole td:first-child{border-left:.5em solid #2a2}\
.holes td:first-child{border-left:.5em solid #e90}.lost td:first-child{border-left:.5em solid #c22}";

/// Outcomes, as in JSON.
const WHOLE: &str = "whole";
const WITH_HOLES: &str = "with-holes";
const NOT_SAVED: &str = "not-saved";

/// Returns how many bytes of the disk were not read yet.
fn untried(disk: &Disk) -> u64 {
    let missing = disk.missing(0..Disk::size(disk));
    missing.iter().filter(|m| m.untried).map(|m| m.range.end - m.range.start).sum()
}

/// Returns the date and the time, to the minute.
fn date() -> String {
    let now = rfc3339(SystemTime::now());
    let minutes = now.get(..16).unwrap_or(&now);
    format!("{} UTC", minutes.replace('T', " "))
}

impl Saved {
    /// Returns whether all of it can be read.
    pub fn is_whole(&self) -> bool {
        matches!(self.state, State::Whole | State::NameLost)
    }

    fn full_path(&self) -> String {
        format!("{}/{}", self.volume, self.path)
    }

    /// Returns what happened to it.
    fn words(&self) -> String {
        let mut what = match &self.outcome {
            Outcome::Whole => "saved whole".to_owned(),
            Outcome::Kept => "saved whole by an earlier copy, from an image that had all of it".to_owned(),
            Outcome::WithHoles(what) => what.clone(),
            Outcome::NotSaved(why) => format!("not saved: {why}"),
            Outcome::LeftOut(why) => format!("left out: {why}"),
        };
        if self.state == State::NameLost {
            what.push_str("; its name or its directory is lost");
        }
        if !self.streams.is_empty() {
            what.push_str(&format!("; not copied with it: {}", self.streams.join(", ")));
        }
        what
    }

    fn json(&self) -> Value {
        let outcome = match self.outcome {
            Outcome::Whole | Outcome::Kept => WHOLE,
            Outcome::LeftOut(_) => "left-out",
            Outcome::WithHoles(_) => WITH_HOLES,
            Outcome::NotSaved(_) => NOT_SAVED,
        };
        json!({
            "path": self.full_path(),
            "size_bytes": self.size,
            "outcome": outcome,
            "what": self.words(),
            "lost": loss_json(&self.loss),
            "streams_left_out": self.streams,
        })
    }
}

/// Escapes text for HTML.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}') => {
                escaped.push('\u{FFFD}')
            }
            c => escaped.push(c),
        }
    }
    escaped
}
