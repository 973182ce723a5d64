//! The C interface: the functions of `include/cdi.h`, which documents them. The safety requirements are those of the
//! header, which C cannot check.

#![allow(unsafe_code)]

mod reads;

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use cdi_base::error::{ErrnoStyle, Error};
use cdi_base::printable::printable;
use cdi_base::workers;
use cdi_image::disk::{Disk, Options};
use cdi_image::image::{Mapfile, OpenOptions};
use cdi_image::open;
use cdi_image::passphrase::Passphrase;
use nix::errno::Errno;

/// An open image: `cdi_disk` of the header.
pub struct CdiDisk(Disk);

/// The options for opening an image: `cdi_options` of the header. New fields are added at the end.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CdiOptions {
    size: usize,
    format: *const c_char,
    mapfile: *const c_char,
    badblocks: *const c_char,
    block_size: u64,
    sector_size: u32,
    read_suspect: u32,
    allow_parent: *const *const c_char,
    passphrase: *const c_char,
}

/// Opens an image and starts its readahead threads. Also returns the image's warnings, one per line.
fn open(path: &Path, how: &OpenOptions, options: Options) -> Result<(CdiDisk, String), Error> {
    let disk = Disk::new(open::open(path, how)?, options);
    let started = disk.start_readahead(workers::cores());
    started.map_err(|e| Error::failed("cannot start threads").because(e))?;
    let warnings = disk.image().warnings().iter().map(|warning| warning.replace('\n', " "));
    let warnings = warnings.collect::<Vec<_>>().join("\n");
    Ok((CdiDisk(disk), warnings))
}

/// Returns the string at `text`, or `None` for NULL.
///
/// # Safety
/// `text` is NULL or a zero-terminated string, which does not change for as long as the result is used.
unsafe fn text<'a>(text: *const c_char) -> Option<&'a OsStr> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not NULL, and the caller guarantees that it is zero-terminated.
    Some(OsStr::from_bytes(unsafe { CStr::from_ptr(text) }.to_bytes()))
}

/// Converts the caller's options.
///
/// # Safety
/// `options` is NULL, or points to at least as many bytes as its first field says, laid out as in the header.
unsafe fn convert_options(options: *const CdiOptions) -> Result<(OpenOptions, Options), String> {
    let mut how = OpenOptions::default();
    let mut reads = Options::default();
    if options.is_null() {
        return Ok((how, reads));
    }
    // SAFETY: not NULL, and the first field always exists.
    let size = unsafe { options.cast::<usize>().read() };
    if size < size_of::<usize>() || size > size_of::<CdiOptions>() {
        return Err(format!(
            "options have a size of {size} bytes; this version supports up to {}",
            size_of::<CdiOptions>()
        ));
    }
    let mut own = MaybeUninit::<CdiOptions>::zeroed();
    // SAFETY: the caller guarantees `size` bytes, no more than fit; all zeros are a valid value of each field.
    let own = unsafe {
        own.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(options.cast(), size);
        own.assume_init()
    };
    // SAFETY: each is NULL or a zero-terminated string, as the caller guarantees.
    let (format, mapfile, badblocks) = unsafe { (text(own.format), text(own.mapfile), text(own.badblocks)) };
    // SAFETY: NULL or a zero-terminated string, as the caller guarantees.
    how.passphrase = unsafe { text(own.passphrase) }.map(|text| Passphrase::new(text.as_bytes()));
    how.format = format.map(|f| f.to_string_lossy().into_owned());
    how.mapfile = match mapfile {
        None => Mapfile::Adjacent,
        Some(name) if name == "none" => Mapfile::None,
        Some(path) => Mapfile::File(path.into()),
    };
    how.badblocks = match (badblocks, own.block_size) {
        (None, _) => None,
        (Some(_), _) if matches!(how.mapfile, Mapfile::File(_)) => {
            return Err("a map and a list of bad blocks cannot be used together".into());
        }
        (Some(_), 0) => return Err("a list of bad blocks needs a block size".into()),
        (Some(path), block) => Some((path.into(), block)),
    };
    how.sector_size = match own.sector_size {
        0 => None,
        bytes if bytes.is_power_of_two() && (512..=65536).contains(&bytes) => Some(bytes),
        bytes => {
            return Err(format!("invalid sector size {bytes} (must be a power of two from 512 to 65536)"));
        }
    };
    reads.read_suspect = own.read_suspect != 0;
    let mut next = own.allow_parent;
    // SAFETY: NULL, or a list of strings that ends with NULL, as the caller guarantees.
    while let Some(dir) = unsafe { if next.is_null() { None } else { text(*next) } } {
        how.allowed.push(dir.into());
        // SAFETY: this was not the end of the list.
        next = unsafe { next.add(1) };
    }
    Ok((how, reads))
}

/// Copies a text to the caller's buffer, truncated to fit, with a terminating zero.
///
/// # Safety
/// `message` is NULL or has room for `size` bytes.
unsafe fn copy_message(text: &str, message: *mut c_char, size: usize) {
    if message.is_null() || size == 0 {
        return;
    }
    let mut kept = text.len().min(size - 1);
    while !text.is_char_boundary(kept) {
        kept -= 1;
    }
    // SAFETY: the caller guarantees room for `size` bytes, and kept is less.
    unsafe {
        message.copy_from_nonoverlapping(text.as_ptr().cast(), kept);
        *message.add(kept) = 0;
    }
}

