//! Every word that a user can type. The comments are the help; man pages and completions come from here, too.

mod making;
pub mod report;
pub(crate) mod values;

use std::ffi::OsString;
use std::path::PathBuf;

use cdi_base::units::parse_size;
use cdi_capture::guard;
use cdi_image::image::Mapfile;
use clap::{ArgAction, ArgGroup, Args, Parser, Subcommand};
pub use making::{Compact, Create, Repair, Rescue};
pub use values::{Bad, ErrnoName, Suspect, Via, With};
use values::{cache_size, list_block_size, readahead, sector_size};

/// Gives a disk image back as the disk it was.
///
/// An image of a disk, often of a failing one, becomes a read-only block device again: its good sectors are right,
/// and its bad sectors fail exactly as the disk's did.
#[derive(Debug, Parser)]
#[command(name = "cdi", version, disable_help_subcommand = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 the image is not usable, 4 finished but data is \
missing, 5 busy, 6 this system lacks something, 130 interrupted."
)]
pub struct Cli {
    /// Print one JSON object on stdout; errors, warnings and progress as JSON lines on stderr
    #[arg(long, global = true)]
    pub json: bool,
    /// Say nothing but errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more; twice for still more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a .cdimg from a raw image, with or without a ddrescue mapfile, or from another image
    Create(Create),
    /// Show what an image is: size, metadata, how much is bad
    Info(Info),
    /// Draw a disk's blocks, list them, or write them as a ddrescue mapfile
    Map(Map),
    /// Read and check everything in an image, and list every flaw with what it costs
    Verify(Image),
    /// Copy the disk out of an image into a raw file
    Extract(Extract),
    /// Make a sound .cdimg of what is left of a damaged or headless one
    Repair(Repair),
    /// Write a .cdimg anew, without records that later ones have superseded
    Compact(Compact),
    /// Show an image as a folder with disk.raw and badblocks.json
    Mount(Mount),
    /// Take a folder that 'mount' made away again
    Unmount(Down),
    /// Make an image a read-only block device; print the device's path
    Attach(Attach),
    /// Take a device that 'attach' made away again
    Detach(Down),
    /// List what is mounted and attached
    List,
    /// Tell what mounts have done so far: reads, their times, what was uncompressed
    Stats(Stats),
    /// Attach an image, run a command with the device for each {}, and clean up
    Exec(Exec),
    /// Serve an image over NBD or NFS, in the foreground, until interrupted; print the URL
    Serve(Serve),
    /// Keep configured images up in the background, by launchd or systemd
    Service(Service),
    /// Say what this system has and lacks for cdi, and the way out
    Doctor,
    /// List the image formats that can be read
    Formats,
    /// Make a small failing disk, image it, attach it, show a good and a failing read, and clean up
    Demo(Demo),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages into a folder
    Man {
        /// The folder
        dir: PathBuf,
    },
}

/// An image that is to be read.
#[derive(Debug, Clone, Args)]
pub struct Image {
    /// The image
    pub image: PathBuf,
    /// How it is to be opened
    #[command(flatten)]
    pub how: HowToOpen,
}

/// How an image is to be opened.
#[derive(Debug, Clone, Args, Default)]
pub struct HowToOpen {
    /// The format of the image, where its magic does not say
    #[arg(long, value_name = "NAME")]
    pub format: Option<String>,
    /// The map of a raw image: ddrescue's mapfile, or HDDSuperClone's log; 'none': the image has none. By default the one
    /// next to it, which is called after it: disk.map, disk.mapfile or disk.log for disk.raw, or disk.raw.map
    #[arg(long, value_name = "FILE")]
    pub mapfile: Option<PathBuf>,
    /// The list of a raw image's bad blocks, as badblocks(8) writes it
    #[arg(long, value_name = "FILE", requires = "block_size", conflicts_with = "mapfile")]
    pub badblocks: Option<PathBuf>,
    /// The block size of that list in bytes: what badblocks was given by -b, or 1024
    #[arg(long, value_name = "BYTES", requires = "badblocks", value_parser = list_block_size)]
    pub block_size: Option<u64>,
    /// The logical sector size of the disk in bytes, where the image does not say
    #[arg(long, value_name = "BYTES", value_parser = sector_size)]
    pub sector_size: Option<u32>,
    /// A folder in which parents and extents of the image may lie, besides its own; may be given again
    #[arg(long, value_name = "DIR")]
    pub allow_parent: Vec<PathBuf>,
}

