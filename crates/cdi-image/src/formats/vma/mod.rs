//! Proxmox's backup archives (`.vma`): the disks of a virtual machine, without what is zeros in them.
//!
//! Sources: Proxmox's vma_spec.txt, its reader and writer (pve-qemu, vma-reader.c and vma-writer.c), and a part of an
//! archive by Proxmox. Numbers are big-endian, but for the lengths of texts. A header names the disks; then extents
//! follow, each with a header of 512 bytes that lists up to 59 clusters of 64 KiB, of any disk and in any order, and
//! which of their blocks of 4 KiB are stored after it. Every cluster of a disk is listed once, also if it is zeros: one
//! that is not listed is lost. The checksums are of the headers only.

mod extents;
mod header;
mod index;

use std::sync::Arc;

use cdi_base::advice::Advice;
use cdi_base::error::{Error, ReadError};
use cdi_base::units::human;
use extents::{BLOCK, CLUSTER, ExtentHeader};
use header::{Device, Header};
use index::Index;

use super::chain::zeros;
use super::named;
use crate::badmap::{BadBlocks, BadRange, Status};
use crate::details::ImageDetails;
use crate::extent::{Extent, Origin};
use crate::image::{Format, Image, OpenOptions};
use crate::input::Input;
use crate::metadata::{Metadata, rfc3339};

/// Proxmox's backup archives.
pub const FORMAT: Format = Format {
    name: "vma",
    summary: "Proxmox's backup archives (VMA), with one or more disks",
    integrity: "MD5 of the headers; none of the data, whose damage cannot be detected",
    suffixes: &["vma"],
    probe: |input| input.bytes(0, header::MAGIC.len(), "the header").is_ok_and(|b| b == header::MAGIC),
    open,
};

struct Vma {
    input: Arc<Input>,
    size: u64,
    device: u8,
    header: Header,
    index: Index,
    details: ImageDetails,
}

fn open(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let header = Header::read(&input)?;
    let Device { id, name, size } = choose(&header, options.member.as_deref())?.clone();
    let index = Index::build(&input, &header, id, size)?;
    let mut details = ImageDetails { warnings: index.warnings.clone(), ..ImageDetails::default() };
    details.lost = index.lost(size)?;
    details.metadata = Metadata {
        size_bytes: size,
        logical_sector_bytes: options.sector_size.unwrap_or(512),
        created: Some(rfc3339(header.created)),
        ..Metadata::default()
    };
    let names: Vec<_> = header.disks().map(|device| device.name.clone()).collect();
    details.metadata.more.insert("members".into(), names.into());
    details.metadata.more.insert("member".into(), name.into());
    if let Some(first) = details.lost.first() {
        let bytes: u64 = details.lost.iter().map(|r| r.end - r.start).sum();
        details.warnings.push(format!(
            "{} of the disk are not in the archive, the first of it at byte {} of the disk: the archive is truncated \
             or damaged",
            human(bytes),
            first.start
        ));
        let ranges = details.lost.iter().map(|range| BadRange::new(range.clone(), Status::Bad));
        details.bad = BadBlocks::from_unsorted(ranges);
    }
    Ok(Box::new(Vma { input, size, device: id, header, index, details }))
}

/// Returns the disk that is meant: the one of this name, or the only one.
fn choose<'a>(header: &'a Header, wanted: Option<&str>) -> Result<&'a Device, Error> {
    let names = || header.disks().map(|device| device.name.as_str());
    let fits = |device: &&Device| wanted.is_none_or(|name| device.name == name);
    let found: Vec<_> = header.disks().filter(fits).collect();
    match (found.as_slice(), wanted) {
        ([one], _) => Ok(*one),
        ([], Some(name)) => Err(named::unknown("disk", name, names())),
        ([], None) => Err(Error::bad_image("the archive contains no disk")),
        (_, Some(name)) => Err(Error::bad_image(format!("the archive has more than one disk '{name}'"))),
        (_, None) => {
            let what = format!("the archive contains several disks: {}", named::list(names()));
            Err(Error::usage(what).hint(Advice::ChooseMember))
        }
    }
}

impl Image for Vma {
    fn size(&self) -> u64 {
        self.size
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        let cluster = u32::try_from(offset / CLUSTER).map_err(|_| ReadError::Unmapped { offset })?;
        let Some(at) = self.index.extent_with(cluster) else {
            let start = u64::from(cluster) * CLUSTER;
            return Ok(Extent { disk: start..self.size.min(start + CLUSTER), origin: Origin::Unread });
        };
        let header = ExtentHeader::read(&self.input, &self.header.uuid, at)?;
        let header = header.ok_or(ReadError::Corrupt { at })?;
        let start = offset / BLOCK * BLOCK;
        let (stored_at, blocks) = header.run(self.device, offset / BLOCK).ok_or(ReadError::Corrupt { at })?;
        let end = start + blocks * BLOCK;
        let disk = start..end.min(self.size);
        Ok(match stored_at {
            None => zeros(disk.start, disk.end),
            Some(at) if at + (disk.end - disk.start) <= self.input.len() => {
                Extent { disk, origin: Origin::Stored { file: Input::MAIN, at } }
            }
            // The archive ends within this run.
            Some(at) => match self.input.len().saturating_sub(at) / BLOCK * BLOCK {
                held if offset - start < held => {
                    Extent { disk: start..start + held, origin: Origin::Stored { file: Input::MAIN, at } }
                }
                held => Extent { disk: start + held..disk.end, origin: Origin::Unread },
            },
        })
    }

    fn details(&self) -> &ImageDetails {
        &self.details
    }
}
