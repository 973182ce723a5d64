//! Two error types: [`Error`] for people and scripts, [`ReadError`] for readers of a disk.
//!
//! [`ReadError::errno`] is the only place where a failed read is converted to an errno. The program chooses the exit
//! code of each [`Kind`].

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::advice::Advice;
use crate::printable::redacted;

/// The kind of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A failure that none of the other kinds describes better.
    Failed,
    /// The request does not make sense.
    Usage,
    /// The image cannot be used: unknown, not supported, or damaged.
    BadImage,
    /// The work is done, but some of the disk's data is missing.
    DataMissing,
    /// Something is in use, or exists already.
    Busy,
    /// Something is missing on this system: a driver, a program, a permission.
    Unavailable,
    /// The disk that was read is gone.
    Gone,
    /// The disk that was read does not work any more: perhaps it does after it was switched off and on.
    PowerCycle,
    /// Interrupted by the user.
    Interrupted,
}

/// An error for the user: the file, what went wrong, why, and what to do about it.
///
/// `{}` shows the file and what went wrong, `{:#}` also the underlying errors, in one line.
#[derive(Debug)]
pub struct Error {
    /// The kind of the error.
    pub kind: Kind,
    /// What went wrong, in lower case and without a full stop.
    pub what: String,
    /// The file or device concerned.
    pub path: Option<PathBuf>,
    /// What the user can do about it, in this order. Usually one piece of advice, or none.
    pub advice: Vec<Advice>,
    /// The underlying error.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// Creates an error of `kind` with the message `what`.
    pub fn new(kind: Kind, what: impl Into<String>) -> Error {
        Error { kind, what: what.into(), path: None, advice: Vec::new(), source: None }
    }

    /// Creates an error of [`Kind::Failed`].
    pub fn failed(what: impl Into<String>) -> Error {
        Error::new(Kind::Failed, what)
    }

    /// Creates an error of [`Kind::Usage`].
    pub fn usage(what: impl Into<String>) -> Error {
        Error::new(Kind::Usage, what)
    }

    /// Creates an error of [`Kind::BadImage`].
    pub fn bad_image(what: impl Into<String>) -> Error {
        Error::new(Kind::BadImage, what)
    }

    /// Creates an error for a failed operation on `path`: `what` is the message, and `source` the I/O error. Adds
    /// advice if the I/O error alone determines it.
    pub fn io(what: impl Into<String>, path: &Path, source: io::Error) -> Error {
        let kind = match source.kind() {
            io::ErrorKind::ResourceBusy => Kind::Busy,
            _ => Kind::Failed,
        };
        let advice = advice_for(&source);
        let error = Error::new(kind, what).at(path).because(source);
        match advice {
            Some(advice) => error.hint(advice),
            None => error,
        }
    }

    /// Sets the path, unless one is set already: the code closest to the error knows the right one.
    pub fn at(mut self, path: &Path) -> Error {
        self.path.get_or_insert_with(|| path.to_owned());
        self
    }

    /// Adds this advice if the error has none yet.
    pub fn hint(mut self, advice: impl Into<Advice>) -> Error {
        if self.advice.is_empty() {
            self.advice.push(advice.into());
        }
        self
    }

    /// Appends this advice to any that the error has already.
    pub fn then(mut self, advice: impl Into<Advice>) -> Error {
        self.advice.push(advice.into());
        self
    }

    /// Sets the underlying error.
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.source = Some(source.into());
        self
    }
}

/// Advice for an operation that macOS does not permit (EPERM) although the file's mode does: it protects some directories,
/// removable disks, and network volumes, of which a mount over NFS is one, and asks or refuses for each program.
pub const PRIVACY: &str = "macOS may have refused this for privacy: System Settings > Privacy & Security > Files & Folders > \
    Network Volumes (or Removable Volumes), or Full Disk Access, for the program that started cdi";

/// Returns advice for system errors that mean the same wherever they occur.
pub fn advice_for(e: &io::Error) -> Option<&'static str> {
    advice_on(e, cfg!(target_os = "macos"))
}

fn advice_on(e: &io::Error, macos: bool) -> Option<&'static str> {
    match e.kind() {
        // A mode that does not permit it is EACCES.
        _ if macos && e.raw_os_error() == Some(EPERM) => Some(PRIVACY),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("make room, or put the file on another file system")
        }
        io::ErrorKind::FileTooLarge => Some(
            "the file system or 'ulimit -f' does not allow larger files: use another one, or raise the limit",
        ),
        _ if matches!(e.raw_os_error(), Some(EMFILE | ENFILE)) => {
            Some("too many files are open: raise the limit with 'ulimit -n 1024'")
        }
        _ => None,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}: {}", redacted(&path.display().to_string()), self.what)?,
            None => f.write_str(&self.what)?,
        }
        let mut cause = self.source.as_deref().map(|source| source as &dyn std::error::Error);
        while let Some(source) = cause.filter(|_| f.alternate()) {
            write!(f, ": {source}")?;
            cause = source.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|s| s as &(dyn std::error::Error + 'static))
    }
}

/// An inconsistency in an image file: where it is, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {what}")]
pub struct Flaw {
    /// The offset in the file, in bytes.
    pub at: u64,
    /// What is wrong there.
    pub what: String,
}

