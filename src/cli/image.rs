//! The options of verbs that read an image: `info`, `map`, `verify`, `extract`.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use cdi_base::units::parse_size;
use cdi_base::workers::lock;
use cdi_capture::guard;
use cdi_image::image::Mapfile;
use cdi_image::input::RemoteCache;
use cdi_image::passphrase::Passphrase;
use clap::Args;

use super::values::{Bad, HashName, list_block_size, remote_cache, sector_size};

/// An image that is read.
#[derive(Debug, Clone, Args)]
pub struct Image {
    /// The image: a file, or an address (https:, s3:, gs:, az:)
    pub image: PathBuf,
    /// How it is opened.
    #[command(flatten)]
    pub open: OpenArgs,
}

/// How an image is opened.
#[derive(Debug, Clone, Args, Default)]
#[command(next_help_heading = "Opening the image")]
pub struct OpenArgs {
    /// Image format, if it cannot be detected (see 'cdi formats')
    #[arg(long, value_name = "NAME")]
    pub format: Option<String>,
    /// ddrescue mapfile or HDDSuperClone log of a raw image; 'none' to use none
    ///
    /// By default a mapfile next to the image is used if it is named after it: for disk.raw that is disk.map,
    /// disk.mapfile, disk.log or disk.raw.map.
    #[arg(long, value_name = "FILE")]
    pub mapfile: Option<PathBuf>,
    /// List of bad blocks of a raw image, as badblocks(8) writes it
    #[arg(long, value_name = "FILE", requires = "block_size", conflicts_with = "mapfile")]
    pub badblocks: Option<PathBuf>,
    /// Block size of that list in bytes, required with it: what badblocks was given with -b (its default: 1024)
    #[arg(long, value_name = "BYTES", requires = "badblocks", value_parser = list_block_size)]
    pub block_size: Option<u64>,
    /// Logical sector size of the disk in bytes, if the image does not record it
    #[arg(long, value_name = "BYTES", value_parser = sector_size)]
    pub sector_size: Option<u32>,
    /// Also look for parents and extents of the image in this directory; may be repeated
    #[arg(long, value_name = "DIR")]
    pub allow_parent: Vec<PathBuf>,
    /// Keep what is fetched of an image at https:, s3:, gs: or az: in this directory, up to this size
    #[arg(long, value_name = "DIR,SIZE", value_parser = remote_cache)]
    pub remote_cache: Option<RemoteCache>,
    /// Open this internal snapshot instead of the current state of the disk (see 'cdi info')
    #[arg(long, value_name = "NAME")]
    pub snapshot: Option<String>,
    /// Open this disk of an image that holds several (see 'cdi info')
    #[arg(long, value_name = "NAME")]
    pub member: Option<String>,
    /// Read the passphrase of an encrypted image from this file; by default it is asked for on the terminal
    ///
    /// One line break at its end does not count. A passphrase with line breaks ends with a NUL byte, as for 'hdiutil
    /// -stdinpass'.
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_fd")]
    pub passphrase_file: Option<PathBuf>,
    /// Read the passphrase of an encrypted image from this file descriptor
    #[arg(long, value_name = "N")]
    pub passphrase_fd: Option<u32>,
    /// The passphrase, once it was read.
    #[arg(skip)]
    pub passphrase: KnownPassphrase,
}

/// A passphrase that was read, for as long as the image may have to be opened again.
#[derive(Debug, Clone, Default)]
pub struct KnownPassphrase(Arc<Mutex<Option<Passphrase>>>);

impl KnownPassphrase {
    /// Returns the passphrase, if it is known.
    pub fn get(&self) -> Option<Passphrase> {
        lock(&self.0).clone()
    }

    /// Keeps the passphrase.
    pub fn set(&self, passphrase: Passphrase) {
        *lock(&self.0) = Some(passphrase);
    }

    /// Forgets the passphrase, whose memory is wiped: a process that serves the image for days does not need it.
    pub fn forget(&self) {
        *lock(&self.0) = None;
    }
}

impl OpenArgs {
    /// Returns which map of a raw image is meant.
    pub fn mapfile(&self) -> Mapfile {
        match &self.mapfile {
            None => Mapfile::Adjacent,
            Some(word) if word.as_os_str() == "none" => Mapfile::None,
            Some(path) => Mapfile::File(path.clone()),
        }
    }
}

