//! The file systems that cdi knows, and what else may be on a volume.

use cdi_base::error::ReadError;
use cdi_base::units::{SECTOR, index};

use crate::file_system::{Damage, FileSystem};
use crate::volume::Volume;
use crate::{apfs, exfat, ext, fat, hfsplus, iso9660, ntfs, signatures};

/// A file system: its name, and what recognises it.
struct Known {
    name: &'static str,
    /// Where its first structure is, and what is there: byte, and bytes.
    magic: &'static [(u64, &'static [u8])],
    open: Open,
}

/// Recognises a file system. None if it is another one; an error if it is this one, but nothing of it can be found: neither
/// its first structure nor a copy of it.
type Open = fn(&Volume<'_>) -> Result<Option<Box<dyn FileSystem>>, Damage>;

/// All file systems whose files can be listed.
const FILE_SYSTEMS: &[Known] = &[
    Known { name: "ntfs", magic: &[(3, b"NTFS    ")], open: ntfs::open },
    Known { name: "exfat", magic: &[(3, b"EXFAT   ")], open: exfat::open },
    Known { name: "ext", magic: &[(1080, b"\x53\xEF")], open: ext::open },
    Known { name: "hfs+", magic: &[(1024, b"H+"), (1024, b"HX"), (1024, b"BD")], open: hfsplus::open },
    Known { name: "apfs", magic: &[(32, b"NXSB")], open: apfs::open },
    Known { name: "iso9660", magic: &[(0x8001, b"CD001")], open: iso9660::open },
    Known { name: "fat", magic: &[(510, b"\x55\xAA")], open: fat::open },
];

/// What is on a volume.
pub enum Recognized {
    /// A file system whose files can be listed.
    Files(Box<dyn FileSystem>),
    /// A file system that is recognised, and of which nothing can be used.
    Damaged(&'static str, Damage),
    /// Something else that is known by name.
    Named(&'static str),
    /// Nothing that is known. If that cannot be known, because its start cannot be read: why.
    Unknown(Option<ReadError>),
}

/// Returns whether the first structure of a file system seems to be there, of those that are found without reading more than
/// the start of the volume.
pub(crate) fn has_magic(volume: &Volume<'_>) -> bool {
    let start = volume.read_part(0..2048);
    let mut magic = FILE_SYSTEMS.iter().flat_map(|known| known.magic);
    magic.any(|(at, magic)| start.get(*at, magic.len()).is_ok_and(|bytes| bytes == *magic))
}

/// Returns what is on a volume. File systems whose first structure is there come first: copies of others may be left of a
/// former use. As long as one of those places was not read, copies are not looked for.
pub fn recognize(volume: &Volume<'_>) -> Recognized {
    let is_there = |known: &&Known| {
        let found =
            known.magic.iter().map(|(at, magic)| volume.read(*at, magic.len()).is_ok_and(|b| b == *magic));
        // All of them are read: what is not read yet when an image is made is asked for by reading it.
        found.fold(false, |any, one| any | one)
    };
    let (first, rest): (Vec<&Known>, Vec<&Known>) = FILE_SYSTEMS.iter().partition(is_there);
    if let Some(found) = open(volume, &first) {
        return found;
    }
    let places =
        FILE_SYSTEMS.iter().flat_map(|known| known.magic).map(|(at, magic)| *at..*at + magic.len() as u64);
    let untried = places.into_iter().any(|place| volume.missing(place).iter().any(|m| m.untried));
    if !untried && let Some(found) = open(volume, &rest) {
        return found;
    }
    match signatures::name(volume) {
        Some(name) => Recognized::Named(name),
        None => Recognized::Unknown(unreadable(volume)),
    }
}

/// Returns the error of reading the places that show which file system this is.
fn unreadable(volume: &Volume<'_>) -> Option<ReadError> {
    let magic = FILE_SYSTEMS.iter().flat_map(|known| known.magic).map(|(at, magic)| (*at, magic.len()));
    let mut places = std::iter::once((0, index(SECTOR.into()))).chain(magic);
    places.find_map(|(at, len)| volume.read(at, len).err().filter(|e| *e != ReadError::PastEnd))
}

/// Takes a volume for the file system of this name, whatever else it may be: for tests. Returns the names of all for a name
/// that is not known.
pub fn recognize_as(volume: &Volume<'_>, name: &str) -> Result<Recognized, Vec<&'static str>> {
    let known = FILE_SYSTEMS.iter().find(|known| known.name == name);
    let known = known.ok_or_else(|| FILE_SYSTEMS.iter().map(|known| known.name).collect::<Vec<_>>())?;
    Ok(open(volume, &[known]).unwrap_or(Recognized::Unknown(None)))
}

/// Returns the first file system that recognises the volume.
fn open(volume: &Volume<'_>, all: &[&Known]) -> Option<Recognized> {
    for known in all {
        match (known.open)(volume) {
            Ok(Some(found)) => return Some(Recognized::Files(found)),
            Ok(None) => {}
            Err(damage) => return Some(Recognized::Damaged(known.name, damage)),
        }
    }
    None
}
