//! The disk for programs in other languages: the functions of `include/cdi.h`, which says what they do. The only
//! file with `unsafe`; what each caller must hold to is what the header says, and C cannot.

#![allow(unsafe_code)]

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use cdi_base::error::{ErrnoStyle, Error};
use cdi_base::workers;
use cdi_image::disk::{Disk, Options};
use cdi_image::image::{Mapfile, OpenOptions};
use cdi_image::open;
use nix::errno::Errno;

/// An image that is open: `cdi_disk` of the header.
pub struct CdiDisk(Disk);

/// How an image is to be opened: `cdi_options` of the header. New fields come at the end.
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
}

/// Reads an image's index, and starts the threads that read it ahead. Gives also what the user should know.
fn open(path: &Path, how: &OpenOptions, options: Options) -> Result<(CdiDisk, String), Error> {
    let disk = Disk::new(open::open(path, how)?, options);
    let started = disk.start_readahead(workers::cores());
    started.map_err(|e| Error::failed("threads cannot be started").because(e))?;
    let warnings = disk.image().warnings().join("\n");
    Ok((CdiDisk(disk), warnings))
}

/// The text at `text`, or none for NULL.
///
/// # Safety
/// `text` is NULL or a string that ends with a zero, and stays as it is for as long as the result is used.
unsafe fn text<'a>(text: *const c_char) -> Option<&'a OsStr> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not NULL, and the caller holds that it ends with a zero.
    Some(OsStr::from_bytes(unsafe { CStr::from_ptr(text) }.to_bytes()))
}

/// What the caller's options say, in our words.
///
/// # Safety
/// `options` is NULL, or points to at least as many bytes as its first field says, which are as the header has them.
unsafe fn understood(options: *const CdiOptions) -> Result<(OpenOptions, Options), String> {
    let mut how = OpenOptions::default();
    let mut reads = Options::default();
    if options.is_null() {
        return Ok((how, reads));
    }
    // SAFETY: not NULL, and the first field is always there.
    let size = unsafe { options.cast::<usize>().read() };
    if size < size_of::<usize>() || size > size_of::<CdiOptions>() {
        return Err(format!(
            "options of {size} bytes are not known to this version, but up to {}",
            size_of::<CdiOptions>()
        ));
    }
    let mut own = MaybeUninit::<CdiOptions>::zeroed();
    // SAFETY: `size` bytes are there, as the caller holds, and no more than fit; all zeros are a value of each field.
    let own = unsafe {
        own.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(options.cast(), size);
        own.assume_init()
    };
    // SAFETY: each is NULL or a string that ends with a zero, as the caller holds.
    let (format, mapfile, badblocks) = unsafe { (text(own.format), text(own.mapfile), text(own.badblocks)) };
    how.format = format.map(|f| f.to_string_lossy().into_owned());
    how.mapfile = match mapfile {
        None => Mapfile::Adjacent,
        Some(name) if name == "none" => Mapfile::None,
        Some(path) => Mapfile::File(path.into()),
    };
    how.badblocks = match (badblocks, own.block_size) {
        (None, _) => None,
        (Some(_), _) if matches!(how.mapfile, Mapfile::File(_)) => {
            return Err("an image has a map or a list of bad blocks, and not both".into());
        }
        (Some(_), 0) => return Err("a list of bad blocks needs the size of a block".into()),
        (Some(path), block) => Some((path.into(), block)),
    };
    how.sector_size = match own.sector_size {
        0 => None,
        bytes if bytes.is_power_of_two() && (512..=65536).contains(&bytes) => Some(bytes),
        bytes => return Err(format!("a sector of {bytes} bytes cannot be")),
    };
    reads.read_suspect = own.read_suspect != 0;
    let mut next = own.allow_parent;
    // SAFETY: NULL, or a list of strings that ends with NULL, as the caller holds.
    while let Some(dir) = unsafe { if next.is_null() { None } else { text(*next) } } {
        how.allowed.push(dir.into());
        // SAFETY: it was not the end.
        next = unsafe { next.add(1) };
    }
    Ok((how, reads))
}

/// Puts a text where the caller wants to have it, as much as fits.
///
/// # Safety
/// `message` is NULL or has room for `size` bytes.
unsafe fn say(why: &str, message: *mut c_char, size: usize) {
    if message.is_null() || size == 0 {
        return;
    }
    let mut kept = why.len().min(size - 1);
    while !why.is_char_boundary(kept) {
        kept -= 1;
    }
    // SAFETY: the caller holds that there is room for `size` bytes, and kept is less.
    unsafe {
        message.copy_from_nonoverlapping(why.as_ptr().cast(), kept);
        *message.add(kept) = 0;
    }
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
    // SAFETY: as the caller holds; no options are NULL.
    unsafe { cdi_open_with(path, std::ptr::null(), message, message_size) }
}

/// Opens an image as the options say.
///
/// # Safety
/// `path` is NULL or a string that ends with a zero; `options` is NULL or as `understood` wants it; `message` is NULL or has
/// room for `message_size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cdi_open_with(
    path: *const c_char,
    options: *const CdiOptions,
    message: *mut c_char,
    message_size: usize,
) -> *mut CdiDisk {
    // SAFETY: as the caller holds.
    let (path, options) = unsafe { (text(path), understood(options)) };
    let opened = match (path, options) {
        (None, _) => Err("no path was given".to_owned()),
        (_, Err(why)) => Err(why),
        (Some(path), Ok((how, options))) => match catch_unwind(|| open(Path::new(path), &how, options)) {
            Ok(opened) => opened.map_err(|e| {
                let cause = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
                format!("{e}{cause}")
            }),
            Err(_) => Err("a bug in cdi: it panicked".to_owned()),
        },
    };
    let (disk, said) = match opened {
        Ok((disk, warnings)) => (Box::into_raw(Box::new(disk)), warnings),
        Err(why) => (std::ptr::null_mut(), why),
    };
    // SAFETY: as the caller holds.
    unsafe { say(&said, message, message_size) };
    disk
}

/// The size of the disk in bytes.
///
/// # Safety
/// `disk` is NULL or comes from [`cdi_open`] or [`cdi_open_with`] and is not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cdi_size(disk: *const CdiDisk) -> u64 {
    // SAFETY: NULL, or a disk that is open, as the caller holds.
    unsafe { disk.as_ref() }.map_or(0, |disk| disk.0.size())
}

/// The logical sector size of the disk in bytes.
///
/// # Safety
/// `disk` is NULL or comes from [`cdi_open`] or [`cdi_open_with`] and is not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cdi_sector_size(disk: *const CdiDisk) -> u32 {
    // SAFETY: NULL, or a disk that is open, as the caller holds.
    unsafe { disk.as_ref() }.map_or(0, |disk| disk.0.sector())
}

/// Reads from the disk: 0, or an errno.
///
/// # Safety
/// `disk` is NULL or comes from [`cdi_open`] or [`cdi_open_with`] and is not closed; `buffer` has room for `length` bytes.
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
/// `disk` is NULL or comes from [`cdi_open`] or [`cdi_open_with`] and is not closed; `start` and `end` are NULL or may be written to.
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
/// `disk` is NULL or comes from [`cdi_open`] or [`cdi_open_with`], is not closed, and nobody uses it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cdi_close(disk: *mut CdiDisk) {
    if !disk.is_null() {
        // SAFETY: it comes from Box::into_raw in cdi_open, and is given back once, as the caller holds.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(unsafe { Box::from_raw(disk) })));
    }
}
