//! macOS tells by its programs: its calls for this (getfsstat, libproc) are not to be had without `unsafe`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{DiskFacts, Holder, MountInfo, ask};
use crate::error::Error;

/// mount(8) and ps(1) answer from the kernel's tables and ask no file system, so a hung one does not hang them.
const PATIENCE: Duration = Duration::from_secs(20);

/// Every mount, in the order in which they were made.
pub fn mountinfo() -> Result<Vec<MountInfo>, Error> {
    ask(&mut Command::new("/sbin/mount"), PATIENCE, "").map(|text| parse_mounts(&text))
}

/// `SOURCE on MOUNTPOINT (TYPE, option, …)`, nothing escaped. A source may hold ` on /`, too: then the line is read in
/// each way that it can be.
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
            });
        }
    }
    mounts
}

/// Nobody, as far as is known without asking: here the kernel's and hdiutil's own refusal (busy) tells.
pub fn holders(_: &Path, _: i32) -> Vec<Holder> {
    Vec::new()
}

/// Whether the process is stopped (SIGSTOP, a debugger): it will answer nothing.
pub fn is_stopped(pid: i32) -> bool {
    let mut ps = Command::new("/bin/ps");
    ps.args(["-o", "stat=", "-p"]).arg(pid.to_string());
    ask(&mut ps, PATIENCE, "").is_ok_and(|state| state.trim_ascii_start().starts_with(b"T"))
}

/// What is known of the device at `path`.
pub fn disk_facts(path: &Path) -> Result<DiskFacts, Error> {
    let mut diskutil = Command::new("/usr/sbin/diskutil");
    diskutil.args(["info", "-plist"]).arg(path);
    let list = ask(&mut diskutil, PATIENCE, "").map_err(|e| e.at(path))?;
    parse_info(&list).ok_or_else(|| Error::failed("diskutil does not tell the size of this device").at(path))
}

/// diskutil(8), `info -plist`.
fn parse_info(list: &[u8]) -> Option<DiskFacts> {
    let list = plist::Value::from_reader(std::io::Cursor::new(list)).ok()?;
    let list = list.as_dictionary()?;
    let number = |names: &[&str]| names.iter().find_map(|name| list.get(name)?.as_unsigned_integer());
    let text = |name: &str| {
        let text = list.get(name).and_then(|value| value.as_string()).map(|text| text.trim().to_owned());
        text.filter(|text| !text.is_empty())
    };
    let sector = u32::try_from(number(&["DeviceBlockSize"]).unwrap_or(512)).ok()?;
    Some(DiskFacts {
        size: number(&["IOKitSize", "TotalSize", "Size"])?,
        logical: sector,
        physical: sector,
        model: text("MediaName"),
        serial: None,
        sequence: text("DeviceTreePath"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_told_of() {
        let list = br#"<?xml version="1.0" encoding="UTF-8"?>
<plist version="1.0"><dict><key>DeviceBlockSize</key><integer>512</integer>
<key>IOKitSize</key><integer>8010194944</integer><key>MediaName</key><string>Flash Disk </string>
<key>DeviceTreePath</key><string>IODeviceTree:/PCI0</string></dict></plist>"#;
        let facts = parse_info(list).unwrap();
        assert_eq!(
            (facts.size, facts.logical, facts.model.as_deref()),
            (8_010_194_944, 512, Some("Flash Disk"))
        );
        assert_eq!(parse_info(b"nothing"), None);
    }

    #[test]
    fn the_list_of_mounts_is_read() {
        let text = b"/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
map auto_home on /System/Volumes/Data/home (autofs, automounted, nobrowse)
127.0.0.1:/cdi-00ff on /private/tmp/a (b) c (nfs, nodev, nosuid, read-only, mounted by me)
cdi:/Users/me/put on /shelf/x.cdimg on /Volumes/x (macfuse, nodev)

nonsense
";
        let mounts = parse_mounts(text);
        let told: Vec<_> = mounts.iter().map(|m| (&*m.source, m.mountpoint.to_str(), &*m.fstype)).collect();
        let expect = [
            ("/dev/disk3s1s1", Some("/"), "apfs"),
            ("map auto_home", Some("/System/Volumes/Data/home"), "autofs"),
            ("127.0.0.1:/cdi-00ff", Some("/private/tmp/a (b) c"), "nfs"),
            ("cdi:/Users/me/put", Some("/shelf/x.cdimg on /Volumes/x"), "macfuse"),
            ("cdi:/Users/me/put on /shelf/x.cdimg", Some("/Volumes/x"), "macfuse"),
        ];
        assert_eq!(told, expect);
    }
}
