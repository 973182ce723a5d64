//! Makes a catalogue of what a scan reports.

use std::collections::BTreeSet;
use std::ops::Range;

use super::{Catalogue, Entry, Harm, NameAt};
use crate::file_system::{Child, Damage, FileSystem, Kind, Name, Record, Structure, Visitor};
use crate::loss::{Loss, Lost};
use crate::volume::Volume;

/// How much a catalogue may take, in bytes. What comes after it is counted only.
#[derive(Debug, Clone, Copy)]
pub struct Room(usize);

impl Default for Room {
    /// Returns room for more than a million files: with what a process takes besides, less than 256 MiB.
    fn default() -> Room {
        Room(200 << 20)
    }
}

impl Room {
    /// Returns what is left when `catalogue` is kept as well.
    pub fn without(self, catalogue: &Catalogue) -> Room {
        let entries = catalogue.entries.iter().map(weight).sum::<usize>();
        Room(self.0.saturating_sub(entries + names_weight(&catalogue.names, &catalogue.text)))
    }
}

/// The largest number of lost records.
const MAX_LOST: usize = 1 << 20;
/// The largest number of structures.
const MAX_STRUCTURES: usize = 64 << 10;

/// Returns how many bytes an entry takes, about.
fn weight(entry: &Entry) -> usize {
    let harm = entry.harm.as_ref().map_or(0, |harm| {
        let losses = harm.streams.iter().map(|(_, loss)| loss).chain([&harm.contents]);
        let text = |damage: &Option<Damage>| match damage {
            Some(Damage::Invalid(text)) => text.len(),
            _ => 0,
        };
        let ranges: usize = losses.map(|loss| loss.ranges.len() * size_of::<Lost>()).sum();
        size_of::<Harm>() + ranges + harm.streams.len() * 96 + text(&harm.record) + text(&harm.name)
    });
    size_of::<Entry>() + harm
}

fn names_weight(names: &[NameAt], text: &str) -> usize {
    // And an index of each.
    text.len() + names.len() * (size_of::<NameAt>() + size_of::<u32>())
}

impl Catalogue {
    /// Scans a volume. `tell` gets the number of records so far, from time to time, and returns whether to go on.
    pub fn scan(found: &dyn FileSystem, volume: &Volume<'_>, tell: &mut dyn FnMut(u64) -> bool) -> Catalogue {
        Catalogue::scan_within(Room::default(), found, volume, tell)
    }

    /// The same with less room, because others are kept.
    pub fn scan_within(
        room: Room,
        found: &dyn FileSystem,
        volume: &Volume<'_>,
        tell: &mut dyn FnMut(u64) -> bool,
    ) -> Catalogue {
        let mut builder = Builder {
            room,
            entries_weight: 0,
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
        builder.finish(found)
    }
}

/// A record that is lost: its number, and whether it was in use.
type LostRecord = (u64, Option<bool>);

struct Builder<'a> {
    room: Room,
    /// What the entries take, in bytes.
    entries_weight: usize,
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
        let used = self.entries_weight + names_weight(&self.names, &self.text);
        let (Ok(text), Ok(len)) = (u32::try_from(self.text.len()), u16::try_from(name.name.len())) else {
            self.left_out += 1;
            return;
        };
        if used > self.room.0 {
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

    fn finish(mut self, found: &dyn FileSystem) -> Catalogue {
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
                    _ if found.is_internal(number) => {}
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
            let said = self.names.get(first).and_then(|n| n.kind);
            let kind = said.or(parents.contains(&number).then_some(Kind::Directory));
            self.entries.push(Entry {
                number,
                handle: None,
                kind,
                internal: found.is_internal(number),
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
            root: found.root(),
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
        if self.entries_weight + names_weight(&self.names, &self.text) > self.room.0 {
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
        let entry = Entry {
            number: record.number,
            handle: Some(record.handle),
            kind: Some(record.kind),
            internal: record.internal,
            size: Some(record.target.map_or(record.data.size, |target| target.len() as u64)),
            modified: record.times.modified,
            packed: record.data.packed,
            harm: harmed.then(|| Box::new(Harm { contents, streams, record: damage, name })),
        };
        self.entries_weight += weight(&entry);
        self.entries.push(entry);
        self.go_on()
    }

    fn child(&mut self, child: Child) -> bool {
        self.add_name(child.number, &child.name, child.kind);
        self.go_on()
    }

    fn lost_record(&mut self, number: u64, _: Range<u64>, used: Option<bool>, _: Damage) -> bool {
        match used {
            Some(false) => {}
            _ if self.lost.len() < MAX_LOST => self.lost.push((number, used)),
            _ => self.left_out += 1,
        }
        self.go_on()
    }

    fn structure(&mut self, structure: Structure) -> bool {
        if self.structures.len() < MAX_STRUCTURES {
            self.structures.push(structure);
        }
        self.go_on()
    }
}
