//! The declaration of tests, and the requirements that not every machine meets.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A test: its path in this crate, its requirements, and its body.
pub struct Test {
    pub path: &'static str,
    pub needs: &'static [Need],
    pub run: fn(),
}

impl Test {
    /// Returns the path without the crate.
    pub fn name(&self) -> &'static str {
        self.path.split_once("::").unwrap().1
    }
}

/// Declares the tests of a module: functions without arguments, each with its requirements besides Rust and a C compiler.
///
/// ```ignore
/// tests!(
///     #[needs(Fuse, Program("ddrescue"))]
///     fn a_bad_sector_is_an_error() { … }
/// );
/// ```
///
/// It defines a list, `TESTS`, which `main.rs` names. Parentheses, because rustfmt does not format what is in braces.
macro_rules! tests {
    ($($(#[doc = $doc:expr])* $(#[needs($($need:expr),+ $(,)?)])? fn $name:ident() $body:block)*) => {
        $($(#[doc = $doc])* fn $name() $body)*

        pub const TESTS: &[$crate::common::Test] = {
            #[allow(unused_imports)]
            use $crate::common::Need::*;
            &[$($crate::common::Test {
                path: concat!(module_path!(), "::", stringify!($name)),
                needs: &[$($($need),+)?],
                run: $name,
            }),*]
        };
    };
}

/// A requirement of a test that not every machine meets.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// Several requirements.
    All(&'static [Need]),
    /// /dev/fuse.
    Fuse,
    /// A /dev/fuse that every user may open, as udev makes it.
    FuseForAll,
    /// The right to create loop devices.
    Loop,
    /// A program on PATH.
    Program(&'static str),
    /// A C library's header.
    Header(&'static str),
    /// A module of the `python3` on PATH.
    Python(&'static str),
    /// Samples that are not part of the project.
    Corpus,
}

impl Need {
    /// Returns the names of the requirements that this machine does not meet.
    pub fn missing(self) -> Vec<&'static str> {
        match self {
            Need::All(needs) => needs.iter().flat_map(|need| need.missing()).collect(),
            one if one.is_there() => Vec::new(),
            one => vec![one.name()],
        }
    }

    pub fn is_there(self) -> bool {
        match self {
            Need::All(needs) => needs.iter().all(|need| need.is_there()),
            Need::Fuse => fs::File::options().read(true).write(true).open("/dev/fuse").is_ok(),
            Need::FuseForAll => {
                fs::metadata("/dev/fuse").is_ok_and(|m| m.permissions().mode() & 0o006 == 0o006)
            }
            Need::Loop => {
                nix::unistd::geteuid().is_root()
                    && Path::new("/dev/loop-control").exists()
                    && on_path("losetup")
            }
            Need::Program(name) => on_path(name),
            Need::Header(name) => Path::new("/usr/include").join(name).is_file(),
            Need::Python(module) => {
                let import = Command::new("python3").args(["-c", &format!("import {module}")]).output();
                import.is_ok_and(|ran| ran.status.success())
            }
            Need::Corpus => corpus().is_dir(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Need::All(_) => "several things",
            Need::Fuse => "/dev/fuse",
            Need::FuseForAll => "/dev/fuse open to all users (mode 0666)",
            Need::Loop => "loop devices (root)",
            Need::Program(name) | Need::Header(name) | Need::Python(name) => name,
            Need::Corpus => "samples (CDI_CORPUS)",
        }
    }
}

/// Returns how many cases a campaign of `all` has in this run: all of them with CDI_LONG set, as in CI, else a tenth. With
/// CDI_SEED, that one alone.
pub fn seeds(all: u64) -> std::ops::Range<u64> {
    let only = std::env::var("CDI_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    let is_long = std::env::var_os("CDI_LONG").is_some_and(|value| !value.is_empty());
    only.map_or(0..if is_long { all } else { all / 10 }, |n| n..n + 1)
}

/// Returns the directory of samples that are not part of the project: `CDI_CORPUS`, or one next to the project's.
pub fn corpus() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus");
    std::env::var_os("CDI_CORPUS").map_or_else(beside, PathBuf::from)
}

fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}
