//! `cdi doctor`: what this system has and lacks, each with the way out.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use super::End;
use crate::error::Error;
use crate::mounts::runtime_dir;
use crate::ui::Ui;

struct Finding {
    what: &'static str,
    /// Which verbs need it.
    needed_for: &'static str,
    ok: bool,
    found: String,
    way_out: &'static str,
}

pub(super) fn run(ui: &Ui) -> Result<End, Error> {
    let findings = findings();
    let table: Vec<_> = findings
        .iter()
        .map(|f| json!({ "what": f.what, "needed_for": f.needed_for, "ok": f.ok, "found": f.found, "way_out": if f.ok { "" } else { f.way_out } }))
        .collect();
    if !ui.json(&json!({ "system": std::env::consts::OS, "findings": table })) {
        for f in &findings {
            ui.data(format!(
                "{:<5} {:<18} {} (for {})",
                if f.ok { "ok" } else { "LACKS" },
                f.what,
                f.found,
                f.needed_for
            ));
            if !f.ok {
                ui.data(format!("      way out: {}", f.way_out));
            }
        }
    }
    if findings.iter().all(|f| f.ok) {
        return Ok(End::Done);
    }
    Ok(End::Code(crate::error::Kind::Unavailable.exit_code()))
}

fn findings() -> Vec<Finding> {
    let mut all = Vec::new();
    let root = nix::unistd::geteuid().is_root();
    all.push(match runtime_dir() {
        Ok(dir) => finding("runtime folder", "mount, attach", true, dir.display().to_string(), ""),
        Err(e) => finding(
            "runtime folder",
            "mount, attach",
            false,
            e.to_string(),
            "set XDG_RUNTIME_DIR to a folder of your own",
        ),
    });
    if cfg!(target_os = "linux") {
        let fuse = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        let found = fuse.as_ref().map_or_else(|e| e.to_string(), |_| "/dev/fuse".into());
        all.push(finding("FUSE", "mount, attach", fuse.is_ok(), found, "load the kernel's module (modprobe fuse); in a container, pass /dev/fuse in (--device /dev/fuse)"));
        if !root {
            let helper = program("fusermount3", "-V");
            all.push(finding(
                "fusermount3",
                "mount without root",
                helper.is_some(),
                helper.unwrap_or_default(),
                "install the package fuse3",
            ));
        }
        all.push(finding(
            "rights",
            "attach",
            root,
            if root { "root" } else { "an ordinary user" }.into(),
            "attach block devices as root (sudo); 'cdi mount' needs no root",
        ));
        let control = Path::new("/dev/loop-control").exists();
        all.push(finding(
            "loop devices",
            "attach",
            control,
            if control { "/dev/loop-control" } else { "none" }.into(),
            "load the kernel's module (modprobe loop); in a container, run it privileged",
        ));
        let losetup = program("losetup", "--version");
        all.push(finding(
            "losetup",
            "attach",
            losetup.is_some(),
            losetup.unwrap_or_default(),
            "install util-linux (Debian: the package mount)",
        ));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        all.push(finding(
            "kernel",
            "loop devices with direct I/O",
            at_least(&kernel, (4, 10)),
            kernel.trim().into(),
            "Linux 4.10 or newer",
        ));
    }
    #[cfg(target_os = "macos")]
    all.push(finding(
        "front end",
        "mount",
        cfg!(feature = "macfuse"),
        "macFUSE".into(),
        "build with --features macfuse",
    ));
    all
}

fn finding(
    what: &'static str,
    needed_for: &'static str,
    ok: bool,
    found: String,
    way_out: &'static str,
) -> Finding {
    Finding { what, needed_for, ok, found, way_out }
}

/// The first line that a program prints of its version, if it can be run.
fn program(name: &str, flag: &str) -> Option<String> {
    let output = Command::new(name).arg(flag).stdin(Stdio::null()).output().ok()?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    Some(String::from_utf8_lossy(&text).lines().next().unwrap_or(name).to_owned())
}

fn at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= wanted
}
