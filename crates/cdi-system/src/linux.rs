//! Queries to Linux, by way of /proc and /sys.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use cdi_base::error::Error;

use super::{DiskInfo, Holder, Layer, MountInfo};

/// Returns all mounts, in the order in which they were made.
pub fn mountinfo() -> Result<Vec<MountInfo>, Error> {
    let path = Path::new("/proc/self/mountinfo");
    let text = fs::read(path).map_err(|e| Error::io("cannot read", path, e))?;
    Ok(text.split(|b| *b == b'\n').filter_map(parse_mountinfo).collect())
}

/// Parses a line as described in proc(5):
/// `id parent major:minor root mountpoint options [fields…] - type source options`.
fn parse_mountinfo(line: &[u8]) -> Option<MountInfo> {
    let mut words = line.split(|b| *b == b' ');
    let device = String::from_utf8(words.nth(2)?.to_vec()).ok()?;
    let mountpoint = PathBuf::from(OsString::from_vec(unescape(words.nth(1)?)));
    let mut rest = words.skip_while(|w| *w != b"-").skip(1);
    let fstype = String::from_utf8_lossy(rest.next()?).into_owned();
    let source = String::from_utf8_lossy(&unescape(rest.next()?)).into_owned();
    let options = rest.next().unwrap_or_default().split(|b| *b == b',');
    let upper = options.filter(|_| fstype == "overlay").find_map(|o| o.strip_prefix(b"upperdir="));
    let upper = upper.map(|upper| PathBuf::from(OsString::from_vec(unescape(upper))));
    Some(MountInfo { device, mountpoint, fstype, source, upper })
}

/// Decodes octal escapes: spaces and the like are written as `\040`.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(word.len());
    let mut at = 0;
    while at < word.len() {
        let octal = word.get(at + 1..at + 4).filter(|_| word[at] == b'\\');
        let octal = octal.and_then(|o| u8::from_str_radix(std::str::from_utf8(o).ok()?, 8).ok());
        out.push(octal.unwrap_or(word[at]));
        at += if octal.is_some() { 4 } else { 1 };
    }
    out
}

/// Returns the processes, other than this one and `except`, that have `path` or something below it open or as their
/// working directory. Only includes those that this user may inspect.
pub fn holders(path: &Path, except: i32) -> Vec<Holder> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|p| p.file_name().to_str()?.parse::<i32>().ok());
    let own = std::process::id();
    let uses_path = |pid: &i32| {
        let points_there = |link: PathBuf| fs::read_link(link).is_ok_and(|to| to.starts_with(path));
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let fds = fs::read_dir(proc.join("fd")).into_iter().flatten().flatten();
        points_there(proc.join("cwd")) || fds.into_iter().any(|fd| points_there(fd.path()))
    };
    pids.filter(|pid| *pid != except && i64::from(*pid) != i64::from(own))
        .filter(uses_path)
        .map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            Holder { pid, name: name.trim().to_owned() }
        })
        .collect()
}

/// Checks whether the process is stopped (SIGSTOP, a debugger): it will not answer.
pub fn is_stopped(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // proc(5): the state follows the name, which is in parentheses and may contain any character.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
}

/// Checks whether a program that the process has started is stopped.
pub fn has_stopped_child(pid: i32) -> bool {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|child| child.parse().ok()).any(is_stopped)
}

/// Returns a path by which this program can be started once more, even if its file was replaced or removed.
pub fn own_program() -> io::Result<PathBuf> {
    const RUNNING: &str = "/proc/self/exe";
    let path = std::env::current_exe()?;
    let file = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    let same = file(&path).is_ok_and(|found| file(Path::new(RUNNING)).is_ok_and(|running| running == found));
    Ok(if same { path } else { RUNNING.into() })
}

/// Returns the ignored signals, from the kernel's mask.
pub(super) fn ignored_signals() -> Vec<i32> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    (1..=64).filter(|signal| mask >> (signal - 1) & 1 == 1).collect()
}

