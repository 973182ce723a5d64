//! Indexes of packed images: where a program keeps them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cdi_base::error::Error;

/// Returns the path of the index that is kept next to the packed file at `path`.
pub fn index_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".cdi-index");
    name.into()
}

/// Where indexes of packed images are kept.
pub trait Indexes: std::fmt::Debug + Send + Sync {
    /// Returns the index that was kept of the packed file at this path. Whether it is of its present contents is checked
    /// by the caller. An index next to the file is found without this.
    fn find(&self, packed: &Path) -> Option<File>;

    /// Creates the file for a new index of the packed file at this path. None: it cannot be kept.
    fn create(&self, packed: &Path) -> Result<Option<Box<dyn IndexFile>>, Error>;

    /// Returns whether an index that cannot be written is an error. Otherwise it is made again each time.
    fn must_keep(&self) -> bool {
        false
    }

    /// Is called while an index is made, with the number of bytes of the packed file that were read, and of all of them.
    /// An error ends it.
    fn progress(&self, packed: &Path, done: u64, total: u64) -> Result<(), Error>;
}

/// A file in which an index is being written.
pub trait IndexFile {
    /// Returns the file, which is empty, and can be read and written.
    fn file(&self) -> &File;

    /// Keeps the index, which is complete and took so long to make, for the packed file at this path. The file stays
    /// open.
    fn keep(self: Box<Self>, took: Duration, packed: &Path) -> Result<(), Error>;
}
