//! The space manager: bitmaps, a bit a block, the lowest of a byte first, set if the block is used.
//!
//! Facts: Apple File System Reference, "Space Manager": `spaceman_phys_t`, `chunk_info_block_t`, `cib_addr_block_t`.

use std::ops::Range;

use cdi_base::units::index;

use super::object::{Layout, SPACE_ADDRESSES, SPACE_CHUNKS, SPACE_MANAGER, check};
use crate::bytes::{le32, le64};
use crate::file_system::Damage;
use crate::volume::{MAX_READ, Volume};

/// What the bitmaps say of blocks in a row.
struct Chunk {
    first: u64,
    blocks: u64,
    /// The block of the bitmap; 0 if all are free.
    bitmap: u64,
}

/// What is read of the space manager.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// Where it is.
    pub(super) at: Vec<Range<u64>>,
    /// The blocks that could not be used.
    pub(super) lost: Vec<(u64, Damage)>,
    /// The last free range, which may grow.
    last: Option<Range<u64>>,
}

impl Space {
    /// Reads the space manager in `at`: a block, and a size in bytes. Reports the free ranges, in bytes, in order.
    pub(super) fn load(
        volume: &Volume<'_>,
        layout: Layout,
        at: (u64, u32),
        found: &mut dyn FnMut(Range<u64>),
    ) -> Space {
        let mut space = Space::default();
        match space.manager(volume, layout, at) {
            Ok(chunks) => {
                for chunk in chunks {
                    space.chunk(volume, layout, &chunk, found);
                }
            }
            Err(damage) => space.lost.push((at.0, damage)),
        }
        if let Some(last) = space.last.take() {
            found(last);
        }
        space
    }

    /// Reads the addresses of all chunks.
    fn manager(&mut self, volume: &Volume<'_>, layout: Layout, at: (u64, u32)) -> Result<Vec<Chunk>, Damage> {
        let invalid = || Damage::Invalid("the space manager makes no sense".into());
        let count = u64::from(at.1.div_ceil(layout.block_size)).max(1);
        let range = layout.range(at.0, count).ok_or_else(invalid)?;
        self.at.push(range.clone());
        if range.end - range.start > MAX_READ as u64 {
            return Err(invalid());
        }
        let bytes = volume.read(range.start, index(range.end - range.start))?;
        check(&bytes, SPACE_MANAGER)?;
        let word = |at: usize| le32(&bytes, at).ok_or_else(invalid);
        let (blocks, addresses, offset) = (word(64)?, word(68)?, index(u64::from(word(80)?)));
        // The main device: how many blocks of chunks it has, and of addresses of these, and where those are listed.
        let listed = if addresses > 0 { addresses } else { blocks };
        let listed = list(&bytes, offset, listed).ok_or_else(invalid)?;
        let mut infos = Vec::new();
        if addresses == 0 {
            infos = listed;
        } else {
            for block in listed {
                if infos.len() as u64 > layout.blocks / 8 {
                    break;
                }
                if let Some(bytes) = self.object(volume, layout, block, SPACE_ADDRESSES) {
                    let count = le32(&bytes, 36).unwrap_or(0);
                    infos.extend(list(&bytes, 40, count).unwrap_or_default());
                }
            }
        }
        // There are no more chunks than the container has room for.
        let most = index(layout.blocks / (u64::from(layout.block_size) * 8) + 1);
        let mut chunks = Vec::new();
        for block in infos.into_iter().take(most) {
            if chunks.len() > most {
                break;
            }
            let Some(bytes) = self.object(volume, layout, block, SPACE_CHUNKS) else { continue };
            let count = index(u64::from(le32(&bytes, 36).unwrap_or(0))).min(bytes.len() / 32);
            chunks.extend((0..count).filter_map(|i| chunk(&bytes, layout, i)));
        }
        chunks.sort_by_key(|chunk| chunk.first);
        Ok(chunks)
    }

    fn object(&mut self, volume: &Volume<'_>, layout: Layout, block: u64, kind: u32) -> Option<Vec<u8>> {
        self.at.extend(layout.range(block, 1));
        match layout.object(volume, block, kind) {
            Ok(bytes) => Some(bytes),
            Err(damage) => {
                self.lost.push((block, damage));
                None
            }
        }
    }

    fn chunk(
        &mut self,
        volume: &Volume<'_>,
        layout: Layout,
        chunk: &Chunk,
        found: &mut dyn FnMut(Range<u64>),
    ) {
        if chunk.bitmap == 0 {
            self.add(layout.range(chunk.first, chunk.blocks), found);
            return;
        }
        self.at.extend(layout.range(chunk.bitmap, 1));
        let bytes = match layout.read(volume, chunk.bitmap) {
            Ok(bytes) => bytes,
            Err(damage) => {
                self.lost.push((chunk.bitmap, damage));
                return;
            }
        };
        let mut start = None;
        for i in 0..chunk.blocks {
            let used = bytes.get(index(i / 8)).is_none_or(|byte| byte & (1 << (i % 8)) != 0);
            match start {
                None if !used => start = Some(i),
                Some(from) if used => {
                    self.add(layout.range(chunk.first + from, i - from), found);
                    start = None;
                }
                _ => {}
            }
        }
        if let Some(from) = start {
            self.add(layout.range(chunk.first + from, chunk.blocks - from), found);
        }
    }

    fn add(&mut self, range: Option<Range<u64>>, found: &mut dyn FnMut(Range<u64>)) {
        let Some(range) = range.filter(|range| !range.is_empty()) else { return };
        match &mut self.last {
            Some(last) if last.end == range.start => last.end = range.end,
            // Chunks that overlap make no sense: the first counts.
            Some(last) if last.end > range.start => {}
            last => {
                if let Some(done) = last.replace(range) {
                    found(done);
                }
            }
        }
    }
}

fn list(bytes: &[u8], at: usize, count: u32) -> Option<Vec<u64>> {
    let count = index(u64::from(count));
    let words = bytes.get(at..)?.get(..count.checked_mul(8)?)?;
    Some(words.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect())
}

fn chunk(bytes: &[u8], layout: Layout, i: usize) -> Option<Chunk> {
    let entry = bytes.get(40 + 32 * i..72 + 32 * i)?;
    let first = le64(entry, 8)?;
    // A bitmap has a block; a volume that was cut short ends in a chunk.
    let blocks = u64::from(le32(entry, 16)?).min(u64::from(layout.block_size) * 8);
    let blocks = blocks.min(layout.blocks.checked_sub(first)?);
    Some(Chunk { first, blocks, bitmap: le64(entry, 24)? })
}
