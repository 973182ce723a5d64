//! Reads the bytes of a disk from its image: maps, reads, decompresses and caches them.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cdi_base::error::ReadError;
use cdi_base::units::index;
use cdi_base::workers::lock;

use super::batch::Batch;
use super::stats::Reads;
use super::{BadPolicy, Options, batch};
use crate::badmap::builder::BadMapBuilder;
use crate::badmap::{BadBlocks, BadRange, Status};
use crate::codec::decompress;
use crate::extent::{CompressedChunk, Extent, MAX_CHUNK, Origin};
use crate::image::{Format, Image};
use crate::input::Input;
use crate::memory::buffers;
use crate::memory::cache::{Cache, Chunk, PendingChunk};

/// Reads of at least this many bytes count as streaming: chunks are decompressed straight into the caller's buffer and
/// not cached.
const STREAM: usize = 256 << 10;

pub(super) struct Core {
    pub(super) image: Box<dyn Image>,
    pub(super) input: Arc<Input>,
    pub(super) format: &'static Format,
    pub(super) options: Options,
    /// The ranges that are not read from the image, in whole sectors. `None`: those of the image's map.
    pub(super) failing: Option<BadBlocks>,
    pub(super) sector: u32,
    /// The sectors that were found to be marked as unreadable, while they were read.
    pub(super) marks: Mutex<BadMapBuilder>,
    pub(super) cache: Cache<CompressedChunk>,
    /// The number of reads in progress.
    pub(super) reading: AtomicUsize,
    /// The number of decompressed chunks, of reads that failed because a chunk is damaged, and of reads that failed
    /// because the image file cannot be read.
    pub(super) uncompressed: AtomicU64,
    pub(super) corrupt: AtomicU64,
    pub(super) unreadable: AtomicU64,
    pub(super) reads: Reads,
}

impl Core {
    /// Returns the ranges that are not read from the image, in whole sectors.
    pub(super) fn failing_ranges(&self) -> &BadBlocks {
        self.failing.as_ref().unwrap_or_else(|| self.image.bad())
    }

