//! Reads the directories of a FAT volume, level by level.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};

use cdi_base::error::ReadError;
use cdi_base::units::plural;

use super::boot::Root;
use super::clusters::{Bits, Chain, Follower};
use super::entry::{self, Entry, Short};
use super::names::LongName;
use super::record::{self, go_on};
use super::slots::{self, LostParts, SLOT, Slot};
use super::table::Table;
use super::{Fat, beyond, orphans, structures};
use crate::file_system::{Child, Damage, Kind, Name, Structure, Visitor};
use crate::volume::Volume;

/// The largest number of directories that wait to be read: 64 MiB of them.
pub(crate) const MAX_WAITING: usize = 4 << 20;

/// A directory that is to be read.
struct Waiting {
    number: u64,
    cluster: u32,
}

/// A scan.
pub(super) struct Scan<'a> {
    pub(super) fat: &'a Fat,
    pub(super) volume: Volume<'a>,
    pub(super) follower: Follower<'a>,
    pub(super) visitor: &'a mut dyn Visitor,
    waiting: VecDeque<Waiting>,
    /// The clusters of directories that were read, and the first ones of those that wait.
    pub(super) known: Bits,
    /// Whether entries of directories are lost.
    damaged: bool,
    /// Whether something that is lost may only have not been read yet.
    untried: bool,
}

/// A directory that is being read.
struct Directory {
    number: u64,
    long: LongName,
    /// Where the entries are of the name that is being read.
    entries: Vec<Range<u64>>,
    /// Why a short name that follows may have had a long one.
    name_damage: Option<Damage>,
    lost: LostParts,
    invalid: LostParts,
}

/// Reports a volume.
pub(super) fn scan(fat: &Fat, volume: &Volume<'_>, visitor: &mut dyn Visitor) -> ControlFlow<()> {
    let table = Table::new(volume, &fat.boot.table);
    let mut follower = Follower::new(table, fat.boot.heap);
    structures::report(fat, volume, &mut follower.table, visitor)?;
    let (root, ranges) = record::root(fat, volume, &mut follower);
    let damage = root.damage.clone();
    go_on(visitor.record(root))?;
    let known = Bits::new(&fat.boot.heap);
    let waiting = VecDeque::new();
    let mut scan =
        Scan { fat, volume: *volume, follower, visitor, waiting, known, damaged: false, untried: false };
    match fat.boot.root {
        Root::At(_) => scan.directory(0, &ranges, None, damage)?,
        Root::Chain(cluster) => {
            scan.known.insert(cluster);
            scan.waiting.push_back(Waiting { number: 0, cluster });
        }
    }
    scan.walk()?;
    // Not while imaging has not read them: everything would seem to belong to nothing, and be looked at.
    if scan.damaged && !scan.untried && !scan.is_table_untried() {
        orphans::find(&mut scan)?;
    }
    ControlFlow::Continue(())
}

