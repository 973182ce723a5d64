//! `--files`: what the parts of a disk are used for.

use std::ops::Range;

use cdi_base::error::Error;
use cdi_base::readable::Readable;
use cdi_fs::file_system::{Child, Damage, Kind, Record, Structure, Visitor};
use cdi_fs::recognize::Recognized;
use cdi_fs::volumes::{Part, layout};
use cdi_image::disk::Disk;

use crate::cmd::Interrupt;
use crate::ui::picture::{Cell, Shape};

/// What a part of a disk is used for: what most of it is used for, or what its bad sectors cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// Nothing, as the file system says.
    Free,
    /// Not known: no file system that cdi knows, or between partitions.
    Other,
    /// Files.
    Files,
    /// The file system itself, and the records of files.
    Metadata,
    /// Free, with bad sectors.
    BadFree,
    /// Not known, with bad sectors.
    BadOther,
    /// Files, with bad sectors.
    BadFiles,
    /// Metadata, with bad sectors.
    BadMetadata,
    /// Most of it was not read yet, and none of it is bad.
    Untried,
}

/// All uses.
pub const USES: [Use; 9] = [
    Use::Free,
    Use::Other,
    Use::Files,
    Use::Metadata,
    Use::BadFree,
    Use::BadOther,
    Use::BadFiles,
    Use::BadMetadata,
    Use::Untried,
];

impl Cell for Use {
    fn style(self) -> (char, &'static str, &'static str) {
        match self {
            Use::Free => ('-', "90", "#eeeeee"),
            Use::Other => ('?', "37", "#c8c8c8"),
            Use::Files => ('f', "32", "#9bd19b"),
            Use::Metadata => ('m', "34", "#7ea6e0"),
            Use::BadFree => ('x', "90", "#e6c3be"),
            Use::BadOther => ('!', "31", "#a05050"),
            Use::BadFiles => ('F', "31", "#c0392b"),
            Use::BadMetadata => ('M', "35", "#8e24aa"),
            Use::Untried => ('.', "90", "#ffffff"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Use::Free => "free",
            Use::Other => "not known",
            Use::Files => "files",
            Use::Metadata => "metadata",
            Use::BadFree => "bad, but free",
            Use::BadOther => "bad, in what is not known",
            Use::BadFiles => "bad, in files",
            Use::BadMetadata => "bad, in metadata",
            Use::Untried => "not read yet",
        }
    }

    fn shape(self) -> Shape {
        match self {
            Use::Free | Use::Files | Use::Untried => Shape::Plain,
            Use::Other => Shape::Dot,
            Use::Metadata => Shape::Bar,
            Use::BadFree => Shape::Slash,
            Use::BadOther => Shape::Dash,
            Use::BadFiles | Use::BadMetadata => Shape::Cross,
        }
    }
}

impl Use {
    /// Returns the same with bad sectors.
    fn bad(self) -> Use {
        match self {
            Use::Free => Use::BadFree,
            Use::Other => Use::BadOther,
            Use::Files => Use::BadFiles,
            Use::Metadata => Use::BadMetadata,
            bad => bad,
        }
    }
}

/// Divides a disk into `count` parts, and returns what each is used for.
pub fn uses(disk: &Disk, count: usize, interrupt: &Interrupt) -> Result<Vec<Use>, Error> {
    let mut cells = Cells { disk, cells: vec![Contained::default(); count], start: 0, interrupt };
    for part in layout(disk).parts {
        cells.part(&part);
        interrupt.check()?;
    }
    // Bad sectors that nothing has, and all that was not read.
    cells.start = 0;
    for missing in disk.missing(0..Disk::size(disk)) {
        cells.add(&missing.range, |bytes, cell| {
            if missing.untried {
                cell.untried += bytes;
            } else {
                cell.bad.get_or_insert(Use::Other);
            }
        });
    }
    let unit = Disk::size(disk).div_ceil(count as u64);
    Ok(cells.cells.into_iter().map(|cell| cell.shown(unit)).collect())
}

/// What is in a cell, in bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Contained {
    free: u64,
    files: u64,
    metadata: u64,
    untried: u64,
    /// What its bad sectors are used for: the most important.
    bad: Option<Use>,
}

