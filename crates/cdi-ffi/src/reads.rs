//! Reads that go as far as they can, the list of ranges, and the metadata: more functions of `include/cdi.h`. The safety
//! requirements are those of the header, which C cannot check.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use cdi_base::error::{ErrnoStyle, ReadError};
use cdi_base::printable;
use cdi_image::badmap::Status;
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

/// Writes `value` to the caller's structure, which may be of an older or a newer version: as many bytes as it has, and zeros
/// for the rest. Its first field, the size, stays. Returns whether the size is possible.
///
/// # Safety
/// `to` points to at least as many bytes as its first field says, and `T` begins with that field.
unsafe fn put<T: Copy>(value: T, to: *mut T) -> bool {
    const FIRST: usize = size_of::<usize>();
    // SAFETY: the caller guarantees the first field.
    let size = unsafe { to.cast::<usize>().read() };
    if !(FIRST..=4096).contains(&size) {
        return false;
    }
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
    let read = catch_unwind(AssertUnwindSafe(|| {
        let read = match disk.0.read_prefix(bytes, offset) {
            Ok(read) if read == bytes.len() || offset + read as u64 == disk.0.size() => return (read, None),
            Ok(read) => read,
            Err(error) => return (0, Some((error, disk.0.unreadable_until(offset, error)))),
        };
        // What ended it: a read of the next byte says so.
        let at = offset + read as u64;
        match disk.0.read_prefix(&mut bytes[read..=read], at) {
            Ok(_) => (read, None),
            Err(error) => (read, Some((error, disk.0.unreadable_until(at, error)))),
        }
    }));
    let (read, ended) = match read {
        Ok(result) => result,
        Err(_) => return Errno::EIO as c_int,
    };
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

/// Finds the first range that is not finished and ends after `offset`. Returns 1 if there is one, 0 if not.
///
/// # Safety
/// `disk` is NULL or an open disk; `range` is NULL or as [`put`] requires.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cdi_next_range(disk: *const CdiDisk, offset: u64, range: *mut CdiRange) -> c_int {
    // SAFETY: NULL or an open disk, as the caller guarantees.
    let Some(disk) = (unsafe { disk.as_ref() }) else { return 0 };
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
    (range.is_null() || unsafe { put(described, range) }).into()
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
