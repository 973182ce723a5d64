//! Imaging in the order of importance: what file systems need to list their files first, then what they use, then the rest.
//!
//! The image in the making is scanned. What a scan asks for and was not read yet is wanted: it is read next, and the image is
//! scanned again, until a scan asks for nothing more that can be read. So nothing has to be stored: a run that resumes finds
//! out again what is wanted.

mod ranges;
mod scan;
pub(super) mod stages;

use cdi_fs::pattern::Patterns;

/// What is read before other parts of the disk.
#[derive(Debug, Clone)]
pub enum First {
    /// What it takes to list the files: partition tables, boot sectors, tables of records, bitmaps, directories.
    Metadata,
    /// Everything that is not free.
    Used,
    /// The contents of files whose paths match.
    Files {
        /// What the user called them.
        name: String,
        /// Which files.
        patterns: Patterns,
    },
}

impl First {
    /// Returns the name of the stage, for people, events and JSON.
    pub fn name(&self) -> &str {
        match self {
            First::Metadata => "metadata",
            First::Used => "used",
            First::Files { name, .. } => name,
        }
    }
}

/// How many files are there, as far as a scan can say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileCount {
    /// Files that can be read completely.
    pub whole: u64,
    /// Files whose records can be read.
    pub known: u64,
    /// Records that are in use, or may be, and cannot be read, or not yet: each may be a file, a directory or a part of one.
    pub unreadable_records: u64,
}

/// In which order a disk is read.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// What is read first, in this order. The metadata always comes before the others. Empty: the disk is read in the order of
    /// its sectors.
    pub first: Vec<First>,
    /// Whether `first` applies only once the disk has shown an error or is slow, if there is a file system on it.
    pub in_trouble_only: bool,
    /// Whether everything else is left out: all but the metadata and what is in `first`.
    pub only: bool,
}

impl Order {
    /// Returns the order for a disk of which nothing is known: by its sectors, and, once it has shown an error or is slow,
    /// metadata and then what is used.
    pub fn automatic() -> Order {
        Order { first: vec![First::Metadata, First::Used], in_trouble_only: true, only: false }
    }
}
