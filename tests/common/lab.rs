//! A directory for a test, and the program run in it.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{disk, mapfile};

/// A directory for one test, with a runtime directory for the program in it. Anything mounted or attached there is
/// removed when the test ends, also by a panic.
pub struct Lab {
    pub dir: PathBuf,
}

impl Lab {
    pub fn new() -> Lab {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("cdi-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().canonicalize().unwrap().join(name);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        Lab { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The program, set up for this lab.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cdi"));
        command.env("CDI_RUNTIME_DIR", self.path("run")).current_dir(&self.dir);
        command.env("XDG_CACHE_HOME", self.path("cache"));
        command
    }

    pub fn cdi<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        self.command().args(args).output().unwrap().into()
    }

    /// Writes a file.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// A disk of `sectors` sectors, imaged with the bad `ranges` (first sector, sectors): `disk.raw`, `disk.map` and
    /// `disk.cdimg` in the lab. Gives the disk's bytes.
    pub fn image(&self, sectors: u64, sector: u64, ranges: &[(u64, u64)]) -> Vec<u8> {
        let disk = disk(sectors * sector);
        self.write("disk.raw", &disk);
        self.write("disk.map", mapfile(sectors, sector, ranges));
        let code = if ranges.is_empty() { 0 } else { 4 };
        let size = sector.to_string();
        self.cdi(["create", "disk.raw", "disk.cdimg", "--mapfile", "disk.map", "--sector-size", &size])
            .ends(code);
        disk
    }

    /// Attaches `disk.cdimg`. The device.
    pub fn attach(&self, options: &[&str]) -> PathBuf {
        let ran = self.cdi(["attach", "disk.cdimg"].iter().chain(options)).ends(0);
        PathBuf::from(ran.out.trim())
    }

    /// Whatever of this lab is mounted or attached.
    pub fn leftovers(&self) -> String {
        // With a slash at the end, so that lab 7 does not count what is of lab 70.
        leftovers_below(&self.dir.join(""))
    }
}

/// How a run of the program ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Asserts the exit code.
    #[track_caller]
    pub fn ends(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e} in {}", self.out))
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let records = fs::read_dir(self.path("run")).into_iter().flatten().flatten().map(|e| e.path());
        for record in records.filter(|p| p.extension().is_some_and(|x| x == "json")) {
            let text = fs::read(&record).unwrap_or_default();
            let record: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
            if let Some(dir) = record["mountpoint"].as_str() {
                let _ = self.cdi(["unmount", "--force", dir]);
            }
        }
        // Mounts by other programs in this directory.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for mountpoint in mounts.lines().rev().filter_map(|l| l.split(' ').nth(4)) {
            if Path::new(mountpoint).starts_with(&self.dir) {
                let _ = Command::new("umount").args(["-l", mountpoint]).status();
            }
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Mounts and loop devices of any test of this run.
pub fn leftovers() -> String {
    leftovers_below(
        &std::env::temp_dir().canonicalize().unwrap().join(format!("cdi-test-{}-", std::process::id())),
    )
}

fn leftovers_below(prefix: &Path) -> String {
    let prefix = prefix.to_str().unwrap();
    let mut left = String::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().filter(|l| l.contains(prefix)).for_each(|l| left += &format!("mount: {l}\n"));
    for block in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let file = fs::read_to_string(block.path().join("loop/backing_file")).unwrap_or_default();
        if file.starts_with(prefix) {
            left += &format!("{}: {file}", block.path().display());
        }
    }
    left
}

/// Runs a program, asserts that it succeeds, and returns its output on stdout.
#[track_caller]
pub fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> String {
    let mut command = Command::new(program);
    command.args(args);
    let mut once = || Ran::from(command.output().unwrap_or_else(|e| panic!("{program}: {e}")));
    let mut ran = once();
    // A child that another thread has just forked holds this process's files open until it runs its program.
    for _ in 0..100 {
        if program != "umount" || ran.code == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
        ran = once();
    }
    ran.ends(0).out
}

/// Runs a program as a filter, asserts that it succeeds, and returns its output on stdout.
#[track_caller]
pub fn filter(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let out = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(out.status.success(), "{program} {args:?}: {}", out.status);
    out.stdout
}
