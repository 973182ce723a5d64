//! Faults of the servers that an image's files are on. They say nothing about the image: a sector that a server does not
//! give is not a bad one, and a segment that it does not find for now is not a missing one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use cdi_base::error::{Error, Kind};

use super::Input;
#[cfg(feature = "remote")]
use super::remote;
use super::siblings::Parts;

/// Where servers give files that are there and files that are not the same answer.
const LIST_RIGHT: &str =
    "get the right to list the files there, so that missing files are not mistaken for denied ones";

/// From now on, all reads of remote files end once `flag` is set, so that what waits for a server can be interrupted.
pub fn end_reads_when(flag: &Arc<AtomicBool>) {
    #[cfg(feature = "remote")]
    remote::end_reads_when(flag);
    let _ = flag;
}

/// Takes back [`end_reads_when`].
pub fn forget_flag(flag: &Arc<AtomicBool>) {
    #[cfg(feature = "remote")]
    remote::forget(flag);
    let _ = flag;
}

/// While it exists, every read of an image's remote files is required to succeed: after the first that fails, all others
/// fail at once.
pub struct Required(Arc<Parts>);

impl Required {
    /// Returns an error if a remote file could not be read or looked for since then, because of its server and not of the
    /// image.
    pub fn check(&self) -> Result<(), Error> {
        self.0.fault().map_or(Ok(()), Err)
    }
}

impl Drop for Required {
    fn drop(&mut self) {
        self.0.places().for_each(|place| place.require(false));
    }
}

impl Input {
    /// Requires every read of remote files to succeed, for work that needs all of an image.
    pub fn require_all(&self) -> Required {
        self.parts.places().for_each(|place| place.require(true));
        Required(Arc::clone(&self.parts))
    }

    /// Returns whether the file `name`, which was not found next to the image, may be there all the same, because access
    /// to it was denied.
    pub fn is_denied(&self, name: &Path) -> bool {
        self.parts.is_denied(name)
    }

    /// Returns an error if the file `name`, which was not found next to the image, may be there all the same.
    pub(crate) fn refuse_denied(&self, name: &Path) -> Result<(), Error> {
        if !self.is_denied(name) {
            return Ok(());
        }
        let what = format!("access to '{}' is denied: it may be a part of the image", name.display());
        Err(Error::failed(what).at(self.path()).hint(LIST_RIGHT))
    }

    /// Returns what decides at the end whether the image was opened.
    pub(crate) fn opening(&self) -> Opening {
        Opening(Arc::clone(&self.parts))
    }
}

impl Parts {
    fn fault(&self) -> Option<Error> {
        self.places().find_map(|place| place.fault())
    }
}

/// An image that is being opened.
pub(crate) struct Opening(Arc<Parts>);

impl Opening {
    /// Ends it: with the fault of a server, whatever a format has made of that. `is_whole` says whether all files that the
    /// image is known to consist of were found.
    pub(crate) fn end<T>(
        self,
        opened: Result<T, Error>,
        is_whole: impl FnOnce(&T) -> bool,
    ) -> Result<T, Error> {
        if let Some(fault) = self.0.fault() {
            return Err(fault);
        }
        self.0.places().for_each(|place| place.opened());
        let may_miss = match &opened {
            Ok(opened) => !is_whole(opened),
            Err(e) => e.kind == Kind::BadImage,
        };
        match self.0.denied().filter(|_| may_miss) {
            Some(url) => {
                let what = "access denied, or there is no such file: it may be a part of the image";
                let error = Error::failed(what).at(&url).hint(LIST_RIGHT);
                Err(match opened {
                    Ok(_) => error,
                    Err(e) => error.because(e),
                })
            }
            None => opened,
        }
    }
}
