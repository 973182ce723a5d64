//! /Volumes, where people look for volumes on a Mac.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cdi_system::mounted_at;

const VOLUMES: &str = "/Volumes";

/// Returns the directory in /Volumes in which this user can make mount points: `cdi`, if it belongs to this user alone, or
/// /Volumes itself for root. None on other systems.
pub fn parent() -> Option<PathBuf> {
    if !cfg!(target_os = "macos") {
        return None;
    }
    let volumes = Path::new(VOLUMES);
    shared(volumes).or_else(|| nix::unistd::geteuid().is_root().then(|| volumes.to_owned()))
}

/// Returns the directory that is for mount points of cdi alone, so that empty directories in it can be removed.
pub fn own() -> Option<PathBuf> {
    if cfg!(target_os = "macos") { shared(Path::new(VOLUMES)) } else { None }
}

/// Returns the directory `cdi` of `volumes`, if it is this user's, nobody else can write to it, and nothing is mounted there.
pub fn shared(volumes: &Path) -> Option<PathBuf> {
    let shared = volumes.join("cdi");
    // What is mounted there is not accessed: its server may hang.
    let is_free = || matches!(mounted_at(&shared), Ok(None));
    let user = nix::unistd::geteuid().as_raw();
    let is_ours = |m: fs::Metadata| m.is_dir() && m.uid() == user && m.mode() & 0o022 == 0;
    (volumes.is_dir() && is_free() && fs::symlink_metadata(&shared).is_ok_and(is_ours)).then_some(shared)
}
