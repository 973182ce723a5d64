//! A range of the disk that is not finished, its status, and the reason.

use std::ops::Range;

use serde::Serialize;

/// The status of a range of the disk. Ordered from the least processed to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Status {
    /// Not tried yet.
    NonTried = 1,
    /// A read of the range failed; its edges have not been trimmed.
    NonTrimmed = 2,
    /// A read of the range failed; its sectors have not been tried one by one.
    NonScraped = 3,
    /// Each of its sectors was tried individually and failed.
    #[serde(rename = "bad-sector")]
    Bad = 4,
    /// The image has bytes for it, but its maker marked them as possibly wrong.
    Suspect = 5,
    /// Read successfully.
    Finished = 6,
}

impl Status {
    /// All statuses that a map can list.
    pub const LISTED: [Status; 5] =
        [Status::NonTried, Status::NonTrimmed, Status::NonScraped, Status::Bad, Status::Suspect];

    /// Returns the status with this number in a `.cdimg`.
    pub fn from_number(number: u8) -> Option<Status> {
        Status::LISTED.into_iter().chain([Status::Finished]).find(|s| *s as u8 == number)
    }

    /// Returns the name, as used in JSON.
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

    /// Returns whether an image has bytes for a range of this status.
    pub fn has_bytes(self) -> bool {
        matches!(self, Status::Suspect | Status::Finished)
    }
}

/// Why a range is bad, as far as that is known.
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
        /// The additional sense code qualifier.
        ascq: u8,
    },
}

impl Reason {
    /// Returns the reason for `errno`, in Linux numbering.
    pub fn errno(errno: u32) -> Reason {
        Reason::Errno(Errno(errno))
    }
}

/// An errno, in Linux numbering. The struct is packed to keep [`BadRange`] small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[repr(Rust, packed)]
pub struct Errno(u32);

impl Errno {
    /// Returns the number.
    pub fn get(self) -> u32 {
        self.0
    }
}

/// A range of the disk that is not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadRange {
    /// The first byte.
    pub start: u64,
    /// The byte after the last one.
    pub end: u64,
    /// The status; never [`Status::Finished`].
    pub status: Status,
    /// The reason, if known.
    pub reason: Option<Reason>,
    /// The number of times it was tried; 0 if unknown.
    pub tries: u8,
}

// A map may have millions of them.
const _: () = assert!(size_of::<BadRange>() == 24);

impl BadRange {
    /// Returns a range with `status` and nothing else known.
    pub fn new(range: Range<u64>, status: Status) -> BadRange {
        BadRange { start: range.start, end: range.end, status, reason: None, tries: 0 }
    }

    /// Returns the length in bytes.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Returns whether the range covers nothing.
    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }

    /// Returns the part of it that covers `range`.
    pub fn cut(self, range: Range<u64>) -> BadRange {
        BadRange { start: range.start, end: range.end, ..self }
    }

    /// Returns whether it differs from another range only in position.
    pub fn like(&self, other: &BadRange) -> bool {
        (self.status, self.reason, self.tries) == (other.status, other.reason, other.tries)
    }
}
