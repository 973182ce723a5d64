//! The image as FSKit passes it: a path, and permission to read the file.

use std::path::PathBuf;

use objc2::rc::Retained;
use objc2_foundation::NSURL;
use objc2_fs_kit::{FSPathURLResource, FSResource};

use crate::errno::{Errno, Refused};

/// Permission to read a path, which only the system can grant to a sandboxed extension. Released when dropped.
pub(super) struct Access {
    url: Retained<NSURL>,
    granted: bool,
}

// SAFETY: an NSURL is immutable, and reference counting is atomic as for every object.
unsafe impl Send for Access {}
// SAFETY: likewise; a shared reference never changes it.
unsafe impl Sync for Access {}

impl Access {
    /// Requests permission to read the file that `resource` names. Only paths are supported.
    pub(super) fn to(resource: Option<&FSResource>) -> Result<Access, Refused> {
        let Some(resource) = resource.and_then(|r| r.downcast_ref::<FSPathURLResource>()) else {
            let why = "not a file; give the path of an image, not a device or a URL".to_owned();
            return Err(Refused { errno: Errno::EINVAL, why: Some(why) });
        };
        // SAFETY: the resource is a valid object.
        Ok(Access::at(unsafe { resource.url() }))
    }

    /// Requests the same permission again.
    pub(super) fn again(&self) -> Access {
        Access::at(self.url.clone())
    }

    fn at(url: Retained<NSURL>) -> Access {
        // SAFETY: each granted access is released exactly once. If it is not granted, it may not be needed: opening the
        // file will show.
        let granted = unsafe { url.startAccessingSecurityScopedResource() };
        Access { url, granted }
    }

    /// Returns the path of the image.
    pub(super) fn path(&self) -> Result<PathBuf, Refused> {
        self.url.to_file_path().ok_or_else(|| Errno::EINVAL.into())
    }
}

impl Access {
    /// Releases the permission.
    pub(super) fn release(&mut self) {
        if std::mem::take(&mut self.granted) {
            // SAFETY: it was granted, and has not been released.
            unsafe { self.url.stopAccessingSecurityScopedResource() };
        }
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        self.release();
    }
}