impl Flaw {
    /// Creates a flaw at byte `at` of the file.
    pub fn at(at: u64, what: impl Into<String>) -> Flaw {
        Flaw { at, what: what.into() }
    }
}

impl From<Flaw> for Error {
    fn from(flaw: Flaw) -> Error {
        Error::bad_image(flaw.to_string())
    }
}

/// The reason why a read of the disk failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// A sector of the disk could not be read when the image was made, or was not read yet.
    #[error("{}", missing_sector(*sector, *untried))]
    Bad {
        /// The first bad sector that the read touches, in logical sectors of the disk.
        sector: u64,
        /// The number of bytes that the read asked for before it: a read of just these does not touch a bad sector.
        good: usize,
        /// Whether the sector was not read by itself yet: nobody knows whether it is bad.
        untried: bool,
    },
    /// The image file is damaged: the data at `at` is not what was written there.
    #[error("the image file is damaged at byte {at}")]
    Corrupt {
        /// The offset in the image's file, in bytes.
        at: u64,
    },
    /// The image should hold the disk's bytes at `offset`, but its index has no entry for them.
    #[error("the image is damaged: its index has no entry for disk byte {offset}")]
    Unmapped {
        /// The offset on the disk, in bytes.
        offset: u64,
    },
    /// The image file itself could not be read.
    #[error("cannot read the image file: {}", io::Error::from_raw_os_error(*errno))]
    Io {
        /// The errno of the operating system.
        errno: i32,
    },
    /// The read goes past the end of the disk.
    #[error("past the end of the disk")]
    PastEnd,
}

fn missing_sector(sector: u64, untried: bool) -> String {
    if untried { format!("sector {sector} was not read yet") } else { format!("bad sector {sector}") }
}

impl ReadError {
    /// Returns whether the sector was not read yet.
    pub fn is_untried(self) -> bool {
        matches!(self, ReadError::Bad { untried: true, .. })
    }

    /// Returns the errno for a failed read. It is never EINTR or EAGAIN: readers would retry forever.
    pub fn errno(self, style: ErrnoStyle) -> i32 {
        match (self, style) {
            (ReadError::Bad { .. }, ErrnoStyle::Medium) => MEDIUM,
            (ReadError::PastEnd, _) => EINVAL,
            (_, _) => EIO,
        }
    }
}

/// For sources that are read like files.
impl From<ReadError> for io::Error {
    fn from(e: ReadError) -> io::Error {
        match e {
            ReadError::Io { errno } => io::Error::from_raw_os_error(errno),
            other => io::Error::other(other),
        }
    }
}

impl From<io::Error> for ReadError {
    fn from(e: io::Error) -> ReadError {
        if let Some(inner) = e.get_ref().and_then(|inner| inner.downcast_ref()) {
            return *inner;
        }
        ReadError::Io { errno: e.raw_os_error().unwrap_or(EIO) }
    }
}

/// The errno that a read of a bad sector returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ErrnoStyle {
    /// EIO, which disks return and every tool understands.
    #[default]
    Io,
    /// ENODATA on Linux, where the block layer logs it as "critical medium error", as it does for a failing disk.
    /// EIO elsewhere.
    Medium,
}

const EPERM: i32 = nix::errno::Errno::EPERM as i32;
const EIO: i32 = nix::errno::Errno::EIO as i32;
const EMFILE: i32 = nix::errno::Errno::EMFILE as i32;
const ENFILE: i32 = nix::errno::Errno::ENFILE as i32;
const EINVAL: i32 = nix::errno::Errno::EINVAL as i32;
#[cfg(target_os = "linux")]
const MEDIUM: i32 = nix::errno::Errno::ENODATA as i32;
#[cfg(not(target_os = "linux"))]
const MEDIUM: i32 = EIO;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_macos_refuses_for_privacy_names_the_setting() {
        let refused = io::Error::from_raw_os_error(EPERM);
        assert!(advice_on(&refused, true).unwrap().contains("Network Volumes"));
        assert_eq!(advice_on(&refused, false), None);
        assert_eq!(advice_on(&io::Error::from_raw_os_error(nix::errno::Errno::EACCES as i32), true), None);
    }

    #[test]
    fn the_alternate_form_shows_the_causes() {
        let error = Error::io("cannot open", Path::new("/a"), io::Error::other("no")).because(Error::io(
            "cannot read",
            Path::new("/b"),
            io::Error::other("why"),
        ));
        assert_eq!(format!("{error}"), "/a: cannot open");
        assert_eq!(format!("{error:#}"), "/a: cannot open: /b: cannot read: why");
    }

    #[test]
    fn a_bad_sector_never_becomes_an_errno_that_readers_retry() {
        for style in [ErrnoStyle::Io, ErrnoStyle::Medium] {
            for error in [
                ReadError::Bad { sector: 1, good: 0, untried: false },
                ReadError::Corrupt { at: 0 },
                ReadError::Io { errno: nix::errno::Errno::EINTR as i32 },
                ReadError::Io { errno: nix::errno::Errno::EAGAIN as i32 },
            ] {
                let errno = error.errno(style);
                assert!(errno == EIO || errno == MEDIUM, "{error:?} became {errno}");
            }
        }
    }
}
