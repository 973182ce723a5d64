//! Reads that go as far as they can: for readers that want what there is, and a list of what there is not.

use std::ops::Range;

use cdi_base::error::ReadError;
use cdi_base::units::{SECTOR, index};

use crate::disk::Disk;
use crate::extent::Origin;

/// A range of the disk that could not be read, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The range, in bytes. Never empty.
    pub range: Range<u64>,
    /// Why reads of it fail: at its start, if they name the place.
    pub error: ReadError,
}

impl Disk {
    /// Fills the start of `buf` with the bytes at `offset`, up to the first one that cannot be read or the end of the disk,
    /// and returns their number. It is 0 only if `buf` is empty, or begins at the end of the disk or after it. Bytes of
    /// `buf` after this number are undefined.
    ///
    /// # Errors
    ///
    /// Why the first byte cannot be read.
    pub fn read_prefix(&self, buf: &mut [u8], offset: u64) -> Result<usize, ReadError> {
        let left = self.size().saturating_sub(offset);
        let len = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if len == 0 {
            return Ok(0);
        }
        let (len, error) = match self.read_at(&mut buf[..len], offset) {
            Ok(()) => return Ok(len),
            Err(ReadError::Bad { good, .. }) if good > 0 => match self.read_at(&mut buf[..good], offset) {
                Ok(()) => return Ok(good),
                Err(error) => (good, error),
            },
            Err(error) => (len, error),
        };
        if matches!(error, ReadError::Bad { good: 0, .. }) {
            return Err(error);
        }
        // The image is damaged somewhere in the range.
        self.read_growing(&mut buf[..len], offset, true)
    }

    /// As [`Disk::read_prefix`], for a range that is likely to begin with what cannot be read: reads one sector, and twice as
    /// many after each read that succeeds. After one that fails, half of what it tried is next, until one sector is left. `buf`
    /// is not empty, and the range is on the disk. `fails`: a read of the whole range was tried, and failed.
    fn read_growing(&self, buf: &mut [u8], offset: u64, mut fails: bool) -> Result<usize, ReadError> {
        let sector = u64::from(self.sector());
        let (mut good, mut limit, mut sectors) = (0, buf.len(), 1_u64);
        while good < limit {
            let (at, rest) = (offset + good as u64, limit - good);
            let first = sector - at % sector;
            let tried = first.saturating_add((sectors - 1).saturating_mul(sector));
            let mut piece = rest.min(usize::try_from(tried).unwrap_or(usize::MAX));
            if fails && piece == rest {
                piece = match self.before_the_middle(at, rest) {
                    Some(piece) => piece,
                    // One sector is left, and it is the one that fails.
                    None if good > 0 => break,
                    None => rest,
                };
            }
            match self.read_at(&mut buf[good..good + piece], at) {
                Ok(()) => (good, sectors) = (good + piece, sectors.saturating_mul(2)),
                Err(error) if piece as u64 <= first => {
                    return if good > 0 { Ok(good) } else { Err(error) };
                }
                Err(_) => (limit, sectors, fails) = (good + piece, (sectors / 2).max(1), true),
            }
        }
        Ok(good)
    }

    /// Returns about half of `rest` bytes from `at` on, so that it ends with a sector; None if they are in one sector.
    fn before_the_middle(&self, at: u64, rest: usize) -> Option<usize> {
        let sector = u64::from(self.sector());
        let end = at + rest as u64;
        let middle = at + rest as u64 / 2;
        // The sector that the middle is in ends before the range does, or else the first sector may.
        let ends = [middle, at].map(|within| (within / sector + 1).saturating_mul(sector));
        ends.into_iter().find(|stop| *stop < end).map(|stop| index(stop - at))
    }

