//! The head of an MFT record, and its attributes.
//!
//! Facts: `MFT_RECORD` and `ATTR_RECORD` in ntfs-3g's layout.h, `struct MFT_REC` and `struct ATTRIB` in Linux's
//! fs/ntfs3/ntfs.h.

use cdi_base::units::index;

use crate::bytes::{le16, le32, le64};

/// Types of attributes.
pub(super) mod kind {
    pub(in super::super) const STANDARD_INFORMATION: u32 = 0x10;
    pub(in super::super) const ATTRIBUTE_LIST: u32 = 0x20;
    pub(in super::super) const FILE_NAME: u32 = 0x30;
    pub(in super::super) const VOLUME_NAME: u32 = 0x60;
    pub(in super::super) const DATA: u32 = 0x80;
    pub(in super::super) const INDEX_ROOT: u32 = 0x90;
    pub(in super::super) const INDEX_ALLOCATION: u32 = 0xA0;
    pub(in super::super) const BITMAP: u32 = 0xB0;
    pub(in super::super) const REPARSE_POINT: u32 = 0xC0;
    pub(super) const END: u32 = 0xFFFF_FFFF;
}

/// Flags of an attribute: compressed with any method, encrypted.
pub(super) const COMPRESSED: u16 = 0x00FF;
pub(super) const ENCRYPTED: u16 = 0x4000;

/// The number of a record, and how often it had been used when the reference was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reference {
    /// The number.
    pub(super) number: u64,
    /// The sequence number; 0 fits every record.
    pub(super) sequence: u16,
}

impl Reference {
    /// Reads a reference.
    pub(super) fn parse(bytes: &[u8], at: usize) -> Option<Reference> {
        let number = le64(bytes, at)? & ((1 << 48) - 1);
        Some(Reference { number, sequence: le16(bytes, at + 6)? })
    }
}

/// The head of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// How often the record has been used.
    pub(super) sequence: u16,
    /// Whether it is in use.
    pub(super) used: bool,
    /// Whether it describes a directory.
    pub(super) directory: bool,
    /// The record that this one extends; number 0 with sequence 0 if it extends none.
    pub(super) base: Reference,
    /// How much of the record has a meaning, in bytes.
    pub(super) len: u32,
    first: u16,
}

impl Head {
    /// Parses the head of a record whose update sequence was applied.
    pub(super) fn parse(bytes: &[u8]) -> Option<Head> {
        let flags = le16(bytes, 0x16)?;
        Some(Head {
            sequence: le16(bytes, 0x10)?,
            used: flags & 1 != 0,
            directory: flags & 2 != 0,
            base: Reference::parse(bytes, 0x20)?,
            len: le32(bytes, 0x18)?,
            first: le16(bytes, 0x14)?,
        })
    }

    /// Returns the base record's number, if this one extends it.
    pub(super) fn extends(&self) -> Option<u64> {
        (self.base.number != 0 || self.base.sequence != 0).then_some(self.base.number)
    }
}

/// An attribute.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attribute<'r> {
    /// Its type.
    pub(super) kind: u32,
    /// Its name, in UTF-16.
    pub(super) name: &'r [u8],
    /// Its flags.
    pub(super) flags: u16,
    /// What it has.
    pub(super) body: Body<'r>,
}

/// What an attribute has.
#[derive(Debug, Clone, Copy)]
pub(super) enum Body<'r> {
    /// The value itself.
    Resident(&'r [u8]),
    /// Runs.
    Mapped(Mapped<'r>),
}

/// Runs of an attribute: all, or those in one record. The sizes are right in the first part only.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mapped<'r> {
    /// The first and last cluster.
    pub(super) first: u64,
    pub(super) last: u64,
    /// The size of the blocks that it has, of the value, and of what was written of it, in bytes.
    pub(super) allocated: u64,
    pub(super) size: u64,
    pub(super) written: u64,
    /// The clusters of a compression unit, as a power of two.
    pub(super) unit: u16,
    /// The list of runs.
    pub(super) pairs: &'r [u8],
}

