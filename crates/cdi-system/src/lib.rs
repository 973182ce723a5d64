//! Queries to the operating system: mounts, the processes that use them, whether a process is stopped; and programs
//! that are run with a timeout. A failed query is an error, never an empty result: otherwise an existing mount would
//! be forgotten.

#[cfg(target_os = "linux")]
mod linux;
// Its parsers are tested on every system.
#[cfg(any(not(target_os = "linux"), test))]
#[cfg_attr(target_os = "linux", allow(dead_code, unreachable_pub))]
mod macos;

pub mod confine;
pub mod liveness_lock;
pub mod output_file;
pub mod placement;
pub mod sense;
#[cfg(target_os = "linux")]
mod sg_io;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use cdi_base::error::{Error, Kind};
#[cfg(target_os = "linux")]
use linux::ignored_signals;
#[cfg(target_os = "linux")]
pub use linux::{
    disk_info, find_again, has_stopped_child, holders, is_hardware, is_loop_device, is_stopped, layers_below,
    mountinfo, own_program, path_of_open, usb_disks,
};
#[cfg(not(target_os = "linux"))]
use macos::ignored_signals;
#[cfg(not(target_os = "linux"))]
pub use macos::{
    disk_info, find_again, has_stopped_child, holders, is_hardware, is_loop_device, is_stopped, layers_below,
    mountinfo, mounts_on, own_program, path_of_open, usb_disks,
};

#[cfg(not(target_os = "linux"))]
pub use sense::SenseDevice;
#[cfg(target_os = "linux")]
pub use sg_io::SenseDevice;

/// Where the mounts are listed, in the directory that a confined process needs for it ([`confine::Needs`]): a rule for
/// the file itself, which each process has of its own, would be forgotten with its inode.
pub const MOUNTS: &str = "/proc";
/// The file system type of our FUSE mounts on Linux.
pub const FUSE_TYPE: &str = "fuse.cdi";
/// The file system type of our FSKit mounts.
pub const FSKIT_TYPE: &str = "cdi";
/// The prefix of the source of our NFS mounts. The rest is secret.
pub const NFS_SOURCE: &str = "127.0.0.1:/cdi-";
/// The prefix of the source of our macFUSE mounts: their file system type is the driver's.
pub const MACFUSE_SOURCE: &str = "cdi:";

/// A mount, as listed by the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// The device number of the mounted file system, `major:minor`; empty where the system does not
    /// report it.
    pub device: String,
    /// The mount point.
    pub mountpoint: PathBuf,
    /// The file system type.
    pub fstype: String,
    /// The mounted device or file.
    pub source: String,
    /// The upper directory of an overlay, which receives its writes.
    pub upper: Option<PathBuf>,
}

impl MountInfo {
    /// Checks whether cdi made this mount. No other mount is ever unmounted.
    pub fn is_cdi_mount(&self) -> bool {
        self.fstype == FUSE_TYPE
            || self.fstype == FSKIT_TYPE
            || self.source.starts_with(NFS_SOURCE)
            || (self.fstype.contains("fuse") && self.source.starts_with(MACFUSE_SOURCE))
    }
}

/// Counts our mounts at `mountpoint`, visible or covered by other mounts.
pub fn cdi_mounts_at(mountpoint: &Path) -> Result<usize, Error> {
    Ok(mountinfo()?.into_iter().filter(|m| m.mountpoint == mountpoint && m.is_cdi_mount()).count())
}

/// Returns the topmost mount at `mountpoint`, if something is mounted there.
pub fn mounted_at(mountpoint: &Path) -> Result<Option<MountInfo>, Error> {
    Ok(mountinfo()?.into_iter().rev().find(|m| m.mountpoint == mountpoint))
}

/// A process that uses something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process ID.
    pub pid: i32,
    /// Its name.
    pub name: String,
}

/// Information about a disk from the operating system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskInfo {
    /// Its size in bytes.
    pub size: u64,
    /// Its logical sector size in bytes.
    pub logical: u32,
    /// Its physical sector size in bytes.
    pub physical: u32,
    /// Its model.
    pub model: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// An identifier that the system assigns to each disk it sees: a different disk in its place has a different one.
    pub sequence: Option<String>,
}

