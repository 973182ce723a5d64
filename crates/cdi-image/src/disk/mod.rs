//! Reads a disk by offset. This is the only read loop, for all formats and all front ends.
//!
//! Bad sectors are applied here and nowhere else.

pub mod ahead;
mod batch;
mod core;
pub mod live;
pub mod runs;
mod state;
pub mod stats;

use core::Core;
pub use core::fill;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ahead::Ahead;
use cdi_base::error::ReadError;
use cdi_base::readable::{Missing, Readable};
use cdi_base::units::{SECTOR, index};
use cdi_base::workers::lock;
use stats::{Reads, Stats};

use crate::badmap::{BadBlocks, BadRange, Status};
use crate::extent::{Extent, FileNo};
use crate::image::{Format, Image, Opened};
use crate::input::Input;
use crate::memory::cache::Cache;
use crate::metadata::Metadata;
use crate::part::PART_OF_DISK;

/// What a read of a bad sector returns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum BadPolicy {
    /// An error, as from the original disk.
    #[default]
    Error,
    /// Zeros.
    Zero,
    /// This text repeated, starting again in each sector. Must not be empty.
    Pattern(Vec<u8>),
}

/// The options for reading a disk.
#[derive(Debug, Clone)]
pub struct Options {
    /// What a read of a bad sector returns.
    pub bad: BadPolicy,
    /// Whether reads of suspect sectors return the stored bytes; otherwise these sectors count as bad.
    pub read_suspect: bool,
    /// The maximum size of the cache of decompressed chunks, in bytes.
    pub cache: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { bad: BadPolicy::Error, read_suspect: false, cache: 64 << 20 }
    }
}

/// For what looks into a disk: what reads of bad sectors are filled with must not be taken for data.
impl Readable for Disk {
    fn size(&self) -> u64 {
        self.core.image.size()
    }

    fn sector(&self) -> u32 {
        self.core.sector
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> Result<(), ReadError> {
        self.read_or_fill(buffer, at, false)
    }

    fn missing(&self, range: Range<u64>) -> Vec<Missing> {
        let failing = self.core.failing_ranges().touching(range.clone()).iter();
        failing
            .map(|bad| Missing {
                range: bad.start.max(range.start)..bad.end.min(range.end),
                untried: is_untried(bad.status),
            })
            .collect()
    }
}

/// Returns whether nobody knows yet if sectors of this status can be read.
fn is_untried(status: Status) -> bool {
    !matches!(status, Status::Bad | Status::Suspect)
}

/// A disk that can be read.
pub struct Disk {
    core: Arc<Core>,
    ahead: OnceLock<Ahead>,
}

impl Disk {
    /// Creates the disk of an opened image.
    pub fn new(opened: Opened, options: Options) -> Disk {
        let Opened { image, input, format } = opened;
        let sector = match image.metadata().logical_sector_bytes {
            0 => SECTOR,
            bytes => bytes,
        };
        let fails = |r: &&BadRange| r.status != Status::Suspect || !options.read_suspect;
        let bad = image.bad();
        let same = bad.ranges().iter().all(|r| fails(&r)) && bad.is_rounded(sector, image.size());
        let failing = (!same).then(|| {
            let failing = bad.ranges().iter().filter(fails).copied();
            BadBlocks::from_unsorted(failing).rounded(sector, image.size())
        });
        let cache = Cache::new(options.cache, 128 << 10);
        let core = Core {
            image,
            input,
            format,
            options,
            failing,
            sector,
            marks: Mutex::default(),
            cache,
            reading: AtomicUsize::new(0),
            uncompressed: AtomicU64::new(0),
            corrupt: AtomicU64::new(0),
            unreadable: AtomicU64::new(0),
            reads: Reads::default(),
        };
        Disk { core: Arc::new(core), ahead: OnceLock::new() }
    }

