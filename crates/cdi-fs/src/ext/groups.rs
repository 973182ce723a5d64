//! The group descriptors: where the bitmaps and the table of inodes of each group are.
//!
//! Source: Linux, Documentation/filesystems/ext4/group_descr.rst and fs/ext4/super.c (`ext4_group_desc_csum`,
//! `descriptor_loc`); e2fsprogs, lib/ext2fs/closefs.c (`ext2fs_super_and_bgd_loc2`).

use std::ops::Range;

use cdi_base::units::index;

use super::checksum::{crc16, crc32c};
use super::find::is_untried;
use super::superblock::{Superblock, compat, incompat};
use crate::bytes::{le16, le32};
use crate::file_system::Damage;
use crate::volume::{Part, Volume};

/// The number of copies of a descriptor that are tried.
const MAX_COPIES: usize = 8;

/// The number of damaged descriptors that are reported one by one.
const MAX_BAD: usize = 1 << 16;

/// Flag of a group: the bitmap of inodes was never written, and none is used.
pub(super) const INODE_UNINIT: u16 = 1;
/// Flag of a group: the bitmap of blocks was never written, and only the file system's own blocks are used.
pub(super) const BLOCK_UNINIT: u16 = 2;
/// Flag of a group: the table of inodes was filled with zeros when it was made.
pub(super) const INODE_ZEROED: u16 = 4;

/// Where a descriptor comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// From its place.
    First,
    /// From its place, with a wrong checksum: only the places that it names are used.
    Unsure,
    /// From a copy, which is as old as the volume: only the places that it names are used.
    Copy,
    /// There is none that makes sense.
    Lost,
}

/// A group descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group {
    /// The block of the bitmap of blocks.
    pub blocks: u64,
    /// The block of the bitmap of inodes.
    pub inodes: u64,
    /// The first block of the table of inodes.
    pub table: u64,
    /// The number of inodes at the end of the table that were never used.
    pub unused: u32,
    /// The checksum of the bitmap of blocks.
    pub blocks_csum: u32,
    /// The checksum of the bitmap of inodes.
    pub inodes_csum: u32,
    /// Flags, as in [`INODE_UNINIT`].
    pub flags: u16,
    /// Where it comes from.
    pub source: Source,
}

impl Group {
    const LOST: Group = Group {
        blocks: 0,
        inodes: 0,
        table: 0,
        unused: 0,
        blocks_csum: 0,
        inodes_csum: 0,
        flags: 0,
        source: Source::Lost,
    };

    /// Returns whether a flag is set that can be relied on.
    pub(super) fn has(&self, flag: u16) -> bool {
        self.source == Source::First && self.flags & flag != 0
    }

    fn parse(sb: &Superblock, b: &[u8]) -> Option<Group> {
        let high = |at| if b.len() >= 64 { le32(b, at).map(|h| u64::from(h) << 32) } else { Some(0) };
        let high16 = |at| if b.len() >= 64 { le16(b, at).map(|h| u32::from(h) << 16) } else { Some(0) };
        let csum = sb.descriptor_csum();
        Some(Group {
            blocks: u64::from(le32(b, 0)?) | high(0x20)?,
            inodes: u64::from(le32(b, 4)?) | high(0x24)?,
            table: u64::from(le32(b, 8)?) | high(0x28)?,
            unused: if csum { u32::from(le16(b, 0x1c)?) | high16(0x32)? } else { 0 },
            blocks_csum: u32::from(le16(b, 0x18)?) | high16(0x38)?,
            inodes_csum: u32::from(le16(b, 0x1a)?) | high16(0x3a)?,
            flags: if csum { le16(b, 0x12)? } else { INODE_ZEROED },
            source: Source::First,
        })
    }

