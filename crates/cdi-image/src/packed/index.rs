//! The index of a packed file: where in it each part of the unpacked bytes is, how it can be reached, and what its
//! checksum is.
//!
//! The unpacked bytes are cut into spans of some MiB. Each has a checksum, so that nothing that is read depends on
//! whether the index belongs to the file. A span either begins at a restart point, where decompression can begin, or is
//! reached from the last one before it.
//!
//! The file `NAME.cdi-index` is a cache: if anything in it is unexpected, the index is made again. All numbers are
//! little-endian.
//!
//! | offset | bytes | |
//! |---:|---:|---|
//! | 0 | 8 | `CDIINDEX` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | number of the packing (`Packing::number`) |
//! | 16 | 24 | the packed file: length, hash of the times of its files, hash of its ends |
//! | 40 | 8 | number of unpacked bytes |
//! | 48 | 8 | flags: 1, the packed file ends too early; 2, all of it has checksums |
//! | 56 | 8 | bytes after the end of the packed data |
//! | 64 | 8 | offset of the table; the windows of restart points are before it |
//! | 72 | 8 | number of spans: 48 bytes each |
//! | 80 | 8 | number of suspect ranges, after the spans: 16 bytes each |
//! | 88 | 8 | XXH3 of the table |
//! | 96 | 8 | XXH3 of the 96 bytes before |

use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;

use cdi_base::units::index;
use xxhash_rust::xxh3::xxh3_64;

use super::Packing;
use crate::bytes::{le32, le64};
use crate::extent::MAX_CHUNK;
use crate::input::ReadAt;

const MAGIC: &[u8; 8] = b"CDIINDEX";
const VERSION: u32 = 1;
/// The length of the header, in bytes.
pub(super) const HEADER: usize = 104;
const ENTRY: usize = 48;
/// The maximum number of spans, and of suspect ranges.
pub(super) const MAX_SPANS: usize = 1 << 22;
const MAX_SUSPECT: usize = 1 << 20;

/// What is known about a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contents {
    /// Data; the XXH3 of it.
    Data(u64),
    /// Zeros. The span may have any length.
    Zeros,
    /// It could not be decompressed.
    Lost,
}

/// Where decompression can begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    /// The position in the packed file, in bits.
    pub(super) bit: u64,
    /// What the packing needs to know apart from that.
    pub(super) extra: u32,
    /// The bytes before the point that decompression needs, compressed: their place in the index file. Empty if none are
    /// needed.
    pub(super) window: (u64, u32),
}

/// A span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// The offset of its first byte in the unpacked bytes.
    pub(super) start: u64,
    pub(super) contents: Contents,
    /// The restart point at its start, if there is one.
    pub(super) point: Option<Point>,
}

/// What identifies a version of a packed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The length in bytes.
    pub(super) len: u64,
    /// A hash of the modification times of its files.
    pub(super) times: u64,
    /// A hash of its first and last bytes.
    pub(super) ends: u64,
}

/// An index.
pub(super) struct Index {
    pub(super) packing: Packing,
    pub(super) stamp: Stamp,
    /// The number of unpacked bytes.
    pub(super) size: u64,
    /// Whether the packed file ends too early, so that bytes are missing at the end.
    pub(super) cut: bool,
    /// Whether all data has checksums in the packed file.
    pub(super) is_checked: bool,
    /// The number of bytes after the end of the packed data.
    pub(super) trailing: u64,
    pub(super) spans: Vec<Entry>,
    /// Ranges that were decompressed, but whose checksum is wrong.
    pub(super) suspect: Vec<Range<u64>>,
    /// The file with the windows.
    pub(super) windows: Arc<dyn ReadAt>,
}

impl Index {
    /// Returns the number of the span that contains `at`, which must be less than the size.
    pub(super) fn find(&self, at: u64) -> usize {
        self.spans.partition_point(|span| span.start <= at).saturating_sub(1)
    }

    /// Returns the range of a span, in unpacked bytes.
    pub(super) fn range(&self, n: usize) -> Range<u64> {
        self.spans[n].start..self.spans.get(n + 1).map_or(self.size, |next| next.start)
    }

