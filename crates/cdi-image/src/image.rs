//! What a disk image is to everybody else: a format says *where* the bytes of the disk are, and nothing else.
//!
//! A format is one file with a `pub const FORMAT` and one line in [`crate::open::FORMATS`]. It never reads for a caller
//! and never decompresses; [`crate::disk`] does both, for all formats, in one loop.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use cdi_base::error::{Error, Flaw, ReadError};

use crate::badmap::BadBlocks;
use crate::details::ImageDetails;
use crate::extent::Extent;
use crate::input::Input;
use crate::metadata::Metadata;
use crate::stored_hashes::StoredHash;

/// A disk image's index, opened. It knows where the bytes of the disk are.
pub trait Image: Send + Sync {
    /// The size of the disk in bytes. Never 0.
    fn size(&self) -> u64;

    /// The run of disk bytes around `offset` (which must be less than [`Image::size`]) and where it comes from.
    fn map(&self, offset: u64) -> Result<Extent, ReadError>;

    /// What was found out at opening.
    fn details(&self) -> &ImageDetails;

    /// What could not be read of the disk when the image was made, and what was not tried.
    fn bad(&self) -> &BadBlocks {
        &self.details().bad
    }

    /// What is known about the disk and about how the image was made.
    fn metadata(&self) -> &Metadata {
        &self.details().metadata
    }

    /// What the user should know about this file, though it could be opened.
    fn warnings(&self) -> &[String] {
        &self.details().warnings
    }

    /// The hashes that the image holds of its disk, as far as the format has any.
    fn stored_hashes(&self) -> &[StoredHash] {
        &self.details().stored_hashes
    }

    /// Whether some of its files are missing or cut off: what it says of the disk may not be all.
    fn is_incomplete(&self) -> bool {
        self.details().incomplete || !self.lost().is_empty()
    }

    /// What its maker had read of the disk, and the files that are here do not hold: ranges in bytes, in order.
    fn lost(&self) -> &[Range<u64>] {
        &self.details().lost
    }

    /// Reads what of its index readers will want, if it keeps that and has not read it at opening. Errors are left to
    /// them.
    fn warm(&self) {}

    /// Gives what happened while the image was made, in that order: lines of JSON. `check_cancelled` is called often. An error of
    /// either ends it.
    fn events(&self, _each: &mut Each<'_>, _check_cancelled: &mut CheckCancelled<'_>) -> Result<(), Error> {
        Ok(())
    }

    /// Reads every structure of the format that reading the disk does not touch, and reports what does not add
    /// up: (where in the file, what is wrong, what it costs). The disk's data is checked by the caller. `check_cancelled` is called
    /// often, and its error ends it.
    fn check(
        &self,
        _report: &mut dyn FnMut(Flaw, &str),
        _check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        Ok(())
    }
}

/// Takes a line of text, or ends what gives it with an error.
pub type Each<'a> = dyn FnMut(&str) -> Result<(), Error> + 'a;

/// An error when a long work is to end, because the user interrupts it.
pub type CheckCancelled<'a> = dyn FnMut() -> Result<(), Error> + 'a;

/// A format: how it is recognised and how it is opened.
pub struct Format {
    /// Its name, as `--format` takes it.
    pub name: &'static str,
    /// What it is, in a line.
    pub summary: &'static str,
    /// Which integrity it offers, for `info` and `formats`.
    pub integrity: &'static str,
    /// Suffixes (without the dot) that say a file without a magic is this format.
    pub suffixes: &'static [&'static str],
    /// Whether a file is this format, by its magic alone.
    pub probe: fn(&Input) -> bool,
    /// Reads the index.
    pub open: Open,
}

/// Reads an image's index.
pub type Open = fn(Arc<Input>, &OpenOptions) -> Result<Box<dyn Image>, Error>;

/// What the user says about an image that he opens.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// The format, if he says so.
    pub format: Option<String>,
    /// The map that says which blocks of a raw image are what.
    pub mapfile: Mapfile,
    /// A list that says which blocks of a raw image are bad, and how long a block is, in bytes.
    pub badblocks: Option<(PathBuf, u64)>,
    /// The disk's logical sector size in bytes, where the image does not say.
    pub sector_size: Option<u32>,
    /// Folders besides the image's own in which its other files may lie.
    pub allowed: Vec<PathBuf>,
}

/// Which map says what the blocks of a raw image are: ddrescue's mapfile, or HDDSuperClone's log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Mapfile {
    /// One that lies next to the image and is called after it, if there is one.
    #[default]
    Adjacent,
    /// None, whatever lies next to it.
    None,
    /// This one.
    File(PathBuf),
}

/// An image, opened: its index, its files, and the format it turned out to be.
pub struct Opened {
    /// The index.
    pub image: Box<dyn Image>,
    /// The files.
    pub input: Arc<Input>,
    /// The format.
    pub format: &'static Format,
}
