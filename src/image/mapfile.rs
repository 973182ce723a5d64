//! ddrescue's mapfile: read in all its forms, written as ddrescue writes it.
//!
//! The form is documented in GNU ddrescue's manual, "Mapfile structure": `#` comments, one status line
//! (`current_pos current_status [current_pass]`), then lines `pos size status`. Numbers are bytes, in decimal,
//! hexadecimal (0x) or octal (leading 0). ddrescue itself wants the blocks in order and without gaps; people's
//! maps are partial, joined by hand, and on macOS end at 2^63-1, so all of that is read here, and what was done
//! about it is said in a remark.

use std::fs;
use std::path::Path;

use super::bad::{BadBlocks, BadRange, MOST_RANGES, Status};
use super::listing::{Listing, Out};
use super::superclone::{self, Block};
use crate::error::Error;
use crate::units::human;

/// ddrescue calls the end of a device of unknown size this; the usual case on macOS.
const UNKNOWN_END: u64 = i64::MAX as u64;

/// The longest mapfile that is read: a line for every second sector of a very bad disk would fit many times.
const LONGEST: u64 = 256 << 20;

/// From here on an end is not a disk's: it is what stands for one that is not known, less what it was rounded by.
const UNLIKELY_END: u64 = 1 << 62;

/// The blocks that a mapfile or a log lists, before it is known how large the disk is.
#[derive(Debug)]
pub struct Listed {
    /// In bytes of the disk, as the file has them, finished ones too: a gap is what no line speaks of.
    blocks: Vec<Block>,
}

impl Listed {
    /// Reads the mapfile, or HDDSuperClone's log, at `path`.
    pub fn read(path: &Path) -> Result<Listed, Error> {
        let read = |e| Error::io("the mapfile cannot be read", path, e);
        if fs::metadata(path).map_err(read)?.len() > LONGEST {
            return Err(Error::bad_image("too long for a mapfile").at(path));
        }
        let text = fs::read(path).map_err(read)?;
        let text = String::from_utf8_lossy(&text);
        let blocks = if superclone::is_log(&text) { superclone::parse(&text) } else { parse(&text) };
        Ok(Listed { blocks: blocks.map_err(|e| Error::bad_image(e).at(path))? })
    }

    /// Returns the size of the disk in bytes, as far as the file says it. Where the last block's end stands for one that is
    /// not known, the disk has at least this many.
    pub fn end(&self) -> End {
        let unknown = self.blocks.iter().any(|b| b.1 >= UNLIKELY_END);
        let ends = self.blocks.iter().map(|&(start, end, _)| if end >= UNLIKELY_END { start } else { end });
        let end = ends.max().unwrap_or(0);
        if unknown { End::AtLeast(end) } else { End::Known(end) }
    }

    /// Makes the map of a disk of `size` bytes in sectors of `sector` bytes, and remarks about what the file did not say
    /// plainly.
    pub fn map(self, size: u64, sector: u32) -> (BadBlocks, Vec<String>) {
        let end = self.end();
        let (map, mut remarks) = settled(self.blocks, size);
        match end {
            End::AtLeast(_) => remarks.push(format!(
                "the mapfile's last block ends at 2^63-1, as ddrescue writes it where the system does not tell a \
                 device's size (macOS); taken to end at {size}, the end of the image"
            )),
            End::Known(end) if end > size => remarks.push(format!(
                "the mapfile goes past the end of the disk ({size} bytes); what is past it is left out"
            )),
            End::Known(_) => {}
        }
        let rounded = map.rounded(sector, size);
        if rounded != map {
            let grown = rounded.missing().saturating_sub(map.missing());
            remarks.push(format!(
                "the mapfile's blocks are not whole sectors of {sector} bytes: a sector of which a part is not finished \
                 counts as not finished ({} more)",
                human(grown)
            ));
        }
        (rounded, remarks)
    }
}

/// Where the blocks of a map end, in bytes of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The size of the disk.
    Known(u64),
    /// The disk may be longer.
    AtLeast(u64),
}

impl End {
    /// Returns how long the disk is at least, in bytes.
    pub fn at_least(self) -> u64 {
        match self {
            End::Known(end) | End::AtLeast(end) => end,
        }
    }
}

/// Reads the map at `path` of a disk that is there and has `size` bytes. A map that calls more than that finished is of
/// another disk, which is an error.
pub fn load(path: &Path, size: u64, sector: u32) -> Result<(BadBlocks, Vec<String>), Error> {
    let listed = Listed::read(path)?;
    let finished = |b: &&Block| b.2 == Status::Finished && b.1 < UNLIKELY_END;
    if let Some(end) = listed.blocks.iter().filter(finished).map(|b| b.1).max().filter(|end| *end > size) {
        let what = format!(
            "a finished block ends at byte {end}, and the disk has {size}: this map is of another disk"
        );
        return Err(Error::bad_image(what).at(path));
    }
    Ok(listed.map(size, sector))
}

