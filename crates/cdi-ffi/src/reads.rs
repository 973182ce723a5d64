//! Reads that go as far as they can, the list of ranges, and the metadata: more functions of `include/cdi.h`. The safety
//! requirements are those of the header, which C cannot check.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use cdi_base::error::{ErrnoStyle, ReadError};
use cdi_base::printable;
use cdi_image::badmap::Status;
use cdi_image::disk::Disk;
use cdi_image::document;
use nix::errno::Errno;

use crate::{CdiDisk, buffer_of, copy_message};

/// Why a range cannot be read: `cdi_failure` of the header. New fields are added at the end.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CdiFailure {
    size: usize,
    start: u64,
    end: u64,
    error: i32,
    reason: u32,
}

/// A range that is not finished: `cdi_range` of the header. New fields are added at the end.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CdiRange {
    size: usize,
    start: u64,
    end: u64,
    status: *const c_char,
    tries: u32,
    reserved: u32,
}

/// The smallest size of a structure: that of its first field, which is the size.
const FIRST: usize = size_of::<usize>();

/// Returns whether the size of the caller's structure is possible.
///
/// # Safety
/// `of` points to at least a size, which is the first field of `T`.
unsafe fn has_size<T>(of: *const T) -> bool {
    // SAFETY: the caller guarantees the first field.
    (FIRST..=4096).contains(&unsafe { of.cast::<usize>().read() })
}

/// Writes `value` to the caller's structure, which may be of an older or a newer version: as many bytes as it has, and zeros
/// for the rest. Its first field, the size, stays. Returns whether the size is possible.
///
/// # Safety
/// `to` points to at least as many bytes as its first field says, and `T` begins with that field.
unsafe fn put<T: Copy>(value: T, to: *mut T) -> bool {
    // SAFETY: the caller guarantees the first field.
    if !unsafe { has_size(to) } {
        return false;
    }
    // SAFETY: as before.
    let size = unsafe { to.cast::<usize>().read() };
    let known = size.min(size_of::<T>());
    // SAFETY: the caller guarantees `size` bytes at `to`, and `value` has `known` bytes; `FIRST` is not more than either.
    unsafe {
        let (from, to) = ((&raw const value).cast::<u8>(), to.cast::<u8>());
        to.add(FIRST).copy_from_nonoverlapping(from.add(FIRST), known - FIRST);
        to.add(known).write_bytes(0, size - known);
    }
    true
}

/// Returns the number of a reason, as the header has it.
fn reason(error: ReadError) -> u32 {
    match error {
        ReadError::Bad { untried: false, .. } => 1,
        ReadError::Bad { untried: true, .. } => 2,
        ReadError::Corrupt { .. } | ReadError::Unmapped { .. } => 3,
        ReadError::Io { .. } | ReadError::PastEnd => 4,
    }
}

/// Returns where the sector ends that contains the byte at `offset`.
fn sector_end(disk: &Disk, offset: u64) -> u64 {
    let sector = u64::from(disk.sector());
    (offset / sector + 1).saturating_mul(sector)
}

/// Fills the start of `bytes` up to what cannot be read, or to the end of the disk. Returns the number of bytes, and what
/// ended the read, and where the next one may succeed, unless it was the end of the disk.
fn read_until_failure(disk: &Disk, bytes: &mut [u8], offset: u64) -> (usize, Option<(ReadError, u64)>) {
    let (mut read, mut at, mut next) = (0, offset, bytes.len());
    while read < bytes.len() && at < disk.size() {
        match disk.read_prefix(&mut bytes[read..read + next], at) {
            Ok(more) => {
                (read, at) = (read + more, at + more as u64);
                // A short read does not say what ended it: a read of the sector after it does. If that succeeds, the rest is next.
                let rest = bytes.len() - read;
                let sector =
                    usize::try_from(sector_end(disk, at) - at).map_or(rest, |sector| sector.min(rest));
                next = if more < next { sector } else { rest };
            }
            Err(error) => return (read, Some((error, disk.unreadable_until(at, error)))),
        }
    }
    (read, None)
}

