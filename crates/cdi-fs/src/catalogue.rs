//! What a scan found, as a tree with paths.

pub mod positions;

use std::collections::BTreeSet;
use std::ops::Range;

use crate::file_system::{Child, Damage, FileSystem, Kind, Name, Record, Structure, Visitor};
use crate::loss::Loss;
use crate::volume::Volume;

/// The memory for names, in bytes. What comes after it is counted only.
const MAX_NAMES: usize = 160 << 20;
/// The number of entries that are kept; with them and the names, a catalogue stays under 256 MiB.
const MAX_ENTRIES: usize = 2 << 20;
/// The length of a path, in directories. Longer ones are loops.
const MAX_DEPTH: usize = 256;
/// Where files are whose directory is lost, and those without a name.
pub const LOST_AND_FOUND: &str = "lost+found";

/// An entry of a catalogue: a file, a directory, or what is left of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// [`Record::number`].
    pub number: u64,
    /// [`Record::handle`]; None if the record is lost, and only a name is left.
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
    /// All of it can be read, but its name or its directory is lost.
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
    /// Scans a volume. `tell` gets the number of records so far, from time to time, and returns whether to go on.
    pub fn scan(found: &dyn FileSystem, volume: &Volume<'_>, tell: &mut dyn FnMut(u64) -> bool) -> Catalogue {
        let mut builder = Builder {
            volume: *volume,
            entries: Vec::new(),
            names: Vec::new(),
            text: String::new(),
            compact_at: 1 << 16,
            lost: Vec::new(),
            structures: Vec::new(),
            left_out: 0,
            seen: 0,
            tell,
        };
        found.scan(volume, &mut builder);
        builder.finish(found.root())
    }

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
        while directory != self.root {
            let is_loop = parts.len() >= MAX_DEPTH;
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
        let lost = name
            || entry.number != self.root && self.paths(entry.number).first().is_none_or(|path| path.lost);
        if lost { State::NameLost } else { State::Whole }
    }
}

/// A record that is lost: its number, and whether it was in use.
type LostRecord = (u64, Option<bool>);

struct Builder<'a> {
    volume: Volume<'a>,
    entries: Vec<Entry>,
    names: Vec<NameAt>,
    text: String,
    /// The number of names at which double ones are removed.
    compact_at: usize,
    lost: Vec<LostRecord>,
    structures: Vec<Structure>,
    left_out: u64,
    seen: u64,
    tell: &'a mut dyn FnMut(u64) -> bool,
}

