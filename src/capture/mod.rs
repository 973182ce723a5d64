//! How an image is made: a source is read, packed on every core, and written in order.

pub mod hash;
pub mod target;

use std::io;
use std::num::NonZero;
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use lru::LruCache;

use crate::disk::Disk;
use crate::error::{Error, ReadError};
use crate::image::Origin;
use crate::image::bad::{BadRange, Reason, Status};
use crate::image::cdi::index::Geometry;
use crate::image::cdi::layout::RawEntry;
use crate::image::cdi::write::{NewImage, Store, Writer};
use crate::image::codec::{Codec, Packer};
use crate::image::facts::{Facts, rfc3339};
use crate::parallel;
use crate::system::random;
use crate::units::index;
use hash::Hashes;

/// The chunk size where the user does not say, in bytes. docs/ARCHITECTURE.md has the measurement.
pub const DEFAULT_CHUNK: u32 = 32 << 10;

/// How an image is to be made.
#[derive(Debug, Clone)]
pub struct Options {
    /// How chunks are packed.
    pub codec: Codec,
    /// At which level.
    pub level: i32,
    /// The size of a chunk in bytes.
    pub chunk: u32,
    /// The physical sector size of the disk in bytes, if it is not the logical one.
    pub physical_sector: Option<u32>,
    /// Facts that the user tells.
    pub facts: Facts,
    /// How many threads pack.
    pub threads: usize,
}

/// What was made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Made {
    /// The length of the image file in bytes.
    pub image_bytes: u64,
    /// Bytes of the disk that are stored as chunks.
    pub packed_bytes: u64,
    /// Bytes of the disk that are the same as others and share their chunk.
    pub shared_bytes: u64,
    /// Bytes of the disk that are zeros or another pattern.
    pub fill_bytes: u64,
    /// Bytes of the disk that the image does not hold.
    pub missing_bytes: u64,
    /// Of these, bytes whose reading failed just now.
    pub failed_bytes: u64,
    /// The facts as they stand in the image.
    pub facts: Facts,
}

/// How many chunks are remembered to find equal ones: 16 MiB of memory.
const REMEMBERED: NonZero<usize> = NonZero::new(1 << 18).expect("not 0");

/// The longest part of the disk that is done in one piece, in bytes: a multiple of every chunk size.
const LONGEST_JOB: u64 = 64 << 20;

/// The bytes of a checkpoint: so much is at risk while an image is made, at most.
const CHECKPOINT_EVERY: u64 = 256 << 20;

/// Makes an image of `source` in `store`, which is empty. `step` is told of each few bytes of the disk that are
/// done, and may end it all with an error. `source` must give suspect bytes and errors for bad ones.
pub fn create(
    source: &Disk,
    store: Box<dyn Store>,
    path: &Path,
    options: &Options,
    step: &mut dyn FnMut(u64) -> Result<(), Error>,
) -> Result<Made, Error> {
    let geometry = Geometry { disk_size: source.size(), chunk_size: options.chunk };
    let random = random()?;
    let new = NewImage {
        geometry,
        logical_sector: source.sector(),
        physical_sector: options.physical_sector.unwrap_or_else(|| source.sector()),
        uuid: std::array::from_fn(|i| random[i]),
        salt: u64::from_le_bytes(std::array::from_fn(|i| random[16 + i])).max(1),
    };
    let mut facts = Facts {
        size_bytes: geometry.disk_size,
        logical_sector_bytes: new.logical_sector,
        physical_sector_bytes: new.physical_sector,
        created: Some(rfc3339(SystemTime::now())),
        tool: Some(concat!("cdi ", env!("CARGO_PKG_VERSION")).into()),
        ..options.facts.clone()
    };
    let mut sink = Sink {
        writer: Writer::create(store, path, &new, facts.clone())?,
        hashes: Hashes::new(),
        known: &Mutex::new(LruCache::new(REMEMBERED)),
        made: Made::default(),
        checkpoint_at: CHECKPOINT_EVERY,
    };
    // Told once and not by reading: everything that the source's map calls not finished.
    for r in source.bad().ranges() {
        sink.writer.set_status(*r)?;
    }
    sink.writer.checkpoint()?;
    let known = sink.known;
    let pack = |packer: &mut Option<Packer>, job: Job| work(source, options, known, packer, job);
    parallel::ordered(
        options.threads,
        jobs(source, geometry),
        || None,
        pack,
        |done: Done| {
            let len = done.disk.end - done.disk.start;
            sink.take(done)?;
            sink.checkpoint_if_due()?;
            step(len)
        },
    )?;
    let Sink { mut writer, hashes, mut made, .. } = sink;
    let (blake3, sha256) = hashes.finish();
    (facts.blake3_stored, facts.sha256_zero_filled) = (Some(blake3), Some(sha256));
    facts.finished = Some(rfc3339(SystemTime::now()));
    made.missing_bytes = writer.bad().missing();
    writer.set_facts(facts.clone());
    made.image_bytes = writer.finish()?;
    made.facts = facts;
    Ok(made)
}

