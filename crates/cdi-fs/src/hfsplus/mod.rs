//! HFS+ and HFSX, the file systems of Mac OS before APFS.
//!
//! All that is known of files is in the catalogue, a B-tree. All of its nodes are read, in their order on the disk, and the
//! records of its leaves used, wherever they are. A file has two records: one with its name and contents, and one (a
//! thread) with its name alone, which is usually in another node.
//!
//! Of a hard link, the entry has the number of what it points to: a file in a private directory, whose record has no name of
//! its own. Of a compressed file, the contents are its resource fork (`data` has the size when it is decompressed), or nothing
//! if they are in an attribute. The journal is not replayed: a volume that was not unmounted is listed as it is on the disk.
//!
//! Numbers are catalogue node IDs. What nothing is known of but that it was there has a number from 2^32 on.
//!
//! Facts: Apple, Technical Note TN1150 "HFS Plus Volume Format", and Linux's fs/hfsplus/hfsplus_raw.h.

mod attributes;
mod bitmap;
mod btree;
mod fork;
mod header;
mod make;
mod names;
mod node;
mod overflow;
mod records;
mod scan;
mod structures;
mod survey;
mod tables;
#[cfg(test)]
pub(crate) mod tests;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::file_system::{Damage, FileSystem, Record, Visitor};
use crate::volume::Volume;

use self::header::Found;
use self::records::{Entry, MAX_RECORD, PARENT_OF_ROOT};
use self::tables::Tables;

/// An HFS+ volume.
struct HfsPlus {
    found: Found,
    label: Option<String>,
    /// What was last read of the extents overflow file, the attributes file and the catalogue's beginning.
    tables: Mutex<Option<Arc<Tables>>>,
}

/// Recognises HFS+ and HFSX, in an HFS wrapper as well.
pub(crate) fn open(volume: &Volume<'_>) -> Result<Option<Box<dyn FileSystem>>, Damage> {
    let Some(found) = header::find(volume)? else { return Ok(None) };
    let mut fs = HfsPlus { found, label: None, tables: Mutex::new(None) };
    fs.label = fs.find_label(volume);
    Ok(Some(Box::new(fs)))
}

impl HfsPlus {
    /// Returns the tables that the last scan read, or reads them.
    fn tables(&self, volume: &Volume<'_>) -> Arc<Tables> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(tables.get_or_insert_with(|| Arc::new(Tables::load(volume, &self.found.header).0)))
    }

    /// Returns the name of the root, which is in the first record of the catalogue.
    fn find_label(&self, volume: &Volume<'_>) -> Option<String> {
        let catalogue = btree::Tree::open(volume, self.found.header.catalogue.clone(), records::length)?;
        let record = catalogue.first_record(volume, catalogue.first_leaf?, MAX_RECORD)?;
        match records::parse(&record)? {
            Entry::Folder(item) if item.parent == PARENT_OF_ROOT => Some(item.name),
            _ => None,
        }
    }
}

impl FileSystem for HfsPlus {
    fn name(&self) -> &'static str {
        if self.found.header.hfsx { "hfsx" } else { "hfs+" }
    }

    fn label(&self) -> Option<String> {
        self.label.clone()
    }

    fn block_size(&self) -> u32 {
        self.found.header.layout.block_size
    }

    fn id(&self) -> Option<String> {
        Some(format!("{:016x}", self.found.header.id)).filter(|_| self.found.header.id != 0)
    }

    fn size(&self) -> u64 {
        let layout = self.found.header.layout;
        layout.base + u64::from(layout.block_size) * u64::from(layout.blocks)
    }

    fn root(&self) -> u64 {
        u64::from(records::ROOT)
    }

    fn scan(&self, volume: &Volume<'_>, visitor: &mut dyn Visitor) {
        let (tables, damaged) = Tables::load(volume, &self.found.header);
        let tables = Arc::new(tables);
        *self.tables.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&tables));
        if structures::report(volume, &self.found, &tables, damaged, visitor) {
            scan::catalogue(volume, &self.found.header, &tables, visitor);
        }
    }

    fn free(&self, volume: &Volume<'_>, found: &mut dyn FnMut(Range<u64>)) {
        let tables = self.tables(volume);
        bitmap::free(volume, &tables.allocation, self.found.header.layout, found);
    }

    fn record(&self, volume: &Volume<'_>, handle: u64) -> Result<Record, Damage> {
        let tables = self.tables(volume);
        let Some(catalogue) = &tables.catalogue else {
            return Err(Damage::Invalid("the catalogue cannot be found".into()));
        };
        make::record(volume, catalogue, &tables, self.found.header.layout, handle)
    }
}
