//! Which extent has a cluster. The clusters may come in any order, but those next to each other on the disk are mostly
//! next to each other in the file: so what is kept is, for each group of 64 clusters, the extents that have some of
//! them, and which.

use std::ops::Range;

use cdi_base::error::{Error, ReadError};

use super::extents::{BLOCK, BLOCKS, CLUSTER, ExtentHeader, HEADER, MAX_BLOCKS};
use super::header::Header;
use crate::bytes::flaw;
use crate::input::Input;

/// The number of clusters of a group.
const GROUP: u32 = 64;
/// Maximum number of entries: a disk of 15 TiB whose clusters are in order.
const MAX_ENTRIES: usize = 1 << 23;
/// Maximum number of ranges that are lost.
const MAX_LOST: usize = 1 << 20;
/// How many damaged headers are named in warnings.
const MAX_NAMED: usize = 10;

/// The clusters of a group that are in an extent.
struct Entry {
    group: u32,
    /// The number of the extent in [`Index::extents`].
    extent: u32,
    /// One bit for each cluster.
    clusters: u64,
}

/// The places of a disk's clusters.
#[derive(Default)]
pub(super) struct Index {
    /// In the order of the groups.
    entries: Vec<Entry>,
    /// The file offsets of the extents that have clusters of the disk.
    extents: Vec<u64>,
    /// Ranges of the disk in bytes whose blocks would be after the end of the file.
    cut: Vec<Range<u64>>,
    pub warnings: Vec<String>,
}

impl Index {
    /// Reads the headers of all extents, and keeps where the clusters of `device` are, which has `size` bytes.
    pub(super) fn build(input: &Input, header: &Header, device: u8, size: u64) -> Result<Index, Error> {
        let mut index = Index::default();
        let (mut at, mut damaged) = (header.len, 0usize);
        while at < input.len() {
            let extent = match ExtentHeader::read(input, &header.uuid, at).map_err(|e| failed(at, e))? {
                Some(extent) => extent,
                None => {
                    damaged += 1;
                    let next = next_extent(input, header, at).map_err(|e| failed(at, e))?;
                    if damaged <= MAX_NAMED {
                        let rest =
                            if next.is_some() { "its clusters are" } else { "everything from there on is" };
                        index
                            .warnings
                            .push(format!("at byte {at}: there is no intact extent: {rest} not used"));
                    }
                    let Some(next) = next else { break };
                    at = next;
                    continue;
                }
            };
            let stored = index.add(input, &extent, at, device, size)?;
            if stored != extent.blocks() {
                let what = format!("an extent of {} blocks lists {stored}", extent.blocks());
                return flaw(at + 6, what);
            }
            // No overflow: the header is in the file.
            at += HEADER + stored * BLOCK;
        }
        if damaged > MAX_NAMED {
            index.warnings.push(format!("extents that are not intact, in all: {damaged}"));
        }
        index.entries.sort_unstable_by_key(|entry| (entry.group, entry.extent));
        index.check_order()?;
        Ok(index)
    }

    /// Adds the clusters of `device` in an extent. Returns the number of blocks of all clusters in it.
    fn add(
        &mut self,
        input: &Input,
        extent: &ExtentHeader,
        at: u64,
        device: u8,
        size: u64,
    ) -> Result<u64, Error> {
        let (before, mut stored) = (self.entries.len(), 0);
        // Not more than MAX_ENTRIES.
        let number = u32::try_from(self.extents.len()).unwrap_or(u32::MAX);
        for cluster in extent.clusters() {
            stored += cluster.stored();
            if cluster.device != device {
                continue;
            }
            let start = u64::from(cluster.number) * CLUSTER;
            if start >= size {
                return flaw(at, format!("cluster {} is past the end of the disk", cluster.number));
            }
            let bit = 1u64 << (cluster.number % GROUP);
            let group = cluster.number / GROUP;
            match self.entries[before..].iter_mut().find(|entry| entry.group == group) {
                Some(entry) if entry.clusters & bit != 0 => return twice(at, cluster.number),
                Some(entry) => entry.clusters |= bit,
                None => self.entries.push(Entry { group, extent: number, clusters: bit }),
            }
            let blocks = (0..BLOCKS).map(|block| (start + block * BLOCK, cluster.block(block)));
            let past_end = blocks.filter(|(_, at)| at.is_some_and(|at| at + BLOCK > input.len()));
            self.cut
                .extend(past_end.map(|(disk, _)| disk..size.min(disk + BLOCK)).filter(|r| r.start < r.end));
        }
        if self.entries.len() > before {
            self.extents.push(at);
        }
        if self.entries.len() > MAX_ENTRIES {
            return flaw(at, "the clusters are too many, and too far from their order (not supported)");
        }
        Ok(stored)
    }

