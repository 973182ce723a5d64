//! Types shared by the passes over a disk and the thread that reads it.

use std::ops::Range;
use std::time::Duration;

use cdi_image::badmap::Reason;

use super::areas::Direction;
use super::passes::{CLUSTER, MAX};

/// The parameters of the passes.
#[derive(Debug, Clone)]
pub struct RescuePlan {
    /// The size of the disk in bytes; skip sizes are fractions of it.
    pub size: u64,
    /// The logical sector size in bytes: the unit of retries.
    pub sector: u64,
    /// The physical sector size in bytes: the unit of trimming and scraping, because a drive cannot read less.
    pub unit: u64,
    /// The size of reads near errors, in bytes.
    pub cluster: u64,
    /// The maximum size of reads where there are no errors, in bytes.
    pub most: u64,
    /// The rescue domain: the ranges of the disk to read, sorted and without overlaps.
    pub domain: Vec<Range<u64>>,
    /// Whether to trim.
    pub trim: bool,
    /// Whether to sweep: to read what was skipped after errors. None: unless it is a head that fails.
    pub sweep: Option<bool>,
    /// Whether to scrape.
    pub scrape: bool,
    /// The maximum number of retry passes; `None`: unlimited.
    pub retries: Option<u32>,
    /// How much is skipped after the first error, and at most, in bytes. None: 1/100,000 and 1/100 of the disk.
    pub skip: (Option<u64>, Option<u64>),
    /// The direction of the first pass.
    pub direction: Direction,
    /// The rate in bytes per second below which an area is slow and left for later; `None`: a tenth of the average
    /// rate.
    pub min_rate: Option<u64>,
}

impl RescuePlan {
    /// Returns the ranges of the disk that are not in the domain.
    pub(super) fn rest(&self) -> Vec<Range<u64>> {
        let starts = std::iter::once(0).chain(self.domain.iter().map(|part| part.end));
        let ends = self.domain.iter().map(|part| part.start).chain([self.size]);
        starts.zip(ends).map(|(start, end)| start..end).filter(|range| range.start < range.end).collect()
    }

    /// Returns the plan to read all of a disk of `size` bytes in sectors of `sector` bytes, without retries.
    pub fn whole(size: u64, sector: u64) -> RescuePlan {
        RescuePlan {
            size,
            sector,
            unit: sector,
            cluster: CLUSTER,
            most: MAX,
            domain: std::iter::once(0..size).collect(),
            trim: true,
            sweep: None,
            scrape: true,
            retries: Some(0),
            skip: (None, None),
            direction: Direction::Forwards,
            min_rate: None,
        }
    }
}

/// A pass over the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Reading non-tried areas, with skips after errors: pass 1 to 4.
    Copying(u8),
    /// Reading the edges of blocks that failed.
    Trimming,
    /// Reading what was skipped.
    Sweeping,
    /// Reading the rest of these blocks sector by sector.
    Scraping,
    /// Trying bad sectors again: the number of the retry pass.
    Retrying(u32),
    /// Nothing is left to do.
    Finished,
}

impl Pass {
    /// Returns the name of the pass, for people and JSON.
    pub fn name(self) -> String {
        match self {
            Pass::Copying(n) => format!("copying {n}"),
            Pass::Trimming => "trimming".into(),
            Pass::Sweeping => "sweeping".into(),
            Pass::Scraping => "scraping".into(),
            Pass::Retrying(n) => format!("retrying {n}"),
            Pass::Finished => "finished".into(),
        }
    }
}

/// A read to perform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The range of the disk in bytes, in whole sectors.
    pub range: Range<u64>,
    /// Why it is read.
    pub why: Why,
}

/// Why a range is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is next in the pass.
    Pass,
    /// It was read before, and is read again to check whether the drive still works.
    Check,
    /// A program reads it from the disk that is shown while it is imaged.
    Demand,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Perform this read.
    Read(Read),
    /// All passes are done.
    Finished,
    /// The drive can no longer read what it could read before.
    Dead,
    /// The drive has returned an error for every read.
    Unreadable,
}

/// The outcome of a read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    /// The number of bytes read, from the start of the range.
    pub good: u64,
    /// The reason why not all bytes were read.
    pub reason: Option<Reason>,
    /// Whether the drive has said that the sector after these bytes is the one that cannot be read.
    pub located: bool,
    /// The duration of the read.
    pub took: Duration,
}
