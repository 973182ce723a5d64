//! The rest of a directory of which no table says where it is: clusters that follow, as long as they look like its.
//!
//! Directories grow by the first free cluster, which is often the next one. A cluster is taken if each of its entries can be
//! one, and if it does not begin another directory.

use cdi_base::units::index;

use super::clusters::{Follower, Heap};
use super::entry::{self, Entry, Short};
use super::slots::SLOT;
use super::table::Link;
use crate::bytes::le16;
use crate::file_system::Damage;
use crate::volume::Volume;

/// Returns whether the rest of a directory may be looked for.
pub(super) fn may_be_found(damage: &Damage) -> bool {
    matches!(damage, Damage::Unreadable(error) if !error.is_untried())
}

/// Returns the cluster that follows `cluster` of a directory, if it looks like the next one.
pub(super) fn next(
    volume: &Volume<'_>,
    follower: &mut Follower<'_>,
    fat32: bool,
    cluster: u32,
) -> Option<u32> {
    let next = match follower.table.link(cluster) {
        Link::Lost(_) => cluster.checked_add(1)?,
        Link::Next(next) => next,
        Link::End | Link::Free | Link::Invalid(_) => return None,
    };
    is_part(volume, &follower.heap, fat32, next).then_some(next)
}

/// Returns whether `cluster` looks like a part of a directory, and not like the first.
pub(super) fn is_part(volume: &Volume<'_>, heap: &Heap, fat32: bool, cluster: u32) -> bool {
    let read = |len| volume.read(heap.at(cluster), len).ok();
    let first = || read(index(SLOT)).is_some_and(|bytes| continues(&bytes, fat32, heap));
    let whole = || read(index(heap.cluster)).is_some_and(|bytes| continues(&bytes, fat32, heap));
    heap.has(cluster) && first() && whole()
}

/// Returns whether `bytes` can be the next cluster of a directory.
fn continues(bytes: &[u8], fat32: bool, heap: &Heap) -> bool {
    let mut slots = bytes.chunks_exact(index(SLOT)).filter_map(|slot| slot.first_chunk::<32>());
    let mut any = false;
    for slot in slots.by_ref() {
        if slot[0] == 0 {
            break;
        }
        if !is_plausible(slot, fat32, heap) {
            return false;
        }
        any = true;
    }
    // What follows the end was never used.
    any && slots.all(|slot| slot.iter().all(|byte| *byte == 0))
}

/// Returns whether this can be an entry, with all of what programs write alike.
fn is_plausible(slot: &[u8; 32], fat32: bool, heap: &Heap) -> bool {
    let mut live = *slot;
    if slot[0] == 0xE5 {
        live[0] = b'A';
    }
    if slot[11] == 0x0F {
        return slot[12] == 0
            && le16(slot, 26) == Some(0)
            && (slot[0] == 0xE5 || (1..=20).contains(&(slot[0] & 0x3F)));
    }
    let Entry::Short(Short { raw, cluster, size, times, .. }) = entry::parse(&live, fat32) else {
        return false;
    };
    let empty = cluster == 0 && size == 0;
    slot[12] & !0x18 == 0
        && !raw.iter().any(u8::is_ascii_lowercase)
        && (empty || heap.has(cluster))
        && (times.modified.is_some() || le16(slot, 24) == Some(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_of_files_are_no_directories() {
        let heap = Heap { start: 0, cluster: 512, count: 60_000 };
        let mut entry = *b"NAME    TXT\x20\0\0\0\0\0\0\0\0\0\0\0\0\x21\x50\x03\0\x10\0\0\0";
        let full: Vec<u8> = entry.repeat(16);
        assert!(continues(&full, false, &heap));
        let half: Vec<u8> = entry.repeat(8).into_iter().chain([0; 256]).collect();
        assert!(continues(&half, false, &heap));
        assert!(!continues(&[0; 512], false, &heap), "nothing");
        assert!(!continues(&[half.clone(), vec![1; 32]].concat(), false, &heap), "something after its end");
        entry[..11].copy_from_slice(b".          ");
        assert!(!continues(&[&entry, &full[32..]].concat(), false, &heap), "another directory");
        let lines = b"1234567890,1234567890,2024-11-21\n".repeat(16);
        assert!(!continues(&lines[..512], false, &heap), "digits");
        assert!(!continues(&[b'A'; 512], false, &heap));
        assert!(!continues(&[b' '; 512], false, &heap));
    }
}
