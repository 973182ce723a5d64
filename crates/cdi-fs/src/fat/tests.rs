//! Against volumes of mkfs.fat and mtools.

use std::path::{Path, PathBuf};

use super::testing::checks::Known;
use super::testing::tree::{Writer, fill};
use super::testing::{TempDir, have, run};

struct Mtools<'a> {
    dir: &'a Path,
    image: PathBuf,
}

impl Writer for Mtools<'_> {
    fn copy(&mut self, from: &Path) {
        let mut args =
            vec!["-s".to_owned(), "-o".to_owned(), "-i".to_owned(), self.image.display().to_string()];
        let mut entries: Vec<_> = std::fs::read_dir(from).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        args.extend(entries.iter().map(|path| path.display().to_string()));
        args.push("::".into());
        let args: Vec<&str> = args.iter().map(|arg| &**arg).collect();
        run("mcopy", &args, self.dir);
    }

    fn remove(&mut self, path: &str) {
        run("mdel", &["-i", &self.image.display().to_string(), &format!("::{path}")], self.dir);
    }
}

/// Makes a volume of `kib` KiB with `count` files.
fn volume(test: &str, options: &[&str], kib: u32, count: u32) -> Option<Known> {
    if !have(test, &["mkfs.fat", "mcopy", "mdel"]) {
        return None;
    }
    let dir = TempDir::new(test);
    let image = dir.0.join("fat.img");
    let (path, size) = (image.display().to_string(), kib.to_string());
    let args: Vec<&str> = options.iter().copied().chain(["-n", "LABEL", "-C", &path, &size]).collect();
    run("mkfs.fat", &args, &dir.0);
    let mut writer = Mtools { dir: &dir.0, image: image.clone() };
    let files = fill(&dir.0, count, &mut writer);
    if have(test, &["fsck.fat"]) {
        run("fsck.fat", &["-n", &path], &dir.0);
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
fn fat12() {
    if let Some(known) = volume("fat12", &["-F", "12"], 4096, 150) {
        check(&known);
    }
}

#[test]
fn fat16() {
    if let Some(known) = volume("fat16", &["-F", "16", "-s", "1"], 8192, 240) {
        check(&known);
    }
}

#[test]
fn fat32() {
    if let Some(known) = volume("fat32", &["-F", "32", "-s", "1"], 36_000, 300) {
        check(&known);
    }
}

#[test]
fn fat16_with_large_sectors() {
    if let Some(known) = volume("fat16-4k", &["-F", "16", "-s", "1", "-S", "4096"], 20_000, 200) {
        check(&known);
    }
}
