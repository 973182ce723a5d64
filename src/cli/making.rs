//! The words for making images: `create`, `repair`, `compact`.

use std::path::PathBuf;

use cdi_base::units::parse_size;
use clap::Args;

use super::values::{CodecName, chunk_size, sector_size};
use super::{HowToOpen, Over};

/// How an image is made.
#[derive(Debug, Args)]
pub struct Create {
    /// What to make the image of: a disk, which may be failing, a raw image, or any image that 'cdi formats' lists; '-': the
    /// bytes of a disk from stdin
    pub source: PathBuf,
    /// The image to make
    pub image: PathBuf,
    /// How it is to be opened
    #[command(flatten)]
    pub how: HowToOpen,
    /// How chunks are compressed
    #[arg(long, value_enum, default_value_t = CodecName::Zstd)]
    pub codec: CodecName,
    /// How hard: 1 to 19 for zstd (default 3), 1 to 9 for deflate (default 6)
    #[arg(long)]
    pub level: Option<i32>,
    /// The size of a chunk: a power of two from 4k to 1M
    #[arg(long, value_name = "SIZE", default_value = "32k", value_parser = chunk_size)]
    pub chunk: u32,
    /// The physical sector size of the disk in bytes, if it is not the logical one
    #[arg(long, value_name = "BYTES", value_parser = sector_size)]
    pub physical_sector_size: Option<u32>,
    /// The disk's model
    #[arg(long)]
    pub model: Option<String>,
    /// The disk's serial number
    #[arg(long)]
    pub serial: Option<String>,
    /// Anything worth knowing about the disk; may be given several times
    #[arg(long = "note", value_name = "TEXT")]
    pub notes: Vec<String>,
    /// Write over an image that is there already, unless it is not finished; read a disk that is in use; resume though the
    /// disk's size, model or serial number is another
    #[arg(long)]
    pub force: bool,
    /// Write even over an image of a disk that is not finished, and throw away what was read of that disk
    #[arg(long)]
    pub discard_unfinished: bool,
    /// How a disk is read
    #[command(flatten)]
    pub rescue: Rescue,
}

/// How a disk is read that may be failing.
#[derive(Debug, Clone, Args, Default, PartialEq)]
#[command(next_help_heading = "Reading a disk (a file, too, with any of these)")]
pub struct Rescue {
    /// Read a file as a disk is read, pass by pass, into an image that can be gone on with
    #[arg(long)]
    pub rescue: bool,
    /// Go on with the image: read what it does not have yet
    #[arg(short, long)]
    pub resume: bool,
    /// Try bad sectors so many times again (-1: for ever)
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub retries: i32,
    /// Leave the edges of what failed as they are
    #[arg(long)]
    pub no_trim: bool,
    /// Leave what failed as it is, once its edges are found
    #[arg(long)]
    pub no_scrape: bool,
    /// Begin at the end of the disk
    #[arg(long)]
    pub reverse: bool,
    /// Stop after more than so many failed reads
    #[arg(long, value_name = "N")]
    pub max_errors: Option<u64>,
    /// Stop when nothing could be read for so long
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// Leave areas for later that give less than so many bytes a second; by default less than a tenth of the average
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub min_rate: Option<u64>,
    /// Begin here on the disk
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub input_position: Option<u64>,
    /// Read so much of the disk
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub size: Option<u64>,
    /// Read only what this ddrescue mapfile calls finished
    #[arg(long, value_name = "MAPFILE")]
    pub domain: Option<PathBuf>,
    /// Begin with what this ddrescue mapfile knows of the disk: what it calls finished is read, what it calls bad is
    /// only retried
    #[arg(long, value_name = "MAPFILE", conflicts_with = "resume")]
    pub from_mapfile: Option<PathBuf>,
    /// Make no hashes where the image would have to be read for them
    #[arg(long)]
    pub no_hash: bool,
}

/// What is to be made sound.
#[derive(Debug, Args)]
pub struct Repair {
    /// The image; it is not changed
    pub image: PathBuf,
    /// The image to make of it
    pub out: PathBuf,
    /// What may be written over
    #[command(flatten)]
    pub over: Over,
}

/// What is to be made smaller.
#[derive(Debug, Args)]
pub struct Compact {
    /// The image
    pub image: PathBuf,
    /// The image to make of it; by default it takes the place of the old one when it is whole
    pub out: Option<PathBuf>,
    /// Write over a file that is there already
    #[arg(long, requires = "out")]
    pub force: bool,
    /// Write even over an image of a disk that is not finished, and throw away what was read of that disk
    #[arg(long, requires = "out")]
    pub discard_unfinished: bool,
}
