//! The progress of imaging, as shown to the user.

use std::time::Instant;

use cdi_image::badmap::Status;

use super::areas::{Areas, Direction};
use super::passes::Pass;

/// The number of cells in the map of the disk.
pub const CELLS: usize = 64;

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
            cells: vec![Status::Finished; CELLS],
        }
    }

    /// Returns the number of finished bytes in the domain.
    pub fn rescued(&self) -> u64 {
        self.wanted - self.left.iter().map(|(_, bytes)| bytes).sum::<u64>().min(self.wanted)
    }

    pub(super) fn count(&mut self, areas: &Areas) {
        for (status, bytes) in &mut self.left {
            *bytes = areas.bytes(*status);
        }
        self.areas = areas.len();
    }
}
