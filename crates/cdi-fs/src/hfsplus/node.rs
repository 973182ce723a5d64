//! The records of one node of a B-tree, as far as they can be read.
//!
//! Facts: TN1150, "B-Trees". Records follow each other from byte 14 on; a table at the end of the node, which grows downwards,
//! has where each begins, and where the free space begins.

use std::ops::Range;

use cdi_base::error::ReadError;
use cdi_base::units::index;

use super::fork::FilePart;
use crate::bytes::{be16, be32};
use crate::file_system::Damage;

/// The size of a node's descriptor, which is at its start.
pub(super) const DESCRIPTOR: usize = 14;

/// Returns the length of the record (key and data) at the start of some bytes; None if it is no record of a leaf.
pub(super) type Length = fn(&[u8]) -> Option<usize>;

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NodeKind {
    Leaf,
    Index,
    /// Node 0, and nodes of the map of used nodes.
    Header,
}

/// The descriptor of a node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Descriptor {
    pub(super) kind: NodeKind,
    pub(super) next: u32,
    pub(super) previous: u32,
    pub(super) records: u16,
}

/// Reads the descriptor. None if it makes no sense.
pub(super) fn descriptor(bytes: &[u8]) -> Option<Descriptor> {
    let kind = match bytes.get(8)? {
        0xFF => NodeKind::Leaf,
        0 => NodeKind::Index,
        1 | 2 => NodeKind::Header,
        _ => return None,
    };
    Some(Descriptor { kind, next: be32(bytes, 0)?, previous: be32(bytes, 4)?, records: be16(bytes, 10)? })
}

/// A node in a part of the file that was read.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    pub(super) part: &'a FilePart,
    /// Its first byte in the file.
    pub(super) at: u64,
    pub(super) size: u32,
}

/// A record of a leaf.
#[derive(Debug)]
pub(super) struct Leaf<'a> {
    /// Its first byte in the file.
    pub(super) at: u64,
    /// Its key and data; if it was cut, what could be read of them from the start on.
    pub(super) bytes: &'a [u8],
    /// Whether a part could not be read.
    pub(super) cut: bool,
    /// Whether it is certain that it belongs to the node. If the number of records was lost, it may be a rest of a record that
    /// was moved or deleted.
    pub(super) sure: bool,
}

/// What became of a node.
#[derive(Debug)]
pub(super) struct State {
    /// The descriptor, if it could be read.
    pub(super) descriptor: Option<Descriptor>,
    /// Why records are lost, if some are.
    pub(super) damage: Option<Damage>,
    /// Whether the node is empty: all of its descriptor is zeros.
    pub(super) empty: bool,
}