    /// Fills `buf` with the bytes at `offset`. Where they cannot be read it fills it with zeros, and passes the range and the
    /// reason to `each`, in order. Stops early if `each` returns false. Returns the number of bytes that are filled: less
    /// than the length of `buf` at the end of the disk, or up to the end of the range for which `each` returned false.
    pub fn read_partial(&self, buf: &mut [u8], offset: u64, mut each: impl FnMut(Failure) -> bool) -> usize {
        let left = self.size().saturating_sub(offset);
        let len = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let (end, mut done) = (offset.saturating_add(len as u64), 0);
        // Sectors that cannot be read for the same reason are one failure. After one that is not known from a map, the next
        // one is likely to fail, too.
        let mut last: Option<Failure> = None;
        while done < len {
            let at = offset + done as u64;
            let wary = last.as_ref().is_some_and(|failure| !matches!(failure.error, ReadError::Bad { .. }));
            let read = match wary {
                true => self.read_growing(&mut buf[done..len], at, false),
                false => self.read_prefix(&mut buf[done..len], at),
            };
            match read {
                Ok(read) => {
                    if let Some(failure) = last.take()
                        && !each(failure)
                    {
                        return done;
                    }
                    done += read;
                }
                Err(error) => {
                    let stop = self.unreadable_until(at, error).min(end);
                    match &mut last {
                        Some(failure) if is_same(failure.error, error) => failure.range.end = stop,
                        _ => {
                            if let Some(failure) = last.replace(Failure { range: at..stop, error })
                                && !each(failure)
                            {
                                return done;
                            }
                        }
                    }
                    let stop = index(stop - offset);
                    buf[done..stop].fill(0);
                    done = stop;
                }
            }
        }
        last.map(each);
        done
    }

    /// Returns where the range ends whose first byte, at `at`, cannot be read because of `error`: where the next read may
    /// succeed. More than `at`, and at most the size of the disk.
    pub fn unreadable_until(&self, at: u64, error: ReadError) -> u64 {
        let sector = u64::from(self.sector()).max(u64::from(SECTOR));
        let next = (at / sector + 1).saturating_mul(sector);
        let end = match error {
            ReadError::Bad { .. } => {
                let bad = self.failing_ranges().next(at).filter(|bad| bad.start <= at);
                bad.map_or(next, |bad| bad.end)
            }
            // A damaged chunk is lost as a whole.
            ReadError::Corrupt { .. } => match self.extents(at..self.size()).next() {
                Some(Ok(extent)) if !matches!(extent.origin, Origin::Stored { .. }) => extent.disk.end,
                _ => next,
            },
            _ => next,
        };
        // A bad sector in a damaged chunk is bad, and its neighbours are damaged.
        let bad = self.failing_ranges().next(at).map_or(u64::MAX, |bad| bad.start);
        let end = if bad > at { end.min(bad) } else { end };
        end.clamp(at + 1, self.size().max(at + 1))
    }
}

