//! Queries to macOS, by way of its programs: the system calls for this (getfsstat, libproc) would need `unsafe`.

use std::ffi::OsString;
#[cfg(target_os = "macos")]
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cdi_base::error::Error;

use super::{DiskInfo, Holder, Layer, MountInfo, ask};

/// Timeout for the programs. mount(8) and ps(1) read the kernel's tables and access no file system, so a hung file
/// system does not block them.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Returns all mounts, in the order in which they were made.
pub fn mountinfo() -> Result<Vec<MountInfo>, Error> {
    ask(&mut Command::new("/sbin/mount"), TIMEOUT, "").map(|text| parse_mounts(&text))
}

/// Parses lines of the form `SOURCE on MOUNTPOINT (TYPE, option, …)`, without escapes. A source may also contain
/// ` on /`: then the result has an entry for each possible reading of the line.
fn parse_mounts(text: &[u8]) -> Vec<MountInfo> {
    const ON: &[u8] = b" on /";
    let mut mounts = Vec::new();
    for line in text.split(|b| *b == b'\n') {
        let Some(options) = line.windows(2).rposition(|w| w == b" (") else { continue };
        let fstype = line[options + 2..].split(|b| matches!(b, b',' | b')')).next().unwrap_or_default();
        let head = &line[..options];
        for at in (0..head.len()).filter(|at| head[*at..].starts_with(ON)) {
            mounts.push(MountInfo {
                device: String::new(),
                mountpoint: PathBuf::from(OsString::from_vec(head[at + ON.len() - 1..].to_vec())),
                fstype: String::from_utf8_lossy(fstype).into_owned(),
                source: String::from_utf8_lossy(&head[..at]).into_owned(),
                upper: None,
            });
        }
    }
    mounts
}

/// Returns nothing: on macOS, the kernel and hdiutil refuse by themselves (busy) if something is in use.
pub fn holders(_: &Path, _: i32) -> Vec<Holder> {
    Vec::new()
}

/// Checks whether the process is stopped (SIGSTOP, a debugger): it will not answer.
pub fn is_stopped(pid: i32) -> bool {
    let mut ps = Command::new("/bin/ps");
    ps.args(["-o", "stat=", "-p"]).arg(pid.to_string());
    ask(&mut ps, TIMEOUT, "").is_ok_and(|state| state.trim_ascii_start().starts_with(b"T"))
}

/// Checks whether a program that the process has started is stopped. None matters here: only Linux has a process that
/// unmounts for another.
pub fn has_stopped_child(_: i32) -> bool {
    false
}

/// Returns a path by which this program can be started once more.
pub fn own_program() -> io::Result<PathBuf> {
    std::env::current_exe()
}

/// Returns the ignored signals: a shell inherits and lists them (`trap -- '' SIGHUP`).
pub(super) fn ignored_signals() -> Vec<i32> {
    let listed = ask(Command::new("/bin/bash").args(["-c", "trap"]), TIMEOUT, "");
    listed.map(|text| parse_traps(&String::from_utf8_lossy(&text))).unwrap_or_default()
}

fn parse_traps(text: &str) -> Vec<i32> {
    let ignored = text.lines().filter_map(|line| line.strip_prefix("trap -- '' "));
    let number = |name: &str| {
        let name = name.trim();
        let name = if name.starts_with("SIG") { name.to_owned() } else { format!("SIG{name}") };
        name.parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
    };
    ignored.filter_map(number).collect()
}

/// Returns where the disk is that was at `path`: there. (diskutil says no serial numbers.)
pub fn find_again(path: &Path, known: &DiskInfo) -> Option<PathBuf> {
    disk_info(path).is_ok_and(|now| known.is_same(&now)).then(|| path.to_owned())
}

/// Returns nothing: which adapter a disk has is not asked here.
pub fn usb_disks() -> Vec<(String, String)> {
    Vec::new()
}

/// Returns whether the device at `path` is a drive: what else there is, is not known.
pub fn is_hardware(_: &Path) -> bool {
    true
}

/// Returns false: there are no loop devices here.
pub fn is_loop_device(_: &Path) -> bool {
    false
}

/// Returns information about the device at `path`.
pub fn disk_info(path: &Path) -> Result<DiskInfo, Error> {
    let mut diskutil = Command::new("/usr/sbin/diskutil");
    diskutil.args(["info", "-plist"]).arg(path);
    let list = ask(&mut diskutil, TIMEOUT, "").map_err(|e| e.at(path))?;
    parse_info(&list)
        .ok_or_else(|| Error::failed("diskutil does not report the size of this device").at(path))
}

