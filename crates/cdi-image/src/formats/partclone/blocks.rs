//! Which blocks are in a partclone image, and where: the n-th block that is marked in the bitmap is the n-th in the file.

use std::num::NonZero;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use cdi_base::error::{Error, ReadError};
use cdi_base::units::index;
use cdi_base::workers::lock;
use lru::LruCache;

use super::header::{Bitmap, Header};
use crate::bytes::{flaw, le32};
use crate::codec::crc32;
use crate::extent::FileNo;
use crate::input::Input;

/// The number of blocks in a page of the bitmap. The number of marked blocks before each is kept in memory.
const PAGE: u64 = 32 << 10;
/// The number of pages of the bitmap that are kept.
const KEPT: NonZero<usize> = NonZero::new(256).expect("not 0");
/// The length of a read of the bitmap when it is opened, in bytes.
const READ: u64 = 1 << 20;

/// The blocks of an image.
pub(super) struct Blocks {
    file: FileNo,
    /// The offset of the bitmap in bytes.
    at: u64,
    kind: Bitmap,
    /// The number of blocks.
    count: u64,
    /// The number of marked blocks before each page, and of all.
    ranks: Vec<u64>,
    /// Pages of the bitmap, one bit for each block.
    pages: Mutex<LruCache<u64, Arc<Vec<u8>>>>,
}

impl Blocks {
    /// Reads the whole bitmap, and checks it.
    pub(super) fn open(input: &Input, file: FileNo, header: &Header) -> Result<Blocks, Error> {
        let pages = Mutex::new(LruCache::new(KEPT));
        let (at, kind, count) = (header.len, header.bitmap, header.blocks);
        let mut blocks = Blocks { file, at, kind, count, ranks: Vec::new(), pages };
        let mut marked = 0;
        let stored = kind.stored_len(count);
        if at.checked_add(stored).is_none_or(|end| end > input.len_of(file)) {
            return flaw(at, format!("the file ends within the bitmap of {count} blocks"));
        }
        let per_byte = if kind == Bitmap::Bits { 8 } else { 1 };
        let mut crc = crc32();
        let mut first = 0;
        while first < count {
            blocks.ranks.push(marked);
            if kind == Bitmap::None {
                marked += PAGE.min(count - first);
                first += PAGE;
                continue;
            }
            // Some pages at once. All but the last are whole.
            let len = READ.min((count - first).div_ceil(per_byte));
            let bytes = input.bytes_of(file, at + first / per_byte, index(len), "the bitmap")?;
            crc.update(&bytes);
            for (n, page) in bytes.chunks(index(PAGE / per_byte)).enumerate() {
                if n > 0 {
                    blocks.ranks.push(marked);
                }
                let page = blocks.bits(page, first + n as u64 * PAGE);
                marked += page.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
            }
            first += len * per_byte;
        }
        blocks.ranks.push(marked);
        match kind {
            Bitmap::None => {}
            Bitmap::Bits => {
                let sum = input.bytes_of(file, at + stored - 4, 4, "the checksum of the bitmap")?;
                if !crc.finalize() != le32(&sum, 0) {
                    return flaw(at, "the bitmap is damaged: its checksum is wrong");
                }
            }
            Bitmap::Bytes => {
                if input.bytes_of(file, at + stored - 8, 8, "the end of the bitmap")? != b"BiTmAgIc" {
                    return flaw(at + stored - 8, "the bitmap is damaged: its end mark is missing");
                }
            }
        }
        Ok(blocks)
    }

