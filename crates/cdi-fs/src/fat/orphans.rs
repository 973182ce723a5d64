//! Looks for directories whose entries are lost: clusters that are in use and belong to nothing that was found.
//!
//! A directory begins with an entry of itself and one of the directory above, so the first bytes of such a chain say whether it
//! is one. Where the table is lost in every copy, what belongs to nothing may be in use; and a directory may be cut: then its
//! other clusters are found by what is in them. What is not a directory is a file whose entry is lost, or a part of one.

use std::ops::ControlFlow;

use super::clusters::{Bits, Chain, Follower, Heap};
use super::record::{go_on, index_of};
use super::scan::Scan;
use super::slots::SLOT;
use super::table::Link;
use super::{Fat, beyond};
use crate::bytes::{le16, le32};
use crate::file_system::{Damage, Data, Kind, Name, Place, Record, Structure};
use crate::suffix;
use crate::volume::Volume;

/// The most directories in each other that are looked for: more are damage of another kind.
const MAX_DEPTH: usize = 256;
/// The most clusters without an entry in the table that are looked at in a row in vain.
const MAX_MISSES: u32 = 64 << 10;

/// Reports the directories that can be found, and what is in them; then how much is left.
pub(super) fn find(scan: &mut Scan<'_>) -> ControlFlow<()> {
    // What is in a directory that was found is not looked at: its first clusters are mostly before those of its files.
    each(scan, true, &mut |scan, first| {
        if begins(scan, first).is_none() {
            return ControlFlow::Continue(());
        }
        for _ in 0..MAX_DEPTH {
            // From the highest one that is lost, the others are found with their names.
            let top = top(scan, first);
            if scan.known.insert(top) {
                let at = scan.fat.boot.heap.at(top);
                let record = directory(&scan.volume, &mut scan.follower, at, top);
                go_on(scan.visitor.record(record))?;
                scan.wait(at, top);
                scan.walk()?;
            }
            if top == first || scan.known.has(first) {
                break;
            }
        }
        ControlFlow::Continue(())
    })?;
    parts(scan)?;
    files(scan)
}

/// Reports parts of directories.
fn parts(scan: &mut Scan<'_>) -> ControlFlow<()> {
    if scan.follower.table.is_whole() {
        return ControlFlow::Continue(());
    }
    each(scan, true, &mut |scan, first| {
        let (heap, fat32) = (scan.fat.boot.heap, scan.fat.is_32());
        if !scan.known.has(first) && beyond::is_part(&scan.volume, &heap, fat32, first) {
            scan.known.insert(first);
            let at = heap.at(first);
            let record = part(&scan.volume, &mut scan.follower, at, first);
            let number = record.number;
            go_on(scan.visitor.record(record))?;
            scan.wait(number, first);
            scan.walk()?;
        }
        ControlFlow::Continue(())
    })
}

/// Returns the highest directory above `first` that was not found.
fn top(scan: &Scan<'_>, first: u32) -> u32 {
    let mut top = first;
    for _ in 0..MAX_DEPTH {
        match begins(scan, top) {
            Some(above) if !scan.known.has(above) && begins(scan, above).is_some() => top = above,
            _ => break,
        }
    }
    top
}

/// Returns the first cluster of the directory above, if one begins with cluster `first`.
fn begins(scan: &Scan<'_>, first: u32) -> Option<u32> {
    let heap = scan.fat.boot.heap;
    let bytes = heap.has(first).then(|| scan.volume.read(heap.at(first), 64))?.ok()?;
    above(&bytes, first, scan.fat.is_32())
}

/// Returns the first cluster of the directory above, if this is the beginning of a directory. The root is 0.
fn above(bytes: &[u8], own: u32, fat32: bool) -> Option<u32> {
    let cluster = |at: usize| {
        let high = if fat32 { u32::from(le16(bytes, at + 20)?) << 16 } else { 0 };
        Some(high | u32::from(le16(bytes, at + 26)?))
    };
    let is_entry = |at: usize, name: &[u8]| {
        bytes.get(at..at + 11) == Some(name)
            && bytes.get(at + 11).is_some_and(|a| a & 0xD8 == 0x10)
            && le32(bytes, at + 28) == Some(0)
    };
    let is_directory = is_entry(0, b".          ") && is_entry(32, b"..         ") && cluster(0)? == own;
    if is_directory { cluster(32) } else { None }
}

