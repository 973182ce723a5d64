//! Reads lists of bad blocks as written by badblocks(8): one decimal block number per line. The list does not contain
//! the block size.

use std::path::Path;

use cdi_base::advice::Advice;
use cdi_base::error::{Error, Kind};

use super::{BadBlocks, BadRange, MAX_RANGES, Status};
use crate::text::lines::each_line;

/// Reads the list at `path` of blocks of `block` bytes, for an image of `len` bytes of a disk with sectors of `sector`
/// bytes. Also returns the size of the disk in bytes: if the last blocks of the disk are all bad, the image ends before
/// the disk.
pub(crate) fn load(path: &Path, block: u64, len: u64, sector: u32) -> Result<(BadBlocks, u64), Error> {
    let mut list = List { block, ..List::default() };
    each_line(path, "the list of bad blocks", &mut |_, line| list.line(line)).map_err(with_hint)?;
    let (map, size) = list.map(len).map_err(|e| with_hint(Error::bad_image(e).at(path)))?;
    Ok((map.rounded(sector, size), size))
}

fn with_hint(e: Error) -> Error {
    if e.kind != Kind::BadImage {
        return e;
    }
    e.hint(Advice::BlockSize)
}

/// The runs of bad blocks read from a list so far.
#[derive(Default)]
struct List {
    block: u64,
    ranges: Vec<BadRange>,
}

impl List {
    fn line(&mut self, line: &str) -> Result<(), String> {
        let word = line.split('#').next().unwrap_or("").trim();
        if word.is_empty() {
            return Ok(());
        }
        let n: u64 = word.parse().map_err(|_| format!("'{word}' is not a block number"))?;
        let block = self.block;
        let end = n.checked_add(1).and_then(|next| next.checked_mul(block));
        let end = end.filter(|end| i64::try_from(*end).is_ok());
        let end = end.ok_or_else(|| format!("block {n} of {block} bytes ends past 2^63"))?;
        let start = end - block;
        match self.ranges.last_mut().filter(|last| last.end == start) {
            Some(last) => last.end = end,
            None => self.ranges.push(BadRange::new(start..end, Status::Bad)),
        }
        if self.ranges.len() > MAX_RANGES {
            return Err(format!("more than {MAX_RANGES} runs of bad blocks"));
        }
        Ok(())
    }

    /// Returns the map for an image of `len` bytes, and the size of the disk in bytes.
    fn map(self, len: u64) -> Result<(BadBlocks, u64), String> {
        let block = self.block;
        let map = BadBlocks::from_vec(self.ranges);
        // The last block may be cut off by the end of the disk.
        let whole = len.next_multiple_of(block);
        let size = match map.ranges().last() {
            Some(last) if last.end > whole && last.start <= len => last.end,
            Some(last) if last.end > whole => {
                let n = last.start / block;
                return Err(format!(
                    "block {n} of {block} bytes is past the end of the image ({len} bytes), and the blocks before it \
                 are not bad"
                ));
            }
            _ => len,
        };
        Ok((map.rounded(1, size), size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, block: u64, len: u64) -> Result<(BadBlocks, u64), String> {
        let mut list = List { block, ..List::default() };
        crate::text::lines::each_of(text.as_bytes(), &mut |_, line| list.line(line)).unwrap()?;
        list.map(len)
    }

    #[test]
    fn numbers_become_ranges_of_blocks() {
        let bad = |ranges: &[(u64, u64)]| {
            BadBlocks::from_unsorted(ranges.iter().map(|&(a, b)| BadRange::new(a..b, Status::Bad)))
        };
        let got = parse("# of /dev/sdb1\n7\n\n3\n4\n 3 \n9\n", 1024, 10_000);
        assert_eq!(got, Ok((bad(&[(3072, 5120), (7168, 8192), (9216, 10_000)]), 10_000)));
        assert_eq!(parse("", 1024, 10_000), Ok((bad(&[]), 10_000)));
        assert_eq!(parse("x", 1024, 1), Err("line 1: 'x' is not a block number".into()));
        assert!(parse("18446744073709551615", 1024, 10_000).is_err());
    }

    #[test]
    fn an_image_may_end_where_the_bad_blocks_begin() {
        let map = BadBlocks::from_unsorted([BadRange::new(8192..12_288, Status::Bad)]);
        assert_eq!(parse("8\n9\n10\n11\n", 1024, 8192), Ok((map.clone(), 12_288)));
        assert_eq!(parse("11\n10\n9\n8\n", 1024, 8192), Ok((map, 12_288)));
        // With the wrong block size, the numbers can be anywhere.
        assert!(parse("1\n10", 1024, 8192).is_err_and(|e| e.contains("block 10 of 1024")));
    }
}
