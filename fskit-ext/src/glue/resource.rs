//! The image as FSKit hands it over: a path, and the right to read what is there.

use std::path::PathBuf;

use objc2::rc::Retained;
use objc2_foundation::NSURL;
use objc2_fs_kit::{FSPathURLResource, FSResource};

use crate::errno::{Errno, Refused};

/// The right to read at a path, which an extension has in its sandbox from the system alone. Given back when dropped.
pub(super) struct Access {
    url: Retained<NSURL>,
    granted: bool,
}

// SAFETY: an NSURL never changes, and counting its owners is atomic as for every object.
unsafe impl Send for Access {}
// SAFETY: likewise; nothing here but `drop` does anything to it.
unsafe impl Sync for Access {}

impl Access {
    /// The right to read what `resource` names. Only paths are understood.
    pub(super) fn to(resource: Option<&FSResource>) -> Result<Access, Refused> {
        let Some(resource) = resource.and_then(|r| r.downcast_ref::<FSPathURLResource>()) else {
            let why = "cdi mounts a file: name an image, not a device or an address".to_owned();
            return Err(Refused { errno: Errno::EINVAL, why: Some(why) });
        };
        // SAFETY: the resource is a whole one.
        Ok(Access::at(unsafe { resource.url() }))
    }

    /// The same right once more.
    pub(super) fn again(&self) -> Access {
        Access::at(self.url.clone())
    }

    fn at(url: Retained<NSURL>) -> Access {
        // SAFETY: each granted access is given back once, by `drop`. One that is not granted may not be needed: opening
        // the file will tell.
        let granted = unsafe { url.startAccessingSecurityScopedResource() };
        Access { url, granted }
    }

    /// Where the image is.
    pub(super) fn path(&self) -> Result<PathBuf, Refused> {
        self.url.to_file_path().ok_or_else(|| Errno::EINVAL.into())
    }
}

impl Access {
    /// Gives the right back.
    pub(super) fn give_back(&mut self) {
        if std::mem::take(&mut self.granted) {
            // SAFETY: it was granted, and has not been given back.
            unsafe { self.url.stopAccessingSecurityScopedResource() };
        }
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        self.give_back();
    }
}
