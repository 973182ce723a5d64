//! The partitions of a disk: their images, and what is known about them.

use std::ops::Range;
use std::sync::Arc;

use cdi_base::error::{Error, Kind as ErrorKind};
use cdi_base::units::human;

use super::folder::{Folder, Kind, PartitionFiles};
use super::table::{Partition, Table, file_name};
use super::{Clonezilla, Source};
use crate::badmap::{BadRange, Status};
use crate::details::ImageDetails;
use crate::formats::partclone;
use crate::image::OpenOptions;
use crate::packed::{self, Packing};

impl Clonezilla {
    /// Adds the partitions that have an image, and notes which have none.
    pub(super) fn add_partitions(
        &mut self,
        folder: &Folder<'_>,
        table: &Table,
        sector: u64,
        options: &OpenOptions,
    ) -> Result<(), Error> {
        let mut unused = 0;
        let mut first_error = None;
        let mut opened = 0;
        for partition in table.partitions.iter().filter(|p| !p.is_extended()) {
            let bytes = |sectors: u64| sectors.checked_mul(sector);
            let range = bytes(partition.start).zip(bytes(partition.start.saturating_add(partition.len)));
            let Some((start, end)) = range.filter(|(_, end)| *end <= self.size) else {
                let name = &partition.name;
                return Err(Error::bad_image(format!(
                    "the partition {name} extends past the end of the disk"
                )));
            };
            let Some(files) = folder.partition(&partition.name) else {
                self.without_image(folder, partition, start..end)?;
                continue;
            };
            match self.open_files(folder, &files, options) {
                Ok((source, details, size)) => {
                    opened += 1;
                    let len = size.min(end - start);
                    if size > end - start {
                        self.details.warnings.push(format!(
                            "{}: the image has {}, but the partition {}: the rest is left out",
                            partition.name,
                            human(size),
                            human(end - start)
                        ));
                    }
                    if let Source::Partition(partition) = &source {
                        unused += partition.unused();
                    }
                    self.take_in(&partition.name, details, start, len);
                    let is_raw = matches!(source, Source::File(_));
                    if !self.add(start..start + len, source) {
                        self.details
                            .warnings
                            .push(format!("{}: overlaps another partition, and is left out", partition.name));
                        self.lose(start..end);
                    } else if is_raw && len < end - start {
                        self.details.warnings.push(format!(
                            "{}: the image ends {} before the partition does",
                            partition.name,
                            human(end - start - len)
                        ));
                        self.lose(start + len..end);
                    }
                }
                Err(e) if e.kind == ErrorKind::Interrupted => return Err(e),
                // The others can be read.
                Err(e) => {
                    self.details.warnings.push(format!("{}: cannot be read: {e:#}", partition.name));
                    self.lose(start..end);
                    first_error.get_or_insert(e);
                }
            }
        }
        self.details.lost.sort_by_key(|range| range.start);
        if let (0, Some(e)) = (opened, first_error) {
            return Err(e);
        }
        if unused > 0 {
            self.details.metadata.notes.push(format!(
                "{} of the partitions were not in use, and are not in the directory, nor is what is between partitions: \
                 they read as zeros",
                human(unused)
            ));
        }
        Ok(())
    }

    /// Marks a range of the disk as lost.
    fn lose(&mut self, range: Range<u64>) {
        self.details.incomplete = true;
        self.details.bad.apply(&[BadRange::new(range.clone(), Status::Bad)]);
        self.details.lost.push(range);
    }

    /// Notes that a partition has no image.
    fn without_image(
        &mut self,
        folder: &Folder<'_>,
        partition: &Partition,
        range: Range<u64>,
    ) -> Result<(), Error> {
        let name = &partition.name;
        if folder.has(&format!("swappt-{}.info", file_name(name))) {
            let what = format!("{name}: swap space, whose contents are not saved: it reads as zeros");
            self.details.metadata.notes.push(what);
            return Ok(());
        }
        let what = match folder.contents_elsewhere(name)? {
            Some(what) => what,
            None if folder.saved()?.contains(&file_name(name)) => {
                self.details.warnings.push(format!("{name}: its image is missing in the directory"));
                self.lose(range);
                return Ok(());
            }
            None => "was not saved",
        };
        self.details.warnings.push(format!("{name}: {what}: reads of it fail"));
        self.details.bad.apply(&[BadRange::new(range, Status::NonTried)]);
        Ok(())
    }

    /// Takes over what is known about the image of a partition that begins at `start` and has `len` bytes.
    fn take_in(&mut self, name: &str, details: ImageDetails, start: u64, len: u64) {
        let moved = |range: &Range<u64>| range.start.min(len) + start..range.end.min(len) + start;
        let on_disk = |bad: &BadRange| {
            let Range { start, end } = moved(&(bad.start..bad.end));
            BadRange { start, end, ..*bad }
        };
        let bad: Vec<_> = details.bad.ranges().iter().map(on_disk).filter(|bad| !bad.is_empty()).collect();
        self.details.bad.apply(&bad);
        self.details.lost.extend(details.lost.iter().map(moved).filter(|range| !range.is_empty()));
        self.details.incomplete |= details.incomplete;
        self.details.packed.extend(details.packed);
        self.details
            .warnings
            .extend(details.warnings.into_iter().map(|warning| format!("{name}: {warning}")));
    }

    /// Opens the image of a partition. Returns what it consists of, what is known about it, and its size in bytes.
    pub(super) fn open_files(
        &self,
        folder: &Folder<'_>,
        files: &PartitionFiles,
        options: &OpenOptions,
    ) -> Result<(Source, ImageDetails, u64), Error> {
        let name = files.names.first().map_or("", String::as_str);
        let path = folder.path(name);
        if let Some(missing) = &files.missing {
            return Err(Error::bad_image(format!("the piece '{missing}' is missing")).at(&path));
        }
        let mut numbers = Vec::new();
        for name in &files.names {
            let file = folder.file(name)?;
            numbers.push(file.ok_or_else(|| Error::bad_image("cannot be found").at(&folder.path(name)))?);
        }
        let lens: Vec<u64> = numbers.iter().map(|number| self.input.len_of(*number)).collect();
        if lens.iter().rev().skip(1).any(|len| *len != lens[0]) || lens.last() > lens.first() {
            return Err(Error::bad_image("its pieces do not have the same length").at(&path));
        }
        let joined = self.input.joined(&numbers);
        let mut start = [0; 16];
        let read = joined.read_at(&mut start, 0).map_err(|e| Error::io("cannot read", &path, e))?;
        let file = match Packing::of(&start[..read]) {
            Some(packing) => {
                let unpacked = packed::unpack(&self.input, &numbers, packing, options.indexes.as_deref())?;
                self.input.derive(Arc::new(unpacked), &path)?
            }
            None => self.input.derive(joined, &path)?,
        };
        let mut details = ImageDetails::default();
        match files.kind {
            Kind::Partclone => {
                let partition =
                    partclone::Partition::open(&self.input, file, &mut details).map_err(|e| e.at(&path))?;
                let size = partition.size();
                Ok((Source::Partition(Box::new(partition)), details, size))
            }
            Kind::Raw => {
                if let Some(packed) = self.input.packed_of(file) {
                    details.add_damage(&packed, self.input.len_of(file), |range| vec![range]);
                }
                Ok((Source::File(file), details, self.input.len_of(file)))
            }
            Kind::Other(program) => {
                Err(Error::bad_image(format!("an image by {program} (not supported)")).at(&path))
            }
        }
    }
}
