//! What turns a shown disk into a block device, and back.

use std::path::{Path, PathBuf};

use cdi_base::error::Error;
use cdi_base::units::SECTOR;

/// What the block device is to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The size of the disk in bytes.
    pub size: u64,
    /// The sector size that the device is to have, in bytes; see [`sector_size`].
    pub sector: u32,
    /// Whether reads of the disk fail somewhere: the kernel then must not read ahead.
    pub failing: bool,
    /// Whether the kernel is to look for partitions. macOS always does.
    pub partitions: bool,
    /// How far the kernel is to read ahead, in bytes, if the user says so. macOS decides by itself.
    pub readahead: Option<u64>,
    /// Whether the system is to mount the file systems that it finds.
    pub mount: bool,
}

/// The sector size of a device that shows a disk of `size` bytes in sectors of `logical` bytes. One that does not divide
/// the size would make the last sectors unreadable, and larger ones than a page no kernel takes.
pub fn sector_size(size: u64, logical: u32) -> u32 {
    if size.is_multiple_of(u64::from(logical)) && logical <= 4096 { logical } else { SECTOR }
}

/// A way to turn a shown disk into a block device, and back. `file` is the shown disk: `disk.raw` in its folder. It is
/// never touched by these, for who serves it may be dead; and none of them may be called on a thread that serves it.
pub trait Attacher: Sync {
    /// Its name: that of the program that does it.
    fn name(&self) -> &'static str;

    /// Says whether this user may make block devices here, as far as that can be known without trying.
    fn ready(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Makes the file a read-only block device. Its path.
    fn attach(&self, file: &Path, request: &Request) -> Result<PathBuf, Error>;

    /// The block devices that show the file. An error if that cannot be known.
    fn devices(&self, file: &Path) -> Result<Vec<PathBuf>, Error>;

    /// Where file systems of the device are mounted that must be unmounted before it can be detached, the deepest last.
    fn mounts(&self, device: &Path) -> Result<Vec<PathBuf>, Error>;

    /// The device's own node and those of its partitions.
    fn nodes(&self, device: &Path) -> Vec<PathBuf>;

    /// What uses the device without a process that has it open: another device, a mount that cannot be seen from
    /// here. In words.
    fn used_by(&self, device: &Path) -> Option<String>;

    /// Takes the device away if it shows `file`, and returns when it is gone. That it is gone already is fine.
    /// With `force` also if it is in use, where the system has a way.
    fn detach(&self, device: &Path, file: &Path, force: bool) -> Result<(), Error>;

    /// Whether a device that could not go because it is in use goes by itself when it no longer is.
    fn goes_when_closed(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_sector_is_lost_to_a_sector_size_that_does_not_fit() {
        assert_eq!((sector_size(1 << 20, 4096), sector_size(1 << 20, 512)), (4096, 512));
        assert_eq!((sector_size((1 << 20) + 512, 4096), sector_size(1 << 20, 65536)), (512, 512));
        assert_eq!(sector_size(1000, 512), 512);
    }
}
