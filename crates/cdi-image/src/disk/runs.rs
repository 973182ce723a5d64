//! Divides a disk into runs, for commands that read all of it: `verify` and `extract`.

use std::ops::Range;

use cdi_base::error::ReadError;
use cdi_base::units::index;

use super::Disk;

/// The kind of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunKind {
    /// Data to be read.
    Present,
    /// Zeros according to the image's index; nothing needs to be read.
    Zeros,
    /// The image has no data for it.
    Missing,
}

/// A run of the disk that is processed in one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The byte range on the disk.
    pub disk: Range<u64>,
    /// The kind.
    pub kind: RunKind,
}

/// The maximum length of a run that is read, in bytes.
const MAX_LEN: u64 = 1 << 20;
/// The maximum length of a run of missing data, in bytes. Nothing is read for it, but each byte may still be processed,
/// and the user can interrupt only between runs.
const MAX_MISSING: u64 = 64 << 20;
/// The maximum length of a run of zeros, in bytes.
const MAX_ZEROS: u64 = 1 << 40;
/// The unit in which the disk is skipped where the index cannot be read, in bytes.
const UNMAPPED_STEP: u64 = 64 << 10;

/// Returns the runs of the whole of `disk` in order. Each run is within one extent, so that a damaged chunk affects no
/// other data.
pub fn runs(disk: &Disk) -> impl Iterator<Item = Run> + Send + '_ {
    let mut missing = disk.bad().ranges().iter().filter(|r| !r.status.has_bytes()).peekable();
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= disk.size() {
            return None;
        }
        while missing.next_if(|r| r.end <= at).is_some() {}
        let run = match missing.peek() {
            Some(r) if r.start <= at => {
                // Adjacent missing ranges with different statuses or reasons form one run.
                let (mut end, longest) = (at, at.saturating_add(MAX_MISSING));
                while end < longest
                    && let Some(r) = missing.next_if(|r| r.start <= end && r.end <= longest)
                {
                    end = r.end;
                }
                if let Some(r) = missing.peek().filter(|r| r.start <= end) {
                    end = r.end.min(longest);
                }
                Run { disk: at..end, kind: RunKind::Missing }
            }
            next => {
                let until = next.map_or(disk.size(), |r| r.start);
                match disk.image().map(at) {
                    Ok(e) if e.origin.is_zero() => {
                        Run { disk: at..e.disk.end.min(until).min(at + MAX_ZEROS), kind: RunKind::Zeros }
                    }
                    Ok(e) => {
                        Run { disk: at..e.disk.end.min(until).min(at + MAX_LEN), kind: RunKind::Present }
                    }
                    Err(_) => Run {
                        disk: at..((at / UNMAPPED_STEP + 1) * UNMAPPED_STEP).min(until),
                        kind: RunKind::Present,
                    },
                }
            }
        };
        at = run.disk.end.max(at + 1);
        Some(run)
    })
}

/// Divides a run whose read failed because of sectors that are only found when they are read ([`Image::mark`]) into runs
/// that can be read, and such that are missing. Another error is left to the next read.
///
/// [`Image::mark`]: crate::image::Image::mark
pub fn around_marks(disk: &Disk, run: &Run) -> Vec<Run> {
    let sector = u64::from(disk.sector());
    let mut runs: Vec<Run> = Vec::new();
    let mut buffer = vec![0; index(sector)];
    let mut at = run.disk.start;
    while at < run.disk.end {
        let end = ((at / sector + 1) * sector).min(run.disk.end);
        let read = disk.read_at(&mut buffer[..index(end - at)], at);
        let kind = match read {
            Err(ReadError::Bad { .. }) => RunKind::Missing,
            _ => RunKind::Present,
        };
        match runs.last_mut().filter(|last| last.kind == kind) {
            Some(last) => last.disk.end = end,
            None => runs.push(Run { disk: at..end, kind }),
        }
        at = end;
    }
    runs
}
