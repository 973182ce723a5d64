//! The path table: every directory, with its place and the one above, without reading directories.
//!
//! Source: ECMA-119, sections 6.9 and 9.4.

use super::descriptor::Tree;
use super::entry;
use crate::bytes::{be16, be32, le16, le32};
use crate::volume::Volume;

/// The longest path table that is read, in bytes: with numbers of 16 bits, no table of more is of use.
const MAX_TABLE: u64 = 16 << 20;

/// A directory.
pub(super) struct Listed {
    /// The first block of the directory.
    pub(super) block: u32,
    /// The place in the table of the directory above, from 0.
    pub(super) parent: usize,
    pub(super) name: String,
}

/// Reads the first table of `tree` that can be read, or else what can be read of the first.
pub(super) fn read(volume: &Volume<'_>, tree: &Tree) -> Vec<Listed> {
    let mut best = Vec::new();
    for (range, big) in &tree.path_tables {
        let range = range.start..range.end.min(range.start.saturating_add(MAX_TABLE));
        let part = volume.read_part(range.clone());
        // Records have no fixed length: what follows a lost one cannot be found.
        let good = part.lost().first().map_or(part.range().end, |(lost, _)| lost.start);
        let len = usize::try_from(good - range.start.min(good)).unwrap_or(0);
        let listed =
            part.get(range.start, len).map(|bytes| parse(bytes, *big, tree.joliet)).unwrap_or_default();
        if listed.len() > best.len() {
            best = listed;
        }
        if part.lost().is_empty() && !best.is_empty() {
            break;
        }
    }
    best
}

fn parse(mut bytes: &[u8], big: bool, joliet: bool) -> Vec<Listed> {
    let mut listed = Vec::new();
    while let Some(len) = bytes.first().map(|len| usize::from(*len)).filter(|len| *len > 0) {
        let (Some(block), Some(parent), Some(name)) = (
            if big { be32(bytes, 2) } else { le32(bytes, 2) },
            if big { be16(bytes, 6) } else { le16(bytes, 6) },
            bytes.get(8..8 + len),
        ) else {
            break;
        };
        let parent = usize::from(parent).saturating_sub(1);
        listed.push(Listed { block, parent, name: entry::name(name, joliet) });
        bytes = bytes.get(8 + len + len % 2..).unwrap_or_default();
    }
    listed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_in_both_orders() {
        let little = [1, 0, 20, 0, 0, 0, 1, 0, 0, 0, 3, 0, 21, 0, 0, 0, 1, 0, b'A', b'B', b'C', 0, 0, 0];
        let big = [1, 0, 0, 0, 0, 20, 0, 1, 0, 0, 3, 0, 0, 0, 0, 21, 0, 1, b'A', b'B', b'C'];
        for listed in [parse(&little, false, false), parse(&big, true, false)] {
            assert_eq!(listed.len(), 2);
            assert_eq!((listed[1].block, listed[1].parent, &*listed[1].name), (21, 0, "ABC"));
        }
    }
}
