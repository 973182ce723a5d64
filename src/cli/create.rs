//! The options of verbs that write an image: `create`, `repair`, `compact`.

use std::path::PathBuf;
use std::time::Duration;

use cdi_base::units::parse_size;
use clap::Args;

use super::values::{
    CodecName, FirstName, HashName, SkipSize, chunk_size, duration, first, only, parity, passes, sector_size,
    skip_size,
};
use super::{OpenArgs, Overwrite};

/// The arguments of `create`.
#[derive(Debug, Args)]
pub struct Create {
    /// Disk to image, image to convert (see 'cdi formats'), or '-' for the bytes of a disk on stdin
    pub source: PathBuf,
    /// Image to create
    pub image: PathBuf,
    /// Overwrite an existing finished image; read a disk that is in use; resume even if the disk's size, model or
    /// serial number differs
    #[arg(short, long)]
    pub force: bool,
    /// Overwrite even an unfinished image of a disk: everything read from that disk is lost
    #[arg(long)]
    pub discard_unfinished: bool,
    /// How the source is opened.
    #[command(flatten)]
    pub open: OpenArgs,
    /// How the image is written.
    #[command(flatten)]
    pub write: WriteArgs,
    /// How a disk is read.
    #[command(flatten)]
    pub rescue: Rescue,
}

/// How an image is written.
#[derive(Debug, Args)]
#[command(next_help_heading = "Writing the image")]
pub struct WriteArgs {
    /// Compression of chunks
    #[arg(long, value_enum, default_value_t = CodecName::Zstd)]
    pub codec: CodecName,
    /// Compression level: 1-19 for zstd (default 2), 1-9 for deflate (default 6)
    #[arg(long)]
    pub level: Option<i32>,
    /// Chunk size: a power of two from 4k to 1M
    #[arg(long, value_name = "SIZE", default_value = "32k", value_parser = chunk_size)]
    pub chunk: u32,
    /// Physical sector size of the disk in bytes, if it differs from the logical one
    #[arg(long, value_name = "BYTES", value_parser = sector_size)]
    pub physical_sector_size: Option<u32>,
    /// Store the model of the disk
    #[arg(long)]
    pub model: Option<String>,
    /// Store the serial number of the disk
    #[arg(long)]
    pub serial: Option<String>,
    /// Store a note about the disk; may be repeated
    #[arg(long = "note", value_name = "TEXT")]
    pub notes: Vec<String>,
    /// Add parity of this size, in percent of the image, from which damage of the image can be restored (example: 5%)
    #[arg(long, value_name = "PERCENT", value_parser = parity)]
    pub parity: Option<u32>,
    /// Also compute, print and store these hashes of the disk, with zeros for unreadable sectors
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',')]
    pub hash: Vec<HashName>,
    /// Do not read the image again to compute hashes when the disk was not read in one pass
    #[arg(long, conflicts_with = "hash")]
    pub no_hash: bool,
    /// Make images of the same source byte for byte equal: no random identifiers, times from SOURCE_DATE_EPOCH or none
    #[arg(long)]
    pub reproducible: bool,
}