    /// Starts readahead on `threads` threads, beginning with the image's index. Must not be called before the process
    /// forks. Fails if a thread cannot be started.
    pub fn start_readahead(&self, threads: usize) -> std::io::Result<()> {
        let core = Arc::clone(&self.core);
        let warm = move || {
            // After a panic in a parser only the head start is lost; readers get the error.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| core.image.warm()));
        };
        std::thread::Builder::new().name("index".into()).spawn(warm)?;
        let core = Arc::clone(&self.core);
        let budget = self.core.options.cache as u64 / 2;
        let ahead = Ahead::start(threads, self.size(), budget, Arc::new(move |range| core.prefetch(range)))?;
        let _ = self.ahead.set(ahead);
        Ok(())
    }

    /// Fills `buf` with the bytes at `offset`. On an error the contents of `buf` are undefined.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ReadError> {
        let start = Instant::now();
        let result = self.read_or_fill(buf, offset, self.core.options.bad != BadPolicy::Error);
        self.core.reads.note(buf.len(), start.elapsed(), result.is_err());
        result.inspect_err(|e| self.core.tell(*e))
    }

    fn read_or_fill(&self, buf: &mut [u8], offset: u64, filled: bool) -> Result<(), ReadError> {
        let len = buf.len() as u64;
        let end = offset.checked_add(len).filter(|end| *end <= self.size()).ok_or(ReadError::PastEnd)?;
        let core = &*self.core;
        if !filled && let Some(bad) = core.failing_ranges().next(offset).filter(|r| r.start < end) {
            let first = bad.start.max(offset);
            return Err(ReadError::Bad {
                sector: first / u64::from(core.sector),
                good: index(first - offset),
                untried: is_untried(bad.status),
            });
        }
        let in_flight = InFlightRead::new(&core.reading);
        // Several reads at once keep the cores busy, but not if all of them are in one large span.
        let alone = in_flight.alone || !core.image.details().packed.is_empty();
        let sequential = self.ahead.get().is_some_and(|ahead| ahead.note(offset, len, alone));
        let mut at = offset;
        while at < end {
            let out = &mut buf[index(at - offset)..];
            at = match core.failing_ranges().next(at) {
                Some(bad) if bad.start <= at => {
                    let stop = bad.end.min(end);
                    core.fill_bad(&mut out[..index(stop - at)], at);
                    stop
                }
                next => {
                    let stop = next.map_or(end, |bad| bad.start.min(end));
                    let out = &mut out[..index(stop - at)];
                    core.read_held(out, at, sequential)?;
                    if let Some(mark) = core.image.mark() {
                        core.check_marks(mark, out, at, offset, filled)?;
                    }
                    stop
                }
            };
        }
        Ok(())
    }

    /// Fills `buf` with the bytes that the image's files contain for `offset`, bad or not, and with zeros where they
    /// contain none or cannot be read.
    pub fn read_stored_or_zeros(&self, buf: &mut [u8], offset: u64) {
        let end = (offset + buf.len() as u64).min(self.size());
        let mut at = offset;
        while at < end {
            // If the index is damaged, the rest is zeros.
            let stop = self.core.map(at).map_or(end, |extent| extent.disk.end.min(end));
            let out = &mut buf[index(at - offset)..index(stop - offset)];
            if self.core.read_held(out, at, false).is_err() {
                out.fill(0);
            }
            at = stop;
        }
    }

    /// Checks whether a read of `range` returns zeros, as far as the index shows that without reading data.
    pub fn is_zeros(&self, range: Range<u64>) -> bool {
        let failing = self.core.failing_ranges().next(range.start).is_some_and(|bad| bad.start < range.end);
        range.end <= self.size()
            && !failing
            && self.core.map(range.start).is_ok_and(|e| e.origin.is_zero() && e.disk.end >= range.end)
    }