/// A part of the disk to be worked on: whole chunks.
enum Job {
    /// One chunk to be read.
    Chunk(Range<u64>),
    /// Chunks that are known to be this pattern.
    Fill(Range<u64>, [u8; 8]),
    /// Chunks of which the source holds nothing.
    Missing(Range<u64>),
}

/// What became of a part of the disk.
struct Done {
    disk: Range<u64>,
    /// In order; together they are `disk`.
    parts: Vec<Part>,
}

enum Part {
    Fill { disk: Range<u64>, pattern: [u8; 8] },
    Data { start: u64, raw: Vec<u8>, name: [u8; 32], packed: Packed },
    Missing { disk: Range<u64>, failed: Option<ReadError> },
}

enum Packed {
    /// As a codec made it.
    By(Codec, Vec<u8>),
    /// Better left as it is.
    Raw,
    /// The same as a chunk that is in the image already.
    Same(RawEntry),
    /// The codec failed.
    Failed(io::Error),
}

type Known = Mutex<LruCache<[u8; 32], RawEntry>>;

/// Cuts the disk into jobs. Long runs that need no reading are one job each.
fn jobs(source: &Disk, geometry: Geometry) -> impl Iterator<Item = Job> + Send + '_ {
    let chunk = u64::from(geometry.chunk_size);
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= geometry.disk_size {
            return None;
        }
        // Where a run that began at `at` may end: on a chunk's border, or with the disk.
        // Not too far, so that the user can interrupt in between.
        let border = |end: u64| match end.min(at + LONGEST_JOB) {
            end if end >= geometry.disk_size => geometry.disk_size,
            end => end - end % chunk,
        };
        let bad = source.bad().next(at);
        let job = match bad.filter(|r| r.start <= at && !r.status.has_bytes() && border(r.end) > at) {
            Some(r) => Job::Missing(at..border(r.end)),
            None => {
                let until = border(bad.map_or(geometry.disk_size, |r| r.start));
                match source.image().map(at).map(|extent| (border(extent.disk.end).min(until), extent.origin))
                {
                    Ok((end, Origin::Fill(pattern))) if end > at => Job::Fill(at..end, pattern),
                    _ => Job::Chunk(at..(at + chunk).min(geometry.disk_size)),
                }
            }
        };
        let (Job::Chunk(range) | Job::Fill(range, _) | Job::Missing(range)) = &job;
        at = range.end;
        Some(job)
    })
}

