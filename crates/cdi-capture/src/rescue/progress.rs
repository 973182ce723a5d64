//! The progress of imaging, as shown to the user.

use std::time::Instant;

use cdi_image::badmap::Status;

use super::areas::Direction;
use super::first::FileCount;
use super::passes::dead_head::DeadHead;
use super::passes::{Pass, Passes};

/// The number of cells in the map of the disk, and in a line of it.
pub const CELLS: usize = 1024;
/// The number of cells in a line that shows the whole disk.
pub const LINE: usize = 64;

/// The state of what is read first.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Its name: `metadata`, `used`, or a pattern.
    pub name: String,
    /// Its size in bytes, as far as it is known.
    pub wanted: u64,
    /// The number of unfinished bytes.
    pub left: u64,
}

/// Reads of the disk for programs, while it is imaged.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// The number of reads.
    pub reads: u64,
    /// The number of bytes that they have read.
    pub bytes: u64,
    /// The number of them that failed.
    pub failed: u64,
}

/// The current state of the imaging.
#[derive(Debug, Clone)]
pub struct View {
    /// The current pass and its direction.
    pub pass: (Pass, Direction),
    /// The current position in bytes.
    pub at: u64,
    /// The size of the rescue domain in bytes.
    pub wanted: u64,
    /// The number of unfinished bytes in the domain, by status.
    pub left: [(Status, u64); 4],
    /// The number of unfinished areas.
    pub areas: usize,
    /// The number of bytes read in this run.
    pub read: u64,
    /// The number of failed reads in this run.
    pub errors: u64,
    /// The start of this run.
    pub began: Instant,
    /// The time of the last successful read.
    pub last_good: Instant,
    /// The start of the pending read, if there is one.
    pub reading: Option<Instant>,
    /// What is read first, in order: the stages so far.
    pub stages: Vec<Stage>,
    /// The dead head whose bands are left out, if there is one.
    pub dead_head: Option<DeadHead>,
    /// What programs asked for of the disk that is shown meanwhile.
    pub demanded: Counts,
    /// Patterns of which no file has contents.
    pub unmatched: Vec<String>,
    /// Whether the last of these is being read.
    pub(super) in_stage: bool,
    /// The start of the scan of the image for what to read next, if that is being done.
    pub scanning: Option<Instant>,
    /// The files, at the last scan.
    pub files: Option<FileCount>,
    /// How many unfinished bytes of the domain are left out because only what is used is read; None if that is not so, or
    /// not known yet. They are not counted in `wanted` and `left`.
    pub left_out: Option<u64>,
    /// The map of the disk in cells of equal size: the least processed status in each.
    pub cells: Vec<Status>,
}

impl View {
    pub(super) fn new(wanted: u64) -> View {
        let now = Instant::now();
        View {
            pass: (Pass::Finished, Direction::Forwards),
            at: 0,
            wanted,
            left: [Status::NonTried, Status::NonTrimmed, Status::NonScraped, Status::Bad].map(|s| (s, 0)),
            areas: 0,
            read: 0,
            errors: 0,
            began: now,
            last_good: now,
            reading: None,
            stages: Vec::new(),
            dead_head: None,
            demanded: Counts::default(),
            unmatched: Vec::new(),
            in_stage: false,
            scanning: None,
            files: None,
            left_out: None,
            cells: vec![Status::Finished; CELLS],
        }
    }

    /// Returns the map of the disk in one line: in each cell, the least processed status.
    pub fn line(&self) -> Vec<Status> {
        self.cells.chunks(CELLS / LINE).filter_map(|part| part.iter().min().copied()).collect()
    }

    /// Returns the number of finished bytes in the domain.
    pub fn rescued(&self) -> u64 {
        self.wanted - self.left.iter().map(|(_, bytes)| bytes).sum::<u64>().min(self.wanted)
    }

    pub(super) fn count(&mut self, passes: &Passes) {
        for (status, bytes) in &mut self.left {
            *bytes = passes.bytes(*status);
        }
        self.areas = passes.count();
        self.dead_head = passes.dead_head();
        if self.in_stage
            && let Some(stage) = self.stages.last_mut()
        {
            stage.left = passes.areas().left();
        }
    }

    pub(super) fn begin_stage(&mut self, name: &str, wanted: u64, left: u64) {
        if !self.in_stage || self.stages.last().is_none_or(|stage| stage.name != name) {
            self.stages.push(Stage { name: name.into(), wanted, left });
        } else if let Some(stage) = self.stages.last_mut() {
            (stage.wanted, stage.left) = (wanted, left);
        }
        self.in_stage = true;
    }
}
