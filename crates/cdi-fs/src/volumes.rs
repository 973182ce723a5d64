//! The volumes of a disk: its partitions, or the whole of it.

use std::ops::Range;

use cdi_base::error::ReadError;
use cdi_base::readable::Readable;
use cdi_base::units::SECTOR;

use crate::file_system::FileSystem;
use crate::names::safe_name;
use crate::partitions::{self, Table};
use crate::recognize::{Recognized, recognize};
use crate::search::{STEP, search};
use crate::volume::Volume;

/// A part of a disk, and what is on it.
pub struct Part {
    /// The number of the partition, as on Linux; None if it is the whole disk, or if the partition table is lost.
    pub number: Option<u32>,
    /// Where it is on the disk, in bytes.
    pub range: Range<u64>,
    /// The type that the partition table says; empty if there is none.
    pub kind: String,
    /// The name that the partition table says.
    pub name: Option<String>,
    /// What is on it.
    pub contents: Recognized,
}

impl Part {
    /// Returns the volume.
    pub fn volume<'a>(&self, disk: &'a dyn Readable) -> Volume<'a> {
        Volume::new(disk, self.range.clone())
    }

    /// Returns a short name for paths: `1-ntfs-Windows`, or `ext4` for a whole disk without a label.
    pub fn title(&self) -> String {
        let number = match self.number {
            None if self.range.start > 0 => Some(format!("sector{}", self.range.start / u64::from(SECTOR))),
            number => number.map(|n| n.to_string()),
        };
        let (kind, label) = match &self.contents {
            Recognized::Files(found) => (Some(found.name().to_owned()), found.label()),
            Recognized::Damaged(name, _) => (Some((*name).to_owned()), None),
            Recognized::Named(_) | Recognized::Unknown(_) => (None, None),
        };
        let label = label.or_else(|| self.name.clone()).filter(|label| !label.is_empty());
        let words: Vec<String> =
            [number, kind, label].into_iter().flatten().map(|word| safe_name(&word)).collect();
        if words.is_empty() { "disk".into() } else { words.join("-") }
    }

    fn of(disk: &dyn Readable, range: Range<u64>) -> Part {
        let contents = recognize(&Volume::new(disk, range.clone()));
        Part { number: None, range, kind: String::new(), name: None, contents }
    }
}

/// What is on a disk.
pub struct Layout {
    /// The partition table, or why it cannot be read.
    pub table: Result<Option<Table>, ReadError>,
    /// The parts, in the order of their numbers; then those that no table lists.
    pub parts: Vec<Part>,
    /// How many bytes may have partitions that were not looked for, because the table is lost.
    pub left: u64,
}

/// Finds out what is on a disk. If its partition table is lost, or part of it, file systems are looked for where partitions
/// usually begin; also if there is no table, and the disk itself is nothing that is known.
pub fn layout(disk: &dyn Readable) -> Layout {
    let table = partitions::table(disk);
    let mut parts = Vec::new();
    let mut left = 0;
    if let Ok(Some(table)) = &table {
        for p in &table.partitions {
            let part = Part::of(disk, p.start..p.start.saturating_add(p.size));
            parts.push(Part { number: Some(p.number), kind: p.kind.clone(), name: p.name.clone(), ..part });
        }
    }
    // Optical discs have a file system that covers the disk as well as a partition table.
    if !parts.iter().any(|p| matches!(p.contents, Recognized::Files(_))) {
        let whole = Part::of(disk, 0..disk.size());
        let known = !matches!(whole.contents, Recognized::Unknown(_));
        if known || parts.is_empty() {
            parts.push(whole);
        }
    }
    if let Some(gaps) = unlisted(disk, &table, &parts) {
        let search = search(disk, &gaps);
        left = search.left;
        if !search.found.is_empty() {
            // What is not known of the whole disk is known now.
            parts.retain(|p| p.number.is_some());
        }
        parts.extend(search.found.into_iter().map(|(range, found)| Part {
            number: None,
            range,
            kind: String::new(),
            name: None,
            contents: Recognized::Files(found),
        }));
    }
    Layout { table, parts, left }
}

/// Returns the ranges in which partitions may be of which no table says where they are; None if there is nothing to look for.
fn unlisted(
    disk: &dyn Readable,
    table: &Result<Option<Table>, ReadError>,
    parts: &[Part],
) -> Option<Vec<Range<u64>>> {
    // A copy at the end of the disk, of a partition that ends there, is not a file system of the whole disk.
    let fits = |found: &dyn FileSystem| table.is_ok() || found.size().saturating_add(STEP) >= disk.size();
    let is_whole = |part: &Part| match &part.contents {
        Recognized::Files(found) => fits(&**found),
        Recognized::Damaged(..) | Recognized::Named(_) => true,
        Recognized::Unknown(_) => false,
    };
    let whole = || parts.iter().any(|p| p.number.is_none() && is_whole(p));
    match table {
        Ok(Some(table)) if table.damage.is_none() => return None,
        _ if whole() => return None,
        _ => {}
    }
    let mut gaps = Vec::new();
    let mut at = 0;
    let mut listed: Vec<&Range<u64>> =
        parts.iter().filter(|p| p.number.is_some()).map(|p| &p.range).collect();
    listed.sort_by_key(|range| range.start);
    for range in listed {
        if range.start > at {
            gaps.push(at..range.start);
        }
        at = at.max(range.end);
    }
    if at < disk.size() {
        gaps.push(at..disk.size());
    }
    Some(gaps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_one_safe_name() {
        let part = |number, name: Option<&str>| Part {
            number,
            range: 0..1,
            kind: String::new(),
            name: name.map(Into::into),
            contents: Recognized::Named("XFS"),
        };
        assert_eq!(part(Some(2), Some("a/b ..")).title(), "2-a_b___");
        assert_eq!(part(None, None).title(), "disk");
        assert_eq!(part(Some(1), Some("")).title(), "1");
    }
}
