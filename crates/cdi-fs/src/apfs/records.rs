//! The records of a volume's tree.
//!
//! Facts: Apple File System Reference, "File-System Objects", "Extended Fields": `j_inode_val_t`, `j_drec_val_t`,
//! `j_file_extent_val_t`, `j_xattr_val_t`, `j_sibling_val_t`.

use cdi_base::units::index;

use crate::bytes::{le16, le32, le64};
use crate::file_system::{Kind, Times};

/// The kinds of records.
pub(super) const INODE: u8 = 3;
pub(super) const ATTRIBUTE: u8 = 4;
pub(super) const SIBLING: u8 = 5;
pub(super) const EXTENT: u8 = 8;
pub(super) const ENTRY: u8 = 9;

/// The object and the kind that a key begins with.
pub(super) type Key = (u64, u8);

/// Reads the beginning of a key.
pub(super) fn key(bytes: &[u8]) -> Option<Key> {
    let word = le64(bytes, 0)?;
    Some((word & ((1 << 60) - 1), u8::try_from(word >> 60).ok()?))
}

/// Returns a number in the order of keys that begin with the same: the hash of a name, the offset of an extent.
pub(super) fn order(bytes: &[u8]) -> Option<u64> {
    let name = |at: usize| {
        let name = bytes.get(at..).unwrap_or_default().iter().chain(std::iter::repeat(&0)).take(8);
        name.fold(0, |number, byte| number << 8 | u64::from(*byte))
    };
    Some(match key(bytes)?.1 {
        ENTRY if has_no_hash(bytes)? => name(10),
        ENTRY => u64::from(le32(bytes, 8)? >> 10),
        ATTRIBUTE => name(10),
        _ => le64(bytes, 8).unwrap_or(0),
    })
}

/// Returns whether the key of an entry has the name alone: so it is in volumes that tell names apart exactly.
fn has_no_hash(key: &[u8]) -> Option<bool> {
    Some(10 + usize::from(le16(key, 8)?) == key.len())
}

/// An inode.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) parent: u64,
    /// The number of its extents.
    pub(super) contents: u64,
    pub(super) kind: Kind,
    pub(super) times: Times,
    pub(super) compressed: bool,
    pub(super) name: Option<String>,
    pub(super) size: u64,
}

/// The bit of the flags for users that says that a file is compressed (UF_COMPRESSED).
const COMPRESSED: u32 = 0x20;

/// Reads an inode.
pub(super) fn inode(value: &[u8]) -> Option<Inode> {
    let time = |at| le64(value, at).map(u64::cast_signed).filter(|time| *time != 0);
    let kind = match le16(value, 80)? & 0xF000 {
        0x4000 => Kind::Directory,
        0x8000 => Kind::File,
        0xA000 => Kind::Link,
        _ => Kind::Other,
    };
    let (mut name, mut size) = (None, 0);
    for (field, bytes) in fields(value.get(92..).unwrap_or_default()) {
        match field {
            4 => name = Some(text(bytes)),
            8 => size = le64(bytes, 0)?,
            _ => {}
        }
    }
    Some(Inode {
        parent: le64(value, 0)?,
        contents: le64(value, 8)?,
        kind,
        times: Times { created: time(16), modified: time(24), changed: time(32), accessed: time(40) },
        compressed: le32(value, 68)? & COMPRESSED != 0,
        name,
        size,
    })
}

/// Returns the extended fields: their types and values.
fn fields(bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let count = le16(bytes, 0).map_or(0, usize::from);
    let mut at = 4 + 4 * count;
    let mut found = Vec::new();
    for i in 0..count {
        let (Some([field, _]), Some(len)) =
            (crate::bytes::array(bytes, 4 + 4 * i), le16(bytes, 6 + 4 * i).map(usize::from))
        else {
            break;
        };
        let Some(value) = bytes.get(at..at + len) else { break };
        found.push((field, value));
        at += len.next_multiple_of(8);
    }
    found
}

