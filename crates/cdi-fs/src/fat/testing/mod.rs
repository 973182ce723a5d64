//! For tests of file systems: volumes made by other programs, whose files are known by what is in them.
//!
//! Each sector of 512 bytes of a file begins with the number of the file and of the sector, so that an image itself says whose a
//! sector is.

pub(crate) mod checks;
pub(crate) mod disk;
pub(crate) mod tree;

use crate::skip::{is_there, skip};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory that is removed at the end.
pub(crate) struct TempDir(pub(crate) PathBuf);

impl TempDir {
    pub(crate) fn new(name: &str) -> TempDir {
        let path = std::env::temp_dir().join(format!("cdi-fs-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Returns whether all of these programs are there. Says so if not.
pub(crate) fn have(test: &str, programs: &[&str]) -> bool {
    let missing: Vec<&str> = programs.iter().copied().filter(|program| !is_there(program)).collect();
    if !missing.is_empty() {
        skip(&format!("{} (for {test})", missing.join(", ")));
    }
    missing.is_empty()
}

/// Runs a program, which must succeed, and returns what it prints.
pub(crate) fn run(program: &str, args: &[&str], dir: &Path) -> String {
    attempt(program, args, dir).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs a program. An error has what it printed.
pub(crate) fn attempt(program: &str, args: &[&str], dir: &Path) -> Result<String, String> {
    let path = format!("{}:/sbin:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(program);
    command.args(args).current_dir(dir).env("LC_ALL", "C.UTF-8").env("TZ", "UTC").env("PATH", path);
    let output = command.env("MTOOLS_SKIP_CHECK", "1").output().map_err(|e| format!("{program}: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(format!("{program} {args:?}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// Random numbers, the same each time.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit.max(1)
    }

    pub(crate) fn index(&mut self, limit: usize) -> usize {
        usize::try_from(self.below(limit as u64)).unwrap()
    }
}
