//! Reads blocks of metadata, within bounds.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use cdi_base::units::index;

use super::superblock::Superblock;
use crate::file_system::{Child, Damage};
use crate::volume::Volume;

/// What reads blocks: a volume, and how many more it may read. No sound volume has a block of metadata twice, so that
/// twice the size of the volume is enough; loops end with that.
pub(super) struct Reader<'v> {
    pub sb: &'v Superblock,
    pub volume: Volume<'v>,
    /// Names that may be those of deleted files.
    pub doubtful: RefCell<Vec<Child>>,
    left: Cell<u64>,
}

impl<'v> Reader<'v> {
    /// Makes a reader with a budget of twice the size of the volume.
    pub(super) fn new(sb: &'v Superblock, volume: &Volume<'v>) -> Reader<'v> {
        let blocks = volume.size() / sb.block;
        let left = Cell::new(blocks.saturating_mul(2).saturating_add(4096));
        Reader { sb, volume: *volume, doubtful: RefCell::default(), left }
    }

    /// Takes `blocks` from what may be read.
    pub(super) fn spend(&self, blocks: u64) -> Result<(), Damage> {
        match self.left.get().checked_sub(blocks) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => Err(Damage::Invalid("metadata refers to the same blocks again and again".into())),
        }
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
