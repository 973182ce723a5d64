//! Directories by Clonezilla: the partition table of a disk, and an image of each partition by partclone, compressed and
//! in pieces. The whole disk is put together from them.
//!
//! Sources: Clonezilla's scripts (ocs-sr, ocs-functions), as to which file contains what, and directories that users have
//! listed. Swap space, what is between partitions, and the contents of physical volumes of LVM are not in a directory.

mod folder;
mod partitions;
mod sectors;
mod table;

use std::ops::Range;
use std::sync::Arc;

use cdi_base::advice::Advice;
use cdi_base::error::{Error, Flaw, ReadError};
use cdi_base::units::{SECTOR, plural};
use folder::Folder;
use sectors::{Gpt, boot_records};
use table::{Partition, Table};

use super::partclone;
use crate::details::ImageDetails;
use crate::extent::{Extent, FileNo, Origin};
use crate::image::{CheckCancelled, Format, Image, OpenOptions};
use crate::input::{CLONEZILLA, Input};
use crate::metadata::Metadata;

/// Directories by Clonezilla.
pub const FORMAT: Format = Format {
    name: "clonezilla",
    summary: "directories by Clonezilla and Rescuezilla: the whole disk, or one partition",
    integrity: "what the images of the partitions have",
    suffixes: &[],
    probe: |input| input.list() == Some(CLONEZILLA) && Folder::new(input).is_ok_and(|folder| folder.is_one()),
    open,
};

/// The length of the first copy of a GPT in its file, in bytes.
const GPT_START: u64 = 34 * 512;

/// What a part of the disk consists of.
enum Source {
    /// A file, from its start.
    File(FileNo),
    /// The image of a partition.
    Partition(Box<partclone::Partition>),
}

/// A part of the disk, in bytes.
struct Part {
    disk: Range<u64>,
    source: Source,
}

struct Clonezilla {
    input: Arc<Input>,
    size: u64,
    /// In order, and apart from each other. Between them there are zeros.
    parts: Vec<Part>,
    details: ImageDetails,
}

fn open(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let folder = Folder::new(&input)?;
    if !folder.is_one() {
        return Err(Error::bad_image("not a directory by Clonezilla: there is no partition table in it"));
    }
    refuse_encrypted(&folder)?;
    let disks = folder.disks();
    let imaged = folder.imaged();
    let mut image = Clonezilla {
        input: Arc::clone(&input),
        size: 0,
        parts: Vec::new(),
        details: ImageDetails::default(),
    };
    let metadata = &mut image.details.metadata;
    metadata.tool = folder.text("clonezilla-img")?.and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("Saved by "))?;
        Some(format!("Clonezilla ({})", line.trim_end_matches('.')))
    });
    metadata.more.insert("disks".into(), disks.clone().into());
    metadata.more.insert("images".into(), imaged.clone().into());
    match (&options.member, disks.as_slice()) {
        (Some(name), _) if disks.contains(name) => image.open_disk(&folder, name, options)?,
        (Some(name), _) if imaged.contains(name) => image.open_partition(&folder, name, options)?,
        (Some(name), _) => {
            let all = [disks, imaged].concat().join(", ");
            return Err(Error::usage(format!("there is no disk or partition '{name}'; there are: {all}")));
        }
        (None, [disk]) => image.open_disk(&folder, disk, options)?,
        (None, _) => {
            let what =
                format!("the directory holds {}: {}", plural(disks.len() as u64, "disk"), disks.join(", "));
            return Err(Error::usage(what).hint(Advice::ChooseMember));
        }
    }
    Ok(Box::new(image))
}

/// Refuses directories whose files are encrypted. Their names are not.
fn refuse_encrypted(folder: &Folder<'_>) -> Result<(), Error> {
    for (mark, program) in [("ecryptfs.info", "eCryptfs"), ("gocryptfs.info", "gocryptfs")] {
        // A decrypted copy still has the mark.
        let is_text =
            || folder.bytes("clonezilla-img", 512).map(|start| start.is_some_and(|start| start.is_ascii()));
        if folder.has(mark) && !is_text()? {
            return Err(Error::bad_image(format!("the directory is encrypted by {program} (not supported)"))
                .hint("mount it with the passphrase (ocs-decrypt-img does), and open what is mounted"));
        }
    }
    Ok(())
}

