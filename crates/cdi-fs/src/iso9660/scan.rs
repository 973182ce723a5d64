//! Reads the directories of ISO 9660, level by level.

use std::cell::Cell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::{ControlFlow, Range};

use super::descriptor::{SECTOR, Tree};
use super::record::{self, Context, Found};
use super::{Iso, entry, path_table};
use crate::fat::record::{go_on, index_of};
use crate::fat::scan::{MAX_WAITING, report_cut};
use crate::fat::slots::one;
use crate::fat::structures::known_bad;
use crate::file_system::{Damage, Data, Kind, Name, Record, Structure, Visitor};
use crate::volume::Volume;

/// The largest directory in bytes, some 500,000 files.
const MAX_DIRECTORY: u64 = 64 << 20;
/// The number of bytes of a directory that are read at once.
const PIECE: usize = 256 << 10;
/// The length in bytes of the shortest directory record.
const MIN_RECORD: u64 = 34;

/// A directory that is to be read.
struct Waiting {
    number: u64,
    start: u64,
    len: u64,
}

struct Scan<'a> {
    volume: Volume<'a>,
    visitor: &'a mut dyn Visitor,
    waiting: VecDeque<Waiting>,
    /// The directories that were found, by their first byte.
    directories: HashMap<u64, u64>,
    /// The directory of each file, by the first byte of the file.
    files: HashMap<u64, u64>,
    /// The directories and empty files, by the directory that they are in and their name in lower case.
    names: HashMap<(u64, String), u64>,
    /// Whether something was lost.
    damaged: bool,
    /// The number of bytes that may still be read.
    budget: Cell<u64>,
    /// Directories of the second tree, until something is found in them that the first does not have.
    unsure: HashMap<u64, Record>,
}

/// How a tree is read.
#[derive(Clone, Copy)]
struct Way {
    joliet: bool,
    block: u64,
    rock_ridge: Option<usize>,
    /// Whether only that is reported which the first tree does not have.
    second: bool,
    /// Whether its names are those of the first tree.
    same_names: bool,
}

/// Reports a volume.
pub(super) fn scan(iso: &Iso, volume: &Volume<'_>, visitor: &mut dyn Visitor) -> ControlFlow<()> {
    structures(iso, volume, visitor)?;
    let mut scan = Scan {
        volume: *volume,
        visitor,
        waiting: VecDeque::new(),
        directories: HashMap::new(),
        files: HashMap::new(),
        names: HashMap::new(),
        damaged: false,
        budget: Cell::new(volume.size().saturating_mul(2).saturating_add(MAX_DIRECTORY)),
        unsure: HashMap::new(),
    };
    for (n, tree) in iso.trees().into_iter().enumerate() {
        let rock_ridge = iso.rock_ridge.filter(|_| !tree.joliet);
        let same_names = n == 0 || (tree.joliet && iso.rock_ridge.is_some());
        let way = Way { joliet: tree.joliet, block: tree.block, rock_ridge, second: n > 0, same_names };
        if n == 0 {
            go_on(scan.visitor.record(record::root(volume, tree)))?;
        }
        scan.damaged = false;
        let start = u64::from(tree.root.0) * tree.block;
        scan.directories.insert(start, 0);
        scan.waiting.push_back(Waiting { number: 0, start, len: u64::from(tree.root.1) });
        scan.walk(way)?;
        // By their names, these are not in the first tree, although nothing is in them.
        for (_, record) in std::mem::take(&mut scan.unsure) {
            if way.same_names {
                go_on(scan.visitor.record(record))?;
            }
        }
        if !scan.damaged {
            return ControlFlow::Continue(());
        }
    }
    let Some(tree) = iso.trees().into_iter().next() else { return ControlFlow::Continue(()) };
    let rock_ridge = iso.rock_ridge.filter(|_| !tree.joliet);
    let way = Way { joliet: tree.joliet, block: tree.block, rock_ridge, second: true, same_names: true };
    scan.listed(tree, way)
}

fn structures(iso: &Iso, volume: &Volume<'_>, visitor: &mut dyn Visitor) -> ControlFlow<()> {
    for (at, what, damage) in &iso.descriptors.all {
        let cost = "nothing is lost: another one is used, and names may be shorter";
        let damage = damage.clone().map(|damage| (damage, cost.to_owned()));
        go_on(visitor.structure(Structure { what: (*what).into(), at: vec![at.clone()], damage }))?;
    }
    for tree in iso.trees() {
        for (at, _) in &tree.path_tables {
            let at = at.start.min(volume.size())..at.end.min(volume.size());
            let cost = "nothing is lost as long as directories can be read";
            let damage = known_bad(volume, &at).map(|error| (error.into(), cost.to_owned()));
            let what = if tree.joliet { "path table (Joliet)" } else { "path table" };
            go_on(visitor.structure(Structure { what: what.into(), at: vec![at], damage }))?;
        }
    }
    ControlFlow::Continue(())
}

