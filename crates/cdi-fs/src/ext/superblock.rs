//! The superblock: what the numbers of a volume are, and where its groups and copies lie.
//!
//! Source: Linux, Documentation/filesystems/ext4/super.rst and `struct ext4_super_block` in fs/ext4/ext4.h; the checks are
//! those of `ext4_fill_super`.

use super::checksum::crc32c;
use crate::bytes::{array, le16, le32, le64};

/// The size of a superblock and of its copies in bytes.
pub(super) const SIZE: usize = 1024;
/// The byte of the volume at which the first superblock is.
pub(super) const PLACE: u64 = 1024;
/// The largest number of groups: more would need too much memory. A volume of 256 TiB has this many.
const MAX_GROUPS: u64 = 1 << 21;

/// Features that a kernel may ignore.
pub(super) mod compat {
    pub(crate) const JOURNAL: u32 = 0x4;
    pub(crate) const SPARSE_SUPER2: u32 = 0x200;
}

/// Features that a kernel must know.
pub(super) mod incompat {
    pub(crate) const FILETYPE: u32 = 0x2;
    pub(crate) const RECOVER: u32 = 0x4;
    pub(crate) const JOURNAL_DEVICE: u32 = 0x8;
    pub(crate) const META_BG: u32 = 0x10;
    pub(crate) const WIDE: u32 = 0x80;
    pub(crate) const MMP: u32 = 0x100;
    pub(crate) const FLEX_BG: u32 = 0x200;
    pub(crate) const CSUM_SEED: u32 = 0x2000;
    pub(crate) const LARGE_DIR: u32 = 0x4000;
}

/// Features that a kernel must know to write.
pub(super) mod ro_compat {
    pub(crate) const SPARSE_SUPER: u32 = 0x1;
    pub(crate) const GDT_CSUM: u32 = 0x10;
    pub(crate) const BIGALLOC: u32 = 0x200;
    pub(crate) const METADATA_CSUM: u32 = 0x400;
}

/// What the rest needs of a superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    /// The number of inodes.
    pub inodes: u32,
    /// The number of blocks.
    pub blocks: u64,
    /// The block at which group 0 begins.
    pub first_block: u64,
    /// The size of a block in bytes.
    pub block: u64,
    /// The number of blocks in a cluster: of what a bit of a block bitmap stands for.
    pub cluster: u64,
    /// The number of blocks in a group.
    pub group_blocks: u64,
    /// The number of inodes in a group.
    pub group_inodes: u32,
    /// The size of an inode in bytes.
    pub inode_size: usize,
    /// The size of a group descriptor in bytes.
    pub descriptor: usize,
    /// The number of groups.
    pub groups: u64,
    /// The number of groups whose tables lie together.
    pub flex: u64,
    /// Features that may be ignored.
    pub compat: u32,
    /// Features that must be known.
    pub incompat: u32,
    /// Features that must be known to write.
    pub ro_compat: u32,
    /// The UUID.
    pub uuid: [u8; 16],
    /// The label, empty if there is none.
    pub label: String,
    /// What checksums begin with.
    pub seed: u32,
    /// The first inode that is not reserved.
    pub first_inode: u32,
    /// The number of blocks that are kept for descriptors of groups to come.
    pub reserved: u64,
    /// The first block of descriptors that is in the groups it describes.
    pub first_meta: u64,
    /// The groups that have copies, with `sparse_super2`.
    pub backups: [u32; 2],
    /// The inodes of journals, quotas and the orphan file.
    pub internal: [u32; 5],
    /// The block of the multiple mount protection, 0 if there is none.
    pub mmp: u64,
    /// The group that this copy says it is in.
    pub own_group: u16,
}

impl Superblock {
    /// Parses a superblock or a copy. An error says what makes no sense. With `any_magic`, the signature is not looked at.
    pub(super) fn parse(bytes: &[u8], any_magic: bool) -> Result<Superblock, String> {
        let whole = bytes.get(..SIZE).ok_or("too short")?;
        if !any_magic && le16(whole, 0x38) != Some(0xef53) {
            return Err("no signature".into());
        }
        let found = Superblock::fields(whole).ok_or("its sizes make no sense")?;
        found.check()?;
        Ok(found)
    }

