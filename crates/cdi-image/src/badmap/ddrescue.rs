//! ddrescue's mapfile: read in all its forms, written as ddrescue writes it.
//!
//! The form is documented in GNU ddrescue's manual, "Mapfile structure": `#` comments, one status line
//! (`current_pos current_status [current_pass]`), then lines `pos size status`. Numbers are bytes, in decimal,
//! hexadecimal (0x) or octal (leading 0). ddrescue itself wants the blocks in order and without gaps; people's
//! maps are partial, joined by hand, and on macOS end at 2^63-1, so all of that is read here, and what was done
//! about it is said in a remark.

mod blocks;
mod write;

use std::path::Path;

use blocks::Blocks;
use cdi_base::error::Error;
use cdi_base::units::human;
pub use write::{Mapfile, is_made_here, letter, says_less};

use super::{BadBlocks, BadRange, MOST_RANGES, Status, superclone};
use crate::text::lines::each_line;

/// ddrescue calls the end of a device of unknown size this; the usual case on macOS.
const UNKNOWN_END: u64 = i64::MAX as u64;

/// From here on an end is not a disk's: it is what stands for one that is not known, less what it was rounded by.
const UNLIKELY_END: u64 = 1 << 62;

/// The blocks that a mapfile or a log lists, before it is known how large the disk is.
#[derive(Debug, Default)]
pub struct Listed {
    blocks: Blocks,
    /// Where they end, in bytes of the disk, and where the finished ones of them do: less those whose end stands for one
    /// that is not known.
    end: u64,
    finished_end: u64,
    /// Whether there are such.
    unknown: bool,
}

impl Listed {
    /// Reads the mapfile, or HDDSuperClone's log, at `path`.
    pub fn read(path: &Path) -> Result<Listed, Error> {
        let mut reader = Reader::default();
        each_line(path, "the mapfile", &mut |_, line| reader.line(line))?;
        reader.finish().map_err(|e| Error::bad_image(e).at(path))
    }

    /// Takes in a block, in bytes of the disk.
    pub(super) fn add(&mut self, start: u64, end: u64, status: Status) -> Result<(), String> {
        if start == end {
            return Ok(());
        }
        if end >= UNLIKELY_END {
            self.unknown = true;
            // One that only begins there says nothing of the disk.
            if start < UNLIKELY_END {
                self.end = self.end.max(start);
            }
        } else {
            self.end = self.end.max(end);
            if status == Status::Finished {
                self.finished_end = self.finished_end.max(end);
            }
        }
        self.blocks.add(BadRange::new(start..end, status));
        if self.blocks.unfinished() > MOST_RANGES {
            return Err(format!("more than {MOST_RANGES} blocks that are not finished"));
        }
        Ok(())
    }

    /// Returns the size of the disk in bytes, as far as the file says it. Where the last block's end stands for one that is
    /// not known, the disk has at least this many.
    pub fn end(&self) -> End {
        if self.unknown { End::AtLeast(self.end) } else { End::Known(self.end) }
    }

    /// Makes the map of a disk of `size` bytes in sectors of `sector` bytes, and remarks about what the file did not say
    /// plainly.
    pub fn map(self, size: u64, sector: u32) -> (BadBlocks, Vec<String>) {
        let end = self.end();
        let (mut map, mut remarks) = self.blocks.map(size);
        match end {
            End::AtLeast(_) => remarks.push(format!(
                "the mapfile's last block ends at 2^63-1, as ddrescue writes it where the system does not tell a \
                 device's size (macOS); the disk is taken to end at {size}"
            )),
            End::Known(end) if end > size => remarks.push(format!(
                "the mapfile goes past the end of the disk ({size} bytes); what is past it is left out"
            )),
            End::Known(_) => {}
        }
        if !map.is_rounded(sector, size) {
            let missing = map.missing();
            map = map.rounded(sector, size);
            let grown = map.missing().saturating_sub(missing);
            remarks.push(format!(
                "the mapfile's blocks are not whole sectors of {sector} bytes: a sector of which a part is not finished \
                 counts as not finished ({} more)",
                human(grown)
            ));
        }
        (map, remarks)
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
    if listed.finished_end > size {
        let what = format!(
            "a finished block ends at byte {}, and the disk has {size}: this map is of another disk",
            listed.finished_end
        );
        return Err(Error::bad_image(what).at(path));
    }
    Ok(listed.map(size, sector))
}

/// Reads a mapfile or a log, line by line. Which it is, the second line tells that is no comment: those of a log have five
/// words.
#[derive(Default)]
struct Reader {
    first: Option<String>,
    log: Option<bool>,
    superclone: superclone::Log,
    listed: Listed,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if self.log != Some(false) && self.superclone.comment(line) {
            return Ok(());
        }
        let mut words = [""; 6];
        let mut count = 0;
        for word in line.split('#').next().unwrap_or("").split_ascii_whitespace().take(words.len()) {
            words[count] = word;
            count += 1;
        }
        let words = &words[..count];
        if words.is_empty() {
            return Ok(());
        }
        match (self.log, &self.first) {
            (Some(true), _) => self.superclone.block(words, &mut self.listed),
            (Some(false), _) => block(words, &mut self.listed),
            (None, None) => {
                if words.len() == 5 {
                    return Err(superclone::DOMAIN.into());
                }
                self.first = Some(words.join(" "));
                // That of a log has two numbers.
                let numbers = words.len() == 2 && words.iter().all(|w| parse_number(w).is_some());
                if numbers { Ok(()) } else { status_line(words) }
            }
            (None, Some(first)) => {
                let log = words.len() == 5 || status_line(&first.split(' ').collect::<Vec<_>>()).is_err();
                self.log = Some(log);
                if log {
                    self.superclone.block(words, &mut self.listed)
                } else {
                    block(words, &mut self.listed)
                }
            }
        }
    }

