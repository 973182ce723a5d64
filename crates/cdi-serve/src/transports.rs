//! The ways to show a tree to the system.

use cdi_base::error::{Error, Kind};

use crate::fskit;
#[cfg(feature = "fuse")]
use crate::fuse;
#[cfg(feature = "nfs")]
use crate::nfs;
use crate::transport::Transport;

/// The ways to show a tree that this build has, the system's own first.
const TRANSPORTS: &[&dyn Transport] = &[
    #[cfg(all(target_os = "linux", feature = "fuse"))]
    &fuse::Fuse,
    #[cfg(feature = "nfs")]
    &nfs::Nfs,
    &fskit::Fskit,
    #[cfg(all(target_os = "macos", feature = "fuse"))]
    &fuse::Fuse,
];

/// The way to show a tree that the user named, or the system's own: FUSE on Linux, NFS elsewhere.
pub fn transport(via: Option<&str>) -> Result<&'static dyn Transport, Error> {
    let found = TRANSPORTS.iter().find(|t| via.is_none_or(|via| via == t.name()));
    found.copied().ok_or_else(|| {
        let error = Error::new(Kind::Unavailable, "this build cannot mount that way");
        error.hint("FUSE on macOS needs macFUSE, and a build for it")
    })
}
