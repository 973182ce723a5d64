//! The extents overflow file: the extents of files that have more than eight.
//!
//! Facts: TN1150, "Extents Overflow File".

use std::ops::Range;

use super::btree::{Lost, Tree};
use super::fork::{Extents, Fork, Layout, extents};
use crate::bytes::{array, be16, be32};
use crate::volume::Volume;

/// The largest number of records that are kept.
const MAX_RECORDS: usize = 1 << 19;

/// A record: key, and eight extents.
const RECORD: usize = 12 + 64;

/// Which fork of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ForkKind {
    Data,
    Resource,
}

/// The extents of one record.
#[derive(Debug)]
struct Overflow {
    id: u32,
    fork: ForkKind,
    /// The first block in the fork.
    start: u32,
    extents: Extents,
    /// The record's first byte on the volume.
    at: u64,
}

/// All extents that are not in the catalogue.
#[derive(Debug, Default)]
pub(super) struct OverflowExtents {
    /// By file, fork and block.
    found: Vec<Overflow>,
    /// Whether some could not be read.
    pub(super) incomplete: bool,
}

impl OverflowExtents {
    /// Reads all records of `tree`. Returns the nodes of which something is lost.
    pub(super) fn load(volume: &Volume<'_>, tree: &Tree) -> (OverflowExtents, Vec<Lost>) {
        let mut all = OverflowExtents::default();
        let mut invalid = false;
        let lost = tree.scan(volume, &mut |leaf| {
            let at = tree.fork.on_volume(leaf.at..leaf.at + 1).first().map_or(0, |r| r.start);
            match (!leaf.cut).then(|| parse(leaf.bytes, at)).flatten() {
                Some(record) if all.found.len() < MAX_RECORDS => all.found.push(record),
                _ => invalid = true,
            }
            true
        });
        // Of records that were found twice (in a rest of a node), the first, which is certain, stays.
        all.found.sort_by_key(|o| (o.id, o.fork, o.start));
        all.found.dedup_by_key(|o| (o.id, o.fork, o.start));
        let lost = lost.unwrap_or_default();
        all.incomplete = invalid || !lost.is_empty();
        (all, lost)
    }

    /// Adds to a fork its extents that are here, and to `metadata` where their records are.
    pub(super) fn complete(
        &self,
        fork: &mut Fork,
        id: u32,
        kind: ForkKind,
        layout: Layout,
        metadata: &mut Vec<Range<u64>>,
    ) {
        let first = self.found.partition_point(|o| (o.id, o.fork) < (id, kind));
        let records = self.found.get(first..).unwrap_or_default().iter();
        for record in records.take_while(|o| (o.id, o.fork) == (id, kind)) {
            if record.start < fork.known {
                continue;
            }
            fork.skip(record.start);
            fork.add(&record.extents, layout);
            metadata.push(record.at..record.at + RECORD as u64);
        }
    }

    /// Returns all extents of a file of which nothing else is known: of the bad blocks.
    pub(super) fn of(&self, id: u32, layout: Layout) -> Vec<Range<u64>> {
        let first = self.found.partition_point(|o| o.id < id);
        let records = self.found.get(first..).unwrap_or_default().iter().take_while(|o| o.id == id);
        records.flat_map(|o| o.extents).filter_map(|e| layout.range(e)).collect()
    }
}

/// Returns the length of a record.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let fork = *bytes.get(2)?;
    (be16(bytes, 0)? == 10 && (fork == 0 || fork == 0xFF)).then_some(RECORD)
}

fn parse(bytes: &[u8], at: u64) -> Option<Overflow> {
    length(bytes)?;
    let [fork, _] = array(bytes, 2)?;
    Some(Overflow {
        id: be32(bytes, 4)?,
        fork: if fork == 0 { ForkKind::Data } else { ForkKind::Resource },
        start: be32(bytes, 8)?,
        extents: extents(bytes.get(12..RECORD)?)?,
        at,
    })
}
