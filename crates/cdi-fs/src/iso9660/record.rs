//! Makes records of directory records.

use std::cell::Cell;

use super::descriptor::{SECTOR, Tree};
use super::entry::{self, Entry};
use super::rock_ridge::{self, Posix};
use crate::fat::record::{index_of, past_end};
use crate::file_system::{Damage, Data, Kind, Place, Record, Run, Times};
use crate::volume::Volume;

/// The most parts that a file has: 8 TiB in parts of 4 GiB are 2,048.
pub(super) const MAX_PARTS: usize = 8192;

/// What is needed to make sense of directory records.
pub(super) struct Context<'a> {
    pub(super) volume: &'a Volume<'a>,
    /// The number of bytes to skip before Rock Ridge's fields; None if it is not used.
    pub(super) rock_ridge: Option<usize>,
    /// The size of a block in bytes.
    pub(super) block: u64,
    /// The number of bytes that may still be read: no disc has structures that overlap.
    pub(super) budget: &'a Cell<u64>,
}

impl Context<'_> {
    /// Takes `bytes` of what may be read. None if that is more than is left.
    pub(super) fn spend(&self, bytes: u64) -> Option<()> {
        self.budget.set(self.budget.get().checked_sub(bytes)?);
        Some(())
    }
}

/// A directory record, and those that follow it with more parts of the same file.
pub(super) struct Found {
    pub(super) number: u64,
    pub(super) name: Vec<u8>,
    pub(super) directory: bool,
    pub(super) associated: bool,
    time: Option<i64>,
    interleaved: bool,
    /// The first byte on the volume, and the length, of each part.
    pub(super) parts: Vec<(u64, u64)>,
    pub(super) posix: Posix,
    metadata: Vec<std::ops::Range<u64>>,
}

impl Found {
    /// Makes one of a record at byte `at` of the volume, of `len` bytes.
    pub(super) fn new(context: &Context<'_>, at: u64, len: u64, entry: &Entry<'_>) -> Found {
        let posix = context.rock_ridge.map(|skip| rock_ridge::parse(context, entry, skip));
        let mut found = Found {
            number: at,
            name: entry.name.to_vec(),
            directory: entry.directory,
            associated: entry.associated,
            time: entry.time,
            interleaved: false,
            parts: Vec::new(),
            posix: posix.unwrap_or_default(),
            metadata: Vec::new(),
        };
        found.add(at, len, entry, context.block);
        if let Some(moved) = found.posix.moved_to {
            found.moved(context.volume, u64::from(moved) * context.block);
        }
        found
    }

    /// Adds a part.
    pub(super) fn add(&mut self, at: u64, len: u64, entry: &Entry<'_>, block: u64) {
        if self.parts.len() < MAX_PARTS {
            self.parts.push((entry.block * block, u64::from(entry.len)));
        }
        self.interleaved |= entry.interleaved;
        crate::fat::slots::add(&mut self.metadata, at..at + len);
    }

    /// Makes it the directory at `start`, which it stands for.
    fn moved(&mut self, volume: &Volume<'_>, start: u64) {
        self.directory = true;
        self.posix.kind = Some(Kind::Directory);
        self.parts = vec![(
            start,
            directory_len(volume, start).unwrap_or_else(|damage| {
                self.posix.damage.get_or_insert(damage);
                SECTOR
            }),
        )];
    }

    /// Returns the record, without names.
    pub(super) fn record(&self, volume: &Volume<'_>) -> Record {
        let kind = match self.posix.kind {
            Some(kind) if self.directory == (kind == Kind::Directory) => kind,
            _ if self.directory => Kind::Directory,
            _ => Kind::File,
        };
        let mut record = Record::new(self.number, kind);
        record.times = self.posix.times;
        if record.times == Times::default() {
            record.times.modified = self.time;
        }
        record.metadata.clone_from(&self.metadata);
        record.damage.clone_from(&self.posix.damage);
        if kind == Kind::Link {
            record.target.clone_from(&self.posix.target);
        }
        let (data, damage) = self.data(volume);
        record.data = data;
        record.damage = record.damage.or(damage);
        record
    }

    /// Returns the contents, and why they are not complete.
    pub(super) fn data(&self, volume: &Volume<'_>) -> (Data, Option<Damage>) {
        let (mut runs, mut size, mut cut) = (Vec::with_capacity(self.parts.len()), 0, false);
        for (at, len) in &self.parts {
            let there = (*len).min(volume.size().saturating_sub(*at));
            cut |= there < *len;
            if there > 0 && !self.interleaved {
                runs.push(Run { file: size, len: there, volume: Some(*at), unwritten: false });
            }
            size += len;
        }
        let packed = self.posix.compressed.then_some("compressed");
        let interleaved = || Damage::Invalid("it is interleaved with another file".into());
        let damage = if self.interleaved { Some(interleaved()) } else { cut.then(past_end) };
        (Data { size, place: Place::Runs(runs), packed }, damage)
    }
}

/// Returns the length in bytes of the directory at `start`, which its first record has.
pub(super) fn directory_len(volume: &Volume<'_>, start: u64) -> Result<u64, Damage> {
    let bytes = volume.read(start, 64)?;
    match entry::parse(&bytes) {
        Some(entry) if entry.directory && entry.name == [0] => Ok(u64::from(entry.len)),
        _ => Err(Damage::Invalid("there is no directory".into())),
    }
}

/// Returns the record of the root directory.
pub(super) fn root(volume: &Volume<'_>, tree: &Tree) -> Record {
    let start = u64::from(tree.root.0) * tree.block;
    let range = start.min(volume.size())..(start + u64::from(tree.root.1)).min(volume.size());
    let mut record = Record::new(0, Kind::Directory);
    record.damage = (range.end - range.start < u64::from(tree.root.1)).then(past_end);
    record.data = index_of(std::slice::from_ref(&range));
    record
}

/// Reads the record at byte `at` of the volume.
pub(super) fn at(
    volume: &Volume<'_>,
    at: u64,
    rock_ridge: Option<usize>,
    block: u64,
) -> Result<Record, Damage> {
    let budget = Cell::new(u64::MAX);
    let context = Context { volume, rock_ridge, block, budget: &budget };
    let nothing = || Damage::Invalid("there is no directory record".into());
    let mut found: Option<Found> = None;
    let mut place = at;
    for _ in 0..MAX_PARTS {
        let len = match volume.read(place, 1)?.first().copied().unwrap_or(0) {
            0 if found.is_some() && !place.is_multiple_of(SECTOR) => {
                place = place.next_multiple_of(SECTOR);
                continue;
            }
            len => u64::from(len),
        };
        let bytes = volume.read(place, usize::try_from(len).map_err(|_| nothing())?)?;
        let Some(entry) = entry::parse(&bytes) else { break };
        match &mut found {
            Some(found) => found.add(place, len, &entry, block),
            none => *none = Some(Found::new(&context, place, len, &entry)),
        }
        if !entry.more {
            break;
        }
        place += len;
    }
    Ok(found.ok_or_else(nothing)?.record(volume))
}
