//! Inodes: their fields, and the extended attributes inside them.
//!
//! Source: Linux, Documentation/filesystems/ext4/inodes.rst, attributes.rst, and `struct ext4_inode` in fs/ext4/ext4.h;
//! `ext4_inode_csum` in fs/ext4/inode.c.

use std::ops::Range;

use super::checksum::crc32c;
use super::superblock::{Superblock, incompat};
use crate::bytes::{le16, le32};
use crate::file_system::{Kind, Times};

/// The size of the fields that all inodes have.
const OLD_SIZE: usize = 128;
/// Where the block map, the extent tree or the contents are.
pub(super) const MAP: Range<usize> = 0x28..0x64;

/// Flags of inodes.
pub(super) mod flag {
    pub(crate) const ENCRYPTED: u32 = 0x800;
    pub(crate) const COMPRESSED: u32 = 0x200;
    pub(crate) const INDEXED: u32 = 0x1000;
    pub(crate) const EXTENTS: u32 = 0x8_0000;
    pub(crate) const VERITY: u32 = 0x10_0000;
    pub(crate) const ATTRIBUTE: u32 = 0x20_0000;
    pub(crate) const INLINE: u32 = 0x1000_0000;
}

/// The bytes of an inode.
#[derive(Clone, Copy)]
pub(super) struct Inode<'a> {
    pub number: u32,
    bytes: &'a [u8],
}

impl<'a> Inode<'a> {
    /// Takes the bytes of an inode: at least 128.
    pub(super) fn new(number: u32, bytes: &'a [u8]) -> Inode<'a> {
        Inode { number, bytes }
    }

    fn u16(&self, at: usize) -> u16 {
        le16(self.bytes, at).unwrap_or(0)
    }

    fn u32(&self, at: usize) -> u32 {
        le32(self.bytes, at).unwrap_or(0)
    }

    fn type_bits(&self) -> u16 {
        self.u16(0) >> 12
    }

    /// Returns whether it is in use: it has a type and is in a directory.
    pub(super) fn is_used(&self) -> bool {
        self.u16(0) != 0 && self.links() > 0
    }

    /// Returns whether nothing was ever written to it, or all of it was erased.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.iter().all(|b| *b == 0)
    }

    /// Returns whether its type is one that there is.
    pub(super) fn is_plausible(&self) -> bool {
        matches!(self.type_bits(), 1 | 2 | 4 | 6 | 8 | 10 | 12)
    }

    /// Returns the number of names.
    pub(super) fn links(&self) -> u16 {
        self.u16(0x1a)
    }

    /// Returns what it describes.
    pub(super) fn kind(&self) -> Kind {
        match self.type_bits() {
            4 => Kind::Directory,
            8 => Kind::File,
            10 => Kind::Link,
            _ => Kind::Other,
        }
    }

    /// Returns its flags, as in [`flag`].
    pub(super) fn flags(&self) -> u32 {
        self.u32(0x20)
    }

