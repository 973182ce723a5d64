//! The structures of an exFAT volume that belong to no file, and the free clusters.

use std::ops::{ControlFlow, Range};

use cdi_base::units::human;

use super::root::{self, Found, Pointer};
use super::{Exfat, boot};
use crate::fat::clusters::{Bits, Follower};
use crate::fat::record::go_on;
use crate::fat::slots;
use crate::fat::structures::known_bad;
use crate::file_system::{Damage, Structure, Visitor};
use crate::volume::Volume;

/// The number of bytes of the bitmap that are read at once.
const PIECE: u64 = 256 << 10;
/// The most places of clusters without a file that are reported.
const MAX_PLACES: usize = 1 << 16;
/// The largest up-case table: one character for each of UTF-16.
const MAX_UP_CASE: u64 = 128 << 10;

/// Reads and reports everything but files.
pub(super) fn report(
    exfat: &Exfat,
    volume: &Volume<'_>,
    follower: &mut Follower<'_>,
    visitor: &mut dyn Visitor,
) -> ControlFlow<()> {
    let boot = &exfat.boot;
    let range = boot::place(boot, false);
    let damage = match exfat.boot_damage.clone() {
        Some(damage) => Some((damage, "nothing is lost: the backup is used")),
        None => boot::region(volume, range.start, boot.sector)
            .map(|damage| (damage, "nothing is lost: the boot sector itself can be used")),
    };
    tell(visitor, "boot region", vec![range], damage)?;
    let range = boot::place(boot, true);
    let damage = boot::region(volume, range.start, boot.sector);
    let damage = damage.map(|damage| (damage, "nothing is lost as long as the boot sector can be read"));
    tell(visitor, "backup boot region", vec![range], damage)?;
    for range in &boot.copies {
        let used = boot.table.copies.contains(&range.start);
        let cost = if used {
            "the rest of files and directories that are not contiguous and have clusters that it lists"
        } else {
            "nothing is lost: this copy is not in use"
        };
        let what = if used { "file allocation table" } else { "file allocation table that is not in use" };
        let damage = known_bad(volume, range).map(|error| (Damage::Unreadable(error), cost));
        tell(visitor, what, vec![range.clone()], damage)?;
    }
    let found = root::find(exfat, volume, follower);
    bitmap(exfat, volume, follower, &found, visitor)?;
    up_case(volume, follower, &found, visitor)
}

fn tell(
    visitor: &mut dyn Visitor,
    what: &str,
    at: Vec<Range<u64>>,
    damage: Option<(Damage, &str)>,
) -> ControlFlow<()> {
    let damage = damage.map(|(damage, cost)| (damage, cost.to_owned()));
    go_on(visitor.structure(Structure { what: what.into(), at, damage }))
}

/// Returns where a table is, and why not all of it can be found.
fn place(
    volume: &Volume<'_>,
    follower: &mut Follower<'_>,
    pointer: &Pointer,
    most: u64,
) -> (Vec<Range<u64>>, Option<Damage>) {
    let len = pointer.len.min(most);
    // Followed more than once: by each of `scan` and `free`.
    let chain = follower.whole(pointer.cluster, len.div_ceil(follower.heap.cluster), true);
    let mut left = len;
    let mut ranges = chain.ranges(&follower.heap, volume.size());
    for range in &mut ranges {
        range.end = range.end.min(range.start.saturating_add(left));
        left -= range.end - range.start;
    }
    let short = || (left > 0).then(|| Damage::Invalid("it is longer than its chain of clusters".into()));
    let damage = chain.damage.or_else(short);
    (ranges, damage)
}

/// Returns the length in bytes of the bitmap.
fn bitmap_len(exfat: &Exfat) -> u64 {
    u64::from(exfat.boot.heap.count).div_ceil(8)
}

fn bitmap(
    exfat: &Exfat,
    volume: &Volume<'_>,
    follower: &mut Follower<'_>,
    found: &Found,
    visitor: &mut dyn Visitor,
) -> ControlFlow<()> {
    let cost = "clusters that it lists count as used";
    let Some(pointer) = &found.bitmap else {
        let missing = || Damage::Invalid("the root directory has no entry of it".into());
        let damage = found.damage.clone().unwrap_or_else(missing);
        return tell(visitor, "allocation bitmap", Vec::new(), Some((damage, cost)));
    };
    let (at, mut damage) = place(volume, follower, pointer, bitmap_len(exfat));
    for range in &at {
        for piece in pieces(range) {
            if let Some((_, error)) = volume.read_part(piece).lost().first() {
                damage.get_or_insert((*error).into());
            }
        }
    }
    tell(visitor, "allocation bitmap", at, damage.map(|damage| (damage, cost)))
}

