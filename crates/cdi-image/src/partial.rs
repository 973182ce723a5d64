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
        let end = (at + (rest as u64).div_ceil(2)).next_multiple_of(sector);
        (end < at + rest as u64).then(|| index(end - at))
    }

    /// Fills `buf` with the bytes at `offset`. Where they cannot be read it fills it with zeros, and passes the range and the
    /// reason to `each`, in order. Stops early if `each` returns false. Returns the number of bytes that are filled: less
    /// than the length of `buf` at the end of the disk, or if `each` returned false; then the range that it was passed is
    /// filled, too.
    pub fn read_partial(&self, buf: &mut [u8], offset: u64, mut each: impl FnMut(Failure) -> bool) -> usize {
        let left = self.size().saturating_sub(offset);
        let len = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let (end, mut done) = (offset.saturating_add(len as u64), 0);
        while done < len {
            let at = offset + done as u64;
            match self.read_prefix(&mut buf[done..len], at) {
                Ok(read) => done += read,
                Err(error) => {
                    let range = at..self.unreadable_until(at, error).min(end);
                    let stop = index(range.end - offset);
                    buf[done..stop].fill(0);
                    done = stop;
                    if !each(Failure { range, error }) {
                        break;
                    }
                }
            }
        }
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