impl HowToOpen {
    /// Returns which map of a raw image is meant.
    pub fn mapfile(&self) -> Mapfile {
        match &self.mapfile {
            None => Mapfile::Adjacent,
            Some(word) if word.as_os_str() == "none" => Mapfile::None,
            Some(path) => Mapfile::File(path.clone()),
        }
    }
}

/// What is to be shown.
#[derive(Debug, Args)]
pub struct Info {
    /// The image
    #[command(flatten)]
    pub image: Image,
    /// Show what happened while it was made: lines of JSON
    #[arg(long)]
    pub events: bool,
}

/// What is to be listed.
#[derive(Debug, Args)]
pub struct Map {
    /// The image
    #[command(flatten)]
    pub image: Image,
    /// Draw the disk into an SVG file
    #[arg(long, value_name = "FILE", group = "form")]
    pub picture: Option<PathBuf>,
    /// List what is not finished
    #[arg(long, group = "form")]
    pub bad: bool,
    /// List where the bytes are
    #[arg(long, group = "form")]
    pub extents: bool,
    /// Write the map as a ddrescue mapfile ('-': to stdout)
    #[arg(long, value_name = "FILE", group = "form")]
    pub export_mapfile: Option<PathBuf>,
    /// Print the numbers of the blocks that are not finished, as badblocks(8) does
    #[arg(long, group = "form")]
    pub export_badblocks: bool,
    /// The block size for --export-badblocks in bytes
    #[arg(short = 'b', long, value_name = "BYTES", default_value = "1024", value_parser = parse_size)]
    pub export_block_size: u64,
    /// What may be written over
    #[command(flatten)]
    pub over: Over,
}

/// What may be written over.
#[derive(Debug, Clone, Copy, Args, Default)]
pub struct Over {
    /// Write over a file that is there already
    #[arg(long)]
    pub force: bool,
    /// Write even over an image of a disk that is not finished, and throw away what was read of that disk
    #[arg(long)]
    pub discard_unfinished: bool,
}

impl From<Over> for guard::Over {
    fn from(over: Over) -> guard::Over {
        guard::Over { force: over.force, discard_unfinished: over.discard_unfinished }
    }
}

/// How a disk is copied out.
#[derive(Debug, Args)]
pub struct Extract {
    /// The image
    #[command(flatten)]
    pub image: Image,
    /// The raw file to make; '-': stdout; or a device, with --force: the disk is written onto it
    pub out: PathBuf,
    /// What becomes of bad sectors: 'error' stops, 'zero' and 'pattern:TEXT' fill them. Without it they are left
    /// as holes (zeros on stdout and on a device), and a ddrescue mapfile is written next to the raw file (OUT.map)
    #[arg(long, value_name = "POLICY", value_parser = Bad::parse)]
    pub bad: Option<Bad>,
    /// What may be written over
    #[command(flatten)]
    pub over: Over,
}

/// How reads are answered.
#[derive(Debug, Clone, Args)]
pub struct Reads {
    /// What a read of a bad sector gives: 'error', 'zero', or 'pattern:TEXT'
    #[arg(long, value_name = "POLICY", default_value = "error", value_parser = Bad::parse)]
    pub bad: Bad,
    /// What a read of a suspect sector gives: 'error', as of a bad one, or 'read', the bytes that there are
    #[arg(long, value_enum, default_value_t = Suspect::Error)]
    pub suspect: Suspect,
    /// How much memory uncompressed chunks may take
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = cache_size)]
    pub cache: usize,
}

/// How the mounted folder is to be.
#[derive(Debug, Clone, Args)]
pub struct Access {
    /// The error of a bad sector: 'io' is EIO, 'medium' is ENODATA, which Linux logs as a critical medium error
    #[arg(long, value_enum, default_value_t = ErrnoName::Io)]
    pub errno: ErrnoName,
    /// Let other users read the mounted folder, too
    #[arg(long)]
    pub allow_other: bool,
    /// How the folder is shown; by default FUSE on Linux and NFS, which needs no driver, on macOS
    #[arg(long, value_enum)]
    pub via: Option<Via>,
}

/// How an image is mounted.
#[derive(Debug, Args)]
pub struct Mount {
    /// The image
    #[command(flatten)]
    pub image: Image,
    /// Where: an empty folder
    pub dir: PathBuf,
    /// How reads are answered
    #[command(flatten)]
    pub reads: Reads,
    /// How the folder is to be
    #[command(flatten)]
    pub access: Access,
    /// Stay in the foreground until interrupted, for supervisors
    #[arg(long)]
    pub foreground: bool,
}

