//! A scanned volume as directories: every entry of its catalogue under names that a system takes, and what has lost its
//! directory or its name in `lost+found`.
//!
//! Everything is found by its place in the catalogue, which is the same after each scan of the same volume; so are the
//! numbers of entries. Little is kept in addition: names that have to be changed are made again whenever they are needed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use cdi_fs::catalogue::positions::NameIn;
use cdi_fs::catalogue::{Catalogue, Entry, LOST_AND_FOUND};
use cdi_fs::file_system::Kind;

use super::names::{changed, is_safe, numbered, split_number};
use super::orphans::{self, Orphan};

/// The number of '~' after a changed name, until no file of the directory has that name. More are only on a disk that was
/// made for this.
const MAX_MARKS: usize = 8;
/// The most names of an entry that are counted.
const MAX_LINKS: usize = 1 << 15;

/// A file or directory of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Local {
    /// The root directory.
    Root,
    /// `lost+found`, if the file system has none itself.
    LostAndFound,
    /// The entry with this index in the catalogue.
    Entry(u32),
    /// A directory of which nothing is left but its number: by index in `orphans`.
    Orphan(u32),
}

/// A volume that was scanned.
pub(super) struct Listing {
    /// Which scan of the volume this is, of those whose results can differ; part of the numbers of its files.
    pub generation: u8,
    catalogue: Catalogue,
    /// What is in `lost+found`, by number.
    orphans: Vec<Orphan>,
    /// The indexes of directories that are in `lost+found` although they have a name: they are in themselves.
    cut: Vec<u32>,
    /// Names that are changed: a hash of directory and name, and the position. Sorted.
    odd: Vec<(u32, u32)>,
    /// The file system's own `lost+found`.
    own_lost: Option<u32>,
    /// The name of ours, if the file system has none.
    lost_name: String,
}

impl Listing {
    pub(super) fn new(catalogue: Catalogue) -> Listing {
        let cut = orphans::circles(&catalogue);
        let mut listing = Listing {
            generation: 0,
            catalogue,
            orphans: Vec::new(),
            cut,
            odd: Vec::new(),
            own_lost: None,
            lost_name: LOST_AND_FOUND.into(),
        };
        listing.find_odd_names();
        listing.orphans = orphans::find(&listing.catalogue, &listing.cut, |p| listing.visible(p).is_some());
        match listing.find(Local::Root, LOST_AND_FOUND) {
            Some(Local::Entry(index)) if listing.is_directory(index) => listing.own_lost = Some(index),
            _ => {
                while listing
                    .find(Local::Root, &listing.lost_name)
                    .is_some_and(|found| found != Local::LostAndFound)
                {
                    listing.lost_name.push('~');
                }
            }
        }
        listing
    }

    /// Returns how much memory it needs, in entries and names.
    pub(super) fn weight(&self) -> usize {
        self.catalogue.entries().len() + self.catalogue.name_count()
    }

    /// Returns an entry, if there is one and it is shown.
    pub(super) fn entry(&self, index: u32) -> Option<&Entry> {
        self.catalogue.entries().get(index as usize).filter(|e| orphans::is_shown(e))
    }

    fn is_directory(&self, index: u32) -> bool {
        self.entry(index).is_some_and(|e| e.kind == Some(Kind::Directory))
    }

    /// Returns whether there is such a file or directory.
    pub(super) fn has(&self, local: Local) -> bool {
        match local {
            Local::Root => true,
            Local::LostAndFound => self.has_lost_and_found(),
            Local::Entry(index) => self.entry(index).is_some_and(|e| e.number != self.catalogue.root()),
            Local::Orphan(index) => self.orphan(index).is_some(),
        }
    }

    fn has_lost_and_found(&self) -> bool {
        self.own_lost.is_none() && !self.orphans.is_empty()
    }

    fn orphan(&self, index: u32) -> Option<&Orphan> {
        self.orphans.get(index as usize).filter(|orphan| orphan.entry.is_none())
    }

    /// Returns the number of names of an entry.
    pub(super) fn links(&self, entry: &Entry) -> u32 {
        let names = self.catalogue.names(entry.number).take(MAX_LINKS).count();
        u32::try_from(names).unwrap_or(1).max(1)
    }