impl DiskInfo {
    /// Returns whether `now` is the same disk, perhaps under another name: by its serial number, if it has one.
    pub fn is_same(&self, now: &DiskInfo) -> bool {
        let known = |a: &Option<String>, b: &Option<String>| a.is_none() || a == b;
        self.size == now.size && known(&self.model, &now.model) && known(&self.serial, &now.serial)
    }
}

/// A device or file that another file or device is stored on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer {
    /// A block device, by the system's name for it: `8:1`, `disk2s1`.
    Device(String),
    /// A file that backs a device.
    File {
        /// Its device and inode numbers.
        id: (u64, u64),
        /// Its path.
        path: PathBuf,
    },
}

/// Returns unpredictable random bytes.
pub fn random() -> Result<[u8; 32], Error> {
    let source = Path::new("/dev/urandom");
    let mut bytes = [0; 32];
    File::open(source)
        .and_then(|mut random| random.read_exact(&mut bytes))
        .map_err(|e| Error::io("cannot read", source, e))?;
    Ok(bytes)
}

/// Returns the signals that should terminate this process. Signals that were ignored when the process started stay
/// ignored: SIGHUP under nohup, SIGINT in a background job of a script. Must be called before the first handler is
/// installed.
pub fn ending_signals() -> Vec<i32> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    static IGNORED: OnceLock<Vec<i32>> = OnceLock::new();
    let ignored = IGNORED.get_or_init(ignored_signals);
    [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| !ignored.contains(signal)).collect()
}

/// Makes a write past the file size limit (`ulimit -f`) return an error instead of killing the process.
pub fn ignore_file_size_signal() {
    use std::sync::atomic::AtomicBool;
    // Without the handler the signal kills the process, as it would have anyway.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::new(AtomicBool::new(false)));
}

/// Keeps this process's memory, which holds a secret, out of core files, and from other processes of its user. On Linux
/// only. A program that it starts is not affected.
pub fn keep_memory_private() {
    #[cfg(target_os = "linux")]
    if let Err(e) = nix::sys::prctl::set_dumpable(false) {
        log::warn!("if this process crashes, keys may be in its core file: {e}");
    }
}

/// Raises this process's limit of open files to the maximum: every connection and every part of an image needs one.
pub fn raise_open_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, max)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // macOS reports no limit, but rejects values above this.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, max.min(10_240), max);
    }
}

/// Checks whether a program of this name is in the PATH.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// Timeout for modprobe.
const MODPROBE: Duration = Duration::from_secs(20);

/// Opens a device of the kernel for reading and writing. If it is missing or has no driver, root loads the kernel module
/// first, as far as that is possible (Linux only). Returns the error of opening the device, never one of loading.
pub fn open_kernel_device(device: &Path, module: &str) -> io::Result<File> {
    let may_load = cfg!(target_os = "linux") && nix::unistd::geteuid().is_root();
    open_or_load(device, may_load, || {
        // If this fails, opening the device fails again, and says more than modprobe.
        let _ = ask(Command::new("modprobe").args(["--quiet", "--", module]), MODPROBE, "");
    })
}

fn open_or_load(device: &Path, may_load: bool, load: impl FnOnce()) -> io::Result<File> {
    use nix::errno::Errno;
    let open = || File::options().read(true).write(true).open(device);
    match open() {
        Err(e)
            if may_load
                && matches!(
                    e.raw_os_error().map(Errno::from_raw),
                    Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO)
                ) =>
        {
            load();
            open()
        }
        opened => opened,
    }
}

/// Checks whether a kernel module is there and could be loaded by root. Loads nothing.
pub fn has_kernel_module(module: &str) -> bool {
    ask(Command::new("modprobe").args(["--dry-run", "--quiet", "--", module]), MODPROBE, "").is_ok()
}

