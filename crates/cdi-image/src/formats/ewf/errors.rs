//! Read errors as EnCase's images list them. The list names whole groups of sectors around a bad one: what was zeroed there
//! cannot be told from what could not be read, and is bad; what was not may be right, and is suspect.

use cdi_base::units::index;

use crate::badmap::{BadBlocks, BadRange, MAX_RANGES, Status};

/// How much is uncompressed at opening to see what was zeroed, in bytes. Behind it all is suspect.
const MAX_JUDGED: u64 = 128 << 20;

/// The listed ranges by what the image holds for them, and a warning about it. `decompress` puts the chunk around an offset
/// into its buffer, if it can be had.
pub(crate) fn judged(
    listed: &BadBlocks,
    sector: u64,
    chunk: u64,
    decompress: &dyn Fn(u64, &mut Vec<u8>) -> bool,
) -> (BadBlocks, String) {
    let mut left = MAX_JUDGED;
    let (mut ranges, mut bytes) = (Vec::new(), Vec::new());
    // A sector of less would be one range each.
    let sector = sector.max(512);
    for range in listed.ranges() {
        let mut at = range.start;
        if left < chunk || ranges.len() > MAX_RANGES / 2 {
            ranges.push(BadRange::new(range.start..range.end, Status::Suspect));
            continue;
        }
        while at < range.end {
            let first = at / chunk * chunk;
            let end = range.end.min(first.saturating_add(chunk));
            if left < chunk {
                ranges.push(BadRange::new(at..range.end, Status::Suspect));
                break;
            }
            let is_there = decompress(at, &mut bytes);
            // Also what is small was read.
            left = left.saturating_sub(chunk.max(1 << 16));
            // Where nothing is known of a chunk it is one range.
            let step = if is_there { sector } else { chunk };
            while at < end {
                let stop = end.min(at + step);
                let held = bytes.get(index(at - first)..index(stop - first)).filter(|_| is_there);
                let zeros = held.is_some_and(|bytes| bytes.iter().all(|b| *b == 0));
                let status = if zeros { Status::Bad } else { Status::Suspect };
                match ranges.last_mut().filter(|r: &&mut BadRange| r.end == at && r.status == status) {
                    Some(last) => last.end = stop,
                    None => ranges.push(BadRange::new(at..stop, status)),
                }
                at = stop;
            }
        }
    }
    let map = BadBlocks::from_unsorted(ranges);
    let sectors = |status| map.count(status).bytes / sector;
    let warning = format!(
        "the image lists read errors: {} sectors hold zeros and are bad, {} hold what may be the disk's bytes and are suspect",
        sectors(Status::Bad),
        sectors(Status::Suspect)
    );
    (map, warning)
}
