//! The names of a catalogue by position: a directory of a million entries is listed in parts, and a name in it is found at
//! once.

use std::ops::Range;

use super::Catalogue;

/// A name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameIn<'a> {
    /// The number of the directory.
    pub directory: u64,
    /// The number of the entry.
    pub number: u64,
    /// The name, as the file system has it.
    pub text: &'a str,
}

impl Catalogue {
    /// Returns how many names there are. They are sorted by directory and text; their positions are the same after every scan
    /// of the same volume.
    pub fn name_count(&self) -> usize {
        self.by_parent.len()
    }

    /// Returns the name at a position.
    pub fn name_at(&self, position: usize) -> Option<NameIn<'_>> {
        let name = self.names.get(*self.by_parent.get(position)? as usize)?;
        Some(NameIn { directory: name.parent, number: name.number, text: self.text(name) })
    }

    /// Returns the positions of the names in a directory.
    pub fn positions(&self, directory: u64) -> Range<usize> {
        let parent = |i: &u32| self.names[*i as usize].parent;
        let first = self.by_parent.partition_point(|i| parent(i) < directory);
        let len = self.by_parent[first..].partition_point(|i| parent(i) == directory);
        first..first + len
    }

    /// Returns the positions of the entries of a directory that have this name: more than one if some are damaged.
    pub fn positions_of(&self, directory: u64, text: &str) -> Range<usize> {
        let all = self.positions(directory);
        let of = |i: &u32| self.text(&self.names[*i as usize]);
        let names = &self.by_parent[all.clone()];
        let first = names.partition_point(|i| of(i) < text);
        let len = names[first..].partition_point(|i| of(i) == text);
        all.start + first..all.start + first + len
    }
}
