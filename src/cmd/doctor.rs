//! `cdi doctor`: checks the system requirements, and suggests a fix for each that is missing.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cdi_base::error::Error;
use cdi_system::confine::{Confined, enforceable};
use cdi_system::{ask, has_kernel_module, has_program, usb_disks};
use serde_json::{Value, json};

use super::End;
use crate::mount::record::{records_if_any, runtime_dir};
use crate::report::exit_code;
use crate::ui::Ui;

/// The timeout for each program that is asked for its version or state.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What is found if a kernel module is not loaded yet, and `mount` and `attach` will load it.
const LOADED_ON_USE: &str = "kernel module, loaded when it is needed";

/// The result of one check.
struct Finding {
    what: &'static str,
    /// The commands that need it.
    needed_for: &'static str,
    ok: bool,
    /// Whether its absence is not a problem.
    optional: bool,
    found: String,
    fix: &'static str,
}

impl Finding {
    fn json(&self) -> Value {
        let fix = if self.ok { "" } else { self.fix };
        json!({
            "what": self.what, "needed_for": self.needed_for, "ok": self.ok, "optional": self.optional,
            "found": self.found, "fix": fix,
        })
    }
}

pub(super) fn run(ui: &Ui) -> Result<End, Error> {
    let findings = findings();
    let table: Vec<_> = findings.iter().map(Finding::json).collect();
    if !ui.json(&json!({ "system": std::env::consts::OS, "findings": table })) {
        for f in &findings {
            ui.data(format!(
                "{:<7} {:<18} {} (for {})",
                if f.ok {
                    "ok"
                } else if f.optional {
                    "-"
                } else {
                    "MISSING"
                },
                f.what,
                f.found,
                f.needed_for
            ));
            if !f.ok {
                ui.data(format!("        fix: {}", f.fix));
            }
        }
    }
    if findings.iter().all(|f| f.ok || f.optional) {
        return Ok(End::Done);
    }
    Ok(End::Code(exit_code(cdi_base::error::Kind::Unavailable)))
}

fn findings() -> Vec<Finding> {
    let mut all = Vec::new();
    let root = nix::unistd::geteuid().is_root();
    all.push(match runtime_dir() {
        Ok(dir) => finding("runtime directory", "mount, attach", true, dir.display().to_string(), ""),
        Err(e) => {
            let fix = "set XDG_RUNTIME_DIR to a directory of your own; after sudo or su it may belong to another user";
            finding("runtime directory", "mount, attach", false, e.to_string(), fix)
        }
    });
    // A mount needs about twenty open files, an image in segments a few more.
    let (soft, hard) = open_files();
    let fix = "raise the limit: ulimit -n 1024";
    let found = format!("limit {soft} (hard limit {hard})");
    all.push(finding("open files", "mount, attach", hard >= 64, found, fix));
    all.push(Finding {
        optional: true,
        ..finding(
            "smartctl",
            "create: the health of the drive",
            has_program("smartctl"),
            if has_program("smartctl") { "found" } else { "not installed (optional)" }.into(),
            "install smartmontools",
        )
    });
    for (disk, adapter) in usb_disks() {
        let found = format!(
            "{disk} is connected through {adapter}: it may report read errors wrongly, so its reports are checked; SATA is safer"
        );
        all.push(finding("USB adapter", "create", true, found, ""));
    }
    if cfg!(target_os = "linux") {
        linux(root, &mut all);
    } else {
        macos(&mut all);
    }
    all
}

fn macos(all: &mut Vec<Finding>) {
    let there = |name| if has_program(name) { format!("{name} found") } else { "not found".into() };
    let fix = "it is part of macOS: check PATH";
    let nfs = has_program("mount_nfs");
    all.push(finding("NFS client", "mount, attach", nfs, there("mount_nfs"), fix));
    let release = version("sw_vers", "-productVersion").unwrap_or_default();
    // Either of the two can create a block device. The options of 'diskutil image attach' came with macOS 26.
    let hdiutil = has_program("hdiutil");
    let image = has_program("diskutil") && at_least(&release, (26, 0));
    let found = match (hdiutil, at_least(&release, (27, 0))) {
        (true, true) => "found (deprecated by Apple)",
        (true, false) => "found",
        (false, _) => "not found",
    };
    all.push(Finding { optional: image, ..finding("hdiutil", "attach", hdiutil, found.into(), fix) });
    let found =
        if image { "found (tried if hdiutil fails)" } else { "not in this version of macOS (optional)" };
    let newer = "macOS 26 or newer";
    let diskutil = finding("diskutil image", "attach --with diskutil", image, found.into(), newer);
    all.push(Finding { optional: hdiutil, ..diskutil });
    all.push(network_volumes());
    all.push(Finding { optional: true, ..fskit(&release) });
    all.push(finding("macOS", "all", !release.is_empty(), release, "sw_vers could not be run: check PATH"));
    let macfuse = Path::new("/Library/Filesystems/macfuse.fs").exists();
    let built = cfg!(feature = "macfuse");
    let found = match (macfuse, built) {
        (true, true) => "installed and supported by this build",
        (true, false) => "installed, not supported by this build",
        (false, _) => "not installed (optional)",
    };
    all.push(Finding {
        optional: true,
        ..finding(
            "macFUSE",
            "mount --via fuse",
            macfuse && built,
            found.into(),
            "build with --features macfuse",
        )
    });
}

