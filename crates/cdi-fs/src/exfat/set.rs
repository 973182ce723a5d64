//! Reads one set of directory entries again.

use super::Exfat;
use super::entry::{FILE, MAX_SECONDARY, SECONDARY, Set};
use super::record;
use crate::fat::clusters::Follower;
use crate::fat::slots::SLOT;
use crate::fat::table::Link;
use crate::file_system::{Damage, Record};
use crate::volume::Volume;

/// Returns the record of the set whose first entry is at byte `at` of the volume.
pub(super) fn record(
    exfat: &Exfat,
    volume: &Volume<'_>,
    follower: &mut Follower<'_>,
    at: u64,
) -> Result<Record, Damage> {
    let nothing = || Damage::Invalid("this is no directory entry of a file".into());
    let heap = exfat.boot.heap;
    let cluster = u32::try_from(at.checked_sub(heap.start).ok_or_else(nothing)? / heap.cluster + 2)
        .map_err(|_| nothing())?;
    if !heap.has(cluster) || !(at - heap.start).is_multiple_of(SLOT) {
        return Err(nothing());
    }
    // The rest of the set may be in the next cluster: the next of a chain, or of a directory that is contiguous.
    let linked = match follower.table.link(cluster) {
        Link::Next(next) => Some(next),
        _ => None,
    };
    let mut first = None;
    for next in linked.into_iter().chain(cluster.checked_add(1)) {
        let set = read(exfat, volume, at, cluster, next);
        if set.check().is_none() {
            first = Some(set);
            break;
        }
        first.get_or_insert(set);
    }
    let set = first.ok_or_else(nothing)?;
    let Some(stream) = set.stream() else { return Err(set.check().unwrap_or_else(nothing)) };
    let directory = match set.file() {
        Some(file) => file.directory,
        None if set.slots.first().is_some_and(Option::is_none) => {
            super::scan::looks_like_directory(volume, &heap, &stream)
        }
        None => return Err(nothing()),
    };
    Ok(record::record(volume, follower, &set, &stream, directory))
}

fn read(exfat: &Exfat, volume: &Volume<'_>, at: u64, cluster: u32, next: u32) -> Set {
    let heap = exfat.boot.heap;
    let end = heap.at(cluster) + heap.cluster;
    let mut set = Set { count: 1, ..Set::default() };
    let mut place = at;
    while set.slots.len() < set.count {
        if place == end {
            if !heap.has(next) {
                break;
            }
            place = heap.at(next);
        }
        let slot: Result<[u8; 32], Damage> = match volume.read(place, 32) {
            Ok(bytes) => bytes.first_chunk().copied().ok_or(Damage::Invalid("it is too short".into())),
            Err(error) => Err(error.into()),
        };
        match (&slot, set.slots.len()) {
            (Ok(slot), 0) if slot[0] == FILE => set.count = 1 + usize::from(slot[1].min(MAX_SECONDARY)),
            // Its second entry says how many there are.
            (Err(_), 0) => set.count = 2,
            (Ok(slot), 1) if set.slots[0].is_none() => set.count = 2 + usize::from(slot[3]).div_ceil(15),
            (Ok(slot), 1..) if slot[0] < SECONDARY => break,
            _ => {}
        }
        set.push(place, slot);
        place += SLOT;
    }
    set
}