/// How a disk is read that may be failing.
#[derive(Debug, Clone, Args, Default, PartialEq)]
#[command(next_help_heading = "Reading a failing disk (any of these options also reads a file as a disk)")]
pub struct Rescue {
    /// Read a file like a failing disk: in several passes, into an image that can be resumed
    #[arg(long)]
    pub rescue: bool,
    /// Continue an unfinished image; start one if there is none
    #[arg(long)]
    pub resume: bool,
    /// Retry bad sectors N times (-1: until interrupted)
    #[arg(short, long, value_name = "N", default_value_t = 0, value_parser = passes, allow_negative_numbers = true)]
    pub retry_passes: i32,
    /// How much to skip after the first error, and at most (default: 1/100,000 and 1/100 of the disk)
    #[arg(short = 'K', long, value_name = "FIRST,MAX", value_parser = skip_size)]
    pub skip_size: Option<SkipSize>,
    /// Skip the trimming phase
    #[arg(short = 'N', long)]
    pub no_trim: bool,
    /// Read what was skipped after errors even where a head seems to have failed: expect millions of errors
    #[arg(long, conflicts_with = "no_sweep")]
    pub sweep: bool,
    /// Leave out what was skipped after errors
    #[arg(long)]
    pub no_sweep: bool,
    /// Skip the scraping phase
    #[arg(short = 'n', long)]
    pub no_scrape: bool,
    /// Read from the end of the disk to its start
    #[arg(short = 'R', long)]
    pub reverse: bool,
    /// Stop after more than N failed reads
    #[arg(short = 'X', long, value_name = "N")]
    pub max_read_errors: Option<u64>,
    /// Stop when no data could be read for this long (examples: 30s, 5m)
    #[arg(short = 'T', long, value_name = "INTERVAL", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// If the disk is gone, or not there yet, wait this long for it, under whatever name, and continue
    #[arg(long, value_name = "INTERVAL", value_parser = duration)]
    pub wait: Option<Duration>,
    /// Leave areas slower than this many bytes per second for later (default: a tenth of the average)
    #[arg(short = 'a', long, value_name = "SIZE", value_parser = parse_size)]
    pub min_read_rate: Option<u64>,
    /// Position on the disk to start at
    #[arg(short, long, value_name = "SIZE", value_parser = parse_size)]
    pub input_position: Option<u64>,
    /// Number of bytes of the disk to read
    #[arg(short, long, value_name = "SIZE", value_parser = parse_size)]
    pub size: Option<u64>,
    /// Read this first: 'metadata' of file systems, what is 'used', or the files that match a pattern; may be repeated
    ///
    /// A pattern without a slash is compared with each name in the path of a file, one with a slash with the path from the
    /// root of its file system; a directory stands for everything in it. The metadata is read first in any case. The
    /// default is metadata and then what is used, once the disk has shown an error or is slow.
    #[arg(long, value_name = "WHAT", value_parser = first, value_delimiter = ',')]
    pub first: Vec<FirstName>,
    /// Read only what is 'used', or the files that match a pattern, and the metadata; may be repeated
    ///
    /// Free space, or everything but those files, is left out. What is in --first is read before.
    #[arg(long, value_name = "WHAT", value_parser = only, value_delimiter = ',')]
    pub only: Vec<FirstName>,
    /// Read the disk in the order of its sectors, whatever happens
    #[arg(long, conflicts_with_all = ["first", "only"])]
    pub in_order: bool,
    /// Mount the disk at this directory while it is imaged, and the image after that (until 'cdi detach')
    ///
    /// What was read comes from the image; what was not tried is read at once, before the next read of the passes, and goes into
    /// the image.
    #[arg(long, value_name = "DIR")]
    pub mount: Option<PathBuf>,
    /// Attach the disk as a block device while it is imaged, and the image after that (until 'cdi detach')
    #[arg(long)]
    pub attach: bool,
    /// With --attach, let the kernel find the partitions
    #[arg(long, requires = "attach")]
    pub partscan: bool,
    /// Serve the disk over NBD on this socket or port while it is imaged, and the image until the last client disconnects
    #[arg(long, value_name = "SOCKET|PORT")]
    pub nbd: Option<PathBuf>,
    /// Show a page with the map as it grows: on this port of 127.0.0.1 (0: any), or in this file
    #[arg(long, value_name = "PORT|FILE.html")]
    pub watch: Option<PathBuf>,
    /// With --mount or --attach, also show the files inside the disk
    #[arg(long)]
    pub files: bool,
    /// With --mount or --attach, let other users read
    #[arg(long)]
    pub allow_other: bool,
    /// Restrict the rescue domain to the blocks marked finished in this ddrescue mapfile
    #[arg(short = 'm', long, value_name = "FILE")]
    pub domain_mapfile: Option<PathBuf>,
    /// Start with the statuses in this ddrescue mapfile: finished blocks are read, bad ones only retried
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    pub from_mapfile: Option<PathBuf>,
}

/// The arguments of `repair`.
#[derive(Debug, Args)]
pub struct Repair {
    /// Damaged image; it is not changed
    pub image: PathBuf,
    /// Image to create
    pub out: PathBuf,
    #[command(flatten)]
    pub over: Overwrite,
}

/// The arguments of `protect`.
#[derive(Debug, Args)]
pub struct Protect {
    /// Finished .cdimg image
    pub image: PathBuf,
    /// Size of the parity in percent of the image
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = parity)]
    pub parity: u32,
}

/// The arguments of `compact`.
#[derive(Debug, Args)]
pub struct Compact {
    /// Image to rewrite
    pub image: PathBuf,
    /// Image to create (default: replace IMAGE once the new one is complete)
    pub out: Option<PathBuf>,
    /// Overwrite an existing file
    #[arg(short, long, requires = "out")]
    pub force: bool,
    /// Overwrite even an unfinished image of a disk: everything read from that disk is lost
    #[arg(long, requires = "out")]
    pub discard_unfinished: bool,
}
