//! Parses the progress logs of HDDSuperClone and OpenSuperClone. They correspond to ddrescue's mapfile, in sectors.
//!
//! Sources: what both programs write and read. Comments begin with `#`; some of them are settings (`# sectorsize 512`).
//! A line `position status` gives the program's current position; the others are `position size status info error`.

use std::ops::Range;

use super::Status;
use super::listed::{Listed, parse_number};

/// The error for a log that has no line with the current position.
pub(crate) const DOMAIN_LOG: &str =
    "a domain log, not a progress log: there is no line with the current position";

/// The settings read from a log so far.
#[derive(Default)]
pub(crate) struct Log {
    /// Whether the current comments are about the drive.
    about_drive: bool,
    sector: Option<u64>,
    sector_adjusted: Option<u64>,
    /// Where copying started on the source and on the destination, in sectors. Positions are those of the source.
    from: u64,
    to: u64,
}

impl Log {
    /// Parses a line if it is a comment. Returns whether it is one.
    pub(crate) fn comment(&mut self, line: &str) -> bool {
        let mut words = line.trim_start_matches(['#', ' ', '\t']).split_ascii_whitespace();
        let first = words.next().unwrap_or("");
        let was_about_drive = self.about_drive;
        self.about_drive |= matches!(first, "startsmart" | "startanalyze" | "startanalyse");
        self.about_drive &= !matches!(first, "endsmart" | "endanalyze" | "endanalyse");
        let comment = line.trim_start().starts_with('#');
        if comment && let Some(value) = words.next().and_then(|word| word.parse().ok()) {
            match first {
                "sectorsize" => self.sector = self.sector.or(Some(value)),
                "sectorsizeadjust" => self.sector_adjusted = self.sector_adjusted.or(Some(value)),
                "inputoffset" => self.from = value,
                "outputoffset" => self.to = value,
                _ => {}
            }
        }
        comment || was_about_drive || self.about_drive
    }

    /// Parses a block line and adds the block to `listed`.
    pub(crate) fn block(&self, words: &[&str], listed: &mut Listed) -> Result<(), String> {
        let sector = self.sector.unwrap_or(512);
        if self.sector_adjusted.is_some_and(|adjusted| adjusted != 0 && adjusted != sector) {
            return Err(
                "the image's sector size differs from the disk's (sectorsizeadjust), which is not supported"
                    .into(),
            );
        }
        if !(1..=1 << 20).contains(&sector) {
            return Err(format!("invalid sector size: {sector} bytes"));
        }
        let [position, len, status, _, _] = words else {
            return Err("expected a block line: position size status info error".into());
        };
        let value = |word: &str| parse_number(word).ok_or("not a number");
        let (position, len, status) = (value(position)?, value(len)?, value(status)?);
        // The other bits are about passes and heads. What is called dividing here is trimming in ddrescue.
        let status = match status & 0x70 {
            0x00 => Status::NonTried,
            0x10 | 0x20 => Status::NonTrimmed,
            0x30 => Status::NonScraped,
            0x40 => Status::Bad,
            0x70 => Status::Finished,
            _ => return Err("unknown status".into()),
        };
        let bytes = bytes(position, len, self.from, self.to, sector).ok_or("the block ends past 2^63")?;
        if bytes.is_empty() { Ok(()) } else { listed.add(bytes.start, bytes.end, status) }
    }
}

/// Returns the byte range in the image of a run of sectors of the source.
fn bytes(position: u64, len: u64, from: u64, to: u64, sector: u64) -> Option<Range<u64>> {
    let end = position.checked_add(len)?;
    let place = |at: u64| at.max(from).checked_sub(from)?.checked_add(to)?.checked_mul(sector);
    Some(place(position)?..place(end)?).filter(|r| i64::try_from(r.end).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::badmap::load::tests::parse;

    const LOG: &str = "# Disk progress log file created by HDDSuperClone version 2.3\n#\n# sectorsize  \t512\n\
        # inputoffset \t2\n# startsmart\nID 5 reallocated\n# endsmart\n# outputoffset \t0\n# current position status\n0x000010 \t0x7f\n\
        0x000000 \t0x000004 \t0x7f \t0x0 \t0x0\n0x000004 \t0x000001 \t0x40 \t0x0 \t0x31100\n\
        0x000005 \t0x000001 \t0x90 \t0x80 \t0x5140\n6 1 0x20 0 0\n7 1 0x30 0 0\n8 2 0 0 0\n0xa 0x6 0x7f 0 0\n";

    #[test]
    fn blocks_are_sectors_counted_from_the_input_offset() {
        use Status::*;
        let (map, warnings) = parse(LOG).unwrap().map(14 * 512, 512);
        let sectors: Vec<_> = map.ranges().iter().map(|r| (r.start / 512, r.end / 512, r.status)).collect();
        assert_eq!(sectors, [(2, 3, Bad), (3, 5, NonTrimmed), (5, 6, NonScraped), (6, 8, NonTried)]);
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn errors_name_the_line() {
        for (line, word) in [
            ("0 1 0x7f 0", "position size status info error"),
            ("0 x 0x7f 0 0", "not a number"),
            ("0 1 0x50 0 0", "unknown status"),
            ("0xffffffffffffffff 2 0 0 0", "past 2^63"),
        ] {
            let error = parse(&format!("0 0x7f\n{line}\n")).unwrap_err();
            assert!(error.contains(word) && error.starts_with("line 2"), "{line}: {error}");
        }
        assert!(parse("0 1 0 0 0\n").is_err_and(|e| e.contains("domain")));
    }
}