/// Returns whether two errors differ at most in the place that they name.
fn is_same(one: ReadError, other: ReadError) -> bool {
    use ReadError::{Bad, Corrupt, Io, PastEnd, Unmapped};
    match (one, other) {
        (Bad { untried, .. }, Bad { untried: other, .. }) => untried == other,
        (Io { errno }, Io { errno: other }) => errno == other,
        (Corrupt { .. }, Corrupt { .. }) | (Unmapped { .. }, Unmapped { .. }) | (PastEnd, PastEnd) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::disk::Options;
    use crate::image::OpenOptions;
    use crate::input::ReadAt;
    use crate::open::open_source;

    /// Bytes of a file in which a range cannot be read.
    struct Torn(Vec<u8>, Range<u64>, Arc<AtomicUsize>);

    impl ReadAt for Torn {
        fn len(&self) -> io::Result<u64> {
            Ok(self.0.len() as u64)
        }

        fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
            self.2.fetch_add(1, Ordering::Relaxed);
            if at < self.1.end && at + buf.len() as u64 > self.1.start {
                return Err(io::Error::from_raw_os_error(5));
            }
            self.0.read_at(buf, at)
        }
    }

    fn disk(torn: Range<u64>) -> (Disk, Vec<u8>) {
        let (disk, bytes, _) = counted(64 * 512 + 100, torn);
        (disk, bytes)
    }

    /// Also returns the number of reads of the file so far.
    fn counted(size: u32, torn: Range<u64>) -> (Disk, Vec<u8>, Arc<AtomicUsize>) {
        let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let reads = Arc::new(AtomicUsize::new(0));
        let source = Box::new(Torn(bytes.clone(), torn, Arc::clone(&reads)));
        let opened = open_source(source, Path::new("/x/disk.raw"), &OpenOptions::default()).unwrap();
        (Disk::new(opened, Options::default()), bytes, reads)
    }

    #[test]
    fn a_prefix_ends_where_the_file_cannot_be_read_whatever_the_read_begins_and_ends_with() {
        let (disk, bytes) = disk(40 * 512 + 7..41 * 512);
        let size = disk.size();
        for at in (0..size).step_by(239) {
            for len in [1, 511, 513, 600, 5000, 30_000, 40_000] {
                let mut buf = vec![0; len];
                let end = (at + len as u64).min(size);
                let in_bad = (40 * 512..41 * 512).contains(&at);
                match disk.read_prefix(&mut buf, at) {
                    Ok(read) => {
                        assert!(buf[..read] == bytes[index(at)..index(at) + read], "{at}+{len}");
                        let stop = if at < 40 * 512 && end > 40 * 512 + 7 { 40 * 512 } else { end };
                        assert!(at + read as u64 == stop || in_bad, "{at}+{len}: {read}");
                    }
                    Err(error) => assert!(in_bad && error == ReadError::Io { errno: 5 }, "{at}+{len}"),
                }
            }
        }
        assert_eq!(disk.read_prefix(&mut [0; 5], size), Ok(0));
        assert_eq!(disk.read_prefix(&mut [0; 5], u64::MAX), Ok(0));
    }

    #[test]
    fn a_partial_read_has_all_but_the_torn_sectors_and_reports_them_once() {
        let (disk, mut bytes) = disk(3 * 512..9 * 512 - 1);
        let mut buf = vec![1; bytes.len() + 50];
        let mut failures = Vec::new();
        let filled = disk.read_partial(&mut buf, 0, |failure| {
            failures.push(failure);
            true
        });
        assert_eq!(filled, bytes.len());
        let failure = Failure { range: 3 * 512..9 * 512, error: ReadError::Io { errno: 5 } };
        assert_eq!(failures, [failure]);
        bytes[3 * 512..9 * 512].fill(0);
        assert!(buf[..filled] == bytes);
        assert_eq!(disk.read_partial(&mut buf, 0, |_| false), 9 * 512);
    }

    #[test]
    fn sectors_that_cannot_be_read_take_about_one_read_each() {
        const SIZE: u32 = 64 << 20;
        for torn in
            [1024 * 512..3072 * 512, 777 * 512..3000 * 512 + 5, u64::from(SIZE) - 1000 * 512..u64::from(SIZE)]
        {
            let (disk, bytes, reads) = counted(SIZE, torn.clone());
            let mut buf = vec![1; bytes.len()];
            reads.store(0, Ordering::Relaxed);
            let mut failures = Vec::new();
            let filled = disk.read_partial(&mut buf, 0, |failure| {
                failures.push((failure.range.start, failure.range.end));
                true
            });
            let end = torn.end.next_multiple_of(512);
            assert_eq!((filled, failures), (bytes.len(), vec![(torn.start, end)]));
            assert!(buf[..index(torn.start)] == bytes[..index(torn.start)]);
            assert!(buf[index(end)..] == bytes[index(end)..]);
            let (count, lost) = (reads.load(Ordering::Relaxed), index((end - torn.start) / 512));
            assert!(count <= lost + 60, "{torn:?}: {count} reads for {lost} sectors");
        }
    }

    #[test]
    fn errors_of_the_same_kind_are_one_failure() {
        let bad = |sector, untried| ReadError::Bad { sector, good: 0, untried };
        assert!(is_same(bad(1, false), bad(2, false)) && !is_same(bad(1, false), bad(1, true)));
        assert!(is_same(ReadError::Corrupt { at: 1 }, ReadError::Corrupt { at: 2 }));
        assert!(!is_same(ReadError::Io { errno: 5 }, ReadError::Io { errno: 6 }));
        assert!(!is_same(ReadError::Io { errno: 5 }, ReadError::Unmapped { offset: 5 }));
    }
}
