//! Sums of states: for a volume, and for each directory.

use std::collections::BTreeMap;

use cdi_fs::catalogue::{Catalogue, Entry, LOST_AND_FOUND, State};
use cdi_fs::file_system::Kind;
use serde_json::{Value, json};

/// How many files are in which state.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sums {
    /// By [`STATES`].
    files: [u64; STATES.len()],
    /// Bytes of files that are lost, or not read yet.
    pub lost_bytes: u64,
}

const STATES: [State; 5] = [State::Whole, State::NameLost, State::Untried, State::Damaged, State::RecordLost];

impl Sums {
    /// Adds a file.
    pub fn add(&mut self, state: State, lost_bytes: u64) {
        self.files[state as usize] += 1;
        self.lost_bytes = self.lost_bytes.saturating_add(lost_bytes);
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
        map.into()
    }
}

/// The sums of a volume.
#[derive(Default)]
pub struct VolumeSums {
    pub files: Sums,
    pub directories: Sums,
    /// Directories with files that are not whole, with the sums of the files directly in them.
    pub by_directory: BTreeMap<String, Sums>,
}

/// Adds up the files of a volume.
pub fn sums(catalogue: &Catalogue) -> VolumeSums {
    let mut sums = VolumeSums::default();
    let mut by_number: BTreeMap<u64, Sums> = BTreeMap::new();
    for entry in catalogue.entries().iter().filter(|e| !e.internal && e.number != catalogue.root()) {
        let (state, lost) = (catalogue.state(entry), lost_bytes(entry));
        if entry.kind == Some(Kind::Directory) {
            sums.directories.add(state, lost);
            continue;
        }
        sums.files.add(state, lost);
        let parent = catalogue.names(entry.number).next().map_or(u64::MAX, |(parent, _)| parent);
        by_number.entry(parent).or_default().add(state, lost);
    }
    for (number, harmed) in by_number.into_iter().filter(|(_, sums)| sums.harmed() > 0) {
        let path = if number == catalogue.root() {
            String::new()
        } else if number == u64::MAX {
            LOST_AND_FOUND.into()
        } else {
            catalogue.paths(number).into_iter().next().map_or_else(|| "lost+found".into(), |path| path.text)
        };
        sums.by_directory.insert(path, harmed);
    }
    sums
}

/// Returns the number of bytes of an entry that are lost, or not read yet.
pub fn lost_bytes(entry: &Entry) -> u64 {
    entry.harm.as_ref().map_or(0, |harm| {
        harm.contents.total() + harm.streams.iter().map(|(_, loss)| loss.total()).sum::<u64>()
    })
}
