//! Creates an image: reads the source, compresses it on all cores, and writes it in order.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use cdi_base::error::Error;
use cdi_base::units::index;
use cdi_base::workers;
use cdi_image::cdimg::index::Geometry;
use cdi_image::cdimg::writer::{Store, Writer};
use cdi_image::disk::Disk;
use cdi_image::metadata::Metadata;
use serde_json::{Value, json};

use crate::buffer::Buffer;
use crate::compress::{Done, Part, Shared};
use crate::hash;
use crate::image_sink::ImageSink;
use crate::options::{Made, Options, TOOL};
use crate::{compress, jobs};

/// Creates an image of `source` in `store`, which must be empty. `step` is called with the number of bytes of the
/// disk done since its last call; an error from it cancels the operation. `source` must return suspect bytes, and
/// errors for bad ones.
pub fn create(
    source: &Disk,
    store: Box<dyn Store>,
    path: &Path,
    options: &Options,
    step: &mut dyn FnMut(u64) -> Result<(), Error>,
) -> Result<Made, Error> {
    let geometry = Geometry { disk_size: source.size(), chunk_size: options.chunk };
    let physical = options.physical_sector.unwrap_or_else(|| source.sector());
    let new = options.new_image(source.size(), source.sector(), physical, &seed(source))?;
    let mut metadata = Metadata {
        size_bytes: geometry.disk_size,
        logical_sector_bytes: new.logical_sector,
        physical_sector_bytes: new.physical_sector,
        created: options.now(),
        tool: Some(TOOL.into()),
        ..options.metadata.clone()
    };
    let shared = Shared::new(options.clone());
    let mut sink = ImageSink::new(Writer::create(store, path, &new, metadata.clone())?, &shared);
    let seal = source.image().seal(&mut || step(0))?;
    begin(&mut sink.writer, options, &metadata, seal.digest);
    let mut stored_hashes = hash::checks(source);
    workers::ordered(
        options.threads,
        jobs::jobs(source, geometry),
        || None,
        |compressor, job| compress::work(source, geometry, &shared, compressor, job),
        |done: Done| {
            let disk = done.disk.clone();
            for part in &done.parts {
                match part {
                    Part::Fill { disk, pattern } => {
                        let (at, len, pattern) = (disk.start, disk.end - disk.start, *pattern);
                        stored_hashes.run(move |hashes| hashes.fill(at, len, pattern));
                    }
                    Part::Missing { disk, .. } => {
                        let (at, len) = (disk.start, disk.end - disk.start);
                        stored_hashes.run(move |hashes| hashes.zeros(at, len));
                    }
                    Part::Bytes(bytes) => {
                        let (at, raw) = (bytes.start, Arc::clone(&bytes.raw));
                        stored_hashes.run(move |hashes| hashes.bytes(at, &raw));
                    }
                }
            }
            sink.take(done)?;
            // Copy the map along with the data: otherwise finished and non-tried ranges would alternate more often
            // than on the source.
            sink.writer.copy_map(source.bad(), disk.clone())?;
            step(disk.end - disk.start)
        },
    )?;
    let (mut writer, mut made, hashes) = sink.finish();
    if let Some(hashes) = hashes {
        hashes.finish().store(&mut metadata);
    }
    metadata.finished = options.now();
    if made.failed_bytes == 0 {
        made.checked = stored_hashes.finish().finish();
    }
    made.missing_bytes = writer.bad().missing();
    made.not_as_sealed = seal.flaws.into_iter().map(|(flaw, _)| flaw.to_string()).collect();
    writer.set_metadata(metadata.clone());
    let mut details = json!({ "why": "finished", "failed_bytes": made.failed_bytes });
    if !made.not_as_sealed.is_empty() {
        details["source_not_as_sealed"] = json!(made.not_as_sealed);
    }
    note(&mut writer, options, "ended", details);
    made.image_bytes = writer.finish()?;
    made.metadata = metadata;
    Ok(made)
}