/// Reads the blocks of a mapfile's text.
fn parse(text: &str) -> Result<Vec<Block>, String> {
    let mut status_line = false;
    let mut blocks: Vec<Block> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let fail = |what: &str| format!("line {}: {what}", number + 1);
        let line = line.split('#').next().unwrap_or("");
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if words.is_empty() {
            continue;
        }
        if !status_line {
            // The status line says where ddrescue stood; it must be one, but we go on from nowhere.
            let status = words.get(1).copied().unwrap_or("");
            let is_status = status.len() == 1 && "?*/-FG+".contains(status);
            let pass = words.get(2).is_none_or(|w| w.parse::<u32>().is_ok());
            if parse_number(words[0]).is_none() || !is_status || !pass || words.len() > 3 {
                return Err(fail("this is not a ddrescue mapfile: bad or missing status line"));
            }
            status_line = true;
            continue;
        }
        let [pos, len, status] = words[..] else {
            return Err(fail("a block line is: position size status"));
        };
        let start = parse_number(pos).ok_or_else(|| fail("the position is not a number"))?;
        let len = parse_number(len).ok_or_else(|| fail("the size is not a number"))?;
        let status = from_letter(status).ok_or_else(|| fail("the status is not one of ? * / - +"))?;
        let end = start
            .checked_add(len)
            .filter(|e| *e <= UNKNOWN_END + 1)
            .ok_or_else(|| fail("the block ends past 2^63"))?;
        if len > 0 {
            blocks.push((start, end, status));
        }
        if blocks.len() > MOST_RANGES {
            return Err(fail(&format!("more than {MOST_RANGES} blocks")));
        }
    }
    if status_line { Ok(blocks) } else { Err("this is not a ddrescue mapfile: it has no status line".into()) }
}

/// The map that blocks tell of, whatever their order: what none speaks of is non-tried, and where two disagree the less
/// processed status holds. What was done is remarked.
fn settled(mut blocks: Vec<Block>, size: u64) -> (BadBlocks, Vec<String>) {
    let mut remarks = Vec::new();
    // In order of position, and among equals the worse first, to see gaps and contradictions.
    blocks.sort_by_key(|b| (b.0, b.2));
    let mut covered = 0;
    let mut gaps = Vec::new();
    let (mut gap_bytes, mut contradiction) = (0, false);
    let mut before: Option<(u64, Status)> = None;
    for &(start, end, status) in &blocks {
        let (start, end) = (start.min(size), end.min(size));
        if start > covered {
            gaps.push(BadRange::new(covered..start, Status::NonTried));
            gap_bytes += start - covered;
        }
        contradiction |= before.is_some_and(|(until, s)| start < until && s != status);
        if before.is_none_or(|(until, _)| end >= until) {
            before = Some((end, status));
        }
        covered = covered.max(end);
    }
    if covered < size {
        gaps.push(BadRange::new(covered..size, Status::NonTried));
        gap_bytes += size - covered;
    }
    if gap_bytes > 0 {
        remarks.push(format!(
            "the mapfile does not speak of {} of the disk; they count as non-tried",
            human(gap_bytes)
        ));
    }
    if contradiction {
        remarks.push("blocks of the mapfile overlap and disagree; the less processed status holds".into());
    }
    let listed =
        blocks.iter().map(|&(start, end, status)| BadRange::new(start.min(size)..end.min(size), status));
    (BadBlocks::from_unsorted(listed.chain(gaps)), remarks)
}

/// A number as C's `%lli` reads it: decimal, 0x hexadecimal, or octal with a leading 0. Never negative.
pub(super) fn parse_number(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok();
    }
    match text.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => u64::from_str_radix(octal, 8).ok(),
        _ => text.parse().ok(),
    }
}

fn from_letter(letter: &str) -> Option<Status> {
    Some(match letter {
        "?" => Status::NonTried,
        "*" => Status::NonTrimmed,
        "/" => Status::NonScraped,
        "-" => Status::Bad,
        "+" => Status::Finished,
        _ => return None,
    })
}

