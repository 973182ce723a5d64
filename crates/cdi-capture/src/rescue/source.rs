//! The disk that is imaged: a block device or a file. Devices are read without the system's cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cdi_base::advice::Advice;
use cdi_base::error::{Error, Kind};
use cdi_base::units::SECTOR;
use cdi_image::input::ReadAt;
use cdi_system::sense::{Sense, SenseRead};
use cdi_system::{DiskInfo, SenseDevice, disk_info};
use nix::errno::Errno;
use nix::fcntl::OFlag;

/// The maximum length of a read by a command of ours, in bytes: every adapter can do it.
const MAX_COMMAND: usize = 64 << 10;

/// A disk to be imaged.
pub struct Source {
    file: Box<dyn ReadAt>,
    path: PathBuf,
    device: bool,
    metadata: DiskInfo,
    /// The device, if it can say why a read has failed; and whether it is asked.
    sense: Option<(File, SenseDevice)>,
    asks: AtomicBool,
}

/// A read that has failed.
#[derive(Debug)]
pub struct FailedRead {
    /// The error of the system.
    pub error: io::Error,
    /// What the disk says about it.
    pub sense: Option<Sense>,
}

impl From<io::Error> for FailedRead {
    /// A simulated disk can say it, too.
    fn from(error: io::Error) -> FailedRead {
        let sense = error.get_ref().and_then(|inner| inner.downcast_ref::<SimulatedSense>()).map(|s| s.0);
        match sense {
            Some(_) => FailedRead { error: Errno::EIO.into(), sense },
            None => FailedRead { error, sense },
        }
    }
}

/// The error of a simulated disk that says why a read has failed, for tests.
#[derive(Debug)]
pub struct SimulatedSense(pub Sense);

impl std::fmt::Display for SimulatedSense {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::error::Error for SimulatedSense {}

/// The meaning of a read error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The sectors cannot be read, for the reason given by the errno.
    Bad(u32),
    /// A temporary error that is unrelated to the sectors: the read must be repeated.
    Again,
    /// The disk is gone.
    Gone,
    /// The read request was invalid.
    Invalid(i32),
}

impl Failure {
    /// Classifies `e`. Drivers return many different errors for an unreadable sector, so all other errors count as bad
    /// sectors.
    pub fn of(e: &io::Error) -> Failure {
        let Some(errno) = e.raw_os_error() else { return Failure::Bad(Errno::EIO as u32) };
        match Errno::from_raw(errno) {
            Errno::EINTR | Errno::EAGAIN | Errno::ENOMEM => Failure::Again,
            Errno::ENXIO | Errno::ENODEV | Errno::ESHUTDOWN | Errno::EBADF => Failure::Gone,
            #[cfg(target_os = "linux")]
            Errno::ENOMEDIUM => Failure::Gone,
            Errno::EINVAL => Failure::Invalid(errno),
            _ => Failure::Bad(errno.unsigned_abs()),
        }
    }
}

impl Source {
    /// Opens the device or file at `path`. Returns an error if a device is in use for longer than `wait`, unless
    /// `force` is set. `sector` overrides the logical sector size, in bytes.
    pub fn open(path: &Path, force: bool, sector: Option<u32>, wait: Duration) -> Result<Source, Error> {
        let cannot_open = |e| Error::io("cannot open", path, e);
        // Check the type first: opening a pipe without a writer would block.
        let kind = std::fs::metadata(path).map_err(cannot_open)?.file_type();
        let device = kind.is_block_device() || kind.is_char_device();
        if !device && !kind.is_file() {
            return Err(Error::usage("is neither a device nor a regular file").at(path));
        }
        let path = if device { unbuffered(path) } else { path.to_owned() };
        let file =
            if device { open_device(&path, force, wait)? } else { File::open(&path).map_err(cannot_open)? };
        let mut metadata = if device { disk_info(&path)? } else { DiskInfo::default() };
        if !device {
            metadata.size = ReadAt::len(&file).map_err(cannot_open)?;
        }
        if let Some(sector) = sector {
            metadata.logical = sector;
        }
        metadata.logical = metadata.logical.max(SECTOR);
        metadata.physical = metadata.physical.max(metadata.logical);
        if metadata.size == 0 {
            return Err(match device {
                true => Error::new(Kind::Gone, "has no medium, or an unreadable one").at(&path),
                false => Error::failed("is empty").at(&path),
            });
        }
        if device && !metadata.size.is_multiple_of(metadata.logical.into()) {
            let what = format!("its size is not a multiple of the sector size ({} bytes)", metadata.logical);
            return Err(Error::usage(what).at(&path));
        }
        let copy = if device { file.try_clone().ok() } else { None };
        let sense = copy.and_then(|copy| {
            let device = SenseDevice::of(&copy, &path, metadata.logical)?;
            Some((copy, device))
        });
        Ok(Source { file: Box::new(file), path, device, metadata, sense, asks: AtomicBool::new(false) })
    }

