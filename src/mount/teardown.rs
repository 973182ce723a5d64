//! Teardown (single code path): file systems on the device, the device, the mount, the daemon, the record.
//!
//! Every step is idempotent, so any number of teardowns may run, one after another or at once, after any accident.
//! Nothing inside the mount is accessed: if its daemon hangs, so would we.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{fs, io};

use cdi_base::error::{Error, Kind};
use cdi_serve::tree::DISK_NAME;
#[cfg(not(target_os = "linux"))]
use cdi_system::ask;
use cdi_system::{cdi_mounts_at, has_stopped_child, holders, is_stopped, mounted_at};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::attach;
use crate::attach::Attacher;
use crate::mount::record::{MountRecord, records, runtime_dir};
use crate::mount::volumes;

/// Timeout for the daemon to exit after its mount is gone.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for programs that open every new device or look up a name for a moment.
const BRIEF_USE: Duration = Duration::from_secs(1);

/// Detaches and unmounts everything in `record`. With `force`, also if it is in use: its users get errors. If the
/// daemon is dead or stopped there is nothing to wait for, and the teardown is forced anyway. If a part cannot be
/// removed, the parts that were are deleted from the record and from its file.
pub fn tear_down(record: &mut MountRecord, force: bool) -> Result<(), Error> {
    let by_daemon = i64::from(record.pid) == i64::from(std::process::id());
    tear_down_by(record, force, by_daemon)
}

/// As [`tear_down`], at the request of the daemon, which waits for it.
pub fn tear_down_for_daemon(record: &mut MountRecord, force: bool) -> Result<(), Error> {
    tear_down_by(record, force, true)
}

fn tear_down_by(record: &mut MountRecord, force: bool, by_daemon: bool) -> Result<(), Error> {
    // A daemon, its helper, and those who clean up after it may come too late.
    if (by_daemon || !record.is_served()) && record.is_replaced()? {
        return record.remove();
    }
    let names = record.clone();
    let is_lost = |record: &MountRecord| !by_daemon && (!record.is_served() || is_stopped(record.pid));
    let mut lost = is_lost(record);
    // The daemon may have crashed after attaching but before recording the attacher.
    let with = record.with.as_deref().and_then(attach::named);
    let attacher = with.or_else(|| attach::candidates(None).ok()?.first().copied());
    let disk = record.mountpoint.join(DISK_NAME);
    let devices = match attacher {
        Some(attacher) if record.device.is_some() || record.with.is_some() || cfg!(target_os = "linux") => {
            devices(attacher, record, &disk)?
        }
        _ => Vec::new(),
    };
    if cdi_mounts_at(&record.mountpoint)? > 0
        && mounted_at(&record.mountpoint)?.is_some_and(|m| !m.is_cdi_mount())
    {
        let what = "something else is mounted over it; unmount that first";
        return Err(Error::new(Kind::Busy, what).at(&record.mountpoint));
    }
    if !force && !lost {
        if record.exec && !by_daemon {
            let what = format!(
                "is in use by a command ('cdi exec', pid {}); it will be unmounted when that ends",
                record.pid
            );
            return Err(Error::new(Kind::Busy, what).at(&record.mountpoint));
        }
        // Programs that probe every new device (udev, another losetup) only have it open for a moment.
        let start = Instant::now();
        while let Err(used) = refuse_if_used(record, attacher, &devices) {
            // A daemon that was just killed or stopped takes a moment to be so.
            lost = is_lost(record);
            if lost {
                break;
            }
            if start.elapsed() > BRIEF_USE {
                return Err(used);
            }
            sleep(Duration::from_millis(50));
        }
    }
    let force = force || lost;
    if force {
        // When the connection is aborted, every pending read ends with an error, and nothing below can hang.
        abort(record, by_daemon);
    }
    // Also after a disk was ejected, so that it has no node any more.
    let had_device = !devices.is_empty() || record.device.is_some();
    let timeout = attacher.filter(|_| had_device).map_or(BRIEF_USE, |a| a.lingers());
    let stays = detach_devices(attacher, &devices, &disk, force)?;
    // Without an attacher it is not known whether the device is gone.
    if stays.is_none() && attacher.is_some() && record.device.is_some() {
        // The device number may be reused soon.
        record.device = None;
        record.update()?;
    }
    unmount_all(record, force, lost, timeout)?;
    if !by_daemon {
        end_daemon(record)?;
    }
    if let Some(stays) = stays {
        // The record stays as well, so that the next command tries again.
        return Err(stays);
    }
    if record.created_dir {
        match fs::remove_dir(&record.mountpoint) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                log::info!("{}: not removed: {e}", record.mountpoint.display())
            }
            _ => {}
        }
    }
    // Before the record is removed, because in between nothing would know the names. Remembering them is optional.
    let _ = names.remember();
    record.remove()
}

