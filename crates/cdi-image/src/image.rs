//! The interface between image formats and the rest of the program: a format says *where* the bytes of the disk are,
//! and nothing else.
//!
//! docs/ARCHITECTURE.md, "Adding a format", has the steps and an example. A format never reads disk data
//! for a caller and never decompresses; [`crate::disk`] does both, for all formats, in one loop.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use cdi_base::error::{Error, Flaw, ReadError};

use crate::badmap::BadBlocks;
use crate::details::ImageDetails;
use crate::extent::Extent;
use crate::indexes::Indexes;
use crate::input::{Input, RemoteCache};
use crate::metadata::Metadata;
use crate::passphrase::Passphrase;
use crate::stored_hashes::StoredHash;

/// The opened index of a disk image, which knows where the bytes of the disk are.
pub trait Image: Send + Sync {
    /// Returns the size of the disk in bytes. Never 0.
    fn size(&self) -> u64;

    /// Returns the run of disk bytes around `offset` (which must be less than [`Image::size`]) and where it comes from.
    fn map(&self, offset: u64) -> Result<Extent, ReadError>;

    /// Returns what was found out when the image was opened.
    fn details(&self) -> &ImageDetails;

    /// Returns the ranges of the disk that could not be read, or were not tried, when the image was made.
    fn bad(&self) -> &BadBlocks {
        &self.details().bad
    }

    /// Returns the metadata about the disk and about how the image was made.
    fn metadata(&self) -> &Metadata {
        &self.details().metadata
    }

    /// Returns warnings about this file for the user, although it could be opened.
    fn warnings(&self) -> &[String] {
        &self.details().warnings
    }

    /// Returns the hashes of the disk that are stored in the image, if the format has any.
    fn stored_hashes(&self) -> &[StoredHash] {
        &self.details().stored_hashes
    }

    /// Returns whether some of the image's files are missing or truncated, so that its data may be incomplete.
    fn is_incomplete(&self) -> bool {
        self.details().incomplete || !self.lost().is_empty()
    }

    /// Returns the ranges of the disk, in bytes and in order, that were read when the image was made but are not in the
    /// files present.
    fn lost(&self) -> &[Range<u64>] {
        &self.details().lost
    }

    /// Returns what a whole sector of 512 bytes contains if it could not be read when the image was made, for formats that
    /// record it in no other way. Such sectors are found when they are read, and are bad.
    fn mark(&self) -> Option<&[u8]> {
        None
    }

    /// Loads the parts of the index that readers will need, if the format caches them and did not load them at opening.
    /// Errors are ignored here; the readers get them.
    fn warm(&self) {}

    /// Passes the events that were logged while the image was made to `each`, in that order, as lines of JSON.
    /// `check_cancelled` is called often. Stops at the first error of either.
    fn events(&self, _each: &mut Each<'_>, _check_cancelled: &mut CheckCancelled<'_>) -> Result<(), Error> {
        Ok(())
    }

    /// Checks the log of events and the seal of the image, if the format has them. Reads no data of the disk.
    /// `check_cancelled` is called often; its error stops the check.
    fn seal(&self, _check_cancelled: &mut CheckCancelled<'_>) -> Result<SealCheck, Error> {
        Ok(SealCheck::default())
    }

    /// Reads every structure of the format that reading the disk does not touch, and reports inconsistencies: the place
    /// in the file, what is wrong, and what it affects. The caller checks the disk's data. `check_cancelled` is called
    /// often; its error stops the check.
    fn check(
        &self,
        _report: &mut dyn FnMut(Flaw, &str),
        _check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        Ok(())
    }
}

/// The result of checking the log and the seal of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SealCheck {
    /// The digest of all that the image says of its disk, in hex. Only of a sealed image without flaws.
    pub digest: Option<String>,
    /// Why there is no digest, if nothing is wrong. None for formats without a seal.
    pub no_digest: Option<&'static str>,
    /// The number of parts of the log that were not chained when they were written.
    pub unchained: u64,
    /// What is wrong in the log, or not as it was sealed, and what it affects.
    pub flaws: Vec<(Flaw, &'static str)>,
}

/// Receives a line of text; an error stops the sender.
pub type Each<'a> = dyn FnMut(&str) -> Result<(), Error> + 'a;

/// Returns an error if a long operation is to stop because the user interrupted it.
pub type CheckCancelled<'a> = dyn FnMut() -> Result<(), Error> + 'a;

/// An image format: how it is recognised and how it is opened.
pub struct Format {
    /// The name, as accepted by `--format`.
    pub name: &'static str,
    /// A one-line description.
    pub summary: &'static str,
    /// How the format protects the integrity of the data, for `info` and `formats`.
    pub integrity: &'static str,
    /// File name suffixes (without the dot) that identify this format in files that have no magic number.
    pub suffixes: &'static [&'static str],
    /// Checks whether a file is of this format, by its magic number alone.
    pub probe: fn(&Input) -> bool,
    /// Reads the index.
    pub open: Open,
}

/// Reads an image's index.
pub type Open = fn(Arc<Input>, &OpenOptions) -> Result<Box<dyn Image>, Error>;

/// Options that the user gives for opening an image.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// The format, if given.
    pub format: Option<String>,
    /// The map with the status of the blocks of a raw image.
    pub mapfile: Mapfile,
    /// A list of the bad blocks of a raw image, and the block size in bytes.
    pub badblocks: Option<(PathBuf, u64)>,
    /// The disk's logical sector size in bytes, for images that do not record it.
    pub sector_size: Option<u32>,
    /// Directories, apart from the image's own, in which the image's other files may be.
    pub allowed: Vec<PathBuf>,
    /// The internal snapshot to open in place of the disk as it is now, by its name or identifier.
    pub snapshot: Option<String>,
    /// The disk to open of an image that holds several, by its name.
    pub member: Option<String>,
    /// The passphrase of an encrypted image.
    pub passphrase: Option<Passphrase>,
    /// Where blocks of a remote image are kept. None: in memory only.
    pub remote_cache: Option<RemoteCache>,
    /// Where indexes of packed images are kept. None: they are not, and are made each time.
    pub indexes: Option<Arc<dyn Indexes>>,
}

/// Which map describes the blocks of a raw image: a ddrescue mapfile or an HDDSuperClone log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Mapfile {
    /// A map next to the image and named after it, if there is one.
    #[default]
    Adjacent,
    /// None, even if there is a map next to the image.
    None,
    /// The map at this path.
    File(PathBuf),
}

/// An opened image: its index, its files, and the detected format.
pub struct Opened {
    /// The index.
    pub image: Box<dyn Image>,
    /// The files.
    pub input: Arc<Input>,
    /// The format.
    pub format: &'static Format,
}
