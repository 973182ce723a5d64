//! The index of a directory: the names in it.
//!
//! Its root is in the directory's record, its other nodes are index blocks, in the order of a B-tree. They are read one
//! after another, not as a tree, so that a lost one costs its own names only. Facts: `INDEX_ROOT`, `INDEX_BLOCK` and
//! `INDEX_ENTRY` in ntfs-3g's layout.h.

use cdi_base::units::index;

use crate::bytes::{le16, le32, le64};
use crate::file_system::{Child, Damage, Kind, MAX_RUNS, Name, Structure, Visitor};

use super::boot::Boot;
use super::file::INDEX;
use super::io::Io;
use super::names::FileName;
use super::record::{Reference, kind};
use super::reparse;
use super::runs::Extents;
use super::stream::{Mapped, Value};
use super::table::{Lost, Table, Unit};
use super::whole::Attributes;

/// What an index block begins with.
pub(super) const MAGIC: [u8; 4] = *b"INDX";
/// The length of the head of an index block before the head of its node.
const NODE: usize = 0x18;
/// The least that an entry with a name of one letter takes, in bytes.
const MIN_ENTRY: u64 = 0x58;
/// The largest number of short names that are kept back.
const MAX_SHORT: usize = 1 << 19;
/// The largest bitmap of an index, in bytes.
const MAX_BITMAP: u64 = 1 << 20;

/// Reports the names in directories.
pub(super) struct Index<'i> {
    io: &'i Io<'i>,
    boot: &'i Boot,
    directory: u64,
    /// Records that have a long name here, and short names that may be all that is left.
    long: Vec<u64>,
    short: Vec<Child>,
    /// Why names are lost.
    damage: Option<Damage>,
    entries: usize,
}

/// Reports the names in a directory. Returns whether the scan goes on, and why names are lost.
pub(super) fn names(
    io: &Io<'_>,
    boot: &Boot,
    directory: u64,
    attributes: &Attributes<'_>,
    visitor: &mut dyn Visitor,
) -> (bool, Option<Damage>) {
    let (long, short) = (Vec::new(), Vec::new());
    let mut names = Index { io, boot, directory, long, short, damage: None, entries: 0 };
    let goes_on = names.root(attributes, visitor) && names.rest(visitor);
    (goes_on, names.damage)
}

/// Reports the names in an index block of one of the directories `lost`, whose records are lost. Returns whether the scan goes
/// on.
pub(super) fn of_lost(
    io: &Io<'_>,
    boot: &Boot,
    block: &Unit,
    lost: &[u64],
    visitor: &mut dyn Visitor,
) -> bool {
    let node = block.bytes.get(NODE..).unwrap_or(&[]);
    let first = le32(node, 0).map_or(usize::MAX, |first| index(u64::from(first)));
    let name = node.get(first..).and_then(|entry| FileName::parse(entry.get(16..)?));
    let Some(directory) = name.map(|name| name.parent.number).filter(|n| lost.binary_search(n).is_ok())
    else {
        return true;
    };
    let (long, short) = (Vec::new(), Vec::new());
    let mut names = Index { io, boot, directory, long, short, damage: None, entries: 0 };
    names.node(node, visitor) && names.rest(visitor)
}

