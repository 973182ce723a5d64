//! Android's sparse images (`.simg`, and `.img` of phone firmware): chunks of data, of a repeated pattern, and of what
//! was left out because it does not matter.
//!
//! Sources: AOSP's libsparse (sparse_format.h), and images by img2simg. All numbers are little-endian. A header, then
//! the chunks in the order of the disk, each with a header of its own; there is no table of them. Where the image says
//! "don't care" the disk has zeros, as simg2img writes them. Large images are often split: each piece describes the
//! whole disk, and does not care about what the others have.

mod pieces;

use std::sync::Arc;

use cdi_base::error::{Error, Flaw, ReadError};
use cdi_base::units::index;

use super::chain::{Chain, Found, Layer};
use crate::bytes::{flaw, le32};
use crate::details::ImageDetails;
use crate::extent::{Extent, FileNo, Origin};
use crate::image::{Format, Image, OpenOptions};
use crate::input::Input;
use crate::metadata::Metadata;
use crate::stored_hashes::{HashKind, StoredHash};

/// Android's sparse images.
pub const FORMAT: Format = Format {
    name: "android-sparse",
    summary: "Android's sparse images, whole or in pieces",
    integrity: "CRC-32 of the disk, if stored",
    suffixes: &["simg"],
    probe: |input| input.bytes(0, MAGIC.len(), "the header").is_ok_and(|b| b == MAGIC),
    open,
};

const MAGIC: &[u8] = b"\x3A\xFF\x26\xED";
const HEADER: usize = 28;
/// The length of a chunk's header, as far as it is known.
const CHUNK_HEADER: usize = 12;
/// How many bytes are read at a time to find the headers of chunks.
const WINDOW: u64 = 4096;
/// The distance in chunks of those whose places are kept, at first, and how many are kept before it is doubled.
const STEP: u64 = 32;
const MAX_KEPT: usize = 1 << 16;
/// How many checksums of parts of the disk are checked: each is of everything from its start.
const MAX_SUMS: usize = 8;

/// One file: the places of its chunks.
struct Sparse {
    file: FileNo,
    size: u64,
    /// The size of a block, and the length of a chunk's header, in bytes.
    block: u64,
    chunk_header: u64,
    /// Of every `step`th chunk, where it begins on the disk and in the file.
    kept: Vec<(u64, u64)>,
    step: u64,
    /// The CRC-32 of the disk up to an offset.
    sums: Vec<(u64, u32)>,
    /// The disk below: the piece before this one.
    below: Option<Box<Sparse>>,
}

fn open(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let mut top = Sparse::open(&input, Input::MAIN)?;
    let mut warnings = Vec::new();
    let others = pieces::others(&input)?;
    for file in &others {
        let path = input.path_of(*file);
        let piece = Sparse::open(&input, *file).map_err(|e| e.at(&path))?;
        if piece.size != top.size {
            let what = format!("is a piece of a disk of {} bytes, not of {}", piece.size, top.size);
            return Err(Error::bad_image(what).at(&path));
        }
        top = Sparse { below: Some(Box::new(top)), ..piece };
    }
    if let Some(last) = others.last() {
        warnings.push(format!(
            "the image is split into {} files, the last of them {}; how many there should be is not recorded",
            others.len() + 1,
            input.path_of(*last).display()
        ));
    }
    // The checksums of a piece are of a disk without the other pieces.
    let stored_hashes = if others.is_empty() { top.stored_hashes() } else { Vec::new() };
    let metadata = Metadata {
        size_bytes: top.size,
        logical_sector_bytes: options.sector_size.unwrap_or(0),
        ..Metadata::default()
    };
    let details = ImageDetails { metadata, warnings, stored_hashes, ..ImageDetails::default() };
    Ok(Box::new(Chain { input, top, details }))
}

/// What a chunk has.
#[derive(Clone, Copy)]
enum Content {
    /// The bytes of the disk from this offset in the file on.
    Raw(u64),
    /// These four bytes repeated.
    Fill([u8; 4]),
    /// Nothing.
    DontCare,
    /// The CRC-32 of the disk up to here.
    Sum(u32),
}

