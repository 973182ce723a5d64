//! Makes records of sets of directory entries.

use std::ops::Range;

use super::entry::{Set, Stream};
use crate::fat::clusters::{Chain, Follower};
use crate::fat::record::{index_of, past_end};
use crate::file_system::{Damage, Data, Kind, Place, Record, Run};
use crate::volume::Volume;

/// The largest directory in bytes (section 7.4 of the specification).
pub(super) const MAX_DIRECTORY: u64 = 256 << 20;

/// Returns the record of a set that has its second entry. The first may be lost: `directory` says what it is.
pub(super) fn record(
    volume: &Volume<'_>,
    follower: &mut Follower<'_>,
    set: &Set,
    stream: &Stream,
    directory: bool,
) -> Record {
    let mut record = Record::new(set.number(), if directory { Kind::Directory } else { Kind::File });
    record.times = set.file().map(|file| file.times).unwrap_or_default();
    record.metadata.clone_from(&set.at);
    let (chain, ranges) = chain(volume, follower, stream, directory, false);
    record.damage = set.check().or(chain.damage.clone());
    if directory {
        record.data = index_of(&ranges);
        return record;
    }
    let (mut runs, cut) = chain.contents(&follower.heap, volume.size());
    if stream.valid < stream.size {
        runs = split(runs, stream.valid);
    }
    record.data = Data { size: stream.size, place: Place::Runs(runs), packed: None };
    if cut {
        record.damage.get_or_insert_with(past_end);
    }
    record
}

/// Returns the clusters of a set's contents; `again` if they were followed before.
pub(super) fn chain(
    volume: &Volume<'_>,
    follower: &mut Follower<'_>,
    stream: &Stream,
    directory: bool,
    again: bool,
) -> (Chain, Vec<Range<u64>>) {
    let heap = follower.heap;
    let size = if directory { stream.size.min(MAX_DIRECTORY) } else { stream.size };
    let clusters = size.div_ceil(heap.cluster);
    let chain = if clusters == 0 {
        Chain::default()
    } else if stream.contiguous {
        contiguous(follower, stream.cluster, clusters, again)
    } else if directory {
        follower.whole(stream.cluster, clusters, again)
    } else {
        follower.file(stream.cluster, clusters)
    };
    let ranges = chain.ranges(&heap, volume.size());
    (chain, ranges)
}

fn contiguous(follower: &mut Follower<'_>, first: u32, clusters: u64, again: bool) -> Chain {
    let mut chain = Chain::default();
    let there = u64::from(follower.heap.count).saturating_sub(u64::from(first.saturating_sub(2)));
    if !follower.heap.has(first) {
        let text = format!("it begins at cluster {first}, which does not exist");
        chain.damage = Some(Damage::Invalid(text));
        return chain;
    }
    if clusters > there {
        chain.damage = Some(past_end());
    }
    chain.clusters = clusters.min(there);
    if !again {
        follower.mark(first, chain.clusters);
    }
    chain.runs.push((first, u32::try_from(chain.clusters).unwrap_or(u32::MAX)));
    chain
}

/// Marks what lies after the first `valid` bytes as unwritten.
fn split(runs: Vec<Run>, valid: u64) -> Vec<Run> {
    let mut parts = Vec::with_capacity(runs.len() + 1);
    for run in runs {
        let written = valid.saturating_sub(run.file).min(run.len);
        if written > 0 {
            parts.push(Run { len: written, ..run });
        }
        if written < run.len {
            let volume = run.volume.map(|at| at + written);
            parts.push(Run { file: run.file + written, len: run.len - written, volume, unwritten: true });
        }
    }
    parts
}
