//! Linux's loop devices, through util-linux's `losetup` and /sys.
//!
//! The settings and checks are the measured ones of docs/SEMANTICS.md: direct I/O is on, so that a bad sector does not
//! take the rest of its page with it; readahead is off if there are bad sectors; size and direct I/O are verified
//! afterwards, because for a file that it may not read the kernel creates a device of size 0 instead of reporting an
//! error.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cdi_base::error::{Error, Kind};
use cdi_base::units::SECTOR;
use cdi_system::{MountInfo, ask, mountinfo, open_kernel_device};

use super::{Attacher, Request};

/// Loop devices.
pub struct Losetup;

/// The device through which new loop devices are created.
const CONTROL: &str = "/dev/loop-control";
/// The readahead of a device without bad sectors, in bytes.
const READAHEAD: u64 = 4 << 20;
/// How long to wait for a device to be released once it is detached.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for losetup. With --partscan it reads the device.
const PROGRAM: Duration = Duration::from_secs(120);

impl Attacher for Losetup {
    fn name(&self) -> &'static str {
        "losetup"
    }

    fn ready(&self) -> Result<(), Error> {
        let Err(e) = open_kernel_device(Path::new(CONTROL), "loop") else { return Ok(()) };
        let unavailable = |what: &str| Error::new(Kind::Unavailable, what).at(Path::new(CONTROL));
        Err(match e.kind() {
            std::io::ErrorKind::PermissionDenied => unavailable("attaching a block device needs root")
                .hint("sudo cdi attach …; 'cdi mount' needs no root"),
            std::io::ErrorKind::NotFound => unavailable("no loop devices on this system").hint(
                "load the kernel's loop module (modprobe loop); in a container, pass in /dev (-v /dev:/dev)",
            ),
            _ => unavailable("cannot create loop devices"),
        }
        .because(e))
    }

    fn attach(&self, file: &Path, request: &Request) -> Result<PathBuf, Error> {
        if request.mount {
            let error = Error::usage("--mount is not supported on this system");
            return Err(error.hint("attach without --mount, then run: mount -o ro DEVICE DIR"));
        }
        let sector = request.sector;
        let mut losetup = Command::new("losetup");
        losetup
            .args(["--find", "--show", "--read-only", "--direct-io=on", "--sector-size"])
            .arg(sector.to_string());
        if request.partitions {
            losetup.arg("--partscan");
        }
        let device = PathBuf::from(run(losetup.arg("--").arg(file))?.trim());
        let check = || -> Result<(), Error> {
            let name = name(&device)?;
            let size = sys_number(&name, "size")? * u64::from(SECTOR);
            let expected = request.size - request.size % u64::from(sector);
            if size != expected {
                let what = format!(
                    "device has {size} bytes instead of {expected}: the kernel may not read the mounted file"
                );
                return Err(Error::new(Kind::Unavailable, what).at(&device));
            }
            if sys_number(&name, "loop/dio")? != 1 {
                let what = "the kernel refuses direct I/O on the device, so a bad sector would take its whole page with it";
                return Err(Error::new(Kind::Unavailable, what).at(&device));
            }
            let ahead = request.readahead.unwrap_or(if request.failing { 0 } else { READAHEAD });
            let path = format!("/sys/block/{name}/queue/read_ahead_kb");
            fs::write(&path, (ahead / 1024).to_string())
                .map_err(|e| Error::io("cannot set the readahead", Path::new(&path), e))
        };
        match check() {
            Ok(()) => Ok(device),
            Err(e) => {
                self.detach(&device, file, true)?;
                Err(e)
            }
        }
    }

    fn detaches_when_closed(&self) -> bool {
        true
    }

    fn devices(&self, file: &Path) -> Result<Vec<PathBuf>, Error> {
        let all = Path::new("/sys/block");
        let blocks = fs::read_dir(all).map_err(|e| Error::io("cannot read", all, e))?;
        let names = blocks.flatten().map(|b| b.file_name()).filter_map(|n| n.into_string().ok());
        let ours = names.filter(|n| n.starts_with("loop") && backing(n).is_some_and(|b| b == file));
        Ok(ours.map(|n| Path::new("/dev").join(n)).collect())
    }

    fn mounts(&self, device: &Path) -> Result<Vec<PathBuf>, Error> {
        let nodes = self.nodes(device);
        let number = |node: &PathBuf| {
            let name = node.file_name()?.to_str()?;
            fs::read_to_string(format!("/sys/class/block/{name}/dev")).ok().map(|n| n.trim().to_owned())
        };
        let numbers: Vec<String> = nodes.iter().filter_map(number).collect();
        // btrfs has device numbers of its own, so its mounts are recognized by their source.
        let ours =
            |m: &MountInfo| numbers.contains(&m.device) || nodes.iter().any(|n| Path::new(&m.source) == n);
        Ok(mountinfo()?.into_iter().filter(ours).map(|m| m.mountpoint).collect())
    }

    fn nodes(&self, device: &Path) -> Vec<PathBuf> {
        let Ok(name) = name(device) else { return Vec::new() };
        let parts = fs::read_dir(format!("/sys/block/{name}")).into_iter().flatten().flatten();
        let parts = parts.filter_map(|p| p.file_name().into_string().ok()).filter(|p| p.starts_with(&name));
        [device.to_owned()].into_iter().chain(parts.map(|p| Path::new("/dev").join(p))).collect()
    }

    fn used_by(&self, device: &Path) -> Option<String> {
        let nodes = self.nodes(device);
        let blocks = fs::read_dir("/sys/block").into_iter().flatten().flatten();
        let mut names = blocks.filter_map(|b| b.file_name().into_string().ok());
        if let Some(other) = names.find(|n| backing(n).is_some_and(|file| nodes.contains(&file))) {
            return Some(format!("/dev/{other}"));
        }
        if self.mounts(device).is_ok_and(|mounts| !mounts.is_empty()) {
            return None;
        }
        // A file system that is mounted where we cannot see it, or a device-mapper target, holds the device
        // exclusively.
        let exclusive = nix::fcntl::OFlag::O_EXCL.bits();
        let claimed = |node: &PathBuf| {
            let opened = fs::File::options().read(true).custom_flags(exclusive).open(node);
            opened.is_err_and(|e| e.kind() == std::io::ErrorKind::ResourceBusy)
        };
        nodes.iter().find(|node| claimed(node)).map(|_| "a file system or device in another namespace".into())
    }

    fn detach(&self, device: &Path, file: &Path, _: bool) -> Result<(), Error> {
        let name = name(device)?;
        // The loop device may have been reused. (After a lazy unmount the kernel only knows the last part of the file's
        // path.)
        let ours =
            || backing(&name).is_some_and(|b| b == file || Some(b.as_os_str()) == lost_name(file).as_deref());
        let start = Instant::now();
        while ours() {
            // The kernel reports success at once, but detaches the device only when its last user has closed it.
            let cleared = run(Command::new("losetup").arg("--detach").arg(device));
            if !ours() {
                break;
            }
            if start.elapsed() > TIMEOUT {
                let what = "device is still in use; it will be detached when it is closed";
                let busy = Error::new(Kind::Busy, what).at(device);
                return Err(match cleared {
                    Ok(_) => busy,
                    Err(e) => busy.because(e),
                });
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// Returns the path under which the kernel lists a file after a lazy unmount.
fn lost_name(file: &Path) -> Option<std::ffi::OsString> {
    Some(Path::new("/").join(file.file_name()?).into_os_string())
}

fn name(device: &Path) -> Result<String, Error> {
    let name = device.file_name().and_then(|n| n.to_str()).unwrap_or("");
    let is_loop =
        name.strip_prefix("loop").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    if is_loop { Ok(name.into()) } else { Err(Error::failed("not a loop device").at(device)) }
}

/// Returns the backing file of a loop device, if it has one.
fn backing(name: &str) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
    Some(PathBuf::from(text.trim_end_matches('\n')))
}

fn sys_number(name: &str, what: &str) -> Result<u64, Error> {
    let path = PathBuf::from(format!("/sys/block/{name}/{what}"));
    let text = fs::read_to_string(&path).map_err(|e| Error::io("cannot read", &path, e))?;
    text.trim()
        .parse()
        .map_err(|_| Error::failed(format!("contains '{}', which is not a number", text.trim())).at(&path))
}

fn run(losetup: &mut Command) -> Result<String, Error> {
    let output = ask(losetup, PROGRAM, "install util-linux (Debian: mount)").map_err(|e| {
        if !nix::unistd::geteuid().is_root() {
            e.hint("attaching a block device needs root: sudo cdi attach …")
        } else if let Some(node) = missing_node() {
            e.hint(node)
        } else {
            e
        }
    })?;
    Ok(String::from_utf8_lossy(&output).into_owned())
}

/// Returns advice if the kernel has a free loop device without a node in /dev, as in a container whose /dev was
/// populated only once.
pub fn missing_node() -> Option<String> {
    let free = ask(Command::new("losetup").arg("--find"), PROGRAM, "").ok();
    let name = match free {
        Some(free) => PathBuf::from(String::from_utf8_lossy(&free).trim()),
        // losetup does not name a device whose node is missing.
        None => {
            let blocks = fs::read_dir("/sys/block").ok()?.flatten().map(|b| b.file_name());
            let names = blocks.filter_map(|n| n.into_string().ok());
            let mut loops: Vec<u32> = names.filter_map(|n| n.strip_prefix("loop")?.parse().ok()).collect();
            loops.sort_unstable();
            loops.into_iter().map(|n| PathBuf::from(format!("/dev/loop{n}"))).find(|path| !path.exists())?
        }
    };
    if name.exists() {
        return None;
    }
    let number = name.to_str()?.strip_prefix("/dev/loop")?;
    Some(format!(
        "{0} has no device node (as in a container whose /dev is static): run 'mknod {0} b 7 {number}', or pass in /dev \
         (-v /dev:/dev)",
        name.display()
    ))
}