/// Detaches the devices, with the file systems on them. Returns the error of one that stays although it was forced.
fn detach_devices(
    attacher: Option<&dyn Attacher>,
    devices: &[PathBuf],
    disk: &Path,
    force: bool,
) -> Result<Option<Error>, Error> {
    let mut stays = None;
    for device in devices {
        let Some(attacher) = attacher else { break };
        for mountpoint in attacher.mounts(device)?.iter().rev() {
            unmount(mountpoint, force, BRIEF_USE)?;
        }
        match attacher.detach(device, disk, force) {
            // Everything else is removed anyway; reads of the device fail from now on.
            Err(e) if force && e.kind == Kind::Busy => {
                log::warn!("{e}");
                stays = Some(e).filter(|_| !attacher.detaches_when_closed());
            }
            result => result?,
        }
    }
    Ok(stays)
}

/// Unmounts all of our mounts at the mount point, the one on top first.
fn unmount_all(record: &MountRecord, force: bool, lost: bool, timeout: Duration) -> Result<(), Error> {
    loop {
        let before = cdi_mounts_at(&record.mountpoint)?;
        if before == 0 {
            return Ok(());
        }
        // Without force, the NFS client of a dead server first asks the server, and waits.
        let straight = lost && record.via == "nfs";
        if !(straight && unmount_once(&record.mountpoint, true).is_ok()) {
            unmount(&record.mountpoint, force, timeout)?;
        }
        if cdi_mounts_at(&record.mountpoint)? >= before {
            let what = "cannot unmount: something is mounted over one of its parent directories";
            return Err(Error::new(Kind::Busy, what).at(&record.mountpoint));
        }
    }
}

/// Unmounts a mount of ours that has no record here (another runtime directory, another user). Returns whether there
/// was one.
pub fn unmount_unrecorded(target: &Path, force: bool) -> Result<bool, Error> {
    let absolute = std::path::absolute(target).map_err(|e| Error::io("is not a path", target, e))?;
    let ours = mounted_at(&absolute)?.is_some_and(|m| m.is_cdi_mount());
    if ours {
        unmount(&absolute, force, BRIEF_USE)?;
    }
    Ok(ours)
}