impl Index<'_> {
    /// The names in the record itself, then those in blocks.
    fn root(&mut self, attributes: &Attributes<'_>, visitor: &mut dyn Visitor) -> bool {
        let root = attributes.of(kind::INDEX_ROOT).iter().find(|attribute| attribute.name == INDEX);
        let mut unit = self.boot.index;
        match root.map(|root| root.body) {
            Some(super::record::Body::Resident(value)) => {
                let size = le32(value, 8).map_or(0, u64::from);
                if size.is_power_of_two() && (512..=1 << 16).contains(&size) {
                    unit = size;
                }
                if !self.node(value.get(16..).unwrap_or(&[]), visitor) {
                    return false;
                }
            }
            _ => self.worse("the root of its index is lost".into()),
        }
        let blocks = attributes.stream(kind::INDEX_ALLOCATION, INDEX, self.boot);
        let Some(Value::Mapped(blocks)) = blocks.map(|stream| stream.value) else { return true };
        let bitmap = match attributes.stream(kind::BITMAP, INDEX, self.boot).map(|stream| stream.value) {
            Some(Value::Resident(bits)) => bits.to_vec(),
            Some(Value::Mapped(mapped)) => {
                let (bits, damage) = self.io.value(&mapped.extents, mapped.size.unwrap_or(0).min(MAX_BITMAP));
                self.damage = self.damage.take().or(damage);
                bits
            }
            None => Vec::new(),
        };
        self.blocks(&blocks, unit, &bitmap, visitor)
    }

    /// The names in index blocks of `unit` bytes. Blocks that `bitmap` does not speak of count as used.
    fn blocks(&mut self, blocks: &Mapped, unit: u64, bitmap: &[u8], visitor: &mut dyn Visitor) -> bool {
        let extents: &Extents = &blocks.extents;
        let count = blocks.size.unwrap_or(u64::MAX).min(extents.end()) / unit;
        let mut table = Table::new(self.io, extents, unit, count, MAGIC);
        let mut next = 0;
        for extent in extents.list.iter().filter(|extent| extent.lcn.is_some()) {
            let end = (extent.end().saturating_mul(extents.cluster)).div_ceil(unit).min(count);
            next = next.max(extent.vcn.saturating_mul(extents.cluster) / unit);
            while next < end {
                let used = bitmap.get(index(next / 8)).is_none_or(|byte| byte >> (next % 8) & 1 != 0);
                let goes_on = !used
                    || match table.get(next).and_then(complete) {
                        Ok(block) => self.block(&block, next, unit, visitor),
                        Err(lost) => self.lost(lost, next, unit, visitor),
                    };
                if !goes_on {
                    return false;
                }
                next += 1;
            }
        }
        true
    }

    /// The names in one index block.
    fn block(&mut self, block: &Unit, number: u64, unit: u64, visitor: &mut dyn Visitor) -> bool {
        let at = number * unit;
        // Counted in clusters, or in 512 bytes if blocks are smaller than clusters.
        let counted = if unit < self.boot.cluster { at / 512 } else { at / self.boot.cluster };
        if le64(&block.bytes, 0x10) != Some(counted) {
            let damage = Damage::Invalid("it is a block of another place".into());
            let lost = Lost { places: block.places.clone(), damage, blank: false };
            return self.lost(lost, number, unit, visitor);
        }
        self.node(block.bytes.get(NODE..).unwrap_or(&[]), visitor)
    }

    /// Reports a block that is lost.
    fn lost(&mut self, lost: Lost, number: u64, unit: u64, visitor: &mut dyn Visitor) -> bool {
        self.damage = self.damage.take().or(Some(lost.damage.clone()));
        let most = unit / MIN_ENTRY;
        let cost =
            format!("names of up to {most} files in the directory, of those whose records are lost too");
        visitor.structure(Structure {
            what: format!("index block {number} of directory {}", self.directory),
            at: lost.places,
            damage: Some((lost.damage, cost)),
        })
    }

    /// The names in a node, which begins with its head.
    fn node(&mut self, node: &[u8], visitor: &mut dyn Visitor) -> bool {
        let head = (le32(node, 0), le32(node, 4));
        let (Some(first), Some(len)) = head else {
            self.worse("a node of its index is too short".into());
            return true;
        };
        let node = &node[..index(u64::from(len)).min(node.len())];
        let mut at = index(u64::from(first));
        loop {
            let entry = node.get(at..).unwrap_or(&[]);
            let (Some(len), Some(flags)) = (le16(entry, 8), le16(entry, 12)) else {
                self.worse("a node of its index has no end".into());
                return true;
            };
            if flags & 2 != 0 {
                return true;
            }
            let len = usize::from(len);
            if len < 16 || len % 8 != 0 || len > entry.len() {
                self.worse("an entry of its index makes no sense".into());
                return true;
            }
            if !self.entry(&entry[..len], visitor) {
                return false;
            }
            at += len;
        }
    }

    /// Reports the name in an entry; a short one is kept back until the long ones are known.
    fn entry(&mut self, entry: &[u8], visitor: &mut dyn Visitor) -> bool {
        let child = Reference::parse(entry, 0);
        let key = usize::from(le16(entry, 10).unwrap_or(0));
        let name = entry.get(16..16 + key).and_then(FileName::parse);
        let (Some(child), Some(name)) = (child, name) else {
            self.worse("a name in its index makes no sense".into());
            return true;
        };
        self.entries += 1;
        if name.parent.number != self.directory || self.entries > MAX_RUNS {
            self.worse("its index has names of another directory, or too many".into());
            return true;
        }
        if child.number == self.directory {
            return true;
        }
        let is_link = name.reparse().is_some_and(reparse::is_link);
        let kind = match name.is_directory() {
            _ if is_link => Kind::Link,
            true => Kind::Directory,
            false => Kind::File,
        };
        let found = Child {
            number: child.number,
            name: Name { parent: self.directory, name: name.text() },
            kind: Some(kind),
            size: (kind == Kind::File).then_some(name.size),
        };
        if name.is_dos() {
            if self.short.len() < MAX_SHORT {
                self.short.push(found);
            }
            return true;
        }
        if name.is_win32() {
            self.long.push(child.number);
        }
        visitor.child(found)
    }

    /// Reports the short names without a long one.
    fn rest(&mut self, visitor: &mut dyn Visitor) -> bool {
        self.long.sort_unstable();
        let short = std::mem::take(&mut self.short);
        let mut alone = short.into_iter().filter(|child| self.long.binary_search(&child.number).is_err());
        alone.all(|child| visitor.child(child))
    }

    fn worse(&mut self, text: String) {
        self.damage = self.damage.take().or(Some(Damage::Invalid(text)));
    }
}

/// Refuses a block of which bytes with a meaning cannot be read.
fn complete(mut unit: Unit) -> Result<Unit, Lost> {
    let Some(cut) = unit.cut.take() else { return Ok(unit) };
    let used = le32(&unit.bytes, NODE + 4).map_or(usize::MAX, |len| index(u64::from(len)));
    if used.checked_add(NODE).is_some_and(|end| end <= unit.bytes.len()) {
        return Ok(unit);
    }
    Err(Lost { places: unit.places, damage: cut, blank: false })
}