impl Clonezilla {
    /// Puts a whole disk together.
    fn open_disk(&mut self, folder: &Folder<'_>, disk: &str, options: &OpenOptions) -> Result<(), Error> {
        let text = |end: &str| folder.text(&format!("{disk}{end}"));
        let table = Table::parse(disk, text("-pt.sf")?.as_deref(), text("-pt.parted")?.as_deref());
        // A file system without a partition table.
        if table.partitions.is_empty() && folder.partition(disk).is_some() {
            return self.open_partition(folder, disk, options);
        }
        let sector = options.sector_size.or(table.sector).unwrap_or(SECTOR);
        if !sector.is_power_of_two() || !(512..=65_536).contains(&sector) {
            return Err(Error::bad_image(format!("invalid sector size of the disk {disk}: {sector} bytes")));
        }
        let sector = u64::from(sector);
        let start = match folder.bytes(&format!("{disk}-gpt-1st"), GPT_START)? {
            Some(start) if table.is_gpt => start,
            _ => folder.bytes(&format!("{disk}-mbr"), 512)?.unwrap_or_default(),
        };
        let gpt = Gpt::find(&start, sector).filter(|_| table.is_gpt);
        let ends = table.partitions.iter().map(|p| p.start.saturating_add(p.len)).max().unwrap_or(0);
        let sectors = table.sectors.or(gpt.as_ref().map(Gpt::sectors)).unwrap_or(0).max(ends);
        self.size = sectors
            .checked_mul(sector)
            .filter(|size| *size > 0 && i64::try_from(*size).is_ok())
            .ok_or_else(|| {
                Error::bad_image(format!(
                    "the size of the disk {disk} is not recorded, or invalid: {sectors} sectors (it is in \
                     {disk}-pt.sf and {disk}-pt.parted); single partitions can be opened by their names"
                ))
            })?;
        self.details.metadata = Metadata {
            size_bytes: self.size,
            logical_sector_bytes: u32::try_from(sector).unwrap_or(SECTOR),
            model: table.model.clone(),
            source: Some(format!("/dev/{disk}")),
            ..std::mem::take(&mut self.details.metadata)
        };
        // What was saved comes before what is made from it.
        self.add_partitions(folder, &table, sector, options)?;
        if start.get(510..512) != Some(&[0x55, 0xAA]) {
            let what = if start.is_empty() { "is missing" } else { "is damaged, or not all of it is there" };
            let name = if table.is_gpt && start.len() > 512 { "gpt-1st" } else { "mbr" };
            self.details
                .warnings
                .push(format!("{disk}-{name} {what}: the first sector of the disk is wrong"));
            self.details.incomplete = true;
        }
        self.add_made(vec![(0, start)])?;
        match &gpt {
            Some(gpt) => self.add_made(gpt.backup(sector))?,
            None if table.is_gpt => {
                self.details.warnings.push(format!(
                    "{disk}-gpt-1st is missing, damaged or incomplete: the disk has no second copy of its partition \
                     table, and the first is not right"
                ));
                self.details.incomplete = true;
            }
            None => self.add_boot_records(folder, &table, sector)?,
        }
        // Data after the MBR, such as a boot loader; it must not cover a partition.
        let after = format!("{disk}-hidden-data-after-mbr");
        if let (false, Some(file)) = (table.is_gpt, folder.file(&after)?) {
            let free = self
                .parts
                .iter()
                .map(|part| part.disk.start)
                .filter(|start| *start >= 512)
                .min()
                .unwrap_or(self.size);
            let end = (512 + self.input.len_of(file)).min(free);
            self.add(512..end, Source::File(file));
        }
        Ok(())
    }

