//! The one way down: file systems on the device, the device, the mounted folder, the daemon, the record.
//!
//! Each step is fine with having been done already, so that any number of these may run, one after the other or at
//! once, after any accident. The mounted folder is never looked into: if its daemon hangs, so would we.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{fs, io};

use cdi_base::error::{Error, Kind};
use cdi_serve::tree::DISK_NAME;
#[cfg(not(target_os = "linux"))]
use cdi_system::ask;
use cdi_system::{holders, is_stopped, mounted_at, ours_at};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::attach;
use crate::attach::Attacher;
use crate::mount::record::{MountRecord, records, runtime_dir};

/// How long the daemon may take to end after its mount is gone.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long something may be in use before that counts.
const LOOKERS: Duration = Duration::from_secs(1);

/// Takes everything away that `record` tells of. With `force`, also what is in use: its users get errors.
/// If the daemon is dead or stopped there is nothing to wait for, and it is forced anyway. What is gone when something
/// else stays is no longer in the record, nor in the file that keeps it.
pub fn down(record: &mut MountRecord, force: bool) -> Result<(), Error> {
    let names = record.clone();
    let by_daemon = i64::from(record.pid) == i64::from(std::process::id());
    let lost = !by_daemon && (!record.is_served() || is_stopped(record.pid));
    let force = force || lost;
    // It may have died between attaching and saying who did it.
    let with = record.with.as_deref().and_then(attach::named);
    let attacher = with.or_else(|| attach::candidates(None).ok()?.first().copied());
    let disk = record.mountpoint.join(DISK_NAME);
    let devices = match attacher {
        Some(attacher) if record.device.is_some() || record.with.is_some() || cfg!(target_os = "linux") => {
            devices(attacher, record, &disk)?
        }
        _ => Vec::new(),
    };
    if ours_at(&record.mountpoint)? > 0 && mounted_at(&record.mountpoint)?.is_some_and(|m| !m.is_ours()) {
        let what = "something else is mounted over it; take that away first";
        return Err(Error::new(Kind::Busy, what).at(&record.mountpoint));
    }
    if !force {
        if record.exec && !by_daemon {
            let what = format!(
                "a command runs on it (cdi exec, pid {}), which takes it away when it ends",
                record.pid
            );
            return Err(Error::new(Kind::Busy, what).at(&record.mountpoint));
        }
        // What looks at every new device (udev, another losetup) has it open for a moment only.
        let start = Instant::now();
        while let Err(used) = refuse_if_used(record, attacher, &devices) {
            if start.elapsed() > LOOKERS {
                return Err(used);
            }
            sleep(Duration::from_millis(50));
        }
    }
    if force {
        // With the connection every wait for a read ends, with an error, and nothing below can hang.
        abort(record, by_daemon);
    }
    let mut stays = None;
    for device in &devices {
        let Some(attacher) = attacher else { break };
        for mountpoint in attacher.mounts(device)?.iter().rev() {
            unmount(mountpoint, force)?;
        }
        match attacher.detach(device, &disk, force) {
            // All the rest goes all the same; its reads fail from now on.
            Err(e) if force && e.kind == Kind::Busy => {
                log::warn!("{e}");
                stays = Some(e).filter(|_| !attacher.goes_when_closed());
            }
            result => result?,
        }
    }
    // Only who could ask knows that it is gone.
    if stays.is_none() && attacher.is_some() && record.device.is_some() {
        // Its number may be another's soon.
        record.device = None;
        record.update()?;
    }
    loop {
        let before = ours_at(&record.mountpoint)?;
        if before == 0 {
            break;
        }
        // Asked politely, the client of a dead server asks it first, and waits.
        let straight = lost && record.via == "nfs";
        if !(straight && unmount_once(&record.mountpoint, true).is_ok()) {
            unmount(&record.mountpoint, force)?;
        }
        if ours_at(&record.mountpoint)? >= before {
            let what = "cannot be reached to be unmounted: something is mounted over a folder above it";
            return Err(Error::new(Kind::Busy, what).at(&record.mountpoint));
        }
    }
    if !by_daemon {
        end_daemon(record)?;
    }
    if let Some(stays) = stays {
        // With its record, so that the next command tries again.
        return Err(stays);
    }
    if record.created_dir {
        match fs::remove_dir(&record.mountpoint) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                log::info!("{} stays: {e}", record.mountpoint.display())
            }
            _ => {}
        }
    }
    // Before the record goes: in between, nothing would know the name. That it is remembered is a courtesy.
    let _ = names.remember();
    record.remove()
}

