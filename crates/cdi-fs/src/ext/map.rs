//! The map of a file: its blocks are added in order, and what is between them becomes a hole or is lost.

use std::ops::Range;

use super::reader::Reader;
use super::structures::join;
use crate::file_system::{Damage, MAX_RUNS, Run};

/// What is known of where a file's contents are.
pub(super) struct Map {
    /// The runs, in order.
    pub runs: Vec<Run>,
    /// The blocks that say where the contents are, and blocks after the end of the file.
    pub metadata: Vec<Range<u64>>,
    /// What was wrong first.
    pub damage: Option<Damage>,
    /// The bytes on the volume of metadata that could not be read, and why.
    pub lost: Vec<(Range<u64>, Damage)>,
    /// The block of the file up to which everything is known or lost.
    next: u64,
    /// The number of blocks of the file.
    end: u64,
    block: u64,
    /// Whether blocks after the end are metadata (verity).
    keeps_tail: bool,
}

impl Map {
    /// Makes an empty map of a file of `end` blocks.
    pub(super) fn new(reader: &Reader<'_>, end: u64, keeps_tail: bool) -> Map {
        Map {
            runs: Vec::new(),
            metadata: Vec::new(),
            damage: None,
            lost: Vec::new(),
            next: 0,
            end,
            block: reader.sb.block,
            keeps_tail,
        }
    }

    /// Returns the block of the file from which on something may be added.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Returns the number of blocks of the file.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Returns whether there are too many runs.
    pub(super) fn is_full(&self) -> bool {
        self.runs.len() >= MAX_RUNS || self.metadata.len() >= MAX_RUNS
    }

    /// Notes that something is wrong.
    pub(super) fn spoil(&mut self, damage: Damage) {
        self.damage.get_or_insert(damage);
    }

    /// Adds `len` blocks at block `from` of the file, which are at `to` of the volume.
    pub(super) fn add(&mut self, from: u64, len: u64, to: u64, unwritten: bool) {
        let fits = self.end.saturating_sub(from).min(len);
        if fits < len && self.keeps_tail {
            join(&mut self.metadata, (to + fits) * self.block..(to + len) * self.block);
        }
        if fits > 0 {
            self.hole_to(from);
            self.push(fits, Some(to * self.block), unwritten);
        }
        self.next = self.next.max(from + len);
    }

    /// Notes that nothing is known of the blocks from `from` to `to`.
    pub(super) fn lose(&mut self, from: u64, to: u64, damage: Damage) {
        self.hole_to(from);
        self.next = self.next.max(to);
        self.spoil(damage);
    }

    /// Ends the map: what is left of the file is a hole.
    pub(super) fn finish(&mut self) {
        self.hole_to(self.end);
    }

    fn hole_to(&mut self, block: u64) {
        let block = block.min(self.end);
        if block > self.next {
            self.push(block - self.next, None, false);
        }
    }

    fn push(&mut self, len: u64, volume: Option<u64>, unwritten: bool) {
        let (file, len) = (self.next * self.block, len * self.block);
        self.next += len / self.block;
        if let Some(last) = self.runs.last_mut()
            && last.file + last.len == file
            && last.unwritten == unwritten
            && last.volume.map(|v| v + last.len) == volume
        {
            last.len += len;
        } else if self.runs.len() < MAX_RUNS {
            self.runs.push(Run { file, len, volume, unwritten });
        } else {
            self.spoil(Damage::Invalid("it has too many runs".into()));
        }
    }
}
