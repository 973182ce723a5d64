//! Parallels disks: an expanding disk in one file (`.hds`, or `.hdd` of older versions), and `.hdd` directories, in
//! which a disk may be split into several files, and have snapshots.
//!
//! Sources: QEMU's docs/interop/parallels.rst and prl-xml.rst, libphdi's documentation of the format, and disks by
//! qemu-img and Parallels Desktop. All numbers are little-endian. In a directory, DiskDescriptor.xml lists the parts of
//! the disk (storages), for each part a file for every snapshot, and which snapshot is based on which.

mod descriptor;
mod shot;
mod sparse;
mod xml;

use std::sync::Arc;

use cdi_base::error::Error;
use cdi_base::units::index;
use descriptor::Descriptor;
use shot::Shot;
use sparse::Sparse;

use super::chain::{Chain, Layer};
use super::named;
use crate::bytes::flaw;
use crate::details::ImageDetails;
use crate::extent::FileNo;
use crate::image::{Format, Image, OpenOptions};
use crate::input::Input;
use crate::metadata::Metadata;

/// Parallels disks.
pub const FORMAT: Format = Format {
    name: "parallels",
    summary: "Parallels disks: .hds files, and .hdd directories with their snapshots",
    integrity: "none: the format has no checksums of the data, so damage cannot be detected",
    suffixes: &["hds"],
    probe: |input| {
        let start = input.bytes(0, index(input.len().min(PROBE_LEN)), "the header").unwrap_or_default();
        is_sparse(&start) || is_descriptor(&start)
    },
    open,
};

/// How many bytes of a file are examined for the first element of a descriptor.
const PROBE_LEN: u64 = 1024;
/// Maximum length of a descriptor in bytes.
const MAX_LEN: u64 = 16 << 20;

/// Checks whether a file with these first bytes is an expanding disk.
fn is_sparse(start: &[u8]) -> bool {
    start.starts_with(sparse::MAGIC) || start.starts_with(sparse::MAGIC_EXT)
}

/// Checks whether a file with these first bytes is a DiskDescriptor.xml.
fn is_descriptor(start: &[u8]) -> bool {
    let element = b"<Parallels_disk_image";
    start.first().is_some_and(|b| matches!(b, b'<' | 0xEF))
        && start.windows(element.len()).any(|w| w == element)
}

fn open(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let start = input.bytes(0, index(input.len().min(PROBE_LEN)), "the header")?;
    if input.is_directory() || is_descriptor(&start) {
        return open_directory(input, options);
    }
    if !is_sparse(&start) {
        let error = Error::bad_image("not an expanding Parallels disk");
        return Err(
            error.hint("a plain one is raw: open the .hdd directory it is in, or specify the raw format")
        );
    }
    if let Some(wanted) = &options.snapshot {
        return Err(named::unknown("snapshot", wanted, [""; 0]));
    }
    let mut details = ImageDetails::default();
    let top = Sparse::open(&input, Input::MAIN, &mut details.warnings)?;
    details.metadata = metadata(top.size(), options);
    Ok(Box::new(Chain { input, top, details }))
}

/// Opens a single expanding disk.
pub(super) fn open_layer(
    input: &Input,
    file: FileNo,
    warnings: &mut Vec<String>,
) -> Result<Box<dyn Layer>, Error> {
    Ok(Box::new(Sparse::open(input, file, warnings)?))
}

/// Opens the disk that a DiskDescriptor.xml describes.
fn open_directory(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    if input.len() > MAX_LEN {
        return flaw(0, format!("the descriptor is too long ({} bytes)", input.len()));
    }
    let text = input.bytes(0, index(input.len()), "the descriptor")?;
    let descriptor = Descriptor::parse(&text).map_err(|e| {
        let hint = "its copy, DiskDescriptor.xml.Backup, may be older, but can be opened in its place";
        if input.is_directory() { e.hint(hint) } else { e }
    })?;
    let (top, chosen) = (descriptor.top(), options.snapshot.as_deref());
    let guid = match chosen {
        None => top.clone(),
        Some(wanted) => {
            let guid = descriptor::normalized(wanted);
            let known = descriptor.shots.iter().any(|shot| shot.guid == guid);
            let names = || descriptor.shots.iter().map(|shot| shot.guid.as_str());
            if known { guid } else { return Err(named::unknown("snapshot", wanted, names())) }
        }
    };
    let mut warnings = Vec::new();
    let shot = Shot::open(&input, &descriptor, &guid, 0, &mut warnings)?;
    let mut metadata = metadata(descriptor.size, options);
    metadata.physical_sector_bytes = descriptor.physical_sector;
    let snapshots: Vec<String> =
        descriptor.shots.iter().map(|shot| shot.guid.clone()).filter(|guid| *guid != top).collect();
    match chosen {
        Some(_) => {
            warnings.push(format!("the disk is shown as it was in the snapshot {guid}"));
            metadata.more.insert("snapshot".into(), guid.into());
        }
        None if snapshots.is_empty() => {}
        None => warnings.push(format!("snapshots in the image (ignored): {}", snapshots.len())),
    }
    if !snapshots.is_empty() {
        metadata.more.insert("snapshots".into(), snapshots.into());
    }
    let details = ImageDetails { metadata, warnings, ..ImageDetails::default() };
    Ok(Box::new(Chain { input, top: shot, details }))
}

fn metadata(size: u64, options: &OpenOptions) -> Metadata {
    Metadata {
        size_bytes: size,
        logical_sector_bytes: options.sector_size.unwrap_or(512),
        ..Metadata::default()
    }
}