/// Parses the output of `diskutil info -plist`; see diskutil(8).
fn parse_info(list: &[u8]) -> Option<DiskInfo> {
    let list = plist::Value::from_reader(std::io::Cursor::new(list)).ok()?;
    let list = list.as_dictionary()?;
    let number = |names: &[&str]| names.iter().find_map(|name| list.get(name)?.as_unsigned_integer());
    let text = |name: &str| {
        let text = list.get(name).and_then(|value| value.as_string()).map(|text| text.trim().to_owned());
        text.filter(|text| !text.is_empty())
    };
    let sector = u32::try_from(number(&["DeviceBlockSize"]).unwrap_or(512)).ok()?;
    Some(DiskInfo {
        size: number(&["IOKitSize", "TotalSize", "Size"])?,
        logical: sector,
        physical: sector,
        model: text("MediaName"),
        serial: None,
        sequence: text("DeviceTreePath"),
    })
}

/// Returns the current path of an open file: fcntl(2), F_GETPATH.
#[cfg(target_os = "macos")]
pub fn path_of_open(file: &File) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_GETPATH(&mut path)).ok()?;
    Some(path)
}

/// Returns the layers that the file or device at `path` is stored on, including itself if it is a device: the slices
/// and the disk of its file system and, for an APFS container, those of its physical stores. Unknown layers are left
/// out.
pub fn layers_below(path: &Path) -> Vec<Layer> {
    let mut found = Vec::new();
    let device = match path.strip_prefix("/dev") {
        Ok(name) => Some(name.to_string_lossy().into_owned()),
        Err(_) => {
            let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
            let mounts = mountinfo().unwrap_or_default();
            let on = mounts.iter().filter(|m| path.starts_with(&m.mountpoint));
            let on = on.max_by_key(|m| m.mountpoint.components().count());
            on.and_then(|m| m.source.strip_prefix("/dev/").map(str::to_owned))
        }
    };
    let mut devices: Vec<String> = device.into_iter().collect();
    while let Some(device) = devices.pop() {
        let all = slices(&device);
        if all.first().is_none_or(|d| found.contains(&Layer::Device(d.clone()))) {
            continue;
        }
        if let Some(disk) = all.last() {
            let mut diskutil = Command::new("/usr/sbin/diskutil");
            diskutil.args(["info", "-plist"]).arg(disk);
            devices.extend(
                ask(&mut diskutil, TIMEOUT, "").map(|list| physical_stores(&list)).unwrap_or_default(),
            );
        }
        found.extend(all.into_iter().map(Layer::Device));
    }
    found
}

/// Returns the mount points of the file systems on a disk, on its partitions, and in the APFS containers that are stored
/// on it.
pub fn mounts_on(device: &Path) -> Result<Vec<PathBuf>, Error> {
    Ok(mounted_from(device, &mountinfo()?, &|source| layers_below(source)))
}

fn mounted_from(device: &Path, mounts: &[MountInfo], layers: &dyn Fn(&Path) -> Vec<Layer>) -> Vec<PathBuf> {
    let name = device.file_name().unwrap_or_default().to_string_lossy();
    let Some(disk) = slices(&name).into_iter().next().map(Layer::Device) else { return Vec::new() };
    let on_disk = mounts.iter().filter(|m| m.source.starts_with("/dev/disk"));
    on_disk.filter(|m| layers(Path::new(&m.source)).contains(&disk)).map(|m| m.mountpoint.clone()).collect()
}

/// Returns a device and what it is a slice of: for `disk3s1s1` also `disk3s1` and `disk3`. Treats the raw device of a
/// disk as the disk itself.
fn slices(device: &str) -> Vec<String> {
    let name = device.strip_prefix('r').unwrap_or(device);
    let Some(mut rest) =
        name.strip_prefix("disk").filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    else {
        return Vec::new();
    };
    let mut found = vec![format!("disk{rest}")];
    while let Some((before, _)) = rest.rsplit_once('s') {
        rest = before;
        found.push(format!("disk{rest}"));
    }
    found
}