    /// Calls [`Image::map`] and validates its answer.
    pub(super) fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        let extent = self.image.map(offset)?;
        let inside = extent.disk.contains(&offset);
        let fits = match extent.origin {
            Origin::Compressed(p) => {
                p.uncompressed <= MAX_CHUNK
                    && p.len <= 2 * MAX_CHUNK
                    && extent.disk.end - extent.disk.start <= u64::from(p.uncompressed.saturating_sub(p.skip))
            }
            _ => true,
        };
        if inside && fits { Ok(extent) } else { Err(ReadError::Unmapped { offset }) }
    }

    /// Fills `buf` with data that the image must contain.
    pub(super) fn read_held(&self, buf: &mut [u8], offset: u64, sequential: bool) -> Result<(), ReadError> {
        let end = offset + buf.len() as u64;
        let stream = sequential || buf.len() >= STREAM;
        let (mut batch, mut places) = (Batch::default(), Vec::new());
        let mut at = offset;
        while at < end {
            let extent = self.map(at)?;
            let stop = extent.disk.end.min(end);
            let place = index(at - offset)..index(stop - offset);
            let out = &mut buf[place.clone()];
            match extent.origin {
                // The map says that it was read, but there is no data: the image is damaged, this is not a bad sector.
                Origin::Unread => return Err(ReadError::Unmapped { offset: at }),
                Origin::Fill(pattern) => fill(out, &pattern, at),
                Origin::Stored { file, at: start } => {
                    self.input.read_exact_at(file, out, start + (at - extent.disk.start))?;
                }
                Origin::Compressed(compressed) => {
                    let name = CompressedChunk { skip: 0, ..compressed };
                    let whole = compressed.skip == 0 && out.len() == compressed.uncompressed as usize;
                    let cached = if stream && whole { self.cache.get_if_there(&name) } else { None };
                    if stream && whole && cached.is_none() {
                        if !batch.accepts(&name) {
                            self.decompress_to(&batch, buf, &places)?;
                            batch.clear();
                            places.clear();
                        }
                        batch.push(name);
                        places.push(place);
                    } else {
                        let chunk = cached.map_or_else(|| self.chunk(&compressed), Ok)?;
                        let skip = compressed.skip as usize + index(at - extent.disk.start);
                        let bytes = chunk.get(skip..skip + out.len());
                        out.copy_from_slice(bytes.ok_or(ReadError::Corrupt { at: compressed.at })?);
                        if sequential && stop == extent.disk.end {
                            self.cache.demote(&name);
                        }
                    }
                }
            }
            at = stop;
        }
        self.decompress_to(&batch, buf, &places)
    }

    /// Decompresses the chunks of a batch to their places in `buf`.
    fn decompress_to(&self, batch: &Batch, buf: &mut [u8], places: &[Range<usize>]) -> Result<(), ReadError> {
        let mut result = Ok(());
        batch.read(&self.input, &mut |n, chunk, stored| {
            let uncompressed =
                stored.and_then(|stored| self.decompress(chunk, stored, &mut buf[places[n].clone()]));
            result = result.and(uncompressed);
        });
        result
    }

    fn decompress(&self, chunk: &CompressedChunk, stored: &[u8], out: &mut [u8]) -> Result<(), ReadError> {
        self.uncompressed.fetch_add(1, Ordering::Relaxed);
        match decompress(chunk.codec, stored, out) {
            Ok(()) if chunk.sum.matches_uncompressed(out) => Ok(()),
            _ => Err(ReadError::Corrupt { at: chunk.at }),
        }
    }

    /// Returns a chunk decompressed: from the cache, or read, verified and decompressed.
    pub(super) fn chunk(&self, compressed: &CompressedChunk) -> Result<Chunk, ReadError> {
        let name = CompressedChunk { skip: 0, ..*compressed };
        self.cache.get(&name, || {
            batch::read(&self.input, &name, |stored| {
                let mut chunk = buffers::take(name.uncompressed as usize);
                self.decompress(&name, stored?, &mut chunk).map(|()| chunk)
            })
        })
    }

    /// Logs read errors caused by the image and not by the disk. Each kind is logged the first few times and then only
    /// occasionally.
    pub(super) fn tell(&self, e: ReadError) {
        let (count, what) = match e {
            ReadError::Corrupt { at } => {
                (&self.corrupt, format!("the chunk at byte {at} is damaged; reads of it fail"))
            }
            // What a server does is logged where its files are read.
            ReadError::Io { .. } if self.input.is_remote() => return,
            ReadError::Io { .. } => (&self.unreadable, format!("read error: {e}")),
            _ => return,
        };
        let count = count.fetch_add(1, Ordering::Relaxed) + 1;
        if count <= 10 || count.is_power_of_two() {
            log::warn!("{}: {what}", self.input.path().display());
        }
    }

    /// Decompresses the chunks of a range that are not cached yet into the cache. Errors are left to the reader that
    /// requests the data.
    pub(super) fn prefetch(&self, range: Range<u64>) {
        let mut batch = Batch::default();
        let mut pending = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let Ok(extent) = self.map(at) else { break };
            at = extent.disk.end;
            let compressed = match extent.origin {
                Origin::Compressed(compressed) => compressed,
                Origin::Stored { file, at: start } => {
                    let stop = extent.disk.end.min(range.end);
                    let skip = range.start.saturating_sub(extent.disk.start);
                    self.input.prefetch(file, start + skip..start + (stop - extent.disk.start));
                    continue;
                }
                _ => continue,
            };
            let name = CompressedChunk { skip: 0, ..compressed };
            if let Some(flight) = self.cache.begin(&name) {
                if !batch.accepts(&name) {
                    self.insert(&batch, &mut pending);
                    batch.clear();
                }
                batch.push(name);
                pending.push(Some(flight));
            }
        }
        self.insert(&batch, &mut pending);
    }

    fn insert(&self, batch: &Batch, pending: &mut Vec<Option<PendingChunk<'_, CompressedChunk>>>) {
        batch.read(&self.input, &mut |n, name, stored| {
            let Ok(stored) = stored else { return };
            let mut chunk = buffers::take(name.uncompressed as usize);
            if self.decompress(name, stored, &mut chunk).is_ok()
                && let Some(flight) = pending[n].take()
            {
                flight.insert(chunk);
            }
        });
        pending.clear();
    }

    /// Looks for sectors in `buf`, which is at `offset` of the disk, that contain `mark`. Fills them if `filled`, otherwise
    /// returns an error. `start` is where the whole read began.
    pub(super) fn check_marks(
        &self,
        mark: &[u8],
        buf: &mut [u8],
        offset: u64,
        start: u64,
        filled: bool,
    ) -> Result<(), ReadError> {
        let len = mark.len() as u64;
        let end = offset + buf.len() as u64;
        let mut at = offset;
        while at < end {
            let within = index(at % len);
            let stop = (at - at % len + len).min(end);
            let part = index(at - offset)..index(stop - offset);
            // Of a sector at the end of the buffer the rest is read, too.
            let mut is_marked = buf[part.clone()] == mark[within..within + part.len()];
            if is_marked && part.len() < mark.len() {
                let first = at - at % len;
                let mut whole = vec![0; index(len.min(self.image.size() - first))];
                self.read_held(&mut whole, first, false)?;
                is_marked = whole == mark;
            }
            if is_marked {
                let whole = at - at % len..(at - at % len + len).min(self.image.size());
                lock(&self.marks).set(BadRange::new(whole, Status::Bad));
                if !filled {
                    let sector = at / u64::from(self.sector);
                    return Err(ReadError::Bad { sector, good: index(at - start), untried: false });
                }
                self.fill_bad(&mut buf[part], at);
            }
            at = stop;
        }
        Ok(())
    }

    /// Fills `buf`, which is within failing sectors, according to the policy.
    pub(super) fn fill_bad(&self, buf: &mut [u8], offset: u64) {
        match &self.options.bad {
            BadPolicy::Error | BadPolicy::Zero => buf.fill(0),
            BadPolicy::Pattern(text) => {
                let sector = u64::from(self.sector);
                for (i, byte) in buf.iter_mut().enumerate() {
                    let in_sector = (offset + i as u64) % sector;
                    *byte = text[index(in_sector) % text.len()];
                }
            }
        }
    }
}

/// Fills `buf`, which is at `offset` on the disk, with `pattern`, which starts at every disk offset that is a multiple
/// of 8.
pub fn fill(buf: &mut [u8], pattern: &[u8; 8], offset: u64) {
    if pattern.iter().all(|b| *b == pattern[0]) {
        return buf.fill(pattern[0]);
    }
    let mut turned = *pattern;
    turned.rotate_left((offset % 8) as usize);
    for part in buf.chunks_mut(8) {
        part.copy_from_slice(&turned[..part.len()]);
    }
}