    /// Returns whether the places that it names are on the volume, and where a group's may be.
    fn is_plausible(&self, sb: &Superblock, group: u64) -> bool {
        let flex = sb.incompat & incompat::FLEX_BG != 0;
        let (from, to) =
            if flex { (sb.first_block + 1, sb.blocks) } else { (sb.group_start(group), sb.group_end(group)) };
        let fits =
            |block: u64, len: u64| block >= from && block.checked_add(len).is_some_and(|end| end <= to);
        let table = self.table..self.table.saturating_add(sb.table_blocks());
        fits(self.blocks, 1)
            && fits(self.inodes, 1)
            && fits(self.table, sb.table_blocks())
            && self.blocks != self.inodes
            && !table.contains(&self.blocks)
            && !table.contains(&self.inodes)
    }
}

fn checksum_right(sb: &Superblock, group: u64, b: &[u8]) -> bool {
    let Ok(number) = u32::try_from(group) else { return false };
    let (Some(stored), Some(head), Some(tail)) = (le16(b, 0x1e), b.get(..0x1e), b.get(0x20..)) else {
        return false;
    };
    let number = number.to_le_bytes();
    if sb.metadata_csum() {
        crc32c(sb.seed, &[&number, head, &[0, 0], tail]) & 0xffff == u32::from(stored)
    } else if sb.descriptor_csum() {
        crc16(&[&sb.uuid, &number, head, tail]) == stored
    } else {
        true
    }
}

/// A descriptor that is damaged at its place.
pub(super) struct Bad {
    pub group: u64,
    pub at: Range<u64>,
    pub damage: Damage,
}

/// All group descriptors.
pub(super) struct Groups {
    pub list: Vec<Group>,
    /// Those that are damaged, the first [`MAX_BAD`] of them.
    pub bad: Vec<Bad>,
    /// The number of those that are damaged as well.
    pub more_bad: u64,
    /// Where they are at their places.
    pub at: Vec<Range<u64>>,
}

/// Returns the number of groups of which something can be on the volume, which may be cut: those that begin on it, and those
/// whose tables lie with the tables of such a group.
pub(super) fn present(sb: &Superblock, volume: &Volume<'_>) -> u64 {
    let blocks = (volume.size() / sb.block).saturating_sub(sb.first_block);
    let begun = blocks / sb.group_blocks + 1;
    begun.div_ceil(sb.flex).saturating_mul(sb.flex).min(sb.groups)
}

/// Reads all descriptors of groups that can be on the volume.
pub(super) fn read(sb: &Superblock, volume: &Volume<'_>) -> Groups {
    let count = present(sb, volume);
    let mut found =
        Groups { list: Vec::with_capacity(index(count)), bad: Vec::new(), more_bad: 0, at: Vec::new() };
    let per = sb.per_block();
    for first in (0..count).step_by(index(per)) {
        let at = place(sb, first / per) * sb.block;
        let last = (first + per).min(count);
        let range = at..at + (last - first) * sb.descriptor as u64;
        let part = volume.read_part(range.clone());
        super::structures::join(&mut found.at, range);
        for group in first..last {
            let (group, bad) = one(sb, volume, &part, group);
            found.list.push(group);
            match bad {
                Some(_) if found.bad.len() >= MAX_BAD => found.more_bad += 1,
                bad => found.bad.extend(bad),
            }
        }
    }
    found
}

/// Reads the descriptor of one group.
pub(super) fn read_one(sb: &Superblock, volume: &Volume<'_>, group: u64) -> Result<Group, Damage> {
    let at = descriptor_at(sb, group);
    let part = volume.read_part(at..at + sb.descriptor as u64);
    match one(sb, volume, &part, group) {
        (found, Some(bad)) if found.source == Source::Lost => Err(bad.damage),
        (found, _) => Ok(found),
    }
}

fn descriptor_at(sb: &Superblock, group: u64) -> u64 {
    place(sb, group / sb.per_block()) * sb.block + group % sb.per_block() * sb.descriptor as u64
}

