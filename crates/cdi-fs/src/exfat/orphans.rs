//! Looks for directories whose entries are lost: clusters that are in use and belong to nothing that was found.
//!
//! A directory begins with the entries of a file, whose checksum is right. Nothing else says that a cluster is one, so the first
//! bytes of clusters are read, in order; what is in a directory that was found is not looked at. On a card with photos, one
//! directory has nearly everything. After a number of clusters that are none, the search ends.

use std::ops::ControlFlow;

use super::Exfat;
use super::entry::Stream;
use super::record::MAX_DIRECTORY;
use super::scan::{Scan, looks_like_directory};
use super::structures;
use crate::fat::clusters::Follower;
use crate::fat::record::{go_on, index_of};
use crate::file_system::{Damage, Kind, Record};
use crate::volume::Volume;

/// The most clusters in a row that are looked at in vain.
const MAX_MISSES: u32 = 4096;

/// Reports the directories that can be found, and what is in them; then how much is left.
pub(super) fn find(scan: &mut Scan<'_>) -> ControlFlow<()> {
    let (exfat, volume, heap) = (scan.exfat, scan.volume, scan.exfat.boot.heap);
    let mut misses = 0;
    for cluster in structures::unseen(exfat, &volume, &mut scan.follower) {
        if scan.follower.seen.has(cluster) {
            continue;
        }
        if begins(exfat, &volume, cluster) && scan.known.insert(cluster) {
            let record = directory(exfat, &volume, &mut scan.follower, cluster);
            let number = record.number;
            go_on(scan.visitor.record(record))?;
            let chain = scan.follower.whole(cluster, MAX_DIRECTORY.div_ceil(heap.cluster), true);
            scan.directory(number, chain)?;
            scan.walk()?;
            misses = 0;
        } else {
            misses += 1;
            if misses >= MAX_MISSES {
                break;
            }
        }
    }
    structures::without_file(exfat, &volume, &mut scan.follower, scan.visitor)
}

/// Returns the record that [`find`] gave `handle`.
pub(super) fn record(
    exfat: &Exfat,
    volume: &Volume<'_>,
    follower: &mut Follower<'_>,
    handle: u64,
) -> Option<Result<Record, Damage>> {
    let heap = exfat.boot.heap;
    let cluster = u32::try_from((handle - 1).checked_sub(heap.start)? / heap.cluster + 2).ok()?;
    if !heap.has(cluster) || heap.at(cluster) + 1 != handle {
        return None;
    }
    if !begins(exfat, volume, cluster) {
        return Some(Err(Damage::Invalid("no directory begins here".into())));
    }
    Some(Ok(directory(exfat, volume, follower, cluster)))
}

fn begins(exfat: &Exfat, volume: &Volume<'_>, cluster: u32) -> bool {
    let heap = exfat.boot.heap;
    let size = heap.cluster;
    looks_like_directory(volume, &heap, &Stream { contiguous: true, name_len: 0, valid: size, cluster, size })
}

/// Returns the record of a directory that begins with `cluster`. Its number is that of no entry: the second byte of the cluster.
fn directory(exfat: &Exfat, volume: &Volume<'_>, follower: &mut Follower<'_>, cluster: u32) -> Record {
    let heap = exfat.boot.heap;
    let chain = follower.whole(cluster, MAX_DIRECTORY.div_ceil(heap.cluster), false);
    let mut record = Record::new(heap.at(cluster) + 1, Kind::Directory);
    record.data = index_of(&chain.ranges(&heap, volume.size()));
    record.damage = Some(Damage::Invalid("its entry in the directory above is lost, and its name".into()));
    record
}
