//! The attachers that this system may have, and the choice between them.

use std::path::{Path, PathBuf};

use cdi_base::error::{Error, Kind};

use super::attacher::{Attacher, Request};
#[cfg(target_os = "linux")]
use super::losetup;
use super::{diskutil, hdiutil};

/// All attachers, in the order in which they are tried; the first is the native one of this system.
#[cfg(target_os = "linux")]
const ALL: &[&dyn Attacher] = &[&losetup::Losetup, &hdiutil::HDIUTIL, &diskutil::DISKUTIL];
#[cfg(not(target_os = "linux"))]
const ALL: &[&dyn Attacher] = &[&hdiutil::HDIUTIL, &diskutil::DISKUTIL];

/// The number of attachers that are tried if the user names none.
const OWN: usize = if cfg!(target_os = "linux") { 1 } else { ALL.len() };

/// Returns the attacher of this name.
pub fn named(name: &str) -> Option<&'static dyn Attacher> {
    ALL.iter().find(|a| a.name() == name).copied()
}

/// Returns the attachers to try: the one that the user named, or those of this system. [`Kind::Unavailable`] if none of
/// them is installed.
pub fn candidates(with: Option<&str>) -> Result<Vec<&'static dyn Attacher>, Error> {
    let all = match with {
        Some(name) => named(name).into_iter().collect(),
        None => ALL[..OWN].to_vec(),
    };
    let there: Vec<_> = all.iter().filter(|a| cdi_system::has_program(a.name())).copied().collect();
    if there.is_empty() {
        let names: Vec<_> = all.iter().map(|a| a.name()).collect();
        let error = Error::new(Kind::Unavailable, format!("{} not found on this system", names.join(" or ")));
        return Err(error.hint("run 'cdi doctor' to see what attaching needs"));
    }
    Ok(there)
}

/// Checks whether one of the candidates can create a block device, as far as that can be determined without trying.
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

/// Attaches the file as a read-only block device with the first candidate that succeeds. Returns the path of the device
/// and the attacher.
pub fn attach(
    file: &Path,
    request: &Request,
    with: Option<&str>,
) -> Result<(PathBuf, &'static dyn Attacher), Error> {
    attach_with_first(&candidates(with)?, file, request)
}

fn attach_with_first(
    candidates: &[&'static dyn Attacher],
    file: &Path,
    request: &Request,
) -> Result<(PathBuf, &'static dyn Attacher), Error> {
    let mut first = None;
    for attacher in candidates {
        match attacher.attach(file, request) {
            Ok(device) => return Ok((device, *attacher)),
            Err(e) => {
                log::info!("{} cannot attach it: {e}", attacher.name());
                // The first attacher is the preferred one, so its error is the one to report.
                first = first.or(Some(e));
            }
        }
    }
    Err(first.unwrap_or_else(|| Error::new(Kind::Unavailable, "no program to attach with on this system")))
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
    fn the_next_attacher_is_tried_and_the_error_of_the_first_is_reported() {
        let request = Request {
            size: 512,
            sector: 512,
            failing: false,
            partitions: false,
            readahead: None,
            mount: false,
        };
        let attach = |all: &[&'static dyn Attacher]| attach_with_first(all, Path::new("/f"), &request);
        let (device, by) =
            attach(&[&Fake("old", false), &Fake("new", true)]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((device, by.name()), ("new".into(), "new"));
        let Err(e) = attach(&[&Fake("old", false), &Fake("new", false)]) else {
            panic!("both attachers fail")
        };
        assert_eq!(e.what, "old");
        assert!(attach(&[]).is_err());
    }
}
