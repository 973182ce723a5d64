//! NTFS: of Windows since NT 3.1.
//!
//! Everything about a file is in records of the MFT, at known places, which are scanned. A name is in the file's record and
//! in the index of its directory. The first records have copies in `$MFTMirr`, the boot sector has one in the last sector.
//!
//! The crate `ntfs` (0.4.0) is not used: it ends where the first record of the MFT is damaged, has no use for the copies,
//! and gives no entries of an index one of whose blocks is damaged.
//!
//! Sources: layout.h, runlist.c, attrib.c and index.c of ntfs-3g, fs/ntfs3 of Linux, [MS-FSCC] and [MS-XCA] of Microsoft.
//!
//! How it fills a [`Record`]: `handle` is the number of the record. A name whose directory was deleted has the parent
//! [`u64::MAX`]: its reference has another sequence number than the directory's record. If the directory's record is lost,
//! the parent is its number. A resident value is [`Inline`](crate::file_system::Place::Inline). Names of both namespaces, Win32
//! and DOS, are reported once, by the long name. The root has no name.
//!
//! Compressed files have `packed` "compressed", and their runs as they are stored: see [`lznt1`](crate::lznt1) for what they mean. The unit
//! is 16 clusters ([`FileSystem::block_size`]). Files that the Windows overlay filter compressed have no runs of their own,
//! but a stream `WofCompressedData`.

mod bits;
mod boot;
mod file;
mod fixup;
mod index;
mod io;
mod mft;
mod names;
mod orphans;
mod record;
mod reparse;
mod runs;
mod scan;
mod stream;
mod structures;
mod table;
#[cfg(test)]
mod tests;
mod whole;

use std::borrow::Cow;
use std::ops::Range;

use crate::file_system::{Damage, FileSystem, Record, Visitor};
use crate::volume::Volume;

use self::boot::Boot;
use self::io::Io;
use self::mft::Mft;
use self::record::{Head, kind};

/// The number of the record of the volume's name.
const VOLUME: u64 = 3;

/// An NTFS.
struct Ntfs {
    boot: Boot,
    mft: Mft,
    label: Option<String>,
}

/// Recognises NTFS.
pub(crate) fn open(volume: &Volume<'_>) -> Result<Option<Box<dyn FileSystem>>, Damage> {
    let io = Io::new(volume);
    let mut best: Option<Mft> = None;
    for boot in boot::find(volume)? {
        let mft = Mft::locate(&io, &boot);
        let found = mft.found;
        if found || best.is_none() {
            best = Some(mft);
        }
        if found {
            break;
        }
    }
    Ok(best.map(|mft| {
        let label = label(&io, &mft);
        Box::new(Ntfs { boot: mft.boot, mft, label }) as Box<dyn FileSystem>
    }))
}

fn label(io: &Io<'_>, mft: &Mft) -> Option<String> {
    let unit = mft.read(io, VOLUME).ok()?;
    let head = Head::parse(&unit.bytes)?;
    let (list, _) = record::attributes(&unit.bytes, &head);
    let name = list.iter().find_map(|attribute| match attribute.body {
        record::Body::Resident(name) if attribute.kind == kind::VOLUME_NAME => Some(names::text(name)),
        _ => None,
    });
    name.filter(|name| !name.is_empty())
}

impl Ntfs {
    /// Returns where the MFT is. If that was not known, it is looked for again: more may be readable now.
    fn mft(&self, io: &Io<'_>) -> Cow<'_, Mft> {
        if self.mft.found && self.mft.damage.is_none() {
            Cow::Borrowed(&self.mft)
        } else {
            Cow::Owned(Mft::locate(io, &self.boot))
        }
    }
}

/// Returns the size of the NTFS whose copy of the boot sector is at the start of `volume`, with this sector.
pub(crate) fn size_by_copy(volume: &Volume<'_>) -> Option<u64> {
    let boot = boot::Boot::parse(&volume.read(0, boot::SIZE).ok()?).ok()?;
    boot.size.checked_add(boot.sector)
}

impl FileSystem for Ntfs {
    fn name(&self) -> &'static str {
        "ntfs"
    }

    fn label(&self) -> Option<String> {
        self.label.clone()
    }

    fn block_size(&self) -> u32 {
        u32::try_from(self.boot.cluster).unwrap_or(u32::MAX)
    }

    fn is_internal(&self, number: u64) -> bool {
        number < file::FIRST && number != file::ROOT
    }

    fn id(&self) -> Option<String> {
        Some(format!("{:016x}", self.boot.serial))
    }

    fn size(&self) -> u64 {
        self.boot.size.saturating_add(self.boot.sector)
    }

    fn root(&self) -> u64 {
        file::ROOT
    }

    fn scan(&self, volume: &Volume<'_>, visitor: &mut dyn Visitor) {
        let io = Io::new(volume);
        // Looked for again in any case: a scan asks for all metadata.
        let mft = Mft::locate(&io, &self.boot);
        scan::scan(&io, &mft, visitor);
    }

    fn free(&self, volume: &Volume<'_>, found: &mut dyn FnMut(Range<u64>)) {
        let io = Io::new(volume);
        if let Ok((extents, size, _)) = structures::clusters(&io, &self.mft(&io)) {
            // The last sector, which has the copy of the boot sector, is never free.
            let end = self.boot.size.min(volume.size().saturating_sub(self.boot.sector));
            bits::free(volume, &extents, size, end, found);
        }
    }

    fn record(&self, volume: &Volume<'_>, handle: u64) -> Result<Record, Damage> {
        let io = Io::new(volume);
        let mft = self.mft(&io);
        let unit = mft.read(&io, handle).map_err(|lost| lost.damage)?;
        let unused = || Damage::Invalid("the record is not in use".into());
        let whole = whole::gather(&io, &mft, handle, unit, &[]).ok_or_else(unused)?;
        if !whole.head.used || whole.head.extends().is_some() {
            return Err(unused());
        }
        let mut known = scan::Known::new(&io, &mft);
        Ok(file::describe(&io, &mft, &whole, &whole.attributes(), &mut known))
    }
}
