//! What an image tells beside where the disk's bytes are.

use std::ops::Range;

use super::badmap::BadBlocks;
use super::metadata::Metadata;
use super::stored_hashes::StoredHash;

/// What a format has found out at opening. Most formats have no place for some of it.
pub struct ImageDetails {
    /// What is known about the disk and about how the image was made. The sizes stand here.
    pub metadata: Metadata,
    /// What the user should know about this file, though it could be opened.
    pub warnings: Vec<String>,
    /// What could not be read of the disk when the image was made, and what was not tried.
    pub bad: BadBlocks,
    /// The hashes that the image holds of its disk.
    pub stored_hashes: Vec<StoredHash>,
    /// Whether some of the image's files are missing or cut off. Nothing of the disk need be lost: a list of its bad sectors
    /// may have been in them.
    pub incomplete: bool,
    /// Ranges of the disk in bytes, in order, that the image's maker read and these files do not hold, because some of
    /// them are missing or too short. `bad` has them, too.
    pub lost: Vec<Range<u64>>,
}

impl Default for ImageDetails {
    fn default() -> ImageDetails {
        ImageDetails {
            metadata: Metadata::default(),
            warnings: Vec::new(),
            bad: BadBlocks::none(),
            stored_hashes: Vec::new(),
            lost: Vec::new(),
            incomplete: false,
        }
    }
}