    fn fields(b: &[u8]) -> Option<Superblock> {
        let old = le32(b, 0x4c)? == 0;
        let feature = |at| if old { Some(0) } else { le32(b, at) };
        let (compat, incompat, ro_compat) = (feature(0x5c)?, feature(0x60)?, feature(0x64)?);
        let (log_block, log_cluster) = (le32(b, 0x18)?, le32(b, 0x1c)?);
        if log_block > 6 {
            return None;
        }
        let bigalloc = ro_compat & ro_compat::BIGALLOC != 0;
        let cluster = if bigalloc { log_cluster.checked_sub(log_block)? } else { 0 };
        if cluster > 20 {
            return None;
        }
        let wide = incompat & incompat::WIDE != 0;
        let high = if wide { u64::from(le32(b, 0x150)?) << 32 } else { 0 };
        let blocks = u64::from(le32(b, 0x4)?) | high;
        let first_block = u64::from(le32(b, 0x14)?);
        let group_blocks = u64::from(le32(b, 0x20)?);
        let uuid: [u8; 16] = array(b, 0x68)?;
        let name: [u8; 16] = array(b, 0x78)?;
        let label = name.split(|c| *c == 0).next().unwrap_or_default();
        let seed = match incompat & incompat::CSUM_SEED {
            0 => crc32c(u32::MAX, &[&uuid]),
            _ => le32(b, 0x270)?,
        };
        Some(Superblock {
            inodes: le32(b, 0)?,
            blocks,
            first_block,
            block: 1024 << log_block,
            cluster: 1 << cluster,
            group_blocks,
            group_inodes: le32(b, 0x28)?,
            inode_size: if old { 128 } else { usize::from(le16(b, 0x58)?) },
            descriptor: if wide { usize::from(le16(b, 0xfe)?) } else { 32 },
            groups: blocks
                .checked_sub(first_block)?
                .checked_add(group_blocks)?
                .checked_sub(1)?
                .checked_div(group_blocks)?,
            flex: if incompat & incompat::FLEX_BG != 0 { 1 << b.get(0x174)?.min(&31) } else { 1 },
            compat,
            incompat,
            ro_compat,
            uuid,
            label: String::from_utf8_lossy(label).into_owned(),
            seed,
            first_inode: if old { 11 } else { le32(b, 0x54)? },
            reserved: u64::from(le16(b, 0xce)?),
            first_meta: u64::from(le32(b, 0x104)?),
            backups: [le32(b, 0x24c)?, le32(b, 0x250)?],
            internal: [le32(b, 0xe0)?, le32(b, 0x240)?, le32(b, 0x244)?, le32(b, 0x26c)?, le32(b, 0x280)?],
            mmp: if incompat & incompat::MMP != 0 { le64(b, 0x168)? } else { 0 },
            own_group: le16(b, 0x5a)?,
        })
    }

    fn check(&self) -> Result<(), String> {
        let bits = self.block * 8;
        if self.blocks == 0 || self.first_block > 1 || self.blocks > u64::MAX / self.block / 2 {
            return Err("its number of blocks makes no sense".into());
        }
        if self.group_blocks == 0
            || self.group_blocks / self.cluster > bits
            || !self.group_blocks.is_multiple_of(self.cluster)
        {
            return Err("its number of blocks in a group makes no sense".into());
        }
        let inode = self.inode_size as u64;
        if !self.inode_size.is_power_of_two() || inode < 128 || inode > self.block {
            return Err("its size of inodes makes no sense".into());
        }
        let size = self.descriptor;
        if !size.is_power_of_two() || size < 32 || size as u64 > self.block {
            return Err("its size of group descriptors makes no sense".into());
        }
        if self.group_inodes == 0
            || u64::from(self.group_inodes) > bits
            || self.table_blocks() >= self.group_blocks
        {
            return Err("its number of inodes in a group makes no sense".into());
        }
        if self.groups > MAX_GROUPS {
            return Err("it has too many groups".into());
        }
        if self.groups * u64::from(self.group_inodes) != u64::from(self.inodes) {
            return Err("its number of inodes makes no sense".into());
        }
        Ok(())
    }

    /// Returns whether the checksum of these bytes is right; true if it has none.
    pub(super) fn checksum_right(&self, bytes: &[u8]) -> bool {
        if !self.metadata_csum() {
            return true;
        }
        bytes.get(..0x3fc).is_some_and(|b| Some(crc32c(u32::MAX, &[b])) == le32(bytes, 0x3fc))
    }

    /// Returns whether structures have checksums.
    pub(super) fn metadata_csum(&self) -> bool {
        self.ro_compat & ro_compat::METADATA_CSUM != 0
    }

    /// Returns whether group descriptors have checksums, and say which bitmaps were never written.
    pub(super) fn descriptor_csum(&self) -> bool {
        self.ro_compat & (ro_compat::METADATA_CSUM | ro_compat::GDT_CSUM) != 0
    }

