//! Reads the file with the status of the blocks: a ddrescue mapfile or an HDDSuperClone log, whichever it is.

use std::io::{BufRead, BufReader};
use std::path::Path;

use cdi_base::error::Error;

use super::listed::{Listed, parse_number};
use super::{BadBlocks, ddrescue, superclone};
use crate::input::{Input, SourceReader, is_remote};
use crate::text::lines::{each_line, each_of};

/// Reads the ddrescue mapfile or HDDSuperClone log at `path`. If it is neither, the error is
/// [`Kind::BadImage`](cdi_base::error::Kind::BadImage) and names the line.
pub fn read(path: &Path) -> Result<Listed, Error> {
    if is_remote(path) {
        let input = Input::open(path)?;
        return read_from(BufReader::new(SourceReader::new(input.joined(&[Input::MAIN]))), path);
    }
    let mut reader = Reader::default();
    each_line(path, "the mapfile", &mut |_, line| reader.line(line))?;
    reader.finish().map_err(|e| Error::bad_image(e).at(path))
}

/// As [`read`], of a text that is open. `path` is its name in errors.
pub(crate) fn read_from(text: impl BufRead, path: &Path) -> Result<Listed, Error> {
    let mut reader = Reader::default();
    let read = each_of(text, &mut |_, line| reader.line(line));
    let read = read.map_err(|e| Error::io("cannot read the mapfile", path, e))?;
    read.and_then(|()| reader.finish()).map_err(|e| Error::bad_image(e).at(path))
}

/// Returns whether a file that begins with `start` is a ddrescue mapfile or an HDDSuperClone log: its complete lines up to
/// there are valid, and at least one of them lists a block.
pub(crate) fn is_mapfile(start: &[u8]) -> bool {
    let lines = start.iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
    let mut reader = Reader::default();
    let read = each_of(&start[..lines], &mut |_, line| reader.line(line));
    matches!(read, Ok(Ok(()))) && reader.log.is_some()
}

/// Reads the map at `path` of a disk that is present and has `size` bytes, with sectors of `sector` bytes. It is an
/// error if a finished block ends after that: the map is of another disk.
pub fn load(path: &Path, size: u64, sector: u32) -> Result<(BadBlocks, Vec<String>), Error> {
    let listed = read(path)?;
    if listed.finished_end > size {
        let what = format!(
            "a finished block ends at byte {}, but the disk has {size} bytes: this map is of another disk",
            listed.finished_end
        );
        return Err(Error::bad_image(what).at(path));
    }
    Ok(listed.map(size, sector))
}

/// Reads a mapfile or a log, line by line. The second line that is not a comment shows which it is: in a log it has
/// five words.
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
            (Some(false), _) => ddrescue::block(words, &mut self.listed),
            (None, None) => {
                if words.len() == 5 {
                    return Err(superclone::DOMAIN_LOG.into());
                }
                self.first = Some(words.join(" "));
                // The status line of a log consists of two numbers.
                let numbers = words.len() == 2 && words.iter().all(|w| parse_number(w).is_some());
                if numbers { Ok(()) } else { ddrescue::status_line(words) }
            }
            (None, Some(first)) => {
                let log =
                    words.len() == 5 || ddrescue::status_line(&first.split(' ').collect::<Vec<_>>()).is_err();
                self.log = Some(log);
                if log {
                    self.superclone.block(words, &mut self.listed)
                } else {
                    ddrescue::block(words, &mut self.listed)
                }
            }
        }
    }

    fn finish(self) -> Result<Listed, String> {
        match (self.first, self.log) {
            (None, _) => Err("not a ddrescue mapfile: no status line".into()),
            (Some(first), None) => {
                ddrescue::status_line(&first.split(' ').collect::<Vec<_>>()).map(|()| self.listed)
            }
            _ => Ok(self.listed),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::listed::End;
    use super::super::mapfile::Mapfile;
    use super::super::{BadRange, Status};
    use super::*;

    /// Parses a text; an error names the line.
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
        let (map, warnings) = map_of(text, 1536);
        assert_eq!(map, bad(&[(512, 1024, Status::Bad), (1024, 1536, Status::NonTried)]));
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn the_unknown_end_of_macos_is_clamped_with_a_warning() {
        let text = "0x00000000     ?               1\n0x00000000  0x00001000  +\n0x00001000  0x7FFFFFFFFFFFEFFF  ?\n";
        let (map, warnings) = map_of(text, 8192);
        assert_eq!(map, bad(&[(4096, 8192, Status::NonTried)]));
        assert!(warnings[0].contains("2^63-1"), "{warnings:?}");
        let whole = "0 +\n0 0x7FFFFFFFFFFFFFFF +\n";
        assert!(map_of(whole, 8192).0.is_empty());
    }

    #[test]
    fn a_partial_unsorted_overlapping_map_is_read_with_warnings() {
        let text = "0 ?\n0x800 0x200 -\n0x100 0x100 + # comment\n0x100 0x80 +\n";
        let (map, warnings) = map_of(text, 0x1000);
        let expect = [
            (0, 0x100, Status::NonTried),
            (0x200, 0x800, Status::NonTried),
            (0x800, 0xA00, Status::Bad),
            (0xA00, 0x1000, Status::NonTried),
        ];
        assert_eq!(map, bad(&expect));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let (map, warnings) = map_of("0 ?\n0 0x400 +\n0x200 0x200 -\n", 0x400);
        assert_eq!(map, bad(&[(0x200, 0x400, Status::Bad)]));
        assert!(warnings[0].contains("disagree"), "{warnings:?}");
    }

    #[test]
    fn an_invalid_mapfile_is_refused_with_the_line_number() {
        for (text, word) in [
            ("", "no status line"),
            ("# only a comment\n", "no status line"),
            ("hello world\n", "line 1: not a ddrescue mapfile"),
            ("0 +\n0 1\n", "line 2: expected a block line"),
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
    fn a_written_mapfile_is_read_back_unchanged() {
        let map =
            bad(&[(0, 512, Status::NonTried), (1024, 2048, Status::Bad), (2048, 4096, Status::NonScraped)]);
        let mut text = Vec::new();
        crate::text::listing::write(&Mapfile { map: &map, size: 8192 }, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(map_of(&text, 8192), (map, vec![]));
        assert!(text.contains("0x00001000  0x00001000  +"), "{text}");
    }
}