/// Returns information about the block device at `path`. For a partition, the model and serial number are those of its
/// disk.
pub fn disk_info(path: &Path) -> Result<DiskInfo, Error> {
    let device = fs::metadata(path).map_err(|e| Error::io("cannot examine", path, e))?.rdev();
    let number = number(device);
    // sysfs-block: the directory of a partition is inside that of its disk.
    let own = PathBuf::from(format!("/sys/dev/block/{number}"));
    let own =
        own.canonicalize().map_err(|e| Error::failed("the device no longer exists").at(path).because(e))?;
    let disk = if own.join("partition").exists() { own.join("..") } else { own.clone() };
    let text = |path: PathBuf| {
        let text = fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        text.filter(|text| !text.is_empty())
    };
    let number_in = |path: PathBuf| text(path).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let sector = |name: &str| u32::try_from(number_in(disk.join("queue").join(name))).unwrap_or(0);
    // The serial number that udev got from the drive itself, otherwise the one from the driver.
    let udev = fs::read_to_string(format!("/run/udev/data/b{number}")).unwrap_or_default();
    let udev_property = |name: &str| udev.lines().find_map(|l| l.strip_prefix(name)).map(str::to_owned);
    let page = fs::read(disk.join("device/vpd_pg80")).ok();
    let page = page.and_then(|page| Some(String::from_utf8_lossy(page.get(4..)?).trim().to_owned()));
    Ok(DiskInfo {
        size: number_in(own.join("size")).saturating_mul(512),
        logical: sector("logical_block_size"),
        physical: sector("physical_block_size"),
        model: text(disk.join("device/model")),
        serial: udev_property("E:ID_SERIAL_SHORT=")
            .or_else(|| text(disk.join("device/serial")))
            .or_else(|| text(disk.join("serial")))
            .or(page.filter(|serial| !serial.is_empty())),
        sequence: text(disk.join("diskseq")),
    })
}

/// Returns the disks that are connected through USB adapters: their names, and what the adapters are.
pub fn usb_disks() -> Vec<(String, String)> {
    let disks = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let found = disks.filter_map(|disk| {
        let own = disk.path().canonicalize().ok()?;
        // The device that has these numbers is the adapter.
        let adapter = own.ancestors().find(|dir| dir.join("idVendor").exists())?;
        let text = |name: &str| fs::read_to_string(adapter.join(name)).map(|text| text.trim().to_owned());
        let (vendor, product) = (text("idVendor").ok()?, text("idProduct").ok()?);
        let names =
            [text("manufacturer"), text("product")].into_iter().flatten().collect::<Vec<_>>().join(" ");
        Some((disk.file_name().to_string_lossy().into_owned(), format!("{names} ({vendor}:{product})")))
    });
    let mut found: Vec<_> = found.collect();
    found.sort_unstable();
    found
}

/// Returns whether the device at `path`, or the disk that it is a part of, is a drive, as opposed to something that software
/// makes.
pub fn is_hardware(path: &Path) -> bool {
    let Ok(meta) = fs::metadata(path) else { return false };
    let own = PathBuf::from(format!("/sys/dev/block/{}", number(meta.rdev())));
    let Ok(own) = own.canonicalize() else { return false };
    let is_virtual = own.components().any(|part| part.as_os_str().as_encoded_bytes().starts_with(b"virtio"));
    !is_virtual && (own.join("device").exists() || own.join("../device").exists())
}

/// The kernel's number for loop devices (Documentation/admin-guide/devices.txt).
const LOOP_MAJOR: u64 = 7;

/// Returns whether `path` is a loop device.
pub fn is_loop_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| {
        meta.file_type().is_block_device() && nix::sys::stat::major(meta.rdev()) == LOOP_MAJOR
    })
}

/// Returns the timeout of the system for commands to the disk at `path`, in milliseconds, if it says so; None if it is a
/// partition, or no SCSI disk.
pub(super) fn command_timeout(path: &Path) -> Option<Option<u32>> {
    let own = PathBuf::from(format!("/sys/dev/block/{}", number(fs::metadata(path).ok()?.rdev())));
    let own = own.canonicalize().ok()?;
    if own.join("partition").exists() || !own.join("device/scsi_level").exists() {
        return None;
    }
    let seconds = fs::read_to_string(own.join("device/timeout")).ok();
    Some(seconds.and_then(|text| text.trim().parse::<u32>().ok()?.checked_mul(1000)))
}

/// Returns where the disk is that was at `path`: there, or, if it has a serial number, under another name.
pub fn find_again(path: &Path, known: &DiskInfo) -> Option<PathBuf> {
    let is_it = |path: &PathBuf| disk_info(path).is_ok_and(|now| known.is_same(&now));
    let names = fs::read_dir("/sys/class/block").into_iter().flatten().flatten();
    let others = names.map(|entry| Path::new("/dev").join(entry.file_name()));
    let others = others.filter(|_| known.serial.is_some());
    std::iter::once(path.to_owned()).chain(others).find(is_it)
}

/// Returns the current path of an open file.
pub fn path_of_open(file: &File) -> Option<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

