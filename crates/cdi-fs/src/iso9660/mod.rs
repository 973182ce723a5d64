//! ISO 9660 with Rock Ridge and Joliet.
//!
//! A disc may list its files twice: in the primary tree, with short names and, by Rock Ridge, their real ones; and in Joliet's.
//! One is read, Rock Ridge's if there is one, else Joliet's. If something of it is lost, the other one and the path table are
//! read as well. What is read is the tree at sector 16 of the volume: the last session of a disc that was written in several ones
//! only if that is the volume.

mod descriptor;
mod entry;
mod path_table;
mod record;
mod rock_ridge;
mod scan;
#[cfg(test)]
mod tests;

use cdi_base::printable::hex;
use std::ops::Range;

use crate::file_system::{Damage, FileSystem, Record, Visitor};
use crate::volume::Volume;
use descriptor::{Descriptors, Tree};

/// A volume of ISO 9660.
struct Iso {
    descriptors: Descriptors,
    /// The number of bytes to skip before Rock Ridge's fields in the primary tree, if it is used.
    rock_ridge: Option<usize>,
    /// Whether Joliet's tree is preferred.
    joliet: bool,
}

/// Recognises ISO 9660.
pub(crate) fn open(volume: &Volume<'_>) -> Result<Option<Box<dyn FileSystem>>, Damage> {
    let Some(descriptors) = descriptor::read(volume) else { return Ok(None) };
    let mut iso = Iso { descriptors, rock_ridge: None, joliet: false };
    match &iso.descriptors.primary {
        None if iso.descriptors.joliet.is_none() => {
            let damage = iso.descriptors.all.iter().find_map(|(_, _, damage)| damage.clone());
            return Err(
                damage.unwrap_or_else(|| Damage::Invalid("it has no primary volume descriptor".into()))
            );
        }
        None => iso.joliet = true,
        Some(tree) => {
            let first = volume.read(u64::from(tree.root.0) * tree.block, 512);
            let found = first.as_ref().ok().and_then(|bytes| {
                let bytes = bytes.get(..usize::from(*bytes.first()?))?;
                rock_ridge::skip(&entry::parse(bytes)?)
            });
            iso.joliet = found.is_none() && iso.descriptors.joliet.is_some();
            // It may be used if that cannot be read.
            iso.rock_ridge = found.or(first.is_err().then_some(0));
        }
    }
    Ok(Some(Box::new(iso)))
}

impl Iso {
    /// Returns the trees, the preferred one first.
    fn trees(&self) -> Vec<&Tree> {
        let (primary, joliet) = (self.descriptors.primary.as_ref(), self.descriptors.joliet.as_ref());
        let order = if self.joliet { [joliet, primary] } else { [primary, joliet] };
        order.into_iter().flatten().collect()
    }

    /// Returns the block size in bytes and the number of blocks.
    fn blocks(&self) -> (u64, u64) {
        let trees = self.trees();
        let block = trees.first().map_or(descriptor::SECTOR, |tree| tree.block);
        (block, trees.iter().map(|tree| tree.blocks).max().unwrap_or(0))
    }
}

impl FileSystem for Iso {
    fn name(&self) -> &'static str {
        "iso9660"
    }

    fn label(&self) -> Option<String> {
        self.trees().into_iter().find_map(|tree| tree.label.clone())
    }

    fn block_size(&self) -> u32 {
        u32::try_from(self.blocks().0).unwrap_or(u32::MAX)
    }

    fn id(&self) -> Option<String> {
        self.trees().into_iter().find(|tree| !tree.joliet).map(|tree| hex(&tree.created))
    }

    fn size(&self) -> u64 {
        let (block, blocks) = self.blocks();
        block.saturating_mul(blocks)
    }

    fn root(&self) -> u64 {
        0
    }

    fn scan(&self, volume: &Volume<'_>, visitor: &mut dyn Visitor) {
        let _ = scan::scan(self, volume, visitor);
    }

    fn free(&self, volume: &Volume<'_>, found: &mut dyn FnMut(Range<u64>)) {
        let (block, blocks) = self.blocks();
        let end = blocks * block;
        if end > 0 && end < volume.size() {
            found(end..volume.size());
        }
    }

    fn record(&self, volume: &Volume<'_>, handle: u64) -> Result<Record, Damage> {
        let block = self.blocks().0;
        match self.trees().first() {
            Some(tree) if handle == 0 => Ok(record::root(volume, tree)),
            _ => record::at(volume, handle, self.rock_ridge, block),
        }
    }
}
