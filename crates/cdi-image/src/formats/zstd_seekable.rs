//! Raw disks in zstd's seekable format (`.zst` by zeekstd, t2sz and similar programs): independently compressed frames,
//! and a table of them at the end.
//!
//! Sources: "Zstandard Seekable Format", version 0.1.0 (zstd, contrib/seekable_format). All numbers are little-endian.
//! The last nine bytes contain the number of frames and whether each has a checksum; the lengths of the frames come
//! before that.

use std::sync::Arc;

use cdi_base::error::{Error, ReadError};
use cdi_base::units::index;

use crate::bytes::{flaw, le32};
use crate::codec::{Codec, Sum};
use crate::details::ImageDetails;
use crate::extent::{CompressedChunk, Extent, MAX_CHUNK, Origin};
use crate::image::{Format, Image, OpenOptions};
use crate::input::Input;

/// Raw disks in zstd's seekable format.
pub const FORMAT: Format = Format {
    name: "zstd",
    summary: "raw disks compressed by zstd, also in its seekable format",
    integrity: "a 32-bit checksum of each frame, if the writer stored them",
    suffixes: &["zst", "zstd"],
    probe: |input| {
        let footer = input.len().checked_sub(FOOTER).and_then(|at| input.bytes(at, index(FOOTER), "").ok());
        footer.is_some_and(|f| f.ends_with(&SEEKABLE))
            && input.bytes(0, 4, "").is_ok_and(|b| b == ZSTD || b.ends_with(&[0x2A, 0x4D, 0x18]))
    },
    open,
};

const ZSTD: [u8; 4] = 0xFD2F_B528u32.to_le_bytes();
const SEEKABLE: [u8; 4] = 0x8F92_EAB1u32.to_le_bytes();
/// The magic of the skippable frame that contains the table.
const SKIPPED: [u8; 4] = 0x184D_2A5Eu32.to_le_bytes();
const FOOTER: u64 = 9;
/// The maximum number of frames that the format allows.
const MAX_FRAMES: u64 = 0x800_0000;
/// The position of every STEPth frame is kept in memory; those of the others are calculated from there.
const STEP: u64 = 1024;

struct Seekable {
    input: Arc<Input>,
    /// The file offset of the table's entries, their number, and the length of one in bytes.
    table: u64,
    count: u64,
    entry: u64,
    /// The offsets of every STEPth frame: on the disk, in the file. The last item contains the ends of both.
    steps: Vec<(u64, u64)>,
    details: ImageDetails,
}

/// The hint for files without random access.
const DECOMPRESS: &str = "decompress it with 'zstd -d', and use the raw disk image";

fn open(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    if input.packed().is_some() {
        return super::raw::open_packed(input, options);
    }
    let Some(at) = input.len().checked_sub(FOOTER) else { return flaw(0, "too short for a zstd file") };
    let footer = input.bytes(at, index(FOOTER), "the footer")?;
    if !footer.ends_with(&SEEKABLE) {
        return Err(Error::bad_image("zstd file without a seek table: random access is not possible")
            .hint(DECOMPRESS));
    }
    let (count, flags) = (u64::from(le32(&footer, 0)), footer[4]);
    if flags & 0x7C != 0 {
        return flaw(at + 4, format!("unknown flags {flags:#x}"));
    }
    if count > MAX_FRAMES {
        return flaw(at, format!("more frames than the format allows: {count}"));
    }
    let entry = if flags & 0x80 != 0 { 12 } else { 8 };
    let Some(table) = at.checked_sub(count * entry).filter(|table| *table >= 8) else {
        return flaw(at, format!("the seek table of {count} frames is longer than the file"));
    };
    let header = input.bytes(table - 8, 8, "the header of the seek table")?;
    if !header.starts_with(&SKIPPED) || u64::from(le32(&header, 4)) != count * entry + FOOTER {
        return flaw(table - 8, "the header of the seek table is damaged");
    }
    let mut image =
        Seekable { input, table, count, entry, steps: Vec::new(), details: ImageDetails::default() };
    let (mut disk, mut file) = (0, 0);
    for first in (0..count).step_by(index(STEP)) {
        image.steps.push((disk, file));
        for (n, frame) in image.frames(first).or_else(|e| flaw(table, e.to_string()))?.iter().enumerate() {
            // No overflow: both lengths are 32 bits, and there are at most 2^27 frames.
            (disk, file) = (disk + u64::from(frame.uncompressed), file + u64::from(frame.compressed));
            if frame.uncompressed > MAX_CHUNK {
                let what = format!("a frame of {} bytes is too long for random access", frame.uncompressed);
                let at = table + (first + n as u64) * entry;
                return Err(Error::from(cdi_base::error::Flaw::at(at, what)).hint(DECOMPRESS));
            }
        }
    }
    image.steps.push((disk, file));
    if file > table - 8 {
        return flaw(table, "the frames listed in the seek table are longer than the file");
    }
    if disk == 0 || i64::try_from(disk).is_err() {
        return flaw(table, format!("invalid disk size: {disk} bytes"));
    }
    image.details.metadata.size_bytes = disk;
    image.details.metadata.logical_sector_bytes = options.sector_size.unwrap_or(0);
    Ok(Box::new(image))
}

/// A frame, as listed in the table.
struct Frame {
    compressed: u32,
    uncompressed: u32,
    sum: Sum,
}

impl Seekable {
    /// Reads the table's entries of one step, beginning at frame `first`, a multiple of STEP.
    fn frames(&self, first: u64) -> Result<Vec<Frame>, ReadError> {
        let count = STEP.min(self.count - first);
        let mut bytes = vec![0; index(count * self.entry)];
        self.input.read_exact_at(Input::MAIN, &mut bytes, self.table + first * self.entry)?;
        let frame = |e: &[u8]| Frame {
            compressed: le32(e, 0),
            uncompressed: le32(e, 4),
            sum: if self.entry == 12 { Sum::Xxh64Uncompressed(le32(e, 8)) } else { Sum::None },
        };
        Ok(bytes.chunks_exact(index(self.entry)).map(frame).collect())
    }
}

impl Image for Seekable {
    fn size(&self) -> u64 {
        self.details.metadata.size_bytes
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        let step = self.steps.partition_point(|(disk, _)| *disk <= offset).saturating_sub(1);
        let (mut disk, mut at) = self.steps[step];
        for frame in self.frames(step as u64 * STEP)? {
            let end = disk + u64::from(frame.uncompressed);
            if offset < end {
                let Frame { compressed: len, uncompressed, sum } = frame;
                let codec = Codec::ZstdPadded;
                let compressed =
                    CompressedChunk { file: Input::MAIN, at, len, skip: 0, uncompressed, codec, sum };
                return Ok(Extent { disk: disk..end, origin: Origin::Compressed(compressed) });
            }
            (disk, at) = (end, at + u64::from(frame.compressed));
        }
        Err(ReadError::Unmapped { offset })
    }

    fn details(&self) -> &ImageDetails {
        &self.details
    }
}
