//! partclone's images, as made by Clonezilla: the used blocks of one partition.
//!
//! Sources: partclone, IMAGE_FORMATS.md, and where that is silent or differs, its source (partclone.h, checksum.h,
//! partclone.c). All numbers are little-endian. A header is followed by a bitmap of the blocks, and by the blocks that are
//! in use, in strips with a checksum each. partclone's CRC-32 is not inverted at the end.
//!
//! Sectors that `partclone --rescue` could not read contain a text (`MARK`); nothing else says which they are.

mod blocks;
mod header;
mod sums;

use std::ops::Range;
use std::sync::Arc;

use blocks::Blocks;
use cdi_base::error::{Error, Flaw, ReadError};
use cdi_base::units::{SECTOR, human, index};
use header::{Checksum, Header, MAGIC};

use crate::badmap::{BadRange, Status};
use crate::bytes::{le32, le64};
use crate::codec::{Codec, Sum, crc32_state};
use crate::details::ImageDetails;
use crate::extent::{CompressedChunk, Extent, FileNo, MAX_CHUNK, Origin};
use crate::image::{CheckCancelled, Format, Image, OpenOptions};
use crate::input::Input;
use crate::metadata::Metadata;

/// partclone's images.
pub const FORMAT: Format = Format {
    name: "partclone",
    summary: "partclone's images of partitions, versions 0001 and 0002",
    integrity: "CRC-32, XXH64 or XXH128 of each strip of blocks, unless partclone was run with -a0",
    suffixes: &[],
    probe: |input| input.bytes(0, MAGIC.len(), "the header").is_ok_and(|bytes| bytes == MAGIC),
    open,
};

/// What a sector contains that partclone could not read.
pub(super) const MARK: [u8; SECTOR as usize] = {
    let mut mark = [b'?'; SECTOR as usize];
    let text = b"BADSECTOR\0";
    let mut n = 0;
    while n < text.len() {
        mark[n] = text[n];
        n += 1;
    }
    mark
};

/// The maximum number of ranges of the disk that are listed as lost one by one.
const MAX_LOST: usize = 1 << 20;

/// A partition, as far as it is in an image.
pub(super) struct Partition {
    file: FileNo,
    header: Header,
    blocks: Blocks,
    /// The offset of the first block in the file, in bytes.
    data: u64,
    /// Where the file ends, in bytes.
    end: u64,
    /// Whether every read of the file is checked already, because it is packed and what is in it was right as a whole.
    is_checked: bool,
}

impl Partition {
    /// Opens the image in `file`. Adds to `details` what is known about it.
    pub(super) fn open(input: &Input, file: FileNo, details: &mut ImageDetails) -> Result<Partition, Error> {
        let header = Header::read(input, file)?;
        let blocks = Blocks::open(input, file, &header)?;
        let data = header.len + header.bitmap.stored_len(header.blocks);
        let is_checked =
            input.packed_of(file).is_some_and(|packed| packed.suspect.is_empty() && packed.is_checked);
        let mut partition = Partition { file, header, blocks, data, end: input.len_of(file), is_checked };
        partition.find_old_checksums(input)?;
        partition.find_lost(input, details)?;
        Ok(partition)
    }

    /// Returns the size of the partition in bytes.
    pub(super) fn size(&self) -> u64 {
        self.header.size
    }

    /// Returns how much of the partition was not in use and is not in the image, in bytes.
    pub(super) fn unused(&self) -> u64 {
        self.header.size - self.blocks.marked() * self.header.block
    }

    /// Returns the name of the file system, as partclone has it.
    pub(super) fn file_system(&self) -> &str {
        &self.header.file_system
    }

    /// Returns the program that made the image.
    pub(super) fn tool(&self) -> &str {
        &self.header.tool
    }

    /// Returns the length of a strip with its checksum, in bytes.
    fn strip_len(&self) -> u64 {
        (self.header.per_checksum.saturating_mul(self.header.block))
            .saturating_add(self.header.checksum.len())
    }

    /// Finds out how long the checksums of version 0001 are: some programs on 64-bit machines wrote four bytes too many.
    fn find_old_checksums(&mut self, input: &Input) -> Result<(), Error> {
        let Checksum::Old(_) = self.header.checksum else { return Ok(()) };
        let mut fits = [true; 2];
        for (fits, len) in fits.iter_mut().zip([4, 8]) {
            self.header.checksum = Checksum::Old(len);
            for number in 0..self.blocks.marked().min(16) {
                match self.old_checksum_is_right(input, number) {
                    Ok(right) => *fits &= right,
                    // What is missing is found later.
                    Err(ReadError::Corrupt { .. }) => break,
                    Err(e) => return Err(Error::failed("cannot read the first blocks").because(e)),
                }
            }
        }
        self.header.checksum = Checksum::Old(if fits == [false, true] { 8 } else { 4 });
        Ok(())
    }