    /// Returns the directory in which something is; of a file with several names, that of the first.
    pub(super) fn parent(&self, local: Local) -> Local {
        let lost = self.own_lost.map_or(Local::LostAndFound, Local::Entry);
        match local {
            Local::Root | Local::LostAndFound => Local::Root,
            Local::Orphan(_) => lost,
            Local::Entry(index) if self.cut.binary_search(&index).is_ok() => lost,
            Local::Entry(index) => {
                let number = self.catalogue.entries().get(index as usize).map_or(0, |e| e.number);
                let Some((parent, _)) = self.catalogue.names(number).next() else { return lost };
                if parent == self.catalogue.root() {
                    return Local::Root;
                }
                match orphans::index_of(&self.catalogue, parent) {
                    Some(index) if self.is_directory(index) => Local::Entry(index),
                    _ => self.find_orphan(parent).map_or(lost, Local::Orphan),
                }
            }
        }
    }

    /// Returns the number of a directory in the catalogue; None if it is `lost+found`, or no directory.
    fn number(&self, directory: Local) -> Option<u64> {
        match directory {
            Local::Root => Some(self.catalogue.root()),
            Local::LostAndFound => None,
            Local::Entry(index) => {
                self.entry(index).filter(|e| e.kind == Some(Kind::Directory)).map(|e| e.number)
            }
            Local::Orphan(index) => self.orphan(index).map(|orphan| orphan.number),
        }
    }

    fn positions(&self, directory: Local) -> Range<usize> {
        self.number(directory).map_or(0..0, |number| self.catalogue.positions(number))
    }

    /// Returns the index of the entry that the name at a position shows, if it shows one. A directory has one name only, the
    /// first: systems know no directory in two places.
    fn visible(&self, position: usize) -> Option<u32> {
        let name = self.catalogue.name_at(position)?;
        let index = orphans::index_of(&self.catalogue, name.number)?;
        let entry = self.entry(index).filter(|e| e.number != self.catalogue.root())?;
        if entry.kind == Some(Kind::Directory) {
            let first = self.catalogue.names(entry.number).next();
            if first != Some((name.directory, name.text)) || self.cut.binary_search(&index).is_ok() {
                return None;
            }
        }
        Some(index)
    }

    /// Returns the same hash in every process. Half of one is enough: names are compared afterwards.
    fn hash(directory: u64, name: &str) -> u32 {
        let mut hasher = DefaultHasher::new();
        (directory, name).hash(&mut hasher);
        u32::try_from(hasher.finish() >> 32).unwrap_or(0)
    }

    fn find_odd_names(&mut self) {
        let mut odd = Vec::new();
        let mut before: Option<NameIn<'_>> = None;
        for position in 0..self.catalogue.name_count() {
            let Some(name) = self.catalogue.name_at(position).filter(|_| self.visible(position).is_some())
            else {
                continue;
            };
            let double = before.is_some_and(|b| (b.directory, b.text) == (name.directory, name.text));
            if (double || !is_safe(name.text))
                && let Ok(position) = u32::try_from(position)
            {
                odd.push((Self::hash(name.directory, &changed(name.text)), position));
            }
            before = Some(name);
        }
        odd.sort_unstable();
        odd.shrink_to_fit();
        self.odd = odd;
    }

    /// Returns the changed names with this hash.
    fn same(&self, hash: u32) -> &[(u32, u32)] {
        let first = self.odd.partition_point(|(h, _)| *h < hash);
        let rest = &self.odd[first..];
        &rest[..rest.partition_point(|(h, _)| *h == hash)]
    }

    /// Returns the index of an entry with exactly this name, which is shown as it is.
    fn find_exact(&self, directory: u64, text: &str) -> Option<u32> {
        if !is_safe(text) {
            return None;
        }
        self.catalogue.positions_of(directory, text).find_map(|position| self.visible(position))
    }

    /// Returns the name that is shown at a position.
    fn shown<'a>(&'a self, name: &NameIn<'a>, position: usize) -> std::borrow::Cow<'a, str> {
        let as_it_is = || std::borrow::Cow::Borrowed(name.text);
        if self.odd.is_empty() {
            return as_it_is();
        }
        let wanted = changed(name.text);
        let same = self.same(Self::hash(name.directory, &wanted));
        let Ok(rank) = same.binary_search_by_key(&position, |(_, p)| *p as usize) else { return as_it_is() };
        let exact = self.find_exact(name.directory, &wanted).is_some();
        if rank == 0 && !exact && split_number(&wanted).is_none() {
            return wanted.into();
        }
        let mut shown = numbered(&wanted, rank + 1 + usize::from(exact));
        for _ in 0..MAX_MARKS {
            if self.find_exact(name.directory, &shown).is_none() {
                break;
            }
            shown.push('~');
        }
        shown.into()
    }

