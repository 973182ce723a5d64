//! The report of `--copy`: what was saved and what was not, as JSON and as a page for the person whose files they are.

use std::fmt::Write;
use std::path::Path;
use std::time::SystemTime;

use cdi_base::error::Error;
use cdi_base::units::{human, plural};
use cdi_fs::catalogue::State;
use cdi_fs::loss::Loss;
use cdi_image::disk::Disk;
use cdi_image::metadata::rfc3339;
use serde_json::{Value, json};

use super::Found;
use super::copy::target::Target;
use super::list::{contents_text, hidden, loss_json};

/// The page in the directory of the copies.
pub const HTML: &str = "cdi-report.html";
/// The same for programs.
const JSON: &str = "cdi-report.json";

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All of it was copied.
    Whole,
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

/// What was saved.
pub struct Report {
    /// The number of files that were to be copied, and of those that were looked at.
    wanted: u64,
    seen: u64,
    whole: u64,
    whole_bytes: u64,
    /// Files to look at, or that have streams that were not copied.
    rest: Vec<Saved>,
}

impl Report {
    /// Returns the report of a copy of so many files and directories, of which none is copied yet.
    pub fn new(wanted: u64) -> Report {
        Report { wanted, seen: 0, whole: 0, whole_bytes: 0, rest: Vec::new() }
    }

    /// Adds a file.
    pub fn add(&mut self, saved: Saved) {
        self.seen += 1;
        match saved.outcome {
            Outcome::Whole => {
                self.whole += 1;
                self.whole_bytes += saved.size.unwrap_or(0);
                if saved.streams.is_empty() && saved.state != State::NameLost {
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
    pub fn write(&self, disk: &Disk, volumes: &[Found], target: &Target) -> Result<(), Error> {
        let mut all = self.json(&target.dir);
        all["image"] = json!(disk.input().path().display().to_string());
        all["time"] = json!(rfc3339(SystemTime::now()));
        all["unknown"] = volumes.iter().flat_map(hidden).collect();
        all["files"] = self.rest.iter().map(Saved::json).collect();
        target.write_whole(&target.dir.join(JSON), format!("{all:#}\n").as_bytes())?;
        target.write_whole(&target.dir.join(HTML), self.html(disk, volumes).as_bytes())
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
            escape(&rfc3339(SystemTime::now()))
        );
        for (what, count, class) in [
            ("Saved whole", self.whole, "whole"),
            ("Saved with holes: part of the file is lost", self.with_holes(), "holes"),
            ("Not saved", self.not_saved(), "lost"),
            ("Not reached: the copy was interrupted", self.not_reached(), "lost"),
        ] {
            if count == 0 && class == "lost" {
                continue;
            }
            let _ = writeln!(page, "<tr class=\"{class}\"><td>{what}</td><td>{count}</td></tr>");
        }
        page.push_str("</table>\n<h2>The disk</h2>\n<ul>\n");
        for volume in volumes {
            let text = format!("{}: {}", volume.title, contents_text(volume));
            let _ = writeln!(page, "<li>{}</li>", escape(&text));
        }
        page.push_str("</ul>\n");
        let unknown: Vec<String> = volumes.iter().flat_map(hidden).collect();
        if !unknown.is_empty() {
            page.push_str("<h2>What nothing is known of</h2>\n<ul>\n");
            unknown.iter().for_each(|text| page.push_str(&format!("<li>{}</li>\n", escape(text))));
            page.push_str("</ul>\n");
        }
        if !self.rest.is_empty() {
            page.push_str("<h2>Files that are not whole</h2>\n<table>\n<tr><th>File</th><th>Size</th><th>What happened</th></tr>\n");
            for saved in &self.rest {
                let (class, what) = saved.words();
                let size = saved.size.map_or_else(String::new, human);
                let path = escape(&format!("{}/{}", saved.volume, saved.path));
                let _ = writeln!(
                    page,
                    "<tr class=\"{class}\"><td>{path}</td><td>{size}</td><td>{}</td></tr>",
                    escape(&what)
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

impl Saved {
    /// Returns the class of its row, and what happened to it.
    fn words(&self) -> (&'static str, String) {
        let (class, mut what) = match &self.outcome {
            Outcome::Whole => ("whole", "saved whole".to_owned()),
            Outcome::WithHoles(what) => ("holes", what.clone()),
            Outcome::NotSaved(why) => ("lost", format!("not saved: {why}")),
            Outcome::LeftOut(why) => ("whole", format!("left out: {why}")),
        };
        if self.state == State::NameLost {
            what.push_str("; its name or its directory is lost");
        }
        if !self.streams.is_empty() {
            what.push_str(&format!("; not copied with it: {}", self.streams.join(", ")));
        }
        (class, what)
    }

    fn json(&self) -> Value {
        let outcome = match self.outcome {
            Outcome::Whole => "whole",
            Outcome::LeftOut(_) => "left-out",
            Outcome::WithHoles(_) => "with-holes",
            Outcome::NotSaved(_) => "not-saved",
        };
        json!({
            "path": format!("{}/{}", self.volume, self.path),
            "size_bytes": self.size,
            "outcome": outcome,
            "what": self.words().1,
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
