//! What a person who waits sees of the imaging of a disk.

use std::time::Instant;

use cdi_image::badmap::Status;

use super::areas::{Areas, Direction};
use super::passes::Pass;

/// How many cells the map of the disk has.
pub const CELLS: usize = 64;

/// How it stands.
#[derive(Debug, Clone)]
pub struct View {
    /// What is being done, and which way.
    pub pass: (Pass, Direction),
    /// Where, in bytes.
    pub at: u64,
    /// How many bytes are wanted of the disk.
    pub wanted: u64,
    /// How many of them are not finished, by their status.
    pub left: [(Status, u64); 4],
    /// How many areas are not finished.
    pub areas: usize,
    /// How many bytes were read in this run, and how many reads failed.
    pub read: u64,
    /// How many reads failed in this run.
    pub errors: u64,
    /// When this run began.
    pub began: Instant,
    /// When something was read last.
    pub last_good: Instant,
    /// Since when a read has been under way.
    pub reading: Option<Instant>,
    /// The disk in parts of equal size: the least processed status in each.
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

    /// How many bytes are finished, of those that are wanted.
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