/// Returns a name, which ends at a NUL.
fn text(bytes: &[u8]) -> String {
    // Names are as Unix has them, where the Finder shows a `:` as `/`.
    String::from_utf8_lossy(bytes.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

/// Reads an entry of a directory: the name, the number, and the kind.
pub(super) fn entry(key: &[u8], value: &[u8]) -> Option<(String, u64, Option<Kind>)> {
    let name = key.get(if has_no_hash(key)? { 10 } else { 12 }..)?;
    let kind = match le16(value, 16)? & 0xF {
        4 => Some(Kind::Directory),
        8 => Some(Kind::File),
        10 => Some(Kind::Link),
        0 => None,
        _ => Some(Kind::Other),
    };
    Some((text(name), le64(value, 0)?, kind))
}

/// Reads a further name of a file: the directory, and the name.
pub(super) fn sibling(value: &[u8]) -> Option<(u64, String)> {
    Some((le64(value, 0)?, text(value.get(10..)?)))
}

/// An extent of contents.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    pub(super) file: u64,
    pub(super) len: u64,
    /// 0 if it is a hole.
    pub(super) block: u64,
    pub(super) encrypted: bool,
}

/// Reads an extent.
pub(super) fn extent(key: &[u8], value: &[u8]) -> Option<Extent> {
    Some(Extent {
        file: le64(key, 8)?,
        len: le64(value, 0)? & ((1 << 56) - 1),
        block: le64(value, 8)?,
        encrypted: le64(value, 16)? != 0,
    })
}

/// An extended attribute.
#[derive(Debug)]
pub(super) enum Attribute<'a> {
    Inline(&'a [u8]),
    /// The number of its extents, and its size.
    Extents(u64, u64),
}

/// Reads an extended attribute.
pub(super) fn attribute<'a>(key: &[u8], value: &'a [u8]) -> Option<(String, Attribute<'a>)> {
    let (flags, len) = (le16(value, 0)?, le16(value, 2)?);
    let data = value.get(4..)?;
    let attribute = if flags & 1 != 0 {
        Attribute::Extents(le64(data, 0)?, le64(data, 8)?)
    } else {
        Attribute::Inline(data.get(..index(u64::from(len)))?)
    };
    Some((text(key.get(10..)?), attribute))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_names_with_and_without_hash() {
        let value = [&77u64.to_le_bytes()[..], &[0; 8], &[4, 0]].concat();
        let id = (9u64 << 60 | 20).to_le_bytes();
        let plain = [&id[..], &[5, 0], b"name\0"].concat();
        let hashed = [&id[..], &[5, 0xAC, 0x12, 0x34], b"name\0"].concat();
        for bytes in [&plain, &hashed] {
            assert_eq!(key(bytes), Some((20, ENTRY)));
            assert_eq!(entry(bytes, &value), Some(("name".to_owned(), 77, Some(Kind::Directory))));
        }
        assert_eq!(order(&hashed), Some(0x3412_AC05 >> 10));
        assert_eq!(entry(&hashed, &value[..17]), None);
    }

    #[test]
    fn inodes_have_extended_fields() {
        let mut value = vec![0; 92];
        value[0] = 2;
        value[80..82].copy_from_slice(&0x81A4u16.to_le_bytes());
        // A name of 3 bytes, padded to 8, and a stream of 40.
        value.extend([2, 0, 48, 0, 4, 2, 3, 0, 8, 0x20, 40, 0]);
        value.extend(b"ab\0\0\0\0\0\0");
        value.extend(9000u64.to_le_bytes());
        value.extend([0; 32]);
        let found = inode(&value).unwrap();
        assert_eq!((found.name.as_deref(), found.size, found.kind), (Some("ab"), 9000, Kind::File));
        // A field that is not whole ends them.
        assert_eq!(inode(&value[..value.len() - 1]).map(|i| i.size), Some(0));
        assert!(inode(&value[..70]).is_none());
    }
}
