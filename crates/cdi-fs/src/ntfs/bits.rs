//! Bitmaps: of the records, and of the clusters.

use std::ops::Range;

use cdi_base::units::index;

use crate::file_system::Damage;
use crate::volume::{Part, Volume};

use super::io::Io;
use super::mft::Bitmap;
use super::runs::Extents;

/// How much of a bitmap is read at once, in bytes.
const AHEAD: u64 = 64 << 10;

/// Looks up single bits of the bitmap of records.
pub(super) struct Used<'t> {
    io: &'t Io<'t>,
    bitmap: &'t Bitmap,
    part: Option<Part>,
}

impl<'t> Used<'t> {
    /// Looks bits up in `bitmap`.
    pub(super) fn new(io: &'t Io<'t>, bitmap: &'t Bitmap) -> Used<'t> {
        Used { io, bitmap, part: None }
    }

    /// Returns whether record `number` is in use; None if that is not known.
    pub(super) fn get(&mut self, number: u64) -> Option<bool> {
        let byte = match self.bitmap {
            Bitmap::Lost(_) => return None,
            Bitmap::Resident(bytes) => *bytes.get(index(number / 8))?,
            Bitmap::Mapped(mapped) => {
                let (at, follow) = mapped.extents.find(number / 8)?;
                if mapped.size.is_some_and(|size| number / 8 >= size) {
                    return None;
                }
                if !self.part.as_ref().is_some_and(|part| part.range().contains(&at)) {
                    self.part = self.io.part(at..at + follow.min(AHEAD)).ok();
                }
                self.part.as_ref()?.get(at, 1).ok()?[0]
            }
        };
        Some(byte >> (number % 8) & 1 != 0)
    }
}

/// Reads all of the bitmap of records, and returns where it is, and why a part of it is lost.
pub(super) fn check(io: &Io<'_>, bitmap: &Bitmap, records: u64) -> (Vec<Range<u64>>, Option<Damage>) {
    match bitmap {
        Bitmap::Lost(damage) => (Vec::new(), Some(damage.clone())),
        Bitmap::Resident(_) => (Vec::new(), None),
        Bitmap::Mapped(mapped) => {
            let damage = read_all(io, &mapped.extents, records.div_ceil(8));
            (mapped.extents.ranges().collect(), damage)
        }
    }
}

/// Reads the first `len` bytes of `extents` in pieces, and returns why one is lost.
pub(super) fn read_all(io: &Io<'_>, extents: &Extents, len: u64) -> Option<Damage> {
    let mut damage = None;
    let mut at = 0;
    while at < len {
        let Some((from, follow)) = extents.find(at) else {
            return damage.or(Some(super::io::unknown()));
        };
        let size = follow.min(len - at).min(1 << 20);
        match io.part(from..from + size) {
            Ok(part) => damage = damage.or(part.lost().first().map(|(_, error)| (*error).into())),
            Err(error) => return damage.or(Some(error)),
        }
        at += size;
    }
    damage
}

/// Reports the free clusters of a bitmap with `extents` and `size` bytes, as ranges of bytes before `end`.
pub(super) fn free(
    volume: &Volume<'_>,
    extents: &Extents,
    size: u64,
    end: u64,
    found: &mut dyn FnMut(Range<u64>),
) {
    let cluster = extents.cluster;
    let clusters = (end / cluster).min(size.saturating_mul(8));
    let mut out = Merge { cluster, clusters, open: None, found };
    for extent in &extents.list {
        // A bitmap has no holes; what is not there counts as used.
        let Some(lcn) = extent.lcn else { continue };
        let first = extent.vcn.saturating_mul(cluster);
        let len = extent.len.saturating_mul(cluster).min(clusters.div_ceil(8).saturating_sub(first));
        let mut done = 0;
        while done < len {
            let size = (len - done).min(1 << 20);
            let at = lcn.saturating_mul(cluster).saturating_add(done);
            let part = volume.read_part(at..at.saturating_add(size));
            out.part(&part, at, first + done);
            done += size;
        }
    }
    out.finish();
}

/// Merges free clusters to ranges.
struct Merge<'f> {
    cluster: u64,
    clusters: u64,
    open: Option<Range<u64>>,
    found: &'f mut dyn FnMut(Range<u64>),
}

impl Merge<'_> {
    /// Takes a part of the bitmap that begins with byte `byte` of it. What could not be read counts as used.
    fn part(&mut self, part: &Part, at: u64, byte: u64) {
        let mut from = part.range().start;
        let end = part.range().end;
        let lost = part.lost().iter().map(|(lost, _)| lost.clone()).chain(std::iter::once(end..end));
        for lost in lost {
            if let Ok(bytes) = part.get(from, index(lost.start.saturating_sub(from))) {
                self.bytes(bytes, byte + (from - at));
            }
            from = lost.end;
        }
    }

    fn bytes(&mut self, bytes: &[u8], byte: u64) {
        for (value, at) in bytes.iter().zip(byte..) {
            match value {
                0xFF => {}
                0 => self.free(at * 8..at * 8 + 8),
                _ => (0..8)
                    .filter(|bit| value >> bit & 1 == 0)
                    .for_each(|bit| self.free(at * 8 + bit..at * 8 + bit + 1)),
            }
        }
    }

    fn free(&mut self, clusters: Range<u64>) {
        let clusters = clusters.start..clusters.end.min(self.clusters);
        if clusters.is_empty() {
            return;
        }
        match &mut self.open {
            Some(open) if open.end == clusters.start => open.end = clusters.end,
            _ => {
                self.finish();
                self.open = Some(clusters);
            }
        }
    }

    fn finish(&mut self) {
        if let Some(open) = self.open.take() {
            (self.found)(open.start * self.cluster..open.end * self.cluster);
        }
    }
}
