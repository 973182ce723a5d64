//! The first process of a guest: mounts what a job needs on the read-only root, runs the job, and switches off.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, sleep};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, wait};

use crate::{PATH, TIMEOUT};

/// The directory of a job, in memory.
pub const WORK: &str = "/run/lab";

/// Runs the job that the kernel's command line names, and switches the guest off.
pub fn first_process() -> ! {
    if let Err(e) = run() {
        println!("the guest could not be set up: {e}");
    }
    // Without syncing: everything that was written is in memory.
    let _ = fs::write("/proc/sysrq-trigger", "o");
    loop {
        sleep(Duration::from_secs(1));
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    for (kind, dir) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run")] {
        if fs::read_to_string("/proc/mounts")
            .is_ok_and(|m| m.lines().any(|l| l.split(' ').nth(1) == Some(dir)))
        {
            continue;
        }
        command("mount", &["-n", "-t", kind, kind, dir])?;
    }
    for dir in [WORK, "/run/bin"] {
        fs::create_dir_all(dir)?;
    }
    command("ip", &["link", "set", "lo", "up"])?;
    let line = fs::read_to_string("/proc/cmdline")?;
    let word = |name: &str| {
        let found = line.split_whitespace().find_map(|word| word.strip_prefix(name));
        found.map(str::to_owned).ok_or_else(|| format!("the kernel's command line has no {name}"))
    };
    // The modules are not where modprobe looks, also if the kernel itself runs it.
    let modprobe = Path::new("/run/bin/modprobe");
    fs::write(modprobe, format!("#!/bin/sh\nexec /sbin/modprobe -d {} \"$@\"\n", word("lab.modules=")?))?;
    fs::set_permissions(modprobe, fs::Permissions::from_mode(0o755))?;
    fs::write("/proc/sys/kernel/modprobe", "/run/bin/modprobe")?;
    let job = Command::new(std::env::current_exe()?)
        .arg(format!("--job={}", word("lab.job=")?))
        .arg(word("lab.cdi=")?)
        .env_clear()
        .envs([
            ("PATH", format!("/run/bin:{PATH}").as_str()),
            ("HOME", WORK),
            ("TMPDIR", WORK),
            ("LC_ALL", "C"),
        ])
        .current_dir(WORK)
        .spawn()?;
    thread::spawn(report_hang);
    // Daemons become children of this process: if nobody waited for them, they would seem to be alive.
    let ended = loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, code)) if pid.as_raw() == job.id().cast_signed() => {
                break format!("exit code {code}");
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid.as_raw() == job.id().cast_signed() => {
                break signal.to_string();
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    };
    println!("the job ended: {ended}");
    Ok(())
}

/// Prints what every thread waits for, shortly before the host gives up on the job.
fn report_hang() {
    sleep(TIMEOUT - Duration::from_secs(20));
    let entries = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    let text = |file: PathBuf| fs::read_to_string(file).unwrap_or_default().replace('\0', " ");
    println!("the job hangs; the threads, and what they wait for:");
    for process in entries("/proc".into()).filter(|p| p.join("task").exists()) {
        let line = text(process.join("cmdline"));
        for thread in entries(process.join("task")).filter(|_| !line.is_empty()) {
            println!(
                "  {line}: {} {} {}",
                thread.display(),
                text(thread.join("comm")).trim(),
                text(thread.join("stack")).replace('\n', " ")
            );
        }
    }
}

fn command(program: &str, args: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let path: OsString = PATH.into();
    let status = Command::new(program).args(args).env("PATH", path).status()?;
    if status.success() { Ok(()) } else { Err(format!("{program} {}: {status}", args.join(" ")).into()) }
}
