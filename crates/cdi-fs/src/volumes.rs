//! The volumes of a disk: its partitions, or the whole of it.

use std::ops::Range;

use cdi_base::error::ReadError;
use cdi_base::readable::Readable;
use cdi_base::units::SECTOR;

use crate::names::safe_name;
use crate::partitions::{self, Table};
use crate::recognize::{Recognized, recognize};
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
        let number = self.number.map(|n| n.to_string());
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
    /// The parts, in the order of their numbers.
    pub parts: Vec<Part>,
}

/// Where the first partition begins if a disk was partitioned as usual: by Windows since Vista and by all of today's
/// programs, and by the older ones.
const USUAL: [u64; 2] = [1 << 20, 63 * SECTOR as u64];

/// Finds out what is on a disk. If its partition table is lost, file systems are looked for where the first partition
/// usually begins.
pub fn layout(disk: &dyn Readable) -> Layout {
    let table = partitions::table(disk);
    let mut parts = Vec::new();
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
    if table.is_err() && !parts.iter().any(|p| matches!(p.contents, Recognized::Files(_))) {
        let usual = USUAL.iter().map(|start| Part::of(disk, *start..disk.size()));
        if let Some(found) = usual.into_iter().find(|p| matches!(p.contents, Recognized::Files(_))) {
            parts = vec![found];
        }
    }
    Layout { table, parts }
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