/// A directory that is being read.
#[derive(Default)]
struct Reading {
    entries: Vec<Found>,
    /// Whether the next record has more of the last file.
    more: bool,
    lost: Vec<(Range<u64>, Damage)>,
}

impl Reading {
    /// Reads a part of it, of whole sectors.
    fn piece(&mut self, context: &Context<'_>, range: Range<u64>) {
        let part = context.volume.read_part(range.clone());
        let mut sector = range.start;
        while sector < range.end {
            let end = (sector + SECTOR).min(range.end);
            let mut at = sector;
            while at < end {
                let bytes = part.get(at, 1).and_then(|len| part.get(at, usize::from(len[0]).max(1)));
                match bytes {
                    Ok([0, ..]) => break,
                    Ok(bytes) if at + bytes.len() as u64 <= end && self.record(context, at, bytes) => {
                        at += bytes.len() as u64;
                    }
                    // Where the next record begins is not known.
                    Ok(_) => {
                        self.lost.push((at..end, Damage::Invalid("there is no directory record".into())));
                        break;
                    }
                    Err(error) => {
                        self.lost.push((at..end, error.into()));
                        break;
                    }
                }
            }
            sector = end;
        }
    }

    /// Takes a record. Returns whether it is one.
    fn record(&mut self, context: &Context<'_>, at: u64, bytes: &[u8]) -> bool {
        let Some(entry) = entry::parse(bytes) else { return false };
        let len = bytes.len() as u64;
        match self.entries.last_mut() {
            Some(last) if self.more && last.name == entry.name => last.add(at, len, &entry, context.block),
            _ if entry.is_dots() => {}
            _ => self.entries.push(Found::new(context, at, len, &entry)),
        }
        self.more = entry.more;
        true
    }
}

