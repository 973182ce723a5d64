//! What a way to show a tree to the system is.

use std::path::Path;
use std::sync::Arc;

use cdi_base::error::Error;

use crate::tree::Tree;

/// Where a tree is shown, and as what.
pub struct Place<'a> {
    /// The folder to mount at.
    pub dir: &'a Path,
    /// The image: what the system calls the source of the file system, where it is to be told.
    pub image: &'a Path,
}

/// A way to show a tree to the system, at a folder.
pub trait Transport {
    /// Its name, as `list` tells it and `--via` takes it.
    fn name(&self) -> &'static str;
    /// Whether this process serves the disk, so that how it reads is for its options to say.
    fn serves_itself(&self) -> bool {
        true
    }
    /// Shows `tree` at a place. Returns when it is up.
    fn serve(&self, tree: Arc<Tree>, place: &Place<'_>) -> Result<Box<dyn Serving>, Error>;
}

/// A tree that is being shown.
pub trait Serving: Send {
    /// Returns when it is no longer shown, whoever ended it.
    fn wait(self: Box<Self>) -> Result<(), Error>;
}