/// As [`read_until_failure`], where that panicked: the image may be damaged so that its reader does. One sector after another is
/// read, up to the one at which that happens.
fn read_by_sectors(disk: &Disk, bytes: &mut [u8], offset: u64) -> (usize, Option<(ReadError, u64)>) {
    let mut read = 0;
    while read < bytes.len() && offset + (read as u64) < disk.size() {
        let at = offset + read as u64;
        let end = sector_end(disk, at).min(disk.size());
        let piece = bytes.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
        let sector = &mut bytes[read..piece];
        match catch_unwind(AssertUnwindSafe(|| read_until_failure(disk, sector, at))) {
            Ok((more, None)) => read += more,
            Ok((more, ended)) => return (read + more, ended),
            Err(_) => return (read, Some((ReadError::Corrupt { at: 0 }, end))),
        }
    }
    (read, None)
}

/// Reads from the disk up to the first byte that cannot be read. Returns 0 or the errno of what ended the read.
///
/// # Safety
/// `disk` is NULL or an open disk; `buffer` has room for `length` bytes; `done` is NULL or may be written to; `failure` is NULL
/// or as [`put`] requires.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cdi_read_partial(
    disk: *const CdiDisk,
    buffer: *mut c_void,
    length: usize,
    offset: u64,
    done: *mut usize,
    failure: *mut CdiFailure,
) -> c_int {
    let note = |read: usize| {
        if !done.is_null() {
            // SAFETY: not NULL and writable, as the caller guarantees.
            unsafe { done.write(read) };
        }
    };
    note(0);
    // SAFETY: NULL or an open disk, as the caller guarantees.
    let Some(disk) = (unsafe { disk.as_ref() }) else { return Errno::EINVAL as c_int };
    if offset > disk.0.size() {
        return Errno::EINVAL as c_int;
    }
    if length == 0 {
        return 0;
    }
    // SAFETY: the caller guarantees the room.
    let Some(bytes) = (unsafe { buffer_of(buffer, length) }) else { return Errno::EINVAL as c_int };
    let (read, ended) = catch_unwind(AssertUnwindSafe(|| read_until_failure(&disk.0, bytes, offset)))
        .unwrap_or_else(|_| read_by_sectors(&disk.0, bytes, offset));
    note(read);
    let Some((error, end)) = ended else { return 0 };
    let errno = error.errno(ErrnoStyle::Io);
    let start = offset + read as u64;
    let described = CdiFailure { size: 0, start, end, error: errno, reason: reason(error) };
    // SAFETY: not NULL, and as `put` requires, as the caller guarantees.
    if !failure.is_null() && !unsafe { put(described, failure) } {
        return Errno::EINVAL as c_int;
    }
    errno
}

fn status_name(status: Status) -> &'static CStr {
    match status {
        Status::NonTried => c"non-tried",
        Status::NonTrimmed => c"non-trimmed",
        Status::NonScraped => c"non-scraped",
        Status::Bad => c"bad-sector",
        Status::Suspect => c"suspect",
        Status::Finished => c"finished",
    }
}

/// Finds the first range that is not finished and ends after `offset`. Returns 1 if there is one, 0 if not, -1 if the
/// size in `range` is impossible.
///
/// # Safety
/// `disk` is NULL or an open disk; `range` is NULL or as [`put`] requires.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cdi_next_range(disk: *const CdiDisk, offset: u64, range: *mut CdiRange) -> c_int {
    // SAFETY: NULL or an open disk, as the caller guarantees.
    let Some(disk) = (unsafe { disk.as_ref() }) else { return 0 };
    // SAFETY: NULL, or the first field exists, as the caller guarantees.
    if !range.is_null() && !unsafe { has_size(range) } {
        return -1;
    }
    let Some(next) = disk.0.bad().next(offset) else { return 0 };
    let described = CdiRange {
        size: 0,
        start: next.start,
        end: next.end,
        status: status_name(next.status).as_ptr(),
        tries: next.tries.into(),
        reserved: 0,
    };
    // SAFETY: not NULL, and as `put` requires, as the caller guarantees.
    if range.is_null() || unsafe { put(described, range) } { 1 } else { -1 }
}

