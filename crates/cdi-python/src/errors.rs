//! Errors of the library as exceptions of Python, all of them `OSError`: with an errno, a text and the file.

use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};

use cdi_base::error::{ErrnoStyle, Kind};
use nix::errno::Errno;
use pyo3::create_exception;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

create_exception!(
    cdi,
    Error,
    PyOSError,
    "An image cannot be used: it is not one, not supported, damaged, or encrypted."
);
create_exception!(
    cdi,
    ReadError,
    Error,
    "The disk cannot be read at a place: the sector is bad, or the image damaged."
);

/// The error for an image that is closed, as Python's files have it.
pub(crate) fn closed() -> PyErr {
    PyValueError::new_err("I/O operation on closed file.")
}

/// The error for a panic, which is a bug.
pub(crate) fn crashed(py: Python<'_>) -> PyErr {
    let error = Error::new_err((Errno::EIO as i32, "the reader of this image crashed: this is a bug in cdi"));
    with(py, error, &[("kind", "failed")])
}

/// The error for an image that is another one than before the process forked.
pub(crate) fn changed(py: Python<'_>, path: &Path) -> PyErr {
    let what = "the image, its map or another of its files is not what it was when it was opened, before the process forked";
    with(
        py,
        Error::new_err((Errno::ESTALE as i32, what, path.as_os_str().to_owned())),
        &[("kind", "changed")],
    )
}

/// The exception for an image that cannot be opened. Errors of the operating system are Python's own: FileNotFoundError,
/// PermissionError and so on.
pub(crate) fn image_error(py: Python<'_>, error: &cdi_image::Error) -> PyErr {
    let mut text = error.what.clone();
    let (mut errno, mut cause) = (None, error.source());
    while let Some(source) = cause {
        text += &format!(": {source}");
        errno = errno.or_else(|| errno_of(source.downcast_ref()?, error.kind));
        cause = source.source();
    }
    // As text: a PathBuf would become a pathlib.Path, which Python's own errors do not have.
    let path = error.path.clone().map(PathBuf::into_os_string);
    match errno {
        Some(errno) => PyOSError::new_err((errno, text, path)),
        None => {
            let kind = match error.kind {
                Kind::Usage => "usage",
                Kind::BadImage => "bad_image",
                Kind::DataMissing => "data_missing",
                Kind::Busy => "busy",
                Kind::Unavailable => "unavailable",
                _ => "failed",
            };
            let errno = if error.kind == Kind::Failed { Errno::EIO } else { Errno::EINVAL };
            with(py, Error::new_err((errno as i32, text, path)), &[("kind", kind)])
        }
    }
}

/// Returns the errno of what failed: for servers, which have none, that of the same failure of a file.
fn errno_of(error: &io::Error, kind: Kind) -> Option<i32> {
    let errno = match error.kind() {
        _ if error.raw_os_error().is_some() => return error.raw_os_error(),
        // The image was read.
        _ if kind == Kind::BadImage => return None,
        io::ErrorKind::NotFound => Errno::ENOENT,
        io::ErrorKind::PermissionDenied => Errno::EACCES,
        io::ErrorKind::ConnectionRefused => Errno::ECONNREFUSED,
        io::ErrorKind::HostUnreachable => Errno::EHOSTUNREACH,
        io::ErrorKind::NetworkUnreachable => Errno::ENETUNREACH,
        io::ErrorKind::TimedOut => Errno::ETIMEDOUT,
        _ => return None,
    };
    Some(errno as i32)
}

/// The exception for a read at `offset` that failed there.
pub(crate) fn read_error(py: Python<'_>, path: &Path, offset: u64, error: cdi_image::ReadError) -> PyErr {
    let text = format!("{error} (byte {offset} of the disk)");
    let raised = ReadError::new_err((error.errno(ErrnoStyle::Io), text, path.as_os_str().to_owned()));
    let raised = with(py, raised, &[("kind", kind_of(error))]);
    // An attribute that cannot be set is not worth another error.
    let _ = raised.value(py).setattr("offset", offset);
    raised
}

/// The kind of a failed read, as `kind` of an exception and of a range that could not be read.
pub(crate) fn kind_of(error: cdi_image::ReadError) -> &'static str {
    use cdi_image::ReadError::{Bad, Corrupt, Io, PastEnd, Unmapped};
    match error {
        Bad { untried: false, .. } => "bad",
        Bad { untried: true, .. } => "untried",
        Corrupt { .. } | Unmapped { .. } => "damaged",
        Io { .. } => "io",
        PastEnd => "end",
    }
}

fn with(py: Python<'_>, error: PyErr, attributes: &[(&str, &str)]) -> PyErr {
    for (name, value) in attributes {
        let _ = error.value(py).setattr(*name, *value);
    }
    error
}