    /// Checks a block of version 0001. Its checksum continues the one before, and is of its first byte, repeated.
    fn old_checksum_is_right(&self, input: &Input, number: u64) -> Result<bool, ReadError> {
        let at = self.data + number * self.strip_len();
        let read = |at: u64| {
            let mut bytes = [0; 4];
            input.read_exact_at(self.file, &mut bytes, at).map(|()| bytes)
        };
        let before = match number {
            0 => u32::MAX,
            _ => u32::from_le_bytes(read(at - self.header.checksum.len())?),
        };
        let [first, ..] = read(at)?;
        let block = vec![first; index(self.header.block)];
        Ok(crc32_state(before, &block) == u32::from_le_bytes(read(at + self.header.block)?))
    }

    /// Finds what the file does not contain, because it is too short or could not be unpacked.
    fn find_lost(&self, input: &Input, details: &mut ImageDetails) -> Result<(), Error> {
        let mut missing: Vec<Range<u64>> = Vec::new();
        if let Some(packed) = input.packed_of(self.file) {
            details.packed.push(packed.clone());
            details.warnings.extend(packed.warnings.iter().cloned());
            missing.extend(packed.lost.iter().cloned());
            // The checksums of strips find what is wrong in a part whose own checksum is. Without them, nothing does.
            if !self.is_verified_when_read() {
                for range in &packed.suspect {
                    let places = self.on_disk(input, range)?;
                    details.incomplete = true;
                    details.bad.apply(&ranges(&places, Status::Suspect));
                }
            }
        }
        let end = self.data + self.offset_of(self.blocks.marked());
        if self.end < end {
            details.incomplete = true;
            details
                .warnings
                .push(format!("the image is truncated: {} of its blocks are missing", human(end - self.end)));
            // Of a strip without its checksum, the blocks that are there may be right.
            let per = self.header.per_checksum;
            let strip = self.end.saturating_sub(self.data) / self.strip_len();
            let first = strip.saturating_mul(per);
            let there = self.end.saturating_sub(self.data + strip * self.strip_len()) / self.header.block;
            let there = first.saturating_add(there.min(per)).min(self.blocks.marked());
            if self.header.checksum != Checksum::None {
                details.bad.apply(&ranges(&self.places(input, first..there)?, Status::Suspect));
            }
            let places = self.places(input, there..self.blocks.marked())?;
            details.bad.apply(&ranges(&places, Status::Bad));
            details.lost.extend(places);
        }
        for range in &missing {
            let places = self.on_disk(input, range)?;
            details.bad.apply(&ranges(&places, Status::Bad));
            details.lost.extend(places);
        }
        details.incomplete |= !missing.is_empty();
        Ok(())
    }

    /// Returns whether the checksum of a strip is checked when a block of it is read.
    fn is_verified_when_read(&self) -> bool {
        let Header { block, per_checksum: per, checksum, reseed, .. } = self.header;
        match checksum {
            Checksum::None | Checksum::Old(_) => false,
            Checksum::Crc32 => per.saturating_mul(block) <= u64::from(MAX_CHUNK),
            _ => reseed && per.saturating_mul(block) <= u64::from(MAX_CHUNK),
        }
    }

    /// Returns where the strips are on the disk that touch this range of the file, in bytes.
    fn on_disk(&self, input: &Input, range: &Range<u64>) -> Result<Vec<Range<u64>>, Error> {
        let strip = |at: u64| at.saturating_sub(self.data) / self.strip_len();
        let per = self.header.per_checksum;
        let marked = self.blocks.marked();
        let numbers = match self.header.checksum {
            // Without strips, each block stands for itself.
            Checksum::None => {
                let block = |at: u64| at.saturating_sub(self.data) / self.header.block;
                block(range.start)..block(range.end.saturating_sub(1)).saturating_add(1).min(marked)
            }
            _ => {
                let last = strip(range.end.saturating_sub(1)).saturating_add(1);
                strip(range.start).saturating_mul(per)..last.saturating_mul(per).min(marked)
            }
        };
        self.places(input, numbers)
    }

    /// Returns where the blocks with these numbers in the image are on the disk, in bytes.
    fn places(&self, input: &Input, numbers: Range<u64>) -> Result<Vec<Range<u64>>, Error> {
        let places = self.blocks.places(input, numbers, MAX_LOST);
        let places = places.map_err(|e| Error::failed("cannot read the bitmap").because(e))?;
        let block = self.header.block;
        Ok(places.into_iter().map(|run| run.start * block..run.end * block).collect())
    }