impl Builder<'_> {
    fn go_on(&mut self) -> bool {
        self.seen += 1;
        !self.seen.is_multiple_of(1024) || (self.tell)(self.seen)
    }

    fn add_name(&mut self, number: u64, name: &Name, kind: Option<Kind>) {
        if self.names.len() >= self.compact_at {
            self.compact();
            self.compact_at = (self.names.len() * 2).max(1 << 16);
        }
        let used = self.text.len() + self.names.len() * size_of::<NameAt>();
        let (Ok(text), Ok(len)) = (u32::try_from(self.text.len()), u16::try_from(name.name.len())) else {
            self.left_out += 1;
            return;
        };
        if used > MAX_NAMES {
            self.left_out += 1;
            return;
        }
        self.text.push_str(&name.name);
        self.names.push(NameAt { number, parent: name.parent, text, len, kind });
    }

    /// Sorts the names, removes double ones, and the text of those.
    fn compact(&mut self) {
        let text = std::mem::take(&mut self.text);
        let of = |n: &NameAt| &text[n.text as usize..n.text as usize + usize::from(n.len)];
        self.names.sort_unstable_by(|a, b| (a.number, a.parent, of(a)).cmp(&(b.number, b.parent, of(b))));
        self.names.dedup_by(|a, b| (a.number, a.parent, of(a)) == (b.number, b.parent, of(b)));
        let mut kept = String::with_capacity(text.len() / 2);
        for name in &mut self.names {
            let start = u32::try_from(kept.len()).unwrap_or(u32::MAX);
            kept.push_str(&text[name.text as usize..name.text as usize + usize::from(name.len)]);
            name.text = start;
        }
        self.text = kept;
    }

    fn finish(mut self, root: u64) -> Catalogue {
        self.compact();
        self.entries.sort_by_key(|e| (e.number, e.handle.is_none()));
        self.entries.dedup_by_key(|e| e.number);
        let known =
            |entries: &[Entry], number: u64| entries.binary_search_by_key(&number, |e| e.number).is_ok();
        let (mut without_name, mut perhaps, mut named) = (0, 0, Vec::new());
        self.lost.sort_unstable_by_key(|(number, _)| *number);
        self.lost.dedup_by_key(|(number, _)| *number);
        for (number, used) in std::mem::take(&mut self.lost) {
            if known(&self.entries, number) {
                continue;
            }
            let first = self.names.partition_point(|n| n.number < number);
            if self.names.get(first).is_some_and(|n| n.number == number) {
                named.push(number);
            } else {
                match used {
                    Some(true) => without_name += 1,
                    None => perhaps += 1,
                    Some(false) => {}
                }
            }
        }
        // What a directory names and no record has is a directory if something is in it.
        let parents: BTreeSet<u64> =
            self.names.iter().map(|n| n.parent).filter(|p| named.binary_search(p).is_ok()).collect();
        for number in named {
            let first = self.names.partition_point(|n| n.number < number);
            let told = self.names.get(first).and_then(|n| n.kind);
            let kind = told.or(parents.contains(&number).then_some(Kind::Directory));
            self.entries.push(Entry {
                number,
                handle: None,
                kind,
                internal: false,
                size: None,
                modified: None,
                packed: None,
                harm: None,
            });
        }
        self.entries.sort_by_key(|e| e.number);
        // Names of records that are not in use are left over from deleted files.
        let entries = &self.entries;
        self.names.retain(|n| known(entries, n.number));
        let mut by_parent: Vec<u32> = (0..u32::try_from(self.names.len()).unwrap_or(u32::MAX)).collect();
        let (names, text) = (&self.names, &self.text);
        let key = |i: &u32| {
            let n = &names[*i as usize];
            (n.parent, &text[n.text as usize..n.text as usize + usize::from(n.len)])
        };
        by_parent.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
        Catalogue {
            root,
            entries: self.entries,
            names: self.names,
            text: self.text,
            by_parent,
            structures: self.structures,
            lost_without_name: without_name,
            perhaps_lost: perhaps,
            left_out: self.left_out,
        }
    }
}

impl Visitor for Builder<'_> {
    fn record(&mut self, record: Record) -> bool {
        for name in &record.names {
            self.add_name(record.number, name, Some(record.kind));
        }
        if self.entries.len() >= MAX_ENTRIES {
            self.left_out += 1;
            return self.go_on();
        }
        let contents = Loss::of(&record.data, &self.volume);
        let mut streams = Vec::new();
        for (name, data) in record.streams {
            let loss = Loss::of(&data, &self.volume);
            if !loss.is_empty() {
                streams.push((name, loss));
            }
        }
        let (damage, name) = (record.damage, record.name_damage);
        let harmed = !contents.is_empty() || !streams.is_empty() || damage.is_some() || name.is_some();
        self.entries.push(Entry {
            number: record.number,
            handle: Some(record.handle),
            kind: Some(record.kind),
            internal: record.internal,
            size: Some(record.target.map_or(record.data.size, |target| target.len() as u64)),
            modified: record.times.modified,
            packed: record.data.packed,
            harm: harmed.then(|| Box::new(Harm { contents, streams, record: damage, name })),
        });
        self.go_on()
    }

    fn child(&mut self, child: Child) -> bool {
        self.add_name(child.number, &child.name, child.kind);
        self.go_on()
    }

    fn lost_record(&mut self, number: u64, _: Range<u64>, used: Option<bool>, _: Damage) -> bool {
        match used {
            Some(false) => {}
            _ if self.lost.len() < MAX_ENTRIES => self.lost.push((number, used)),
            _ => self.left_out += 1,
        }
        self.go_on()
    }

    fn structure(&mut self, structure: Structure) -> bool {
        if self.structures.len() < MAX_ENTRIES / 16 {
            self.structures.push(structure);
        }
        self.go_on()
    }
}