/// Writes the metadata as JSON into the caller's buffer. Returns the length of the whole text in bytes, or 0 for NULL.
///
/// # Safety
/// `disk` is NULL or an open disk; `text` is NULL or has room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cdi_info(disk: *const CdiDisk, text: *mut c_char, size: usize) -> usize {
    // SAFETY: NULL or an open disk, as the caller guarantees.
    let Some(disk) = (unsafe { disk.as_ref() }) else { return 0 };
    let json = || printable::json(&document::info(&disk.0).to_string());
    let json = catch_unwind(AssertUnwindSafe(json)).unwrap_or_default();
    // SAFETY: the caller guarantees the room.
    unsafe { copy_message(&json, text, size) };
    json.len()
}

/// Returns the version of the library.
#[unsafe(no_mangle)]
pub extern "C" fn cdi_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use cdi_image::disk::Options;
    use cdi_image::image::OpenOptions;
    use cdi_image::input::ReadAt;
    use cdi_image::open::open_source;

    use super::*;

    const SIZE: u64 = 64 * 4096;

    /// A file whose reads fail from byte `torn` on up to the end of the sector, or panic there, once this is switched on.
    struct Torn {
        on: Arc<AtomicBool>,
        torn: u64,
        panics: bool,
    }

    impl ReadAt for Torn {
        fn len(&self) -> io::Result<u64> {
            Ok(SIZE)
        }

        fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
            let (end, until) = (at + buf.len() as u64, (self.torn / 4096 + 1) * 4096);
            if self.on.load(Ordering::Relaxed) && at < until && end > self.torn {
                assert!(!self.panics, "as it should");
                return Err(io::Error::from_raw_os_error(5));
            }
            buf.fill(7);
            Ok(buf.len())
        }
    }

    /// Reads the whole disk as the header says, and returns what was read, and the failures with their reasons.
    fn read_all(torn: u64, panics: bool, piece: usize) -> (u64, Vec<(u64, u64, u32)>) {
        let on = Arc::new(AtomicBool::new(false));
        let source = Box::new(Torn { on: Arc::clone(&on), torn, panics });
        let how = OpenOptions { sector_size: Some(4096), ..OpenOptions::default() };
        let opened = open_source(source, Path::new("/x/disk.raw"), &how).unwrap();
        let disk = CdiDisk(Disk::new(opened, Options::default()));
        on.store(true, Ordering::Relaxed);
        let (mut offset, mut got, mut failures) = (0, 0, Vec::new());
        let mut buffer = vec![0_u8; piece];
        while offset < SIZE {
            let mut failure =
                CdiFailure { size: size_of::<CdiFailure>(), start: 9, end: 0, error: 0, reason: 0 };
            let mut done = 0;
            // SAFETY: the buffer has room for its length, and the other pointers are of variables.
            let error = unsafe {
                cdi_read_partial(
                    &raw const disk,
                    buffer.as_mut_ptr().cast(),
                    piece,
                    offset,
                    &raw mut done,
                    &raw mut failure,
                )
            };
            assert!(buffer[..done].iter().all(|b| *b == 7));
            got += done as u64;
            if error == 0 {
                // Nothing but the end of the disk ends it.
                assert!(done == piece || offset + done as u64 == SIZE, "{offset}: {done}");
                offset += done as u64;
            } else {
                assert!(error == Errno::EIO as c_int && failure.start == offset + done as u64);
                assert!(failure.end > offset && failures.len() < 99, "{offset}: {}", failure.end);
                failures.push((failure.start, failure.end, failure.reason));
                offset = failure.end;
            }
        }
        (got, failures)
    }

    #[test]
    fn a_sector_that_is_torn_in_the_middle_ends_the_read() {
        for piece in [4096, 5000, 30_000, 1 << 20] {
            let (got, failures) = read_all(9 * 4096 + 512, false, piece);
            let lost: u64 = failures.iter().map(|(start, end, _)| end - start).sum();
            assert!(
                failures.iter().all(|f| f.0 >= 9 * 4096 && f.1 == 10 * 4096 && f.2 == 4),
                "{piece}: {failures:?}"
            );
            assert!(got + lost == SIZE && !failures.is_empty(), "{piece}: {got} {failures:?}");
        }
    }

    #[test]
    fn a_loop_ends_although_the_reader_panics() {
        for piece in [4096, 1 << 20] {
            let (got, failures) = read_all(9 * 4096 + 512, true, piece);
            assert_eq!((got, failures), (SIZE - 4096, vec![(9 * 4096, 10 * 4096, 3)]), "{piece}");
        }
    }
}