    /// Returns the entry with this name.
    pub(super) fn find(&self, directory: Local, name: &str) -> Option<Local> {
        if let Some(number) = self.number(directory) {
            if let Some(index) = self.find_exact(number, name) {
                return Some(Local::Entry(index));
            }
            if let Some(index) = self.find_changed(number, name) {
                return Some(Local::Entry(index));
            }
        }
        if directory == Local::Root && self.has_lost_and_found() && name == self.lost_name {
            return Some(Local::LostAndFound);
        }
        if self.is_lost_and_found(directory) {
            let number = match name.trim_end_matches('~') {
                orphans::UNKNOWN => u64::MAX,
                number => number.parse().ok()?,
            };
            let first = self.orphans.partition_point(|o| o.number < number);
            let same = self.orphans[first..].iter().take_while(|o| o.number == number);
            let found = same.zip(first..).find(|(orphan, _)| self.orphan_name(orphan) == name)?.1;
            return Some(self.orphan_local(found));
        }
        None
    }

    /// Returns the index of the entry that is shown under a changed name.
    fn find_changed(&self, directory: u64, name: &str) -> Option<u32> {
        if self.odd.is_empty() {
            return None;
        }
        let is = |candidate: Option<&(u32, u32)>| {
            let position = candidate?.1 as usize;
            let found = self.catalogue.name_at(position).filter(|n| n.directory == directory)?;
            if self.shown(&found, position) == name { self.visible(position) } else { None }
        };
        if let Some(found) = is(self.same(Self::hash(directory, name)).first()) {
            return Some(found);
        }
        let (before, number) = split_number(name)?;
        let same = self.same(Self::hash(directory, before));
        [number.checked_sub(1), number.checked_sub(2)]
            .into_iter()
            .flatten()
            .find_map(|rank| is(same.get(rank)))
    }

    fn is_lost_and_found(&self, directory: Local) -> bool {
        match directory {
            Local::LostAndFound => true,
            Local::Entry(index) => self.own_lost == Some(index),
            _ => false,
        }
    }

    /// Returns the index in `orphans` of a directory that is lost.
    fn find_orphan(&self, number: u64) -> Option<u32> {
        let index =
            self.orphans.binary_search_by_key(&(number, true), |o| (o.number, o.entry.is_none())).ok()?;
        u32::try_from(index).ok()
    }

    fn orphan_local(&self, index: usize) -> Local {
        match self.orphans[index].entry {
            Some(entry) => Local::Entry(entry),
            None => Local::Orphan(u32::try_from(index).unwrap_or(u32::MAX)),
        }
    }

    /// Returns the name of something in `lost+found`: its number.
    fn orphan_name(&self, orphan: &Orphan) -> String {
        let mut name = orphan.name();
        let file =
            || self.orphans.binary_search_by_key(&(orphan.number, false), |o| (o.number, o.entry.is_none()));
        if orphan.entry.is_none() && file().is_ok() {
            name.push('~');
        }
        let own = self.own_lost.map(|index| self.catalogue.entries()[index as usize].number);
        for _ in 0..MAX_MARKS {
            if own.is_none_or(|own| self.find_exact(own, &name).is_none()) {
                break;
            }
            name.push('~');
        }
        name
    }

    /// Returns the last place of a directory.
    pub(super) fn end(&self, directory: Local) -> u64 {
        let more = match directory {
            Local::Root => usize::from(self.has_lost_and_found()),
            directory if self.is_lost_and_found(directory) => self.orphans.len(),
            _ => 0,
        };
        (self.positions(directory).len() + more) as u64
    }

    /// Lists a directory from a place in it on: passes what is there, its name and the place after it to `add`, until that
    /// returns false. Returns whether the end was reached. Hidden entries have places, too.
    pub(super) fn list(
        &self,
        directory: Local,
        from: u64,
        add: &mut dyn FnMut(Local, &str, u64) -> bool,
    ) -> bool {
        let positions = self.positions(directory);
        let own = positions.len();
        let start = usize::try_from(from).unwrap_or(usize::MAX);
        for at in start..own {
            let position = positions.start + at;
            let (Some(index), Some(name)) = (self.visible(position), self.catalogue.name_at(position)) else {
                continue;
            };
            if !add(Local::Entry(index), &self.shown(&name, position), at as u64 + 1) {
                return false;
            }
        }
        if directory == Local::Root && self.has_lost_and_found() && start <= own {
            return add(Local::LostAndFound, &self.lost_name, own as u64 + 1);
        }
        if self.is_lost_and_found(directory) {
            for at in start.max(own)..own.saturating_add(self.orphans.len()) {
                let index = at - own;
                let name = self.orphan_name(&self.orphans[index]);
                if !add(self.orphan_local(index), &name, at as u64 + 1) {
                    return false;
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
