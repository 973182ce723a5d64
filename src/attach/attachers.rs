//! The ways to attach a shown disk that this system may have, and which of them is taken.

use std::path::{Path, PathBuf};

use cdi_base::error::{Error, Kind};

use super::attacher::{Attacher, Request};
#[cfg(target_os = "linux")]
use super::losetup;
use super::{diskutil, hdiutil};

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
    let there: Vec<_> = all.iter().filter(|a| cdi_system::has_program(a.name())).copied().collect();
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