/// Returns the devices that are backed by the mounted disk, and the recorded one if it is still ours.
fn devices(attacher: &dyn Attacher, record: &MountRecord, disk: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut devices = attacher.devices(disk)?;
    // After a lazy unmount the kernel only knows the file's name, without its directory.
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
        Err(error.hint("stop the programs using it, or use --force (they will get I/O errors)"))
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

/// Aborts the FUSE connection on Linux, and with it every pending read. Elsewhere, and over NFS, the server is left
/// running until device and mount are gone: without it, reads would wait until the client gives up.
fn abort(record: &MountRecord, by_daemon: bool) {
    if record.via != "fuse" || !cfg!(target_os = "linux") {
        return;
    }
    if let Ok(Some(mount)) = mounted_at(&record.mountpoint)
        && mount.is_cdi_mount()
        && let Some((_, minor)) = mount.device.split_once(':')
    {
        // Needs fusectl, which may not be mounted. For root, a forced unmount does the same, even if the mount is in
        // use. In most cases, so does killing the daemon.
        let _ = fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1");
        #[cfg(target_os = "linux")]
        let _ = nix::mount::umount2(
            &record.mountpoint,
            nix::mount::MntFlags::MNT_FORCE | nix::mount::MntFlags::UMOUNT_NOFOLLOW,
        );
    }
    if !by_daemon && record.is_served() && !record.imaging {
        let _ = kill(Pid::from_raw(record.pid), Signal::SIGKILL);
        wait_until(TIMEOUT, || !record.is_served());
    }
}

/// Unmounts a directory, for up to `timeout` if it is busy.
fn unmount(mountpoint: &Path, force: bool, timeout: Duration) -> Result<(), Error> {
    // A name lookup in progress also makes it busy, for a moment.
    let start = Instant::now();
    let mut result = unmount_once(mountpoint, false);
    while !force && is_busy(&result) && start.elapsed() < timeout {
        sleep(Duration::from_millis(20));
        result = unmount_once(mountpoint, false);
    }
    match result {
        Ok(()) => Ok(()),
        Err(_) if force => {
            unmount_once(mountpoint, true).map_err(|e| Error::io("cannot unmount", mountpoint, e))
        }
        Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
            let error = Error::new(Kind::Busy, "is in use and cannot be unmounted").at(mountpoint);
            Err(error.hint("close the files that are open there, or use --force"))
        }
        Err(e) => Err(Error::io("cannot unmount", mountpoint, e)),
    }
}

fn is_busy(result: &io::Result<()>) -> bool {
    result.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::ResourceBusy)
}

/// Unmounts a directory. Succeeds if nothing is mounted there. `lazily`: also if it is in use.
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
        // If the kernel refuses, macOS's disk arbitration may still unmount it.
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
        // Ordinary users may unmount their own FUSE mounts with the program that mounted them.
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

/// Waits for the daemon to exit. Its mount is gone, so it exits by itself unless it is stopped or stuck; then it is
/// terminated, and finally killed.
fn end_daemon(record: &MountRecord) -> Result<(), Error> {
    let pid = Pid::from_raw(record.pid);
    if record.imaging {
        // The imaging goes on without the mount.
        return match wait_until(TIMEOUT, || !record.is_served()) {
            true => Ok(()),
            false => {
                Err(Error::failed("the process that images the disk still serves it").at(&record.mountpoint))
            }
        };
    }
    for signal in [None, Some(Signal::SIGTERM), Some(Signal::SIGKILL)] {
        if let Some(signal) = signal
            && record.is_served()
        {
            let _ = kill(pid, signal);
        }
        // It may wait for the process that unmounts, to no avail.
        let stopped = is_stopped(record.pid) || (!record.exec && has_stopped_child(record.pid));
        let timeout = if stopped { Duration::ZERO } else { TIMEOUT };
        if wait_until(timeout, || !record.is_served()) {
            return Ok(());
        }
    }
    let left = wait_until(TIMEOUT, || !record.is_served());
    if left {
        Ok(())
    } else {
        Err(Error::failed(format!("the daemon (pid {pid}) does not exit")).at(&record.mountpoint))
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

/// Cleans up the mounts of daemons that died. Mounts that cannot be cleaned up now are tried again by the next command.
/// The caller blocks other commands ([`crate::mount::record::exclusive`]).
pub fn clean_up_stale_mounts() {
    let records = records().unwrap_or_default();
    for mut record in records.iter().filter(|r| !r.is_served()).cloned() {
        match tear_down(&mut record, true) {
            Ok(()) => log::info!("cleaned up {} (its daemon had died)", record.mountpoint.display()),
            Err(e) => log::warn!("cannot clean up {}: {e}", record.mountpoint.display()),
        }
    }
    // Directories that were created for a mount that never happened.
    let parents = runtime_dir().ok().map(|dir| dir.join("mnt")).into_iter().chain(volumes::own());
    for unused in parents.filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten().map(|e| e.path()) {
        // What is hidden keeps the directory in /Volumes alive.
        let hidden = unused.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let known = hidden || records.iter().any(|r| r.mountpoint == unused);
        if !known && matches!(mounted_at(&unused), Ok(None)) {
            let _ = fs::remove_dir(unused);
        }
    }
}