impl Scan<'_> {
    /// Reads the directories that wait.
    pub(super) fn walk(&mut self) -> ControlFlow<()> {
        while let Some(Waiting { number, cluster }) = self.waiting.pop_front() {
            let (chain, damage) = self.clusters(cluster);
            let ranges = chain.ranges(&self.follower.heap, self.volume.size());
            let last = chain.runs.last().map(|(first, count)| first + count - 1);
            self.directory(number, &ranges, last, damage)?;
        }
        ControlFlow::Continue(())
    }

    /// Takes a directory that is to be read.
    pub(super) fn wait(&mut self, number: u64, cluster: u32) {
        self.waiting.push_back(Waiting { number, cluster });
    }

    fn is_table_untried(&self) -> bool {
        let copies = &self.fat.boot.table.copies;
        let len = self.fat.boot.table.len();
        let untried = |copy: &u64| self.volume.missing(*copy..copy + len).iter().any(|m| m.untried);
        copies.first().is_some_and(untried)
    }

    fn note(&mut self, lost: &LostParts, damage: Option<&Damage>) {
        self.damaged |= lost.damage.is_some() || damage.is_some();
        let mut missing = lost.ranges.iter().flat_map(|range| self.volume.missing(range.clone()));
        self.untried |= missing.any(|m| m.untried);
    }

    /// Returns the clusters of the directory that begins with `first`, without those that were read for another one.
    fn clusters(&mut self, first: u32) -> (Chain, Option<Damage>) {
        let (mut chain, _) = record::directory_chain(&self.volume, &mut self.follower, first, true);
        let runs = std::mem::take(&mut chain.runs);
        for cluster in runs.iter().flat_map(|(first, count)| *first..first + count) {
            if cluster != first && !self.known.insert(cluster) {
                let text = format!("another directory has its cluster {cluster}");
                chain.damage.get_or_insert(Damage::Invalid(text));
                break;
            }
            chain.push(cluster);
        }
        let damage = chain.damage.take();
        (chain, damage)
    }

    /// Reads a directory. `last` is its last cluster, if it has some; with `damage`, the last one that is known.
    fn directory(
        &mut self,
        number: u64,
        ranges: &[Range<u64>],
        last: Option<u32>,
        damage: Option<Damage>,
    ) -> ControlFlow<()> {
        let mut directory = Directory {
            number,
            long: LongName::default(),
            entries: Vec::new(),
            name_damage: None,
            lost: LostParts::default(),
            invalid: LostParts::default(),
        };
        let mut ended = self.slots(&mut directory, ranges)?;
        let mut at = last.filter(|_| damage.as_ref().is_some_and(beyond::may_be_found));
        while let Some(cluster) = at.filter(|_| !ended) {
            let next = beyond::next(&self.volume, &mut self.follower, self.fat.is_32(), cluster);
            at = next.filter(|next| self.known.insert(*next));
            if let Some(next) = at {
                self.follower.mark(next, 1);
                let start = self.follower.heap.at(next);
                ended = self.slots(&mut directory, &slots::one(start..start + self.follower.heap.cluster))?;
            }
        }
        self.note(&directory.lost, damage.as_ref().filter(|_| !ended));
        self.note(&directory.invalid, None);
        report_lost(self.visitor, number, directory.lost)?;
        report_lost(self.visitor, number, directory.invalid)?;
        match damage {
            // What follows the end of a directory has no entries.
            Some(damage) if !ended => report_cut(self.visitor, number, ranges, damage),
            _ => ControlFlow::Continue(()),
        }
    }

    /// Takes the entries in `ranges`. Returns whether the directory ends there.
    fn slots(&mut self, directory: &mut Directory, ranges: &[Range<u64>]) -> ControlFlow<(), bool> {
        let volume = self.volume;
        let mut ended = false;
        let flow = slots::each(&volume, ranges, &mut |at, slot| match self.slot(directory, at, slot) {
            Ok(()) => ControlFlow::Continue(()),
            Err(end) => {
                ended = end;
                ControlFlow::Break(())
            }
        });
        if flow.is_break() && !ended { ControlFlow::Break(()) } else { ControlFlow::Continue(ended) }
    }

    /// Takes an entry. An error ends the directory (true) or the scan (false).
    fn slot(&mut self, directory: &mut Directory, at: u64, slot: Slot<'_>) -> Result<(), bool> {
        let slot = match slot {
            Ok(slot) => slot,
            Err(error) => {
                let flow = self.lost_slot(directory, at, error);
                return if flow.is_break() { Err(false) } else { Ok(()) };
            }
        };
        let flow = match entry::parse(slot, self.fat.is_32()) {
            Entry::End => return Err(true),
            Entry::LongName => {
                // It is there in any case, and is the whole name or not.
                directory.name_damage.get_or_insert(Damage::Invalid("its long name is not complete".into()));
                if directory.long.push(slot) {
                    directory.entries.clear();
                }
                slots::add(&mut directory.entries, at..at + SLOT);
                return Ok(());
            }
            Entry::Short(short) => self.short(directory, at, &short),
            Entry::Invalid => {
                let damage = Damage::Invalid("this is no directory entry".into());
                directory.invalid.add(at, &damage);
                go_on(self.visitor.lost_record(at, at..at + SLOT, None, damage))
            }
            Entry::Free | Entry::Label(_) | Entry::Dots => ControlFlow::Continue(()),
        };
        directory.long.clear();
        directory.entries.clear();
        directory.name_damage = None;
        if flow.is_break() { Err(false) } else { Ok(()) }
    }

    fn lost_slot(&mut self, directory: &mut Directory, at: u64, error: ReadError) -> ControlFlow<()> {
        let damage = Damage::from(error);
        directory.lost.add(at, &damage);
        directory.name_damage = Some(damage.clone());
        if let Some(name) = directory.long.complete() {
            // The entry that the name belongs to is this one.
            let name = Name { parent: directory.number, name };
            go_on(self.visitor.child(Child { number: at, name, kind: None, size: None }))?;
        }
        directory.long.clear();
        directory.entries.clear();
        go_on(self.visitor.lost_record(at, at..at + SLOT, None, damage))
    }

    fn short(&mut self, directory: &mut Directory, at: u64, short: &Short) -> ControlFlow<()> {
        let mut record = record::record(&self.volume, &mut self.follower, at, short);
        if let Some(name) = directory.long.of(&short.raw) {
            record.names = vec![Name { parent: directory.number, name }];
            slots::add(&mut directory.entries, at..at + SLOT);
            record.metadata = std::mem::take(&mut directory.entries);
        } else {
            record.names = vec![Name { parent: directory.number, name: short.name.clone() }];
            record.name_damage = directory.name_damage.take().filter(|_| short.name.contains('~'));
        }
        if record.kind == Kind::Directory {
            if !self.follower.heap.has(short.cluster) {
                self.damaged = true;
                let damage = record.damage.clone().unwrap_or_else(super::record::past_end);
                report_cut(self.visitor, at, &[], damage)?;
            } else if self.waiting.len() >= MAX_WAITING {
                report_cut(self.visitor, at, &[], Damage::Invalid("there are too many directories".into()))?;
            } else if self.known.insert(short.cluster) {
                self.wait(at, short.cluster);
            } else {
                let text = "its clusters are those of another directory, where its entries are listed";
                record.damage = Some(Damage::Invalid(text.into()));
            }
        }
        go_on(self.visitor.record(record))
    }
}