/// How an image is attached.
#[derive(Debug, Args)]
pub struct Attach {
    /// The image
    #[command(flatten)]
    pub image: Image,
    /// Where to mount it; by default a folder of its own in the user's runtime folder
    pub dir: Option<PathBuf>,
    /// How reads are answered
    #[command(flatten)]
    pub reads: Reads,
    /// How the folder is to be
    #[command(flatten)]
    pub access: Access,
    /// How the device is to be
    #[command(flatten)]
    pub device: DeviceOptions,
    /// Stay in the foreground until interrupted, for supervisors
    #[arg(long)]
    pub foreground: bool,
}

/// How the block device is set up.
#[derive(Debug, Clone, Args, Default)]
pub struct DeviceOptions {
    /// Let the kernel look for partitions (its parsers then read what is on the disk)
    #[arg(long)]
    pub partitions: bool,
    /// How far the kernel reads the device ahead; by default nothing if there are bad sectors, else 4 MiB
    #[arg(long, value_name = "SIZE", value_parser = readahead)]
    pub readahead: Option<u64>,
    /// What makes the device; by default losetup on Linux, on macOS hdiutil and where that fails diskutil
    #[arg(long, value_enum)]
    pub with: Option<With>,
    /// Let macOS mount the file systems that are on it
    #[arg(long)]
    pub mount: bool,
}

/// Whose doings are to be told.
#[derive(Debug, Args)]
pub struct Stats {
    /// The folder, the image, or the device; all that are mounted if none is named
    pub target: Option<PathBuf>,
}

/// What is to be taken away.
#[derive(Debug, Args)]
pub struct Down {
    /// The folder, the image, or the device
    pub target: PathBuf,
    /// Even if it is in use: readers get errors
    #[arg(long)]
    pub force: bool,
}

/// What to run.
#[derive(Debug, Args)]
pub struct Exec {
    /// The image
    #[command(flatten)]
    pub image: Image,
    /// How reads are answered
    #[command(flatten)]
    pub reads: Reads,
    /// How the folder is to be
    #[command(flatten)]
    pub access: Access,
    /// How the device is to be
    #[command(flatten)]
    pub device: DeviceOptions,
    /// The command; {} stands for the device, {dir} for the mounted folder
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// How an image is served.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("protocol").required(true).args(["nbd", "nfs"])))]
pub struct Serve {
    /// The image
    #[command(flatten)]
    pub image: Image,
    /// How reads are answered
    #[command(flatten)]
    pub reads: Reads,
    /// Serve NBD: at a socket of this name, for this user alone, or at a port of this machine (127.0.0.1; 0: any
    /// that is free), for every user of it
    #[arg(long, value_name = "SOCKET|PORT")]
    pub nbd: Option<PathBuf>,
    /// Serve the folder over NFS version 3, at a port of this machine, to whoever has the URL
    #[arg(long)]
    pub nfs: bool,
    /// The port for --nfs; by default any that is free
    #[arg(long, value_name = "PORT", requires = "nfs", default_value_t = 0, hide_default_value = true)]
    pub port: u16,
    /// Let other users of this machine read it, too, if they have the URL of --nfs
    #[arg(long, requires = "nfs")]
    pub allow_other: bool,
}

/// What is to be done with the service.
#[derive(Debug, Args)]
pub struct Service {
    /// What to do
    #[command(subcommand)]
    pub verb: ServiceVerb,
    /// The configuration; by default ~/.config/cdi/service.json
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
}

/// What is to be done with the service.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ServiceVerb {
    /// Make it a service of launchd or systemd, and an empty configuration if there is none
    Install,
    /// Stop it and take it away from launchd or systemd; the configuration stays
    Uninstall,
    /// Check the configuration and start the service, or have it read the configuration again
    Start,
    /// Stop it: detach and unmount its images
    Stop,
    /// Tell how it stands with each image; exit code 1 unless all are up
    Status,
    /// Be the service, in the foreground: SIGHUP reads the configuration again, SIGTERM ends it
    Run,
}

/// How the demonstration is done.
#[derive(Debug, Args)]
pub struct Demo {
    /// Keep the sample (disk.raw, disk.map, disk.cdimg) in this folder
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_words_fit_together() {
        super::Cli::command().debug_assert();
    }
}
