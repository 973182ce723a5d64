//! How a shown disk becomes a block device, and stops being one.

mod apple;
pub mod diskutil;
pub mod hdiutil;
#[cfg(target_os = "linux")]
pub mod losetup;
mod told;

use std::path::{Path, PathBuf};

use crate::error::{Error, Kind};
use crate::units::SECTOR;

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

/// All that there are, in the order in which they are tried; the first is this system's own.
#[cfg(target_os = "linux")]
const ALL: &[&dyn Attacher] = &[&losetup::Losetup, &hdiutil::HDIUTIL, &diskutil::DISKUTIL];
#[cfg(not(target_os = "linux"))]
const ALL: &[&dyn Attacher] = &[&hdiutil::HDIUTIL, &diskutil::DISKUTIL];

/// How many of them are tried where the user names none.
const OWN: usize = if cfg!(target_os = "linux") { 1 } else { ALL.len() };

/// The attacher of this name.
pub fn named(name: &str) -> Option<&'static dyn Attacher> {
    ALL.iter().find(|a| a.name() == name).copied()
}

/// The attachers that may be tried: the one that the user named, or those of this system. [`Kind::Unavailable`] if none
/// of them is there.
pub fn candidates(with: Option<&str>) -> Result<Vec<&'static dyn Attacher>, Error> {
    let all = match with {
        Some(name) => named(name).into_iter().collect(),
        None => ALL[..OWN].to_vec(),
    };
    let there: Vec<_> = all.iter().filter(|a| crate::system::has_program(a.name())).copied().collect();
    if there.is_empty() {
        let names: Vec<_> = all.iter().map(|a| a.name()).collect();
        let error = Error::new(Kind::Unavailable, format!("no {} on this system", names.join(", no ")));
        return Err(error.hint("'cdi doctor' says what attaching needs"));
    }
    Ok(there)
}

/// Says whether one of the candidates can make a block device, as far as that can be known without trying.
pub fn ready(with: Option<&str>) -> Result<(), Error> {
    let mut first = Ok(());
    for attacher in candidates(with)? {
        match attacher.ready() {
            Ok(()) => return Ok(()),
            Err(e) => first = first.and(Err(e)),
        }
    }
    first
}

/// Makes the file a read-only block device, by the first of the candidates that can. Its path, and who did it.
pub fn attach(
    file: &Path,
    request: &Request,
    with: Option<&str>,
) -> Result<(PathBuf, &'static dyn Attacher), Error> {
    first_that_can(&candidates(with)?, file, request)
}

fn first_that_can(
    candidates: &[&'static dyn Attacher],
    file: &Path,
    request: &Request,
) -> Result<(PathBuf, &'static dyn Attacher), Error> {
    let mut first = None;
    for attacher in candidates {
        match attacher.attach(file, request) {
            Ok(device) => return Ok((device, *attacher)),
            Err(e) => {
                log::info!("{} does not attach it: {e}", attacher.name());
                // It is the best of them, and so is what it says.
                first = first.or(Some(e));
            }
        }
    }
    Err(first.unwrap_or_else(|| Error::new(Kind::Unavailable, "nothing can attach on this system")))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake(&'static str, bool);

    impl Attacher for Fake {
        fn name(&self) -> &'static str {
            self.0
        }
        fn attach(&self, _: &Path, _: &Request) -> Result<PathBuf, Error> {
            if self.1 { Ok(self.0.into()) } else { Err(Error::failed(self.0)) }
        }
        fn devices(&self, _: &Path) -> Result<Vec<PathBuf>, Error> {
            Ok(Vec::new())
        }
        fn mounts(&self, _: &Path) -> Result<Vec<PathBuf>, Error> {
            Ok(Vec::new())
        }
        fn nodes(&self, _: &Path) -> Vec<PathBuf> {
            Vec::new()
        }
        fn used_by(&self, _: &Path) -> Option<String> {
            None
        }
        fn detach(&self, _: &Path, _: &Path, _: bool) -> Result<(), Error> {
            Ok(())
        }
    }

    #[test]
    fn no_sector_is_lost_to_a_sector_size_that_does_not_fit() {
        assert_eq!((sector_size(1 << 20, 4096), sector_size(1 << 20, 512)), (4096, 512));
        assert_eq!((sector_size((1 << 20) + 512, 4096), sector_size(1 << 20, 65536)), (512, 512));
        assert_eq!(sector_size(1000, 512), 512);
    }

    #[test]
    fn where_the_first_cannot_the_next_one_is_tried_and_the_first_one_s_words_are_told() {
        let request = Request {
            size: 512,
            sector: 512,
            failing: false,
            partitions: false,
            readahead: None,
            mount: false,
        };
        let attach = |all: &[&'static dyn Attacher]| first_that_can(all, Path::new("/f"), &request);
        let (device, by) =
            attach(&[&Fake("old", false), &Fake("new", true)]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((device, by.name()), ("new".into(), "new"));
        let Err(e) = attach(&[&Fake("old", false), &Fake("new", false)]) else { panic!("none could") };
        assert_eq!(e.what, "old");
        assert!(attach(&[]).is_err());
    }
}