    /// Returns the extents of `range` in order, cut to the range. The iterator ends after an error.
    pub fn extents(&self, range: Range<u64>) -> impl Iterator<Item = Result<Extent, ReadError>> + '_ {
        let mut at = range.start;
        std::iter::from_fn(move || {
            if at >= range.end {
                return None;
            }
            let next = self.core.map(at).map(|extent| {
                let cut = at..extent.disk.end.min(range.end);
                Extent { origin: extent.origin.clone().skip(at - extent.disk.start), disk: cut }
            });
            at = next.as_ref().map_or(u64::MAX, |e| e.disk.end);
            Some(next)
        })
    }

    /// Returns the size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.core.image.size()
    }

    /// Returns the logical sector size in bytes; 512 if the image does not record it.
    pub fn sector(&self) -> u32 {
        self.core.sector
    }

    /// Returns the ranges of the disk that are not finished, as recorded in the image.
    pub fn bad(&self) -> &BadBlocks {
        self.core.image.bad()
    }

    /// Returns the ranges where reads fail or are filled: whole sectors, without suspect ranges if those are read.
    pub fn failing_ranges(&self) -> &BadBlocks {
        self.core.failing_ranges()
    }

    /// Returns the sectors that were found to be bad only when they were read: of formats in which they are marked by what
    /// they contain ([`Image::mark`]).
    pub fn found_bad(&self) -> BadBlocks {
        lock(&self.core.marks).settle().clone()
    }

    /// Checks whether any read of this disk fails because of a bad sector.
    pub fn has_failing_reads(&self) -> bool {
        self.core.options.bad == BadPolicy::Error && !self.core.failing_ranges().is_empty()
    }

    /// Returns the metadata of the disk.
    pub fn metadata(&self) -> &Metadata {
        self.core.image.metadata()
    }

    /// Returns the image.
    pub fn image(&self) -> &dyn Image {
        &*self.core.image
    }

    /// Returns the files of the image.
    pub fn input(&self) -> &Input {
        &self.core.input
    }

    /// Returns a value that distinguishes this image from every other, and is the same when it is opened again: a
    /// hash of its format, length and modification time, and of its first 4096 bytes, where formats store what is
    /// unique to an image.
    pub fn identity(&self) -> [u8; 32] {
        let input = self.input();
        let mut start = vec![0; index(input.len().min(4096))];
        // If they cannot be read, zeros are hashed instead.
        let _ = input.read_exact_at(FileNo(0), &mut start, 0);
        let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let mut hash = blake3::Hasher::new();
        hash.update(self.format().name.as_bytes()).update(&input.len().to_be_bytes());
        hash.update(&input.modified().map_or(0, since).to_be_bytes()).update(&start);
        if let Some(part) = self.metadata().more.get(PART_OF_DISK) {
            hash.update(part.to_string().as_bytes());
        }
        *hash.finalize().as_bytes()
    }

    /// Returns the format of the image.
    pub fn format(&self) -> &'static Format {
        self.core.format
    }

    /// Returns the read statistics so far.
    pub fn stats(&self) -> Stats {
        let parity = self.core.input.parity().map(|parity| parity.summary()).unwrap_or_default();
        Stats {
            cache_hits: self.core.cache.hits(),
            cache_bytes: self.core.cache.bytes() as u64,
            remote: self.core.input.remote_stats(),
            chunks_decompressed: self.core.uncompressed.load(Ordering::Relaxed),
            chunks_damaged: self.core.corrupt.load(Ordering::Relaxed),
            restored_reads: parity.restored_reads,
            restored_bytes: parity.restored_bytes,
            ..self.core.reads.stats()
        }
    }
}

/// A read in progress.
struct InFlightRead<'a> {
    reading: &'a AtomicUsize,
    /// Whether it was the only one when it started.
    alone: bool,
}

impl InFlightRead<'_> {
    fn new(reading: &AtomicUsize) -> InFlightRead<'_> {
        InFlightRead { reading, alone: reading.fetch_add(1, Ordering::Relaxed) == 0 }
    }
}

impl Drop for InFlightRead<'_> {
    fn drop(&mut self) {
        self.reading.fetch_sub(1, Ordering::Relaxed);
    }
}
