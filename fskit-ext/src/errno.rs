//! The reasons why an operation is refused: macOS's error numbers, on every system, and a text for the log.

use std::fmt;

use cdi_base::error::{Error, Kind};

/// An error number of macOS. (Some differ on Linux, where the tests also run.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// Operation not permitted, as reported by the sandbox.
    pub const EPERM: Errno = Errno(1);
    /// No such file or directory.
    pub const ENOENT: Errno = Errno(2);
    /// Interrupted; the caller should try again.
    pub const EINTR: Errno = Errno(4);
    /// Input/output error.
    pub const EIO: Errno = Errno(5);
    /// Permission denied.
    pub const EACCES: Errno = Errno(13);
    /// Resource busy.
    pub const EBUSY: Errno = Errno(16);
    /// No such device: the volume is deactivated.
    pub const ENODEV: Errno = Errno(19);
    /// Not a directory.
    pub const ENOTDIR: Errno = Errno(20);
    /// Is a directory, and cannot be read as a file.
    pub const EISDIR: Errno = Errno(21);
    /// Invalid argument.
    pub const EINVAL: Errno = Errno(22);
    /// Read-only file system.
    pub const EROFS: Errno = Errno(30);
    /// Temporarily unavailable; the caller should try again.
    pub const EAGAIN: Errno = Errno(35);
    /// Not supported on this system.
    pub const ENOTSUP: Errno = Errno(45);
    /// Inappropriate file type: `mount` reports it for a file that is not an image.
    pub const EFTYPE: Errno = Errno(79);
    /// No such extended attribute.
    pub const ENOATTR: Errno = Errno(93);
}

/// A refusal: the error number for the caller, and a text for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The error number.
    pub errno: Errno,
    /// The reason, if the number alone does not explain it.
    pub why: Option<String>,
}

impl Refused {
    /// Returns whether the reason is a lack of permission.
    pub fn is_for_rights(&self) -> bool {
        matches!(self.errno, Errno::EPERM | Errno::EACCES)
    }
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Refused {
        Refused { errno, why: None }
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        let mut why = error.to_string();
        for part in
            [error.source.as_ref().map(ToString::to_string), error.advice.first().map(ToString::to_string)]
                .into_iter()
                .flatten()
        {
            why = format!("{why}; {part}");
        }
        Refused { errno: of(&error), why: Some(why) }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Some(why) => write!(f, "{why} (error {})", self.errno.0),
            None => write!(f, "error {}", self.errno.0),
        }
    }
}

/// Returns the error number of an image that could not be opened: the system's, if it was a system error, otherwise by
/// kind.
fn of(error: &Error) -> Errno {
    let system = error.source.as_ref().and_then(|s| s.downcast_ref::<std::io::Error>());
    match system.and_then(std::io::Error::raw_os_error).map(Errno) {
        // A caller that gets these might try again forever.
        Some(Errno::EINTR | Errno::EAGAIN) => Errno::EIO,
        Some(errno) => errno,
        None => match error.kind {
            Kind::BadImage => Errno::EFTYPE,
            Kind::Usage => Errno::EINVAL,
            Kind::Busy => Errno::EBUSY,
            Kind::Unavailable => Errno::ENOTSUP,
            Kind::Failed | Kind::DataMissing | Kind::Gone | Kind::PowerCycle | Kind::Interrupted => {
                Errno::EIO
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_error_of_the_system_is_passed_on() {
        let error = Error::io("cannot open", Path::new("/a"), io::Error::from_raw_os_error(13));
        let refused = Refused::from(error);
        assert_eq!(refused.errno, Errno::EACCES);
        assert!(refused.is_for_rights() && !Refused::from(Errno::EIO).is_for_rights());
        let why = refused.why.unwrap();
        assert!(why.starts_with("/a: cannot open; "), "{why}");
    }

    #[test]
    fn errors_that_ask_to_try_again_become_eio() {
        for number in [4, 35] {
            let error = Error::io("cannot read", Path::new("/a"), io::Error::from_raw_os_error(number));
            assert_eq!(of(&error), Errno::EIO);
        }
    }

    #[test]
    fn every_kind_has_a_number() {
        for (kind, errno) in [
            (Kind::BadImage, Errno::EFTYPE),
            (Kind::Usage, Errno::EINVAL),
            (Kind::Busy, Errno::EBUSY),
            (Kind::Unavailable, Errno::ENOTSUP),
            (Kind::Failed, Errno::EIO),
            (Kind::DataMissing, Errno::EIO),
            (Kind::Interrupted, Errno::EIO),
        ] {
            assert_eq!(of(&Error::new(kind, "x")), errno);
        }
        let refused = Refused::from(Error::bad_image("is not").hint("try"));
        assert_eq!(refused.to_string(), "is not; try (error 79)");
    }
}
