//! An image written anew without what later records have superseded: parts of chunks that came one by one are whole
//! chunks again.

use std::num::NonZero;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use cdi_base::advice::Advice;
use cdi_base::error::{Error, ReadError};
use cdi_base::units::index;
use cdi_image::cdimg::layout::{RawEntry, STATE_COMPLETE};
use cdi_image::cdimg::reader::CdiImage;
use cdi_image::cdimg::writer::{Store, Writer};
use cdi_image::codec::{Codec, Compressor, decompress};
use cdi_image::disk::{BadPolicy, Disk, Options};
use cdi_image::extent::{CompressedChunk, Extent, Origin};
use cdi_image::image::{Image, Opened};
use cdi_image::input::Input;
use lru::LruCache;

use super::options::image_like;
use super::rescue::event;

/// How many chunks are remembered to find those that are shared.
const REMEMBERED: NonZero<usize> = NonZero::new(1 << 18).expect("not 0");

/// Writes `image` anew into `store`. `step` is told of each few bytes of the disk that are done, and may end it all
/// with an error. Gives the length of the new file in bytes.
pub fn compact(
    input: &Arc<Input>,
    image: CdiImage,
    store: Box<dyn Store>,
    path: &Path,
    step: &mut dyn FnMut(u64) -> Result<(), Error>,
) -> Result<u64, Error> {
    let old = *image.superblock();
    let mut writer = Writer::create(store, path, &image_like(&old)?, image.metadata().clone())?;
    image.events(&mut |line| writer.note_line(line), &mut || step(0))?;
    writer.note(&event("compacted", serde_json::json!({ "tool": super::options::TOOL })));
    let opened =
        Opened { image: Box::new(image), input: Arc::clone(input), format: &cdi_image::cdimg::FORMAT };
    let options = Options { bad: BadPolicy::Error, read_suspect: true, ..Options::default() };
    let disk = Disk::new(opened, options);
    let mut copy = Copy {
        disk: &disk,
        writer,
        known: LruCache::new(REMEMBERED),
        compressed: LruCache::new(REMEMBERED),
        compressor: Compressor::new(Codec::Zstd, Codec::Zstd.levels().1)
            .map_err(|e| Error::failed("zstd does not work").because(e))?,
    };
    copy.all(u64::from(old.chunk_size.get()), step)?;
    if old.state == STATE_COMPLETE { copy.writer.finish() } else { copy.writer.leave() }
}

struct Copy<'a> {
    disk: &'a Disk,
    writer: Writer,
    /// Payloads of the old image, by all that is said of them, and where they are in the new one.
    known: LruCache<CompressedChunk, RawEntry>,
    /// Runs that were compressed anew, by the BLAKE3 of their bytes.
    compressed: LruCache<[u8; 32], RawEntry>,
    compressor: Compressor,
}

impl Copy<'_> {
    fn all(&mut self, chunk: u64, step: &mut dyn FnMut(u64) -> Result<(), Error>) -> Result<(), Error> {
        let (size, mut at) = (self.disk.size(), 0);
        while at < size {
            let extent = self.disk.image().map(at).map_err(|e| self.damaged(at, e))?;
            let end = (at - at % chunk + chunk).min(size);
            let done = match extent.origin {
                // Whole chunks, or many of them.
                Origin::Unread if extent.disk.end >= end => extent.disk.end,
                Origin::Fill(pattern) if extent.disk.end >= end && self.is_held(&extent) => {
                    let until = if extent.disk.end == size {
                        size
                    } else {
                        extent.disk.end - extent.disk.end % chunk
                    };
                    self.writer.put_fill(at..until, pattern)?;
                    until
                }
                Origin::Compressed(compressed)
                    if extent.disk == (at..end)
                        && compressed.skip == 0
                        && u64::from(compressed.uncompressed) == end - at
                        && self.is_held(&extent) =>
                {
                    self.copy(at, compressed)?;
                    end
                }
                _ => {
                    self.compress(at..end)?;
                    end
                }
            };
            self.writer.copy_map(self.disk.bad(), at..done)?;
            step(done - at)?;
            at = done;
        }
        Ok(())
    }

    /// Whether the map says that all of an extent is in the image.
    fn is_held(&self, extent: &Extent) -> bool {
        self.disk.bad().touching(extent.disk.clone()).iter().all(|r| r.status.has_bytes())
    }

    /// Copies a chunk as it is.
    fn copy(&mut self, at: u64, compressed: CompressedChunk) -> Result<(), Error> {
        if let Some(entry) = self.known.get(&compressed) {
            return self.writer.put_same(at, compressed.uncompressed, *entry);
        }
        let mut stored = vec![0; compressed.len as usize];
        let read = self.disk.input().read_exact_at(compressed.file, &mut stored, compressed.at);
        read.map_err(|e| self.damaged(at, e))?;
        // What is not right must not get a right checksum.
        let mut bytes = vec![0; compressed.uncompressed as usize];
        let right =
            compressed.sum.holds(&stored) && decompress(compressed.codec, &stored, &mut bytes).is_ok();
        if !right {
            return Err(self.damaged(at, ReadError::Corrupt { at: compressed.at }));
        }
        let entry = self.writer.put_data(at, compressed.uncompressed, compressed.codec, &stored)?;
        self.known.put(compressed, entry);
        Ok(())
    }

    /// Compresses what there is of a chunk.
    fn compress(&mut self, chunk: Range<u64>) -> Result<(), Error> {
        for run in self.disk.bad().held(chunk) {
            let mut bytes = vec![0; index(run.end - run.start)];
            self.disk.read_at(&mut bytes, run.start).map_err(|e| self.damaged(run.start, e))?;
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let name = *blake3::hash(&bytes).as_bytes();
            if let Some(entry) = self.compressed.get(&name) {
                self.writer.put_same(run.start, len, *entry)?;
                continue;
            }
            let compressed = self
                .compressor
                .compress(&bytes)
                .map_err(|e| Error::failed("zstd does not work").because(e))?;
            let entry = match compressed {
                Some((codec, compressed)) => self.writer.put_data(run.start, len, codec, &compressed)?,
                None => self.writer.put_data(run.start, len, Codec::Stored, &bytes)?,
            };
            self.compressed.put(name, entry);
        }
        Ok(())
    }

    fn damaged(&self, at: u64, e: ReadError) -> Error {
        Error::bad_image(format!("what it holds of the disk at byte {at} cannot be read"))
            .at(self.disk.input().path())
            .because(e)
            .hint("nothing was changed")
            .then(Advice::Repair)
    }
}
