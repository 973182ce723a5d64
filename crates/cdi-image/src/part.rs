//! A part of a disk, such as a partition, as a disk of its own.

use std::ops::Range;

use cdi_base::error::{Error, Flaw, ReadError};
use serde_json::json;

use crate::badmap::{BadBlocks, BadRange};
use crate::details::ImageDetails;
use crate::extent::Extent;
use crate::image::{CheckCancelled, Each, Image, Opened, SealCheck};
use crate::metadata::Metadata;

/// The name of the metadata entry that says where on the disk a part is: an object with `offset_bytes` and
/// `size_bytes`.
pub const PART_OF_DISK: &str = "part_of_disk";

struct Part {
    image: Box<dyn Image>,
    start: u64,
    size: u64,
    details: ImageDetails,
}

/// Returns the whole of an image, with other details.
pub(crate) fn with_details(image: Box<dyn Image>, details: ImageDetails) -> Box<dyn Image> {
    Box::new(Part { start: 0, size: image.size(), image, details })
}

impl Opened {
    /// Returns the part `range` of the disk, in bytes, as a disk of its own, with the bad sectors in that range.
    /// Hashes of the whole disk are left out.
    ///
    /// # Errors
    ///
    /// [`Kind::Usage`](cdi_base::error::Kind::Usage) if the range is empty, does not begin at a sector boundary, or
    /// is not within the disk.
    pub fn part(self, range: Range<u64>) -> Result<Opened, Error> {
        let Opened { image, input, format } = self;
        let wrong = |what: String| Err(Error::usage(what).at(input.path()));
        let sector = u64::from(image.metadata().logical_sector_bytes.max(512));
        if range.is_empty() || range.end > image.size() {
            let size = image.size();
            return wrong(if range.start >= size {
                format!("byte {} is after the end of the disk, which has {size} bytes", range.start)
            } else if range.is_empty() {
                "the part of the disk is empty".into()
            } else {
                format!("the part ends at byte {}, but the disk has {size} bytes", range.end)
            });
        }
        if !range.start.is_multiple_of(sector) {
            return wrong(format!("byte {} is not the start of a sector of {sector} bytes", range.start));
        }
        let (start, size) = (range.start, range.end - range.start);
        let whole = image.details();
        let bad = whole.bad.touching(range.clone()).iter().map(|r| {
            let cut = r.cut(r.start.max(start)..r.end.min(range.end));
            BadRange { start: cut.start - start, end: cut.end - start, ..cut }
        });
        let lost = whole.lost.iter().filter_map(|r| {
            let (from, to) = (r.start.max(start), r.end.min(range.end));
            (from < to).then(|| from - start..to - start)
        });
        let mut metadata = Metadata {
            size_bytes: size,
            blake3_rescued: None,
            sha256_zero_filled: None,
            ..whole.metadata.clone()
        };
        metadata.more.retain(|name, _| !name.ends_with("_zero_filled") && !name.ends_with("_stored"));
        metadata.more.insert(PART_OF_DISK.into(), json!({ "offset_bytes": start, "size_bytes": size }));
        let details = ImageDetails {
            metadata,
            warnings: whole.warnings.clone(),
            bad: BadBlocks::from_ordered(bad.collect()),
            stored_hashes: Vec::new(),
            incomplete: whole.incomplete,
            lost: lost.collect(),
            packed: whole.packed.clone(),
        };
        Ok(Opened { image: Box::new(Part { image, start, size, details }), input, format })
    }
}

impl Image for Part {
    fn size(&self) -> u64 {
        self.size
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        let extent = self.image.map(offset + self.start)?.cut(self.start, self.start + self.size);
        Ok(Extent { disk: extent.disk.start - self.start..extent.disk.end - self.start, ..extent })
    }

    fn mark(&self) -> Option<&[u8]> {
        // Sectors of a part that does not begin with one are not the disk's.
        self.image.mark().filter(|mark| self.start.is_multiple_of(mark.len() as u64))
    }

    fn details(&self) -> &ImageDetails {
        &self.details
    }

    fn warm(&self) {
        self.image.warm();
    }

    fn events(&self, each: &mut Each<'_>, check_cancelled: &mut CheckCancelled<'_>) -> Result<(), Error> {
        self.image.events(each, check_cancelled)
    }

    fn seal(&self, check_cancelled: &mut CheckCancelled<'_>) -> Result<SealCheck, Error> {
        let check = self.image.seal(check_cancelled)?;
        // The digest is that of the whole disk.
        let no_digest = check.no_digest.or(check.digest.as_ref().map(|_| "only a part of the disk is open"));
        Ok(SealCheck { digest: None, no_digest, ..check })
    }

    fn check(
        &self,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        self.image.check(report, check_cancelled)
    }
}
