//! Why an operation was refused: macOS's error numbers, wherever this is compiled, and words for the log.

use std::fmt;

use cdi_base::error::{Error, Kind};

/// An error number of macOS. (Linux has others for some of them, and the tests run there, too.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// Not allowed: what the sandbox says.
    pub const EPERM: Errno = Errno(1);
    /// There is no such thing.
    pub const ENOENT: Errno = Errno(2);
    /// Interrupted: to be tried again.
    pub const EINTR: Errno = Errno(4);
    /// It could not be read.
    pub const EIO: Errno = Errno(5);
    /// No permission.
    pub const EACCES: Errno = Errno(13);
    /// In use.
    pub const EBUSY: Errno = Errno(16);
    /// The device is gone.
    pub const ENODEV: Errno = Errno(19);
    /// A folder was needed.
    pub const ENOTDIR: Errno = Errno(20);
    /// A folder cannot be read as a file.
    pub const EISDIR: Errno = Errno(21);
    /// That makes no sense.
    pub const EINVAL: Errno = Errno(22);
    /// Nothing can be changed here.
    pub const EROFS: Errno = Errno(30);
    /// For now: to be tried again.
    pub const EAGAIN: Errno = Errno(35);
    /// This system cannot do it.
    pub const ENOTSUP: Errno = Errno(45);
    /// Not a file of the right kind: what `mount` says of a file that is no image.
    pub const EFTYPE: Errno = Errno(79);
    /// There is no such extended attribute.
    pub const ENOATTR: Errno = Errno(93);
}

/// A refusal: the number that the caller sees, and what the user should know besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The number.
    pub errno: Errno,
    /// What happened, if the number does not say it all.
    pub why: Option<String>,
}

impl Refused {
    /// Whether it was only for a lack of rights.
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

/// The number of an image that could not be opened: what the system said if it was the system, else by kind.
fn of(error: &Error) -> Errno {
    let system = error.source.as_ref().and_then(|s| s.downcast_ref::<std::io::Error>());
    match system.and_then(std::io::Error::raw_os_error).map(Errno) {
        // Whoever is told to try again might do so for ever.
        Some(Errno::EINTR | Errno::EAGAIN) => Errno::EIO,
        Some(errno) => errno,
        None => match error.kind {
            Kind::BadImage => Errno::EFTYPE,
            Kind::Usage => Errno::EINVAL,
            Kind::Busy => Errno::EBUSY,
            Kind::Unavailable => Errno::ENOTSUP,
            Kind::Failed | Kind::DataMissing | Kind::Interrupted => Errno::EIO,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;

    #[test]
    fn what_the_system_said_is_passed_on() {
        let error = Error::io("cannot be opened", Path::new("/a"), io::Error::from_raw_os_error(13));
        let refused = Refused::from(error);
        assert_eq!(refused.errno, Errno::EACCES);
        assert!(refused.is_for_rights() && !Refused::from(Errno::EIO).is_for_rights());
        let why = refused.why.unwrap();
        assert!(why.starts_with("/a: cannot be opened; "), "{why}");
    }

    #[test]
    fn nobody_is_told_to_try_again() {
        for number in [4, 35] {
            let error = Error::io("cannot be read", Path::new("/a"), io::Error::from_raw_os_error(number));
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
