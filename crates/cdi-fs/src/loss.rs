//! What is lost of a file.

use std::ops::Range;

use crate::file_system::{Data, Place};
use crate::volume::Volume;

/// The largest number of lost ranges that are kept of a file; they are all counted.
pub const MAX_RANGES: usize = 4096;

/// What is lost of some contents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loss {
    /// Bytes in bad sectors.
    pub bad: u64,
    /// Bytes that were not read sector by sector yet.
    pub untried: u64,
    /// Bytes of which nobody knows where they are.
    pub unknown: u64,
    /// Where they are in the file, in order; the first [`MAX_RANGES`].
    pub ranges: Vec<Lost>,
}

/// A lost range of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The bytes of the file.
    pub file: Range<u64>,
    /// Where they are on the volume, if that is known.
    pub volume: Option<u64>,
    /// Why they are lost.
    pub why: Why,
}

/// Why bytes of a file are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// They are in a bad sector.
    Bad,
    /// They were not read sector by sector yet.
    Untried,
    /// What says where they are is lost.
    Unknown,
}

impl Why {
    /// Returns the name used in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Why::Bad => "bad-sector",
            Why::Untried => "untried",
            Why::Unknown => "place-unknown",
        }
    }
}

impl Loss {
    /// Returns what is lost of `data`.
    pub fn of(data: &Data, volume: &Volume<'_>) -> Loss {
        let mut loss = Loss::default();
        if matches!(data.place, Place::Inline(_)) {
            return loss;
        }
        let mut at = 0;
        for run in data.place.runs() {
            if run.file >= data.size {
                break;
            }
            loss.add(at..run.file, None, Why::Unknown);
            let end = run.file.saturating_add(run.len).min(data.size);
            if let Some(start) = run.volume.filter(|_| !run.unwritten) {
                loss.add_run(run.file..end, start, volume);
            }
            at = end.max(at);
        }
        loss.add(at..data.size, None, Why::Unknown);
        match data.place {
            Place::Units(unit, _) => loss.in_units(unit.max(1), data.size),
            _ => loss,
        }
    }

    /// Returns the same if a lost byte costs the whole unit.
    fn in_units(self, unit: u64, size: u64) -> Loss {
        let mut whole = Loss::default();
        let mut done = 0;
        for lost in self.ranges {
            let start = (lost.file.start - lost.file.start % unit).max(done);
            let end = lost.file.end.checked_next_multiple_of(unit).unwrap_or(size).min(size);
            whole.add(start..end, lost.volume, lost.why);
            done = end.max(done);
        }
        whole
    }

    /// Adds what is missing of a run that begins at byte `start` of the volume.
    fn add_run(&mut self, file: Range<u64>, start: u64, volume: &Volume<'_>) {
        let blocks = start..start.saturating_add(file.end - file.start);
        for missing in volume.missing(blocks.clone()) {
            let first = file.start + (missing.range.start - start);
            let why = if missing.untried { Why::Untried } else { Why::Bad };
            let len = missing.range.end - missing.range.start;
            self.add(first..first + len, Some(missing.range.start), why);
        }
        // Runs past the end of the volume: an image that was cut, or a run list that makes no sense.
        let past = blocks.start.max(volume.size());
        if past < blocks.end {
            self.add(file.start + (past - start)..file.end, None, Why::Unknown);
        }
    }

    fn add(&mut self, file: Range<u64>, volume: Option<u64>, why: Why) {
        if file.is_empty() {
            return;
        }
        let len = file.end - file.start;
        match why {
            Why::Bad => self.bad += len,
            Why::Untried => self.untried += len,
            Why::Unknown => self.unknown += len,
        }
        if self.ranges.len() < MAX_RANGES {
            self.ranges.push(Lost { file, volume, why });
        }
    }

    /// Returns whether nothing is lost.
    pub fn is_empty(&self) -> bool {
        self.total() == 0
    }

    /// Returns how many bytes are lost.
    pub fn total(&self) -> u64 {
        self.bad + self.untried + self.unknown
    }
}

#[cfg(test)]
mod tests {
    use cdi_base::readable::InMemory;

    use super::*;
    use crate::file_system::Run;

    #[test]
    fn holes_and_reserved_blocks_lose_nothing_and_gaps_are_lost() {
        let disk = InMemory { bytes: vec![0; 1 << 20], bad: vec![5000..5512, 8192..9000] };
        let volume = Volume::new(&disk, 0..1 << 20);
        let run = |file, len, volume| Run { file, len, volume, unwritten: false };
        let mut data = Data {
            size: 20_000,
            place: Place::Runs(vec![
                run(0, 4096, None),
                run(4096, 4096, Some(4096)),
                run(12_288, 4096, Some(8192)),
            ]),
            packed: None,
        };
        let loss = Loss::of(&data, &volume);
        assert_eq!((loss.bad, loss.untried, loss.unknown), (512 + 808, 0, 4096 + 3616));
        let lost = |file, volume, why| Lost { file, volume, why };
        let expect = [
            lost(5000..5512, Some(5000), Why::Bad),
            lost(8192..12_288, None, Why::Unknown),
            lost(12_288..13_096, Some(8192), Why::Bad),
            lost(16_384..20_000, None, Why::Unknown),
        ];
        assert_eq!(loss.ranges, expect);
        data.size = 4500;
        assert!(Loss::of(&data, &volume).is_empty(), "what is lost lies past the end of the file");
        let Place::Runs(runs) = &mut data.place else { panic!() };
        runs[1].unwritten = true;
        data.size = 8192;
        assert!(Loss::of(&data, &volume).is_empty());
        let past =
            Data { size: 4096, place: Place::Runs(vec![run(0, 4096, Some((1 << 20) - 1024))]), packed: None };
        assert_eq!(Loss::of(&past, &volume).unknown, 3072);
    }
}