/// Creates an image in `store`, which must be empty, of everything that can be read from `source`: the bytes of a
/// disk with sectors of `sector` bytes, whose size is unknown until the end. `step` is called with the number of
/// bytes done since its last call; an error from it cancels the operation.
pub fn create_from_stream(
    mut source: impl Read + Send,
    sector: u32,
    store: Box<dyn Store>,
    path: &Path,
    options: &Options,
    step: &mut dyn FnMut(u64) -> Result<(), Error>,
) -> Result<Made, Error> {
    let failed = |e| Error::failed("cannot read stdin").because(e);
    let shared = Shared::new(options.clone());
    let first = read_block(&mut source, &shared);
    step(0)?;
    let first = first.map_err(failed)?;
    if first.is_empty() {
        return Err(Error::failed("no data on stdin"));
    }
    let physical = options.physical_sector.unwrap_or(sector);
    let new = options.new_image(first.len() as u64, sector, physical, &first)?;
    let mut metadata = Metadata {
        size_bytes: first.len() as u64,
        logical_sector_bytes: new.logical_sector,
        physical_sector_bytes: new.physical_sector,
        created: options.now(),
        tool: Some(TOOL.into()),
        ..options.metadata.clone()
    };
    let mut sink = ImageSink::new(Writer::create(store, path, &new, metadata.clone())?, &shared);
    begin(&mut sink.writer, options, &metadata, None);
    // The boundaries of chunks do not depend on the size of the disk.
    let endless = Geometry { disk_size: i64::MAX.cast_unsigned(), ..new.geometry };
    let mut at = 0;
    let mut next = Some(Ok(first));
    let blocks = std::iter::from_fn(|| {
        let block = next.take().unwrap_or_else(|| read_block(&mut source, &shared));
        let start = at;
        match &block {
            Ok(block) if block.is_empty() => return None,
            Ok(block) => at += block.len() as u64,
            // Nothing comes after an error.
            Err(_) => next = Some(Ok(Buffer::default())),
        }
        Some((start, block))
    });
    workers::ordered(
        options.threads,
        blocks,
        || None,
        |compressor, (start, block)| {
            block.map(|raw| compress::compress(endless, &shared, compressor, start, raw))
        },
        |bytes| {
            if bytes.is_err() {
                step(0)?;
            }
            let bytes = bytes.map_err(failed)?;
            let (start, len) = (bytes.start, bytes.raw.len() as u64);
            if start > 0 {
                sink.writer.grow(start + len)?;
            }
            sink.bytes(bytes)?;
            step(len)
        },
    )?;
    let (mut writer, mut made, hashes) = sink.finish();
    if let Some(hashes) = hashes {
        hashes.finish().store(&mut metadata);
    }
    metadata.size_bytes = writer.geometry().disk_size;
    metadata.finished = options.now();
    writer.set_metadata(metadata.clone());
    note(&mut writer, options, "ended", json!({ "why": "finished" }));
    // So that the superblock before the last one also has the size of the disk.
    writer.checkpoint()?;
    made.image_bytes = writer.finish()?;
    made.metadata = metadata;
    Ok(made)
}

/// Adds the first event to the log of the image. `digest` is that of the source, if it has one.
fn begin(writer: &mut Writer, options: &Options, metadata: &Metadata, digest: Option<String>) {
    let mut details = json!({ "tool": TOOL, "source": metadata.source, "options": options.command });
    if let Some(digest) = digest {
        details["source_digest"] = digest.into();
    }
    note(writer, options, "begun", details);
}

/// Adds an event to the log of the image, with the time if the options allow one.
fn note(writer: &mut Writer, options: &Options, event: &str, mut details: Value) {
    // Without times, no log is kept.
    let Some(time) = options.now() else { return };
    details["event"] = event.into();
    details["time"] = time.into();
    writer.note(&details);
}

/// Returns bytes that distinguish a disk from others of its size: its first mebibyte, with zeros where it cannot be
/// read, and the stored hashes.
fn seed(source: &Disk) -> Vec<u8> {
    let mut seed = vec![0; index(source.size().min(1 << 20))];
    source.read_stored_or_zeros(&mut seed, 0);
    source.image().stored_hashes().iter().for_each(|hash| seed.extend_from_slice(&hash.value));
    seed
}

/// Reads 1 MiB, or less at the end.
fn read_block(source: &mut impl Read, shared: &Shared) -> std::io::Result<Buffer> {
    let mut block = shared.buffer(1 << 20);
    let mut done = 0;
    while done < block.len() {
        match source.read(&mut block[done..]) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    block.set_len(done);
    Ok(block)
}
