//! Makes records of directory entries of FAT.

use std::ops::{ControlFlow, Range};

use super::Fat;
use super::boot::Root;
use super::clusters::{Chain, Follower};
use super::entry::Short;
use super::slots::{SLOT, one};
use crate::file_system::{Damage, Data, Kind, Place, Record, Run};
use crate::volume::Volume;

/// The largest directory in bytes: 65,536 entries (Linux: `FAT_MAX_DIR_SIZE`).
const MAX_DIRECTORY: u64 = 2 << 20;
/// Returns the record of the root directory, and where it is.
pub(super) fn root(fat: &Fat, volume: &Volume<'_>, follower: &mut Follower<'_>) -> (Record, Vec<Range<u64>>) {
    let (chain, ranges) = match &fat.boot.root {
        Root::At(range) => {
            (Chain::default(), one(range.start..range.end.min(volume.size()).max(range.start)))
        }
        Root::Chain(cluster) => directory_chain(volume, follower, *cluster, false),
    };
    let mut record = Record::new(0, Kind::Directory);
    record.damage = chain.damage;
    record.data = index_of(&ranges);
    (record, ranges)
}

/// Returns the record of an entry that is at byte `at` of the volume.
pub(super) fn record(volume: &Volume<'_>, follower: &mut Follower<'_>, at: u64, short: &Short) -> Record {
    let mut record = Record::new(at, if short.directory { Kind::Directory } else { Kind::File });
    record.times = short.times;
    record.metadata = one(at..at + SLOT);
    if short.directory {
        let (chain, ranges) = directory_chain(volume, follower, short.cluster, false);
        record.data = index_of(&ranges);
        record.damage = chain.damage;
        return record;
    }
    let size = u64::from(short.size);
    let chain = follower.file(short.cluster, size.div_ceil(follower.heap.cluster));
    let (runs, cut) = chain.contents(&follower.heap, volume.size());
    record.data = Data { size, place: Place::Runs(runs), packed: None };
    record.damage = chain.damage.or_else(|| cut.then(past_end));
    record
}

/// Returns the damage of contents that the volume is too short for.
pub(crate) fn past_end() -> Damage {
    Damage::Invalid("some of its clusters are past the end of the volume".into())
}

/// Returns the clusters of a directory; `again` if they were followed before.
pub(super) fn directory_chain(
    volume: &Volume<'_>,
    follower: &mut Follower<'_>,
    first: u32,
    again: bool,
) -> (Chain, Vec<Range<u64>>) {
    let limit = MAX_DIRECTORY.div_ceil(follower.heap.cluster);
    let chain = follower.whole(first, limit, again);
    let ranges = chain.ranges(&follower.heap, volume.size());
    (chain, ranges)
}

/// Returns the contents of a directory, which has the size of its clusters.
pub(crate) fn index_of(ranges: &[Range<u64>]) -> Data {
    let mut size = 0;
    let mut runs = Vec::with_capacity(ranges.len());
    for range in ranges {
        let len = range.end - range.start;
        runs.push(Run { file: size, len, volume: Some(range.start), unwritten: false });
        size += len;
    }
    Data { size, place: Place::Runs(runs), packed: None }
}

/// Returns what a visitor's answer means.
pub(crate) fn go_on(answer: bool) -> ControlFlow<()> {
    if answer { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}
