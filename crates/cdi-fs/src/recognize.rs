//! The file systems that cdi knows, and what else may be on a volume.

use cdi_base::error::ReadError;
use cdi_base::units::SECTOR;

use crate::file_system::{Damage, FileSystem};
use crate::volume::Volume;
use crate::{apfs, exfat, ext, fat, hfsplus, iso9660, ntfs, signatures};

/// A file system: its name, and what recognises it.
struct Known {
    name: &'static str,
    open: Open,
}

/// Recognises a file system. None if it is another one; an error if it is this one, but nothing of it can be found: neither
/// its first structure nor a copy of it.
type Open = fn(&Volume<'_>) -> Result<Option<Box<dyn FileSystem>>, Damage>;

/// All file systems whose files can be listed. The first that recognises a volume has it: first those that are recognised by
/// the first sector, last those of which copies are looked for, which may be left of a former use of the volume.
const FILE_SYSTEMS: &[Known] = &[
    Known { name: "exfat", open: exfat::open },
    Known { name: "fat", open: fat::open },
    Known { name: "ntfs", open: ntfs::open },
    Known { name: "iso9660", open: iso9660::open },
    Known { name: "apfs", open: apfs::open },
    Known { name: "hfs+", open: hfsplus::open },
    Known { name: "ext", open: ext::open },
];

/// What is on a volume.
pub enum Contents {
    /// A file system whose files can be listed.
    Files(Box<dyn FileSystem>),
    /// A file system that is recognised, and of which nothing can be used.
    Damaged(&'static str, Damage),
    /// Something else that is known by name.
    Named(&'static str),
    /// Nothing that is known. If its start cannot be read: why.
    Unknown(Option<ReadError>),
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
    match signatures::name(volume) {
        Some(name) => Contents::Named(name),
        None => Contents::Unknown(volume.read(0, SECTOR as usize).err()),
    }
}
