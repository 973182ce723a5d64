//! The superblock of a volume.
//!
//! Facts: Apple File System Reference, "Volumes": `apfs_superblock_t`; `struct apfs_superblock` in linux-apfs-rw's apfs_raw.h.

use super::object::{Layout, VOLUME};
use crate::bytes::le64;
use crate::file_system::Damage;
use crate::volume::Volume;

/// The flag that says that a volume is not encrypted.
const NOT_ENCRYPTED: u64 = 1;
/// The feature of volumes whose extents are in a tree of their own: those of macOS itself.
const SEALED: u64 = 0x20;

/// What the superblock of a volume says.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    pub(super) name: String,
    pub(super) object_map: u64,
    pub(super) encrypted: bool,
    pub(super) sealed: bool,
    /// The number of files, directories and others.
    pub(super) files: u64,
}

impl Superblock {
    /// Reads the superblock in block `block`.
    pub(super) fn read(volume: &Volume<'_>, layout: Layout, block: u64) -> Result<Superblock, Damage> {
        let bytes = layout.object(volume, block, VOLUME)?;
        if bytes.get(32..36) != Some(b"APSB") {
            return Err(Damage::Invalid("it is no superblock of a volume".into()));
        }
        let long = |at| le64(&bytes, at).unwrap_or(0);
        let name = bytes.get(704..960).unwrap_or_default().split(|b| *b == 0).next().unwrap_or_default();
        let counts = [184, 192, 200, 208].into_iter().map(long);
        Ok(Superblock {
            name: String::from_utf8_lossy(name).replace('/', ":"),
            object_map: long(128),
            encrypted: long(264) & NOT_ENCRYPTED == 0,
            sealed: long(56) & SEALED != 0,
            files: counts.fold(0, u64::saturating_add),
        })
    }
}