/// The letter of a status. ddrescue has no `suspect`: it becomes non-tried, so that ddrescue would read it again.
pub fn letter(status: Status) -> char {
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

/// Whether a map says less of a disk than `old` does: something that `old` calls finished is not in it, or something that
/// `old` lists as failed is finished, or not tried, in it.
pub fn says_less(map: &BadBlocks, old: &BadBlocks) -> bool {
    let failed = |r: &&BadRange| !matches!(r.status, Status::NonTried | Status::Suspect);
    let lists = |map: &BadBlocks, range: &BadRange, fits: &dyn Fn(Status) -> bool| {
        let mut at = range.start;
        for r in map.touching(range.start..range.end) {
            if r.start > at || !fits(r.status) {
                return false;
            }
            at = r.end;
        }
        at >= range.end
    };
    let kept = |r: &BadRange| lists(map, r, &|status| status != Status::NonTried && status >= r.status);
    !old.ranges().iter().filter(failed).all(kept) || !map.ranges().iter().all(|r| lists(old, r, &|_| true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map_of(text: &str, size: u64) -> (BadBlocks, Vec<String>) {
        Listed { blocks: parse(text).unwrap() }.map(size, 1)
    }

    fn bad(ranges: &[(u64, u64, Status)]) -> BadBlocks {
        BadBlocks::from_unsorted(ranges.iter().map(|&(a, b, s)| BadRange::new(a..b, s)))
    }

    #[test]
    fn numbers_are_hexadecimal_decimal_or_octal() {
        let text = "0 +\n0x0 0x200 +\n512 512 -\n02000 01000 ?\n";
        let (map, remarks) = map_of(text, 1536);
        assert_eq!(map, bad(&[(512, 1024, Status::Bad), (1024, 1536, Status::NonTried)]));
        assert!(remarks.is_empty(), "{remarks:?}");
    }

    #[test]
    fn the_end_that_macos_gives_is_clamped_with_a_remark() {
        let text = "0x00000000     ?               1\n0x00000000  0x00001000  +\n0x00001000  0x7FFFFFFFFFFFEFFF  ?\n";
        let (map, remarks) = map_of(text, 8192);
        assert_eq!(map, bad(&[(4096, 8192, Status::NonTried)]));
        assert!(remarks[0].contains("2^63-1"), "{remarks:?}");
        let whole = "0 +\n0 0x7FFFFFFFFFFFFFFF +\n";
        assert!(map_of(whole, 8192).0.is_empty());
    }

    #[test]
    fn a_partial_unsorted_overlapping_map_is_read_with_remarks() {
        let text = "0 ?\n0x800 0x200 -\n0x100 0x100 + # comment\n0x100 0x80 +\n";
        let (map, remarks) = map_of(text, 0x1000);
        let expect = [
            (0, 0x100, Status::NonTried),
            (0x200, 0x800, Status::NonTried),
            (0x800, 0xA00, Status::Bad),
            (0xA00, 0x1000, Status::NonTried),
        ];
        assert_eq!(map, bad(&expect));
        assert_eq!(remarks.len(), 1, "{remarks:?}");
        let (map, remarks) = map_of("0 ?\n0 0x400 +\n0x200 0x200 -\n", 0x400);
        assert_eq!(map, bad(&[(0x200, 0x400, Status::Bad)]));
        assert!(remarks[0].contains("disagree"), "{remarks:?}");
    }

    #[test]
    fn what_is_not_a_mapfile_is_refused_with_its_line() {
        for (text, word) in [
            ("", "no status line"),
            ("# only a comment\n", "no status line"),
            ("hello world\n", "line 1: this is not a ddrescue mapfile"),
            ("0 +\n0 1\n", "line 2: a block line is"),
            ("0 +\n0 x +\n", "line 2: the size"),
            ("0 +\n-1 5 +\n", "line 2: the position"),
            ("0 +\n0 5 !\n", "line 2: the status"),
            ("0 +\n0x7FFFFFFFFFFFFFFF 2 +\n", "line 2: the block ends past"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_disk_ends_where_the_map_does() {
        let end = |text| Listed { blocks: parse(text).unwrap() }.end();
        assert_eq!(end("0 +\n0 5000 +\n5000 1000 ?\n"), End::Known(6000));
        assert_eq!(end("0 +\n0 5000 +\n5000 0x7FFFFFFFFFFFEC77 ?\n"), End::AtLeast(5000));
        assert_eq!(end("0 +\n0 512 +\n512 0x7FFFFFFFFFFFFC00 -\n"), End::AtLeast(512));
        assert_eq!(end("0 +\n"), End::Known(0));
    }

    #[test]
    fn a_map_says_less_if_anything_known_is_not_in_it() {
        use Status::*;
        let old = bad(&[(0, 100, Bad), (100, 200, NonScraped), (500, 600, NonTried)]);
        let less = |ranges: &[(u64, u64, Status)]| says_less(&bad(ranges), &old);
        assert!(!says_less(&old, &old));
        assert!(less(&[]));
        // Rescued since: what was not tried may be finished, what was not scraped may be bad.
        assert!(!less(&[(0, 200, Bad)]));
        assert!(!less(&[(0, 100, Bad), (100, 200, NonScraped), (500, 550, Bad)]));
        assert!(less(&[(0, 99, Bad), (100, 200, NonScraped)]));
        assert!(less(&[(0, 100, NonTried), (100, 200, NonScraped)]));
        assert!(less(&[(0, 100, NonScraped), (100, 200, NonScraped)]));
        assert!(less(&[(0, 200, Bad), (300, 301, Bad)]));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let map =
            bad(&[(0, 512, Status::NonTried), (1024, 2048, Status::Bad), (2048, 4096, Status::NonScraped)]);
        let mut text = Vec::new();
        crate::image::listing::write(&Mapfile { map: &map, size: 8192 }, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(map_of(&text, 8192), (map, vec![]));
        assert!(text.contains("0x00001000  0x00001000  +"), "{text}");
    }
}
