//! What can go wrong, as two types: [`Error`] for people and scripts, [`ReadError`] for readers of a disk.
//!
//! [`ReadError::errno`] is the only place where a failed read becomes an errno. Which exit code a [`Kind`] is, is for the
//! program to say.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::advice::Advice;

/// What kind of an error it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something failed that none of the other kinds describes better.
    Failed,
    /// What was asked for does not make sense.
    Usage,
    /// The image cannot be used: unknown, not supported, or damaged.
    BadImage,
    /// The work was done, but some of the disk's data is missing.
    DataMissing,
    /// Something is in use, or exists already.
    Busy,
    /// This system lacks something: a driver, a program, a permission.
    Unavailable,
    /// The user interrupted it.
    Interrupted,
}

/// An error as a person reads it: which file, what, why, and the way out.
#[derive(Debug)]
pub struct Error {
    /// The kind.
    pub kind: Kind,
    /// What went wrong, in lower case and without a full stop.
    pub what: String,
    /// The file or device that it is about.
    pub path: Option<PathBuf>,
    /// What can be done about it, in that order. Usually one piece of advice, or none.
    pub advice: Vec<Advice>,
    /// What caused it.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` that says `what`.
    pub fn new(kind: Kind, what: impl Into<String>) -> Error {
        Error { kind, what: what.into(), path: None, advice: Vec::new(), source: None }
    }

    /// An error of [`Kind::Failed`].
    pub fn failed(what: impl Into<String>) -> Error {
        Error::new(Kind::Failed, what)
    }

    /// An error of [`Kind::Usage`].
    pub fn usage(what: impl Into<String>) -> Error {
        Error::new(Kind::Usage, what)
    }

    /// An error of [`Kind::BadImage`].
    pub fn bad_image(what: impl Into<String>) -> Error {
        Error::new(Kind::BadImage, what)
    }

    /// An I/O error while doing `what` to `path`, with the way out where the system's error alone says it.
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

    /// The same error, about `path`, if it is not about another one already: who is nearest to an error knows best.
    pub fn at(mut self, path: &Path) -> Error {
        self.path.get_or_insert_with(|| path.to_owned());
        self
    }

    /// The same error with this advice, if it has none yet.
    pub fn hint(mut self, advice: impl Into<Advice>) -> Error {
        if self.advice.is_empty() {
            self.advice.push(advice.into());
        }
        self
    }

    /// The same error with this advice after what it has.
    pub fn then(mut self, advice: impl Into<Advice>) -> Error {
        self.advice.push(advice.into());
        self
    }

    /// The same error, caused by `source`.
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.source = Some(source.into());
        self
    }
}

/// Returns what to do about an error of the system that means the same wherever it comes up.
pub fn advice_for(e: &io::Error) -> Option<&'static str> {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("make room, or put the file on another file system")
        }
        io::ErrorKind::FileTooLarge => Some(
            "the file system or a limit ('ulimit -f') allows no larger file: use another one, or raise the limit",
        ),
        _ if matches!(e.raw_os_error(), Some(EMFILE | ENFILE)) => {
            Some("too few files may be open at once: raise the limit, 'ulimit -n 1024'")
        }
        _ => None,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}: {}", path.display(), self.what),
            None => f.write_str(&self.what),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|s| s as &(dyn std::error::Error + 'static))
    }
}

/// Something in an image file that does not add up: where, and what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {what}")]
pub struct Flaw {
    /// The offset in the file, in bytes.
    pub at: u64,
    /// What is wrong there.
    pub what: String,
}

impl Flaw {
    /// A flaw at byte `at` of the file.
    pub fn at(at: u64, what: impl Into<String>) -> Flaw {
        Flaw { at, what: what.into() }
    }
}

impl From<Flaw> for Error {
    fn from(flaw: Flaw) -> Error {
        Error::bad_image(flaw.to_string())
    }
}

/// Why a read of the disk did not give bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// A sector of the disk could not be read when the image was made.
    #[error("bad sector {sector}")]
    Bad {
        /// The first bad sector that the read touches, in logical sectors of the disk.
        sector: u64,
        /// How many bytes before it were read and are right.
        good: usize,
    },
    /// The image file is damaged: what lies at `at` is not what was written there.
    #[error("the image file is damaged at byte {at}")]
    Corrupt {
        /// The offset in the image's file, in bytes.
        at: u64,
    },
    /// The image should hold the disk's bytes at `offset`, but its index does not say where.
    #[error("the image is damaged: nothing tells where the disk's bytes at {offset} are")]
    Unmapped {
        /// The offset on the disk, in bytes.
        offset: u64,
    },
    /// The image file itself could not be read.
    #[error("the image file could not be read: {}", io::Error::from_raw_os_error(*errno))]
    Io {
        /// What the operating system said.
        errno: i32,
    },
    /// The read goes past the end of the disk.
    #[error("past the end of the disk")]
    PastEnd,
}

impl ReadError {
    /// The errno of a failed read. EINTR and EAGAIN never leave here: readers would try again for ever.
    pub fn errno(self, style: ErrnoStyle) -> i32 {
        match (self, style) {
            (ReadError::Bad { .. }, ErrnoStyle::Medium) => MEDIUM,
            (ReadError::PastEnd, _) => EINVAL,
            (_, _) => EIO,
        }
    }
}

impl From<io::Error> for ReadError {
    fn from(e: io::Error) -> ReadError {
        ReadError::Io { errno: e.raw_os_error().unwrap_or(EIO) }
    }
}

/// Which errno a bad sector is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ErrnoStyle {
    /// EIO, as every disk and every tool knows it.
    #[default]
    Io,
    /// ENODATA on Linux, which its block layer logs as "critical medium error", as of a failing disk.
    /// EIO elsewhere.
    Medium,
}

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
    fn a_bad_sector_never_becomes_an_errno_that_readers_retry() {
        for style in [ErrnoStyle::Io, ErrnoStyle::Medium] {
            for error in [
                ReadError::Bad { sector: 1, good: 0 },
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
