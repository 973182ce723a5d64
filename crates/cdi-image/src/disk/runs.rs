//! A whole disk cut into runs, for those who read all of it: `verify` and `extract`.

use std::ops::Range;

use super::Disk;

/// What a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunKind {
    /// Bytes to be read.
    Held,
    /// Zeros, as the image's index says; nothing needs to be read.
    Zeros,
    /// The image does not hold it.
    Missing,
}

/// A run of the disk that is treated in one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its bytes.
    pub disk: Range<u64>,
    /// What it is.
    pub kind: RunKind,
}

/// The longest run that is read in one piece, in bytes.
const MAX_LEN: u64 = 1 << 20;
/// The longest run that nothing is read for, but something may be done for each byte, in bytes: between two of them the user
/// can interrupt.
const MAX_EMPTY: u64 = 64 << 20;
/// The longest run of zeros, in bytes.
const MAX_ZEROS: u64 = 1 << 40;
/// How much is given up together where the index does not say where the bytes are.
const LOST: u64 = 64 << 10;

/// All of `disk` in order, each run within one extent, so that a damaged chunk costs itself alone.
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
                // What is missing for several reasons is one run, too.
                let (mut end, longest) = (at, at.saturating_add(MAX_EMPTY));
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
                    Ok(e) => Run { disk: at..e.disk.end.min(until).min(at + MAX_LEN), kind: RunKind::Held },
                    Err(_) => Run { disk: at..((at / LOST + 1) * LOST).min(until), kind: RunKind::Held },
                }
            }
        };
        at = run.disk.end.max(at + 1);
        Some(run)
    })
}