fn up_case(
    volume: &Volume<'_>,
    follower: &mut Follower<'_>,
    found: &Found,
    visitor: &mut dyn Visitor,
) -> ControlFlow<()> {
    let Some(pointer) = &found.up_case else { return ControlFlow::Continue(()) };
    let (at, mut damage) = place(volume, follower, pointer, MAX_UP_CASE);
    let mut sum = 0;
    for range in &at {
        let part = volume.read_part(range.clone());
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        match part.get(range.start, len) {
            Ok(bytes) => sum = bytes.iter().fold(sum, |sum, byte| boot::add(sum, *byte)),
            Err(error) => {
                damage.get_or_insert(error.into());
            }
        }
    }
    if damage.is_none() && sum != pointer.checksum {
        damage = Some(Damage::Invalid("its checksum is wrong".into()));
    }
    let damage = damage.map(|damage| (damage, "nothing is lost: it serves to compare names"));
    tell(visitor, "up-case table", at, damage)
}

fn pieces(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let Range { start, end } = *range;
    (0..(end - start).div_ceil(PIECE)).map(move |n| start + n * PIECE..(start + (n + 1) * PIECE).min(end))
}

/// Collects ranges of free clusters.
struct Free<'a> {
    last: Option<Range<u64>>,
    found: &'a mut dyn FnMut(Range<u64>),
}

impl Free<'_> {
    fn add(&mut self, range: Range<u64>) {
        match &mut self.last {
            _ if range.is_empty() => {}
            Some(last) if last.end == range.start => last.end = range.end,
            last => {
                if let Some(done) = last.replace(range) {
                    (self.found)(done);
                }
            }
        }
    }
}

/// Reports the clusters that are free in the bitmap.
pub(super) fn free(exfat: &Exfat, volume: &Volume<'_>, found: &mut dyn FnMut(Range<u64>)) {
    let mut follower = exfat.follower(volume);
    let heap = exfat.boot.heap;
    let mut free = Free { last: None, found };
    each(exfat, volume, &mut follower, &mut |cluster, used| {
        if used == Some(false) {
            let start = heap.at(cluster).min(volume.size());
            free.add(start..(start + heap.cluster).min(volume.size()));
        }
    });
    if let Some(last) = free.last {
        (free.found)(last);
    }
}

/// Calls `take` with each cluster that the bitmap has, and whether it is used; None if that cannot be read.
fn each(
    exfat: &Exfat,
    volume: &Volume<'_>,
    follower: &mut Follower<'_>,
    take: &mut dyn FnMut(u32, Option<bool>),
) {
    let Some(pointer) = root::find(exfat, volume, follower).bitmap else { return };
    let (at, _) = place(volume, follower, &pointer, bitmap_len(exfat));
    let heap = exfat.boot.heap;
    let mut cluster = 2u32;
    for piece in at.iter().flat_map(pieces) {
        let part = volume.read_part(piece.clone());
        for byte in piece {
            let bits = part.get(byte, 1).ok().and_then(|bytes| bytes.first().copied());
            for bit in 0..8 {
                let at = cluster.saturating_add(bit);
                if heap.has(at) {
                    take(at, bits.map(|bits| bits & (1 << bit) != 0));
                }
            }
            cluster = cluster.saturating_add(8);
        }
    }
}

/// The most clusters without a file that are looked at: 16 MiB of numbers.
const MAX_UNSEEN: usize = 4 << 20;

/// Returns clusters that are in use and belong to nothing that was found.
pub(super) fn unseen(exfat: &Exfat, volume: &Volume<'_>, follower: &mut Follower<'_>) -> Vec<u32> {
    let found = root::find(exfat, volume, follower);
    for (pointer, most) in [(&found.bitmap, bitmap_len(exfat)), (&found.up_case, MAX_UP_CASE)] {
        if let Some(pointer) = pointer {
            let clusters = pointer.len.min(most).div_ceil(follower.heap.cluster);
            follower.whole(pointer.cluster, clusters, false);
        }
    }
    let seen = std::mem::replace(&mut follower.seen, Bits::none());
    let mut clusters = Vec::new();
    each(exfat, volume, follower, &mut |cluster, used| {
        if used == Some(true) && !seen.has(cluster) && clusters.len() < MAX_UNSEEN {
            clusters.push(cluster);
        }
    });
    follower.seen = seen;
    clusters
}

/// Reports how much is in use and belongs to nothing that was found: files of directories that are lost.
pub(super) fn without_file(
    exfat: &Exfat,
    volume: &Volume<'_>,
    follower: &mut Follower<'_>,
    visitor: &mut dyn Visitor,
) -> ControlFlow<()> {
    let clusters = unseen(exfat, volume, follower);
    if clusters.is_empty() {
        return ControlFlow::Continue(());
    }
    let heap = exfat.boot.heap;
    let mut at = Vec::new();
    for cluster in &clusters {
        if at.len() < MAX_PLACES {
            slots::add(&mut at, heap.at(*cluster)..heap.at(*cluster) + heap.cluster);
        }
    }
    let damage = Damage::Invalid("clusters are in use and belong to no file that was found".into());
    let bytes = human((clusters.len() as u64).saturating_mul(heap.cluster));
    let more = if clusters.len() < MAX_UNSEEN { "" } else { "at least " };
    let cost = format!("{more}{bytes} of files whose entries are lost, or were never removed");
    tell(visitor, "clusters without a file", at, Some((damage, &cost)))
}