/// Returns the name of a directory in messages.
fn named(number: u64) -> String {
    if number == 0 { "root directory".into() } else { format!("directory with its entry at byte {number}") }
}

/// Reports entries of a directory that could not be read or make no sense.
pub(crate) fn report_lost(visitor: &mut dyn Visitor, number: u64, lost: LostParts) -> ControlFlow<()> {
    let cost = format!("up to {}: files, or parts of their names", plural(lost.entries(), "entry"));
    let Some(damage) = lost.damage else { return ControlFlow::Continue(()) };
    go_on(visitor.structure(Structure { what: named(number), at: lost.ranges, damage: Some((damage, cost)) }))
}

/// Reports a directory whose end could not be found.
pub(crate) fn report_cut(
    visitor: &mut dyn Visitor,
    number: u64,
    ranges: &[Range<u64>],
    damage: Damage,
) -> ControlFlow<()> {
    let cost = if ranges.is_empty() {
        "everything in it"
    } else {
        "the names in the rest of it, and everything below them"
    };
    // How many there were is not known. No entry has this number.
    let at = ranges.last().map_or(number..number, |range| range.end..range.end);
    go_on(visitor.lost_record(number | 1, at, None, damage.clone()))?;
    let damage = Some((damage, cost.to_owned()));
    go_on(visitor.structure(Structure { what: named(number), at: ranges.to_vec(), damage }))
}