    /// Returns the ranges that could not be decompressed, merged.
    pub(super) fn lost(&self) -> Vec<Range<u64>> {
        let mut lost: Vec<Range<u64>> = Vec::new();
        for n in (0..self.spans.len()).filter(|n| self.spans[*n].contents == Contents::Lost) {
            let range = self.range(n);
            match lost.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => lost.push(range),
            }
        }
        lost
    }

    /// Returns the bytes before a restart point, decompressed: at most `max`.
    pub(super) fn window(&self, point: &Point, max: usize) -> io::Result<Vec<u8>> {
        let (at, len) = point.window;
        if len == 0 {
            return Ok(Vec::new());
        }
        let mut packed = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(2 * max)];
        read_exact(&*self.windows, &mut packed, at)?;
        zstd::bulk::decompress(&packed, max)
    }

    /// Reads the index in `file`. Returns None if it is not an index of this version, or damaged.
    pub(super) fn read(file: Arc<dyn ReadAt>) -> Option<Index> {
        let mut header = [0; HEADER];
        read_exact(&*file, &mut header, 0).ok()?;
        if !header.starts_with(MAGIC)
            || le32(&header, 8) != VERSION
            || xxh3_64(&header[..96]) != le64(&header, 96)
        {
            return None;
        }
        let (table, spans, suspect) = (le64(&header, 64), index(le64(&header, 72)), index(le64(&header, 80)));
        if spans > MAX_SPANS || suspect > MAX_SUSPECT {
            return None;
        }
        let len = spans * ENTRY + suspect * 16;
        if table.checked_add(len as u64)? != file.len().ok()? {
            return None;
        }
        let mut bytes = vec![0; len];
        read_exact(&*file, &mut bytes, table).ok()?;
        if xxh3_64(&bytes) != le64(&header, 88) {
            return None;
        }
        let (entries, ranges) = bytes.split_at(spans * ENTRY);
        let found = Index {
            packing: Packing::from_number(le32(&header, 12))?,
            stamp: Stamp { len: le64(&header, 16), times: le64(&header, 24), ends: le64(&header, 32) },
            size: le64(&header, 40),
            cut: le64(&header, 48) & 1 != 0,
            is_checked: le64(&header, 48) & 2 != 0,
            trailing: le64(&header, 56),
            spans: entries.chunks_exact(ENTRY).map(Entry::decode).collect::<Option<_>>()?,
            suspect: ranges.chunks_exact(16).map(|r| le64(r, 0)..le64(r, 8)).collect(),
            windows: file,
        };
        found.is_consistent(table).then_some(found)
    }

    /// Checks what readers rely on.
    fn is_consistent(&self, windows_end: u64) -> bool {
        let starts: Vec<u64> = self.spans.iter().map(|span| span.start).chain([self.size]).collect();
        // Whether a restart point comes before each span, and nothing between them is lost.
        let mut reached = false;
        let mut is_reached = |span: &Entry| {
            reached = span.point.is_some() || (reached && span.contents != Contents::Lost);
            reached || !matches!(span.contents, Contents::Data(_))
        };
        let windows = self.spans.iter().filter_map(|span| span.point);
        starts.first() == Some(&0)
            && starts.is_sorted_by(|a, b| a < b)
            && (0..self.spans.len()).all(|n| self.is_short(n))
            && i64::try_from(self.size).is_ok()
            && self.spans.iter().all(&mut is_reached)
            && windows
                .into_iter()
                .all(|p| p.window.0.checked_add(p.window.1.into()).is_some_and(|end| end <= windows_end))
            && self.suspect.iter().all(|r| r.start < r.end && r.end <= self.size)
    }

    /// Returns whether a span can be decompressed in one piece, if it has to be.
    fn is_short(&self, n: usize) -> bool {
        let range = self.range(n);
        !matches!(self.spans[n].contents, Contents::Data(_))
            || range.end - range.start <= u64::from(MAX_CHUNK)
    }

    /// Writes the table to `out`, which is at offset `table`, and returns the header.
    pub(super) fn write_table(&self, out: &mut dyn Write, table: u64) -> io::Result<[u8; HEADER]> {
        let mut bytes = Vec::with_capacity(self.spans.len() * ENTRY + self.suspect.len() * 16);
        self.spans.iter().for_each(|span| span.encode(&mut bytes));
        for range in &self.suspect {
            bytes.extend([range.start, range.end].map(u64::to_le_bytes).as_flattened());
        }
        out.write_all(&bytes)?;
        let mut header = Vec::with_capacity(HEADER);
        header.extend(MAGIC);
        header.extend([VERSION, self.packing.number()].map(u32::to_le_bytes).as_flattened());
        let Stamp { len, times, ends } = self.stamp;
        let counts = [self.spans.len() as u64, self.suspect.len() as u64, xxh3_64(&bytes)];
        let flags = u64::from(self.cut) | u64::from(self.is_checked) << 1;
        let numbers = [len, times, ends, self.size, flags, self.trailing, table];
        header.extend(numbers.iter().chain(&counts).flat_map(|n| n.to_le_bytes()));
        header.extend(xxh3_64(&header).to_le_bytes());
        header.try_into().map_err(|_| io::ErrorKind::Other.into())
    }
}