    /// Returns whether a flag is set.
    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags() & flag != 0
    }

    /// Returns the size in bytes.
    pub(super) fn size(&self, sb: &Superblock) -> u64 {
        let wide = self.type_bits() == 8 || sb.incompat & incompat::LARGE_DIR != 0;
        let high = if wide { self.u32(0x6c) } else { 0 };
        u64::from(high) << 32 | u64::from(self.u32(4))
    }

    /// Returns the 60 bytes of the block map.
    pub(super) fn map(&self) -> &'a [u8] {
        self.bytes.get(MAP).unwrap_or_default()
    }

    /// Returns the block of extended attributes, 0 if there is none.
    pub(super) fn attributes(&self, sb: &Superblock) -> u64 {
        let high = if sb.incompat & incompat::WIDE != 0 { self.u16(0x76) } else { 0 };
        u64::from(high) << 32 | u64::from(self.u32(0x68))
    }

    /// Returns whether its number of blocks says that it has contents outside of the inode.
    pub(super) fn has_blocks(&self, sb: &Superblock) -> bool {
        let attributes = if self.attributes(sb) == 0 { 0 } else { sb.block * sb.cluster / 512 };
        u64::from(self.u32(0x1c)) > attributes
    }

    /// Returns what the checksums of its blocks begin with.
    pub(super) fn seed(&self, sb: &Superblock) -> u32 {
        let generation = self.bytes.get(0x64..0x68).unwrap_or_default();
        crc32c(sb.seed, &[&self.number.to_le_bytes(), generation])
    }

    /// Returns whether its checksum is right; true if it has none.
    pub(super) fn checksum_right(&self, sb: &Superblock) -> bool {
        if !sb.metadata_csum() {
            return true;
        }
        let (head, old) = (&self.bytes[..0x7c], &self.bytes[0x7e..OLD_SIZE]);
        let seed = self.seed(sb);
        let low = u32::from(self.u16(0x7c));
        if self.bytes.len() < 0x84 || self.extra() < 4 {
            return crc32c(seed, &[head, &[0, 0], old, &self.bytes[OLD_SIZE..]]) & 0xffff == low;
        }
        let new = [&self.bytes[OLD_SIZE..0x82], &[0, 0], &self.bytes[0x84..]];
        let stored = low | u32::from(self.u16(0x82)) << 16;
        crc32c(seed, &[head, &[0, 0], old, new[0], new[1], new[2]]) == stored
    }

    /// Returns the number of bytes of fields after the first 128.
    fn extra(&self) -> usize {
        if self.bytes.len() <= OLD_SIZE { 0 } else { usize::from(self.u16(0x80)) }
    }

    /// Returns the field at `at`, if the inode is large enough to have it.
    fn extra_field(&self, at: usize) -> Option<u32> {
        if at + 4 <= OLD_SIZE + self.extra() { le32(self.bytes, at) } else { None }
    }

    /// Returns its times.
    pub(super) fn times(&self) -> Times {
        let time = |at, extra| time_of(self.u32(at), self.extra_field(extra));
        let created = self.extra_field(0x90).and_then(|seconds| time_of(seconds, self.extra_field(0x94)));
        Times { modified: time(0x10, 0x88), created, accessed: time(0x8, 0x8c), changed: time(0xc, 0x84) }
    }

    /// Returns the value of `system.data`, the extended attribute in which the rest of inline contents is; None if it has none.
    pub(super) fn inline_rest(&self) -> Option<&'a [u8]> {
        let start = OLD_SIZE.checked_add(self.extra())?;
        if le32(self.bytes, start)? != 0xea02_0000 {
            return None;
        }
        let area = self.bytes.get(start + 4..)?;
        let mut at = 0;
        while le32(area, at)? != 0 {
            let (name_len, index) = (usize::from(*area.get(at)?), *area.get(at + 1)?);
            let name = area.get(at + 16..at + 16 + name_len)?;
            if index == 7 && name == b"data" && le32(area, at + 4)? == 0 {
                let value = usize::from(le16(area, at + 2)?);
                let len = usize::try_from(le32(area, at + 8)?).ok()?;
                return area.get(value..value.checked_add(len)?);
            }
            at += 16 + name_len.next_multiple_of(4);
        }
        None
    }
}

/// Returns nanoseconds since 1970. The extra field has two more bits of the seconds, and the nanoseconds.
fn time_of(seconds: u32, extra: Option<u32>) -> Option<i64> {
    let extra = extra.unwrap_or(0);
    let seconds = i64::from(seconds.cast_signed()) + (i64::from(extra & 3) << 32);
    seconds.checked_mul(1_000_000_000)?.checked_add(i64::from(extra >> 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_epoch_bits() {
        assert_eq!(time_of(0, None), Some(0));
        assert_eq!(time_of(u32::MAX, None), Some(-1_000_000_000));
        assert_eq!(time_of(0x8000_0000, Some(1)), Some(0x8000_0000 * 1_000_000_000));
        assert_eq!(time_of(1, Some(7 << 2)), Some(1_000_000_007));
        assert_eq!(time_of(0, Some(3)), None);
    }

    #[test]
    fn attributes_that_make_no_sense_end_the_search() {
        let mut bytes = vec![0; 256];
        bytes[0x80] = 32;
        assert_eq!(Inode::new(12, &bytes).inline_rest(), None);
        bytes[160..164].copy_from_slice(&0xea02_0000_u32.to_le_bytes());
        let mut entry = vec![4, 7, 60, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0];
        entry.extend_from_slice(b"data");
        bytes[164..184].copy_from_slice(&entry);
        bytes[224..229].copy_from_slice(b"hello");
        assert_eq!(Inode::new(12, &bytes).inline_rest(), Some(&b"hello"[..]));
        bytes[172] = 200;
        assert_eq!(Inode::new(12, &bytes).inline_rest(), None);
        bytes[164..256].fill(0xff);
        assert_eq!(Inode::new(12, &bytes).inline_rest(), None);
    }
}