/// Returns the caller's buffer, filled with zeros; None if it is NULL or too long.
///
/// # Safety
/// `buffer` is NULL or has room for `length` bytes, which nobody else uses for as long as the result is used.
unsafe fn buffer_of<'a>(buffer: *mut c_void, length: usize) -> Option<&'a mut [u8]> {
    if buffer.is_null() || length > isize::MAX.cast_unsigned() {
        return None;
    }
    // SAFETY: not NULL, within the maximum length of a slice, and the caller guarantees the room. The buffer is zeroed
    // first, because a reference to uninitialized memory is not allowed.
    unsafe {
        buffer.write_bytes(0, length);
        Some(std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length))
    }
}

/// Opens an image.
///
/// # Safety
/// `path` is NULL or a zero-terminated string; `message` is NULL or has room for `message_size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cdi_open(
    path: *const c_char,
    message: *mut c_char,
    message_size: usize,
) -> *mut CdiDisk {
    // SAFETY: as the caller guarantees; NULL stands for no options.
    unsafe { cdi_open_with(path, std::ptr::null(), message, message_size) }
}

/// Opens an image with options.
///
/// # Safety
/// `path` is NULL or a zero-terminated string; `options` is NULL or as [`convert_options`] requires; `message` is NULL
/// or has room for `message_size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cdi_open_with(
    path: *const c_char,
    options: *const CdiOptions,
    message: *mut c_char,
    message_size: usize,
) -> *mut CdiDisk {
    // SAFETY: as the caller guarantees.
    let (path, options) = unsafe { (text(path), convert_options(options)) };
    let opened = match (path, options) {
        (None, _) => Err("no path was given".to_owned()),
        (_, Err(why)) => Err(why),
        (Some(path), Ok((how, options))) => {
            match catch_unwind(AssertUnwindSafe(|| open(Path::new(path), &how, options))) {
                Ok(opened) => opened.map_err(|e| {
                    let cause = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
                    format!("{e}{cause}")
                }),
                Err(_) => Err("internal error: opening the image panicked (a bug in cdi)".to_owned()),
            }
        }
    };
    let (disk, text) = match opened {
        Ok((disk, warnings)) => (Box::into_raw(Box::new(disk)), warnings),
        // One line: names that an image contains must not look like more.
        Err(why) => (std::ptr::null_mut(), why.replace('\n', " ")),
    };
    // SAFETY: as the caller guarantees.
    unsafe { copy_message(&printable(&text), message, message_size) };
    disk
}

/// Returns the size of the disk in bytes.
///
/// # Safety
/// `disk` is NULL or comes from [`cdi_open`] or [`cdi_open_with`] and is not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cdi_size(disk: *const CdiDisk) -> u64 {
    // SAFETY: NULL or an open disk, as the caller guarantees.
    unsafe { disk.as_ref() }.map_or(0, |disk| disk.0.size())
}

/// Returns the logical sector size of the disk in bytes.
///
/// # Safety
/// `disk` is NULL or comes from [`cdi_open`] or [`cdi_open_with`] and is not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cdi_sector_size(disk: *const CdiDisk) -> u32 {
    // SAFETY: NULL or an open disk, as the caller guarantees.
    unsafe { disk.as_ref() }.map_or(0, |disk| disk.0.sector())
}

/// Reads from the disk. Returns 0 or an errno.
///
/// # Safety
/// `disk` is NULL or comes from [`cdi_open`] or [`cdi_open_with`] and is not closed; `buffer` has room for `length`
/// bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cdi_read(
    disk: *const CdiDisk,
    buffer: *mut c_void,
    length: usize,
    offset: u64,
) -> c_int {
    // SAFETY: NULL or an open disk, as the caller guarantees.
    let Some(disk) = (unsafe { disk.as_ref() }) else { return Errno::EINVAL as c_int };
    if length == 0 {
        return if offset <= disk.0.size() { 0 } else { Errno::EINVAL as c_int };
    }
    // SAFETY: the caller guarantees the room.
    let Some(bytes) = (unsafe { buffer_of(buffer, length) }) else { return Errno::EINVAL as c_int };
    match catch_unwind(AssertUnwindSafe(|| disk.0.read_at(bytes, offset))) {
        Ok(Ok(())) => 0,
        Ok(Err(e)) => e.errno(ErrnoStyle::Io),
        Err(_) => Errno::EIO as c_int,
    }
}

/// Returns the next range whose reads fail.
///
/// # Safety
/// `disk` is NULL or comes from [`cdi_open`] or [`cdi_open_with`] and is not closed; `start` and `end` are NULL or may
/// be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cdi_next_bad(
    disk: *const CdiDisk,
    offset: u64,
    start: *mut u64,
    end: *mut u64,
) -> c_int {
    // SAFETY: NULL or an open disk, as the caller guarantees.
    let Some(disk) = (unsafe { disk.as_ref() }) else { return 0 };
    let Some(range) = disk.0.failing_ranges().next(offset) else { return 0 };
    // SAFETY: not NULL and writable, as the caller guarantees; the previous values are not read.
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
/// `disk` is NULL or comes from [`cdi_open`] or [`cdi_open_with`], is not closed, and is not in use by any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cdi_close(disk: *mut CdiDisk) {
    if !disk.is_null() {
        // SAFETY: it comes from Box::into_raw in cdi_open_with, and is freed only once, as the caller guarantees.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(unsafe { Box::from_raw(disk) })));
    }
}
