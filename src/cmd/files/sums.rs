//! Sums of states: for a volume, and for each directory.

use std::collections::BTreeMap;

use cdi_base::units::human;
use cdi_fs::catalogue::{Catalogue, Entry, FilePath, LOST_AND_FOUND, State};
use cdi_fs::file_system::Kind;
use cdi_fs::pattern::Patterns;
use serde_json::{Value, json};

use super::Found;

/// How many files are in which state.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sums {
    /// By [`STATES`].
    files: [u64; STATES.len()],
    /// Bytes of files that are lost.
    pub lost_bytes: u64,
    /// Bytes of files that were not read yet.
    pub untried_bytes: u64,
}

const STATES: [State; 5] = [State::Whole, State::NameLost, State::Untried, State::Damaged, State::RecordLost];

impl Sums {
    /// Adds a file.
    pub fn add(&mut self, state: State, loss: (u64, u64)) {
        self.files[state as usize] += 1;
        self.lost_bytes = self.lost_bytes.saturating_add(loss.0);
        self.untried_bytes = self.untried_bytes.saturating_add(loss.1);
    }

    /// Returns how many bytes are missing, in words; nothing if none are.
    pub fn missing(&self) -> String {
        let text = |bytes: u64, what: &str| (bytes > 0).then(|| format!("{} {what}", human(bytes)));
        let parts = [text(self.lost_bytes, "lost"), text(self.untried_bytes, "not read yet")];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
    }

    /// Returns the number of files in a state.
    pub fn of(&self, state: State) -> u64 {
        self.files[state as usize]
    }

    /// Returns the number of files.
    pub fn all(&self) -> u64 {
        self.files.iter().sum()
    }

    /// Returns the number of files that are not whole.
    pub fn harmed(&self) -> u64 {
        self.all() - self.of(State::Whole)
    }

    /// Returns the states that occur, except whole: "3 damaged, 1 untried".
    pub fn harms(&self) -> String {
        let text = |state: &State| match state {
            State::NameLost => "without its name or directory",
            State::Untried => "not read yet",
            State::Damaged => "damaged",
            State::RecordLost | State::Whole => "of which only the name is left",
        };
        let some = STATES[1..].iter().rev().filter(|s| self.of(**s) > 0);
        some.map(|s| format!("{} {}", self.of(*s), text(s))).collect::<Vec<_>>().join(", ")
    }

    /// Returns them for JSON.
    pub fn json(&self) -> Value {
        let mut map: serde_json::Map<String, Value> =
            STATES.iter().map(|s| (s.name().replace('-', "_"), json!(self.of(*s)))).collect();
        map.insert("lost_bytes".into(), json!(self.lost_bytes));
        map.insert("untried_bytes".into(), json!(self.untried_bytes));
        map.into()
    }
}

/// The sums of a volume.
#[derive(Default)]
pub struct VolumeSums {
    pub files: Sums,
    pub directories: Sums,
    /// Directories with files that are not whole, with the sums of the files directly in them, the worst first; of very many, the
    /// first [`MAX_DIRECTORIES`].
    pub by_directory: Vec<(String, Sums)>,
    /// How many others there are.
    pub more_directories: u64,
}

/// The largest number of directories that are listed: paths may be long.
const MAX_DIRECTORIES: usize = 1000;

/// Adds up the files of a volume that are meant.
pub fn sums(volume: &Found, catalogue: &Catalogue, patterns: &Patterns) -> VolumeSums {
    let mut sums = VolumeSums::default();
    let mut by_number: BTreeMap<u64, Sums> = BTreeMap::new();
    for entry in catalogue.entries().iter().filter(|e| !e.internal && e.number != catalogue.root()) {
        let is_meant = |path: &FilePath| patterns.matches(&volume.title, &path.text);
        if !patterns.is_empty() && !catalogue.paths(entry.number).iter().any(is_meant) {
            continue;
        }
        let (state, lost) = (catalogue.state(entry), missing(entry));
        if entry.kind == Some(Kind::Directory) {
            sums.directories.add(state, lost);
            continue;
        }
        sums.files.add(state, lost);
        let parent = catalogue.names(entry.number).next().map_or(u64::MAX, |(parent, _)| parent);
        by_number.entry(parent).or_default().add(state, lost);
    }
    let mut harmed: Vec<(u64, Sums)> = by_number.into_iter().filter(|(_, sums)| sums.harmed() > 0).collect();
    harmed.sort_by_key(|(_, sums)| std::cmp::Reverse(sums.harmed()));
    sums.more_directories = harmed.len().saturating_sub(MAX_DIRECTORIES) as u64;
    for (number, harmed) in harmed.into_iter().take(MAX_DIRECTORIES) {
        let path = if number == catalogue.root() {
            String::new()
        } else if number == u64::MAX {
            LOST_AND_FOUND.into()
        } else {
            catalogue.paths(number).into_iter().next().map_or_else(|| LOST_AND_FOUND.into(), |path| path.text)
        };
        sums.by_directory.push((path, harmed));
    }
    sums
}

/// Returns how many bytes of an entry are lost, and how many were not read yet.
pub fn missing(entry: &Entry) -> (u64, u64) {
    let Some(harm) = &entry.harm else { return (0, 0) };
    let losses = || std::iter::once(&harm.contents).chain(harm.streams.iter().map(|(_, loss)| loss));
    (losses().map(|l| l.bad + l.unknown).sum(), losses().map(|l| l.untried).sum())
}
