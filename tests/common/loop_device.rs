//! Loop devices, and file systems on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::run;

/// A loop device; it is detached when the test ends, also by a panic.
pub struct LoopDevice {
    pub path: String,
}

impl LoopDevice {
    /// Attaches a file. The options are losetup's.
    #[track_caller]
    pub fn new(file: &Path, options: &[&str]) -> LoopDevice {
        let words = [&["--find", "--show"], options, &[file.to_str().unwrap()]].concat();
        LoopDevice { path: run("losetup", words).trim().to_owned() }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.path]).status();
    }
}

/// A file system on a loop device; it is unmounted when the test ends, also by a panic.
pub struct MountedDisk {
    pub device: LoopDevice,
    dir: PathBuf,
}

impl MountedDisk {
    /// Writes an ext4 to the file and mounts it at `dir`, which is created.
    #[track_caller]
    pub fn ext4(file: &Path, dir: PathBuf) -> MountedDisk {
        run("mkfs.ext4", ["-q", "-F", file.to_str().unwrap()]);
        MountedDisk::mount(LoopDevice::new(file, &[]), dir)
    }

    /// Mounts the file system that a device has.
    #[track_caller]
    pub fn mount(device: LoopDevice, dir: PathBuf) -> MountedDisk {
        fs::create_dir(&dir).unwrap();
        run("mount", [&*device.path, dir.to_str().unwrap()]);
        MountedDisk { device, dir }
    }
}

impl Drop for MountedDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.dir).status();
    }
}
