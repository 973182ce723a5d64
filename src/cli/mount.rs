//! The options of verbs that present an image: `mount`, `attach`, `exec`, `serve`; and of `unmount`, `detach`, `stats`.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use cdi_base::units::parse_size;
use clap::{ArgGroup, Args};

use super::Image;
use super::values::{Bad, ErrnoName, Suspect, Via, With, cache_size, readahead};

/// How reads are answered.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Reading bad sectors")]
pub struct Reads {
    /// What a read of a bad sector returns: 'error', 'zero', or 'pattern:TEXT'
    #[arg(long, value_name = "POLICY", default_value = "error", value_parser = Bad::parse)]
    pub bad: Bad,
    /// What a read of a suspect sector returns: an error, or the stored bytes
    #[arg(long, value_enum, default_value_t = Suspect::Error)]
    pub suspect: Suspect,
    /// Memory for decompressed chunks
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = cache_size)]
    pub cache: usize,
}

/// How the mounted directory behaves.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Mounted directory")]
pub struct Access {
    /// Error number of bad sectors: 'io' is EIO, 'medium' is ENODATA, which Linux logs as a critical medium error
    #[arg(long, value_enum, default_value_t = ErrnoName::Io)]
    pub errno: ErrnoName,
    /// Allow other users to read
    #[arg(long)]
    pub allow_other: bool,
    /// Also show the file systems inside the disk, read-only, in the directory 'files'
    ///
    /// cdi reads them itself, without root and without the kernel's file systems: NTFS, ext2/3/4, FAT, exFAT, HFS+, APFS
    /// and ISO 9660, with what 'cdi files' finds. A volume is scanned when its directory is first opened.
    #[arg(long)]
    pub files: bool,
    /// How the directory is mounted (default: FUSE on Linux; on macOS NFS, which needs no driver)
    #[arg(long, value_enum)]
    pub via: Option<Via>,
}

/// Whether desktops show the mounted directory as a volume.
#[derive(Debug, Clone, Copy, Args, Default)]
#[command(next_help_heading = "Mounted directory")]
pub struct DesktopArgs {
    /// Show the directory as a volume in the Finder; the default for 'mount'
    ///
    /// On Linux, without --browse and --no-browse, a desktop shows what is mounted in the home directory or in /media.
    #[arg(long, overrides_with = "no_browse")]
    pub browse: bool,
    /// Hide the directory from the Finder and from Linux desktops
    #[arg(long, overrides_with = "browse")]
    pub no_browse: bool,
}

/// The arguments of `mount`.
#[derive(Debug, Args)]
pub struct Mount {
    #[command(flatten)]
    pub image: Image,
    /// Mount point: an empty directory; created if it does not exist, and then removed again
    ///
    /// Without it, one is created that is named after the image: on macOS in /Volumes/cdi if that is a directory of
    /// yours, or in /Volumes for root; otherwise in the runtime directory.
    #[arg(help_heading = None)]
    pub dir: Option<PathBuf>,
    /// Stay in the foreground until interrupted
    #[arg(help_heading = None, long)]
    pub foreground: bool,
    /// Whether success is not reported.
    #[arg(skip)]
    pub silent: bool,
    #[command(flatten)]
    pub part: PartArgs,
    #[command(flatten)]
    pub reads: Reads,
    #[command(flatten)]
    pub access: Access,
    #[command(flatten)]
    pub desktop: DesktopArgs,
}