/// Unmounts a folder of ours of which there is no record (another runtime folder, another user). Whether there was one.
pub fn unmount_unrecorded(target: &Path, force: bool) -> Result<bool, Error> {
    let absolute = std::path::absolute(target).map_err(|e| Error::io("is not a path", target, e))?;
    let ours = mounted_at(&absolute)?.is_some_and(|m| m.is_ours());
    if ours {
        unmount(&absolute, force)?;
    }
    Ok(ours)
}

/// The devices that show the mounted disk, and the recorded one if it is still ours.
fn devices(attacher: &dyn Attacher, record: &MountRecord, disk: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut devices = attacher.devices(disk)?;
    // After a lazy unmount the kernel has forgotten where the file was.
    let forgotten = Path::new("/").join(DISK_NAME);
    if let Some(device) = record.device.as_ref().filter(|d| !devices.contains(d))
        && attacher.devices(&forgotten)?.contains(device)
    {
        devices.push(device.clone());
    }
    Ok(devices)
}

fn refuse_if_used(
    record: &MountRecord,
    attacher: Option<&dyn Attacher>,
    devices: &[PathBuf],
) -> Result<(), Error> {
    let busy = |path: &Path, by: String| {
        let error = Error::new(Kind::Busy, format!("is in use by {by}")).at(path);
        Err(error.hint("end what uses it, or use --force: its reads then fail"))
    };
    let mut places = vec![record.mountpoint.clone()];
    for (attacher, device) in devices.iter().filter_map(|device| Some((attacher?, device))) {
        if let Some(by) = attacher.used_by(device) {
            return busy(device, by);
        }
        places.extend(attacher.nodes(device));
        places.extend(attacher.mounts(device)?);
    }
    for place in places {
        let users = holders(&place, record.pid);
        if !users.is_empty() {
            let names: Vec<_> = users.iter().map(|h| format!("{} ({})", h.name, h.pid)).collect();
            return busy(&place, names.join(", "));
        }
    }
    Ok(())
}

/// Ends Linux's FUSE connection, and with it every read that waits for it. Elsewhere, and over NFS, the server is left
/// alone until device and mount are gone: without it, reads would wait until the client gives up.
fn abort(record: &MountRecord, by_daemon: bool) {
    if record.via != "fuse" || !cfg!(target_os = "linux") {
        return;
    }
    if let Ok(Some(mount)) = mounted_at(&record.mountpoint)
        && mount.is_ours()
        && let Some((_, minor)) = mount.device.split_once(':')
    {
        // Needs fusectl, which need not be mounted. Asking to unmount by force does the same, as root; that it is in use
        // does not matter. And so does killing the daemon, in most cases.
        let _ = fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1");
        #[cfg(target_os = "linux")]
        let _ = nix::mount::umount2(
            &record.mountpoint,
            nix::mount::MntFlags::MNT_FORCE | nix::mount::MntFlags::UMOUNT_NOFOLLOW,
        );
    }
    if !by_daemon && record.is_served() {
        let _ = kill(Pid::from_raw(record.pid), Signal::SIGKILL);
        wait_until(TIMEOUT, || !record.is_served());
    }
}

fn unmount(mountpoint: &Path, force: bool) -> Result<(), Error> {
    // A name that is just being looked up there makes it busy, too; that passes.
    let start = Instant::now();
    let mut result = unmount_once(mountpoint, false);
    while !force && is_busy(&result) && start.elapsed() < LOOKERS {
        sleep(Duration::from_millis(20));
        result = unmount_once(mountpoint, false);
    }
    match result {
        Ok(()) => Ok(()),
        Err(_) if force => {
            unmount_once(mountpoint, true).map_err(|e| Error::io("cannot be unmounted", mountpoint, e))
        }
        Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
            let error = Error::new(Kind::Busy, "is in use and cannot be unmounted").at(mountpoint);
            Err(error.hint("close what is open there, or use --force"))
        }
        Err(e) => Err(Error::io("cannot be unmounted", mountpoint, e)),
    }
}