impl<'a> Node<'a> {
    /// Reports all records of a leaf, as far as they can be read. `go_on` is cleared if `visit` returns false.
    pub(super) fn records(
        &self,
        length: Length,
        visit: &mut dyn FnMut(Leaf<'a>) -> bool,
        go_on: &mut bool,
    ) -> State {
        match self.get(0, DESCRIPTOR) {
            Ok(bytes) if bytes.iter().all(|b| *b == 0) => {
                State { descriptor: None, damage: None, empty: true }
            }
            Ok(bytes) => match descriptor(bytes) {
                Some(found) if found.kind == NodeKind::Leaf => {
                    let damage = self.leaf(found.records, length, visit, go_on);
                    State { descriptor: Some(found), damage, empty: false }
                }
                Some(found) => State { descriptor: Some(found), damage: None, empty: false },
                None => {
                    let damage = Some(Damage::Invalid("it is no node".into()));
                    State { descriptor: None, damage, empty: false }
                }
            },
            Err(error) => {
                self.without_descriptor(length, visit, go_on);
                State { descriptor: None, damage: Some(error.into()), empty: false }
            }
        }
    }

    /// Returns whether the node is a leaf in which everything fits, and how many records it has.
    pub(super) fn plausible(&self, length: Length) -> Option<usize> {
        let found = descriptor(self.get(0, DESCRIPTOR).ok()?)?;
        let offsets = self.table(found.records).ok()?;
        let fits = |pair: &[usize]| length(self.get(pair[0], pair[1] - pair[0]).ok()?);
        let fitting = offsets.windows(2).filter(|pair| fits(pair).is_some()).count();
        (found.kind == NodeKind::Leaf && fitting == usize::from(found.records)).then_some(fitting)
    }

    /// Reports the records of a leaf with `count` records.
    fn leaf(
        &self,
        count: u16,
        length: Length,
        visit: &mut dyn FnMut(Leaf<'a>) -> bool,
        go_on: &mut bool,
    ) -> Option<Damage> {
        let (offsets, mut damage) = match self.table(count) {
            Ok(offsets) => (offsets, None),
            Err(damage) => {
                let offsets = self.walk(count, length);
                let whole = offsets.len() > usize::from(count);
                (offsets, (!whole).then_some(damage))
            }
        };
        for pair in offsets.windows(2) {
            let (from, len) = (pair[0], pair[1] - pair[0]);
            let at = self.at + from as u64;
            let leaf = match self.get(from, len) {
                Ok(bytes) => Leaf { at, bytes, cut: false, sure: true },
                Err(error) => {
                    damage = damage.or(Some(error.into()));
                    Leaf { at, bytes: self.readable(from..from + len), cut: true, sure: true }
                }
            };
            *go_on = *go_on && visit(leaf);
        }
        damage
    }

    /// Reports what look like records in a node whose descriptor is lost.
    fn without_descriptor(&self, length: Length, visit: &mut dyn FnMut(Leaf<'a>) -> bool, go_on: &mut bool) {
        let mut from = DESCRIPTOR;
        for i in 1.. {
            let Some(to) = self.entry(i).ok().filter(|to| *to > from && self.entry(i - 1) == Ok(from)) else {
                return;
            };
            if to > index(u64::from(self.size)).saturating_sub(2 * (i + 1)) {
                return;
            }
            // What can be read and is no record ends it: this is an index node, or free space.
            let leaf = match self.get(from, to - from) {
                Ok(bytes) if length(bytes).is_none_or(|len| len > bytes.len()) => return,
                Ok(bytes) => Leaf { at: self.at + from as u64, bytes, cut: false, sure: false },
                Err(_) => {
                    let bytes = self.readable(from..to);
                    Leaf { at: self.at + from as u64, bytes, cut: true, sure: false }
                }
            };
            *go_on = *go_on && visit(leaf);
            from = to;
        }
    }

    /// Returns where the records begin, and where the last ends, by the table.
    fn table(&self, count: u16) -> Result<Vec<usize>, Damage> {
        let count = usize::from(count);
        let end = index(u64::from(self.size)).checked_sub(2 * (count + 1)).filter(|end| *end >= DESCRIPTOR);
        let end = end.ok_or_else(|| Damage::Invalid(format!("it has {count} records, which do not fit")))?;
        let mut offsets: Vec<usize> = Vec::with_capacity(count + 1);
        for i in 0..=count {
            let offset = self.entry(i)?;
            let fits = offsets.last().map_or(offset == DESCRIPTOR, |last| *last < offset) && offset <= end;
            if !fits {
                return Err(Damage::Invalid("its table of records makes no sense".into()));
            }
            offsets.push(offset);
        }
        Ok(offsets)
    }

    fn entry(&self, i: usize) -> Result<usize, ReadError> {
        let at = index(u64::from(self.size)).checked_sub(2 * (i + 1)).ok_or(ReadError::PastEnd)?;
        be16(self.get(at, 2)?, 0).map(usize::from).ok_or(ReadError::PastEnd)
    }

    /// Returns the same as `table`, from the records' own lengths; ends at the first that is lost.
    fn walk(&self, count: u16, length: Length) -> Vec<usize> {
        let mut offsets = vec![DESCRIPTOR];
        let mut at = DESCRIPTOR;
        for _ in 0..count {
            let bytes = self.readable(at..index(u64::from(self.size)));
            let Some(len) = length(bytes).filter(|len| *len > 0 && *len <= bytes.len()) else { break };
            // Records begin at even bytes.
            at += len.next_multiple_of(2);
            offsets.push(at);
        }
        offsets
    }

    fn get(&self, from: usize, len: usize) -> Result<&'a [u8], ReadError> {
        self.part.get(self.at + from as u64, len)
    }

    /// Returns what can be read from the start of a range on.
    fn readable(&self, range: Range<usize>) -> &'a [u8] {
        let place = self.at + range.start as u64..self.at + range.end as u64;
        let end = self.part.lost_in(place.clone()).map_or(place.end, |(lost, _)| lost.start.max(place.start));
        self.get(range.start, index(end - place.start)).unwrap_or_default()
    }
}
