//! Finds the superblock, or a copy of it where the first is lost.

use cdi_base::units::index;

use super::superblock::{PLACE, SIZE, Superblock, incompat};
use crate::file_system::Damage;
use crate::volume::Volume;

/// A superblock that was found.
pub(super) struct Found {
    pub superblock: Superblock,
    /// The byte of the volume at which it is.
    pub at: u64,
    /// What is wrong with the first one, if it is.
    pub damage: Option<Damage>,
}

/// Finds a superblock. None if this is no ext file system; an error if it is one and no superblock makes sense.
pub(super) fn find(volume: &Volume<'_>) -> Result<Option<Found>, Damage> {
    let (damage, first) = match volume.read(PLACE, SIZE) {
        Err(e) => (Damage::from(e), None),
        Ok(bytes) => match Superblock::parse(&bytes, false) {
            Ok(found) if found.incompat & incompat::JOURNAL_DEVICE != 0 => return Ok(None),
            Ok(found) if found.checksum_right(&bytes) => {
                return Ok(Some(Found { superblock: found, at: PLACE, damage: None }));
            }
            Ok(found) => (Damage::Invalid("its checksum is wrong".into()), Some(found)),
            Err(what) if is_remains(&bytes) => (Damage::Invalid(what), None),
            Err(_) => return Ok(None),
        },
    };
    if let Some((superblock, at)) = find_copy(volume) {
        return Ok(Some(Found { superblock, at, damage: Some(damage) }));
    }
    match (first, &damage) {
        (Some(superblock), _) => Ok(Some(Found { superblock, at: PLACE, damage: Some(damage) })),
        (None, Damage::Invalid(_)) if has_magic(volume) => Err(damage),
        _ => Ok(None),
    }
}

/// Returns whether the bytes may once have been a superblock: it has the signature, or nothing but the signature is wrong, or
/// it was replaced by zeros.
fn is_remains(bytes: &[u8]) -> bool {
    bytes.get(0x38..0x3a) == Some(&[0x53, 0xef])
        || bytes.iter().all(|b| *b == 0)
        || Superblock::parse(bytes, true).is_ok()
}

fn has_magic(volume: &Volume<'_>) -> bool {
    volume.read(PLACE + 0x38, 2).is_ok_and(|b| b == [0x53, 0xef])
}

/// Looks for a copy at all places where one may be. Where the first was not read yet, only those count that were.
fn find_copy(volume: &Volume<'_>) -> Option<(Superblock, u64)> {
    let later = is_untried(volume, PLACE, SIZE);
    for at in places(volume.size()) {
        if later && is_untried(volume, at, SIZE) {
            continue;
        }
        let Ok(bytes) = volume.read(at, SIZE) else { continue };
        let Ok(found) = Superblock::parse(&bytes, false) else { continue };
        let group = (at / found.block).saturating_sub(found.first_block) / found.group_blocks;
        let here = found.super_block(group) * found.block == at;
        let own = group & 0xffff == u64::from(found.own_group);
        if here && own && found.checksum_right(&bytes) && found.incompat & incompat::JOURNAL_DEVICE == 0 {
            return Some((found, at));
        }
    }
    None
}

/// Returns the places of copies for all sizes of blocks, the likely ones first: the groups have as many blocks as a block has
/// bits, which is what every mkfs does; with clusters (bigalloc), as many clusters. Smaller groups are tried as well.
fn places(size: u64) -> Vec<u64> {
    let mut found = Vec::new();
    for block in [4096, 1024, 2048, 65536, 8192, 16384, 32768] {
        let first = if block == 1024 { 1024 } else { 0 };
        let group: u64 = block * block * 8;
        let last = size.saturating_sub(first + 1) / group;
        let groups = copies(last).into_iter().chain([last]).filter(|g| *g > 0);
        found.extend(groups.map(|g| first + g * group));
        for smaller in (1..=4).map(|log| group >> log) {
            found.extend([1, 3].map(|g| first + g * smaller));
        }
        for ratio in (1..=8).map(|log| 1 << log) {
            found.extend([1, 3].map(|g| g * group * ratio));
            found.push(size.saturating_sub(1) / (group * ratio) * group * ratio);
        }
    }
    let mut seen = std::collections::HashSet::new();
    found.retain(|at| *at > PLACE && at.saturating_add(SIZE as u64) <= size && seen.insert(*at));
    found
}

/// Returns the groups up to `last` that have copies: 1 and the powers of 3, 5 and 7.
fn copies(last: u64) -> Vec<u64> {
    let powers = |base: u64| std::iter::successors(Some(base), move |p| p.checked_mul(base));
    let mut found = vec![1];
    for base in [3, 5, 7] {
        found.extend(powers(base).take_while(|g| *g <= last));
    }
    found.sort_unstable();
    found.retain(|g| *g <= last);
    found
}

/// Returns whether some of the bytes were not tried yet.
pub(super) fn is_untried(volume: &Volume<'_>, at: u64, len: usize) -> bool {
    volume.missing(at..at.saturating_add(len as u64)).iter().any(|m| m.untried)
}

/// Returns why a structure cannot be read that is not needed, if that is known without reading it.
pub(super) fn known_bad(volume: &Volume<'_>, at: u64, len: u64) -> Option<Damage> {
    let missing = volume.missing(at..at.saturating_add(len));
    let bad = missing.iter().find(|m| !m.untried)?;
    let len = index((bad.range.end - bad.range.start).min(SIZE as u64));
    volume.read(bad.range.start, len).err().map(Damage::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_cover_all_sizes_of_blocks() {
        let found = places(8 << 30);
        for at in [32768 * 4096, 3 * 32768 * 4096, (8192 + 1) * 1024, (3 * 8192 + 1) * 1024, 16384 * 2048] {
            assert!(found.contains(&at), "{at}");
        }
        assert!(found.len() < 400, "{}", found.len());
        assert!(places(64 << 30).contains(&(32 << 30)), "64 KiB");
        assert!(places(2048).is_empty());
        assert!(places(0).is_empty());
        assert!(places(u64::MAX / 4).len() < 1000);
    }
}
