//! The records of the catalogue.
//!
//! Facts: TN1150, "Catalog File", "Hard Links"; the directory links of Mac OS X 10.5 in Apple's hfs_format.h
//! (kHFSDirectoryHardLink…); `struct hfsplus_cat_file` in Linux's fs/hfsplus/hfsplus_raw.h.

use super::fork::RawFork;
use super::names::{name, time};
use crate::bytes::{be16, be32};
use crate::file_system::{Kind, Times};

/// The number of the root directory, and of its parent.
pub(super) const ROOT: u32 = 2;
pub(super) const PARENT_OF_ROOT: u32 = 1;

/// The largest record: its key, and a file.
pub(super) const MAX_RECORD: u64 = 2 + 518 + FILE as u64;

const FOLDER: usize = 88;
const FILE: usize = 248;

/// The bit of a file's flags by its owner that says that it is compressed (UF_COMPRESSED).
const COMPRESSED: u8 = 0x20;

/// The bit of a record's flags that says that it is one of several links: an alias to a directory has the same type.
const LINK_CHAIN: u16 = 0x20;

/// A record of the catalogue.
#[derive(Debug)]
pub(super) enum Entry {
    Folder(Item),
    File(Box<FileItem>),
    /// The name and the directory of a file or a directory, by its number.
    Thread {
        id: u32,
        kind: Kind,
        parent: u32,
        name: String,
    },
}

/// What files and directories have.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) parent: u32,
    pub(super) name: String,
    pub(super) id: u32,
    pub(super) times: Times,
}

/// A file.
#[derive(Debug)]
pub(super) struct FileItem {
    pub(super) item: Item,
    pub(super) kind: Kind,
    pub(super) link: Option<Link>,
    pub(super) compressed: bool,
    pub(super) data: RawFork,
    pub(super) resource: RawFork,
}

/// What a hard link points to, by the number in the name of it in the private directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Link {
    /// `iNode123`.
    File(u32),
    /// `dir_123`.
    Directory(u32),
}

/// Returns the length of a record, its key included.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let key = usize::from(be16(bytes, 0)?);
    let name = usize::from(be16(bytes, 6)?);
    // The key has a parent, and a name.
    if key < 6 || name > 255 || key < 6 + 2 * name || key > 518 {
        return None;
    }
    let data = bytes.get(2 + key..)?;
    let len = match be16(data, 0)? {
        1 => FOLDER,
        2 => FILE,
        3 | 4 => 10 + 2 * usize::from(be16(data, 8)?),
        _ => return None,
    };
    Some(2 + key + len)
}

/// Reads a record. None if it makes no sense.
pub(super) fn parse(bytes: &[u8]) -> Option<Entry> {
    let key = usize::from(be16(bytes, 0)?);
    let parent = be32(bytes, 2)?;
    let data = bytes.get(2usize.checked_add(key)?..)?;
    if key < 6 {
        return None;
    }
    let kind = be16(data, 0)?;
    if kind == 3 || kind == 4 {
        let kind = if kind == 3 { Kind::Directory } else { Kind::File };
        return Some(Entry::Thread {
            id: parent,
            kind,
            parent: be32(data, 4)?,
            name: name(data.get(8..)?)?.0,
        });
    }
    let item =
        Item { parent, name: name(bytes.get(6..2 + key)?)?.0, id: be32(data, 8)?, times: times(data)? };
    match kind {
        1 if data.len() >= FOLDER && item.id != 0 => Some(Entry::Folder(item)),
        2 if data.len() >= FILE && item.id != 0 => file(data, item).map(|file| Entry::File(Box::new(file))),
        _ => None,
    }
}

/// Returns the key of a record: the directory and the name, as the order of records has them (nearly: TN1150 has a table of
/// letters that are the same).
pub(super) fn key(bytes: &[u8]) -> Option<(u32, String)> {
    // NUL is the last of all letters.
    let name = name(bytes.get(6..)?)?.0.replace('\u{2400}', "\u{FFFF}");
    Some((be32(bytes, 2)?, name.to_lowercase()))
}

/// What could be read of a file or a directory whose record was cut.
pub(super) struct Rest {
    pub(super) parent: u32,
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) id: u32,
}

/// Reads what is left of a record that was cut: its key, and the number.
pub(super) fn parse_rest(bytes: &[u8]) -> Option<Rest> {
    let key = usize::from(be16(bytes, 0)?);
    let data = bytes.get(2 + key..).filter(|_| key >= 6)?;
    let kind = match be16(data, 0)? {
        1 => Kind::Directory,
        2 => Kind::File,
        _ => return None,
    };
    let id = be32(data, 8).filter(|id| *id != 0)?;
    Some(Rest { parent: be32(bytes, 2)?, name: name(bytes.get(6..2 + key)?)?.0, kind, id })
}

