//! How a shown disk becomes a block device, and stops being one.

#[cfg(target_os = "linux")]
pub mod losetup;

use std::path::{Path, PathBuf};

use crate::error::Error;

/// What the block device is to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The size of the disk in bytes.
    pub size: u64,
    /// The logical sector size of the disk in bytes.
    pub sector: u32,
    /// Whether reads of the disk fail somewhere: the kernel then must not read ahead.
    pub failing: bool,
    /// Whether the kernel is to look for partitions.
    pub partitions: bool,
    /// How far the kernel is to read ahead, in bytes, if the user says so.
    pub readahead: Option<u64>,
}

/// A way to turn a shown disk into a block device, and back.
pub trait Attacher {
    /// Makes the file a read-only block device. Its path.
    fn attach(&self, file: &Path, request: &Request) -> Result<PathBuf, Error>;

    /// The block devices that show the file. Does not touch the file itself, which may hang.
    fn devices(&self, file: &Path) -> Vec<PathBuf>;

    /// Where file systems of the device are mounted, the deepest last.
    fn mounts(&self, device: &Path) -> Vec<PathBuf>;

    /// The device's own node and those of its partitions.
    fn nodes(&self, device: &Path) -> Vec<PathBuf>;

    /// What uses the device without a process that has it open: another device, a mount that cannot be seen from
    /// here. In words.
    fn used_by(&self, device: &Path) -> Option<String>;

    /// Takes the device away if it shows `file`, and returns when it is gone. That it is gone already is fine.
    fn detach(&self, device: &Path, file: &Path) -> Result<(), Error>;
}

/// The way that this system has.
pub fn attacher() -> Result<&'static dyn Attacher, Error> {
    #[cfg(target_os = "linux")]
    return Ok(&losetup::Losetup);
    #[cfg(not(target_os = "linux"))]
    Err(Error::new(crate::error::Kind::Unavailable, "this build cannot attach on this system"))
}
