//! The interface of a disk that is read while it is imaged.

use std::path::Path;
use std::sync::Arc;

use cdi_base::readable::Readable;

use super::Disk;
use super::stats::Stats;
use crate::badmap::BadBlocks;
use crate::metadata::Metadata;

/// A disk that is being imaged. A read of a place that was read is answered from the image; a read of one that was not tried
/// is a read of the disk, and its bytes go into the image. What failed is not tried again for a reader.
/// [`Readable::missing`] lists only that: what was not tried can be read.
pub trait Live: Readable {
    /// Returns everything that is not in the image now.
    fn bad(&self) -> BadBlocks;

    /// Returns the disk of the image, once the imaging has ended.
    fn finished(&self) -> Option<&Arc<Disk>>;

    /// Returns the path of the image.
    fn image(&self) -> &Path;

    /// Returns the metadata of the disk.
    fn metadata(&self) -> Metadata;

    /// Returns the read statistics so far.
    fn stats(&self) -> Stats;
}
