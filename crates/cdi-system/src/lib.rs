//! What the system tells: what is mounted, who uses it, whether a process is stopped; and programs, asked for an answer
//! and not waited for without end. What could not be asked is an error, and never "nothing": who took it for that would
//! forget what is there.

#[cfg(target_os = "linux")]
mod linux;
// Tests read what it reads everywhere.
#[cfg(any(not(target_os = "linux"), test))]
#[cfg_attr(target_os = "linux", allow(dead_code, unreachable_pub))]
mod macos;

pub mod liveness_lock;
pub mod output_file;
pub mod placement;

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
pub use linux::{disk_info, holders, is_stopped, layers_below, mountinfo, path_of_open};
#[cfg(not(target_os = "linux"))]
use macos::ignored_signals;
#[cfg(not(target_os = "linux"))]
pub use macos::{disk_info, holders, is_stopped, layers_below, mountinfo, path_of_open};

/// The type of our FUSE mounts on Linux.
pub const FUSE_TYPE: &str = "fuse.cdi";
/// The type of our FSKit mounts.
pub const FSKIT_TYPE: &str = "cdi";
/// What the source of our NFS mounts begins with. The rest of it is nobody's business.
pub const NFS_SOURCE: &str = "127.0.0.1:/cdi-";
/// What the source of our macFUSE mounts begins with: their type is the driver's own.
pub const MACFUSE_SOURCE: &str = "cdi:";

/// A mount, as the system lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// The device number of the mounted file system, `major:minor`; empty where the system does not tell.
    pub device: String,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The type of the file system.
    pub fstype: String,
    /// What is mounted.
    pub source: String,
    /// Where an overlay keeps what is written to it.
    pub upper: Option<PathBuf>,
}

impl MountInfo {
    /// Whether a cdi made it. No other mount is ever taken away.
    pub fn is_ours(&self) -> bool {
        self.fstype == FUSE_TYPE
            || self.fstype == FSKIT_TYPE
            || self.source.starts_with(NFS_SOURCE)
            || (self.fstype.contains("fuse") && self.source.starts_with(MACFUSE_SOURCE))
    }
}

/// How many of our mounts are at `mountpoint`, on top or covered.
pub fn ours_at(mountpoint: &Path) -> Result<usize, Error> {
    Ok(mountinfo()?.into_iter().filter(|m| m.mountpoint == mountpoint && m.is_ours()).count())
}

/// The mount at `mountpoint` that is on top, if something is mounted there.
pub fn mounted_at(mountpoint: &Path) -> Result<Option<MountInfo>, Error> {
    Ok(mountinfo()?.into_iter().rev().find(|m| m.mountpoint == mountpoint))
}

/// A process that uses something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: i32,
    /// Its name.
    pub name: String,
}

/// What the system knows of a disk.
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
    /// Which of the disks that the system has seen it is: another one in its place has another.
    pub sequence: Option<String>,
}

/// What a file or a device lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer {
    /// A block device, by the system's own name for it: `8:1`, `disk2s1`.
    Device(String),
    /// A file that is shown as a device.
    File {
        /// Its device and inode.
        id: (u64, u64),
        /// Where it is.
        path: PathBuf,
    },
}

/// Bytes that nobody can guess.
pub fn random() -> Result<[u8; 32], Error> {
    let source = Path::new("/dev/urandom");
    let mut bytes = [0; 32];
    File::open(source)
        .and_then(|mut random| random.read_exact(&mut bytes))
        .map_err(|e| Error::io("cannot be read", source, e))?;
    Ok(bytes)
}

/// Returns the signals that ask this process to end. One that it was started to ignore stays ignored: SIGHUP under nohup,
/// SIGINT in a background job of a script. To be asked before the first handler is set.
pub fn ending_signals() -> Vec<i32> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    static IGNORED: OnceLock<Vec<i32>> = OnceLock::new();
    let ignored = IGNORED.get_or_init(ignored_signals);
    [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| !ignored.contains(signal)).collect()
}