/// Checks whether the user's consent lets programs read our mounts, which are network volumes for macOS (TCC). It cannot be
/// asked for that, so this reads from a mount; if there is none, it only names the setting.
fn network_volumes() -> Finding {
    let (what, needed_for) = ("network volumes", "mount, attach --via nfs");
    let fix = "allow it for this program (Terminal, or cdi for the service): System Settings > Privacy & Security > Files & \
               Folders > Network Volumes, or Full Disk Access";
    let mounts = records_if_any().into_iter().filter(|m| m.via == "nfs" && m.ready && m.is_served());
    let mut read = None;
    for mount in mounts {
        // By another program, which can be ended if the mount hangs. For consent it counts as this one.
        let mut head = Command::new("head");
        head.args(["-c", "1"]).arg(mount.mountpoint.join("info.json"));
        match ask(&mut head, TIMEOUT, "") {
            Ok(_) => read = read.or(Some(mount.mountpoint)),
            Err(e) if e.what.contains("Operation not permitted") => {
                let found = format!("macOS refuses reads from {}", mount.mountpoint.display());
                return finding(what, needed_for, false, found, fix);
            }
            Err(e) => {
                let found = format!("{} could not be read: {}", mount.mountpoint.display(), e.what);
                return finding(
                    what,
                    needed_for,
                    false,
                    found,
                    "see 'cdi list'; 'cdi unmount --force' removes it",
                );
            }
        }
    }
    let found = match read {
        Some(dir) => format!("{} can be read", dir.display()),
        None => {
            "macOS may ask for consent; nothing is mounted to try it with. If reads fail with 'Operation not \
                 permitted': System Settings > Privacy & Security > Files & Folders > Network Volumes"
                .into()
        }
    };
    finding(what, needed_for, true, found, fix)
}

/// Checks whether the FSKit extension can be used: it must be installed and switched on. The system records whether
/// it is switched on in an undocumented file; if that cannot be read, the state is unknown.
fn fskit(release: &str) -> Finding {
    const ID: &str = "org.cdimg.cdi.fskit";
    let (what, needed_for) = ("FSKit extension", "mount --via fskit");
    if !at_least(release, (26, 0)) {
        let fix = "macOS 26 or newer";
        return finding(what, needed_for, false, "this version of macOS does not support it".into(), fix);
    }
    let text = |command: &mut Command| {
        ask(command, TIMEOUT, "").map(|text| String::from_utf8_lossy(&text).into_owned()).ok()
    };
    let listed = text(Command::new("pluginkit").args(["-m", "-A", "-D", "-i", ID])).unwrap_or_default();
    if !listed.contains(ID) {
        let fix = "build and register it: fskit-ext/bundle/bundle.sh";
        return finding(what, needed_for, false, "not installed (optional)".into(), fix);
    }
    let home = std::env::var("HOME").unwrap_or_default();
    let list = format!("{home}/Library/Group Containers/group.com.apple.fskit.settings/enabledModules.plist");
    let enabled = text(Command::new("plutil").args(["-convert", "json", "-o", "-"]).arg(list));
    let fix = "System Settings > General > Login Items & Extensions > File System Extensions";
    match enabled.map(|list| list.contains(ID)) {
        Some(true) => finding(what, needed_for, true, "installed and switched on".into(), fix),
        Some(false) => finding(what, needed_for, false, "installed but switched off".into(), fix),
        None => {
            finding(what, needed_for, true, "installed (cannot tell whether it is switched on)".into(), fix)
        }
    }
}