/// Returns the attributes of a record, and what makes no sense among them.
pub(super) fn attributes<'r>(bytes: &'r [u8], head: &Head) -> (Vec<Attribute<'r>>, Option<String>) {
    let mut found = Vec::with_capacity(8);
    let len = index(u64::from(head.len)).min(bytes.len());
    let mut at = usize::from(head.first);
    let error = loop {
        match le32(&bytes[..len], at) {
            Some(kind::END) => break None,
            None => break Some("its attributes have no end".into()),
            Some(kind) => match attribute(&bytes[at..len], kind) {
                Some((attribute, size)) => {
                    found.push(attribute);
                    at += size;
                }
                None => break Some(format!("an attribute of type {kind:#x} makes no sense")),
            },
        }
    };
    (found, error)
}

/// Parses one attribute at the start of `rest`, and its length.
fn attribute(rest: &[u8], kind: u32) -> Option<(Attribute<'_>, usize)> {
    let len = index(u64::from(le32(rest, 4)?));
    let bytes = rest.get(..len).filter(|_| len >= 0x18 && len.is_multiple_of(8))?;
    let name_at = usize::from(le16(bytes, 0x0A)?);
    let name = match usize::from(bytes[9]) {
        0 => &[][..],
        units => bytes.get(name_at..name_at + 2 * units)?,
    };
    let body = if bytes[8] == 0 {
        let from = usize::from(le16(bytes, 0x14)?);
        let size = index(u64::from(le32(bytes, 0x10)?));
        Body::Resident(bytes.get(from..from.checked_add(size)?)?)
    } else {
        Body::Mapped(Mapped {
            first: le64(bytes, 0x10)?,
            last: le64(bytes, 0x18)?,
            pairs: bytes.get(usize::from(le16(bytes, 0x20)?)..)?,
            unit: le16(bytes, 0x22)?,
            allocated: le64(bytes, 0x28)?,
            size: le64(bytes, 0x30)?,
            written: le64(bytes, 0x38)?,
        })
    };
    Some((Attribute { kind, name, flags: le16(bytes, 0x0C)?, body }, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record with a resident attribute of 4 bytes, named "x", and one with runs.
    fn record() -> Vec<u8> {
        let mut bytes = vec![0u8; 0x100];
        bytes[0x10] = 3;
        bytes[0x14] = 0x38;
        bytes[0x16] = 3;
        bytes[0x18] = 0xB0;
        bytes[0x20..0x28].copy_from_slice(&[9, 0, 0, 0, 0, 0, 2, 0]);
        bytes[0x38..0x50].copy_from_slice(&[
            0x80, 0, 0, 0, 0x20, 0, 0, 0, 0, 1, 0x18, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0x1C, 0, 0, 0,
        ]);
        bytes[0x50] = b'x';
        bytes[0x54..0x58].copy_from_slice(b"abcd");
        bytes[0x58..0x62].copy_from_slice(&[0xA0, 0, 0, 0, 0x48, 0, 0, 0, 1, 0]);
        bytes[0x78] = 0x40;
        bytes[0x7A] = 4;
        bytes[0x88] = 77;
        bytes[0x98..0x9B].copy_from_slice(&[0x11, 1, 2]);
        bytes[0xA0..0xA4].fill(0xFF);
        bytes
    }

    #[test]
    fn attributes_are_in_the_record_or_have_runs() {
        let bytes = record();
        let head = Head::parse(&bytes).unwrap();
        assert!(head.used && head.directory && head.sequence == 3);
        assert_eq!(head.extends(), Some(9));
        let (list, error) = attributes(&bytes, &head);
        assert_eq!((list.len(), error), (2, None));
        assert!(matches!(list[0].body, Body::Resident(b"abcd")) && list[0].name == b"x\0");
        let Body::Mapped(mapped) = list[1].body else { panic!() };
        assert_eq!((mapped.size, mapped.unit, mapped.pairs[..3].to_vec()), (77, 4, vec![0x11, 1, 2]));
    }

    #[test]
    fn nonsense_ends_the_attributes() {
        let head = Head::parse(&record()).unwrap();
        for (at, byte) in [
            (0x3C, 0x19),
            (0x3C, 0x10),
            (0x3D, 1),
            (0x42, 0x20),
            (0x48, 5),
            (0x4C, 0x1D),
            (0x5C, 0x38),
            (0x78, 0x50),
        ] {
            let mut bytes = record();
            bytes[at] = byte;
            let (list, error) = attributes(&bytes, &head);
            assert!(list.len() < 2 && error.is_some(), "{at:#x} {byte:#x}");
        }
        for len in 0..0xA4 {
            assert!(attributes(&record()[..len], &head).1.is_some());
        }
        assert_eq!(Head::parse(&record()[..0x27]), None);
    }
}
