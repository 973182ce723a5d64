//! Names that were found after a bad sector in a block of a directory. Where entries begin is not marked, so that such a name
//! may be what is left of a deleted file, or of an entry that was moved. It is believed if the inode lacks a name.

use std::collections::HashMap;
use std::ops::Range;

use super::groups::{Group, Source};
use super::inode::Inode;
use super::reader::Reader;
use super::scan::{Found, Scan, judge};
use crate::file_system::{Child, Damage, Kind, Record, Structure, Visitor};

/// More names than that are not kept.
pub(super) const MAX_NAMES: usize = 1 << 18;

/// Counts the certain names of some inodes.
struct Counter {
    names: HashMap<u64, u32>,
}

impl Visitor for Counter {
    fn record(&mut self, _: Record) -> bool {
        true
    }

    fn child(&mut self, child: Child) -> bool {
        if let Some(count) = self.names.get_mut(&child.number) {
            *count = count.saturating_add(1);
        }
        true
    }

    fn lost_record(&mut self, _: u64, _: Range<u64>, _: Option<bool>, _: Damage) -> bool {
        true
    }

    fn structure(&mut self, _: Structure) -> bool {
        true
    }
}

/// Reports those of the doubtful names that are believed. The directories are read again for that.
pub(super) fn report(reader: &Reader<'_>, list: &[Group], visitor: &mut dyn Visitor) -> bool {
    let names = reader.doubtful.take();
    if names.is_empty() {
        return true;
    }
    let mut counter = Counter { names: names.iter().map(|child| (child.number, 0)).collect() };
    let again = Reader::new(reader.sb, &reader.volume);
    Scan { reader: &again, visitor: &mut counter }.inodes(list);
    for child in names {
        let Some(count) = counter.names.get_mut(&child.number) else { continue };
        if is_believed(reader, list, &child, *count) {
            *count += 1;
            if !visitor.child(child) {
                return false;
            }
        }
    }
    true
}

/// Returns whether an inode of which `count` names are known may have this one.
fn is_believed(reader: &Reader<'_>, list: &[Group], child: &Child, count: u32) -> bool {
    let per = u64::from(reader.sb.group_inodes);
    let before = child.number.saturating_sub(1);
    let group = usize::try_from(before / per).ok().and_then(|n| list.get(n));
    let (Some(group), Ok(number)) = (group, u32::try_from(child.number)) else { return false };
    if group.source == Source::Lost {
        return count == 0;
    }
    let at = reader.bytes(group.table, 1).start + before % per * reader.sb.inode_size as u64;
    // Of an inode that cannot be read, any name is worth something.
    let Ok(bytes) = reader.volume.read(at, reader.sb.inode_size) else { return count == 0 };
    let inode = Inode::new(number, &bytes);
    match judge(reader, group, inode, None) {
        Found::Free => false,
        Found::Lost(_) => count == 0,
        Found::Used(_) => {
            let links = if inode.kind() == Kind::Directory { 1 } else { u32::from(inode.links()) };
            count < links && child.kind.is_none_or(|kind| kind == inode.kind())
        }
    }
}
