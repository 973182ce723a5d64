//! Reads the directories of an exFAT volume, level by level.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};

use cdi_base::error::ReadError;

use super::entry::{END, FILE, MAX_SECONDARY, NAME, SECONDARY, STREAM, Set, Stream, is_sound};
use super::{Exfat, orphans, record, root, structures};
use crate::fat::clusters::{Bits, Chain, Follower, Heap};
use crate::fat::record::go_on;
use crate::fat::scan::{MAX_WAITING, report_cut, report_lost};
use crate::fat::slots::{self, LostParts, SLOT, Slot};
use crate::file_system::{Child, Damage, Kind, Name, Visitor};
use crate::volume::Volume;

/// A directory that is to be read.
struct Waiting {
    number: u64,
    cluster: u32,
    size: u64,
    contiguous: bool,
}

/// A scan.
pub(super) struct Scan<'a> {
    pub(super) exfat: &'a Exfat,
    pub(super) volume: Volume<'a>,
    pub(super) follower: Follower<'a>,
    pub(super) visitor: &'a mut dyn Visitor,
    waiting: VecDeque<Waiting>,
    /// The clusters of directories that were read, and the first ones of those that wait.
    pub(super) known: Bits,
    /// Whether entries of directories are lost, and whether that may be because they have not been read yet.
    damaged: bool,
    untried: bool,
}

/// A directory that is being read.
struct Directory {
    number: u64,
    set: Option<Set>,
    /// The lost entries just before, up to 2 of them: a set may have begun with them.
    before: Vec<(u64, ReadError)>,
    /// The number of lost entries just before.
    lost_before: usize,
    lost: LostParts,
}

/// Reports a volume.
pub(super) fn scan(exfat: &Exfat, volume: &Volume<'_>, visitor: &mut dyn Visitor) -> ControlFlow<()> {
    let mut follower = exfat.follower(volume);
    structures::report(exfat, volume, &mut follower, visitor)?;
    go_on(visitor.record(root::record(exfat, volume, &mut follower)))?;
    let known = Bits::new(&exfat.boot.heap);
    let mut scan = Scan {
        exfat,
        volume: *volume,
        follower,
        visitor,
        waiting: VecDeque::new(),
        known,
        damaged: false,
        untried: false,
    };
    scan.known.insert(exfat.boot.root);
    let (chain, _) = root::chain(exfat, volume, &mut scan.follower, true);
    scan.directory(0, chain)?;
    scan.walk()?;
    // Not while imaging has not read them: everything would seem to belong to nothing, and be looked at.
    if scan.damaged && !scan.untried {
        orphans::find(&mut scan)?;
    }
    ControlFlow::Continue(())
}

