//! Lists of bad blocks as badblocks(8) writes them: a decimal number on each line. The size of a block is not in it.

use std::fs;
use std::path::Path;

use super::bad::{BadBlocks, BadRange, MOST_RANGES, Status};
use crate::error::Error;

/// The longest list that is read, in bytes.
const LONGEST: u64 = 256 << 20;

/// Reads the list at `path`, of blocks of `block` bytes, for a disk of `size` bytes with sectors of `sector` bytes.
pub(super) fn load(path: &Path, block: u64, size: u64, sector: u32) -> Result<BadBlocks, Error> {
    let read = |e| Error::io("the list of bad blocks cannot be read", path, e);
    if fs::metadata(path).map_err(read)?.len() > LONGEST {
        return Err(Error::bad_image("too long for a list of bad blocks").at(path));
    }
    let text = fs::read(path).map_err(read)?;
    let map = parse(&String::from_utf8_lossy(&text), block, size).map_err(|e| {
        let hint = "--block-size is what badblocks was given by -b, or 1024 where it was given none";
        Error::bad_image(e).at(path).hint(hint)
    })?;
    Ok(map.rounded(sector, size))
}

fn parse(text: &str, block: u64, size: u64) -> Result<BadBlocks, String> {
    let mut ranges: Vec<BadRange> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let fail = |what: String| format!("line {}: {what}", number + 1);
        let word = line.split('#').next().unwrap_or("").trim();
        if word.is_empty() {
            continue;
        }
        let n: u64 = word.parse().map_err(|_| fail(format!("'{word}' is no block's number")))?;
        let start = n.checked_mul(block).filter(|start| *start < size).ok_or_else(|| {
            fail(format!("block {n} of {block} bytes is behind the end of the disk, which has {size}"))
        })?;
        let end = start.saturating_add(block).min(size);
        match ranges.last_mut().filter(|last| last.end == start) {
            Some(last) => last.end = end,
            None => ranges.push(BadRange::new(start..end, Status::Bad)),
        }
        if ranges.len() > MOST_RANGES {
            return Err(fail(format!("more than {MOST_RANGES} runs of blocks")));
        }
    }
    Ok(BadBlocks::from_unsorted(ranges))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_ranges_of_blocks() {
        let bad = |ranges: &[(u64, u64)]| {
            BadBlocks::from_unsorted(ranges.iter().map(|&(a, b)| BadRange::new(a..b, Status::Bad)))
        };
        let got = parse("# of /dev/sdb1\n7\n\n3\n4\n 3 \n9\n", 1024, 10_000);
        assert_eq!(got, Ok(bad(&[(3072, 5120), (7168, 8192), (9216, 10_000)])));
        assert_eq!(parse("", 1024, 10_000), Ok(bad(&[])));
        assert_eq!(parse("x", 1024, 1), Err("line 1: 'x' is no block's number".into()));
        assert!(parse("1\n10", 1024, 10_000).is_err_and(|e| e.starts_with("line 2: block 10 of 1024")));
        assert!(parse("18446744073709551615", 1024, 10_000).is_err());
    }
}
