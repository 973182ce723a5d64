//! The interface of the transports, which mount a tree.

use std::path::Path;
use std::sync::Arc;

use cdi_base::error::Error;

use crate::tree::Tree;

/// The mount point and the source of a mount.
pub struct Place<'a> {
    /// The directory to mount at.
    pub dir: &'a Path,
    /// The image, reported as the source of the file system where the system accepts one.
    pub image: &'a Path,
}

/// A way to mount a tree at a directory.
pub trait Transport {
    /// Returns its name, as in JSON output and options.
    fn name(&self) -> &'static str;
    /// Returns whether this process serves the disk, so that its read options apply.
    fn serves_itself(&self) -> bool {
        true
    }
    /// Mounts `tree` at a place. Returns when it is mounted.
    fn serve(&self, tree: Arc<Tree>, place: &Place<'_>) -> Result<Box<dyn Serving>, Error>;
}

/// A mounted tree.
pub trait Serving: Send {
    /// Waits until it is no longer mounted, whatever the reason.
    fn wait(self: Box<Self>) -> Result<(), Error>;
}
