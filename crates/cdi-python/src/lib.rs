//! The part of the Python package `cdi` that is written in Rust: `cdi._cdi`, which opens images and reads them. The package
//! around it, in `python/cdi/`, is what users see: file objects, sequences, documentation.
//!
//! No panic gets to Python, and the interpreter's lock is released whenever an image is read.

mod errors;
mod options;

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use cdi_base::error::ReadError;
use cdi_base::units::index;
use cdi_base::workers::{cores, lock};
use cdi_image::badmap::BadRange;
use cdi_image::disk::Disk;
use cdi_image::{document, input, open};
use errors::{closed, crashed, image_error, kind_of, read_error};
use options::Opening;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// The maximum number of bytes that one read returns.
const MAX_READ: u64 = 1 << 30;
/// The number of bytes of a larger read that are read first.
const FIRST_READ: usize = 1 << 20;

/// Bytes, and for each range that could not be read: offset, length, kind and reason.
type Partial<'py> = (Bound<'py, PyBytes>, Vec<(u64, u64, &'static str, String)>);

/// An open image.
#[pyclass(frozen, module = "cdi._cdi")]
struct Image {
    opening: Opening,
    /// What the image and its other files were when it was opened: it may be opened again.
    state: [u8; 32],
    /// Locked only by threads that hold the interpreter's lock, and briefly, so that no fork finds it locked.
    handle: Mutex<Handle>,
}

/// The disk of an image in this process; None: it was closed.
struct Handle {
    disk: Option<Arc<Disk>>,
    process: u32,
}

impl Image {
    /// Opens the image, and starts readahead. Also returns what the image and its other files are.
    fn start(opening: &Opening, again: bool) -> Result<(Disk, [u8; 32]), cdi_image::Error> {
        let disk = opening.open(again)?;
        // Before other threads look for more files.
        let state = disk.state();
        // Without these threads reads are slower, not wrong.
        let _ = disk.start_readahead(cores());
        Ok((disk, state))
    }

    /// Returns the disk. In a process that was forked since, the image is opened again: the threads that read ahead are not
    /// there, and another thread of the parent may have held a lock.
    fn disk(&self, py: Python<'_>) -> PyResult<Arc<Disk>> {
        let mut handle = lock(&self.handle);
        let disk = handle.disk.as_ref().ok_or_else(closed)?;
        let process = std::process::id();
        if handle.process == process {
            return Ok(Arc::clone(disk));
        }
        let opened = catch_unwind(AssertUnwindSafe(|| Image::start(&self.opening, true)));
        let (disk, state) = opened.map_err(|_| crashed(py))?.map_err(|e| image_error(py, &e))?;
        if state != self.state {
            return Err(errors::changed(py, self.opening.path()));
        }
        let disk = Arc::new(disk);
        // What the parent had is not ended in order, as that could wait for threads which are not there.
        std::mem::forget(handle.disk.replace(Arc::clone(&disk)));
        handle.process = process;
        Ok(disk)
    }

    /// Runs `work` without the interpreter's lock.
    fn run<T: Send>(&self, py: Python<'_>, work: impl FnOnce() -> T + Send) -> PyResult<T> {
        py.detach(|| catch_unwind(AssertUnwindSafe(work))).map_err(|_| crashed(py))
    }
}

/// Returns the part of `ranges` from number `start` to `stop`, each by `each`.
fn slice<T>(ranges: &[BadRange], start: usize, stop: usize, each: impl Fn(&BadRange) -> T) -> Vec<T> {
    let stop = stop.min(ranges.len());
    ranges[start.min(stop)..stop].iter().map(each).collect()
}

#[pymethods]
impl Image {
    /// The size of the disk in bytes.
    fn size(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.disk(py)?.size())
    }

    /// The logical sector size in bytes.
    fn sector_size(&self, py: Python<'_>) -> PyResult<u32> {
        Ok(self.disk(py)?.sector())
    }

    /// The name of the format.
    fn format(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(self.disk(py)?.format().name)
    }

    /// The files that the image consists of.
    fn files(&self, py: Python<'_>) -> PyResult<Vec<OsString>> {
        Ok(self.disk(py)?.input().paths().into_iter().map(PathBuf::into_os_string).collect())
    }

    /// The warnings about the image.
    fn warnings(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        Ok(self.disk(py)?.image().warnings().to_vec())
    }

    /// The content of info.json.
    fn info(&self, py: Python<'_>) -> PyResult<String> {
        let disk = self.disk(py)?;
        self.run(py, || document::info(&disk).to_string())
    }

    /// The hashes that the image stores: what is hashed, the algorithm, and the hash in hex.
    fn hashes(&self, py: Python<'_>) -> PyResult<Vec<(String, &'static str, String)>> {
        let disk = self.disk(py)?;
        let all = disk.image().stored_hashes().iter();
        Ok(all
            .map(|hash| (hash.of.clone(), hash.kind.name(), cdi_base::printable::hex(&hash.value)))
            .collect())
    }

    /// The number of ranges whose reads fail.
    fn bad_count(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.disk(py)?.failing_ranges().ranges().len())
    }

    /// The ranges whose reads fail from number `start` to `stop`: offset and length.
    fn bad_slice(&self, py: Python<'_>, start: usize, stop: usize) -> PyResult<Vec<(u64, u64)>> {
        let disk = self.disk(py)?;
        Ok(slice(disk.failing_ranges().ranges(), start, stop, |r| (r.start, r.len())))
    }

    /// The number of the first range whose reads fail that ends after `offset`.
    fn bad_after(&self, py: Python<'_>, offset: u64) -> PyResult<usize> {
        let disk = self.disk(py)?;
        Ok(disk.failing_ranges().ranges().partition_point(|r| r.end <= offset))
    }

    /// The number of ranges that the image does not record as finished.
    fn block_count(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.disk(py)?.bad().ranges().len())
    }

    /// These ranges from number `start` to `stop`: offset, length and status.
    fn block_slice(
        &self,
        py: Python<'_>,
        start: usize,
        stop: usize,
    ) -> PyResult<Vec<(u64, u64, &'static str)>> {
        let disk = self.disk(py)?;
        Ok(slice(disk.bad().ranges(), start, stop, |r| (r.start, r.len(), r.status.name())))
    }

    /// The number of the first of these ranges that ends after `offset`.
    fn block_after(&self, py: Python<'_>, offset: u64) -> PyResult<usize> {
        let disk = self.disk(py)?;
        Ok(disk.bad().ranges().partition_point(|r| r.end <= offset))
    }

    /// The bytes at `offset`: at most `length`, fewer before a sector that cannot be read, none at the end of the disk.
    fn pread<'py>(&self, py: Python<'py>, offset: u64, length: u64) -> PyResult<Bound<'py, PyBytes>> {
        let disk = self.disk(py)?;
        let left = disk.size().saturating_sub(offset);
        let readable = disk.readable_from(offset.min(disk.size()));
        let readable = match readable.end - readable.start {
            // The read fails, and needs no memory for that.
            0 => u64::from(disk.sector()),
            bytes => bytes,
        };
        let length = index(length.min(left).min(readable).min(MAX_READ));
        let failed = |error| read_error(py, self.opening.path(), offset, error);
        // An image may claim to be larger than it is: memory for a large read is there once its beginning was read.
        let mut start = vec![0; if length > FIRST_READ { FIRST_READ } else { 0 }];
        let known = self.run(py, || disk.read_prefix(&mut start, offset))?.map_err(failed)?;
        if known < start.len() {
            return Ok(PyBytes::new(py, &start[..known]));
        }
        let mut read: Result<usize, ReadError> = Ok(0);
        let bytes = PyBytes::new_with(py, length, |buf| {
            buf[..known].copy_from_slice(&start);
            read = self.run(py, || disk.read_prefix(&mut buf[known..], offset + known as u64))?;
            Ok(())
        })?;
        let read = match read {
            Err(_) if known > 0 => known,
            read => known + read.map_err(failed)?,
        };
        if read == length { Ok(bytes) } else { Ok(PyBytes::new(py, &bytes.as_bytes()[..read])) }
    }

    /// The bytes at `offset`, with zeros where they cannot be read, and which ranges that are.
    fn read_partial<'py>(&self, py: Python<'py>, offset: u64, length: u64) -> PyResult<Partial<'py>> {
        let disk = self.disk(py)?;
        let length = index(length.min(disk.size().saturating_sub(offset)).min(MAX_READ));
        let mut failures = Vec::new();
        let bytes = PyBytes::new_with(py, length, |buf| {
            let failures = &mut failures;
            self.run(py, || {
                disk.read_partial(buf, offset, |failure| {
                    let range = failure.range;
                    let why = (kind_of(failure.error), failure.error.to_string());
                    failures.push((range.start, range.end - range.start, why.0, why.1));
                    true
                })
            })?;
            Ok(())
        })?;
        Ok((bytes, failures))
    }

    /// Closes the image. Reads that other threads have begun are finished.
    fn close(&self, py: Python<'_>) {
        let mut handle = lock(&self.handle);
        let disk = handle.disk.take();
        if handle.process == std::process::id() {
            drop(handle);
            // A panic while the image is closed has no consequences.
            let _ = self.run(py, || drop(disk));
        } else {
            std::mem::forget(disk);
        }
    }

    /// Whether the image is closed.
    fn is_closed(&self) -> bool {
        lock(&self.handle).disk.is_none()
    }
}