/// Returns the layers that the file or device at `path` is stored on, including itself if it is a device: its disk,
/// the devices or the file below a device-mapper or loop device, the device of the file system, and so on down.
/// Unknown layers are left out.
pub fn layers_below(path: &Path) -> Vec<Layer> {
    let mut finder = LayerFinder { found: Vec::new(), mounts: mountinfo().unwrap_or_default() };
    match fs::metadata(path) {
        Ok(meta) if meta.file_type().is_block_device() => finder.device(&number(meta.rdev())),
        Ok(meta) => finder.file_system(path, meta.dev()),
        Err(_) => {}
    }
    finder.found
}

fn number(device: u64) -> String {
    format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device))
}

struct LayerFinder {
    found: Vec<Layer>,
    mounts: Vec<MountInfo>,
}

impl LayerFinder {
    fn device(&mut self, number: &str) {
        let layer = Layer::Device(number.to_owned());
        if self.found.contains(&layer) {
            return;
        }
        self.found.push(layer);
        let Ok(own) = Path::new("/sys/dev/block").join(number).canonicalize() else { return };
        let number_in = |dir: PathBuf| fs::read_to_string(dir.join("dev")).ok().map(|n| n.trim().to_owned());
        if own.join("partition").exists()
            && let Some(disk) = number_in(own.join(".."))
        {
            self.device(&disk);
        }
        for slave in fs::read_dir(own.join("slaves")).into_iter().flatten().flatten() {
            if let Some(slave) = number_in(slave.path()) {
                self.device(&slave);
            }
        }
        if let Ok(file) = fs::read_to_string(own.join("loop/backing_file")) {
            self.backing_file(Path::new(file.trim_end_matches('\n')));
        }
    }

    fn backing_file(&mut self, path: &Path) {
        let Ok(meta) = fs::metadata(path) else { return };
        if meta.file_type().is_block_device() {
            return self.device(&number(meta.rdev()));
        }
        self.found.push(Layer::File { id: (meta.dev(), meta.ino()), path: path.to_owned() });
        self.file_system(path, meta.dev());
    }

    /// Adds the device of the file system that contains `path`. `device` is the device number that its files report.
    fn file_system(&mut self, path: &Path, device: u64) {
        if nix::sys::stat::major(device) != 0 {
            return self.device(&number(device));
        }
        // btrfs and others report device numbers of their own, so look up the device in the list of mounts.
        let Ok(path) = path.canonicalize() else { return };
        let mounts = self.mounts.iter().rev().filter(|m| path.starts_with(&m.mountpoint));
        let Some(mount) = mounts.max_by_key(|m| m.mountpoint.components().count()).cloned() else { return };
        if let Some(upper) = &mount.upper {
            // Writes to an overlay go to its upper directory.
            if let Ok(meta) = fs::metadata(upper) {
                self.file_system(upper, meta.dev());
            }
            return;
        }
        let Ok(meta) = fs::metadata(&mount.source) else { return };
        if !meta.file_type().is_block_device() {
            return;
        }
        let source = number(meta.rdev());
        // A btrfs file system may span several devices.
        for volume in fs::read_dir("/sys/fs/btrfs").into_iter().flatten().flatten() {
            let devices = fs::read_dir(volume.path().join("devices")).into_iter().flatten().flatten();
            let numbers = devices.filter_map(|d| fs::read_to_string(d.path().join("dev")).ok());
            let numbers: Vec<String> = numbers.map(|n| n.trim().to_owned()).collect();
            if numbers.contains(&source) {
                numbers.iter().for_each(|n| self.device(n));
            }
        }
        self.device(&source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_parsed_with_its_escapes() {
        let line =
            br"36 35 98:0 /mnt1 /mnt/a\040b\134c rw,noatime master:1 - fuse.cdi /x\011y rw,errors=continue";
        let expect = MountInfo {
            device: "98:0".into(),
            mountpoint: "/mnt/a b\\c".into(),
            fstype: "fuse.cdi".into(),
            source: "/x\ty".into(),
            upper: None,
        };
        let overlay = br"1 2 0:5 / /o rw - overlay overlay rw,lowerdir=/a,upperdir=/b\040c,workdir=/w";
        assert_eq!(parse_mountinfo(overlay).and_then(|m| m.upper), Some("/b c".into()));
        assert_eq!(parse_mountinfo(line), Some(expect));
        assert_eq!(parse_mountinfo(b""), None);
        assert_eq!(parse_mountinfo(b"1 2 3"), None);
    }
}
