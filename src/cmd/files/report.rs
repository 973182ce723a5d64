//! The report of `--copy`: what was saved and what was not, as JSON and as a page for the person whose files they are.

use std::fmt::Write;
use std::fs;
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
use super::list::{contents_text, loss_json};

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
    /// It is a directory.
    Directory,
}

/// A file that was to be copied.
pub struct Saved {
    volume: String,
    path: String,
    size: Option<u64>,
    state: State,
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
            outcome: Outcome::Directory,
            loss: Loss::default(),
            streams: Vec::new(),
            copied: 0,
        }
    }
}

/// What was saved.
#[derive(Default)]
pub struct Report {
    whole: u64,
    whole_bytes: u64,
    /// Files that are not whole, or that have streams that were not copied.
    rest: Vec<Saved>,
}

impl Report {
    /// Adds a file.
    pub fn add(&mut self, saved: Saved) {
        match saved.outcome {
            Outcome::Directory => return,
            Outcome::Whole => {
                self.whole += 1;
                self.whole_bytes += saved.size.unwrap_or(0);
                if saved.streams.is_empty() && saved.state != State::NameLost {
                    return;
                }
            }
            Outcome::WithHoles(_) | Outcome::NotSaved(_) => {}
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

    /// Returns whether every file was copied whole.
    pub fn is_whole(&self) -> bool {
        self.with_holes() + self.not_saved() == 0
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
        })
    }

    /// Writes both reports.
    pub fn write(&self, disk: &Disk, volumes: &[Found], dir: &Path) -> Result<(), Error> {
        let put = |name: &str, text: String| {
            let path = dir.join(name);
            fs::write(&path, text).map_err(|e| Error::io("cannot write", &path, e))
        };
        let mut all = self.json(dir);
        all["image"] = json!(disk.input().path().display().to_string());
        all["time"] = json!(rfc3339(SystemTime::now()));
        all["files"] = self.rest.iter().map(Saved::json).collect();
        put(JSON, format!("{all:#}\n"))?;
        put(HTML, self.html(disk, volumes))
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
        ] {
            let _ = writeln!(page, "<tr class=\"{class}\"><td>{what}</td><td>{count}</td></tr>");
        }
        page.push_str("</table>\n<h2>The disk</h2>\n<ul>\n");
        for volume in volumes {
            let text = format!("{}: {}", volume.title, contents_text(volume));
            let _ = writeln!(page, "<li>{}</li>", escape(&text));
        }
        page.push_str("</ul>\n");
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
            Outcome::Whole | Outcome::Directory => ("whole", "saved whole".to_owned()),
            Outcome::WithHoles(what) => ("holes", what.clone()),
            Outcome::NotSaved(why) => ("lost", format!("not saved: {why}")),
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
            Outcome::Whole | Outcome::Directory => "whole",
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
