//! Mounted and attached images, and what is left of them.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::checks::{Checks, must, wait_until};
use crate::disks::{PAGE, try_open};

/// A page that nothing has read before, in bytes from the start of the disk.
const AT: u64 = 700 * PAGE as u64;

/// A mount record of cdi.
pub struct Mount {
    dir: PathBuf,
    device: Option<PathBuf>,
    pub pid: i32,
}

impl Mount {
    /// Runs `cdi attach`.
    pub fn attach(c: &mut Checks, what: &str, args: &[&str]) -> Mount {
        Self::start(c, what, "attach", args)
    }

    /// Runs `cdi mount` on a new directory.
    pub fn mount(c: &mut Checks, what: &str, args: &[&str]) -> Mount {
        let _ = fs::create_dir("mnt");
        Self::start(c, what, "mount", &[args, &["mnt"]].concat())
    }

    fn start(c: &mut Checks, what: &str, verb: &str, args: &[&str]) -> Mount {
        let ran = c.cdi(&[&[verb, "--json"], args].concat());
        c.code(what, &ran, 0);
        let record = ran.json();
        let path = |key: &str| record[key].as_str().map(PathBuf::from);
        Mount {
            dir: path("mountpoint").unwrap_or_else(|| panic!("{what}: {ran:?}")),
            device: path("device"),
            pid: i32::try_from(record["pid"].as_i64().unwrap()).unwrap(),
        }
    }

    pub fn device(&self) -> PathBuf {
        self.device.clone().unwrap()
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn file(&self) -> PathBuf {
        self.dir.join("disk.raw")
    }

    /// Detaches or unmounts, and checks that nothing is left.
    pub fn detach(&self, c: &mut Checks, what: &str) {
        let verb = if self.device.is_some() { "detach" } else { "unmount" };
        let ran = c.cdi(&[verb, "-q", self.dir.to_str().unwrap()]);
        c.code(what, &ran, 0);
        c.same(&format!("{what}: left over"), left_over(), Vec::new());
    }

    /// Sends a signal to the daemon.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid), signal).unwrap();
        if signal == Signal::SIGKILL {
            assert!(wait_until(|| !Path::new(&format!("/proc/{}", self.pid)).exists()));
        }
        if signal == Signal::SIGSTOP {
            // A thread that is running stops a little later, and may answer until then.
            assert!(wait_until(|| self.threads().iter().all(|state| *state == 'T')));
        }
    }

    /// Returns the states of the daemon's threads, as /proc has them.
    fn threads(&self) -> Vec<char> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten().flatten();
        let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
        // After the name, which is in brackets and may have any characters.
        stats.filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next()).collect()
    }

    /// Reads a page from the device, or else from `disk.raw` through the cache. Returns the
    /// errno, and how long it took.
    pub fn read_error(&self) -> (Option<i32>, Duration) {
        let (path, direct) =
            self.device.as_ref().map_or((self.file(), false), |device| (device.clone(), true));
        let start = Instant::now();
        let mut buffer = vec![0; 2 * PAGE];
        let aligned = buffer.as_ptr().align_offset(PAGE);
        // The NFS client asks the server already when the file is opened.
        let result =
            try_open(&path, direct).and_then(|f| f.read_at(&mut buffer[aligned..aligned + PAGE], AT));
        (result.err().and_then(|e| e.raw_os_error()), start.elapsed())
    }
}

/// Returns the mounts, loop devices and records of cdi.
pub fn left_over() -> Vec<String> {
    let mut left: Vec<String> = Vec::new();
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    left.extend(mounts.lines().filter(|l| l.contains("cdi")).map(str::to_owned));
    left.extend(must("losetup", &["--all"]).lines().map(str::to_owned));
    // Records, and mount points that cdi made. Its lock, and its notes on mounts that were removed, stay.
    for dir in ["/run/cdi", "/run/cdi/mnt"] {
        let paths = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
        let stays = |path: &PathBuf| ["mnt", "past", "commands.lock"].iter().any(|name| path.ends_with(name));
        left.extend(paths.filter(|path| !stays(path)).map(|path| path.display().to_string()));
    }
    left
}

/// Returns whether a kernel module is loaded (or built in, with parameters).
pub fn is_loaded(module: &str) -> bool {
    Path::new("/sys/module").join(module).exists()
}

/// Returns a setting of a block device from /sys.
pub fn setting(device: &Path, what: &str) -> String {
    let path = Path::new("/sys/block").join(device.file_name().unwrap()).join(what);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
}
