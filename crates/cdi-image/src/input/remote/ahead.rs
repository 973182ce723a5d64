//! Which blocks of a file are fetched before they are asked for.

use std::ops::Range;
use std::sync::Mutex;

use cdi_base::workers::lock;

/// How many readers of a file are followed.
const READERS: usize = 8;
/// How many blocks are fetched ahead of a reader at most.
const MOST: u64 = 16;

/// The readers of a file who read on where they were.
#[derive(Default)]
pub(super) struct Ahead(Mutex<Vec<Reader>>);

/// Blocks are numbered; none before `next` are expected.
struct Reader {
    next: u64,
    /// Where what was fetched ahead ends.
    end: u64,
    /// How far ahead to fetch.
    far: u64,
}

impl Ahead {
    /// Takes note of a read of the blocks in `read`, and returns those that are to be fetched meanwhile.
    pub(super) fn read(&self, read: Range<u64>) -> Range<u64> {
        let mut readers = lock(&self.0);
        // Requests of one reader come in any order, and a block is asked for in parts.
        let is_near = |r: &Reader| read.start <= r.next + 1 && read.start + 2 > r.next;
        let Some(at) = readers.iter().position(is_near) else {
            if readers.len() == READERS {
                readers.pop();
            }
            readers.insert(0, Reader { next: read.end, end: read.end, far: 1 });
            return read.start + 1..read.end;
        };
        let mut reader = readers.remove(at);
        let mut wanted = 0..0;
        if read.end > reader.next {
            reader.far = (reader.far * 2).min(MOST);
            reader.next = read.end;
            let end = read.end + reader.far;
            wanted = reader.end.max(read.start + 1).min(end)..end;
            reader.end = end;
        }
        readers.insert(0, reader);
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_who_reads_on_is_ahead_more_and_more() {
        let ahead = Ahead::default();
        assert!(ahead.read(0..1).is_empty());
        assert_eq!(ahead.read(1..2), 2..4);
        // The same block again, in parts.
        assert!(ahead.read(1..2).is_empty());
        assert_eq!(ahead.read(2..3), 4..7);
        assert_eq!(ahead.read(3..4), 7..12);
        let far = (4..40).map(|n| ahead.read(n..n + 1)).last().unwrap();
        assert_eq!(far.end, 40 + MOST);
        assert_eq!(far.count(), 1);
    }

    #[test]
    fn reads_here_and_there_fetch_nothing_more() {
        let ahead = Ahead::default();
        for n in 0..100 {
            assert!(ahead.read(n * 50..n * 50 + 1).is_empty());
        }
    }

    #[test]
    fn the_rest_of_a_long_read_is_fetched_meanwhile() {
        assert_eq!(Ahead::default().read(7..12), 8..12);
    }

    #[test]
    fn readers_at_several_places_are_followed() {
        let ahead = Ahead::default();
        for at in [0, 1000, 2000] {
            assert!(ahead.read(at..at + 1).is_empty());
        }
        for at in [0, 1000, 2000] {
            assert_eq!(ahead.read(at + 1..at + 2), at + 2..at + 4);
        }
    }
}
