//! Against volumes of mkfs.exfat and exfat-fuse.

use std::path::{Path, PathBuf};

use crate::fat::testing::checks::Known;
use crate::fat::testing::tree::{Writer, fill};
use crate::fat::testing::{TempDir, attempt, have, run};

/// A volume that is mounted, on a loop device.
struct Mounted {
    dir: PathBuf,
    device: String,
}

impl Mounted {
    /// None, and says so, if nothing can be mounted here.
    fn new(test: &str, image: &Path, dir: &Path) -> Option<Mounted> {
        let mount = dir.join("mnt");
        std::fs::create_dir_all(&mount).unwrap();
        let mounted =
            attempt("losetup", &["-f", "--show", &image.display().to_string()], dir).and_then(|device| {
                let device = device.trim().to_owned();
                let mounted = Mounted { dir: mount.clone(), device: device.clone() };
                attempt("mount.exfat-fuse", &[&device, &mount.display().to_string()], dir).map(|_| mounted)
            });
        mounted.inspect_err(|e| println!("SKIPPED {test}: {e}")).ok()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = attempt("umount", &[&self.dir.display().to_string()], Path::new("/"));
        let _ = attempt("losetup", &["-d", &self.device], Path::new("/"));
    }
}

impl Writer for Mounted {
    fn copy(&mut self, from: &Path) {
        run("cp", &["-r", &format!("{}/.", from.display()), &self.dir.display().to_string()], from);
    }

    fn remove(&mut self, path: &str) {
        std::fs::remove_file(self.dir.join(path)).unwrap();
    }
}

/// Makes a volume with `count` files.
fn volume(test: &str, options: &[&str], size: &str, count: u32) -> Option<Known> {
    if !have(test, &["mkfs.exfat", "mount.exfat-fuse", "losetup"]) {
        return None;
    }
    let dir = TempDir::new(test);
    let image = dir.0.join("exfat.img");
    let path = image.display().to_string();
    run("truncate", &["-s", size, &path], &dir.0);
    let args: Vec<&str> = options.iter().copied().chain(["-L", "Läbel", &*path]).collect();
    run("mkfs.exfat", &args, &dir.0);
    let mut mounted = Mounted::new(test, &image, &dir.0)?;
    let files = fill(&dir.0, count, &mut mounted);
    drop(mounted);
    if have(test, &["fsck.exfat"]) {
        run("fsck.exfat", &["-n", &path], &dir.0);
    }
    Some(Known::new(std::fs::read(&image).unwrap(), files))
}

fn check(known: &Known) {
    let (without, named) = known.check_each_sector();
    println!("{without} records were lost, {named} of them have names");
    known.check_maps(1000);
    known.check_corruptions(2000);
}

#[test]
fn clusters_of_a_sector() {
    if let Some(known) = volume("exfat-512", &["-c", "512"], "16M", 240) {
        check(&known);
    }
}

#[test]
fn clusters_of_4_kib() {
    if let Some(known) = volume("exfat-4k", &["-c", "4096"], "32M", 240) {
        check(&known);
    }
}