/// The arguments of `attach`.
#[derive(Debug, Args)]
pub struct Attach {
    #[command(flatten)]
    pub image: Image,
    /// Mount point for the directory (default: one of its own in the runtime directory)
    #[arg(help_heading = None)]
    pub dir: Option<PathBuf>,
    /// Stay in the foreground until interrupted
    #[arg(help_heading = None, long)]
    pub foreground: bool,
    #[command(flatten)]
    pub part: PartArgs,
    #[command(flatten)]
    pub reads: Reads,
    #[command(flatten)]
    pub access: Access,
    #[command(flatten)]
    pub desktop: DesktopArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// Which part of the disk is presented.
#[derive(Debug, Clone, Args, Default)]
#[command(next_help_heading = "Part of the disk")]
pub struct PartArgs {
    /// Present only this partition, by its number
    #[arg(long, value_name = "N", conflicts_with_all = ["offset", "size"])]
    pub partition: Option<u32>,
    /// Present only the part of the disk from this byte on
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub offset: Option<u64>,
    /// Present only this many bytes of the disk
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub size: Option<u64>,
}

/// How the block device is set up.
#[derive(Debug, Clone, Args, Default)]
#[command(next_help_heading = "Block device")]
pub struct DeviceArgs {
    /// Let the kernel create partition devices (it then parses what is on the disk)
    #[arg(short = 'P', long)]
    pub partscan: bool,
    /// Readahead of the kernel (default: none if there are bad sectors, else 4 MiB)
    #[arg(long, value_name = "SIZE", value_parser = readahead)]
    pub readahead: Option<u64>,
    /// Program that creates the device (default: losetup on Linux; on macOS hdiutil, then diskutil)
    #[arg(long, value_enum)]
    pub with: Option<With>,
    /// Let macOS mount the file systems of the device
    #[arg(long, hide = !cfg!(target_os = "macos"))]
    pub mount: bool,
}

/// The arguments of `stats`.
#[derive(Debug, Args)]
pub struct Stats {
    /// Mount point, image or device (default: all)
    pub target: Option<PathBuf>,
}

/// The arguments of `unmount`.
#[derive(Debug, Args)]
pub struct Unmount {
    /// Mount point, image or device
    #[arg(required_unless_present = "all")]
    pub target: Option<PathBuf>,
    /// Unmount all of your images
    #[arg(long, conflicts_with = "target")]
    pub all: bool,
    /// Unmount even if it is in use: programs that read it get I/O errors
    #[arg(short, long)]
    pub force: bool,
}

/// The arguments of `detach`.
#[derive(Debug, Args)]
pub struct Detach {
    /// Device, image or mount point
    #[arg(required_unless_present = "all")]
    pub target: Option<PathBuf>,
    /// Detach all of your images
    #[arg(long, conflicts_with = "target")]
    pub all: bool,
    /// Detach even if it is in use: programs that read it get I/O errors
    #[arg(short, long)]
    pub force: bool,
}

/// The arguments of `exec`.
#[derive(Debug, Args)]
pub struct Exec {
    #[command(flatten)]
    pub image: Image,
    /// Command to run; {} is replaced by the device, {dir} by the mounted directory
    #[arg(help_heading = None, last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
    #[command(flatten)]
    pub part: PartArgs,
    #[command(flatten)]
    pub reads: Reads,
    #[command(flatten)]
    pub access: Access,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// The arguments of `serve`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("protocol").required(true).args(["nbd", "nfs"])))]
pub struct Serve {
    #[command(flatten)]
    pub image: Image,
    /// Serve NBD: on a socket at this path, for you alone, or on a port of 127.0.0.1 (0: any free one), for every
    /// user of this machine
    #[arg(help_heading = None, long, value_name = "SOCKET|PORT")]
    pub nbd: Option<PathBuf>,
    /// Serve the directory over NFS version 3 on 127.0.0.1, to anyone who has the URL
    #[arg(help_heading = None, long)]
    pub nfs: bool,
    /// Serve to other machines, at this address of this one instead of 127.0.0.1; nothing is encrypted
    ///
    /// Over NFS, everyone who can reach the address and has the URL can read the disk, and anyone who can read the network
    /// traffic also gets the URL and the data. Over NBD, for which --nbd names a port, everyone who can reach the address can read
    /// it. Use this only in a network that you trust. 0.0.0.0 is every address.
    #[arg(help_heading = None, long, value_name = "ADDRESS")]
    pub listen: Option<IpAddr>,
    /// Port for --nfs (default: any free one)
    #[arg(help_heading = None, long, value_name = "PORT", requires = "nfs", default_value_t = 0, hide_default_value = true)]
    pub port: u16,
    /// Allow other users of this machine to read if they have the URL of --nfs
    #[arg(help_heading = None, long, requires = "nfs")]
    pub allow_other: bool,
    /// Also show the file systems inside the disk, read-only, in the directory 'files' of --nfs
    #[arg(help_heading = None, long, requires = "nfs")]
    pub files: bool,
    #[command(flatten)]
    pub part: PartArgs,
    #[command(flatten)]
    pub reads: Reads,
}
