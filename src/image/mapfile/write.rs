//! A map as ddrescue writes it.

use crate::image::bad::{BadBlocks, BadRange, Status};
use crate::image::listing::{Listing, Out};

/// The letter of a status. ddrescue has no `suspect`: it becomes non-tried, so that ddrescue would read it again.
fn letter(status: Status) -> char {
    match status {
        Status::NonTried | Status::Suspect => '?',
        Status::NonTrimmed => '*',
        Status::NonScraped => '/',
        Status::Bad => '-',
        Status::Finished => '+',
    }
}

/// A map of a disk of `size` bytes as ddrescue writes it.
pub struct Mapfile<'a> {
    /// The map.
    pub map: &'a BadBlocks,
    /// The size of the disk in bytes.
    pub size: u64,
}

impl Mapfile<'_> {
    fn line(out: &mut impl Out, start: u64, end: u64, status: char) {
        out.text("0x");
        out.hex(start);
        out.text("  0x");
        out.hex(end - start);
        out.text("  ");
        out.text(status.encode_utf8(&mut [0; 4]));
        out.text("\n");
    }
}

impl Listing for Mapfile<'_> {
    fn len(&self) -> usize {
        self.map.ranges().len()
    }

    fn begin(&self, out: &mut impl Out) {
        out.text(concat!("# Mapfile. Created by cdi version ", env!("CARGO_PKG_VERSION"), "\n"));
        out.text("# current_pos  current_status  current_pass\n");
        // What ddrescue would go on with: the least processed status that is left.
        let left = self.map.ranges().iter().min_by_key(|r| (r.status, r.start));
        let phase = left.map_or('+', |r| if r.status == Status::Bad { '+' } else { letter(r.status) });
        out.text("0x");
        out.hex(left.map_or(0, |r| r.start));
        out.text("     ");
        out.text(phase.encode_utf8(&mut [0; 4]));
        out.text("               1\n#      pos        size  status\n");
    }

    /// What is finished before a range, and the range. Neighbours that differ only in what a mapfile cannot say are one.
    fn item(&self, at: usize, out: &mut impl Out) -> usize {
        let ranges = &self.map.ranges()[at..];
        let before = at.checked_sub(1).map_or(0, |before| self.map.ranges()[before].end);
        let (start, letter_of_all) = (ranges[0].start, letter(ranges[0].status));
        if before < start {
            Self::line(out, before, start, letter(Status::Finished));
        }
        let joins = |w: &[BadRange]| w[0].end == w[1].start && letter(w[1].status) == letter_of_all;
        let more = ranges.windows(2).take_while(|w| joins(w)).count();
        Self::line(out, start, ranges[more].end, letter_of_all);
        at + 1 + more
    }

    fn end(&self, out: &mut impl Out) {
        let at = self.map.ranges().last().map_or(0, |r| r.end);
        if at < self.size {
            Self::line(out, at, self.size, letter(Status::Finished));
        }
    }
}
