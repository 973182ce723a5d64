//! The disk cut into parts to be worked on, whole chunks each.

use std::ops::Range;

use cdi_image::cdimg::index::Geometry;
use cdi_image::disk::Disk;
use cdi_image::extent::Origin;

/// A part of the disk.
pub(super) enum Job {
    /// Chunks to be read.
    Read(Range<u64>),
    /// Chunks that are known to be this pattern.
    Fill(Range<u64>, [u8; 8]),
    /// Chunks of which the source holds nothing.
    Missing(Range<u64>),
}

/// How much is read in one piece, and the longest part in which nothing is read (between two the user can interrupt), in
/// bytes: multiples of every chunk size.
const MAX_READ: u64 = 1 << 20;
const MAX_LEN: u64 = 64 << 20;

/// Cuts the disk into jobs.
pub(super) fn jobs(source: &Disk, geometry: Geometry) -> impl Iterator<Item = Job> + Send + '_ {
    let chunk = u64::from(geometry.chunk_size);
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= geometry.disk_size {
            return None;
        }
        // Where a run that began at `at` may end: on a chunk's border, or with the disk.
        let border = |end: u64| match end.min(at + MAX_LEN) {
            end if end >= geometry.disk_size => geometry.disk_size,
            end => end - end % chunk,
        };
        let bad = source.bad().next(at);
        let job = match bad.filter(|r| r.start <= at && !r.status.has_bytes() && border(r.end) > at) {
            Some(r) => Job::Missing(at..border(r.end)),
            None => {
                let until = border(bad.map_or(geometry.disk_size, |r| r.start));
                let extent = source.image().map(at);
                match extent.map(|extent| (border(extent.disk.end).min(until), extent.origin)) {
                    Ok((end, Origin::Fill(pattern))) if end > at => Job::Fill(at..end, pattern),
                    // A run as long as it is stored: what comes behind it may not need to be read.
                    Ok((end, Origin::Stored { .. })) => Job::Read(at..read_end(at, chunk, end)),
                    _ => Job::Read(at..read_end(at, chunk, until)),
                }
            }
        };
        let job = match job {
            Job::Read(range) => Job::Read(at..range.end.min(geometry.disk_size)),
            job => job,
        };
        let (Job::Read(range) | Job::Fill(range, _) | Job::Missing(range)) = &job;
        at = range.end;
        Some(job)
    })
}

/// Where a read from `at` on ends that is to go to `until`, but at least over a chunk.
fn read_end(at: u64, chunk: u64, until: u64) -> u64 {
    until.clamp(at + chunk, at + MAX_READ)
}