/// Calls `take` with each cluster that is in use, follows no other and belongs to nothing that was found; with `lost`, also with
/// those of which nothing says whether they are in use.
fn each(
    scan: &mut Scan<'_>,
    lost: bool,
    take: &mut dyn FnMut(&mut Scan<'_>, u32) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut follows = Bits::new(&scan.fat.boot.heap);
    let clusters = 2..=scan.fat.boot.table.last();
    for cluster in clusters.clone() {
        if let Link::Next(next) = scan.follower.table.in_page(cluster) {
            follows.insert(next);
        }
    }
    let (heap, mut misses) = (scan.fat.boot.heap, 0);
    for cluster in clusters {
        if follows.has(cluster) || scan.follower.seen.has(cluster) {
            continue;
        }
        match scan.follower.table.in_page(cluster) {
            Link::Next(_) | Link::End => take(scan, cluster)?,
            Link::Lost(_) if lost && misses < MAX_MISSES && heap.has(cluster) => {
                // Imaging does not ask for these.
                let at = heap.at(cluster);
                if !scan.volume.missing(at..at + SLOT).iter().any(|missing| missing.untried) {
                    take(scan, cluster)?;
                }
                misses = if scan.follower.seen.has(cluster) { 0 } else { misses + 1 };
            }
            _ => {}
        }
    }
    ControlFlow::Continue(())
}

/// Reports what belongs to nothing.
fn files(scan: &mut Scan<'_>) -> ControlFlow<()> {
    let heap = scan.fat.boot.heap;
    let (mut chains, mut clusters) = (0u64, 0u64);
    each(scan, false, &mut |scan, first| {
        let chain: Chain = scan.follower.whole(first, u64::from(heap.count), false);
        chains += 1;
        clusters += chain.clusters;
        let record = file(&scan.volume, &heap, first, chain);
        go_on(scan.visitor.record(record))
    })?;
    if chains == 0 {
        return ControlFlow::Continue(());
    }
    let bytes = cdi_base::units::human(clusters.saturating_mul(heap.cluster));
    let cost = format!(
        "{}, {bytes}, in lost+found/unknown: files whose entries are lost, or parts of files",
        cdi_base::units::plural(chains, "chain")
    );
    let damage = Damage::Invalid("clusters are in use and belong to no file that was found".into());
    go_on(scan.visitor.structure(Structure {
        what: "clusters without a file".into(),
        // Of their own records.
        at: Vec::new(),
        damage: Some((damage, cost)),
    }))
}

/// Returns the record of the directory that begins at byte `at` of the volume.
pub(super) fn record(
    fat: &Fat,
    volume: &Volume<'_>,
    follower: &mut Follower<'_>,
    at: u64,
) -> Result<Record, Damage> {
    let nothing = || Damage::Invalid("no directory begins here".into());
    let heap = fat.boot.heap;
    let cluster = u32::try_from(at.checked_sub(heap.start).ok_or_else(nothing)? / heap.cluster + 2)
        .map_err(|_| nothing())?;
    let start = if heap.has(cluster) { heap.at(cluster) } else { return Err(nothing()) };
    if at == start + 1 && beyond::is_part(volume, &heap, fat.is_32(), cluster) {
        return Ok(part(volume, follower, start, cluster));
    }
    if at == start + 2 {
        let chain = follower.whole(cluster, u64::from(heap.count), true);
        return Ok(file(volume, &heap, cluster, chain));
    }
    let bytes = volume.read(start, 64)?;
    if at != start || above(&bytes, cluster, fat.is_32()).is_none() {
        return Err(nothing());
    }
    Ok(directory(volume, follower, at, cluster))
}

/// Returns the record of a file whose entry is lost. Its number is that of no entry: the third byte of its first cluster.
fn file(volume: &Volume<'_>, heap: &Heap, first: u32, chain: Chain) -> Record {
    let number = heap.at(first) + 2;
    let mut record = Record::new(number, Kind::File);
    let (runs, _) = chain.contents(heap, volume.size());
    let name = format!("{number}{}", suffix::at(volume, heap.at(first)));
    record.names = vec![Name { parent: u64::MAX, name }];
    record.data = Data { size: runs.iter().map(|run| run.len).sum(), place: Place::Runs(runs), packed: None };
    let text = "its directory entry is lost: its name, its time, and where it ends in its last cluster";
    record.damage = Some(Damage::Invalid(text.into()));
    record
}

/// Returns the record of a part of a directory. Its number is that of no entry: the second byte of the cluster.
fn part(volume: &Volume<'_>, follower: &mut Follower<'_>, at: u64, cluster: u32) -> Record {
    let mut record = directory(volume, follower, at, cluster);
    (record.number, record.handle) = (at + 1, at + 1);
    record.damage = Some(Damage::Invalid("it is a part of a directory, and nothing says of which".into()));
    record
}

fn directory(volume: &Volume<'_>, follower: &mut Follower<'_>, at: u64, cluster: u32) -> Record {
    let mut record = Record::new(at, Kind::Directory);
    let (_, ranges) = super::record::directory_chain(volume, follower, cluster, false);
    record.data = index_of(&ranges);
    record.damage = Some(Damage::Invalid("its entry in the directory above is lost, and its name".into()));
    record.metadata = super::slots::one(at..at + SLOT);
    record
}