fn linux(root: bool, all: &mut Vec<Finding>) {
    let fuse = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    let loadable = |module| root && has_kernel_module(module);
    let fuse_ok = fuse.is_ok() || loadable("fuse");
    let found = match &fuse {
        Ok(_) => "/dev/fuse".into(),
        Err(_) if fuse_ok => LOADED_ON_USE.into(),
        Err(e) => e.to_string(),
    };
    let fix = if fuse.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied) {
        "allow every user to open it: chmod 666 /dev/fuse"
    } else {
        "load the kernel module (modprobe fuse); in a container, pass it in (--device /dev/fuse)"
    };
    all.push(finding("FUSE", "mount, attach", fuse_ok, found, fix));
    if !root {
        let helper = version("fusermount3", "-V");
        let found = helper.clone().unwrap_or_default();
        all.push(finding(
            "fusermount3",
            "mount without root",
            helper.is_some(),
            found,
            "install the package fuse3",
        ));
    }
    let found = if root { "root" } else { "not root" };
    let fix = "attach block devices as root (sudo); 'cdi mount' needs no root";
    all.push(finding("permissions", "attach", root, found.into(), fix));
    let control = Path::new("/dev/loop-control").exists();
    let control_ok = control || loadable("loop");
    let found = match (control, control_ok) {
        (true, _) => "/dev/loop-control",
        (false, true) => LOADED_ON_USE,
        (false, false) => "not found",
    };
    let fix = "load the kernel module (modprobe loop); in a container, run it privileged";
    all.push(finding("loop devices", "attach", control_ok, found.into(), fix));
    #[cfg(target_os = "linux")]
    if let Some(missing) = crate::attach::losetup::missing_node().filter(|_| root && control) {
        let fix = "create the nodes in /dev; in a container, pass /dev in (-v /dev:/dev)";
        all.push(finding("loop nodes", "attach", false, missing, fix));
    }
    let losetup = version("losetup", "--version");
    let found = losetup.clone().unwrap_or_default();
    all.push(finding(
        "losetup",
        "attach",
        losetup.is_some(),
        found,
        "install util-linux (Debian: the package mount)",
    ));
    all.push(confinement(enforceable()));
    let nfs = has_program("mount.nfs");
    let found = if nfs { "mount.nfs" } else { "not installed (optional)" };
    all.push(Finding {
        optional: true,
        ..finding("NFS client", "mount --via nfs", nfs, found.into(), "install nfs-common")
    });
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let ok = at_least(&kernel, (5, 4));
    all.push(finding("kernel", "mount, attach", ok, kernel.trim().into(), "Linux 5.4 or newer"));
}

/// Checks what the kernel enforces of what a process gives up that serves a disk.
fn confinement(held: Confined) -> Finding {
    let seccomp = if held.seccomp { "system calls filtered" } else { "no filter of system calls" };
    let (found, fix) = match held.landlock {
        _ if !held.capabilities => (
            format!("Landlock {}, {seccomp}, capabilities kept", held.landlock),
            "allow capset(2): a container may refuse it",
        ),
        0 => (format!("no Landlock, {seccomp}"), "Linux 6.12 or newer, with Landlock"),
        version => (format!("Landlock {version}, {seccomp}"), "Linux 6.12 or newer, on x86-64 or ARM64"),
    };
    // From version 6 on, it covers files, TCP, abstract sockets and signals.
    let ok = held.landlock >= 6 && held.seccomp && held.capabilities;
    let what = finding("confinement", "mount, attach, serve: what they can still do", ok, found, fix);
    Finding { optional: true, ..what }
}

/// Returns the soft and the hard limit for open files.
fn open_files() -> (u64, u64) {
    use nix::sys::resource::{Resource, getrlimit};
    getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default()
}

fn finding(
    what: &'static str,
    needed_for: &'static str,
    ok: bool,
    found: String,
    fix: &'static str,
) -> Finding {
    Finding { what, needed_for, ok, optional: false, found, fix }
}

/// Returns the first line that a program prints about its version; None if it cannot be run.
fn version(name: &str, flag: &str) -> Option<String> {
    let text = ask(Command::new(name).arg(flag), TIMEOUT, "").ok()?;
    Some(String::from_utf8_lossy(&text).lines().next().unwrap_or(name).to_owned())
}

/// Checks whether a release such as `6.1.0` is at least version `wanted`.
fn at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_component_of_a_mac_is_named() {
        let mut all = Vec::new();
        macos(&mut all);
        let names: Vec<_> = all.iter().map(|f| f.what).collect();
        for name in [
            "NFS client",
            "hdiutil",
            "diskutil image",
            "network volumes",
            "FSKit extension",
            "macOS",
            "macFUSE",
        ] {
            assert!(names.contains(&name), "{names:?}");
        }
        // Without a mount, it can only say where the setting is.
        assert!(all.iter().all(|f| f.ok || !f.fix.is_empty()));
    }
}