impl Contained {
    fn shown(self, unit: u64) -> Use {
        let other = unit.saturating_sub(self.free + self.files + self.metadata);
        let shares = [
            (self.free, Use::Free),
            (other, Use::Other),
            (self.files, Use::Files),
            (self.metadata, Use::Metadata),
        ];
        let most = shares
            .into_iter()
            .max_by_key(|(bytes, what)| (*bytes, *what))
            .map_or(Use::Other, |(_, what)| what);
        match self.bad {
            Some(bad) => bad.bad(),
            None if self.untried > unit / 2 => Use::Untried,
            None => most,
        }
    }
}

struct Cells<'a> {
    disk: &'a Disk,
    cells: Vec<Contained>,
    /// Where the volume begins on the disk.
    start: u64,
    interrupt: &'a Interrupt,
}

impl Cells<'_> {
    fn part(&mut self, part: &Part) {
        self.start = part.range.start;
        let Recognized::Files(found) = &part.contents else { return };
        let volume = part.volume(self.disk);
        found.free(&volume, &mut |free| self.mark(&free, Use::Free));
        found.scan(&volume, self);
    }

    /// Counts a range of the volume.
    fn mark(&mut self, range: &Range<u64>, what: Use) {
        self.add(range, |bytes, cell| match what {
            Use::Free => cell.free += bytes,
            Use::Metadata => cell.metadata += bytes,
            _ => cell.files += bytes,
        });
        let place = self.start.saturating_add(range.start)..self.start.saturating_add(range.end);
        for missing in self.disk.missing(place).into_iter().filter(|missing| !missing.untried) {
            let own = missing.range.start - self.start..missing.range.end - self.start;
            // What is free by a bitmap that is wrong belongs to a file.
            self.add(&own, |_, cell| {
                let before = cell.bad.filter(|bad| *bad != Use::Other);
                cell.bad = before.max(Some(what));
            });
        }
    }

    /// Calls `change` for each cell that a range of the volume touches, with the number of its bytes in it.
    fn add(&mut self, range: &Range<u64>, mut change: impl FnMut(u64, &mut Contained)) {
        let (count, size) = (self.cells.len() as u128, u128::from(Disk::size(self.disk).max(1)));
        let start = u128::from(self.start.saturating_add(range.start));
        let end = u128::from(self.start.saturating_add(range.end)).min(size);
        let mut at = start;
        while at < end {
            let cell = at * count / size;
            // The first byte of the next cell.
            let next = ((cell + 1) * size).div_ceil(count).clamp(at + 1, end.max(at + 1));
            let bytes = u64::try_from(next.min(end) - at).unwrap_or(u64::MAX);
            if let Some(cell) = usize::try_from(cell).ok().and_then(|i| self.cells.get_mut(i)) {
                change(bytes, cell);
            }
            at = next;
        }
    }
}

impl Visitor for Cells<'_> {
    fn record(&mut self, record: Record) -> bool {
        record.metadata.iter().for_each(|range| self.mark(range, Use::Metadata));
        let what = if record.internal || record.kind == Kind::Directory { Use::Metadata } else { Use::Files };
        for data in std::iter::once(&record.data).chain(record.streams.iter().map(|(_, data)| data)) {
            for run in data.place.runs() {
                if let Some(at) = run.volume {
                    self.mark(&(at..at.saturating_add(run.len)), what);
                }
            }
        }
        self.interrupt.check().is_ok()
    }

    fn child(&mut self, _: Child) -> bool {
        true
    }

    fn lost_record(&mut self, _: u64, at: Range<u64>, _: Option<bool>, _: Damage) -> bool {
        self.mark(&at, Use::Metadata);
        true
    }

    fn structure(&mut self, structure: Structure) -> bool {
        structure.at.iter().for_each(|range| self.mark(range, Use::Metadata));
        true
    }
}
