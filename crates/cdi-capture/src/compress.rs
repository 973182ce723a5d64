//! The work of the worker threads: reads a part of the disk and compresses its chunks.

use cdi_base::workers::lock;
use std::io;
use std::num::NonZero;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use cdi_base::error::ReadError;
use cdi_base::units::index;
use cdi_image::cdimg::index::Geometry;
use cdi_image::cdimg::layout::RawEntry;
use cdi_image::codec::{Codec, Compressor};
use cdi_image::disk::Disk;
use lru::LruCache;

use super::buffer::{Buffer, Spare};
use super::jobs::Job;
use super::options::Options;

/// The number of chunks that are remembered to find duplicates: about 32 MiB of memory.
const REMEMBERED: NonZero<usize> = NonZero::new(1 << 18).expect("not 0");
/// The maximum number of buffers of compressed bytes kept for reuse.
const SPARE: usize = 16;

/// Identifies a chunk by its contents: BLAKE3, because the data may have been crafted to collide.
pub(super) type Name = [u8; 32];

/// State shared by the workers and the sink.
pub(super) struct Shared {
    pub options: Options,
    /// Chunks that are in the image or, without an entry, on their way into it.
    known: Mutex<LruCache<Name, Option<RawEntry>>>,
    spare: Arc<Spare>,
    spare_compressed: Mutex<Vec<Vec<u8>>>,
}

/// The result for a part of the disk.
pub(super) struct Done {
    pub disk: Range<u64>,
    /// In order; together they cover `disk`.
    pub parts: Vec<Part>,
}

pub(super) enum Part {
    Fill { disk: Range<u64>, pattern: [u8; 8] },
    Missing { disk: Range<u64>, failed: Option<ReadError> },
    Bytes(Bytes),
}

/// A contiguous run of bytes read from the disk.
pub(super) struct Bytes {
    pub start: u64,
    pub raw: Arc<Buffer>,
    /// The compressed pieces, one after the other.
    pub compressed: Vec<u8>,
    /// In order; together they cover `raw`. No piece crosses a chunk boundary.
    pub pieces: Vec<Piece>,
}

pub(super) struct Piece {
    pub len: usize,
    pub how: How,
}

pub(super) enum How {
    Fill([u8; 8]),
    /// Compressed by a codec: a range of the compressed bytes.
    CompressedChunk(Name, Codec, Range<usize>),
    /// Stored uncompressed, because compression does not help.
    Stored(Name),
    /// A duplicate of a chunk that is in the image, or on its way into it.
    Same(Name),
    /// The codec failed.
    Failed(io::Error),
}

