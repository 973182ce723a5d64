//! The disk that is imaged: a block device or a file, read without the system's help where that would hurt.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cdi_base::advice::Advice;
use cdi_base::error::{Error, Kind};
use cdi_base::units::SECTOR;
use cdi_image::input::ReadAt;
use cdi_system::{DiskInfo, disk_info};
use nix::errno::Errno;
use nix::fcntl::OFlag;

/// A disk to be imaged.
#[derive(Debug)]
pub struct Source {
    file: File,
    path: PathBuf,
    device: bool,
    metadata: DiskInfo,
}

/// What an error of a read means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// These sectors cannot be read: the errno says why.
    Bad(u32),
    /// It has nothing to do with the sectors; the read is to be done again.
    Again,
    /// The disk is not there any more.
    Gone,
    /// The read itself was wrong.
    Ours(i32),
}

impl Failure {
    /// What `e` means. Drivers give many errors for a sector that cannot be read, so all others say that it is bad.
    pub fn of(e: &io::Error) -> Failure {
        let Some(errno) = e.raw_os_error() else { return Failure::Bad(Errno::EIO as u32) };
        match Errno::from_raw(errno) {
            Errno::EINTR | Errno::EAGAIN | Errno::ENOMEM => Failure::Again,
            Errno::ENXIO | Errno::ENODEV | Errno::ESHUTDOWN | Errno::EBADF => Failure::Gone,
            #[cfg(target_os = "linux")]
            Errno::ENOMEDIUM => Failure::Gone,
            Errno::EINVAL => Failure::Ours(errno),
            _ => Failure::Bad(errno.unsigned_abs()),
        }
    }
}

impl Source {
    /// Opens the device or file at `path`. A device that is in use is refused, unless `force`; one that is in use is waited
    /// for as long as `wait` says. `sector` is its logical sector size in bytes, if the user knows better.
    pub fn open(path: &Path, force: bool, sector: Option<u32>, wait: Duration) -> Result<Source, Error> {
        let look = |e| Error::io("cannot be opened", path, e);
        // A pipe that nobody writes to would hold us up.
        let kind = std::fs::metadata(path).map_err(look)?.file_type();
        let device = kind.is_block_device() || kind.is_char_device();
        if !device && !kind.is_file() {
            return Err(Error::usage("is neither a device nor a file").at(path));
        }
        let path = if device { unbuffered(path) } else { path.to_owned() };
        let file = if device { open_device(&path, force, wait)? } else { File::open(&path).map_err(look)? };
        let mut metadata = if device { disk_info(&path)? } else { DiskInfo::default() };
        if !device {
            metadata.size = ReadAt::len(&file).map_err(look)?;
        }
        if let Some(sector) = sector {
            metadata.logical = sector;
        }
        metadata.logical = metadata.logical.max(SECTOR);
        metadata.physical = metadata.physical.max(metadata.logical);
        if metadata.size == 0 {
            let what = if device { "has no medium in it, or none that can be read" } else { "is empty" };
            return Err(Error::failed(what).at(&path));
        }
        if device && !metadata.size.is_multiple_of(metadata.logical.into()) {
            let what = format!("its size is not a whole number of sectors of {} bytes", metadata.logical);
            return Err(Error::usage(what).at(&path));
        }
        Ok(Source { file, path, device, metadata })
    }

    /// What is known of it; the sizes are those that count.
    pub fn metadata(&self) -> &DiskInfo {
        &self.metadata
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a device.
    pub fn is_device(&self) -> bool {
        self.device
    }

    /// Reads once, into memory that is aligned; as `pread`, it may read less.
    pub fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(&self.file, buf, at)
    }

    /// Up to where a file has a hole at `at`, if it has one there. Reading a hole is of no use.
    pub fn hole_to(&self, at: u64) -> Option<u64> {
        if self.device {
            return None;
        }
        let data: Range<u64> = self.file.data_run(at, self.metadata.size).ok()?;
        (data.start > at).then_some(data.start)
    }

    /// Whether it is still the same disk, and still there.
    pub fn is_there(&self) -> bool {
        if !self.device {
            return std::fs::metadata(&self.path).is_ok();
        }
        let now = match disk_info(&self.path) {
            Ok(now) => now,
            // A program that does not answer says nothing of the disk.
            Err(e) => return cfg!(target_os = "macos") && e.kind == Kind::Failed,
        };
        let other = |a: &Option<String>, b: &Option<String>| matches!((a, b), (Some(a), Some(b)) if a != b);
        // The serial number may have been told later than the disk was opened.
        now.size == self.metadata.size
            && !other(&now.sequence, &self.metadata.sequence)
            && (now.sequence.is_some() || !other(&now.serial, &self.metadata.serial))
    }
}

/// The device's name under which nothing comes between: on macOS `/dev/rdiskN`.
fn unbuffered(path: &Path) -> PathBuf {
    let name = path.to_str().and_then(|p| p.strip_prefix("/dev/disk")).filter(|_| cfg!(target_os = "macos"));
    name.map_or_else(|| path.to_owned(), |rest| PathBuf::from(format!("/dev/rdisk{rest}")))
}

fn open_device(path: &Path, force: bool, wait: Duration) -> Result<File, Error> {
    #[cfg(target_os = "linux")]
    let direct = OFlag::O_DIRECT;
    #[cfg(not(target_os = "linux"))]
    let direct = OFlag::empty();
    // For a block device: only if nobody has mounted it.
    let alone = if force { OFlag::empty() } else { OFlag::O_EXCL };
    let open = |flags: OFlag| OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    let start = Instant::now();
    let mut opened = open(direct | alone);
    while opened.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::ResourceBusy) && start.elapsed() < wait {
        std::thread::sleep(Duration::from_millis(50));
        opened = open(direct | alone);
    }
    opened.map_err(|e| {
        let denied = e.kind() == io::ErrorKind::PermissionDenied;
        let error = Error::io("cannot be opened", path, e);
        match error.kind {
            Kind::Busy if !wait.is_zero() => error.hint(
                "it is in use: perhaps by an earlier read of ours that has not come back; switching the drive off and on ends that",
            ),
            Kind::Busy => error
                .hint(if cfg!(target_os = "macos") {
                    "it is in use: 'diskutil unmountDisk' unmounts it"
                } else {
                    "it is in use: mounted, or part of something"
                })
                .then(Advice::ReadInUse),
            _ if denied => {
                Error { kind: Kind::Unavailable, ..error }.hint("reading a device needs root: try sudo")
            }
            _ => error,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_disk_is_blamed_for_its_errors() {
        for (errno, expect) in [
            (Errno::EIO, Failure::Bad(5)),
            (Errno::ETIMEDOUT, Failure::Bad(Errno::ETIMEDOUT as u32)),
            (Errno::EILSEQ, Failure::Bad(Errno::EILSEQ as u32)),
            (Errno::EINTR, Failure::Again),
            (Errno::ENOMEM, Failure::Again),
            (Errno::ENXIO, Failure::Gone),
            (Errno::ENODEV, Failure::Gone),
            (Errno::EINVAL, Failure::Ours(Errno::EINVAL as i32)),
        ] {
            assert_eq!(Failure::of(&errno.into()), expect, "{errno}");
        }
    }
}
