//! Reports free blocks: by the bitmaps, and in groups whose bitmap was never written, those that are not metadata.

use std::ops::Range;

use cdi_base::units::index;

use super::bitmap::{of_blocks, zeros};
use super::groups::{self, BLOCK_UNINIT, Group, Source, head};
use super::structures::join;
use super::superblock::Superblock;
use crate::volume::Volume;

/// Joins ranges that follow each other, and cuts them at the end of the volume.
struct Joiner<'f> {
    found: &'f mut dyn FnMut(Range<u64>),
    last: Range<u64>,
    end: u64,
}

impl Joiner<'_> {
    fn add(&mut self, range: Range<u64>) {
        let range = range.start.min(self.end)..range.end.min(self.end);
        if range.start == self.last.end {
            self.last.end = range.end;
        } else if !range.is_empty() {
            self.finish();
            self.last = range;
        }
    }

    fn finish(&mut self) {
        if !self.last.is_empty() {
            (self.found)(self.last.clone());
        }
    }
}

/// Reports the free ranges, in bytes, in order.
pub(super) fn report(sb: &Superblock, volume: &Volume<'_>, found: &mut dyn FnMut(Range<u64>)) {
    let list = groups::read(sb, volume).list;
    let (metadata, sets) = (metadata(sb, &list), lost_sets(sb, &list));
    let mut joiner = Joiner { found, last: 0..0, end: volume.size() };
    for (number, group) in (0..).zip(&list) {
        match group.source {
            Source::First if group.has(BLOCK_UNINIT) => {
                if !sets.get(index(number / sb.flex)).copied().unwrap_or(true) {
                    never_written(sb, number, &metadata, &mut joiner);
                }
            }
            Source::First => by_bitmap(sb, volume, number, group, &mut joiner),
            // A copy does not say whether the bitmap was ever written, nor what its checksum is: used, to be safe.
            _ if sb.descriptor_csum() => {}
            Source::Lost => {}
            _ => by_bitmap(sb, volume, number, group, &mut joiner),
        }
    }
    joiner.finish();
}

fn by_bitmap(sb: &Superblock, volume: &Volume<'_>, number: u64, group: &Group, joiner: &mut Joiner<'_>) {
    let Ok(bytes) = of_blocks(sb, volume, group) else { return };
    let (start, end) = (sb.group_start(number), sb.group_end(number));
    let clusters = end.saturating_sub(start).div_ceil(sb.cluster);
    zeros(&bytes, clusters, &mut |from, to| {
        let to = (start + to * sb.cluster).min(end);
        joiner.add((start + from * sb.cluster) * sb.block..to * sb.block);
    });
}

/// Returns the blocks of all bitmaps and tables, in order and without overlap.
fn metadata(sb: &Superblock, list: &[Group]) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    if !list.iter().any(|group| group.has(BLOCK_UNINIT)) {
        return found;
    }
    let known = || list.iter().filter(|group| group.source != Source::Lost);
    known().for_each(|g| join(&mut found, g.blocks..g.blocks + 1));
    known().for_each(|g| join(&mut found, g.inodes..g.inodes + 1));
    known().for_each(|g| join(&mut found, g.table..g.table + sb.table_blocks()));
    found.sort_unstable_by_key(|range| range.start);
    found.dedup_by(|next, last| {
        let overlaps = next.start <= last.end;
        if overlaps {
            last.end = last.end.max(next.end);
        }
        overlaps
    });
    found
}

/// Returns for each set of groups whose tables lie together whether one of them is lost.
fn lost_sets(sb: &Superblock, list: &[Group]) -> Vec<bool> {
    let size = usize::try_from(sb.flex).unwrap_or(usize::MAX);
    let is_lost = |group: &Group| sb.flex > 1 && group.source == Source::Lost;
    list.chunks(size).map(|set| set.iter().any(is_lost)).collect()
}

/// Reports what is not metadata in a group that has no other blocks in use.
fn never_written(sb: &Superblock, number: u64, metadata: &[Range<u64>], joiner: &mut Joiner<'_>) {
    let (start, end) = (sb.group_start(number), sb.group_end(number));
    let mut at = start;
    let first = metadata.partition_point(|range| range.end <= start);
    let inside = metadata[first..].iter().take_while(|range| range.start < end).cloned();
    let head = head(sb, number);
    for used in
        [head].into_iter().chain(inside).filter(|range| !range.is_empty()).chain(std::iter::once(end..end))
    {
        // A cluster is used as a whole.
        let from = (used.start.max(start) - start) / sb.cluster * sb.cluster + start;
        if from > at {
            joiner.add(at * sb.block..from.min(end) * sb.block);
        }
        let to = (used.end.min(end).max(start) - start).div_ceil(sb.cluster) * sb.cluster + start;
        at = at.max(to.min(end));
    }
}
