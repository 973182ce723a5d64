//! Reads blocks of metadata, within bounds.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use cdi_base::units::index;

use super::superblock::Superblock;
use crate::file_system::{Child, Damage};
use crate::volume::Volume;

/// Reads blocks of a volume, but only so many: on an intact volume no block of metadata is used twice, so that twice the size of
/// the volume is enough. This ends loops.
pub(super) struct Reader<'v> {
    pub sb: &'v Superblock,
    pub volume: Volume<'v>,
    /// Names that may be those of deleted files.
    pub doubtful: RefCell<Vec<Child>>,
    left: Cell<u64>,
    left_tables: Cell<u64>,
    left_lost: Cell<u64>,
}

impl<'v> Reader<'v> {
    /// Makes a reader with a budget of twice the size of the volume.
    pub(super) fn new(sb: &'v Superblock, volume: &Volume<'v>) -> Reader<'v> {
        let blocks = volume.size() / sb.block;
        let left = Cell::new(blocks.saturating_mul(2).saturating_add(4096));
        let left_tables = left.clone();
        let left_lost = Cell::new(volume.size() / sb.inode_size as u64 + 65536);
        Reader { sb, volume: *volume, doubtful: RefCell::default(), left, left_tables, left_lost }
    }

    /// Takes `blocks` from what may be read.
    pub(super) fn spend(&self, blocks: u64) -> Result<(), Damage> {
        let spent = take(&self.left, blocks);
        spent.ok_or_else(|| Damage::Invalid("metadata refers to the same blocks again and again".into()))
    }

    /// Takes `blocks` from how many of tables of inodes may be read.
    pub(super) fn spend_table(&self, blocks: u64) -> Result<(), Damage> {
        let spent = take(&self.left_tables, blocks);
        spent.ok_or_else(|| Damage::Invalid("the tables of inodes are larger than the volume".into()))
    }

    /// Takes one from how many inodes may be lost together with their group: as many as the volume has room for.
    pub(super) fn may_lose(&self) -> bool {
        take(&self.left_lost, 1).is_some()
    }

    /// Reads a block.
    pub(super) fn block(&self, block: u64) -> Result<Vec<u8>, Damage> {
        self.spend(1)?;
        Ok(self.volume.read(self.bytes(block, 1).start, index(self.sb.block))?)
    }

    /// Returns whether these blocks may belong to a file.
    pub(super) fn is_valid(&self, block: u64, len: u64) -> bool {
        block > self.sb.first_block && block.checked_add(len).is_some_and(|end| end <= self.sb.blocks)
    }

    /// Returns the bytes of blocks that are valid.
    pub(super) fn bytes(&self, block: u64, len: u64) -> Range<u64> {
        block.saturating_mul(self.sb.block)..block.saturating_add(len).saturating_mul(self.sb.block)
    }
}

fn take(left: &Cell<u64>, count: u64) -> Option<()> {
    left.set(left.get().checked_sub(count)?);
    Some(())
}
