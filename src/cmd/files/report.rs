//! The report of `--copy`: what was saved and what was not, as JSON and as a page for the person whose files they are.

mod page;

use std::collections::BTreeMap;
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
use super::list::{hidden, loss_json};
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
    /// An earlier copy has data that is lost in this image, and was kept: what is lost.
    Kept(String),
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
#[derive(Default)]
pub struct Report {
    /// What is lost outside of the volumes.
    elsewhere: Vec<String>,
    earlier: Earlier,
    /// The number of files that were to be copied, and of those that were looked at.
    wanted: u64,
    seen: u64,
    whole: u64,
    whole_bytes: u64,
    holes: u64,
    kept: u64,
    not_saved: u64,
    /// Files to look at, or that have streams that were not copied: as many as there is room for.
    rest: Vec<Saved>,
    /// The size of their paths in bytes, and how many more there were.
    rest_bytes: usize,
    left_out: u64,
}

/// How many files are listed in a report, and how long their paths may be together, in bytes. Those of a volume with more
/// damage are counted.
const MAX_FILES: usize = 100_000;
const MAX_PATHS: usize = 32 << 20;

impl Report {
    /// Returns the report of a copy of `wanted` files to `dir`, of which none is copied yet.
    pub fn new(wanted: u64, dir: &Path, rest: &Rest) -> Report {
        let before: Value = fs::read(dir.join(JSON))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let files = before["files"].as_array().cloned().unwrap_or_default().into_iter();
        let known = files.filter_map(|file| Some((file["path"].as_str()?.to_owned(), file))).collect();
        let earlier = Earlier { known, ..Earlier::default() };
        Report { elsewhere: rest.texts(), earlier, wanted, ..Report::default() }
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
            Outcome::Whole => {
                self.whole += 1;
                self.whole_bytes += saved.size.unwrap_or(0);
                if saved.streams.is_empty() && saved.state != State::NameLost {
                    return;
                }
            }
            Outcome::WithHoles(_) => self.holes += 1,
            Outcome::Kept(_) => self.kept += 1,
            Outcome::NotSaved(_) => self.not_saved += 1,
            Outcome::LeftOut(_) => {}
        }
        self.rest_bytes += saved.path.len();
        if self.rest.len() < MAX_FILES && self.rest_bytes < MAX_PATHS {
            self.rest.push(saved);
        } else {
            self.left_out += 1;
        }
    }

    /// Returns how many files were not reached, because the copy was interrupted.
    fn not_reached(&self) -> u64 {
        self.wanted.saturating_sub(self.seen)
    }

    /// Returns whether every file was copied whole.
    pub fn is_whole(&self) -> bool {
        self.holes + self.kept + self.not_saved + self.not_reached() == 0
    }

    /// Returns the sums as one line.
    pub fn line(&self) -> String {
        let kept =
            if self.kept > 0 { format!(", {} kept as copied earlier", self.kept) } else { String::new() };
        format!(
            "{} saved whole ({}), {} with holes{kept}, {} not saved",
            plural(self.whole, "file"),
            human(self.whole_bytes),
            self.holes,
            self.not_saved
        )
    }

    /// Returns the result for `--json`.
    pub fn json(&self, dir: &Path) -> Value {
        json!({
            "directory": dir.display().to_string(),
            "report": dir.join(JSON).display().to_string(),
            "whole": self.whole,
            "whole_bytes": self.whole_bytes,
            "with_holes": self.holes,
            "kept": self.kept,
            "not_saved": self.not_saved,
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
        all["files_left_out"] = json!(self.left_out);
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
    fn totals(&self) -> [(&'static str, u64); 5] {
        let earlier =
            |outcome: &str| self.earlier.rest.iter().filter(|file| file["outcome"] == outcome).count() as u64;
        [
            ("whole", self.whole + self.earlier.whole + earlier(WHOLE)),
            ("with_holes", self.holes + earlier(WITH_HOLES)),
            ("kept", self.kept + earlier(KEPT)),
            ("not_saved", self.not_saved + earlier(NOT_SAVED)),
            ("not_reached", self.not_reached()),
        ]
    }
}

/// Outcomes, as in JSON.
const WHOLE: &str = "whole";
const WITH_HOLES: &str = "with-holes";
const NOT_SAVED: &str = "not-saved";
const KEPT: &str = "kept";

/// Returns how many bytes of the disk were not read yet.
fn untried(disk: &Disk) -> u64 {
    let missing = disk.missing(0..Disk::size(disk));
    missing.iter().filter(|m| m.untried).map(|m| m.range.end - m.range.start).sum()
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
            Outcome::Kept(what) => {
                format!("an earlier copy has data where this image has none, and was kept: {what}")
            }
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
            Outcome::Whole => WHOLE,
            Outcome::Kept(_) => KEPT,
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