fn is_busy(result: &io::Result<()>) -> bool {
    result.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::ResourceBusy)
}

/// Unmounts; that nothing is mounted is fine. `lazily`: also if it is in use.
fn unmount_once(mountpoint: &Path, lazily: bool) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    let result = {
        use nix::mount::{MntFlags, umount2};
        let flags = if lazily { MntFlags::MNT_DETACH } else { MntFlags::empty() };
        umount2(mountpoint, flags | MntFlags::UMOUNT_NOFOLLOW)
    };
    #[cfg(not(target_os = "linux"))]
    let result = {
        use nix::mount::{MntFlags, unmount};
        let flags = if lazily { MntFlags::MNT_FORCE } else { MntFlags::empty() };
        // What the kernel does not let go of, the system's own arbiter of disks may.
        unmount(mountpoint, flags).or_else(|refused| {
            let mut diskutil = Command::new("diskutil");
            diskutil.arg("unmount").args(lazily.then_some("force")).arg(mountpoint);
            let asked = !matches!(refused, Errno::EINVAL | Errno::ENOENT)
                && !matches!(mounted_at(mountpoint), Ok(None));
            match asked && ask(&mut diskutil, 6 * TIMEOUT, "").is_ok() {
                true => Ok(()),
                false => Err(refused),
            }
        })
    };
    match result {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        // An ordinary user may unmount his own FUSE mounts, by the program that mounted them.
        Err(Errno::EPERM) if cfg!(target_os = "linux") => {
            let mut fusermount = Command::new("fusermount3");
            fusermount.args(["-u", "-q"]).args(lazily.then_some("-z")).arg("--").arg(mountpoint);
            let output = fusermount.output()?;
            match (output.status.success(), mounted_at(mountpoint)) {
                (true, _) | (_, Ok(None)) => Ok(()),
                _ => Err(io::ErrorKind::ResourceBusy.into()),
            }
        }
        Err(e) => Err(e.into()),
    }
}

/// Sees the daemon off. Its mount is gone, so it ends by itself unless it is stopped or stuck.
fn end_daemon(record: &MountRecord) -> Result<(), Error> {
    let pid = Pid::from_raw(record.pid);
    for signal in [None, Some(Signal::SIGTERM), Some(Signal::SIGKILL)] {
        if let Some(signal) = signal
            && record.is_served()
        {
            let _ = kill(pid, signal);
        }
        let timeout = if is_stopped(record.pid) { Duration::ZERO } else { TIMEOUT };
        if wait_until(timeout, || !record.is_served()) {
            return Ok(());
        }
    }
    let left = wait_until(TIMEOUT, || !record.is_served());
    if left {
        Ok(())
    } else {
        Err(Error::failed(format!("the daemon (pid {pid}) does not end")).at(&record.mountpoint))
    }
}

fn wait_until(timeout: Duration, done: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if done() {
            return true;
        }
        if start.elapsed() >= timeout {
            return false;
        }
        sleep(Duration::from_millis(10));
    }
}

/// Cleans up after daemons that died. Whatever cannot be cleaned up now is tried again by the next command. The caller
/// holds off other commands ([`crate::mount::record::exclusive`]).
pub fn clean_up_after_the_dead() {
    let records = records().unwrap_or_default();
    for mut record in records.iter().filter(|r| !r.is_served()).cloned() {
        match down(&mut record, true) {
            Ok(()) => log::info!("cleaned up {}, whose daemon had died", record.mountpoint.display()),
            Err(e) => log::warn!("cannot clean up {}: {e}", record.mountpoint.display()),
        }
    }
    // Folders that were made for a mount that never came.
    let Ok(dir) = runtime_dir() else { return };
    for folder in fs::read_dir(dir.join("mnt")).into_iter().flatten().flatten().map(|e| e.path()) {
        if !records.iter().any(|r| r.mountpoint == folder) && matches!(mounted_at(&folder), Ok(None)) {
            let _ = fs::remove_dir(folder);
        }
    }
}
