//! The file systems that cdi knows, and what else may be on a volume.

use crate::file_system::{Damage, FileSystem};
use crate::volume::Volume;

/// A file system: its name, and what recognises it.
struct Known {
    name: &'static str,
    open: Open,
}

/// Recognises a file system. None if it is another one; an error if it is this one, but nothing of it can be found: neither
/// its first structure nor a copy of it.
type Open = fn(&Volume<'_>) -> Result<Option<Box<dyn FileSystem>>, Damage>;

/// All file systems whose files can be listed. The first that recognises a volume has it.
const FILE_SYSTEMS: &[Known] = &[
    Known { name: "exfat", open: crate::exfat::open },
    Known { name: "fat", open: crate::fat::open },
    Known { name: "iso9660", open: crate::iso9660::open },
];

/// What is on a volume.
pub enum Contents {
    /// A file system whose files can be listed.
    Files(Box<dyn FileSystem>),
    /// A file system that is recognised, and of which nothing can be used.
    Damaged(&'static str, Damage),
    /// Nothing that is known.
    Unknown,
}

/// Returns what is on a volume.
pub fn recognize(volume: &Volume<'_>) -> Contents {
    for known in FILE_SYSTEMS {
        match (known.open)(volume) {
            Ok(Some(found)) => return Contents::Files(found),
            Ok(None) => {}
            Err(damage) => return Contents::Damaged(known.name, damage),
        }
    }
    Contents::Unknown
}
