//! The list of transports.

use cdi_base::error::{Error, Kind};

use crate::fskit;
#[cfg(feature = "fuse")]
use crate::fuse;
#[cfg(feature = "nfs")]
use crate::nfs;
use crate::transport::Transport;

/// The transports of this build, the system's default first.
const TRANSPORTS: &[&dyn Transport] = &[
    #[cfg(all(target_os = "linux", feature = "fuse"))]
    &fuse::Fuse,
    #[cfg(feature = "nfs")]
    &nfs::Nfs,
    &fskit::Fskit,
    #[cfg(all(target_os = "macos", feature = "fuse"))]
    &fuse::Fuse,
];

/// Returns the transport that the user named, or the default: FUSE on Linux, NFS elsewhere. [`Kind::Unavailable`] if
/// this build does not have it.
pub fn transport(via: Option<&str>) -> Result<&'static dyn Transport, Error> {
    let found = TRANSPORTS.iter().find(|t| via.is_none_or(|via| via == t.name()));
    found.copied().ok_or_else(|| {
        let error = Error::new(Kind::Unavailable, "this way of mounting is not supported by this build");
        error.hint("FUSE on macOS needs macFUSE, and a build that supports it")
    })
}
