//! The disk for programs in other languages: the six functions of `include/cdi.h`, which says what they do. The only
//! file with `unsafe`; what each caller must hold to is what the header says, and C cannot.

#![allow(unsafe_code)]

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use nix::errno::Errno;

use crate::disk::{Disk, Options};
use crate::error::{ErrnoStyle, Error};
use crate::image::{self, OpenOptions};
use crate::parallel;

/// An image that is open: `cdi_disk` of the header.
pub struct CdiDisk(Disk);

fn open(path: &Path) -> Result<CdiDisk, Error> {
    let disk = Disk::new(image::open(path, &OpenOptions::default())?, Options::default());
    let started = disk.start_readahead(parallel::cores());
    started.map_err(|e| Error::failed("threads cannot be started").because(e))?;
    Ok(CdiDisk(disk))
}

/// Opens an image.
///
/// # Safety
/// `path` is NULL or a string that ends with a zero; `message` is NULL or has room for `message_size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cdi_open(
    path: *const c_char,
    message: *mut c_char,
    message_size: usize,
) -> *mut CdiDisk {
    let opened = if path.is_null() {
        Err("no path was given".to_owned())
    } else {
        // SAFETY: not NULL, and the caller holds that it ends with a zero.
        let path = unsafe { CStr::from_ptr(path) };
        let path = Path::new(OsStr::from_bytes(path.to_bytes()));
        match catch_unwind(|| open(path)) {
            Ok(opened) => opened.map_err(|e| {
                let cause = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
                format!("{e}{cause}")
            }),
            Err(_) => Err("a bug in cdi: it panicked".to_owned()),
        }
    };
    match opened {
        Ok(disk) => Box::into_raw(Box::new(disk)),
        Err(why) => {
            if !message.is_null() && message_size > 0 {
                let mut kept = why.len().min(message_size - 1);
                while !why.is_char_boundary(kept) {
                    kept -= 1;
                }
                // SAFETY: the caller holds that there is room for message_size bytes, and kept is less.
                unsafe {
                    message.copy_from_nonoverlapping(why.as_ptr().cast(), kept);
                    *message.add(kept) = 0;
                }
            }
            std::ptr::null_mut()
        }
    }
}

/// The size of the disk in bytes.
///
/// # Safety
/// `disk` is NULL or comes from [`cdi_open`] and is not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cdi_size(disk: *const CdiDisk) -> u64 {
    // SAFETY: NULL, or a disk that is open, as the caller holds.
    unsafe { disk.as_ref() }.map_or(0, |disk| disk.0.size())
}

/// The logical sector size of the disk in bytes.
///
/// # Safety
/// `disk` is NULL or comes from [`cdi_open`] and is not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cdi_sector_size(disk: *const CdiDisk) -> u32 {
    // SAFETY: NULL, or a disk that is open, as the caller holds.
    unsafe { disk.as_ref() }.map_or(0, |disk| disk.0.sector())
}

/// Reads from the disk: 0, or an errno.
///
/// # Safety
/// `disk` is NULL or comes from [`cdi_open`] and is not closed; `buffer` has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cdi_read(
    disk: *const CdiDisk,
    buffer: *mut c_void,
    length: usize,
    offset: u64,
) -> c_int {
    // SAFETY: NULL, or a disk that is open, as the caller holds.
    let Some(disk) = (unsafe { disk.as_ref() }) else { return Errno::EINVAL as c_int };
    if length == 0 {
        return if offset <= disk.0.size() { 0 } else { Errno::EINVAL as c_int };
    }
    if buffer.is_null() || length > isize::MAX.cast_unsigned() {
        return Errno::EINVAL as c_int;
    }
    // SAFETY: not NULL, no longer than memory can be, and the caller holds that there is room. What is in it is
    // written first: a buffer that was never written to may not be looked at.
    let bytes = unsafe {
        buffer.write_bytes(0, length);
        std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length)
    };
    match catch_unwind(AssertUnwindSafe(|| disk.0.read_at(bytes, offset))) {
        Ok(Ok(())) => 0,
        Ok(Err(e)) => e.errno(ErrnoStyle::Io),
        Err(_) => Errno::EIO as c_int,
    }
}

/// The next range whose reads fail.
///
/// # Safety
/// `disk` is NULL or comes from [`cdi_open`] and is not closed; `start` and `end` are NULL or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cdi_next_bad(
    disk: *const CdiDisk,
    offset: u64,
    start: *mut u64,
    end: *mut u64,
) -> c_int {
    // SAFETY: NULL, or a disk that is open, as the caller holds.
    let Some(disk) = (unsafe { disk.as_ref() }) else { return 0 };
    let Some(range) = disk.0.failing().next(offset) else { return 0 };
    // SAFETY: not NULL, and to be written to, as the caller holds; what is there is not looked at.
    unsafe {
        if !start.is_null() {
            start.write(range.start.max(offset));
        }
        if !end.is_null() {
            end.write(range.end);
        }
    }
    1
}

/// Closes a disk.
///
/// # Safety
/// `disk` is NULL or comes from [`cdi_open`], is not closed, and nobody uses it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cdi_close(disk: *mut CdiDisk) {
    if !disk.is_null() {
        // SAFETY: it comes from Box::into_raw in cdi_open, and is given back once, as the caller holds.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(unsafe { Box::from_raw(disk) })));
    }
}