impl Scan<'_> {
    fn walk(&mut self, way: Way) -> ControlFlow<()> {
        while let Some(waiting) = self.waiting.pop_front() {
            self.directory(&waiting, way)?;
        }
        ControlFlow::Continue(())
    }

    /// Reads the directories of the path table that were not found.
    fn listed(&mut self, tree: &Tree, way: Way) -> ControlFlow<()> {
        let listed = path_table::read(&self.volume, tree);
        let mut numbers = Vec::with_capacity(listed.len());
        for directory in listed {
            let start = u64::from(directory.block) * tree.block;
            if let Some(number) = self.directories.get(&start) {
                numbers.push(*number);
                continue;
            }
            numbers.push(start);
            if self.directories.len() >= MAX_WAITING || start >= self.volume.size() {
                continue;
            }
            self.directories.insert(start, start);
            let parent = numbers.get(directory.parent).copied().unwrap_or(0);
            let mut record = Record::new(start, Kind::Directory);
            let len = record::directory_len(&self.volume, start).unwrap_or_else(|damage| {
                record.damage = Some(damage);
                SECTOR
            });
            record.data = index_of(&one(start..(start + len).min(self.volume.size())));
            record.names = vec![Name { parent, name: directory.name }];
            go_on(self.visitor.record(record))?;
            self.waiting.push_back(Waiting { number: start, start, len });
        }
        self.walk(way)
    }

    fn directory(&mut self, waiting: &Waiting, way: Way) -> ControlFlow<()> {
        let (start, number) = (waiting.start, waiting.number);
        let there = self.volume.size().saturating_sub(start);
        let len = waiting.len.min(MAX_DIRECTORY).min(self.budget.get()).min(there);
        self.budget.set(self.budget.get() - len);
        let mut reading = Reading::default();
        for at in (start..start + len).step_by(PIECE) {
            let range = at..(at + PIECE as u64).min(start + len);
            let volume = self.volume;
            let budget = &self.budget;
            let context = Context { volume: &volume, rock_ridge: way.rock_ridge, block: way.block, budget };
            reading.piece(&context, range);
            // The last may have more parts in the next piece.
            let last = if reading.more { reading.entries.pop() } else { None };
            let entries = std::mem::replace(&mut reading.entries, last.into_iter().collect());
            self.entries(number, entries, way)?;
            self.lost(number, &std::mem::take(&mut reading.lost), way)?;
        }
        self.entries(number, reading.entries, way)?;
        if len < waiting.len && !way.second {
            self.damaged = true;
            let damage = Damage::Invalid("it is longer than it can be".into());
            report_cut(self.visitor, number, &one(start..start + len), damage)?;
        }
        ControlFlow::Continue(())
    }

    fn lost(&mut self, number: u64, lost: &[(Range<u64>, Damage)], way: Way) -> ControlFlow<()> {
        self.damaged |= !lost.is_empty();
        for (range, damage) in lost {
            let most = (range.end - range.start).div_ceil(MIN_RECORD);
            let what = match (number, way.second) {
                (0, false) => "root directory".to_owned(),
                (_, false) => format!("directory with its entry at byte {number}"),
                (_, true) => "directory of the second tree".to_owned(),
            };
            let cost = if way.second {
                "nothing is lost as long as the first tree has the same".into()
            } else {
                format!("up to {most} entries, if no other tree has them")
            };
            let damage = Some((damage.clone(), cost));
            go_on(self.visitor.structure(Structure { what, at: vec![range.clone()], damage }))?;
        }
        if !way.second {
            for (range, damage) in lost {
                go_on(self.visitor.lost_record(range.start, range.clone(), None, damage.clone()))?;
            }
        }
        ControlFlow::Continue(())
    }

    fn entries(&mut self, number: u64, entries: Vec<Found>, way: Way) -> ControlFlow<()> {
        // The directory of the first tree that has the same files is the same directory.
        let first_of = |found: &Found| found.parts.iter().find(|(_, len)| *len > 0).map(|(at, _)| *at);
        let same =
            entries.iter().filter(|e| !e.directory).find_map(|e| self.files.get(&first_of(e)?).copied());
        let parent =
            if way.second && self.unsure.contains_key(&number) { same.unwrap_or(number) } else { number };
        let mut fork: Option<(Vec<u8>, Data)> = None;
        for found in entries {
            if found.associated {
                fork = Some((found.name.clone(), found.data(&self.volume).0));
                continue;
            }
            if found.posix.moved && !way.second {
                continue;
            }
            let mut record = found.record(&self.volume);
            if let Some((_, data)) = fork.take().filter(|(name, _)| *name == found.name) {
                record.streams.push(("rsrc".into(), data));
            }
            let name = match &found.posix.name {
                Some(name) => String::from_utf8_lossy(name).into_owned(),
                None => entry::name(&found.name, way.joliet),
            };
            self.entry(parent, name, record, first_of(&found), &found, way)?;
        }
        ControlFlow::Continue(())
    }

    fn entry(
        &mut self,
        parent: u64,
        name: String,
        mut record: Record,
        first: Option<u64>,
        found: &Found,
        way: Way,
    ) -> ControlFlow<()> {
        let key = (parent, name.to_lowercase());
        let number = record.number;
        record.names = vec![Name { parent, name }];
        if record.kind == Kind::Directory {
            let Some((start, len)) = found.parts.first().copied() else { return ControlFlow::Continue(()) };
            if record.damage.is_some() {
                self.damaged = true;
            }
            let known = self.names.get(&key).copied();
            let number = known.filter(|_| way.second).unwrap_or(number);
            let full = self.waiting.len() >= MAX_WAITING;
            let again = full || self.directories.insert(start, number).is_some();
            if !again {
                self.waiting.push_back(Waiting { number, start, len });
            }
            if way.second && known.is_none() && !again {
                self.unsure.insert(number, record);
                return ControlFlow::Continue(());
            }
            if way.second {
                return ControlFlow::Continue(());
            }
            if again {
                let text = if full {
                    "there are too many directories"
                } else {
                    "another directory is at the same place"
                };
                record.damage = Some(Damage::Invalid(text.into()));
            }
            self.remember(key, number);
            return go_on(self.visitor.record(record));
        }
        let known = match first {
            Some(first) => self.files.contains_key(&first),
            None => !way.same_names || self.names.contains_key(&key),
        };
        if way.second && known {
            return ControlFlow::Continue(());
        }
        match first {
            Some(first) if self.files.len() < MAX_WAITING => drop(self.files.insert(first, parent)),
            Some(_) => {}
            None => self.remember(key, number),
        }
        self.above(parent)?;
        go_on(self.visitor.record(record))
    }

    fn remember(&mut self, key: (u64, String), number: u64) {
        if self.names.len() < MAX_WAITING / 4 {
            self.names.insert(key, number);
        }
    }

    /// Reports a directory of the second tree, and those above it, now that something is in it.
    fn above(&mut self, number: u64) -> ControlFlow<()> {
        let mut next = number;
        let mut seen = HashSet::new();
        while let Some(record) = self.unsure.remove(&next) {
            seen.insert(next);
            next = record.names.first().map_or(0, |name| name.parent);
            go_on(self.visitor.record(record))?;
            if seen.contains(&next) {
                break;
            }
        }
        ControlFlow::Continue(())
    }
}