    fn finish(self) -> Result<Listed, String> {
        match (self.first, self.log) {
            (None, _) => Err("this is not a ddrescue mapfile: it has no status line".into()),
            (Some(first), None) => status_line(&first.split(' ').collect::<Vec<_>>()).map(|()| self.listed),
            _ => Ok(self.listed),
        }
    }
}

/// Checks the status line. It says where ddrescue stood; it must be one, but we go on from nowhere.
fn status_line(words: &[&str]) -> Result<(), String> {
    let status = words.get(1).copied().unwrap_or("");
    let is_status = status.len() == 1 && "?*/-FG+".contains(status);
    let pass = words.get(2).is_none_or(|w| w.parse::<u32>().is_ok());
    let position = words.first().is_some_and(|w| parse_number(w).is_some());
    if position && is_status && pass && words.len() <= 3 {
        Ok(())
    } else {
        Err("this is not a ddrescue mapfile: bad or missing status line".into())
    }
}

/// Takes in a line about a block.
fn block(words: &[&str], listed: &mut Listed) -> Result<(), String> {
    let [pos, len, status] = words else { return Err("a block line is: position size status".into()) };
    let start = parse_number(pos).ok_or("the position is not a number")?;
    let len = parse_number(len).ok_or("the size is not a number")?;
    let status = from_letter(status).ok_or("the status is not one of ? * / - +")?;
    let end = start.checked_add(len).filter(|e| *e <= UNKNOWN_END + 1).ok_or("the block ends past 2^63")?;
    listed.add(start, end, status)
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What is in a text, or what is wrong in which line.
    pub(crate) fn parse(text: &str) -> Result<Listed, String> {
        let mut reader = Reader::default();
        crate::text::lines::each_of(text.as_bytes(), &mut |_, line| reader.line(line)).unwrap()?;
        reader.finish()
    }

    fn map_of(text: &str, size: u64) -> (BadBlocks, Vec<String>) {
        parse(text).unwrap().map(size, 1)
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
        let end = |text| parse(text).unwrap().end();
        assert_eq!(end("0 +\n0 5000 +\n5000 1000 ?\n"), End::Known(6000));
        assert_eq!(end("0 +\n0 5000 +\n5000 0x7FFFFFFFFFFFEC77 ?\n"), End::AtLeast(5000));
        assert_eq!(end("0 +\n0 512 +\n512 0x7FFFFFFFFFFFFC00 -\n"), End::AtLeast(512));
        assert_eq!(end("0 +\n"), End::Known(0));
    }

    #[test]
    fn blocks_in_any_order_make_the_same_map() {
        let lines: Vec<String> = (0..500u64)
            .filter(|i| i % 13 != 5)
            .map(|i| {
                format!("{} 512 {}\n", i * 512, ["+", "-", "?", "+", "/", "*"][(i * i % 11 % 6) as usize])
            })
            .collect();
        let text = |lines: &[String]| format!("0 +\n{}", lines.concat());
        let expect = map_of(&text(&lines), 250_000);
        assert_eq!(expect.1.len(), 2, "{:?}", expect.1);
        for at in [1, 100, 300, lines.len() - 1] {
            let mut lines = lines.clone();
            lines.rotate_left(at);
            assert_eq!(map_of(&text(&lines), 250_000), expect, "{at}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let map =
            bad(&[(0, 512, Status::NonTried), (1024, 2048, Status::Bad), (2048, 4096, Status::NonScraped)]);
        let mut text = Vec::new();
        crate::text::listing::write(&Mapfile { map: &map, size: 8192 }, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(map_of(&text, 8192), (map, vec![]));
        assert!(text.contains("0x00001000  0x00001000  +"), "{text}");
    }
}