/// Opens an image.
#[pyfunction]
fn open_image(py: Python<'_>, opening: Opening) -> PyResult<Image> {
    let opened = py.detach(|| catch_unwind(AssertUnwindSafe(|| Image::start(&opening, false))));
    let (disk, state) = opened.map_err(|_| crashed(py))?.map_err(|e| image_error(py, &e))?;
    let handle = Handle { disk: Some(Arc::new(disk)), process: std::process::id() };
    Ok(Image { opening, state, handle: Mutex::new(handle) })
}

/// The formats that can be read: name, description and file name suffixes.
#[pyfunction]
fn formats() -> Vec<(&'static str, &'static str, Vec<&'static str>)> {
    open::FORMATS.iter().map(|format| (format.name, format.summary, format.suffixes.to_vec())).collect()
}

/// Ends the threads that talk to servers, before the process forks. The next read starts them again.
#[pyfunction]
fn before_fork(py: Python<'_>) {
    // The threads do not need the interpreter's lock.
    let _ = py.detach(|| catch_unwind(input::rest));
}

/// The module `cdi._cdi`.
#[pymodule]
mod _cdi {
    #[pymodule_export]
    use super::{Image, before_fork, formats, open_image};
    #[pymodule_export]
    use crate::errors::{Error, ReadError};
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