    /// Returns a page of the bitmap, whose first block is `first`, with one bit for each block that exists.
    fn bits(&self, stored: &[u8], first: u64) -> Vec<u8> {
        let mut bits = match self.kind {
            Bitmap::Bits => stored.to_vec(),
            // partclone takes every value but 1 for unused.
            _ => stored
                .chunks(8)
                .map(|eight| {
                    eight.iter().enumerate().fold(0, |bits, (n, byte)| bits | u8::from(*byte == 1) << n)
                })
                .collect(),
        };
        // In the last byte there are bits of blocks that do not exist.
        let blocks = self.count - first;
        if blocks < PAGE && !blocks.is_multiple_of(8) {
            let last = index(blocks / 8);
            if let Some(byte) = bits.get_mut(last) {
                *byte &= (1 << (blocks % 8)) - 1;
            }
        }
        bits
    }

    /// Returns the number of blocks in the image.
    pub(super) fn marked(&self) -> u64 {
        self.ranks.last().copied().unwrap_or(0)
    }

    fn page(&self, input: &Input, page: u64) -> Result<Arc<Vec<u8>>, ReadError> {
        if let Some(kept) = lock(&self.pages).get(&page) {
            return Ok(Arc::clone(kept));
        }
        let first = page * PAGE;
        let blocks = PAGE.min(self.count - first);
        let (at, len) = match self.kind {
            Bitmap::None => return Ok(Arc::new(vec![0xFF; index(blocks.div_ceil(8))])),
            Bitmap::Bits => (first / 8, blocks.div_ceil(8)),
            Bitmap::Bytes => (first, blocks),
        };
        let mut stored = vec![0; index(len)];
        input.read_exact_at(self.file, &mut stored, self.at + at)?;
        let bits = Arc::new(self.bits(&stored, first));
        lock(&self.pages).put(page, Arc::clone(&bits));
        Ok(bits)
    }

    /// Returns the run of blocks that `block` begins, as far as they are in the image or not like it: its end, and the
    /// number of blocks of the image before it if it is in it. `block` must exist.
    pub(super) fn run(&self, input: &Input, block: u64) -> Result<(u64, Option<u64>), ReadError> {
        let page = block / PAGE;
        let bits = self.page(input, page)?;
        let from = block % PAGE;
        let blocks = PAGE.min(self.count - page * PAGE);
        let is_marked = |n: u64| bits.get(index(n / 8)).is_some_and(|byte| byte >> (n % 8) & 1 != 0);
        let marked = is_marked(from);
        let all = if marked { 0xFF } else { 0 };
        let mut end = from + 1;
        while end < blocks {
            // Whole bytes at once.
            if end.is_multiple_of(8) && end + 8 <= blocks && bits.get(index(end / 8)) == Some(&all) {
                end += 8;
            } else if is_marked(end) == marked {
                end += 1;
            } else {
                break;
            }
        }
        let before = || {
            let whole = bits[..index(from / 8)].iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
            let rest = (from / 8 * 8..from).filter(|n| is_marked(*n)).count() as u64;
            self.ranks[index(page)] + whole + rest
        };
        Ok((page * PAGE + end, marked.then(before)))
    }

    /// Returns where the blocks with these numbers in the image are on the disk: runs of blocks, in order. If there are
    /// more than `max`, the last one is longer than it should be.
    pub(super) fn places(
        &self,
        input: &Input,
        numbers: Range<u64>,
        max: usize,
    ) -> Result<Vec<Range<u64>>, ReadError> {
        let mut places: Vec<Range<u64>> = Vec::new();
        if numbers.is_empty() {
            return Ok(places);
        }
        let page = self.ranks.partition_point(|rank| *rank <= numbers.start).saturating_sub(1);
        let mut block = (page as u64 * PAGE).min(self.count);
        while block < self.count {
            let (end, rank) = self.run(input, block)?;
            if let Some(rank) = rank {
                if rank >= numbers.end {
                    break;
                }
                let first = block + numbers.start.saturating_sub(rank);
                let last = end.min(block + (numbers.end - rank));
                let is_full = places.len() >= max;
                match places.last_mut() {
                    _ if first >= last => {}
                    Some(before) if before.end == first || is_full => before.end = last,
                    _ => places.push(first..last),
                }
            }
            block = end;
        }
        Ok(places)
    }
}
