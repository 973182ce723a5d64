//! The interface for attaching a mounted disk as a block device and detaching it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cdi_base::error::Error;
use cdi_base::units::SECTOR;

/// The properties that the block device is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The size of the disk in bytes.
    pub size: u64,
    /// The sector size of the device in bytes; see [`sector_size`].
    pub sector: u32,
    /// Whether some reads of the disk fail; if so, the kernel must not read ahead.
    pub failing: bool,
    /// Whether the kernel should scan for partitions. macOS always does.
    pub partitions: bool,
    /// The kernel's readahead in bytes, if the user set it. macOS decides by itself.
    pub readahead: Option<u64>,
    /// Whether the system should mount the file systems that it finds.
    pub mount: bool,
}

/// Returns the device sector size, in bytes, for a disk of `size` bytes with sectors of `logical` bytes. A sector size
/// that does not divide the disk size would make the last sectors unreadable, and no kernel accepts sectors larger than
/// a page.
pub fn sector_size(size: u64, logical: u32) -> u32 {
    if size.is_multiple_of(u64::from(logical)) && logical <= 4096 { logical } else { SECTOR }
}

/// A way to attach a mounted disk as a block device, and to detach it. `file` is the mounted disk: `disk.raw` in its
/// mount directory. The methods never access it, because the process that serves it may be dead, and none of them may
/// be called on a thread that serves it.
pub trait Attacher: Sync {
    /// Returns its name, which is that of the program it uses.
    fn name(&self) -> &'static str;

    /// Checks whether this user may create block devices here, as far as that can be determined without trying.
    fn ready(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Attaches the file as a read-only block device and returns the path of the device.
    fn attach(&self, file: &Path, request: &Request) -> Result<PathBuf, Error>;

    /// Returns the block devices that are backed by the file. Fails if they cannot be listed.
    fn devices(&self, file: &Path) -> Result<Vec<PathBuf>, Error>;

    /// Returns the mount points of file systems on the device that must be unmounted before it can be detached, the
    /// deepest last.
    fn mounts(&self, device: &Path) -> Result<Vec<PathBuf>, Error>;

    /// Returns the device nodes of the device and of its partitions.
    fn nodes(&self, device: &Path) -> Vec<PathBuf>;

    /// Describes a user of the device that is not a process which has it open: another device, or a mount that is not
    /// visible from here.
    fn used_by(&self, device: &Path) -> Option<String>;

    /// Detaches the device if it is backed by `file`, and returns when it is gone. Succeeds if it is gone already. With
    /// `force`, also detaches a device in use, where the system can do that.
    fn detach(&self, device: &Path, file: &Path, force: bool) -> Result<(), Error>;

    /// How long after a device was detached a program of the system may still have the file open.
    fn lingers(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Returns whether a device that is in use is detached by itself once it no longer is.
    fn detaches_when_closed(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_size_that_does_not_fit_becomes_512_bytes() {
        assert_eq!((sector_size(1 << 20, 4096), sector_size(1 << 20, 512)), (4096, 512));
        assert_eq!((sector_size((1 << 20) + 512, 4096), sector_size(1 << 20, 65536)), (512, 512));
        assert_eq!(sector_size(1000, 512), 512);
    }
}
