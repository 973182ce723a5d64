//! DiskDescriptor.xml: the parts of a disk, their files, and its snapshots.

use std::path::PathBuf;

use cdi_base::error::Error;
use cdi_base::units::SECTOR;

use super::xml::{self, Element};
use crate::bytes::flaw;

/// The snapshot that is the current state, if the descriptor does not name another one.
const TOP: &str = "{5fbaabe3-6958-40ff-92a7-860e329aab41}";
/// No parent, and no encryption.
const NONE: &str = "{00000000-0000-0000-0000-000000000000}";

/// The contents of a descriptor.
#[derive(Debug)]
pub(super) struct Descriptor {
    /// The size of the disk in bytes.
    pub size: u64,
    /// The size of a physical sector in bytes; 0 if it is not recorded.
    pub physical_sector: u32,
    /// The parts of the disk, in order and without gaps.
    pub storages: Vec<Storage>,
    pub shots: Vec<ShotEntry>,
    /// The snapshot that is the current state, if it is named.
    top: Option<String>,
}

/// A part of the disk.
#[derive(Debug)]
pub(super) struct Storage {
    /// Where it begins and ends on the disk, in bytes.
    pub start: u64,
    pub end: u64,
    pub images: Vec<ImageEntry>,
}

/// A file with what a part of the disk has in a snapshot.
#[derive(Debug)]
pub(super) struct ImageEntry {
    /// The snapshot.
    pub guid: String,
    /// Whether it is raw, and not an expanding disk.
    pub is_plain: bool,
    pub file: PathBuf,
}

/// A snapshot, or the current state.
#[derive(Debug)]
pub(super) struct ShotEntry {
    pub guid: String,
    /// The snapshot that it is based on.
    pub parent: Option<String>,
}

/// Returns an identifier in the form in which it is compared: lower case, in braces.
pub(super) fn normalized(guid: &str) -> String {
    let bare = guid.trim().trim_start_matches('{').trim_end_matches('}');
    format!("{{{}}}", bare.to_ascii_lowercase())
}

impl Descriptor {
    /// Reads the text of a descriptor.
    pub(super) fn parse(text: &[u8]) -> Result<Descriptor, Error> {
        let text = match std::str::from_utf8(text) {
            Ok(text) => text,
            Err(e) => return flaw(e.valid_up_to() as u64, "the descriptor is not UTF-8"),
        };
        let root = xml::read(text).or_else(|e| flaw(0, format!("the descriptor is not valid XML: {e}")))?;
        if root.name != "Parallels_disk_image" {
            return flaw(0, format!("not the descriptor of a Parallels disk, but of '{}'", root.name));
        }
        if let Some(version) = root.version.as_deref().filter(|version| *version != "1.0") {
            return flaw(0, format!("unsupported version {version} (only version 1.0 is supported)"));
        }
        let parameters = section(&root, "Disk_Parameters")?;
        if parameters.text_of("Padding").is_some_and(|padding| padding != "0") {
            return Err(Error::bad_image("disk with padding (not supported)").hint(WAY_OUT));
        }
        let encryption = parameters.child("Encryption").and_then(|e| e.text_of("Engine")).unwrap_or_default();
        if !encryption.is_empty() && normalized(encryption) != NONE {
            return Err(Error::bad_image("encrypted disk (not supported)").hint(WAY_OUT));
        }
        if let Some(sector) = parameters.text_of("LogicSectorSize").filter(|sector| *sector != "512") {
            let what = format!("disk with sectors of {sector} bytes (not supported)");
            return Err(Error::bad_image(what).hint(WAY_OUT));
        }
        let physical = parameters.text_of("PhysicalSectorSize").and_then(|text| text.parse().ok());
        let size = sectors(parameters, "Disk_size")?;
        let snapshots = section(&root, "Snapshots")?;
        let top = snapshots.text_of("TopGUID").filter(|guid| !guid.is_empty()).map(normalized);
        let shots = snapshots.all("Shot").map(shot).collect::<Result<Vec<_>, _>>()?;
        let storages =
            section(&root, "StorageData")?.all("Storage").map(storage).collect::<Result<Vec<_>, _>>()?;
        let storages = in_order(storages, size)?;
        Ok(Descriptor { size, physical_sector: physical.unwrap_or(0), storages, shots, top })
    }

    /// Returns the identifier of the current state.
    pub(super) fn top(&self) -> String {
        self.top.clone().unwrap_or_else(|| TOP.into())
    }

    /// Returns the snapshot with this identifier.
    pub(super) fn shot(&self, guid: &str) -> Result<&ShotEntry, Error> {
        let mut found = self.shots.iter().filter(|shot| shot.guid == guid);
        match (found.next(), found.next()) {
            (Some(shot), None) => Ok(shot),
            (None, _) => flaw(0, format!("the descriptor does not list the snapshot {guid}")),
            (Some(_), Some(_)) => flaw(0, format!("the descriptor lists the snapshot {guid} twice")),
        }
    }
}

/// What to do about a disk that is not read.
const WAY_OUT: &str = "in Parallels Desktop, export the machine or copy the disk within it";

/// Returns the part of the descriptor of this name.
fn section<'a>(root: &'a Element, name: &str) -> Result<&'a Element, Error> {
    root.child(name).map_or_else(|| flaw(0, format!("the descriptor has no element {name}")), Ok)
}

/// Returns the number of sectors in an element, in bytes.
fn sectors(element: &Element, name: &str) -> Result<u64, Error> {
    let text = element.text_of(name).unwrap_or_default();
    let bytes = text.parse::<u64>().ok().and_then(|sectors| sectors.checked_mul(SECTOR.into()));
    match bytes.filter(|bytes| i64::try_from(*bytes).is_ok()) {
        Some(bytes) => Ok(bytes),
        None => flaw(0, format!("{name} in the descriptor is not a number of sectors: '{text}'")),
    }
}

fn shot(element: &Element) -> Result<ShotEntry, Error> {
    let Some(guid) = element.text_of("GUID").map(normalized) else {
        return flaw(0, "a snapshot in the descriptor has no identifier");
    };
    let parent = element.text_of("ParentGUID").map(normalized).filter(|guid| guid != NONE);
    Ok(ShotEntry { guid, parent })
}

fn storage(element: &Element) -> Result<Storage, Error> {
    let images = element.all("Image").map(image).collect::<Result<_, _>>()?;
    Ok(Storage { start: sectors(element, "Start")?, end: sectors(element, "End")?, images })
}

fn image(element: &Element) -> Result<ImageEntry, Error> {
    let text = |name: &str| element.text_of(name).unwrap_or_default();
    let is_plain = match text("Type") {
        "Compressed" => false,
        "Plain" => true,
        other => return flaw(0, format!("file of type '{other}' in the descriptor (not supported)")),
    };
    Ok(ImageEntry { guid: normalized(text("GUID")), is_plain, file: text("File").into() })
}

/// Returns the parts in their order on the disk, which they must cover.
fn in_order(mut storages: Vec<Storage>, size: u64) -> Result<Vec<Storage>, Error> {
    storages.sort_by_key(|storage| storage.start);
    let mut end = 0;
    for storage in &storages {
        if storage.start != end || storage.end <= storage.start {
            let what = format!("the parts in the descriptor have a gap or overlap at byte {end} of the disk");
            return flaw(0, what);
        }
        end = storage.end;
    }
    if end != size || size == 0 {
        return flaw(0, format!("the parts in the descriptor have {end} bytes, but the disk has {size}"));
    }
    Ok(storages)
}
