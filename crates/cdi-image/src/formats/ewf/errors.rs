//! Read errors as listed in EnCase's images. The list contains whole groups of sectors around a bad one. Zeroed sectors
//! in it may be the unreadable ones, so they count as bad; other sectors may be correct, so they are suspect.

use cdi_base::units::index;

use crate::badmap::{BadBlocks, BadRange, MAX_RANGES, Status};

/// Maximum number of bytes decompressed at opening to find zeroed sectors. Everything after that is suspect.
const MAX_CLASSIFIED: u64 = 128 << 20;

/// Classifies the listed ranges by the data that the image contains for them. Returns the map and a warning about it.
/// `decompress` reads the chunk around a disk offset into the buffer, and returns whether it could.
pub(crate) fn classify(
    listed: &BadBlocks,
    sector: u64,
    chunk: u64,
    decompress: &dyn Fn(u64, &mut Vec<u8>) -> bool,
) -> (BadBlocks, String) {
    let mut left = MAX_CLASSIFIED;
    let (mut ranges, mut bytes) = (Vec::new(), Vec::new());
    // Smaller sectors would give too many ranges.
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
            let is_readable = decompress(at, &mut bytes);
            // Reading a small chunk has a cost as well.
            left = left.saturating_sub(chunk.max(1 << 16));
            // A chunk that cannot be read becomes one range.
            let step = if is_readable { sector } else { chunk };
            while at < end {
                let stop = end.min(at + step);
                let data = bytes.get(index(at - first)..index(stop - first)).filter(|_| is_readable);
                let zeros = data.is_some_and(|bytes| bytes.iter().all(|b| *b == 0));
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
        "the image lists read errors: sectors with zeros count as bad ({}), sectors with data are suspect ({})",
        sectors(Status::Bad),
        sectors(Status::Suspect)
    );
    (map, warning)
}
