//! What a scan found, as a tree with paths.

pub mod builder;
pub mod positions;

use crate::file_system::{Damage, Kind, Structure};
use crate::loss::Loss;

/// The length of a path, in directories. Longer ones are taken for loops.
const MAX_DEPTH: usize = 1024;
/// Where files are whose directory is lost, and those without a name.
pub const LOST_AND_FOUND: &str = "lost+found";

/// An entry of a catalogue: a file, a directory, or what is left of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// [`Record::number`](crate::file_system::Record::number).
    pub number: u64,
    /// [`Record::handle`](crate::file_system::Record::handle); None if the record is lost, and only a name is left.
    pub handle: Option<u64>,
    /// What it is, as far as that is known.
    pub kind: Option<Kind>,
    /// Whether it is part of the file system itself.
    pub internal: bool,
    /// The size in bytes, as far as that is known.
    pub size: Option<u64>,
    /// When its contents were changed, in nanoseconds since 1970.
    pub modified: Option<i64>,
    /// Why its contents cannot be had: "encrypted", "compressed" in a way that cdi does not know.
    pub packed: Option<&'static str>,
    /// What is lost of it.
    pub harm: Option<Box<Harm>>,
}

/// What is lost of a file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Harm {
    /// Of its contents. Of a directory: of its index.
    pub contents: Loss,
    /// Of its other streams, by name.
    pub streams: Vec<(String, Loss)>,
    /// Of its record.
    pub record: Option<Damage>,
    /// Of its name.
    pub name: Option<Damage>,
}

/// The state of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// All of it can be read.
    Whole,
    /// All of it can be read, but its name is lost, or the directory that it was in.
    NameLost,
    /// Some of it was not read yet.
    Untried,
    /// Some of it is lost.
    Damaged,
    /// Only its name is left.
    RecordLost,
}

impl State {
    /// Returns the name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            State::Whole => "whole",
            State::NameLost => "name-lost",
            State::Untried => "untried",
            State::Damaged => "damaged",
            State::RecordLost => "record-lost",
        }
    }
}

/// A name, with its text in `Catalogue::text`.
#[derive(Debug, Clone, Copy)]
struct NameAt {
    number: u64,
    parent: u64,
    text: u32,
    len: u16,
    /// What the directory says that it is.
    kind: Option<Kind>,
}

// A disk may have millions of them.
const _: () = assert!(size_of::<NameAt>() == 24);

/// All files of a volume.
pub struct Catalogue {
    root: u64,
    /// By number.
    entries: Vec<Entry>,
    /// By number, then parent.
    names: Vec<NameAt>,
    text: String,
    /// Indexes of `names`, by parent and text.
    by_parent: Vec<u32>,
    /// Structures of the file system itself.
    pub structures: Vec<Structure>,
    /// Records that are in use and lost, and whose names are lost, too.
    pub lost_without_name: u64,
    /// Records that are lost, without a name, and of which nobody knows whether they were in use.
    pub perhaps_lost: u64,
    /// Records and names that were too many to keep.
    pub left_out: u64,
}

/// The path of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePath {
    /// The path, from the root, without a slash before it.
    pub text: String,
    /// Whether it begins with a directory that is lost.
    pub lost: bool,
}

impl Catalogue {
    /// Returns all entries, by number.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the number of the root directory.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// Returns the entry with this number.
    pub fn entry(&self, number: u64) -> Option<&Entry> {
        self.entries.binary_search_by_key(&number, |e| e.number).ok().map(|i| &self.entries[i])
    }

    /// Returns the names of an entry: each with the number of its directory.
    pub fn names(&self, number: u64) -> impl Iterator<Item = (u64, &str)> {
        let first = self.names.partition_point(|n| n.number < number);
        let own = self.names[first..].iter().take_while(move |n| n.number == number);
        own.map(|n| (n.parent, self.text(n)))
    }

    /// Returns the entries of a directory, by name: each with its number.
    pub fn children(&self, directory: u64) -> impl Iterator<Item = (u64, &str)> {
        let parent = |i: &u32| self.names[*i as usize].parent;
        let first = self.by_parent.partition_point(|i| parent(i) < directory);
        let own = self.by_parent[first..].iter().take_while(move |i| parent(i) == directory);
        own.map(|i| &self.names[*i as usize]).map(|n| (n.number, self.text(n)))
    }

    fn text(&self, name: &NameAt) -> &str {
        let start = name.text as usize;
        self.text.get(start..start + usize::from(name.len)).unwrap_or("")
    }

    /// Returns the paths of an entry, one for each name. One that has none is in [`LOST_AND_FOUND`] under its number.
    pub fn paths(&self, number: u64) -> Vec<FilePath> {
        let mut paths: Vec<FilePath> =
            self.names(number).map(|(parent, name)| self.path(parent, name)).collect();
        if paths.is_empty() && number != self.root {
            paths.push(FilePath { text: format!("{LOST_AND_FOUND}/{number}"), lost: true });
        }
        paths
    }

    /// Returns the path of `name` in a directory.
    fn path(&self, first: u64, name: &str) -> FilePath {
        let mut parts = vec![name.to_owned()];
        let mut directory = first;
        let mut lost = false;
        // By Brent's algorithm: a loop comes back to the mark.
        let (mut mark, mut next_mark) = (self.root, 2);
        while directory != self.root {
            let is_loop = parts.len() >= MAX_DEPTH || directory == mark;
            if parts.len() == next_mark {
                (mark, next_mark) = (directory, next_mark * 2);
            }
            if is_loop {
                parts.truncate(1);
                directory = first;
            }
            let above = if is_loop { None } else { self.names(directory).next() };
            let Some((parent, name)) = above else {
                parts.push(if directory == u64::MAX { "unknown".into() } else { directory.to_string() });
                parts.push(LOST_AND_FOUND.into());
                lost = true;
                break;
            };
            parts.push(name.to_owned());
            directory = parent;
        }
        parts.reverse();
        FilePath { text: parts.join("/"), lost }
    }

    /// Returns the state of an entry.
    pub fn state(&self, entry: &Entry) -> State {
        if entry.handle.is_none() {
            return State::RecordLost;
        }
        if let Some(harm) = &entry.harm {
            let losses = || std::iter::once(&harm.contents).chain(harm.streams.iter().map(|(_, loss)| loss));
            let untried = |damage: &Damage| matches!(damage, Damage::Unreadable(e) if e.is_untried());
            if harm.record.as_ref().is_some_and(|damage| !untried(damage))
                || losses().any(|l| l.bad + l.unknown > 0)
            {
                return State::Damaged;
            }
            if harm.record.is_some() || losses().any(|l| l.untried > 0) {
                return State::Untried;
            }
        }
        let name = entry.harm.as_ref().is_some_and(|harm| harm.name.is_some());
        // What is in a directory that has lost its name is not counted again.
        let is_placed =
            || self.names(entry.number).any(|(above, _)| above == self.root || self.entry(above).is_some());
        let lost = name || (entry.number != self.root && !is_placed());
        if lost { State::NameLost } else { State::Whole }
    }
}
