//! A range of the disk that is not simply good, its status, and why.

use std::ops::Range;

use serde::Serialize;

/// What is known about a range of the disk. Ordered from the least processed to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Status {
    /// Not tried yet.
    NonTried = 1,
    /// A read over it failed; its edges have not been looked for.
    NonTrimmed = 2,
    /// A read over it failed; its sectors have not been tried one by one.
    NonScraped = 3,
    /// Each of its sectors was tried by itself and failed.
    #[serde(rename = "bad-sector")]
    Bad = 4,
    /// There are bytes, but whoever made the image says that they may be wrong.
    Suspect = 5,
    /// Read, and right.
    Finished = 6,
}

impl Status {
    /// Every status that a map can list.
    pub const LISTED: [Status; 5] =
        [Status::NonTried, Status::NonTrimmed, Status::NonScraped, Status::Bad, Status::Suspect];

    /// The status with this number in a `.cdimg`.
    pub fn from_number(number: u8) -> Option<Status> {
        Status::LISTED.into_iter().chain([Status::Finished]).find(|s| *s as u8 == number)
    }

    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Status::NonTried => "non-tried",
            Status::NonTrimmed => "non-trimmed",
            Status::NonScraped => "non-scraped",
            Status::Bad => "bad-sector",
            Status::Suspect => "suspect",
            Status::Finished => "finished",
        }
    }

    /// Whether an image holds bytes for a range of this status.
    pub fn has_bytes(self) -> bool {
        matches!(self, Status::Suspect | Status::Finished)
    }
}

/// Why a range is bad, as far as it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The errno of the failed read.
    Errno(Errno),
    /// The SCSI sense data of the failed read.
    Sense {
        /// The sense key.
        key: u8,
        /// The additional sense code.
        asc: u8,
        /// Its qualifier.
        ascq: u8,
    },
}

impl Reason {
    /// The reason that `errno` is, by Linux's numbers.
    pub fn errno(errno: u32) -> Reason {
        Reason::Errno(Errno(errno))
    }
}

/// An errno, by Linux's numbers. It is compressed so that a [`BadRange`] is small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[repr(Rust, packed)]
pub struct Errno(u32);

impl Errno {
    /// Its number.
    pub fn get(self) -> u32 {
        self.0
    }
}

/// A range of the disk that is not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadRange {
    /// Its first byte.
    pub start: u64,
    /// The byte after its last.
    pub end: u64,
    /// Its status; never [`Status::Finished`].
    pub status: Status,
    /// Why, if that is known.
    pub reason: Option<Reason>,
    /// How often it was tried; 0 if that is not known.
    pub tries: u8,
}

// There may be millions of them.
const _: () = assert!(size_of::<BadRange>() == 24);

impl BadRange {
    /// A range of `status` of which nothing more is known.
    pub fn new(range: Range<u64>, status: Status) -> BadRange {
        BadRange { start: range.start, end: range.end, status, reason: None, tries: 0 }
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether it covers nothing.
    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }

    /// The part of it that is `range`.
    pub fn cut(self, range: Range<u64>) -> BadRange {
        BadRange { start: range.start, end: range.end, ..self }
    }

    /// Whether only its place tells it from another one.
    pub fn like(&self, other: &BadRange) -> bool {
        (self.status, self.reason, self.tries) == (other.status, other.reason, other.tries)
    }
}