impl Entry {
    fn decode(bytes: &[u8]) -> Option<Entry> {
        let (start, sum, flags) = (le64(bytes, 0), le64(bytes, 8), le32(bytes, 40));
        let contents = match flags & 3 {
            0 => Contents::Data(sum),
            1 => Contents::Zeros,
            2 => Contents::Lost,
            _ => return None,
        };
        let window = (le64(bytes, 24), le32(bytes, 32));
        let point = (flags & 4 != 0).then(|| Point { bit: le64(bytes, 16), extra: le32(bytes, 36), window });
        Some(Entry { start, contents, point })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let (kind, sum) = match self.contents {
            Contents::Data(sum) => (0, sum),
            Contents::Zeros => (1, 0),
            Contents::Lost => (2, 0),
        };
        let flags = kind | if self.point.is_some() { 4 } else { 0 };
        let point = self.point.unwrap_or(Point { bit: 0, extra: 0, window: (0, 0) });
        out.extend([self.start, sum, point.bit, point.window.0].map(u64::to_le_bytes).as_flattened());
        out.extend([point.window.1, point.extra, flags, 0].map(u32::to_le_bytes).as_flattened());
    }
}

/// Fills `buf` from offset `at`.
pub(super) fn read_exact(source: &dyn ReadAt, buf: &mut [u8], at: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match source.read_at(&mut buf[done..], at + done as u64) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            other => done += other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(spans: Vec<Entry>, size: u64) -> Vec<u8> {
        let stamp = Stamp { len: 1, times: 2, ends: 3 };
        let (packing, windows) = (Packing::Gzip, Arc::new(Vec::new()));
        let (cut, is_checked, trailing, suspect) = (false, true, 0, Vec::new());
        let index = Index { packing, stamp, size, cut, is_checked, trailing, spans, suspect, windows };
        let mut table = Vec::new();
        let header = index.write_table(&mut table, HEADER as u64).unwrap();
        [&header[..], &table].concat()
    }

    fn data(start: u64, bit: Option<u64>) -> Entry {
        let point = bit.map(|bit| Point { bit, extra: 0, window: (0, 0) });
        Entry { start, contents: Contents::Data(7), point }
    }

    /// The checksums of a hostile index are right.
    #[test]
    fn an_index_that_asks_for_much_memory_or_leads_nowhere_is_none() {
        let zeros = Entry { start: 0, contents: Contents::Zeros, point: None };
        let lost = Entry { start: 0, contents: Contents::Lost, point: None };
        for (spans, size, is_one) in [
            (vec![data(0, Some(80))], 1 << 20, true),
            (vec![data(0, Some(80)), data(1 << 20, None)], 2 << 20, true),
            (vec![zeros, data(1 << 50, Some(9))], (1 << 50) + 1, true),
            (vec![data(0, Some(80))], 1 << 40, false),
            (vec![data(0, None)], 1 << 20, false),
            (vec![lost, data(1 << 20, None)], 2 << 20, false),
            (vec![data(0, Some(80)), data(0, Some(80))], 1 << 20, false),
            (vec![data(5, Some(80))], 1 << 20, false),
            (vec![zeros], u64::MAX, false),
        ] {
            let found = Index::read(Arc::new(index(spans.clone(), size)));
            assert_eq!(found.is_some(), is_one, "{spans:?} {size}");
        }
    }
}
