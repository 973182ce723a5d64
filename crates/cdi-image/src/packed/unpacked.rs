//! Reads the unpacked bytes of a packed file, by its index.

use std::io::{self, Read};
use std::num::NonZero;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use cdi_base::error::ReadError;
use cdi_base::units::index;
use cdi_base::workers::lock;
use lru::LruCache;

use super::Packing;
use super::build::contents;
use super::index::{Contents, Index, Point};
use crate::input::{PackedFile, ReadAt};
use crate::memory::buffers;
use crate::memory::cache::{Cache, Key};

/// The maximum memory for unpacked bytes, in bytes.
const CACHE: usize = 48 << 20;
/// The number of readers that are kept where spans are reached through others, and above which length of such a run of
/// spans only one is kept, in bytes: it may need much memory.
const READERS: (usize, u64) = (2, 64 << 20);
/// The number of spans that a reader keeps which others are waiting for.
const MISSED: usize = 16;

/// The number of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct SpanNo(usize);

impl Key for SpanNo {
    fn number(&self) -> u64 {
        self.0 as u64
    }
}

/// The unpacked bytes of a packed file.
pub struct Unpacked {
    under: Arc<dyn ReadAt>,
    index: Index,
    about: PackedFile,
    /// Whether reads of what may be wrong fail.
    refuses_suspect: AtomicBool,
    cache: Cache<SpanNo>,
    /// By the span with the restart point from which they began.
    readers: Mutex<LruCache<usize, Arc<Mutex<Option<Reader>>>>>,
}

/// Decompresses spans in order.
struct Reader {
    inner: Box<dyn Read + Send>,
    /// The span that comes next.
    next: usize,
    /// Spans that were decompressed on the way while others were waiting for them.
    missed: Vec<(usize, Vec<u8>)>,
}

impl Unpacked {
    /// Returns the unpacked bytes of `under`, by its index.
    pub(super) fn new(under: Arc<dyn ReadAt>, index: Index, path: &Path, warnings: Vec<String>) -> Unpacked {
        let mut longest = 0;
        let mut from = 0;
        for (n, span) in index.spans.iter().enumerate() {
            if span.point.is_some() {
                from = span.start;
            }
            if matches!(span.contents, Contents::Data(_)) {
                longest = longest.max(index.range(n).end - from);
            }
        }
        let count = if longest > READERS.1 { 1 } else { READERS.0 };
        let about = PackedFile {
            path: path.to_owned(),
            packing: index.packing.name(),
            points: index.spans.iter().filter(|span| span.point.is_some()).count() as u64,
            packed_bytes: index.stamp.len,
            is_checked: index.is_checked,
            cut: index.cut,
            lost: index.lost(),
            suspect: index.suspect.clone(),
            warnings,
        };
        let cache = Cache::new(CACHE, 1 << 20);
        let count = NonZero::new(count).unwrap_or(NonZero::<usize>::MIN);
        Unpacked {
            under,
            index,
            about,
            refuses_suspect: AtomicBool::new(false),
            cache,
            readers: Mutex::new(LruCache::new(count)),
        }
    }

    fn point(&self, n: usize) -> Option<(usize, Point)> {
        (0..=n).rev().find_map(|n| self.index.spans[n].point.map(|point| (n, point)))
    }

    fn reader(&self, point: &Point) -> io::Result<Box<dyn Read + Send>> {
        let window = self.index.window(point, self.index.packing.max_window())?;
        self.index.packing.reader(&self.under, point.bit, point.extra, &window)
    }