/// Returns the devices that an APFS container is stored on, from the output of `diskutil info -plist`.
fn physical_stores(list: &[u8]) -> Vec<String> {
    let list = plist::Value::from_reader(std::io::Cursor::new(list)).ok();
    let stores = list.as_ref().and_then(|l| l.as_dictionary()?.get("APFSPhysicalStores")?.as_array());
    let name = |store: &plist::Value| match store {
        plist::Value::String(name) => Some(name.clone()),
        store => store.as_dictionary()?.get("APFSPhysicalStore")?.as_string().map(str::to_owned),
    };
    stores.into_iter().flatten().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plist_of_a_disk_is_parsed() {
        let list = br#"<?xml version="1.0" encoding="UTF-8"?>
<plist version="1.0"><dict><key>DeviceBlockSize</key><integer>512</integer>
<key>IOKitSize</key><integer>8010194944</integer><key>MediaName</key><string>Flash Disk </string>
<key>DeviceTreePath</key><string>IODeviceTree:/PCI0</string></dict></plist>"#;
        let metadata = parse_info(list).unwrap();
        assert_eq!(
            (metadata.size, metadata.logical, metadata.model.as_deref()),
            (8_010_194_944, 512, Some("Flash Disk"))
        );
        assert_eq!(parse_info(b"nothing"), None);
    }

    #[test]
    fn a_disk_is_mounted_if_a_part_of_it_is() {
        let text = b"/dev/disk3s1s1 on / (apfs, sealed)\n/dev/disk4s1 on /Volumes/EFI (msdos, local)\n\
            /dev/disk5s2 on /Volumes/Photos (apfs, local)\ndevfs on /dev (devfs)\n";
        let mounts = parse_mounts(text);
        // disk5 is the APFS container on disk4s2.
        let layers = |source: &Path| {
            let mut all = slices(&source.file_name().unwrap().to_string_lossy());
            if all.contains(&"disk5".into()) {
                all.extend(slices("disk4s2"));
            }
            all.into_iter().map(Layer::Device).collect()
        };
        let on = |device: &str| mounted_from(Path::new(device), &mounts, &layers);
        assert_eq!(on("/dev/rdisk4"), [Path::new("/Volumes/EFI"), Path::new("/Volumes/Photos")]);
        assert_eq!(on("/dev/disk4s2"), [Path::new("/Volumes/Photos")]);
        assert_eq!(on("/dev/rdisk4s1"), [Path::new("/Volumes/EFI")]);
        assert!(on("/dev/disk6").is_empty() && on("/dev/rdisk40").is_empty() && on("/dev/zero").is_empty());
    }

    #[test]
    fn a_shell_lists_the_signals_that_it_inherited_as_ignored() {
        assert_eq!(parse_traps("trap -- '' SIGHUP\ntrap -- 'x' SIGINT\ntrap -- '' QUIT\n"), [1, 3]);
        let mut shell = Command::new("bash");
        shell.args(["-c", "trap '' HUP; bash -c trap"]);
        if let Ok(text) = ask(&mut shell, TIMEOUT, "") {
            // And those that this process inherited: a job in the background of a shell ignores SIGINT.
            assert!(parse_traps(&String::from_utf8_lossy(&text)).contains(&1));
        }
    }

    #[test]
    fn the_layers_of_slices_and_containers_are_found() {
        assert_eq!(slices("disk3s1s1"), ["disk3s1s1", "disk3s1", "disk3"]);
        assert_eq!(slices("rdisk12"), ["disk12"]);
        assert!(slices("null").is_empty() && slices("disks").is_empty());
        let list = br#"<plist version="1.0"><dict><key>APFSPhysicalStores</key><array>
<dict><key>APFSPhysicalStore</key><string>disk0s2</string></dict></array></dict></plist>"#;
        assert_eq!(physical_stores(list), ["disk0s2"]);
    }

    #[test]
    fn the_list_of_mounts_is_parsed() {
        let text = b"/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
map auto_home on /System/Volumes/Data/home (autofs, automounted, nobrowse)
127.0.0.1:/cdi-00ff on /private/tmp/a (b) c (nfs, nodev, nosuid, read-only, mounted by me)
cdi:/Users/me/put on /shelf/x.cdimg on /Volumes/x (macfuse, nodev)

nonsense
";
        let mounts = parse_mounts(text);
        let parsed: Vec<_> = mounts.iter().map(|m| (&*m.source, m.mountpoint.to_str(), &*m.fstype)).collect();
        let expect = [
            ("/dev/disk3s1s1", Some("/"), "apfs"),
            ("map auto_home", Some("/System/Volumes/Data/home"), "autofs"),
            ("127.0.0.1:/cdi-00ff", Some("/private/tmp/a (b) c"), "nfs"),
            ("cdi:/Users/me/put", Some("/shelf/x.cdimg on /Volumes/x"), "macfuse"),
            ("cdi:/Users/me/put on /shelf/x.cdimg", Some("/Volumes/x"), "macfuse"),
        ];
        assert_eq!(parsed, expect);
    }
}