/// Runs a program and returns its stdout. Kills it if it takes longer than `timeout`. Returns [`Kind::Unavailable`]
/// with `hint` if the program cannot be run, or with the program's own message if it fails.
pub fn ask(command: &mut Command, timeout: Duration, hint: &str) -> Result<Vec<u8>, Error> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = run_within(command, timeout).map_err(|e| match e.kind() {
        io::ErrorKind::TimedOut => {
            Error::failed(format!("{name} did not answer within {} s", timeout.as_secs()))
        }
        _ => Error::new(Kind::Unavailable, format!("cannot run {name}")).because(e).hint(hint),
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let mut output_text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output_text.is_empty() {
        output_text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    }
    Err(Error::new(Kind::Unavailable, format!("{name}: {output_text}")))
}

/// Runs a program until it exits, or kills it after `timeout`.
pub fn run_within(command: &mut Command, timeout: Duration) -> io::Result<Output> {
    // In its own process group, so that only we receive a Ctrl-C.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn()?;
    let stdout = read_pipe(child.stdout.take())?;
    let stderr = read_pipe(child.stderr.take())?;
    let start = Instant::now();
    let mut pause = Duration::from_micros(200);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > timeout {
            // Its children, too: the whole process group.
            if let Ok(pid) = i32::try_from(child.id()) {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(-pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
            let _ = child.kill();
            // Not for longer: a process that waits for a device cannot end.
            for _ in 0..100 {
                if child.try_wait().is_ok_and(|ended| ended.is_some()) {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    };
    // A child of the program may keep the pipes open: do not wait for its output.
    let text = |from: std::sync::mpsc::Receiver<Vec<u8>>| {
        from.recv_timeout(Duration::from_secs(2)).unwrap_or_default()
    };
    Ok(Output { status, stdout: text(stdout), stderr: text(stderr) })
}

/// Reads a pipe on a separate thread, so that the program never blocks on it. Keeps at most 16 MiB.
fn read_pipe(pipe: Option<impl Read + Send + 'static>) -> io::Result<std::sync::mpsc::Receiver<Vec<u8>>> {
    let (send, receive) = channel();
    thread::Builder::new().name("pipe".into()).spawn(move || {
        let mut text = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.by_ref().take(16 << 20).read_to_end(&mut text);
            let _ = io::copy(&mut pipe, &mut io::sink());
        }
        let _ = send.send(text);
    })?;
    Ok(receive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_run_with_a_timeout() {
        let output_text =
            ask(Command::new("sh").args(["-c", "yes | head -c 1000000"]), Duration::from_secs(20), "");
        assert_eq!(output_text.unwrap().len(), 1_000_000);
        let slow = ask(Command::new("sleep").arg("60"), Duration::from_millis(50), "").unwrap_err();
        assert!(slow.what.contains("did not answer"), "{slow}");
        let failed = ask(Command::new("sh").args(["-c", "echo no >&2; exit 3"]), Duration::from_secs(20), "");
        assert_eq!(failed.unwrap_err().what, "sh: no");
        let absent = ask(&mut Command::new("no-such-program"), Duration::from_secs(1), "get it").unwrap_err();
        assert_eq!((absent.kind, absent.advice), (Kind::Unavailable, vec!["get it".into()]));
    }

    #[test]
    fn a_module_is_loaded_only_for_a_missing_device_and_only_by_root() {
        let dir = std::env::temp_dir().join(format!("cdi-test-modules-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let device = dir.join("device");
        let loaded = std::cell::Cell::new(0);
        let load = || {
            loaded.set(loaded.get() + 1);
            File::create(&device).unwrap();
        };
        let missing = open_or_load(&device, false, load).unwrap_err();
        assert_eq!((missing.kind(), loaded.get()), (io::ErrorKind::NotFound, 0));
        // Loading did not help: the error is that of opening.
        let missing = open_or_load(&device, true, || ()).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert!(open_or_load(&device, true, load).is_ok());
        assert_eq!(loaded.get(), 1);
        // It is there now. Another error is not a reason to load a module.
        assert!(open_or_load(&device, true, load).is_ok());
        assert!(open_or_load(&dir, true, load).is_err());
        assert_eq!(loaded.get(), 1);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn only_mounts_made_by_cdi_are_ours() {
        let mount = |fstype: &str, source: &str| MountInfo {
            device: String::new(),
            mountpoint: "/m".into(),
            fstype: fstype.into(),
            source: source.into(),
            upper: None,
        };
        assert!(mount("fuse.cdi", "/a").is_cdi_mount());
        assert!(mount("nfs", "127.0.0.1:/cdi-12").is_cdi_mount());
        assert!(mount("macfuse", "cdi:/a.cdimg").is_cdi_mount());
        assert!(mount("cdi", "/a.cdimg").is_cdi_mount());
        assert!(!mount("fuse.sshfs", "cdi@host:").is_cdi_mount());
        assert!(!mount("nfs", "127.0.0.1:/export").is_cdi_mount());
        assert!(!mount("ext4", "cdi:/a").is_cdi_mount());
    }
}