fn work(source: &Disk, options: &Options, known: &Known, packer: &mut Option<Packer>, job: Job) -> Done {
    match job {
        Job::Fill(disk, pattern) => Done { parts: vec![Part::Fill { disk: disk.clone(), pattern }], disk },
        Job::Missing(disk) => Done { parts: vec![Part::Missing { disk: disk.clone(), failed: None }], disk },
        Job::Chunk(disk) => {
            let mut parts = Vec::new();
            let mut at = disk.start;
            for run in source.bad().held(disk.clone()) {
                if run.start > at {
                    parts.push(Part::Missing { disk: at..run.start, failed: None });
                }
                at = run.end;
                read_run(source, run, &mut |range, got| {
                    parts.push(match got {
                        Ok(raw) => pack(options, known, packer, range.start, raw),
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

/// Reads `run`; where that fails, in smaller pieces. `give` gets runs that were read and runs that were not, in order.
fn read_run(source: &Disk, run: Range<u64>, give: &mut dyn FnMut(Range<u64>, Result<Vec<u8>, ReadError>)) {
    let read = |range: &Range<u64>| {
        let mut buf = vec![0; index(range.end - range.start)];
        source.read_at(&mut buf, range.start).map(|()| buf)
    };
    let error = match read(&run) {
        Ok(bytes) => return give(run, Ok(bytes)),
        Err(error) => error,
    };
    // A sector that cannot be read costs itself; damage of the source's file costs its chunk, which lies in one extent.
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
                    give(piece.start - bytes.len() as u64..piece.start, Ok(bytes));
                }
                match &mut bad {
                    Some((range, _)) => range.end = piece.end,
                    None => bad = Some((piece, e)),
                }
            }
        }
    }
    if let Some((range, e)) = bad {
        give(range, Err(e));
    }
    if !good.is_empty() {
        give(run.end - good.len() as u64..run.end, Ok(good));
    }
}

fn pack(options: &Options, known: &Known, packer: &mut Option<Packer>, start: u64, raw: Vec<u8>) -> Part {
    if let Some(pattern) = pattern_of(&raw).filter(|_| start.is_multiple_of(8)) {
        return Part::Fill { disk: start..start + raw.len() as u64, pattern };
    }
    let name = *blake3::hash(&raw).as_bytes();
    if let Some(entry) = known.lock().unwrap_or_else(PoisonError::into_inner).get(&name) {
        return Part::Data { start, raw, name, packed: Packed::Same(*entry) };
    }
    let packed = (|| {
        if packer.is_none() {
            *packer = Some(Packer::new(options.codec, options.level)?);
        }
        packer.as_mut().map_or(Ok(None), |p| p.pack(&raw))
    })();
    let packed = match packed {
        Ok(Some((codec, bytes))) => Packed::By(codec, bytes),
        Ok(None) => Packed::Raw,
        Err(e) => Packed::Failed(e),
    };
    Part::Data { start, raw, name, packed }
}

/// The eight bytes that `raw` is made of, if it is.
fn pattern_of(raw: &[u8]) -> Option<[u8; 8]> {
    let pattern = *raw.first_chunk::<8>()?;
    (raw[8..] == raw[..raw.len() - 8]).then_some(pattern)
}

/// What takes the work's results in, in order.
struct Sink<'a> {
    writer: Writer,
    hashes: Hashes,
    known: &'a Known,
    made: Made,
    checkpoint_at: u64,
}

impl Sink<'_> {
    fn take(&mut self, done: Done) -> Result<(), Error> {
        for part in done.parts {
            match part {
                Part::Fill { disk, pattern } => {
                    let len = disk.end - disk.start;
                    self.hashes.fill(&pattern, len);
                    self.made.fill_bytes += len;
                    self.writer.put_fill(disk, pattern)?;
                }
                Part::Missing { disk, failed } => {
                    self.hashes.missing(disk.end - disk.start);
                    if let Some(error) = failed {
                        self.made.failed_bytes += disk.end - disk.start;
                        self.writer.set_status(match error {
                            ReadError::Io { errno } => {
                                let reason = Some(Reason::Errno(errno.unsigned_abs()));
                                BadRange { reason, tries: 1, ..BadRange::new(disk, Status::Bad) }
                            }
                            // The source's file is damaged: that says nothing of the disk.
                            _ => BadRange::new(disk, Status::NonTried),
                        })?;
                    }
                }
                Part::Data { start, raw, name, packed } => {
                    self.hashes.held(&raw);
                    let len = u32::try_from(raw.len())
                        .map_err(|_| Error::failed("a run is longer than a chunk"))?;
                    match packed {
                        Packed::Failed(e) => return Err(Error::failed("a chunk cannot be packed").because(e)),
                        Packed::Same(entry) => {
                            self.made.shared_bytes += u64::from(len);
                            self.writer.put_same(start, len, entry)?;
                        }
                        Packed::By(..) | Packed::Raw => {
                            let (codec, bytes) = match &packed {
                                Packed::By(codec, bytes) => (*codec, &bytes[..]),
                                _ => (Codec::Stored, &raw[..]),
                            };
                            self.made.packed_bytes += u64::from(len);
                            let entry = self.writer.put_data(start, len, codec, bytes)?;
                            self.known.lock().unwrap_or_else(PoisonError::into_inner).put(name, entry);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn checkpoint_if_due(&mut self) -> Result<(), Error> {
        if self.writer.end() < self.checkpoint_at {
            return Ok(());
        }
        self.checkpoint_at = self.writer.end() + CHECKPOINT_EVERY;
        self.writer.checkpoint()
    }
}
