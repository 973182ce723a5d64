//! Makes volumes with mke2fs, and fills them through the kernel.

use crate::skip::{is_there, skip};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A volume in a temporary directory; unmounted and removed when dropped.
pub(super) struct Made {
    directory: PathBuf,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Runs a program. None if it is missing or fails.
pub(super) fn run(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).stdin(Stdio::null()).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Makes a volume of `megabytes`. None, and a line, if that is not possible here.
pub(super) fn make(megabytes: u64, options: &str) -> Option<Made> {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("cdi-fs-ext-{}-{number}", std::process::id()));
    fs::create_dir_all(directory.join("mnt")).unwrap();
    let made = Made { directory };
    File::create(made.image()).unwrap().set_len(megabytes << 20).unwrap();
    let mut args: Vec<&str> = vec!["-q", "-F"];
    args.extend(options.split_whitespace());
    let image = made.image();
    args.push(image.to_str().unwrap());
    if run("mke2fs", &args).is_none() {
        if !is_there("mke2fs") {
            skip("mke2fs");
        }
        println!("SKIPPED: mke2fs {options} does not work here");
        return None;
    }
    Some(made)
}

/// Makes a volume and fills it with files of all sorts.
pub(super) fn filled(megabytes: u64, options: &str) -> Option<Made> {
    let made = make(megabytes, options)?;
    if !made.mount() {
        println!("SKIPPED: volumes made with mke2fs {options} cannot be mounted here");
        return None;
    }
    fill(&made.root());
    Some(made)
}

impl Made {
    pub(super) fn image(&self) -> PathBuf {
        self.directory.join("image")
    }

    pub(super) fn root(&self) -> PathBuf {
        self.directory.join("mnt")
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        fs::read(self.image()).unwrap()
    }

    pub(super) fn mount(&self) -> bool {
        let (image, root) = (self.image(), self.root());
        run("mount", &["-o", "loop", image.to_str().unwrap(), root.to_str().unwrap()]).is_some()
    }

    fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        mounts.lines().any(|line| line.split(' ').nth(4) == self.root().to_str())
    }

    pub(super) fn unmount(&self) -> bool {
        // A child that another thread has just forked holds this process's files open until it runs its program.
        (0..100).any(|_| {
            let done = run("umount", &[self.root().to_str().unwrap()]).is_some();
            if !done && self.is_mounted() {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            done || !self.is_mounted()
        })
    }

    /// Unmounts, and checks that e2fsck finds nothing.
    pub(super) fn finish(&self) {
        assert!(self.unmount());
        let image = self.image();
        let out = Command::new("e2fsck").args(["-fn", image.to_str().unwrap()]).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = self.unmount();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Returns bytes that differ from block to block.
pub(super) fn content(seed: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|n| (n.wrapping_mul(31).wrapping_add(n / 251).wrapping_add(seed * 7)).to_le_bytes()[0])
        .collect()
}

fn fill(root: &Path) {
    for d in 0..6 {
        let dir = root.join(format!("dir{d}"));
        fs::create_dir(&dir).unwrap();
        for (n, len) in [0, 1, 59, 60, 61, 150, 500, 1024, 4096, 5000, 30_000, 70_000].into_iter().enumerate()
        {
            fs::write(dir.join(format!("file{n}")), content(n + d, len)).unwrap();
        }
    }
    fs::write(root.join("large"), content(5, 1_500_000)).unwrap();
    holes(root);
    many(root);
    let deep = (0..8).fold(root.to_path_buf(), |path, n| path.join(format!("deep{n}")));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), b"here").unwrap();
    fs::hard_link(root.join("large"), deep.join("hard link")).unwrap();
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"no \xff text")), b"x").unwrap();
    fs::write(root.join("ä".repeat(100)), b"long name").unwrap();
    for len in [1, 30, 59, 60, 61, 140, 900] {
        symlink("l".repeat(len), root.join(format!("link{len}"))).unwrap();
    }
    let special =
        |args: &[&str]| run("mknod", &[&[root.join(args[0]).to_str().unwrap()], &args[1..]].concat());
    special(&["fifo", "p"]);
    special(&["device", "c", "1", "3"]);
    special(&["block device", "b", "7", "0"]);
    drop(std::os::unix::net::UnixListener::bind(root.join("socket")));
    run("setfacl", &["-m", "u:1234:r", root.join("large").to_str().unwrap()]);
}

/// Makes files with holes, with many extents, and with blocks that were not written.
fn holes(root: &Path) {
    let file = File::create(root.join("holes")).unwrap();
    for n in 0..450_u32 {
        file.write_all_at(&content(usize::try_from(n).unwrap(), 700), u64::from(n) * 8192 + 4096).unwrap();
    }
    file.set_len(450 * 8192 + 100_000).unwrap();
    let far = File::create(root.join("far")).unwrap();
    far.write_all_at(b"far away", 3 << 30).unwrap();
    File::create(root.join("nothing")).unwrap().set_len(1 << 30).unwrap();
    let path = root.join("unwritten");
    if run("fallocate", &["-l", "300000", path.to_str().unwrap()]).is_some() {
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&content(9, 9000), 100_000).unwrap();
    }
    let path = root.join("kept");
    fs::write(&path, content(3, 5000)).unwrap();
    run("fallocate", &["-n", "-o", "5000", "-l", "100000", path.to_str().unwrap()]);
}

/// Makes a directory with many names, of which some were removed.
fn many(root: &Path) {
    let dir = root.join("many");
    fs::create_dir(&dir).unwrap();
    for n in 0..900 {
        fs::write(dir.join(format!("a name of some length {n:06}")), [1]).unwrap();
    }
    for n in (0..900).step_by(3) {
        fs::remove_file(dir.join(format!("a name of some length {n:06}"))).unwrap();
    }
}
