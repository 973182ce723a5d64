//! What the index of a damaged image finds. Records name the bytes of the disk that they cover, and the index finds the
//! same bytes without them: where the header of a record is lost, or that of a later record for the same bytes, only the
//! index leads to what the image held last.

use std::ops::Range;
use std::sync::Arc;

use cdi_base::error::Error;
use cdi_base::units::index;
use cdi_image::cdimg::layout::FANOUT;
use cdi_image::cdimg::reader::CdiImage;
use cdi_image::cdimg::writer::Writer;
use cdi_image::codec::{Codec, Compressor};
use cdi_image::disk::{BadPolicy, Disk, Options};
use cdi_image::extent::Origin;
use cdi_image::image::Opened;
use cdi_image::input::Input;

/// Returns a disk that reads everything that `image` holds.
pub(super) fn disk(image: CdiImage, input: &Arc<Input>) -> Disk {
    let opened =
        Opened { image: Box::new(image), input: Arc::clone(input), format: &cdi_image::cdimg::FORMAT };
    Disk::new(opened, Options { bad: BadPolicy::Error, read_suspect: true, ..Options::default() })
}

/// Adds to `writer`, which makes the image that `new` reads, what `old` holds and `new` does not, or holds otherwise.
/// `step` is called with the offset on the disk, in bytes.
pub(super) fn add(
    old: &Disk,
    new: &Disk,
    writer: &mut Writer,
    step: &mut dyn FnMut(u64) -> Result<(), Error>,
) -> Result<(), Error> {
    let chunk = u64::from(writer.geometry().chunk_size);
    let codec = Codec::Zstd;
    let mut adding = Adding {
        old,
        new,
        writer,
        compressor: Compressor::new(codec, codec.levels().1)
            .map_err(|e| Error::failed("cannot set up zstd").because(e))?,
    };
    let (size, mut at, mut failed) = (old.size(), 0, None);
    while at < size {
        step(at)?;
        let chunk_end = (at - at % chunk + chunk).min(size);
        let Ok(extent) = old.image().map(at) else {
            // Where two chunks in a row are not found, a node is lost, and with it all chunks of that node.
            let leaf = chunk * FANOUT;
            let node_lost = failed.replace(chunk_end) == Some(at);
            at = if node_lost { (at - at % leaf + leaf).min(size) } else { chunk_end };
            continue;
        };
        let end = match extent.origin {
            Origin::Unread | Origin::Fill(_) => extent.disk.end,
            _ => extent.disk.end.min(chunk_end),
        };
        if extent.origin != Origin::Unread {
            for run in old.bad().held(at..end) {
                adding.add(run, &extent.origin)?;
            }
        }
        at = end;
    }
    Ok(())
}

struct Adding<'a> {
    old: &'a Disk,
    new: &'a Disk,
    writer: &'a mut Writer,
    compressor: Compressor,
}

impl Adding<'_> {
    /// Adds a run within an extent of the old image, unless the new one has it.
    fn add(&mut self, run: Range<u64>, origin: &Origin) -> Result<(), Error> {
        if let Origin::Fill(pattern) = origin {
            if !self.is_filled(&run, *pattern) {
                self.writer.put_fill(run.clone(), *pattern)?;
                self.writer.copy_map(self.old.bad(), run)?;
            }
            return Ok(());
        }
        let mut bytes = vec![0; index(run.end - run.start)];
        if self.old.read_at(&mut bytes, run.start).is_err() {
            return Ok(());
        }
        let mut there = vec![0; bytes.len()];
        if self.new.read_at(&mut there, run.start).is_ok() && there == bytes {
            return Ok(());
        }
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let compressed = self.compressor.compress(&bytes);
        match compressed.map_err(|e| Error::failed("zstd compression failed").because(e))? {
            Some((codec, compressed)) => self.writer.put_data(run.start, len, codec, &compressed)?,
            None => self.writer.put_data(run.start, len, Codec::Stored, &bytes)?,
        };
        self.writer.copy_map(self.old.bad(), run)
    }

    /// Returns whether the new image has this pattern in the whole run.
    fn is_filled(&self, run: &Range<u64>, pattern: [u8; 8]) -> bool {
        let mut at = run.start;
        while at < run.end {
            match self.new.image().map(at) {
                Ok(extent) if extent.origin == Origin::Fill(pattern) => at = extent.disk.end,
                _ => return false,
            }
        }
        self.new.bad().held(run.clone()).eq([run.clone()])
    }
}