    /// Returns the first block of a group.
    pub(super) fn group_start(&self, group: u64) -> u64 {
        self.first_block + group * self.group_blocks
    }

    /// Returns the block after the last one of a group.
    pub(super) fn group_end(&self, group: u64) -> u64 {
        self.group_start(group + 1).min(self.blocks)
    }

    /// Returns the number of blocks of a group's table of inodes.
    pub(super) fn table_blocks(&self) -> u64 {
        (u64::from(self.group_inodes) * self.inode_size as u64).div_ceil(self.block)
    }

    /// Returns the number of group descriptors in a block.
    pub(super) fn per_block(&self) -> u64 {
        self.block / self.descriptor as u64
    }

    /// Returns the number of blocks of group descriptors that lie together after a superblock.
    pub(super) fn old_table_blocks(&self) -> u64 {
        let all = self.groups.div_ceil(self.per_block());
        if self.incompat & incompat::META_BG != 0 { self.first_meta.min(all) } else { all }
    }

    /// Returns whether a group begins with a superblock.
    pub(super) fn has_super(&self, group: u64) -> bool {
        if self.compat & compat::SPARSE_SUPER2 != 0 {
            return group == 0 || self.backups.iter().any(|g| u64::from(*g) == group);
        }
        let sparse = self.ro_compat & ro_compat::SPARSE_SUPER != 0;
        group <= 1 || !sparse || [3, 5, 7].into_iter().any(|base| is_power(group, base))
    }

    /// Returns the block of a group's superblock, if it has one. In blocks of 1 KiB, the first is block 1 also where group 0
    /// begins at block 0 (bigalloc).
    pub(super) fn super_block(&self, group: u64) -> u64 {
        let first = self.group_start(group);
        if first == 0 && self.block == 1024 { 1 } else { first }
    }

    /// Returns the name that blkid has for these features.
    pub(super) fn name(&self) -> &'static str {
        let ext2_ro = 0x1 | 0x2 | 0x4;
        let ext2 = incompat::FILETYPE | incompat::META_BG;
        if self.ro_compat & !ext2_ro != 0 || self.incompat & !(ext2 | incompat::RECOVER) != 0 {
            "ext4"
        } else if self.compat & compat::JOURNAL != 0 {
            "ext3"
        } else {
            "ext2"
        }
    }
}

fn is_power(mut number: u64, base: u64) -> bool {
    while number > 1 && number.is_multiple_of(base) {
        number /= base;
    }
    number == 1
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Makes a superblock of a volume of 4 KiB blocks: 3 groups of 32,768 blocks and 8,192 inodes.
    pub(crate) fn made() -> Vec<u8> {
        let mut b = vec![0; SIZE];
        let mut put = |at: usize, value: u32| b[at..at + 4].copy_from_slice(&value.to_le_bytes());
        put(0, 3 * 8192);
        put(4, 3 * 32768 - 100);
        put(0x18, 2);
        put(0x1c, 2);
        put(0x20, 32768);
        put(0x24, 32768);
        put(0x28, 8192);
        put(0x38, 0xef53);
        put(0x4c, 1);
        put(0x54, 11);
        put(0x58, 256);
        put(0x64, 1);
        b
    }

    #[test]
    fn sizes_that_make_no_sense_are_refused() {
        let good = Superblock::parse(&made(), false).unwrap();
        assert_eq!((good.groups, good.block, good.name()), (3, 4096, "ext2"));
        for (at, value) in
            [(0, 1), (4, 0), (0x14, 7), (0x18, 9), (0x20, 0), (0x20, 99_999), (0x28, 0), (0x58, 192)]
        {
            let mut b = made();
            b[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
            assert!(Superblock::parse(&b, false).is_err(), "{at:#x}: {value}");
        }
        assert!(Superblock::parse(&[0; SIZE], false).is_err());
        assert!(Superblock::parse(&[0xff; SIZE], true).is_err());
        assert!(Superblock::parse(&[], true).is_err());
    }

    #[test]
    fn copies_are_in_powers_of_3_5_and_7() {
        let sb = Superblock::parse(&made(), false).unwrap();
        let found: Vec<u64> = (0..130).filter(|g| sb.has_super(*g)).collect();
        assert_eq!(found, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
        let two = Superblock { compat: compat::SPARSE_SUPER2, backups: [1, 99], ..sb.clone() };
        assert_eq!((0..130).filter(|g| two.has_super(*g)).collect::<Vec<_>>(), [0, 1, 99]);
        let all = Superblock { ro_compat: 0, ..sb };
        assert!(all.has_super(2));
    }
}
