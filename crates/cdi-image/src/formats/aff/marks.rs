//! The marks of unreadable sectors. Which sectors have them is recorded nowhere, only how many there are.

use cdi_base::units::{index, plural};

use super::Aff;
use crate::badmap::{BadBlocks, BadRange, Status};
use crate::codec::decompress;
use crate::extent::{MAX_CHUNK, Origin};
use crate::image::Image;

/// Maximum number of bytes of the disk that are searched for marks at opening.
const MAX_SEARCHED: u64 = 512 << 20;
/// How much of a page that is not compressed is read at once, in bytes.
const PIECE: u64 = 1 << 20;

impl Aff {
    /// Finds the sectors that contain `mark`, of which the image counts `count`, and adds them to the map.
    pub(super) fn note_marks(&mut self, mark: Vec<u8>, count: u64) {
        // A mark that repeats one byte would be the contents of ordinary sectors.
        let is_mark = mark.len() as u64 == u64::from(self.sector) && mark.iter().any(|b| *b != mark[0]);
        let warning = if count == 0 {
            None
        } else if !is_mark {
            let bad = plural(count, "bad sector");
            Some(format!(
                "the image counts {bad}, but does not record which: they contain other bytes, such as zeros"
            ))
        } else {
            let found = self.search(&mark, count);
            (found < count).then(|| {
                format!(
                    "of the {} that the image counts, {found} were found in the first {} MiB, and are in the map; reads \
                     of the others fail, too: convert the image to a .cdimg, whose map has all of them",
                    plural(count, "bad sector"),
                    MAX_SEARCHED >> 20
                )
            })
        };
        self.mark = Some(mark).filter(|_| is_mark);
        self.details.warnings.extend(warning);
    }

    /// Searches for up to `count` marks, and adds those to the map. Returns their number.
    fn search(&mut self, mark: &[u8], count: u64) -> u64 {
        let (mut found, mut searched, mut at) = (Vec::new(), 0, 0);
        let sector_len = u64::from(self.sector);
        let mut bytes = Vec::new();
        while at < self.size && searched < MAX_SEARCHED && (found.len() as u64) < count {
            let Some((start, end)) = self.piece(at, &mut bytes) else {
                at = self.map(at).map_or(self.size, |extent| extent.disk.end.max(at + 1));
                continue;
            };
            // Reading a small page has a cost as well.
            searched += (end - start).max(64 << 10);
            let first = start.next_multiple_of(sector_len);
            let sectors = bytes.get(index(first - start)..).unwrap_or_default();
            for (n, _) in sectors.chunks_exact(mark.len()).enumerate().filter(|(_, sector)| *sector == mark) {
                let at = first + n as u64 * sector_len;
                found.push(BadRange::new(at..at + sector_len, Status::Bad));
            }
            at = end;
        }
        let number = found.len() as u64;
        let all = self.details.bad.ranges().iter().copied().chain(found);
        self.details.bad = BadBlocks::from_unsorted(all);
        number
    }

    /// Reads what is at `at` into `bytes`, which is then that range of the disk; None if nothing is stored there.
    fn piece(&self, at: u64, bytes: &mut Vec<u8>) -> Option<(u64, u64)> {
        let extent = self.map(at).ok()?;
        match extent.origin {
            Origin::Stored { file, at: stored_at } => {
                let start = extent.disk.start;
                let end = extent.disk.end.min(start + PIECE);
                bytes.resize(index(end - start), 0);
                self.input.read_exact_at(file, bytes, stored_at).ok()?;
                Some((start, end))
            }
            Origin::Compressed(chunk) if chunk.len <= 2 * MAX_CHUNK && chunk.uncompressed <= MAX_CHUNK => {
                let mut stored = vec![0; chunk.len as usize];
                self.input.read_exact_at(chunk.file, &mut stored, chunk.at).ok()?;
                bytes.resize(chunk.uncompressed as usize, 0);
                decompress(chunk.codec, &stored, bytes).ok()?;
                Some((extent.disk.start, extent.disk.end))
            }
            _ => None,
        }
    }
}