/// A chunk: its length on the disk in bytes, and where the next one is in the file.
struct Chunk {
    content: Content,
    len: u64,
    next: u64,
}

/// Finds chunks one after the other.
struct Walk<'a> {
    input: &'a Input,
    sparse: &'a Sparse,
    /// A part of the file, and its offset.
    bytes: Vec<u8>,
    at: u64,
}

/// Why the next chunk is not known.
enum Stop {
    Read(ReadError),
    Flaw(Flaw),
}

impl Walk<'_> {
    /// Reads the header of the chunk at `at`.
    fn chunk(&mut self, at: u64) -> Result<Chunk, Stop> {
        let data_at = at.saturating_add(self.sparse.chunk_header);
        let header = self.bytes(at, CHUNK_HEADER)?;
        let kind = u16::from_le_bytes([header[0], header[1]]);
        let (blocks, total) = (u64::from(le32(header, 4)), u64::from(le32(header, 8)));
        let next = at.saturating_add(total);
        let wrong = |what: String| Err(Stop::Flaw(Flaw::at(at, what)));
        let len = blocks * self.sparse.block;
        let (content, data) = match kind {
            0xCAC1 => (Content::Raw(data_at), len),
            0xCAC2 => (Content::Fill(self.four(data_at)?), 4),
            0xCAC3 => (Content::DontCare, 0),
            0xCAC4 => (Content::Sum(u32::from_le_bytes(self.four(data_at)?)), 4),
            other => return wrong(format!("unknown chunk of type {other:#06x}")),
        };
        if Some(next) != data_at.checked_add(data) || (blocks > 0 && matches!(content, Content::Sum(_))) {
            return wrong(format!("a chunk for {blocks} blocks cannot have {total} bytes"));
        }
        if next > self.input.len_of(self.sparse.file) {
            return wrong(format!("a chunk of {total} bytes extends past the end of the file"));
        }
        Ok(Chunk { content, len, next })
    }

    fn four(&mut self, at: u64) -> Result<[u8; 4], Stop> {
        let bytes = self.bytes(at, 4)?;
        Ok([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    /// Returns `len` bytes of the file from `at` on.
    fn bytes(&mut self, at: u64, len: usize) -> Result<&[u8], Stop> {
        let file_len = self.input.len_of(self.sparse.file);
        let end = at.saturating_add(len as u64);
        if end > file_len {
            return Err(Stop::Flaw(Flaw::at(at, "the file ends within a chunk")));
        }
        if at < self.at || end > self.at + self.bytes.len() as u64 {
            let mut bytes = vec![0; index(WINDOW.min(file_len - at))];
            self.input.read_exact_at(self.sparse.file, &mut bytes, at).map_err(Stop::Read)?;
            (self.bytes, self.at) = (bytes, at);
        }
        let from = index(at - self.at);
        Ok(&self.bytes[from..from + len])
    }
}

impl Sparse {
    /// Opens a file, and finds all its chunks.
    fn open(input: &Input, file: FileNo) -> Result<Sparse, Error> {
        let header = input.bytes_of(file, 0, HEADER, "the header")?;
        if !header.starts_with(MAGIC) {
            return flaw(0, "not an Android sparse image");
        }
        let short = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        if short(4) != 1 {
            let what = format!("unsupported version {} (only version 1 is supported)", short(4));
            return flaw(4, what);
        }
        let (header_len, chunk_header) = (u64::from(short(8)), u64::from(short(10)));
        if header_len < HEADER as u64 || chunk_header < CHUNK_HEADER as u64 {
            return flaw(8, "the headers are too short");
        }
        let (block, blocks, chunks) = (le32(&header, 12), le32(&header, 16), le32(&header, 20));
        if block == 0 || block % 4 != 0 {
            return flaw(12, format!("invalid block size: {block} bytes"));
        }
        let size = u64::from(block) * u64::from(blocks);
        if size == 0 || i64::try_from(size).is_err() {
            return flaw(16, format!("invalid disk size: {blocks} blocks of {block} bytes"));
        }
        let empty = Sparse {
            file,
            size,
            block: block.into(),
            chunk_header,
            kept: Vec::new(),
            step: STEP,
            sums: Vec::new(),
            below: None,
        };
        let mut sparse = empty.with_chunks(input, header_len, chunks)?;
        let sum = le32(&header, 24);
        if sum != 0 {
            sparse.sums.push((size, sum));
        }
        Ok(sparse)
    }

    /// Finds the chunks: `count` of them, from file offset `at` on.
    fn with_chunks(mut self, input: &Input, mut at: u64, count: u32) -> Result<Sparse, Error> {
        let (mut kept, mut step, mut sums) = (Vec::new(), self.step, Vec::new());
        let mut walk = self.walk(input);
        let mut disk = 0;
        for n in 0..u64::from(count) {
            if n % step == 0 {
                if kept.len() == MAX_KEPT {
                    // Every second one is enough.
                    kept = kept.into_iter().step_by(2).collect();
                    step *= 2;
                }
                if n % step == 0 {
                    kept.push((disk, at));
                }
            }
            let chunk = walk.chunk(at).map_err(|stop| match stop {
                Stop::Flaw(flaw) => flaw.into(),
                Stop::Read(e) => Error::failed(format!("cannot read a chunk at byte {at}")).because(e),
            })?;
            if let Content::Sum(sum) = chunk.content {
                sums.push((disk, sum));
                sums.truncate(MAX_SUMS);
            }
            disk += chunk.len;
            if disk > self.size {
                return flaw(at, format!("the chunks have more than the disk's {} bytes", self.size));
            }
            at = chunk.next;
        }
        if disk != self.size {
            return flaw(20, format!("the chunks have {disk} of the disk's {} bytes", self.size));
        }
        (self.kept, self.step, self.sums) = (kept, step, sums);
        Ok(self)
    }

    fn walk<'a>(&'a self, input: &'a Input) -> Walk<'a> {
        Walk { input, sparse: self, bytes: Vec::new(), at: 0 }
    }

    fn stored_hashes(&self) -> Vec<StoredHash> {
        let hash = |&(end, sum): &(u64, u32)| StoredHash {
            of: if end == self.size { "the disk".into() } else { format!("the disk's first {end} bytes") },
            ..StoredHash::of_disk(end, HashKind::Crc32, sum.to_be_bytes().into())
        };
        self.sums.iter().filter(|(end, _)| *end > 0).map(hash).collect()
    }
}

impl Layer for Sparse {
    fn size(&self) -> u64 {
        self.size
    }

    fn parent(&self) -> Option<&dyn Layer> {
        Some(&**self.below.as_ref()?)
    }

    fn find(&self, input: &Input, offset: u64, end: u64) -> Result<Found, ReadError> {
        let n = self.kept.partition_point(|(disk, _)| *disk <= offset).saturating_sub(1);
        let (mut disk, mut at) = *self.kept.get(n).ok_or(ReadError::Unmapped { offset })?;
        let mut walk = self.walk(input);
        loop {
            let chunk = walk.chunk(at).map_err(|stop| match stop {
                Stop::Read(e) => e,
                Stop::Flaw(flaw) => ReadError::Corrupt { at: flaw.at },
            })?;
            let stop = disk.saturating_add(chunk.len);
            if offset < stop {
                let origin = match chunk.content {
                    Content::Raw(at) => Origin::Stored { file: self.file, at },
                    Content::Fill([a, b, c, d]) => Origin::Fill([a, b, c, d, a, b, c, d]),
                    Content::DontCare | Content::Sum(_) => return Ok(Found::Below(offset..stop.min(end))),
                };
                return Ok(Found::Here(Extent { disk: disk..stop.min(end), origin }));
            }
            (disk, at) = (stop, chunk.next);
        }
    }
}
