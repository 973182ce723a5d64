//! Against volumes of mkfs.exfat and exfat-fuse.

use std::path::{Path, PathBuf};

use super::entry::{Set, Stream};
use crate::fat::clusters::{Follower, Heap};
use crate::fat::table::{Layout, Table, Width};
use crate::fat::testing::checks::Known;
use crate::fat::testing::disk::{Disk, scan};
use crate::fat::testing::tree::{Writer, fill};
use crate::fat::testing::{TempDir, attempt, have, run};
use crate::file_system::{Data, Kind, Place, Run};

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
        mounted.inspect_err(|e| crate::skip::skip(&format!("a mount for {test}: {e}"))).ok()
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
    known.check_imaging();
    check_without_table(known);
    let (without, named) = known.check_each_sector();
    println!("{without} records were lost, {named} of them have names");
    known.check_maps(1000);
    known.check_corruptions(2000);
}

/// Without the table, contiguous files are still whole.
fn check_without_table(known: &Known) {
    let found = super::boot::find(&crate::volume::Volume::new(&known.image, 0..u64::MAX)).unwrap().unwrap();
    let table = found.boot.copies[0].clone();
    let disk = Disk::new(&known.image, (table.start / 512..table.end / 512).collect());
    let (_, found) = scan(&disk).unwrap();
    let whole = found.records.iter().filter(|r| r.kind == Kind::File && r.damage.is_none()).count();
    println!("{whole} of {} files are whole without the table", known.files.len());
    assert!(whole > 0);
}

#[test]
fn what_was_not_written_reads_as_zeros() {
    let mut stream = [0; 32];
    (stream[0], stream[1]) = (0xC0, 3);
    stream[8..16].copy_from_slice(&700u64.to_le_bytes());
    stream[20..24].copy_from_slice(&5u32.to_le_bytes());
    stream[24..32].copy_from_slice(&1500u64.to_le_bytes());
    let stream = Stream::parse(&stream).unwrap();
    let mut table = [0xFFu8; 512].to_vec();
    table.resize(64 << 10, 0);
    let layout = Layout { width: Width::Exfat, copies: vec![0], clusters: 50 };
    let volume = crate::volume::Volume::new(&table, 0..u64::MAX);
    let heap = Heap { start: 1024, cluster: 512, count: 50 };
    let mut follower = Follower::new(Table::new(&volume, &layout), heap);
    let record = super::record::record(&volume, &mut follower, &Set::default(), &stream, false);
    let run = |file, len, volume, unwritten| Run { file, len, volume: Some(volume), unwritten };
    let runs = vec![run(0, 700, 2560, false), run(700, 836, 3260, true)];
    assert_eq!(record.data, Data { size: 1500, place: Place::Runs(runs), packed: None });
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