    /// Checks that no cluster is in two extents.
    fn check_order(&self) -> Result<(), Error> {
        for same in self.entries.chunk_by(|a, b| a.group == b.group) {
            let mut seen = 0;
            for entry in same {
                if seen & entry.clusters != 0 {
                    return twice(
                        self.extents[entry.extent as usize],
                        entry.group * GROUP + (seen & entry.clusters).trailing_zeros(),
                    );
                }
                seen |= entry.clusters;
            }
        }
        Ok(())
    }

    /// Returns the file offset of the extent that has a cluster.
    pub(super) fn extent_with(&self, cluster: u32) -> Option<u64> {
        let (group, bit) = (cluster / GROUP, 1u64 << (cluster % GROUP));
        let first = self.entries.partition_point(|entry| entry.group < group);
        let same = self.entries[first..].iter().take_while(|entry| entry.group == group);
        same.into_iter()
            .find(|entry| entry.clusters & bit != 0)
            .map(|entry| self.extents[entry.extent as usize])
    }

    /// Returns the ranges of the disk of `size` bytes that are not in the archive, in order.
    pub(super) fn lost(&self, size: u64) -> Result<Vec<Range<u64>>, Error> {
        let mut lost = Vec::new();
        let mut add = |start: u64, end: u64| match lost.last_mut() {
            _ if start >= end => {}
            Some(Range { end: last, .. }) if *last == start => *last = end,
            _ => lost.push(start..end),
        };
        let mut next = 0;
        for same in self.entries.chunk_by(|a, b| a.group == b.group) {
            let start = u64::from(same[0].group) * u64::from(GROUP) * CLUSTER;
            add(next, start);
            let there = same.iter().fold(0, |there, entry| there | entry.clusters);
            for n in (0..GROUP).filter(|n| there >> n & 1 == 0) {
                let start = start + u64::from(n) * CLUSTER;
                add(start, size.min(start.saturating_add(CLUSTER)));
            }
            next = size.min(start + u64::from(GROUP) * CLUSTER);
        }
        add(next, size);
        // What is cut off is in clusters that are listed, so these ranges do not overlap those.
        if !self.cut.is_empty() {
            lost.extend(self.cut.iter().cloned());
            lost.sort_unstable_by_key(|range| range.start);
            lost.dedup_by(|next, range| {
                let touch = next.start == range.end;
                range.end = if touch { next.end } else { range.end };
                touch
            });
        }
        if lost.len() > MAX_LOST {
            return flaw(0, "the archive lacks too many parts of the disk (not supported)");
        }
        Ok(lost)
    }
}

/// Looks for the extent after one whose header at file offset `at` is damaged: after as many blocks as it may have.
fn next_extent(input: &Input, header: &Header, at: u64) -> Result<Option<u64>, ReadError> {
    for blocks in 0..=MAX_BLOCKS {
        let next = at.saturating_add(HEADER + blocks * BLOCK);
        if next >= input.len() {
            break;
        }
        if ExtentHeader::read(input, &header.uuid, next)?.is_some() {
            return Ok(Some(next));
        }
    }
    Ok(None)
}

fn twice<T>(at: u64, cluster: u32) -> Result<T, Error> {
    flaw(at, format!("cluster {cluster} of the disk is in the archive twice"))
}

fn failed(at: u64, e: ReadError) -> Error {
    Error::failed(format!("cannot read an extent at byte {at}")).because(e)
}
