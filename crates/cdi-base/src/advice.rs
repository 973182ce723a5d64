//! What can be done about an error. A library does not know how its user is asked: it names the remedy, and who shows the
//! error says it in the words of a command line, or of a window.

use std::fmt;
use std::path::PathBuf;

/// What can be done about an error. [`Display`](fmt::Display) says it for a reader who knows neither program nor options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advice {
    /// Words that mean the same everywhere.
    Text(String),
    /// Say which of these formats the image is.
    NameFormat(Vec<&'static str>),
    /// Look which formats there are, or say that the image is raw.
    ListFormats,
    /// Allow files of another directory than the image's own to be read.
    AllowDirectory,
    /// Say how long the blocks are that a list of bad blocks counts.
    BlockSize,
    /// Say how long the disk's sectors are.
    SectorSize,
    /// Make an image with random access of this raw file.
    Convert(PathBuf),
    /// Use this file as the map of an image.
    IsMapfile,
    /// Save what is left of a damaged image, in a new one.
    Repair,
    /// Write the image again without what was superseded.
    Compact,
    /// Continue imaging: what was read is in the image, or in the file that is named.
    Resume(Option<PathBuf>),
    /// Allow the file that is there to be overwritten.
    Overwrite,
    /// Allow an image that is not finished to be overwritten, and lost.
    DiscardUnfinished,
    /// Allow a disk to be read that is in use.
    ReadInUse,
    /// Check what this system lacks.
    CheckSystem,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Advice::Text(text) => f.write_str(text),
            Advice::NameFormat(names) => write!(f, "name the format: {}", names.join(" or ")),
            Advice::ListFormats => f.write_str("if it is a raw image, name that format"),
            Advice::AllowDirectory => f.write_str(
                "only plain files next to the image are read, and in directories that are allowed",
            ),
            Advice::BlockSize => {
                f.write_str("the block size is the one that badblocks was given, 1024 by default")
            }
            Advice::SectorSize => f.write_str("name the sector size"),
            Advice::Convert(raw) => write!(f, "make an image with random access of {}", raw.display()),
            Advice::IsMapfile => f.write_str("name the image that it is the map of"),
            Advice::Repair => f.write_str("repairing it salvages what is left"),
            Advice::Compact => f.write_str("compacting it makes it new"),
            Advice::Resume(None) => f.write_str("everything read so far is saved; imaging can be resumed"),
            Advice::Resume(Some(path)) => {
                write!(f, "everything read so far is in {}; imaging can be resumed", path.display())
            }
            Advice::Overwrite => f.write_str("it can be overwritten if that is allowed"),
            Advice::DiscardUnfinished => f.write_str("it is lost if it is overwritten"),
            Advice::ReadInUse => f.write_str("it can be read all the same if that is allowed"),
            Advice::CheckSystem => f.write_str("check what this system lacks"),
        }
    }
}

impl From<String> for Advice {
    fn from(text: String) -> Advice {
        Advice::Text(text)
    }
}

impl From<&str> for Advice {
    fn from(text: &str) -> Advice {
        Advice::Text(text.to_owned())
    }
}
