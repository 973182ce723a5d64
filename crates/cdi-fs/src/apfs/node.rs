//! Nodes of B-trees.
//!
//! Facts: Apple File System Reference, "B-Trees": `btree_node_phys_t`, `btree_info_t`.

use cdi_base::units::index;

use super::object::{HEADER, TREE, TREE_NODE, checksum_fits};
use crate::bytes::{le16, le32, le64};
use crate::file_system::Damage;

/// Where the table of a node's records begins at the earliest.
const TABLE: usize = HEADER + 24;
/// What the root has at its end.
const INFO: usize = 40;

/// A node.
#[derive(Debug)]
pub(super) struct Node {
    bytes: Vec<u8>,
    pub(super) level: u16,
    pub(super) leaf: bool,
    count: usize,
    fixed: bool,
    table: usize,
    keys: usize,
    values_end: usize,
}

impl Node {
    /// Reads a node. `headerless` nodes have neither a type nor a checksum.
    pub(super) fn parse(bytes: Vec<u8>, headerless: bool) -> Result<Node, Damage> {
        let invalid = |what: &str| Damage::Invalid(what.into());
        let kind = le32(&bytes, 24).map(|kind| kind & 0xFFFF);
        if !headerless && kind != Some(TREE) && kind != Some(TREE_NODE) {
            return Err(invalid("it is no node of a tree"));
        }
        if !headerless && !checksum_fits(&bytes) {
            return Err(invalid("its checksum is wrong"));
        }
        let short = || invalid("it is too short");
        let flags = le16(&bytes, HEADER).ok_or_else(short)?;
        let level = le16(&bytes, HEADER + 2).ok_or_else(short)?;
        let count = index(u64::from(le32(&bytes, HEADER + 4).ok_or_else(short)?));
        let table = TABLE + usize::from(le16(&bytes, HEADER + 8).ok_or_else(short)?);
        let keys = table + usize::from(le16(&bytes, HEADER + 10).ok_or_else(short)?);
        let values_end = bytes.len().saturating_sub(if flags & ROOT != 0 { INFO } else { 0 });
        let fixed = flags & FIXED != 0;
        let size = if fixed { 4 } else { 8 };
        if keys > values_end || count > (keys - table) / size {
            return Err(invalid("its table of records does not fit"));
        }
        Ok(Node { bytes, level, leaf: flags & LEAF != 0, count, fixed, table, keys, values_end })
    }

    /// Returns the number of records.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Returns the key and the value of a record. Those of fixed size (in the object map) may be followed by others.
    pub(super) fn record(&self, i: usize) -> Option<(&[u8], &[u8])> {
        if i >= self.count {
            return None;
        }
        let entry = |at: usize| le16(&self.bytes, at).map(usize::from);
        let at = self.table + i * if self.fixed { 4 } else { 8 };
        let (key, value) =
            if self.fixed { (entry(at)?, entry(at + 2)?) } else { (entry(at)?, entry(at + 4)?) };
        let from = self.values_end.checked_sub(value)?;
        let (key_len, value_len) = if self.fixed {
            (16, value.min(if self.leaf { 16 } else { 8 }))
        } else {
            (entry(at + 2)?, entry(at + 6)?)
        };
        let key = self.bytes.get(self.keys + key..)?.get(..key_len)?;
        // A value that is not there has no offset.
        Some((key, self.bytes.get(from..)?.get(..value_len)?))
    }

    /// Returns the child of a record of an index node: its block, or its number.
    pub(super) fn child(&self, i: usize) -> Option<(&[u8], u64)> {
        let (key, value) = self.record(i)?;
        Some((key, le64(value, 0)?))
    }
}

const ROOT: u16 = 1;
const LEAF: u16 = 2;
const FIXED: u16 = 4;