    /// Returns a disk that is read from `bytes`, for tests: a simulated one. `path` must exist as long as the disk is there.
    pub fn simulated(bytes: Box<dyn ReadAt>, path: &Path, sector: u32) -> io::Result<Source> {
        let size = bytes.len()?;
        let metadata = DiskInfo { size, logical: sector, physical: sector, ..DiskInfo::default() };
        let asks = AtomicBool::new(false);
        Ok(Source { file: bytes, path: path.to_owned(), device: false, metadata, sense: None, asks })
    }

    /// Returns information about the disk. Its sector sizes are the ones to use.
    pub fn metadata(&self) -> &DiskInfo {
        &self.metadata
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks whether it is a device.
    pub fn is_device(&self) -> bool {
        self.device
    }

    /// Reads once at offset `at`, into an aligned buffer. Like `pread`, it may read less than requested.
    pub fn read_at(&self, buf: &mut [u8], at: u64) -> Result<usize, FailedRead> {
        if let Some((file, device)) = self.sense.as_ref().filter(|_| self.asks.load(Ordering::Relaxed)) {
            let len = buf.len().min(MAX_COMMAND);
            match device.read(file, &mut buf[..len], at) {
                Ok(SenseRead::Done) => return Ok(len),
                Ok(SenseRead::Failed(sense)) => {
                    return Err(FailedRead { error: Errno::EIO.into(), sense: Some(sense) });
                }
                // Whatever is the matter, the system knows how to deal with it.
                Ok(SenseRead::NotDone) | Err(_) => {}
            }
        }
        Ok(self.file.read_at(buf, at)?)
    }

    /// From now on, has the disk say why a read has failed, if it can. A disk without errors is read in the system's own way.
    pub fn ask_why(&self) {
        self.asks.store(true, Ordering::Relaxed);
    }

    /// Returns the end of the hole at `at`, if a file has one there, so that it need not be read.
    pub fn hole_to(&self, at: u64) -> Option<u64> {
        if self.device {
            return None;
        }
        let data: Range<u64> = self.file.data_run(at, self.metadata.size).ok()?;
        (data.start > at).then_some(data.start)
    }

    /// Checks whether the disk is still there, and still the same.
    pub fn is_there(&self) -> bool {
        if !self.device {
            return std::fs::metadata(&self.path).is_ok();
        }
        let now = match disk_info(&self.path) {
            Ok(now) => now,
            // On macOS, a program that does not answer says nothing about the disk.
            Err(e) => return cfg!(target_os = "macos") && e.kind == Kind::Failed,
        };
        let other = |a: &Option<String>, b: &Option<String>| matches!((a, b), (Some(a), Some(b)) if a != b);
        // The serial number may have become known only after the disk was opened.
        now.size == self.metadata.size
            && !other(&now.sequence, &self.metadata.sequence)
            && (now.sequence.is_some() || !other(&now.serial, &self.metadata.serial))
    }
}

/// Returns the path of the unbuffered device: `/dev/rdiskN` on macOS.
fn unbuffered(path: &Path) -> PathBuf {
    let name = path.to_str().and_then(|p| p.strip_prefix("/dev/disk")).filter(|_| cfg!(target_os = "macos"));
    name.map_or_else(|| path.to_owned(), |rest| PathBuf::from(format!("/dev/rdisk{rest}")))
}

/// Opens a device without the system's cache and, unless `force` is set, only if it is not in use: mounted, for example.
#[cfg(target_os = "linux")]
fn open_unused(path: &Path, force: bool) -> io::Result<File> {
    let exclusive = if force { OFlag::empty() } else { OFlag::O_EXCL };
    OpenOptions::new().read(true).custom_flags((OFlag::O_DIRECT | exclusive).bits()).open(path)
}

/// The same on macOS, whose raw devices have no cache. O_EXCL means nothing there: the driver refuses O_EXLOCK if the
/// disk or a part of it is open for writing or mounted (IOMediaBSDClient.cpp, dkopen), and nobody can mount it then.
#[cfg(not(target_os = "linux"))]
fn open_unused(path: &Path, force: bool) -> io::Result<File> {
    let open = |flags: OFlag| OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    if force {
        return open(OFlag::empty());
    }
    let errno = |e: &io::Error| e.raw_os_error().map(Errno::from_raw);
    match open(OFlag::O_EXLOCK | OFlag::O_NONBLOCK) {
        Err(e) if errno(&e) == Some(Errno::EAGAIN) => Err(io::ErrorKind::ResourceBusy.into()),
        // No such locks here; the list of mounts was searched before.
        Err(e) if matches!(errno(&e), Some(Errno::ENOTSUP | Errno::EINVAL)) => open(OFlag::empty()),
        opened => opened,
    }
}

/// Returns an error if a file system on the disk is mounted, with its mount point.
#[cfg(not(target_os = "linux"))]
fn refuse_mounted(path: &Path) -> Result<(), Error> {
    match cdi_system::mounts_on(path)?.first() {
        None => Ok(()),
        Some(mountpoint) => {
            let what = format!("a file system on it is mounted at {}", mountpoint.display());
            let hint = format!("unmount all of it with 'diskutil unmountDisk {}'", path.display());
            Err(Error::new(Kind::Busy, what).at(path).hint(hint).then(Advice::ReadInUse))
        }
    }
}

fn open_device(path: &Path, force: bool, wait: Duration) -> Result<File, Error> {
    #[cfg(not(target_os = "linux"))]
    if !force {
        refuse_mounted(path)?;
    }
    let start = Instant::now();
    let mut opened = open_unused(path, force);
    while opened.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::ResourceBusy) && start.elapsed() < wait {
        std::thread::sleep(Duration::from_millis(50));
        opened = open_unused(path, force);
    }
    opened.map_err(|e| {
        let denied = e.kind() == io::ErrorKind::PermissionDenied;
        let error = Error::io("cannot open", path, e);
        match error.kind {
            Kind::Busy if !wait.is_zero() => error.hint(
                "the device is in use, perhaps by a hung read of an earlier run; switch the drive off and on to end that",
            ),
            Kind::Busy => error
                .hint(if cfg!(target_os = "macos") {
                    "the device is in use: unmount it with 'diskutil unmountDisk'"
                } else {
                    "the device is in use: mounted, or part of another device"
                })
                .then(Advice::ReadInUse),
            _ if denied => {
                Error { kind: Kind::Unavailable, ..error }.hint("reading a device requires root: try sudo")
            }
            _ => error,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_of_the_disk_count_as_bad_sectors() {
        for (errno, expect) in [
            (Errno::EIO, Failure::Bad(5)),
            (Errno::ETIMEDOUT, Failure::Bad(Errno::ETIMEDOUT as u32)),
            (Errno::EILSEQ, Failure::Bad(Errno::EILSEQ as u32)),
            (Errno::EINTR, Failure::Again),
            (Errno::ENOMEM, Failure::Again),
            (Errno::ENXIO, Failure::Gone),
            (Errno::ENODEV, Failure::Gone),
            (Errno::EINVAL, Failure::Invalid(Errno::EINVAL as i32)),
        ] {
            assert_eq!(Failure::of(&errno.into()), expect, "{errno}");
        }
    }
}
