//! The words that the passes over a disk and the thread that reads it have in common.

use std::ops::Range;
use std::time::Duration;

use cdi_image::badmap::Reason;

use super::areas::Direction;

/// How the passes are to go.
#[derive(Debug, Clone)]
pub struct RescuePlan {
    /// The size of the disk in bytes; skips are parts of it.
    pub size: u64,
    /// The logical sector size in bytes: what is retried.
    pub sector: u64,
    /// The physical sector size in bytes: what is trimmed and scraped, for a drive reads no less.
    pub unit: u64,
    /// How much is read at once near errors, in bytes.
    pub cluster: u64,
    /// How much is read at once where there are none, in bytes.
    pub most: u64,
    /// The parts of the disk that are wanted, in order and apart.
    pub domain: Vec<Range<u64>>,
    /// Whether to trim.
    pub trim: bool,
    /// Whether to scrape.
    pub scrape: bool,
    /// How often to try bad sectors again; `None`: for ever.
    pub retries: Option<u32>,
    /// Which way the first pass goes.
    pub direction: Direction,
    /// Under how many bytes a second an area is slow and left for later; `None`: under a tenth of the average.
    pub least_rate: Option<u64>,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Reading what was not tried: pass 1 to 5.
    Copying(u8),
    /// Reading the edges of what failed.
    Trimming,
    /// Reading what failed sector by sector.
    Scraping,
    /// Trying bad sectors again: which time.
    Retrying(u32),
    /// Nothing is left to do.
    Finished,
}

impl Pass {
    /// Its name, for people and JSON.
    pub fn name(self) -> String {
        match self {
            Pass::Copying(n) => format!("copying {n}"),
            Pass::Trimming => "trimming".into(),
            Pass::Scraping => "scraping".into(),
            Pass::Retrying(n) => format!("retrying {n}"),
            Pass::Finished => "finished".into(),
        }
    }
}

/// A read that is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// What of the disk, in whole sectors.
    pub range: Range<u64>,
    /// It was read before, and is read again only to see whether the drive still reads at all.
    pub check: bool,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// This is to be read.
    Read(Read),
    /// All passes are done.
    Finished,
    /// The drive does not read any more what it has read before.
    Dead,
}

/// What came of a read.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// How many bytes were read, from the first on.
    pub good: u64,
    /// Why not all.
    pub reason: Option<Reason>,
    /// How long it took.
    pub took: Duration,
}
