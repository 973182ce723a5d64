//! What an image records apart from the disk's data and its location.

use std::ops::Range;

use cdi_base::units::SECTOR;

use super::badmap::{BadBlocks, BadRange, Status};
use super::input::PackedFile;
use super::metadata::Metadata;
use super::stored_hashes::StoredHash;

/// What a format finds out when it opens an image. Most formats cannot record all of it.
#[derive(Clone)]
pub struct ImageDetails {
    /// Metadata about the disk and about how the image was made, including the sizes.
    pub metadata: Metadata,
    /// Warnings about this file for the user, although it could be opened.
    pub warnings: Vec<String>,
    /// The ranges of the disk that could not be read, or were not tried, when the image was made.
    pub bad: BadBlocks,
    /// The hashes of the disk that are stored in the image.
    pub stored_hashes: Vec<StoredHash>,
    /// Whether some of the image's files are missing or truncated. This does not mean that disk data is lost: the
    /// missing part may have held only a list of bad sectors.
    pub incomplete: bool,
    /// Ranges of the disk in bytes, in order, that were read when the image was made but are not in these files,
    /// because some of the files are missing or too short. `bad` includes them.
    pub lost: Vec<Range<u64>>,
    /// The packed files of which the image consists.
    pub packed: Vec<PackedFile>,
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
            packed: Vec::new(),
        }
    }
}

impl ImageDetails {
    /// Adds what could not be unpacked of a file, and what may be wrong of it. `to_disk` says where a range of its
    /// unpacked bytes is on the disk, in order; sectors of a disk of `size` bytes are bad as a whole.
    pub(crate) fn add_damage(
        &mut self,
        packed: &PackedFile,
        size: u64,
        to_disk: impl Fn(Range<u64>) -> Vec<Range<u64>>,
    ) {
        self.packed.push(packed.clone());
        self.warnings.extend(packed.warnings.iter().cloned());
        self.incomplete |= packed.cut || !packed.suspect.is_empty();
        let sector = u64::from(self.metadata.logical_sector_bytes.max(SECTOR));
        let rounded = |range: Range<u64>| {
            range.start / sector * sector..range.end.div_ceil(sector).saturating_mul(sector).min(size)
        };
        let on_disk = |ranges: &[Range<u64>]| {
            ranges.iter().cloned().flat_map(&to_disk).map(rounded).collect::<Vec<_>>()
        };
        for range in on_disk(&packed.suspect) {
            // What the map says that could not be read from the disk is no better for being suspect.
            let held: Vec<_> =
                self.bad.held(range).map(|held| BadRange::new(held, Status::Suspect)).collect();
            self.bad.apply(&held);
        }
        let lost = on_disk(&packed.lost);
        for range in &lost {
            self.bad.replace(range.clone(), &[BadRange::new(range.clone(), Status::Bad)]);
        }
        self.lost.extend(lost);
        self.lost.sort_by_key(|range| range.start);
    }
}
