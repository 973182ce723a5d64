//! Reports the structures of a FAT volume that belong to no file.

use std::ops::{ControlFlow, Range};

use cdi_base::error::ReadError;

use super::Fat;
use super::boot::Root;
use super::record::go_on;
use super::slots::one;
use super::table::Table;
use crate::bytes::le32;
use crate::file_system::{Damage, Structure, Visitor};
use crate::volume::Volume;

/// The most damaged parts of the table that are reported one by one.
const MAX_PARTS: usize = 4096;

/// Reads and reports the boot sectors and the tables.
pub(super) fn report(
    fat: &Fat,
    volume: &Volume<'_>,
    table: &mut Table<'_>,
    visitor: &mut dyn Visitor,
) -> ControlFlow<()> {
    let boot = &fat.boot;
    let damage =
        fat.boot_damage.clone().map(|damage| (damage, "nothing is lost: the backup is used".to_owned()));
    go_on(visitor.structure(Structure { what: "boot sector".into(), at: one(0..boot.sector), damage }))?;
    if let Some(at) = boot.backup {
        let damage = match volume.read(at, 512) {
            Ok(bytes) if super::boot::is_valid(&bytes) => None,
            Ok(_) => Some(Damage::Invalid("it makes no sense".into())),
            Err(error) => Some(error.into()),
        };
        let damage = damage
            .map(|damage| (damage, "nothing is lost as long as the boot sector can be read".to_owned()));
        let what = "backup boot sector".into();
        go_on(visitor.structure(Structure { what, at: one(at..at + boot.sector), damage }))?;
    }
    if let Some(at) = boot.info {
        let damage = match volume.read(at, 512) {
            Ok(bytes) if le32(&bytes, 0) == Some(0x4161_5252) => None,
            Ok(_) => Some(Damage::Invalid("it has no signature".into())),
            Err(error) => Some(error.into()),
        };
        let damage = damage
            .map(|damage| (damage, "nothing is lost: free clusters are counted in the table".to_owned()));
        go_on(visitor.structure(Structure {
            what: "FSInfo sector".into(),
            at: one(at..at + boot.sector),
            damage,
        }))?;
    }
    copies(fat, volume, visitor)?;
    lost_in_all(fat, table, visitor)?;
    if let Root::At(range) = &boot.root {
        let what = "root directory".into();
        go_on(visitor.structure(Structure { what, at: vec![range.clone()], damage: None }))?;
    }
    ControlFlow::Continue(())
}

/// Reports each copy of the table. Those after the first are read only where they are needed: of them, what is known to be bad
/// is reported.
fn copies(fat: &Fat, volume: &Volume<'_>, visitor: &mut dyn Visitor) -> ControlFlow<()> {
    let names = ["file allocation table", "second file allocation table"];
    for (n, range) in fat.boot.copies.iter().enumerate() {
        let used = fat.boot.table.copies.contains(&range.start);
        let cost = match (used, fat.boot.table.copies.len()) {
            (false, _) => "nothing is lost: this copy is not in use",
            (true, 1) => "the parts of files whose clusters it lists",
            (true, _) => "nothing is lost where another copy can be read",
        };
        let what = names
            .get(n)
            .map_or_else(|| format!("file allocation table {}", n + 1), |name| (*name).to_owned());
        let damage = known_bad(volume, range).map(|error| (Damage::Unreadable(error), cost.to_owned()));
        go_on(visitor.structure(Structure { what, at: vec![range.clone()], damage }))?;
    }
    ControlFlow::Continue(())
}

/// Returns the error of reading the first part of `range` that is known to be bad.
pub(crate) fn known_bad(volume: &Volume<'_>, range: &Range<u64>) -> Option<ReadError> {
    let bad = volume.missing(range.clone()).into_iter().find(|missing| !missing.untried)?;
    volume.read(bad.range.start, 1).err()
}

/// Reads the whole table, and reports what can be read in no copy.
fn lost_in_all(fat: &Fat, table: &mut Table<'_>, visitor: &mut dyn Visitor) -> ControlFlow<()> {
    let layout = &fat.boot.table;
    let mut lost: Vec<(Range<u64>, ReadError)> = Vec::new();
    for number in 0..table.count() {
        for (range, error) in &table.page(number).lost {
            let full = lost.len() >= MAX_PARTS;
            match lost.last_mut() {
                // The last takes the rest if there are too many.
                Some((last, _)) if full || last.end == range.start => last.end = range.end,
                _ => lost.push((range.clone(), *error)),
            }
        }
    }
    for (range, error) in lost {
        let (first, last) = layout.clusters_of(&range);
        let what = format!("entries of clusters {first} to {last} in every file allocation table");
        let at = layout.copies.iter().map(|copy| copy + range.start..copy + range.end).collect();
        let cost =
            "the rest of files that have one of these clusters; these clusters count as used".to_owned();
        go_on(visitor.structure(Structure { what, at, damage: Some((error.into(), cost)) }))?;
    }
    ControlFlow::Continue(())
}