fn times(data: &[u8]) -> Option<Times> {
    Some(Times {
        created: time(be32(data, 12)?),
        modified: time(be32(data, 16)?),
        changed: time(be32(data, 20)?),
        accessed: time(be32(data, 24)?),
    })
}

fn file(data: &[u8], item: Item) -> Option<FileItem> {
    let special = be32(data, 44)?;
    let (type_and_creator, mode) = (data.get(48..56)?, be16(data, 42)?);
    let link = match type_and_creator {
        b"hlnkhfs+" => Some(Link::File(special)),
        b"fdrpMACS" if be16(data, 2)? & LINK_CHAIN != 0 => Some(Link::Directory(special)),
        _ => None,
    };
    let kind = match mode & 0xF000 {
        0xA000 => Kind::Link,
        0 if type_and_creator == b"slnkrhap" => Kind::Link,
        0 | 0x8000 => Kind::File,
        _ => Kind::Other,
    };
    Some(FileItem {
        item,
        kind,
        link,
        compressed: *data.get(41)? & COMPRESSED != 0,
        data: RawFork::parse(data.get(88..168)?)?,
        resource: RawFork::parse(data.get(168..248)?)?,
    })
}

/// Returns what links point to by this name in a private directory.
pub(super) fn target_of_links(name: &str) -> Option<Link> {
    let number = |digits: &str| digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
    if let Some(digits) = name.strip_prefix("iNode") {
        return number(digits).map(Link::File);
    }
    name.strip_prefix("dir_").and_then(number).map(Link::Directory)
}

/// Returns whether a directory is one of the two that hard links point into.
pub(super) fn is_private(parent: u32, name: &str) -> bool {
    const FILES: &str = "\u{2400}\u{2400}\u{2400}\u{2400}HFS+ Private Data";
    parent == ROOT && (name == FILES || name == ".HFS+ Private Directory Data\r")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a record of a file or a directory.
    fn record(parent: u32, name: &str, kind: u16, id: u32, len: usize) -> Vec<u8> {
        let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_be_bytes).collect();
        let mut bytes = u16::try_from(6 + units.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(parent.to_be_bytes());
        bytes.extend(u16::try_from(units.len() / 2).unwrap().to_be_bytes());
        bytes.extend(units);
        let start = bytes.len();
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0; 6]);
        bytes.extend(id.to_be_bytes());
        bytes.resize(start + len, 0);
        bytes
    }

    #[test]
    fn links_are_told_by_type_and_creator() {
        for (text, flags, special, want) in [
            (b"hlnkhfs+", 0, 7, Some(Link::File(7))),
            (b"fdrpMACS", LINK_CHAIN, 9, Some(Link::Directory(9))),
            (b"fdrpMACS", 0, 9, None),
            (b"TEXTttxt", LINK_CHAIN, 7, None),
        ] {
            let mut bytes = record(2, "link", 2, 30, FILE);
            let data = bytes.len() - FILE;
            bytes[data + 2..data + 4].copy_from_slice(&flags.to_be_bytes());
            bytes[data + 44..data + 48].copy_from_slice(&u32::to_be_bytes(special));
            bytes[data + 48..data + 56].copy_from_slice(text);
            assert_eq!(length(&bytes), Some(bytes.len()));
            let Some(Entry::File(file)) = parse(&bytes) else { panic!() };
            assert_eq!((file.link, file.item.id, file.item.name.as_str()), (want, 30, "link"));
        }
    }

    #[test]
    fn records_that_make_no_sense_are_none() {
        let good = record(2, "name", 1, 30, FOLDER);
        assert!(parse(&good).is_some());
        for len in 0..good.len() {
            assert!(parse(&good[..len]).is_none(), "{len} bytes");
        }
        assert!(parse(&record(2, "name", 1, 0, FOLDER)).is_none(), "number 0");
        assert!(parse(&record(2, "name", 5, 30, FOLDER)).is_none(), "kind 5");
        // What is cut after the number still has the name.
        let rest = parse_rest(&good[..good.len() - 70]).unwrap();
        assert_eq!((rest.id, rest.name.as_str(), rest.kind), (30, "name", Kind::Directory));
    }

    #[test]
    fn targets_of_links_have_numbers_in_their_names() {
        assert_eq!(target_of_links("iNode12"), Some(Link::File(12)));
        assert_eq!(target_of_links("dir_3"), Some(Link::Directory(3)));
        for name in ["iNode", "iNode+1", "iNode99999999999", "dir_x", "temp5"] {
            assert_eq!(target_of_links(name), None, "{name}");
        }
    }
}
