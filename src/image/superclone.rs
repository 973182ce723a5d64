//! HDDSuperClone's and OpenSuperClone's progress logs: what ddrescue's mapfile is to ddrescue, counted in sectors.
//!
//! Facts: what both programs write and read. Comments begin with `#`; some of them are settings (`# sectorsize 512`). A line
//! `position status` tells where the program stands; the others are `position size status info error`.

use std::ops::Range;

use super::bad::{MOST_RANGES, Status};

/// A block of the disk in bytes, and its status.
pub(super) type Block = (u64, u64, Status);

/// Whether a text is such a log: its lines about blocks have five words, where a mapfile's have three.
pub(super) fn is_log(text: &str) -> bool {
    data_lines(text).take(2).any(|(_, words)| words.len() == 5)
}

/// The lines that are no comments, with their numbers, in words.
fn data_lines(text: &str) -> impl Iterator<Item = (usize, Vec<&str>)> {
    // What stands in these blocks is about the drive.
    let mut about_drive = false;
    let lines = text.lines().enumerate().filter(move |(_, line)| {
        let first = line.trim_start_matches(['#', ' ', '\t']).split_ascii_whitespace().next().unwrap_or("");
        about_drive |= matches!(first, "startsmart" | "startanalyze" | "startanalyse");
        about_drive &= !matches!(first, "endsmart" | "endanalyze" | "endanalyse");
        !about_drive
    });
    let lines = lines.map(|(n, line)| (n + 1, line.split_ascii_whitespace().collect::<Vec<_>>()));
    lines.filter(|(_, words)| words.first().is_some_and(|w| !w.starts_with('#')))
}

/// The value of a setting, which stands in a comment.
fn setting(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.trim_start().strip_prefix('#')?.split_ascii_whitespace();
        if words.next()? == name { words.next()?.parse().ok() } else { None }
    })
}

/// The blocks of a log, in bytes of the image.
pub(super) fn parse(text: &str) -> Result<Vec<Block>, String> {
    let sector = setting(text, "sectorsize").unwrap_or(512);
    if setting(text, "sectorsizeadjust").is_some_and(|adjusted| adjusted != 0 && adjusted != sector) {
        return Err(
            "the image's sectors are of another size than the disk's (sectorsizeadjust); that is not read"
                .into(),
        );
    }
    if !(1..=1 << 20).contains(&sector) {
        return Err(format!("a sector size of {sector} bytes cannot be"));
    }
    // Positions are the source's. It may have been copied from another place on, and to another.
    let (from, to) = (setting(text, "inputoffset").unwrap_or(0), setting(text, "outputoffset").unwrap_or(0));
    let mut blocks = Vec::new();
    let mut lines = data_lines(text);
    match lines.next() {
        Some((_, words)) if words.len() == 2 => {}
        Some(_) => {
            return Err(
                "this log lists a domain, and not what was read: it does not say where it stands".into()
            );
        }
        None => return Err("this log says nothing".into()),
    }
    for (number, words) in lines {
        let fail = |what: &str| format!("line {number}: {what}");
        let [position, len, status, _, _] = words[..] else {
            return Err(fail("a line about a block is: position size status info error"));
        };
        let value = |word: &str| super::mapfile::parse_number(word);
        let (Some(position), Some(len), Some(status)) = (value(position), value(len), value(status)) else {
            return Err(fail("this is not a number"));
        };
        // The other bits tell of passes and of heads. Dividing is what ddrescue calls trimming.
        let status = match status & 0x70 {
            0x00 => Status::NonTried,
            0x10 | 0x20 => Status::NonTrimmed,
            0x30 => Status::NonScraped,
            0x40 => Status::Bad,
            0x70 => Status::Finished,
            _ => return Err(fail("the status is not one that is known")),
        };
        let bytes = bytes(position, len, from, to, sector).ok_or_else(|| fail("the block ends past 2^63"))?;
        if !bytes.is_empty() {
            blocks.push((bytes.start, bytes.end, status));
        }
        if blocks.len() > MOST_RANGES {
            return Err(fail(&format!("more than {MOST_RANGES} blocks")));
        }
    }
    Ok(blocks)
}

/// The bytes of the image that some sectors of the source are.
fn bytes(position: u64, len: u64, from: u64, to: u64, sector: u64) -> Option<Range<u64>> {
    let end = position.checked_add(len)?;
    let place = |at: u64| at.max(from).checked_sub(from)?.checked_add(to)?.checked_mul(sector);
    Some(place(position)?..place(end)?).filter(|r| i64::try_from(r.end).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "# Disk progress log file created by HDDSuperClone version 2.3\n#\n# sectorsize  \t512\n\
        # inputoffset \t2\n# startsmart\nID 5 reallocated\n# endsmart\n# outputoffset \t0\n# current position status\n0x000010 \t0x7f\n\
        0x000000 \t0x000004 \t0x7f \t0x0 \t0x0\n0x000004 \t0x000001 \t0x40 \t0x0 \t0x31100\n\
        0x000005 \t0x000001 \t0x90 \t0x80 \t0x5140\n6 1 0x20 0 0\n7 1 0x30 0 0\n8 2 0 0 0\n0xa 0x6 0x7f 0 0\n";

    #[test]
    fn blocks_are_sectors_behind_the_offset() {
        use Status::*;
        assert!(is_log(LOG) && !is_log("0 +\n0 512 +\n"));
        let blocks = parse(LOG).unwrap();
        let sectors: Vec<_> = blocks.iter().map(|(a, b, s)| (a / 512, b / 512, *s)).collect();
        let expect = [
            (0, 2, Finished),
            (2, 3, Bad),
            (3, 4, NonTrimmed),
            (4, 5, NonTrimmed),
            (5, 6, NonScraped),
            (6, 8, NonTried),
            (8, 14, Finished),
        ];
        assert_eq!(sectors, expect);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (line, word) in [
            ("0 1 0x7f 0", "position size status info error"),
            ("0 x 0x7f 0 0", "not a number"),
            ("0 1 0x50 0 0", "not one that is known"),
            ("0xffffffffffffffff 2 0 0 0", "past 2^63"),
        ] {
            let error = parse(&format!("0 0x7f\n{line}\n")).unwrap_err();
            assert!(error.contains(word) && error.starts_with("line 2"), "{line}: {error}");
        }
        assert!(parse("0 1 0 0 0\n").is_err_and(|e| e.contains("domain")));
    }
}
