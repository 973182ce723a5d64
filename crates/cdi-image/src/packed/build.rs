//! Makes the index of a packed file, in one pass over it.

use std::io::{self, Write};
use std::ops::Range;

use cdi_base::error::Error;
use xxhash_rust::xxh3::xxh3_64;

use super::index::{Contents, Entry, MAX_SPANS, Point};

/// The length of a span in bytes, if the packing leaves a choice: at least this, and as much as keeps the index small.
const SPAN: (u64, u32) = (1 << 20, 18);
/// The longest distance from a restart point to the end of what is reached from it, in bytes.
pub(super) const MAX_DISTANCE: u64 = 256 << 20;

/// Is called with the number of packed bytes that were read. An error stops the pass.
pub(super) type OnProgress<'a> = dyn Fn(u64) -> Result<(), Error> + Sync + 'a;

/// A span, as a pass finds it.
pub(super) struct Span {
    /// The length in bytes. Spans without bytes are ignored.
    pub(super) len: u64,
    pub(super) contents: Contents,
    /// The restart point at its start.
    pub(super) point: Option<FoundPoint>,
}

/// A restart point: its position in bits, the packing's own number, and the window, compressed.
pub(super) type FoundPoint = (u64, u32, Vec<u8>);

/// Returns what a span of these bytes contains.
pub(super) fn contents(bytes: &[u8]) -> Contents {
    let zeros = bytes.split_at(bytes.len().min(64));
    if zeros.0.iter().all(|b| *b == 0) && zeros.1.iter().all(|b| *b == 0) {
        return Contents::Zeros;
    }
    Contents::Data(xxh3_64(bytes))
}

/// Collects what a pass finds.
pub(super) struct Builder<'a> {
    /// Takes the windows, from offset `written` of the index file on.
    windows: &'a mut dyn Write,
    written: u64,
    on_progress: &'a OnProgress<'a>,
    pub(super) spans: Vec<Entry>,
    pub(super) suspect: Vec<Range<u64>>,
    /// The number of unpacked bytes so far.
    pub(super) size: u64,
    pub(super) cut: bool,
    pub(super) trailing: u64,
    /// Whether all data has checksums.
    pub(super) is_checked: bool,
    /// How far it is from the last restart point, in bytes.
    distance: u64,
    /// If the last span is of zeros, and they go on: where in them the last restart point is. It is needed only if what
    /// comes after the zeros has none of its own.
    zeros: Option<(u64, FoundPoint)>,
}

/// Why a pass ended before the end.
pub(super) enum Stop {
    /// The user stopped it, or there are too many spans.
    Error(Error),
    /// The packed file cannot be read.
    Io(io::Error),
    /// The index cannot be written.
    Write(io::Error),
    /// There are no restart points for many bytes.
    NoPoints,
}

impl From<io::Error> for Stop {
    fn from(e: io::Error) -> Stop {
        Stop::Io(e)
    }
}

impl From<Error> for Stop {
    fn from(e: Error) -> Stop {
        Stop::Error(e)
    }
}

impl<'a> Builder<'a> {
    /// Begins a pass. `windows` is at offset `written` of the index file.
    pub(super) fn new(
        windows: &'a mut dyn Write,
        written: u64,
        on_progress: &'a OnProgress<'a>,
    ) -> Builder<'a> {
        Builder {
            windows,
            written,
            on_progress,
            spans: Vec::new(),
            suspect: Vec::new(),
            size: 0,
            cut: false,
            trailing: 0,
            is_checked: true,
            distance: 0,
            zeros: None,
        }
    }

    /// Reports that the packed file was read up to byte `at`.
    pub(super) fn progress(&self, at: u64) -> Result<(), Error> {
        (self.on_progress)(at)
    }

    /// Forgets what was found so far: the pass begins again, in another way.
    pub(super) fn start_again(&mut self) {
        (self.spans, self.suspect) = (Vec::new(), Vec::new());
        (self.size, self.trailing, self.distance) = (0, 0, 0);
        (self.cut, self.is_checked, self.zeros) = (false, true, None);
    }

    /// Adds the span that follows.
    pub(super) fn add(&mut self, span: Span) -> Result<(), Stop> {
        if span.len == 0 {
            return Ok(());
        }
        let start = self.size;
        self.size =
            start.checked_add(span.len).filter(|size| i64::try_from(*size).is_ok()).ok_or_else(too_large)?;
        self.distance = if span.point.is_some() { span.len } else { self.distance.saturating_add(span.len) };
        let zeros = span.contents == Contents::Zeros;
        if matches!(span.contents, Contents::Data(_)) && self.distance > MAX_DISTANCE {
            return Err(Stop::NoPoints);
        }
        match self.zeros.take() {
            // The span of zeros before it was the last one with a restart point; this one has a later one, or needs none.
            Some(_) if span.point.is_some() => {}
            Some(last) if zeros => self.zeros = Some(last),
            Some((start, point)) => self.push(start, Contents::Zeros, Some(point))?,
            None => {}
        }
        if zeros && self.spans.last().is_some_and(|last| last.contents == Contents::Zeros) {
            self.zeros = span.point.map(|point| (start, point)).or(self.zeros.take());
            return Ok(());
        }
        self.push(start, span.contents, span.point)
    }

    fn push(&mut self, start: u64, contents: Contents, point: Option<FoundPoint>) -> Result<(), Stop> {
        if self.spans.len() >= MAX_SPANS {
            return Err(too_large().into());
        }
        let point = match point {
            Some((bit, extra, window)) => {
                let len = u32::try_from(window.len()).map_err(io::Error::other)?;
                self.windows.write_all(&window).map_err(Stop::Write)?;
                let at = self.written;
                self.written += u64::from(len);
                Some(Point { bit, extra, window: (at, len) })
            }
            None => None,
        };
        self.spans.push(Entry { start, contents, point });
        Ok(())
    }

    /// Marks what was decompressed in this range as suspect. A range that does not come after the others reaches their end.
    pub(super) fn suspect(&mut self, range: Range<u64>) {
        while self.suspect.last().is_some_and(|last| last.start >= range.start) {
            self.suspect.pop();
        }
        match self.suspect.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => self.suspect.push(range),
        }
    }
}

/// Returns how long a span that begins at `at` should be at least, in bytes.
pub(super) fn span_len(at: u64) -> u64 {
    SPAN.0.max(at >> SPAN.1).min(16 << 20)
}

fn too_large() -> Error {
    Error::bad_image("more decompressed data than can be indexed")
}