impl Scan<'_> {
    /// Reads the directories that wait.
    pub(super) fn walk(&mut self) -> ControlFlow<()> {
        while let Some(Waiting { number, cluster, size, contiguous }) = self.waiting.pop_front() {
            let stream = Stream { contiguous, name_len: 0, valid: size, cluster, size };
            let (chain, _) = record::chain(&self.volume, &mut self.follower, &stream, true, true);
            self.directory(number, chain)?;
        }
        ControlFlow::Continue(())
    }

    /// Reads a directory.
    pub(super) fn directory(&mut self, number: u64, mut chain: Chain) -> ControlFlow<()> {
        let runs = std::mem::take(&mut chain.runs);
        let first = runs.first().map(|(first, _)| *first);
        for cluster in runs.iter().flat_map(|(first, count)| *first..first + count) {
            if Some(cluster) != first && !self.known.insert(cluster) {
                let text = format!("another directory has its cluster {cluster}");
                chain.damage.get_or_insert(Damage::Invalid(text));
                break;
            }
            chain.push(cluster);
        }
        let volume = self.volume;
        let ranges = chain.ranges(&self.exfat.boot.heap, volume.size());
        let (set, before, lost) = (None, Vec::new(), LostParts::default());
        let mut directory = Directory { number, set, before, lost_before: 0, lost };
        let mut ended = false;
        let flow = slots::each(&volume, &ranges, &mut |at, slot| {
            if slot.is_ok_and(|slot| slot[0] == END) {
                ended = true;
                return ControlFlow::Break(());
            }
            self.slot(&mut directory, at, slot)
        });
        if flow.is_break() && !ended {
            return flow;
        }
        self.finish(&mut directory)?;
        self.nothing_follows(&mut directory)?;
        self.damaged |= directory.lost.damage.is_some() || (chain.damage.is_some() && !ended);
        let mut missing = directory.lost.ranges.iter().flat_map(|range| volume.missing(range.clone()));
        self.untried |= missing.any(|m| m.untried);
        report_lost(self.visitor, number, std::mem::take(&mut directory.lost))?;
        match chain.damage {
            // What follows the end of a directory has no entries.
            Some(damage) if !ended => report_cut(self.visitor, number, &ranges, damage),
            _ => ControlFlow::Continue(()),
        }
    }

    fn slot(&mut self, directory: &mut Directory, at: u64, slot: Slot<'_>) -> ControlFlow<()> {
        if let Err(error) = slot {
            directory.lost.add(at, &error.into());
        }
        if let Some(set) = &mut directory.set {
            match slot {
                Ok(slot) if slot[0] < SECONDARY => self.finish(directory)?,
                // The number of its entries is not known.
                Err(_) if set.slots.len() > 2 && set.slots.iter().take(2).all(Option::is_none) => {
                    self.finish(directory)?
                }
                _ => {
                    set.push(at, slot.copied().map_err(Damage::from));
                    if set.is_whole() {
                        self.finish(directory)?;
                    }
                    return ControlFlow::Continue(());
                }
            }
        }
        match slot {
            Err(error) => {
                if directory.before.len() == 2 {
                    let (at, error) = directory.before.remove(0);
                    self.lost_entry(at, error)?;
                }
                directory.before.push((at, error));
                directory.lost_before += 1;
                return ControlFlow::Continue(());
            }
            Ok(slot) if slot[0] == FILE => {
                self.nothing_follows(directory)?;
                let count = 1 + usize::from(slot[1].min(MAX_SECONDARY));
                let mut set = Set { count, ..Set::default() };
                set.push(at, Ok(*slot));
                directory.set = Some(set);
            }
            Ok(slot) if slot[0] == STREAM => self.without_first(directory, at, slot)?,
            Ok(slot) if slot[0] == NAME => self.without_stream(directory, at, slot)?,
            Ok(_) => {}
        }
        self.nothing_follows(directory)
    }

    /// Begins a set whose first entry is lost.
    fn without_first(&mut self, directory: &mut Directory, at: u64, slot: &[u8; 32]) -> ControlFlow<()> {
        let Some((first, error)) = directory.before.pop() else { return ControlFlow::Continue(()) };
        let mut set = Set { count: 2 + usize::from(slot[3]).div_ceil(15), ..Set::default() };
        set.push(first, Err(error.into()));
        set.push(at, Ok(*slot));
        directory.set = Some(set);
        ControlFlow::Continue(())
    }

    /// Begins a set whose first two entries are lost. How many entries its name has is not known: as many as follow.
    fn without_stream(&mut self, directory: &mut Directory, at: u64, slot: &[u8; 32]) -> ControlFlow<()> {
        // The first entry of the name may be lost as well.
        let uncertain = directory.lost_before > 2;
        let (Some(second), Some(first)) = (directory.before.pop(), directory.before.pop()) else {
            return ControlFlow::Continue(());
        };
        let mut set = Set { count: usize::from(MAX_SECONDARY) + 1, ..Set::default() };
        set.push(first.0, Err(first.1.into()));
        set.push(second.0, Err(second.1.into()));
        if uncertain {
            set.slots.push(None);
        }
        set.push(at, Ok(*slot));
        directory.set = Some(set);
        ControlFlow::Continue(())
    }

    /// Reports the lost entries before something that they do not belong to.
    fn nothing_follows(&mut self, directory: &mut Directory) -> ControlFlow<()> {
        directory.lost_before = 0;
        for (at, error) in std::mem::take(&mut directory.before) {
            self.lost_entry(at, error)?;
        }
        ControlFlow::Continue(())
    }

    fn lost_entry(&mut self, at: u64, error: ReadError) -> ControlFlow<()> {
        go_on(self.visitor.lost_record(at, at..at + SLOT, None, error.into()))
    }

    /// Reports the set that was read.
    fn finish(&mut self, directory: &mut Directory) -> ControlFlow<()> {
        let Some(set) = directory.set.take() else { return ControlFlow::Continue(()) };
        let number = set.number();
        let name = Name { parent: directory.number, name: set.name() };
        let file = set.file();
        let Some(stream) = set.stream() else {
            let kind = file.map(|file| if file.directory { Kind::Directory } else { Kind::File });
            let missing = || Damage::Invalid("the directory entry that says where it is is missing".into());
            let damage = set.check().unwrap_or_else(missing);
            let at = number..set.at.first().map_or(number, |range| range.end);
            go_on(self.visitor.lost_record(number, at, Some(true), damage.clone()))?;
            if !name.name.is_empty() {
                go_on(self.visitor.child(Child { number, name, kind, size: None }))?;
            }
            return match kind {
                Some(Kind::Directory) => report_cut(self.visitor, number, &[], damage),
                _ => ControlFlow::Continue(()),
            };
        };
        let heap = self.exfat.boot.heap;
        let directory = match file {
            Some(file) => file.directory,
            None => looks_like_directory(&self.volume, &heap, &stream),
        };
        let mut record = record::record(&self.volume, &mut self.follower, &set, &stream, directory);
        record.names = vec![name];
        if directory && !heap.has(stream.cluster) && stream.size > 0 {
            report_cut(
                self.visitor,
                number,
                &[],
                record.damage.clone().unwrap_or_else(crate::fat::record::past_end),
            )?;
        } else if directory && stream.size > 0 {
            if self.waiting.len() >= MAX_WAITING {
                report_cut(
                    self.visitor,
                    number,
                    &[],
                    Damage::Invalid("there are too many directories".into()),
                )?;
            } else if self.known.insert(stream.cluster) {
                let Stream { cluster, size, contiguous, .. } = stream;
                self.waiting.push_back(Waiting { number, cluster, size, contiguous });
            } else {
                let text = "its clusters are those of another directory, where its entries are listed";
                record.damage = Some(Damage::Invalid(text.into()));
            }
        }
        go_on(self.visitor.record(record))
    }
}

/// Returns whether the contents of a set whose first entry is lost are a directory: they begin with a set of entries whose
/// checksum is right.
pub(super) fn looks_like_directory(volume: &Volume<'_>, heap: &Heap, stream: &Stream) -> bool {
    if stream.size == 0
        || !stream.size.is_multiple_of(heap.cluster)
        || stream.valid != stream.size
        || !heap.has(stream.cluster)
    {
        return false;
    }
    let start = heap.at(stream.cluster);
    let Ok(first) = volume.read(start, 512) else { return false };
    let count = 1 + u64::from(first[1].min(MAX_SECONDARY));
    let range: Range<u64> = start..start + (count * SLOT).min(heap.cluster);
    if first[0] != FILE || count < 3 {
        return false;
    }
    let part = volume.read_part(range.clone());
    let slots =
        range.step_by(32).map_while(|at| part.get(at, 32).ok().and_then(|slot| slot.first_chunk().copied()));
    is_sound(&slots.collect::<Vec<_>>())
}