    /// Returns how far the block with this number in the image is from the first one, in bytes.
    fn offset_of(&self, number: u64) -> u64 {
        // No overflow: at most 2^34 blocks of 2^26 bytes, and as many checksums.
        let sums = number.div_ceil(self.header.per_checksum) * self.header.checksum.len();
        number * self.header.block + sums
    }

    /// Returns the extent around `offset`, which must be less than the size, in bytes of the partition.
    pub(super) fn map(&self, input: &Input, offset: u64) -> Result<Extent, ReadError> {
        let Header { block, blocks, size, .. } = self.header;
        let zeros = |range: Range<u64>| Extent { disk: range, origin: Origin::Fill([0; 8]) };
        if offset / block >= blocks {
            return Ok(zeros(blocks * block..size));
        }
        let first = offset / block;
        let (end, number) = self.blocks.run(input, first)?;
        let Some(number) = number else { return Ok(zeros(first * block..end * block)) };
        let per = self.header.per_checksum;
        let (strip, within) = (number / per, number % per);
        // As far as the strip goes.
        let end = end.min(first.saturating_add(per - within));
        let disk = first * block..end * block;
        let strip_at = self.data + strip.saturating_mul(self.strip_len());
        let at = strip_at + within * block;
        let len = per.min(self.blocks.marked() - strip.saturating_mul(per)).saturating_mul(block);
        // Without the end of the strip, there is no checksum.
        let is_cut = strip_at.saturating_add(len).saturating_add(self.header.checksum.len()) > self.end;
        let is_checked = self.is_checked || is_cut || len > u64::from(MAX_CHUNK);
        let sum = if is_checked { Sum::None } else { self.sum(input, strip, strip_at + len)? };
        if sum == Sum::None {
            return Ok(Extent { disk, origin: Origin::Stored { file: self.file, at } });
        }
        let number = |value: u64| u32::try_from(value).map_err(|_| ReadError::Corrupt { at });
        let len = number(len)?;
        let origin = Origin::Compressed(CompressedChunk {
            file: self.file,
            at: strip_at,
            len,
            skip: number(within * block)?,
            uncompressed: len,
            codec: Codec::Stored,
            sum,
        });
        Ok(Extent { disk, origin })
    }

    /// Returns the checksum of a strip, which is at `at` in the file, if it can be checked when the strip is read.
    fn sum(&self, input: &Input, strip: u64, at: u64) -> Result<Sum, ReadError> {
        let read = |at: u64| {
            let mut bytes = [0; 16];
            input
                .read_exact_at(self.file, &mut bytes[..index(self.header.checksum.len())], at)
                .map(|()| bytes)
        };
        Ok(match (self.header.checksum, self.header.reseed) {
            (Checksum::Crc32, reseed) => {
                let before = if reseed || strip == 0 {
                    u32::MAX
                } else {
                    // It continues the one before.
                    let before = self.data + strip * self.strip_len() - self.header.checksum.len();
                    le32(&read(before)?, 0)
                };
                Sum::Crc32State { before, after: le32(&read(at)?, 0) }
            }
            (Checksum::Xxh64, true) => Sum::Xxh64(le64(&read(at)?, 0)),
            (Checksum::Xxh128, true) => Sum::Xxh3With128(u128::from_le_bytes(read(at)?)),
            _ => Sum::None,
        })
    }
}

fn ranges(places: &[Range<u64>], status: Status) -> Vec<BadRange> {
    places.iter().map(|range| BadRange::new(range.clone(), status)).collect()
}

struct Partclone {
    input: Arc<Input>,
    partition: Partition,
    details: ImageDetails,
}

fn open(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let mut details = ImageDetails::default();
    let partition = Partition::open(&input, Input::MAIN, &mut details)?;
    details.metadata = Metadata {
        size_bytes: partition.size(),
        logical_sector_bytes: options.sector_size.unwrap_or(SECTOR),
        tool: Some(partition.tool().to_owned()),
        ..Metadata::default()
    };
    if partition.unused() > 0 {
        details.metadata.notes.push(format!(
            "{} of the partition were not in use, and are not in the image: they read as zeros",
            human(partition.unused())
        ));
    }
    details.metadata.more.insert("file_system".into(), partition.file_system().into());
    Ok(Box::new(Partclone { input, partition, details }))
}

impl Image for Partclone {
    fn size(&self) -> u64 {
        self.partition.size()
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        self.partition.map(&self.input, offset)
    }

    fn details(&self) -> &ImageDetails {
        &self.details
    }

    fn mark(&self) -> Option<&[u8]> {
        Some(&MARK)
    }

    fn check(
        &self,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        self.partition.check(&self.input, report, check_cancelled)
    }
}
