//! Splits the disk into jobs of whole chunks.

use std::ops::Range;

use cdi_image::cdimg::index::Geometry;
use cdi_image::disk::Disk;
use cdi_image::extent::Origin;

/// A part of the disk.
pub(super) enum Job {
    /// Chunks to read.
    Read(Range<u64>),
    /// Chunks that are known to repeat this pattern.
    Fill(Range<u64>, [u8; 8]),
    /// Chunks that are missing in the source.
    Missing(Range<u64>),
}

/// The maximum length of a read, and of a part in which nothing is read (the user can interrupt between two of them),
/// in bytes. Both are multiples of every chunk size.
const MAX_READ: u64 = 1 << 20;
const MAX_LEN: u64 = 64 << 20;

/// Splits the disk into jobs.
pub(super) fn jobs(source: &Disk, geometry: Geometry) -> impl Iterator<Item = Job> + Send + '_ {
    let chunk = u64::from(geometry.chunk_size);
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= geometry.disk_size {
            return None;
        }
        // A run that begins at `at` must end on a chunk boundary, or at the end of the disk.
        let boundary = |end: u64| match end.min(at + MAX_LEN) {
            end if end >= geometry.disk_size => geometry.disk_size,
            end => end - end % chunk,
        };
        let bad = source.bad().next(at);
        let job = match bad.filter(|r| r.start <= at && !r.status.has_bytes() && boundary(r.end) > at) {
            Some(r) => Job::Missing(at..boundary(r.end)),
            None => {
                let until = boundary(bad.map_or(geometry.disk_size, |r| r.start));
                let extent = source.image().map(at);
                match extent.map(|extent| (boundary(extent.disk.end).min(until), extent.origin)) {
                    Ok((end, Origin::Fill(pattern))) if end > at => Job::Fill(at..end, pattern),
                    // Read only up to the end of the stored extent: what comes after it may not need to be read.
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

/// Returns the end of a read from `at` to `until`: at least one chunk, at most [`MAX_READ`].
fn read_end(at: u64, chunk: u64, until: u64) -> u64 {
    until.clamp(at + chunk, at + MAX_READ)
}
