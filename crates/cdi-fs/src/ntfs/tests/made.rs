//! Makes volumes with mkntfs and ntfs-3g.

use crate::skip::skip;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::disk::Random;

/// A directory that is removed at the end, and what is mounted in it.
pub(super) struct Place {
    pub(super) path: PathBuf,
    server: Option<Child>,
}

impl Place {
    pub(super) fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("cdi-fs-ntfs-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(path.join("mnt")).unwrap();
        Place { path, server: None }
    }

    /// Mounts `image`, and returns whether that worked.
    fn mount(&mut self, image: &str) -> bool {
        let mnt = self.path.join("mnt");
        let options = "no_detach,compression,streams_interface=windows";
        let mut command = Command::new("ntfs-3g");
        command.args(["-o", options, image]).arg(&mnt).stdin(Stdio::null()).stderr(Stdio::null());
        let Ok(server) = command.stdout(Stdio::null()).spawn() else { return false };
        self.server = Some(server);
        for _ in 0..500 {
            if self.is_mounted() {
                return true;
            }
            if self.server.as_mut().is_some_and(|server| !matches!(server.try_wait(), Ok(None))) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// Unmounts, and waits until everything is written.
    fn unmount(&mut self) {
        for _ in 0..100 {
            if !self.is_mounted() || run("umount", &[self.path.join("mnt").to_str().unwrap()]) {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        if let Some(mut server) = self.server.take() {
            if self.is_mounted() {
                let _ = server.kill();
            }
            let _ = server.wait();
        }
    }

    fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mnt = self.path.join("mnt");
        mounts.lines().any(|line| line.split(' ').nth(1) == mnt.to_str())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.unmount();
        let _ = fs::remove_dir_all(&self.path);
    }
}

pub(super) fn run(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    let status = command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// A volume, and what ntfs-3g says is on it.
pub(super) struct Made {
    pub(super) bytes: Vec<u8>,
    pub(super) truth: Truth,
}

/// What is on a volume: by path.
pub(super) type Truth = BTreeMap<String, Entry>;

/// A file, directory or link.
pub(super) struct Entry {
    pub(super) number: u64,
    pub(super) parent: u64,
    pub(super) directory: bool,
    pub(super) contents: Vec<u8>,
    pub(super) target: Option<PathBuf>,
    pub(super) modified: i64,
}

/// Makes a volume of `size` MiB, with what `fill` makes on it. None if that cannot be done here.
pub(super) fn make(size: u64, mkntfs: &[&str], fill: impl FnOnce(&Path)) -> Option<Made> {
    let mut place = Place::new();
    let image = place.path.join("image");
    File::create(&image).unwrap().set_len(size << 20).unwrap();
    let image = image.to_str().unwrap();
    let mnt = place.path.join("mnt");
    if !run("mkntfs", &[&["-q", "-F", "-L", "Größe"], mkntfs, &[image]].concat()) {
        skip(&format!("mkntfs (or it refuses {mkntfs:?})"));
        return None;
    }
    if !place.mount(image) {
        skip("ntfs-3g (or it cannot mount)");
        return None;
    }
    fill(&mnt);
    let mut truth = Truth::new();
    walk(&mnt, "", &mut truth);
    place.unmount();
    Some(Made { bytes: fs::read(image).unwrap(), truth })
}

/// Lists a directory. The inode number of a file is that of its MFT record.
fn walk(directory: &Path, prefix: &str, truth: &mut Truth) {
    let parent = fs::metadata(directory).unwrap().ino();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        // ntfs-3g refuses reparse points that it does not know.
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let contents = if meta.is_file() { fs::read(&path).unwrap_or_default() } else { Vec::new() };
        let found = Entry {
            number: meta.ino(),
            parent,
            directory: meta.is_dir(),
            contents,
            target: fs::read_link(&path).ok(),
            modified: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
        };
        if meta.is_dir() {
            walk(&path, &format!("{name}/"), truth);
        }
        truth.insert(name, found);
    }
}

/// What every sector that [`tagged`] made begins with.
pub(super) const MARK: &[u8; 8] = b"cdi-mark";

/// Contents whose every 512 bytes say of which file they are, so that they are found on the volume without knowing runs.
pub(super) fn tagged(id: u32, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 512);
    let mut random = Random(u64::from(id) + 1);
    while bytes.len() < size {
        let sector = u32::try_from(bytes.len() / 512).unwrap();
        bytes.extend_from_slice(MARK);
        bytes.extend_from_slice(&id.to_le_bytes());
        bytes.extend_from_slice(&sector.to_le_bytes());
        (0..62).for_each(|_| bytes.extend_from_slice(&random.next().to_le_bytes()));
    }
    bytes.truncate(size);
    bytes
}

/// The file and the sector of it that each sector of the volume has, as [`tagged`] marked them.
pub(super) fn marks(bytes: &[u8]) -> Vec<Option<(u32, u32)>> {
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    let mark = |sector: &[u8]| (number(&sector[8..12]), number(&sector[12..16]));
    bytes.chunks_exact(512).map(|sector| sector.starts_with(MARK).then(|| mark(sector))).collect()
}

/// Fills a volume with 400 tagged files `f0` to `f399` in 20 directories.
pub(super) fn many(mnt: &Path) {
    let mut random = Random(7);
    let mut directories = vec![mnt.to_path_buf()];
    for number in 0..20 {
        let parent = &directories[usize::try_from(random.below(directories.len() as u64)).unwrap()];
        let directory = parent.join(format!("directory {number}"));
        fs::create_dir(&directory).unwrap();
        directories.push(directory);
    }
    for id in 0..400 {
        let directory = &directories[usize::try_from(random.below(directories.len() as u64)).unwrap()];
        let size = if id % 5 == 0 { random.below(700) } else { 700 + random.below(40_000) };
        // The last sector has a whole mark.
        let size = if size % 512 < 16 { size - size % 512 } else { size };
        fs::write(directory.join(format!("f{id}")), tagged(id, usize::try_from(size).unwrap())).unwrap();
    }
}

/// One of each kind of file.
pub(super) fn kinds(mnt: &Path) {
    let at = |name: &str| mnt.join(name);
    fs::write(at("resident"), b"small").unwrap();
    fs::hard_link(at("resident"), at("hard link")).unwrap();
    fs::write(at("resident:stream"), b"in the record").unwrap();
    fs::write(at("resident:large stream"), tagged(9000, 50_000)).unwrap();
    symlink("resident", at("link")).unwrap();
    fs::write(at(&"ü".repeat(255)), b"long name").unwrap();
    fs::write(at("\u{1F600} emoji"), b"").unwrap();
    let sparse = File::create(at("sparse")).unwrap();
    sparse.set_len(3_000_000).unwrap();
    sparse.write_all_at(&tagged(9001, 10_000), 1_000_000).unwrap();
    let mut short = File::create(at("initialized in part")).unwrap();
    short.write_all(&tagged(9002, 5000)).unwrap();
    short.set_len(300_000).unwrap();
    fs::write(at("a long name.text"), b"with a short one").unwrap();
    run(
        "setfattr",
        &["-n", "system.ntfs_dos_name", "-v", "ALONGN~1.TEX", at("a long name.text").to_str().unwrap()],
    );
    fs::create_dir(at("big directory")).unwrap();
    for number in 0..400 {
        fs::write(at("big directory").join(format!("a file with the number {number}")), b"").unwrap();
    }
    (0..400).step_by(3).for_each(|number| {
        fs::remove_file(at("big directory").join(format!("a file with the number {number}"))).unwrap();
    });
    compressed(mnt);
}

/// Files in a directory whose files are compressed.
fn compressed(mnt: &Path) {
    let directory = mnt.join("compressed");
    fs::create_dir(&directory).unwrap();
    run("setfattr", &["-n", "system.ntfs_attrib_be", "-v", "0x00000810", directory.to_str().unwrap()]);
    let text: Vec<u8> =
        (0u32..40_000).flat_map(|n| format!("line {} of many\n", n * n % 977).into_bytes()).collect();
    for (name, size) in
        [("tiny", 20), ("one unit", 65_536), ("text", 500_000), ("odd", 65_537), ("less", 65_535)]
    {
        fs::write(directory.join(name), &text[..size]).unwrap();
    }
    fs::write(directory.join("random"), tagged(9003, 300_001)).unwrap();
    let mixed = [&text[..70_000], &tagged(9004, 140_000), &vec![0; 200_000], &text[..100]].concat();
    fs::write(directory.join("mixed"), mixed).unwrap();
    let holes = File::create(directory.join("holes")).unwrap();
    holes.write_all_at(&text[..100_000], 1_000_000).unwrap();
    holes.write_all_at(&text[..10], 1_500_000).unwrap();
}

/// Fills the volume with files of one cluster, removes every other, and writes one large file to the gaps.
pub(super) fn fragments(mnt: &Path) {
    let mut count = 0;
    let name = |number: u32| mnt.join(format!("x{number}"));
    while fs::write(name(count), tagged(count, 4096)).is_ok() {
        count += 1;
    }
    (0..=count).filter(|n| n % 2 == 0).for_each(|n| {
        let _ = fs::remove_file(name(n));
    });
    let len = 4096 * (usize::try_from(count).unwrap() / 2 - 200);
    fs::write(mnt.join("large"), tagged(9005, len)).unwrap();
    fs::write(mnt.join("large:stream"), tagged(9006, 4096 * 50)).unwrap();
    // More records than there is room for in one piece.
    let mut more = 0;
    while more < 1500 && File::create(mnt.join(format!("empty {more}"))).is_ok() {
        more += 1;
    }
}