/// Makes a write past the limit of a file's size (`ulimit -f`) an error, and not the end of the process.
pub fn survive_file_limits() {
    use std::sync::atomic::AtomicBool;
    // Without the handler the process ends as it would have.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::new(AtomicBool::new(false)));
}

/// Allows this process as many open files as it may have: connections are files, and so are an image's parts.
pub fn allow_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // macOS says "no limit" and takes no more than this.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most.min(10_240), most);
    }
}

/// Whether a program of this name can be found.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// Asks a program: what it prints on stdout. It is ended if it takes longer than `timeout`.
/// [`Kind::Unavailable`] if there is no such program, with `hint`, or if it fails, with what it says.
pub fn ask(command: &mut Command, timeout: Duration, hint: &str) -> Result<Vec<u8>, Error> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = run(command, timeout).map_err(|e| match e.kind() {
        io::ErrorKind::TimedOut => {
            Error::failed(format!("{name} did not answer within {} s", timeout.as_secs()))
        }
        _ => Error::new(Kind::Unavailable, format!("{name} cannot be run")).because(e).hint(hint),
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let mut said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.is_empty() {
        said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    }
    Err(Error::new(Kind::Unavailable, format!("{name}: {said}")))
}

/// Runs a program to its end, or ends it after `timeout`.
fn run(command: &mut Command, timeout: Duration) -> io::Result<Output> {
    // In a process group of its own: a Ctrl-C is ours to answer.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn()?;
    let stdout = gather(child.stdout.take())?;
    let stderr = gather(child.stderr.take())?;
    let start = Instant::now();
    let mut pause = Duration::from_micros(200);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > timeout {
            let _ = child.kill();
            let _ = child.wait();
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    };
    // A child of its own may keep the pipes open; what it says is not waited for.
    let text = |from: std::sync::mpsc::Receiver<Vec<u8>>| {
        from.recv_timeout(Duration::from_secs(2)).unwrap_or_default()
    };
    Ok(Output { status, stdout: text(stdout), stderr: text(stderr) })
}

/// Reads a pipe on a thread of its own, so that the program never waits for us; at most 16 MiB are kept.
fn gather(pipe: Option<impl Read + Send + 'static>) -> io::Result<std::sync::mpsc::Receiver<Vec<u8>>> {
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
    fn a_program_is_heard_and_not_waited_for_without_end() {
        let said = ask(Command::new("sh").args(["-c", "yes | head -c 1000000"]), Duration::from_secs(20), "");
        assert_eq!(said.unwrap().len(), 1_000_000);
        let slow = ask(Command::new("sleep").arg("60"), Duration::from_millis(50), "").unwrap_err();
        assert!(slow.what.contains("did not answer"), "{slow}");
        let failed = ask(Command::new("sh").args(["-c", "echo no >&2; exit 3"]), Duration::from_secs(20), "");
        assert_eq!(failed.unwrap_err().what, "sh: no");
        let absent = ask(&mut Command::new("no-such-program"), Duration::from_secs(1), "get it").unwrap_err();
        assert_eq!((absent.kind, absent.advice), (Kind::Unavailable, vec!["get it".into()]));
    }

    #[test]
    fn only_what_a_cdi_mounted_is_ours() {
        let mount = |fstype: &str, source: &str| MountInfo {
            device: String::new(),
            mountpoint: "/m".into(),
            fstype: fstype.into(),
            source: source.into(),
            upper: None,
        };
        assert!(mount("fuse.cdi", "/a").is_ours());
        assert!(mount("nfs", "127.0.0.1:/cdi-12").is_ours());
        assert!(mount("macfuse", "cdi:/a.cdimg").is_ours());
        assert!(mount("cdi", "/a.cdimg").is_ours());
        assert!(!mount("fuse.sshfs", "cdi@host:").is_ours());
        assert!(!mount("nfs", "127.0.0.1:/export").is_ours());
        assert!(!mount("ext4", "cdi:/a").is_ours());
    }
}