impl Shared {
    pub(super) fn new(options: Options) -> Shared {
        let known = Mutex::new(LruCache::new(REMEMBERED));
        Shared { options, known, spare: Arc::default(), spare_compressed: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, LruCache<Name, Option<RawEntry>>> {
        lock(&self.known)
    }

    /// Checks whether these bytes are known already, and remembers them if not.
    fn is_known(&self, name: &Name) -> bool {
        let mut known = self.known();
        known.get(name).is_some() || known.put(*name, None).is_some()
    }

    pub(super) fn entry(&self, name: &Name) -> Option<RawEntry> {
        self.known().get(name).copied().flatten()
    }

    pub(super) fn set_entry(&self, name: Name, entry: RawEntry) {
        self.known().put(name, Some(entry));
    }

    /// Returns a buffer of `len` bytes with unspecified contents.
    pub(super) fn buffer(&self, len: usize) -> Buffer {
        self.spare.buffer(len)
    }

    /// Returns a buffer for reuse after its bytes have been written.
    pub(super) fn give_back(&self, compressed: Vec<u8>) {
        keep(&self.spare_compressed, compressed);
    }
}

fn take<T: Default>(spare: &Mutex<Vec<T>>) -> T {
    lock(spare).pop().unwrap_or_default()
}

fn keep<T>(spare: &Mutex<Vec<T>>, one: T) {
    let mut spare = lock(spare);
    if spare.len() < SPARE {
        spare.push(one);
    }
}

/// Processes a job.
pub(super) fn work(
    source: &Disk,
    geometry: Geometry,
    shared: &Shared,
    compressor: &mut Option<Compressor>,
    job: Job,
) -> Done {
    match job {
        Job::Fill(disk, pattern) => Done { parts: vec![Part::Fill { disk: disk.clone(), pattern }], disk },
        Job::Missing(disk) => Done { parts: vec![Part::Missing { disk: disk.clone(), failed: None }], disk },
        Job::Read(disk) => {
            let mut parts = Vec::new();
            let mut at = disk.start;
            for run in source.bad().held(disk.clone()) {
                if run.start > at {
                    parts.push(Part::Missing { disk: at..run.start, failed: None });
                }
                at = run.end;
                read_run(source, shared, run, &mut |range, got| {
                    parts.push(match got {
                        Ok(raw) => Part::Bytes(compress(geometry, shared, compressor, range.start, raw)),
                        Err(e) => Part::Missing { disk: range, failed: Some(e) },
                    });
                });
            }
            if at < disk.end {
                parts.push(Part::Missing { disk: at..disk.end, failed: None });
            }
            Done { disk, parts }
        }
    }
}

/// Reads `run`, in smaller pieces where that fails. Calls `give` with the runs that were read and those that failed, in
/// order.
fn read_run(
    source: &Disk,
    shared: &Shared,
    run: Range<u64>,
    give: &mut dyn FnMut(Range<u64>, Result<Buffer, ReadError>),
) {
    let read = |range: &Range<u64>| {
        let mut buf = shared.buffer(index(range.end - range.start));
        source.read_at(&mut buf, range.start).map(|()| buf)
    };
    let error = match read(&run) {
        Ok(bytes) => return give(run, Ok(bytes)),
        Err(error) => error,
    };
    // An unreadable sector loses only itself; damage in the source's file loses a chunk, which is part of one extent.
    let sector = u64::from(source.sector());
    let piece_end = |at: u64| match error {
        ReadError::Corrupt { .. } | ReadError::Unmapped { .. } => {
            source.image().map(at).map_or(run.end, |extent| extent.disk.end.max(at + 1))
        }
        _ => at - at % sector + sector,
    };
    let mut good: Vec<u8> = Vec::new();
    let mut bad: Option<(Range<u64>, ReadError)> = None;
    let mut at = run.start;
    while at < run.end {
        let piece = at..piece_end(at).min(run.end);
        at = piece.end;
        match read(&piece) {
            Ok(bytes) => {
                if let Some((range, e)) = bad.take() {
                    give(range, Err(e));
                }
                good.extend_from_slice(&bytes);
            }
            Err(e) => {
                if !good.is_empty() {
                    let bytes = std::mem::take(&mut good);
                    give(piece.start - bytes.len() as u64..piece.start, Ok(bytes.into()));
                }
                // Bad sectors next to damage stay apart.
                match &mut bad {
                    Some((range, before)) if is_alike(before, &e) => range.end = piece.end,
                    _ => {
                        if let Some((range, before)) = bad.replace((piece, e)) {
                            give(range, Err(before));
                        }
                    }
                }
            }
        }
    }
    if let Some((range, e)) = bad {
        give(range, Err(e));
    }
    if !good.is_empty() {
        give(run.end - good.len() as u64..run.end, Ok(good.into()));
    }
}

/// Returns whether two errors are of the same kind.
fn is_alike(one: &ReadError, other: &ReadError) -> bool {
    std::mem::discriminant(one) == std::mem::discriminant(other)
}

/// Compresses bytes of the disk at offset `start`, chunk by chunk.
pub(super) fn compress(
    geometry: Geometry,
    shared: &Shared,
    compressor: &mut Option<Compressor>,
    start: u64,
    raw: Buffer,
) -> Bytes {
    let mut compressed = take(&shared.spare_compressed);
    compressed.clear();
    let mut pieces: Vec<Piece> = Vec::new();
    let mut at = 0;
    while at < raw.len() {
        let offset = start + at as u64;
        let chunk = geometry.bytes(geometry.chunk_of(offset), 1);
        let piece = &raw[at..raw.len().min(at + index(chunk.end - offset))];
        at += piece.len();
        let how = compress_piece(shared, compressor, offset, piece, &mut compressed);
        match (&how, pieces.last_mut()) {
            (How::Fill(pattern), Some(Piece { len, how: How::Fill(before) })) if pattern == before => {
                *len += piece.len();
            }
            _ => pieces.push(Piece { len: piece.len(), how }),
        }
    }
    Bytes { start, raw: Arc::new(raw), compressed, pieces }
}

fn compress_piece(
    shared: &Shared,
    compressor: &mut Option<Compressor>,
    offset: u64,
    piece: &[u8],
    compressed: &mut Vec<u8>,
) -> How {
    if let Some(pattern) = pattern_of(piece).filter(|_| offset.is_multiple_of(8)) {
        return How::Fill(pattern);
    }
    let name = *blake3::hash(piece).as_bytes();
    if shared.options.reproducible.is_none() && shared.is_known(&name) {
        return How::Same(name);
    }
    let from = compressed.len();
    match compress_into(&shared.options, compressor, piece, compressed) {
        Ok(Some(codec)) => How::CompressedChunk(name, codec, from..compressed.len()),
        Ok(None) => How::Stored(name),
        Err(e) => How::Failed(e),
    }
}

/// Appends the compressed `piece` to `compressed`. Returns None and appends nothing if it is better stored
/// uncompressed.
pub(super) fn compress_into(
    options: &Options,
    compressor: &mut Option<Compressor>,
    piece: &[u8],
    compressed: &mut Vec<u8>,
) -> io::Result<Option<Codec>> {
    if compressor.is_none() {
        *compressor = Some(Compressor::new(options.codec, options.level)?);
    }
    compressor.as_mut().map_or(Ok(None), |compressor| compressor.compress_to(piece, compressed))
}

/// Returns the pattern of eight bytes that `raw` repeats, if it does.
fn pattern_of(raw: &[u8]) -> Option<[u8; 8]> {
    let pattern = *raw.first_chunk::<8>()?;
    (raw[8..] == raw[..raw.len() - 8]).then_some(pattern)
}