    /// Decompresses a span of data.
    fn load(&self, n: usize) -> Result<Vec<u8>, ReadError> {
        let Some((first, point)) = self.point(n) else { return Err(ReadError::Corrupt { at: 0 }) };
        let corrupt = |e: io::Error| match e.raw_os_error() {
            Some(_) => ReadError::from(e),
            None => ReadError::Corrupt { at: point.bit / 8 },
        };
        let is_alone = first == n && self.index.spans.get(n + 1).is_none_or(|next| next.point.is_some());
        if is_alone {
            return self.next_span(&mut *self.reader(&point).map_err(corrupt)?, n).map_err(corrupt);
        }
        let slot = Arc::clone(lock(&self.readers).get_or_insert(first, Arc::default));
        let mut slot = lock(&slot);
        if let Some(reader) = &mut *slot
            && let Some(kept) = reader.missed.iter().position(|(missed, _)| *missed == n)
        {
            return Ok(reader.missed.swap_remove(kept).1);
        }
        // After an error or a panic, the next reader begins again.
        let mut reader = match slot.take() {
            Some(reader) if reader.next <= n => reader,
            _ => Reader { inner: self.reader(&point).map_err(corrupt)?, next: first, missed: Vec::new() },
        };
        while reader.next < n {
            let span = self.next_span(&mut *reader.inner, reader.next).map_err(corrupt)?;
            if !matches!(self.index.spans[reader.next].contents, Contents::Data(_)) {
                buffers::give(span);
            } else if let Some(pending) = self.cache.begin(&SpanNo(reader.next)) {
                pending.insert(span);
            } else {
                if reader.missed.len() == MISSED {
                    reader.missed.remove(0);
                }
                reader.missed.push((reader.next, span));
            }
            reader.next += 1;
        }
        let span = self.next_span(&mut *reader.inner, n).map_err(corrupt)?;
        reader.next += 1;
        *slot = Some(reader);
        Ok(span)
    }

    /// Reads the span that comes next, which is number `n`, and checks it.
    fn next_span(&self, reader: &mut dyn Read, n: usize) -> io::Result<Vec<u8>> {
        let range = self.index.range(n);
        let mut left = range.end - range.start;
        if self.index.spans[n].contents == Contents::Zeros {
            // Of any length; nobody wants them.
            let mut part = buffers::take(64 << 10);
            while left > 0 {
                let len = index(left.min(part.len() as u64));
                reader.read_exact(&mut part[..len])?;
                left -= len as u64;
            }
            return Ok(part);
        }
        let mut span = buffers::take(index(left));
        reader.read_exact(&mut span)?;
        if contents(&span) != self.index.spans[n].contents {
            return Err(super::stream::damaged());
        }
        Ok(span)
    }
}

impl ReadAt for Unpacked {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        if at >= self.index.size {
            return Ok(0);
        }
        let n = self.index.find(at);
        let range = self.index.range(n);
        let mut len = index((range.end - at).min(buf.len() as u64));
        if self.refuses_suspect.load(Ordering::Relaxed) {
            let next = self.about.suspect.partition_point(|suspect| suspect.end <= at);
            match self.about.suspect.get(next) {
                Some(suspect) if suspect.start <= at => return Err(ReadError::Corrupt { at }.into()),
                Some(suspect) => len = len.min(index(suspect.start - at)),
                None => {}
            }
        }
        match self.index.spans[n].contents {
            Contents::Zeros => buf[..len].fill(0),
            Contents::Lost => return Err(ReadError::Corrupt { at }.into()),
            Contents::Data(_) => {
                let chunk = self.cache.get(&SpanNo(n), || self.load(n))?;
                let from = index(at - range.start);
                let bytes = chunk.get(from..from + len).ok_or(ReadError::Corrupt { at })?;
                buf[..len].copy_from_slice(bytes);
            }
        }
        Ok(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.index.size)
    }

    fn data_run(&self, at: u64, end: u64) -> io::Result<Range<u64>> {
        let is_hole = |n: usize| self.index.spans[n].contents == Contents::Zeros;
        let mut n = self.index.find(at);
        while n < self.index.spans.len() && is_hole(n) {
            n += 1;
        }
        let start = self.index.spans.get(n).map_or(end, |span| span.start.clamp(at, end));
        // Not as far as there is data: a run of some spans is enough.
        let stop = (n..self.index.spans.len()).take(64).take_while(|n| !is_hole(*n)).last();
        Ok(start..stop.map_or(end, |last| self.index.range(last).end.clamp(start, end)))
    }

    fn prefetch(&self, range: Range<u64>) {
        let mut at = range.start;
        while at < range.end.min(self.index.size) {
            let n = self.index.find(at);
            if matches!(self.index.spans[n].contents, Contents::Data(_))
                && let Some(pending) = self.cache.begin(&SpanNo(n))
                && let Ok(span) = self.load(n)
            {
                pending.insert(span);
            }
            at = self.index.range(n).end;
        }
    }

    fn refuse_suspect(&self) {
        self.refuses_suspect.store(true, Ordering::Relaxed);
    }

    fn packed(&self) -> Option<&PackedFile> {
        Some(&self.about)
    }
}

impl std::fmt::Debug for Packing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
