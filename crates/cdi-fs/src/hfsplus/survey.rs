//! A first look at the catalogue: where hard links point to.
//!
//! A hard link is a file of its own in the catalogue, with a number that users never see; what it points to is a file in a
//! private directory, by a number in its name. Both are known only after all of the catalogue was read.
//!
//! Facts: TN1150, "Hard Links"; hfsplus_create_hardlink in Linux's fs/hfsplus/dir.c.

use std::collections::HashMap;

use super::btree::Tree;
use super::records::{Entry, Link, is_private, parse, target_of_links};
use crate::file_system::Kind;
use crate::idset::IdSet;
use crate::volume::Volume;

/// The largest number of files that hard links may point to.
const MAX_TARGETS: usize = 1 << 20;
/// The number of hard links that are looked at to find the private directories.
const MAX_SAMPLES: usize = 64;
/// The largest number of private directories: two, and names of what was lost.
const MAX_PRIVATE: usize = 8;

/// What the first look found.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// The numbers of the private directories.
    private: Vec<u32>,
    /// What hard links can point to: the number, by that in the name, and the directory.
    targets: HashMap<(Link, u32), u32>,
    /// The numbers of hard links.
    links: IdSet,
    /// What some hard links point to.
    samples: Vec<Link>,
}

impl Survey {
    /// Looks at all records of the catalogue.
    pub(super) fn make(volume: &Volume<'_>, catalogue: &Tree) -> Survey {
        let mut survey = Survey::default();
        catalogue.scan(volume, &mut |leaf| {
            if !leaf.cut
                && may_matter(leaf.bytes)
                && let Some(entry) = parse(leaf.bytes)
            {
                survey.add(&entry);
            }
            true
        });
        if survey.private.is_empty() {
            survey.find_private();
        }
        survey
    }

    /// Finds the private directories if their own records are lost: what hard links point to is in them.
    fn find_private(&mut self) {
        for (link, parent) in self.targets.keys() {
            if self.private.len() < MAX_PRIVATE
                && !self.private.contains(parent)
                && self.samples.contains(link)
            {
                self.private.push(*parent);
            }
        }
    }

    fn add(&mut self, entry: &Entry) {
        let (parent, name, id, kind) = match entry {
            Entry::Folder(item) => (item.parent, &item.name, item.id, Kind::Directory),
            Entry::File(file) => {
                if let Some(link) = file.link {
                    self.links.insert(u64::from(file.item.id));
                    if self.samples.len() < MAX_SAMPLES {
                        self.samples.push(link);
                    }
                }
                (file.item.parent, &file.item.name, file.item.id, Kind::File)
            }
            Entry::Thread { id, kind, parent, name } => (*parent, name, *id, *kind),
        };
        if is_private(parent, name) && kind == Kind::Directory {
            if !self.private.contains(&id) && self.private.len() < MAX_PRIVATE {
                self.private.push(id);
            }
        } else if let Some(link) = target_of_links(name)
            && (kind == Kind::Directory) == matches!(link, Link::Directory(_))
            && self.targets.len() < MAX_TARGETS
        {
            self.targets.insert((link, parent), id);
        }
    }

    /// Returns whether a number is that of a private directory.
    pub(super) fn is_private(&self, id: u32) -> bool {
        self.private.contains(&id)
    }

    /// Returns whether a file or directory is one that hard links point to.
    pub(super) fn is_target(&self, parent: u32, name: &str) -> bool {
        self.is_private(parent) && target_of_links(name).is_some()
    }

    /// Returns whether a number is that of a hard link.
    pub(super) fn is_link(&self, id: u32) -> bool {
        self.links.contains(u64::from(id))
    }

    /// Returns the number of what a hard link points to.
    pub(super) fn target(&self, link: Link) -> Option<u32> {
        self.private.iter().find_map(|parent| self.targets.get(&(link, *parent)).copied())
    }
}

/// Returns whether a record can be one that the survey looks for, cheaply: its name may be one of those, or it may be a link.
fn may_matter(bytes: &[u8]) -> bool {
    // The first character of the names, in the key or in a thread.
    let candidate = |at: usize| matches!(bytes.get(at..at + 2), Some([0, b'i' | b'd' | b'.' | 0]));
    let key = bytes.first_chunk().map_or(0, |len| usize::from(u16::from_be_bytes(*len)));
    let Some(data) = bytes.get(2 + key..) else { return false };
    candidate(8) || candidate(2 + key + 10) || matches!(data.get(48..56), Some(b"hlnkhfs+" | b"fdrpMACS"))
}
