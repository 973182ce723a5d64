//! Reports the superblock, the group descriptors, and the copies of both.

use std::ops::Range;

use cdi_base::units::plural;

use super::find::{Found, known_bad};
use super::groups::{Groups, Source, meta_copies, present, supers};
use super::structures::{Structures, damaged};
use super::superblock::{PLACE, SIZE, Superblock, incompat};
use crate::file_system::{Damage, Structure, Visitor};
use crate::volume::Volume;

/// Reports them. Copies that are not needed are not read: they are damaged if that is known without reading.
pub(super) fn report(found: &Found, groups: &Groups, volume: &Volume<'_>, visitor: &mut dyn Visitor) -> bool {
    let sb = &found.superblock;
    boot_block(volume, visitor)
        && first(found, visitor)
        && state(sb, volume, visitor)
        && copies_of_superblock(found, volume, visitor)
        && descriptors(sb, groups, visitor)
        && copies_of_descriptors(sb, volume, visitor)
        && multiple_mount(sb, volume, visitor)
}

fn superblock_at(at: u64) -> Range<u64> {
    at..at + SIZE as u64
}

/// Reports the bytes before the superblock, which a boot loader may use.
fn boot_block(volume: &Volume<'_>, visitor: &mut dyn Visitor) -> bool {
    let at = 0..PLACE;
    match known_bad(volume, at.start, at.end) {
        None => visitor.structure(Structure { what: "boot block".into(), at: vec![at], damage: None }),
        Some(damage) => damaged(visitor, "boot block".into(), at, damage, "no files: at most a boot loader"),
    }
}

fn first(found: &Found, visitor: &mut dyn Visitor) -> bool {
    let cost = match found.at {
        PLACE => "it is used as it is".into(),
        at => format!("the copy at byte {at} is used"),
    };
    let damage = found.damage.clone().map(|damage| (damage, cost));
    visitor.structure(Structure { what: "superblock".into(), at: vec![superblock_at(PLACE)], damage })
}

/// Reports what costs files although nothing is unreadable: a journal that was not replayed, a volume that is too short.
fn state(sb: &Superblock, volume: &Volume<'_>, visitor: &mut dyn Visitor) -> bool {
    if sb.incompat & incompat::RECOVER != 0 {
        let damage = Damage::Invalid("the volume was not unmounted, and its journal is not replayed".into());
        let cost = "what was changed last may be shown as it was before";
        if !damaged(visitor, "journal".into(), superblock_at(PLACE), damage, cost) {
            return false;
        }
    }
    let (size, end) = (volume.size(), sb.blocks.saturating_mul(sb.block));
    if end <= size {
        return true;
    }
    let inodes = (sb.groups - present(sb, volume)) * u64::from(sb.group_inodes);
    let damage = Damage::Invalid("the file system is larger than the volume".into());
    let cost = format!("what is there is lost, and up to {}", plural(inodes, "file"));
    damaged(visitor, "end of the file system".into(), size..end, damage, cost)
}

fn copies_of_superblock(found: &Found, volume: &Volume<'_>, visitor: &mut dyn Visitor) -> bool {
    let sb = &found.superblock;
    let count = present(sb, volume);
    let places = supers(sb).take_while(|g| *g < count).map(|g| {
        let at = sb.super_block(g) * sb.block;
        (format!("copy of the superblock in group {g}"), superblock_at(at))
    });
    unneeded("copies of the superblock", places, volume, visitor)
}

/// Reports copies that are not read.
fn unneeded(
    name: &'static str,
    places: impl Iterator<Item = (String, Range<u64>)>,
    volume: &Volume<'_>,
    visitor: &mut dyn Visitor,
) -> bool {
    let mut intact = Structures::new(name);
    for (what, at) in places {
        let go_on = match known_bad(volume, at.start, at.end - at.start) {
            None => intact.intact(at, visitor),
            Some(damage) => damaged(visitor, what, at, damage, "nothing is lost: it is a copy"),
        };
        if !go_on {
            return false;
        }
    }
    intact.finish(visitor)
}

fn descriptors(sb: &Superblock, groups: &Groups, visitor: &mut dyn Visitor) -> bool {
    let all = Structure { what: "group descriptors".into(), at: groups.at.clone(), damage: None };
    if !groups.at.is_empty() && !visitor.structure(all) {
        return false;
    }
    if groups.more_bad > 0 {
        let damage = Damage::Invalid("they make no sense".into());
        let what = format!("{} more group descriptors", groups.more_bad);
        let at = groups.at.last().cloned().unwrap_or_default();
        if !damaged(visitor, what, at, damage, format!("up to {} files each", sb.group_inodes)) {
            return false;
        }
    }
    groups.bad.iter().all(|bad| {
        let source = usize::try_from(bad.group).ok().and_then(|g| groups.list.get(g)).map(|g| g.source);
        let cost = match source {
            Some(Source::Copy) => "a copy is used".into(),
            Some(Source::Unsure) => "it is used as it is".into(),
            _ => format!("up to {}", plural(sb.group_inodes.into(), "file")),
        };
        damaged(
            visitor,
            format!("descriptor of group {}", bad.group),
            bad.at.clone(),
            bad.damage.clone(),
            cost,
        )
    })
}

fn copies_of_descriptors(sb: &Superblock, volume: &Volume<'_>, visitor: &mut dyn Visitor) -> bool {
    let (old, count) = (sb.old_table_blocks(), present(sb, volume));
    let tables = supers(sb).take_while(|g| *g < count && old > 0).map(|g| {
        let at = (sb.super_block(g) + 1) * sb.block;
        (format!("copy of the group descriptors in group {g}"), at..at + old * sb.block)
    });
    let blocks = (old..count.div_ceil(sb.per_block())).flat_map(|number| {
        meta_copies(sb, number).map(|block| {
            let at = block * sb.block;
            (format!("copy of group descriptors at byte {at}"), at..at + sb.block)
        })
    });
    let places = tables.chain(blocks).filter(|(_, at)| at.start < volume.size());
    unneeded("copies of group descriptors", places, volume, visitor)
}

fn multiple_mount(sb: &Superblock, volume: &Volume<'_>, visitor: &mut dyn Visitor) -> bool {
    if sb.mmp == 0 || sb.mmp >= sb.blocks {
        return true;
    }
    let at = sb.mmp * sb.block;
    let what = "block of the multiple mount protection";
    unneeded(what, [(what.to_string(), at..at + sb.block)].into_iter(), volume, visitor)
}
