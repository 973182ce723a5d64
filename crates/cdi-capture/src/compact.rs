//! Rewrites an image without superseded records. Chunks that were written in several parts become whole chunks again.

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
use serde_json::json;

use super::options::{TOOL, image_like};
use super::rescue::event;

/// The number of chunks that are remembered to find shared ones.
const REMEMBERED: NonZero<usize> = NonZero::new(1 << 18).expect("not 0");

/// Rewrites `image` into `store`; `command` is the command line, for the log. Calls `step` with the number of bytes of
/// the disk that were processed since the last call; an error from it stops the work. Returns the length of the new file
/// in bytes.
pub fn compact(
    input: &Arc<Input>,
    image: CdiImage,
    store: Box<dyn Store>,
    path: &Path,
    command: &[String],
    step: &mut dyn FnMut(u64) -> Result<(), Error>,
) -> Result<u64, Error> {
    let old = *image.superblock();
    let mut writer = Writer::create(store, path, &image_like(&old)?, image.metadata().clone())?;
    image.events(&mut |line| writer.note_line(line), &mut || step(0))?;
    writer.note(&event("compacted", json!({ "tool": TOOL, "options": command })));
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
            .map_err(|e| Error::failed("cannot set up zstd").because(e))?,
    };
    copy.copy_all(u64::from(old.chunk_size.get()), step)?;
    if old.state == STATE_COMPLETE { copy.writer.finish() } else { copy.writer.leave() }
}

struct Copy<'a> {
    disk: &'a Disk,
    writer: Writer,
    /// Payloads of the old image, by their description there, with their location in the new image.
    known: LruCache<CompressedChunk, RawEntry>,
    /// Runs that were compressed again, by the BLAKE3 hash of their bytes.
    compressed: LruCache<[u8; 32], RawEntry>,
    compressor: Compressor,
}

impl Copy<'_> {
    fn copy_all(&mut self, chunk: u64, step: &mut dyn FnMut(u64) -> Result<(), Error>) -> Result<(), Error> {
        let (size, mut at) = (self.disk.size(), 0);
        while at < size {
            let extent = self.disk.image().map(at).map_err(|e| self.read_error(at, e))?;
            let end = (at - at % chunk + chunk).min(size);
            let done = match extent.origin {
                // One or more whole chunks.
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

    /// Checks whether, according to the map, all bytes of an extent are in the image.
    fn is_held(&self, extent: &Extent) -> bool {
        self.disk.bad().touching(extent.disk.clone()).iter().all(|r| r.status.has_bytes())
    }

    /// Copies a chunk without recompressing it.
    fn copy(&mut self, at: u64, compressed: CompressedChunk) -> Result<(), Error> {
        if let Some(entry) = self.known.get(&compressed) {
            return self.writer.put_same(at, compressed.uncompressed, *entry);
        }
        let mut stored = vec![0; compressed.len as usize];
        let is_right = |stored: &[u8]| compressed.sum.matches(stored);
        let read = self.disk.input().read_right(compressed.file, &mut stored, compressed.at, is_right);
        read.map_err(|e| self.read_error(at, e))?;
        // Damaged data must not get a valid checksum.
        let mut bytes = vec![0; compressed.uncompressed as usize];
        if decompress(compressed.codec, &stored, &mut bytes).is_err() {
            return Err(self.read_error(at, ReadError::Corrupt { at: compressed.at }));
        }
        let entry = self.writer.put_data(at, compressed.uncompressed, compressed.codec, &stored)?;
        self.known.put(compressed, entry);
        Ok(())
    }

    /// Compresses the parts of a chunk that the image holds.
    fn compress(&mut self, chunk: Range<u64>) -> Result<(), Error> {
        for run in self.disk.bad().held(chunk) {
            let mut bytes = vec![0; index(run.end - run.start)];
            self.disk.read_at(&mut bytes, run.start).map_err(|e| self.read_error(run.start, e))?;
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let name = *blake3::hash(&bytes).as_bytes();
            if let Some(entry) = self.compressed.get(&name) {
                self.writer.put_same(run.start, len, *entry)?;
                continue;
            }
            let compressed = self
                .compressor
                .compress(&bytes)
                .map_err(|e| Error::failed("zstd compression failed").because(e))?;
            let entry = match compressed {
                Some((codec, compressed)) => self.writer.put_data(run.start, len, codec, &compressed)?,
                None => self.writer.put_data(run.start, len, Codec::Stored, &bytes)?,
            };
            self.compressed.put(name, entry);
        }
        Ok(())
    }

    fn read_error(&self, at: u64, e: ReadError) -> Error {
        Error::bad_image(format!("cannot read the data of disk byte {at}"))
            .at(self.disk.input().path())
            .because(e)
            .hint("nothing was changed")
            .then(Advice::Repair)
    }
}
