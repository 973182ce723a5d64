//! Writes ddrescue mapfiles, and compares whether one contains less information than another.

use super::BadBlocks;
use crate::badmap::{BadRange, Status};
use crate::text::listing::{Listing, Out};

/// The beginning of the first line of a mapfile written by this program.
const MADE_HERE: &str = "# Mapfile. Created by cdi ";

/// Returns whether a mapfile begins like one written by this program.
pub fn is_written_by_cdi(start: &[u8]) -> bool {
    start.starts_with(MADE_HERE.as_bytes())
}

/// Returns the character for a status. ddrescue has no `suspect`: it becomes non-tried, so that ddrescue would read it
/// again.
pub fn letter(status: Status) -> char {
    match status {
        Status::NonTried | Status::Suspect => '?',
        Status::NonTrimmed => '*',
        Status::NonScraped => '/',
        Status::Bad => '-',
        Status::Finished => '+',
    }
}

/// A map of a disk of `size` bytes in ddrescue's format.
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
        out.text(MADE_HERE);
        out.text(concat!("version ", env!("CARGO_PKG_VERSION"), "\n"));
        out.text("# current_pos  current_status  current_pass\n");
        // What ddrescue would resume with: the least processed status that is left.
        let left = self.map.ranges().iter().min_by_key(|r| (r.status, r.start));
        let phase = left.map_or('+', |r| if r.status == Status::Bad { '+' } else { letter(r.status) });
        out.text("0x");
        out.hex(left.map_or(0, |r| r.start));
        out.text("     ");
        out.text(phase.encode_utf8(&mut [0; 4]));
        out.text("               1\n#      pos        size  status\n");
    }

    /// Adds the finished part before a range, and the range. Adjacent ranges that differ only in details that a mapfile
    /// cannot express become one.
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

/// Returns whether a map contains less information about a disk than `old`: something is not finished that is finished
/// in `old`, or something is non-tried that failed in `old`. Unless `may_finish` is set, a range that failed in `old`
/// must not be finished either.
pub fn has_less_information(map: &BadBlocks, old: &BadBlocks, may_finish: bool) -> bool {
    // Whether the whole range is listed with a status that fits, or is finished if gaps are allowed.
    let lists = |map: &BadBlocks, range: &BadRange, gaps: bool, fits: &dyn Fn(Status) -> bool| {
        let mut at = range.start;
        for r in map.touching(range.start..range.end) {
            if (r.start > at && !gaps) || !fits(r.status) {
                return false;
            }
            at = r.end;
        }
        at >= range.end || gaps
    };
    let failed = |r: &&BadRange| !matches!(r.status, Status::NonTried | Status::Suspect);
    let kept = |r: &BadRange| lists(map, r, may_finish, &|s| s != Status::NonTried && s >= r.status);
    !old.ranges().iter().filter(failed).all(kept)
        || !map.ranges().iter().all(|r| lists(old, r, false, &|_| true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_says_less_if_any_known_range_is_missing() {
        use Status::*;
        let bad = |ranges: &[(u64, u64, Status)]| {
            BadBlocks::from_unsorted(ranges.iter().map(|&(a, b, s)| BadRange::new(a..b, s)))
        };
        let old = bad(&[(0, 100, Bad), (100, 200, NonScraped), (500, 600, NonTried)]);
        let less = |ranges: &[(u64, u64, Status)]| has_less_information(&bad(ranges), &old, false);
        assert!(!has_less_information(&old, &old, false) && !has_less_information(&old, &old, true));
        assert!(less(&[]));
        // Rescued since: what was not tried may be finished, what was not scraped may be bad.
        assert!(!less(&[(0, 200, Bad)]));
        assert!(!less(&[(0, 100, Bad), (100, 200, NonScraped), (500, 550, Bad)]));
        assert!(less(&[(0, 99, Bad), (100, 200, NonScraped)]));
        assert!(less(&[(0, 100, NonTried), (100, 200, NonScraped)]));
        assert!(less(&[(0, 100, NonScraped), (100, 200, NonScraped)]));
        assert!(less(&[(0, 200, Bad), (300, 301, Bad)]));
        // For an image with a map of its own: failed ranges may have been read since, and read ranges stay read.
        let less = |ranges: &[(u64, u64, Status)]| has_less_information(&bad(ranges), &old, true);
        assert!(!less(&[]) && !less(&[(50, 60, Bad)]));
        assert!(less(&[(50, 60, NonTried)]) && less(&[(300, 301, Bad)]));
    }
}
