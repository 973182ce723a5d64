//! Why a remote file cannot be read.

use std::fmt;
use std::io;

use cdi_base::printable::printable;
use object_store::client::{HttpError, HttpErrorKind};

use super::bounded::TooLong;
use super::connector::{Elsewhere, Refused};

/// Why a remote file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// There is no such file.
    Missing,
    /// It is not the file any more that was opened.
    Changed,
    /// The server does not give it to this user.
    Denied(&'static str),
    /// The server gives whole files only.
    NoRanges,
    /// There is no connection to the server: of which kind the system's error is, and what it says.
    Unreachable(io::ErrorKind, String),
    /// No answer within the time limit.
    TimedOut,
    /// The user has interrupted what needs the file.
    Interrupted,
    /// The server does not say what it knows of a file without the file.
    NoHead,
    /// The settings for the service are of no use.
    Settings(String),
    /// An answer that no other answer will mend.
    Wrong(String),
    /// Anything else.
    Failed(String),
}

/// The maximum length of a server's own words in messages, in characters.
const WORDS: usize = 200;

impl Fault {
    /// Returns what an error of the client is.
    pub(super) fn of(e: &object_store::Error) -> Fault {
        use object_store::Error;
        match e {
            other if find::<Refused>(other, |why| *why == Refused::Method) => Fault::NoHead,
            other if find::<Refused>(other, |why| *why == Refused::List("401 Unauthorized")) => {
                Fault::Denied("401 Unauthorized")
            }
            other if find::<Refused>(other, |_| true) => Fault::Denied("403 Forbidden"),
            other if find::<Elsewhere>(other, |_| true) => Fault::Wrong(cause(other)),
            Error::NotFound { .. } => Fault::Missing,
            Error::Precondition { .. } | Error::NotModified { .. } => Fault::Changed,
            Error::PermissionDenied { .. } => Fault::Denied("403 Forbidden"),
            Error::Unauthenticated { .. } => Fault::Denied("401 Unauthorized"),
            Error::NotSupported { .. } => Fault::NoRanges,
            other if find::<TooLong>(other, |_| true) => Fault::Wrong(cause(other)),
            other if is_connecting(other) => Fault::Unreachable(system_kind(other), cause(other)),
            other => Fault::Failed(cause(other)),
        }
    }

    /// Returns whether another try may succeed.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Fault::Failed(_) | Fault::Unreachable(..))
    }

    /// Returns whether the server may be out of reach: it gave nothing for as long as it was waited for.
    pub(super) fn is_outage(&self) -> bool {
        self.may_pass() || *self == Fault::TimedOut
    }

    /// Returns the errno for a read that fails by this.
    pub(super) fn errno(&self) -> i32 {
        use nix::errno::Errno;
        (match self {
            Fault::Changed | Fault::Missing => Errno::ESTALE,
            Fault::TimedOut => Errno::ETIMEDOUT,
            Fault::Denied(_) => Errno::EACCES,
            Fault::NoRanges
            | Fault::NoHead
            | Fault::Interrupted
            | Fault::Settings(_)
            | Fault::Wrong(_)
            | Fault::Unreachable(..)
            | Fault::Failed(_) => Errno::EIO,
        }) as i32
    }

    /// Returns it as an error of opening the file.
    pub(super) fn io(self) -> io::Error {
        let kind = match self {
            Fault::Missing => io::ErrorKind::NotFound,
            Fault::Denied(_) => io::ErrorKind::PermissionDenied,
            Fault::TimedOut => io::ErrorKind::TimedOut,
            Fault::Unreachable(kind, _) => kind,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, self.to_string())
    }
}

/// Returns whether it failed before there was a connection.
fn is_connecting(e: &object_store::Error) -> bool {
    find::<HttpError>(e, |e| e.kind() == HttpErrorKind::Connect)
}

/// Returns the kind of the system's error that is the cause, `Other` if there is none, or one that says something of files:
/// a name of a server that is not found is not a file that is not found.
fn system_kind(e: &object_store::Error) -> io::ErrorKind {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, Other, TimedOut};
    let mut kind = Other;
    // The innermost: libraries wrap errors in others of this type.
    find::<io::Error>(e, |e| {
        kind = e.kind();
        false
    });
    if matches!(kind, ConnectionRefused | HostUnreachable | NetworkUnreachable | TimedOut) {
        kind
    } else {
        Other
    }
}

/// Returns whether an error or one of its causes is of this type, and as wanted.
fn find<E: std::error::Error + 'static>(
    e: &object_store::Error,
    mut is_wanted: impl FnMut(&E) -> bool,
) -> bool {
    let mut next: Option<&dyn std::error::Error> = Some(e);
    while let Some(e) = next {
        if e.downcast_ref::<E>().is_some_and(&mut is_wanted) {
            return true;
        }
        next = e.source();
    }
    false
}

/// Returns the innermost cause of an error.
pub(super) fn innermost<'a>(
    mut e: &'a (dyn std::error::Error + 'static),
) -> &'a (dyn std::error::Error + 'static) {
    while let Some(source) = e.source() {
        e = source;
    }
    e
}

/// Returns what the innermost cause of an error says. The outer ones contain the address as it was requested, which may
/// have a token in it.
fn cause(e: &object_store::Error) -> String {
    let words: String = innermost(e).to_string().chars().take(WORDS).collect();
    let words = printable(&words).replace('\n', " ");
    // Only the client's own errors have no cause.
    let from = words.find("http").filter(|_| words.contains("://"));
    from.map_or(words.clone(), |from| words[..from].trim_end().to_owned())
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Missing => f.write_str("there is no such file (404 Not Found)"),
            Fault::Changed => f.write_str("it has changed since it was opened"),
            Fault::Denied(status) => write!(f, "access denied ({status})"),
            Fault::NoRanges => {
                f.write_str("the server gives whole files only, no ranges of bytes: download the file first")
            }
            Fault::NoHead => write!(f, "{}", Refused::Method),
            Fault::Interrupted => f.write_str("interrupted"),
            Fault::TimedOut => f.write_str("the server did not answer in time"),
            Fault::Settings(what)
            | Fault::Wrong(what)
            | Fault::Unreachable(_, what)
            | Fault::Failed(what) => f.write_str(what),
        }
    }
}
