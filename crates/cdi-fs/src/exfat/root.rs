//! The root directory, and the entries that only it has: the allocation bitmap, the up-case table, the label.

use std::ops::{ControlFlow, Range};

use super::Exfat;
use super::entry::{self, BITMAP, END, LABEL, UP_CASE};
use super::record::MAX_DIRECTORY;
use crate::bytes::{le32, le64};
use crate::fat::clusters::{Chain, Follower};
use crate::fat::record::index_of;
use crate::fat::slots;
use crate::file_system::{Damage, Kind, Record};
use crate::volume::Volume;

/// A table that the root directory points to.
pub(super) struct Pointer {
    pub(super) cluster: u32,
    pub(super) len: u64,
    pub(super) checksum: u32,
}

/// What the root directory says of the volume.
#[derive(Default)]
pub(super) struct Found {
    /// The bitmap that is in use.
    pub(super) bitmap: Option<Pointer>,
    pub(super) up_case: Option<Pointer>,
    pub(super) label: Option<String>,
    /// Why something that is not here may be in the directory all the same.
    pub(super) damage: Option<Damage>,
}

/// Returns the clusters of the root directory; `again` if they were followed before.
pub(super) fn chain(
    exfat: &Exfat,
    volume: &Volume<'_>,
    follower: &mut Follower<'_>,
    again: bool,
) -> (Chain, Vec<Range<u64>>) {
    let chain = follower.whole(exfat.boot.root, MAX_DIRECTORY.div_ceil(follower.heap.cluster), again);
    let ranges = chain.ranges(&follower.heap, volume.size());
    (chain, ranges)
}

/// Returns the record of the root directory.
pub(super) fn record(exfat: &Exfat, volume: &Volume<'_>, follower: &mut Follower<'_>) -> Record {
    let (chain, ranges) = chain(exfat, volume, follower, false);
    let mut record = Record::new(0, Kind::Directory);
    record.data = index_of(&ranges);
    record.damage = chain.damage;
    record
}

/// Looks for these entries. Ends at the end of the directory, or when it has all.
pub(super) fn find(exfat: &Exfat, volume: &Volume<'_>, follower: &mut Follower<'_>) -> Found {
    let (chain, ranges) = chain(exfat, volume, follower, true);
    let mut found = Found::default();
    let (mut label_seen, mut ended) = (false, false);
    let _ = slots::each(volume, &ranges, &mut |_, slot| {
        let slot = match slot {
            Ok(slot) => slot,
            Err(error) => {
                found.damage.get_or_insert(error.into());
                return ControlFlow::Continue(());
            }
        };
        let pointer =
            || Some(Pointer { cluster: le32(slot, 20)?, len: le64(slot, 24)?, checksum: le32(slot, 4)? });
        match slot[0] {
            BITMAP if (slot[1] & 1 != 0) == exfat.boot.second => found.bitmap = pointer(),
            UP_CASE => found.up_case = pointer(),
            LABEL => {
                label_seen = true;
                found.label = entry::label(slot);
            }
            END => ended = true,
            _ => {}
        }
        let all = label_seen && found.bitmap.is_some() && found.up_case.is_some();
        if ended || all { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if !ended {
        found.damage = found.damage.or(chain.damage);
    }
    found
}
