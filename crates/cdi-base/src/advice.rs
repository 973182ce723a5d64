//! What the user can do about an error. A library does not know the user interface: it gives the advice, and the
//! program that shows the error puts it in terms of its command line or its windows.

use std::fmt;
use std::path::PathBuf;

/// What to do about an error. [`Display`](fmt::Display) words it without naming any program or option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advice {
    /// Text that fits any user interface.
    Text(String),
    /// Specify which of these formats the image has.
    NameFormat(Vec<&'static str>),
    /// Choose one of the disks that the image holds, by its name.
    ChooseMember,
    /// List the supported formats, or specify that the image is raw.
    ListFormats,
    /// Allow reading files outside the image's own directory.
    AllowDirectory,
    /// Specify the block size that a list of bad blocks uses.
    BlockSize,
    /// Specify the disk's sector size.
    SectorSize,
    /// Give the passphrase of an encrypted image.
    Passphrase,
    /// Give another passphrase: this one is wrong.
    WrongPassphrase,
    /// Convert this raw file to an image with random access.
    Convert(PathBuf),
    /// Convert what this command writes to stdout to an image with random access.
    ConvertStream(String),
    /// Use this file as the mapfile of an image.
    IsMapfile,
    /// Salvage the rest of a damaged image into a new one.
    Repair,
    /// Rewrite the image without superseded records.
    Compact,
    /// Resume imaging.
    Resume(Saved),
    /// Resume the imaging of this unfinished image, with the program's command for that.
    Continue,
    /// Allow the existing file to be overwritten.
    Overwrite,
    /// Allow an unfinished image to be overwritten, which loses its data.
    DiscardUnfinished,
    /// Allow reading a disk that is in use.
    ReadInUse,
    /// Unmount the image.
    Unmount,
    /// Check this system for missing requirements.
    CheckSystem,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Advice::Text(text) => f.write_str(text),
            Advice::NameFormat(names) => write!(f, "specify the format: {}", names.join(" or ")),
            Advice::ChooseMember => f.write_str("choose one of them by its name"),
            Advice::ListFormats => f.write_str("if it is a raw image, specify the raw format"),
            Advice::AllowDirectory => f.write_str(
                "only regular files next to the image, or in a directory that was explicitly allowed, are read",
            ),
            Advice::BlockSize => {
                f.write_str("use the block size that badblocks was given (default: 1024)")
            }
            Advice::SectorSize => f.write_str("specify the sector size"),
            Advice::Passphrase => f.write_str("give the passphrase"),
            Advice::WrongPassphrase => f.write_str("give another passphrase"),
            Advice::Convert(raw) => write!(f, "convert {} to an image with random access", raw.display()),
            Advice::ConvertStream(command) => {
                write!(f, "convert what this writes to an image with random access: {command}")
            }
            Advice::IsMapfile => f.write_str("specify the image that this mapfile belongs to"),
            Advice::Repair => f.write_str("repair the image to salvage what is left"),
            Advice::Compact => f.write_str("compact the image to rewrite it"),
            Advice::Resume(saved) => write!(f, "{saved}; imaging can be resumed"),
            Advice::Continue => f.write_str("its imaging can be resumed"),
            Advice::Overwrite => f.write_str("allow overwriting to replace it"),
            Advice::DiscardUnfinished => f.write_str("overwriting it destroys the data it holds"),
            Advice::ReadInUse => f.write_str("it can be read anyway if that is explicitly allowed"),
            Advice::Unmount => f.write_str("unmount it first"),
            Advice::CheckSystem => f.write_str("check the system requirements"),
        }
    }
}

/// Where the data is that was read from a disk before the imaging stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Saved {
    /// All of it is in the image.
    All,
    /// What was written before is in the image. The last of it may be lost: writing failed, or the process was killed.
    Earlier,
    /// All of it is in this file, to which the image was moved or copied.
    In(PathBuf),
}

impl fmt::Display for Saved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Saved::All => f.write_str("everything read so far is saved"),
            Saved::Earlier => f.write_str("what was saved before is kept"),
            Saved::In(path) => write!(f, "everything read so far is in {}", path.display()),
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
