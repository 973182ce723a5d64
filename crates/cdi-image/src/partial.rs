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
    /// Why reads of it fail.
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
        let error = match self.read_at(&mut buf[..len], offset) {
            Ok(()) => return Ok(len),
            Err(ReadError::Bad { good, .. }) if good > 0 => match self.read_at(&mut buf[..good], offset) {
                Ok(()) => return Ok(good),
                Err(error) => error,
            },
            Err(error) => error,
        };
        if matches!(error, ReadError::Bad { good: 0, .. }) {
            return Err(error);
        }
        // The image is damaged somewhere in the range. Half of what may be readable is tried each time: whatever is read
        // stays in the buffer, so no byte is read more than twice.
        let (mut good, mut rest, mut error) = (0, len, error);
        while rest > 0 {
            let piece = match self.before_the_middle(offset + good as u64, rest) {
                Some(piece) => piece,
                None => rest,
            };
            match self.read_at(&mut buf[good..good + piece], offset + good as u64) {
                Ok(()) => (good, rest) = (good + piece, rest - piece),
                Err(_) if piece < rest => rest = piece,
                Err(why) => {
                    error = why;
                    break;
                }
            }
        }
        if good > 0 { Ok(good) } else { Err(error) }
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
        // Sectors that cannot be read for the same reason are one failure.
        let mut last: Option<Failure> = None;
        while done < len {
            let at = offset + done as u64;
            match self.read_prefix(&mut buf[done..len], at) {
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
                        Some(failure) if failure.error == error => failure.range.end = stop,
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;
    use crate::disk::Options;
    use crate::image::OpenOptions;
    use crate::input::ReadAt;
    use crate::open::open_source;

    /// Bytes of a file in which a range cannot be read.
    struct Torn(Vec<u8>, Range<u64>);

    impl ReadAt for Torn {
        fn len(&self) -> io::Result<u64> {
            Ok(self.0.len() as u64)
        }

        fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
            if at < self.1.end && at + buf.len() as u64 > self.1.start {
                return Err(io::Error::from_raw_os_error(5));
            }
            self.0.read_at(buf, at)
        }
    }

    fn disk(torn: Range<u64>) -> (Disk, Vec<u8>) {
        let bytes: Vec<u8> = (0..64 * 512 + 100u32).map(|n| (n % 251) as u8).collect();
        let source = Box::new(Torn(bytes.clone(), torn));
        let opened = open_source(source, Path::new("/x/disk.raw"), &OpenOptions::default()).unwrap();
        (Disk::new(opened, Options::default()), bytes)
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
}
