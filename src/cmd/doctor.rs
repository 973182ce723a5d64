//! `cdi doctor`: what this system has and lacks, each with the way out.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

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

impl Finding {
    fn json(&self) -> Value {
        let way_out = if self.ok { "" } else { self.way_out };
        json!({ "what": self.what, "needed_for": self.needed_for, "ok": self.ok, "found": self.found, "way_out": way_out })
    }
}

pub(super) fn run(ui: &Ui) -> Result<End, Error> {
    let findings = findings();
    let table: Vec<_> = findings.iter().map(Finding::json).collect();
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
        Err(e) => {
            let way_out = "set XDG_RUNTIME_DIR to a folder of your own";
            finding("runtime folder", "mount, attach", false, e.to_string(), way_out)
        }
    });
    if cfg!(target_os = "linux") {
        linux(root, &mut all);
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

fn linux(root: bool, all: &mut Vec<Finding>) {
    let fuse = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    let found = fuse.as_ref().map_or_else(|e| e.to_string(), |_| "/dev/fuse".into());
    let way_out = "load the kernel's module (modprobe fuse); in a container, pass it in (--device /dev/fuse)";
    all.push(finding("FUSE", "mount, attach", fuse.is_ok(), found, way_out));
    if !root {
        let helper = program("fusermount3", "-V");
        let found = helper.clone().unwrap_or_default();
        all.push(finding(
            "fusermount3",
            "mount without root",
            helper.is_some(),
            found,
            "install the package fuse3",
        ));
    }
    let found = if root { "root" } else { "an ordinary user" };
    let way_out = "attach block devices as root (sudo); 'cdi mount' needs no root";
    all.push(finding("rights", "attach", root, found.into(), way_out));
    let control = Path::new("/dev/loop-control").exists();
    let found = if control { "/dev/loop-control" } else { "none" };
    let way_out = "load the kernel's module (modprobe loop); in a container, run it privileged";
    all.push(finding("loop devices", "attach", control, found.into(), way_out));
    let losetup = program("losetup", "--version");
    let found = losetup.clone().unwrap_or_default();
    all.push(finding(
        "losetup",
        "attach",
        losetup.is_some(),
        found,
        "install util-linux (Debian: the package mount)",
    ));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let ok = at_least(&kernel, (5, 4));
    all.push(finding("kernel", "mount, attach", ok, kernel.trim().into(), "Linux 5.4 or newer"));
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