fn one(sb: &Superblock, volume: &Volume<'_>, part: &Part, group: u64) -> (Group, Option<Bad>) {
    let at = descriptor_at(sb, group);
    let mut unsure = None;
    let damage = match part.get(at, sb.descriptor) {
        Err(e) => Damage::from(e),
        Ok(bytes) => match Group::parse(sb, bytes) {
            Some(found) if !found.is_plausible(sb, group) => {
                Damage::Invalid("it names places that make no sense".into())
            }
            Some(found) if checksum_right(sb, group, bytes) => return (found, None),
            found => {
                unsure = found.map(|found| Group { source: Source::Unsure, ..found });
                Damage::Invalid("its checksum is wrong".into())
            }
        },
    };
    let range = at..at + sb.descriptor as u64;
    let copy = from_copy(sb, volume, group, is_untried(volume, at, sb.descriptor));
    let found = copy.or(unsure).unwrap_or(Group::LOST);
    (found, Some(Bad { group, at: range, damage }))
}

/// Reads a descriptor from a copy. If its place was not read yet (`later`), only those copies count that were.
fn from_copy(sb: &Superblock, volume: &Volume<'_>, group: u64, later: bool) -> Option<Group> {
    let within = group % sb.per_block() * sb.descriptor as u64;
    for block in copies(sb, group / sb.per_block()).take(MAX_COPIES) {
        let at = block * sb.block + within;
        if later && is_untried(volume, at, sb.descriptor) {
            continue;
        }
        let Ok(bytes) = volume.read(at, sb.descriptor) else { continue };
        if let Some(found) = Group::parse(sb, &bytes)
            && found.is_plausible(sb, group)
            && checksum_right(sb, group, &bytes)
        {
            return Some(Group { source: Source::Copy, ..found });
        }
    }
    None
}

/// Returns the block in which the `number`th block of descriptors is.
fn place(sb: &Superblock, number: u64) -> u64 {
    if number < sb.old_table_blocks() {
        return sb.super_block(0) + 1 + number;
    }
    meta_place(sb, number * sb.per_block())
}

/// Returns the block of descriptors that a group begins with, after its superblock (`meta_bg`).
fn meta_place(sb: &Superblock, group: u64) -> u64 {
    if sb.has_super(group) { sb.super_block(group) + 1 } else { sb.group_start(group) }
}

/// Returns the groups after the first that begin with a superblock.
pub(super) fn supers(sb: &Superblock) -> impl Iterator<Item = u64> {
    let two = sb.compat & compat::SPARSE_SUPER2 != 0;
    let named = sb.backups.into_iter().map(u64::from).filter(move |_| two);
    named.chain(1..if two { 1 } else { sb.groups }).filter(|g| *g > 0 && *g < sb.groups && sb.has_super(*g))
}

/// Returns the blocks in which copies of the `number`th block of descriptors are.
fn copies(sb: &Superblock, number: u64) -> Box<dyn Iterator<Item = u64> + '_> {
    match number < sb.old_table_blocks() {
        true => Box::new(supers(sb).map(move |g| sb.super_block(g) + 1 + number)),
        false => Box::new(meta_copies(sb, number)),
    }
}

/// Returns the blocks with the two copies of a block of descriptors that is in the groups it describes: in the second and the
/// last of them.
pub(super) fn meta_copies(sb: &Superblock, number: u64) -> impl Iterator<Item = u64> {
    let first = number * sb.per_block();
    let groups = [first + 1, first + sb.per_block() - 1];
    groups.into_iter().filter(|g| *g < sb.groups).map(|g| meta_place(sb, g))
}

/// Returns the blocks that a group begins with: a superblock, descriptors, and what is kept for more of them.
pub(super) fn head(sb: &Superblock, group: u64) -> Range<u64> {
    let start = sb.group_start(group);
    let first = if group == 0 && sb.block == 1024 { 0 } else { start };
    let meta = sb.incompat & incompat::META_BG != 0 && group / sb.per_block() >= sb.first_meta;
    let has_super = sb.has_super(group);
    if meta {
        let place = group % sb.per_block();
        let has_table = place <= 1 || place == sb.per_block() - 1;
        let end = if has_super { sb.super_block(group) + 1 } else { start };
        return first.min(end)..end + u64::from(has_table);
    }
    if !has_super {
        return start..start;
    }
    first..sb.super_block(group) + 1 + sb.old_table_blocks() + sb.reserved
}