/// The arguments of `info`.
#[derive(Debug, Args)]
pub struct Info {
    #[command(flatten)]
    pub image: Image,
    /// Show the drive's SMART data recorded during imaging
    #[arg(help_heading = None, long, conflicts_with = "events")]
    pub health: bool,
    /// Show the log of how the image was made, as JSON lines
    #[arg(help_heading = None, long)]
    pub events: bool,
}

/// The arguments of `map`.
#[derive(Debug, Args)]
pub struct Map {
    #[command(flatten)]
    pub image: Image,
    /// Draw the map into an SVG file ('-': to stdout)
    #[arg(help_heading = None, long, value_name = "FILE", group = "form")]
    pub picture: Option<PathBuf>,
    /// Write the map as a web page ('-': to stdout)
    #[arg(help_heading = None, long, value_name = "FILE", group = "form")]
    pub html: Option<PathBuf>,
    /// Draw what the disk is used for (files, metadata, nothing), and what its bad sectors cost; also with --picture
    #[arg(help_heading = None, long, conflicts_with_all = ["bad", "extents", "export_mapfile", "export_badblocks", "html"])]
    pub files: bool,
    /// List the ranges that are not finished
    #[arg(help_heading = None, long, group = "form")]
    pub bad: bool,
    /// List where in the image the data is
    #[arg(help_heading = None, long, group = "form")]
    pub extents: bool,
    /// Write a ddrescue mapfile ('-' for stdout)
    #[arg(help_heading = None, long, value_name = "FILE", group = "form")]
    pub export_mapfile: Option<PathBuf>,
    /// Print the numbers of the blocks that are not finished, as badblocks(8) does
    #[arg(help_heading = None, long, group = "form")]
    pub export_badblocks: bool,
    /// Block size for --export-badblocks in bytes
    #[arg(help_heading = None, short = 'b', long, value_name = "BYTES", default_value = "1024", value_parser = parse_size)]
    pub export_block_size: u64,
    #[command(flatten)]
    pub over: Overwrite,
}

/// The arguments of `watch`.
#[derive(Debug, Args)]
pub struct Watch {
    /// Image that is being made
    pub image: PathBuf,
    /// Show it as a web page: on this port of 127.0.0.1 (0: any), or in this file
    #[arg(value_name = "PORT|FILE.html")]
    pub page: Option<PathBuf>,
    /// Overwrite an existing file
    #[arg(short, long)]
    pub force: bool,
}

/// The arguments of `verify`.
#[derive(Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    pub image: Image,
    /// Also compute and print these hashes of the disk, with zeros for unreadable sectors
    #[arg(help_heading = None, long, value_enum, value_name = "LIST", value_delimiter = ',')]
    pub hash: Vec<HashName>,
}

/// The arguments of `index`.
#[derive(Debug, Args)]
pub struct Index {
    #[command(flatten)]
    pub image: Image,
    #[command(flatten)]
    pub over: Overwrite,
}

/// What may be overwritten.
#[derive(Debug, Clone, Copy, Args, Default)]
pub struct Overwrite {
    /// Overwrite an existing file
    #[arg(short, long)]
    pub force: bool,
    /// Overwrite even an unfinished image of a disk: everything read from that disk is lost
    #[arg(long)]
    pub discard_unfinished: bool,
}

impl From<Overwrite> for guard::Over {
    fn from(over: Overwrite) -> guard::Over {
        guard::Over { force: over.force, discard_unfinished: over.discard_unfinished }
    }
}

/// The arguments of `extract`.
#[derive(Debug, Args)]
pub struct Extract {
    #[command(flatten)]
    pub image: Image,
    /// Raw file to write; '-' for stdout; with --force, a disk to write to
    #[arg(help_heading = None)]
    pub out: PathBuf,
    /// What to write for bad sectors: 'error' to write nothing if there are any, 'zero', or 'pattern:TEXT'
    ///
    /// By default they are left as holes (zeros on stdout and on a disk), and a ddrescue mapfile is written next to
    /// the raw file (OUT.map).
    #[arg(help_heading = None, long, value_name = "POLICY", value_parser = Bad::parse)]
    pub bad: Option<Bad>,
    /// Also compute and print these hashes of the disk, with zeros for unreadable sectors
    #[arg(help_heading = None, long, value_enum, value_name = "LIST", value_delimiter = ',')]
    pub hash: Vec<HashName>,
    #[command(flatten)]
    pub over: Overwrite,
}