    /// Makes one partition, or a logical volume, the disk.
    fn open_partition(
        &mut self,
        folder: &Folder<'_>,
        name: &str,
        options: &OpenOptions,
    ) -> Result<(), Error> {
        let files =
            folder.partition(name).ok_or_else(|| Error::bad_image(format!("'{name}' has no image")))?;
        let (source, details, size) = self.open_files(folder, &files, options)?;
        self.size = size;
        let metadata = Metadata {
            size_bytes: size,
            logical_sector_bytes: options.sector_size.unwrap_or(SECTOR),
            source: Some(format!("/dev/{name}")),
            ..std::mem::take(&mut self.details.metadata)
        };
        self.details = ImageDetails { metadata, ..details };
        self.add(0..size, source);
        Ok(())
    }

    /// Adds sectors that are in memory: they become a file of the image.
    fn add_made(&mut self, made: Vec<sectors::Made>) -> Result<(), Error> {
        for (at, bytes) in made {
            if at >= self.size || bytes.is_empty() {
                continue;
            }
            // As far as no partition is in the way.
            let next = self.parts.iter().map(|part| part.disk.start).filter(|start| *start >= at).min();
            let end = self.size.min(at + bytes.len() as u64).min(next.unwrap_or(u64::MAX));
            let file = self.input.derive(Arc::new(bytes), self.input.path())?;
            self.add(at..end, Source::File(file));
        }
        Ok(())
    }

    /// Adds a part of the disk, unless something else is there. Returns whether it was added.
    fn add(&mut self, disk: Range<u64>, source: Source) -> bool {
        let at = self.parts.partition_point(|part| part.disk.start < disk.start);
        let before = at.checked_sub(1).map_or(0, |before| self.parts[before].disk.end);
        let after = self.parts.get(at).map_or(u64::MAX, |next| next.disk.start);
        let is_free = disk.start >= before && disk.end <= after;
        if is_free && !disk.is_empty() {
            self.parts.insert(at, Part { disk, source });
        }
        is_free
    }

    /// Adds the extended boot records of a disk with an MBR.
    fn add_boot_records(&mut self, folder: &Folder<'_>, table: &Table, sector: u64) -> Result<(), Error> {
        let Some(extended) = table.partitions.iter().find(|p| p.number < 5 && p.is_extended()) else {
            return Ok(());
        };
        let mut logical: Vec<&Partition> = table.partitions.iter().filter(|p| p.number > 4).collect();
        logical.sort_by_key(|p| p.number);
        let first =
            folder.bytes(&format!("{}-ebr", extended.name), 512)?.filter(|record| record.len() == 512);
        let made = boot_records(extended, &logical, first.as_deref(), sector);
        if made.len() < logical.len() {
            let missing = plural((logical.len() - made.len()) as u64, "logical partition");
            self.details.warnings.push(format!("there is no room for the boot records of {missing}"));
        } else if logical.len() > 1 || first.is_none() {
            self.details.metadata.notes.push(
                "the boot records of logical partitions are not in the directory, and were made from its partition table"
                    .into(),
            );
        }
        self.add_made(made)
    }
}

impl Image for Clonezilla {
    fn size(&self) -> u64 {
        self.size
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        let next = self.parts.partition_point(|part| part.disk.start <= offset);
        let part = next.checked_sub(1).map(|n| &self.parts[n]).filter(|part| offset < part.disk.end);
        let Some(Part { disk, source }) = part else {
            let end = self.parts.get(next).map_or(self.size, |part| part.disk.start);
            return Ok(Extent { disk: offset..end, origin: Origin::Fill([0; 8]) });
        };
        match source {
            Source::File(file) => {
                let origin = Origin::Stored { file: *file, at: offset - disk.start };
                Ok(Extent { disk: offset..disk.end, origin })
            }
            Source::Partition(partition) => {
                let extent = partition.map(&self.input, offset - disk.start)?;
                let moved = extent.disk.start + disk.start..extent.disk.end + disk.start;
                Ok(Extent { disk: moved, ..extent }.cut(disk.start, disk.end))
            }
        }
    }

    fn details(&self) -> &ImageDetails {
        &self.details
    }

    fn check(
        &self,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        for part in &self.parts {
            if let Source::Partition(partition) = &part.source {
                partition.check(&self.input, report, check_cancelled)?;
            }
        }
        Ok(())
    }

    fn mark(&self) -> Option<&[u8]> {
        Some(&partclone::MARK)
    }
}
