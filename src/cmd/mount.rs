//! `cdi mount` and `cdi attach`, and what `exec` and `demo` share with them: a plan, brought up.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cdi_base::error::{ErrnoStyle, Error, Kind};
use cdi_base::units::SECTOR;
use cdi_image::disk::Options;
use cdi_serve::transports::transport;
use cdi_system::mounted_at;
use serde_json::json;

use super::{End, open_disk};
use crate::cli::{Access, Attach, DeviceOptions, ErrnoName, Mount, Reads};
use crate::mount::daemon::MountPlan;
use crate::mount::record::{MountRecord, exclusive, records, runtime_dir};
use crate::mount::{daemon, teardown};
use crate::ui::{Ui, go_on_unheard, printable};
use crate::{attach, cli};

pub(super) fn mount(args: &Mount, ui: &Ui) -> Result<End, Error> {
    let plan = plan(&args.image, Some(&args.dir), &args.reads, &args.access, None, ui)?;
    let dir = plan.dir.clone();
    bring_up(plan, args.foreground, ui, |record| {
        if !ui.json(record) {
            ui.say(format!("{} is mounted at {}", record.image.display(), dir.display()));
        }
    })
}

pub(super) fn attach(args: &Attach, ui: &Ui) -> Result<End, Error> {
    // First of all: nothing else is of use without it.
    attach::ready(args.device.with.map(cli::With::name))?;
    refuse_attached(args)?;
    let plan = plan(&args.image, args.dir.as_deref(), &args.reads, &args.access, Some(&args.device), ui)?;
    // From here on no other command attaches.
    refuse_attached(args).inspect_err(|_| {
        if plan.created_dir {
            let _ = fs::remove_dir(&plan.dir);
        }
    })?;
    bring_up(plan, args.foreground, ui, |record| {
        if !ui.json(record) {
            ui.say(format!("{} is mounted at {}", record.image.display(), record.mountpoint.display()));
            if let Some(device) = &record.device {
                ui.data(device.display());
                if let Some(name) = device.to_str().and_then(|d| d.strip_prefix("/dev/disk")) {
                    ui.say(format!("tools that read sectors take its raw device: /dev/rdisk{name}"));
                }
            }
        }
    })
}

/// Refuses to attach an image a second time where the user names no directory: he may not know of the first.
fn refuse_attached(args: &Attach) -> Result<(), Error> {
    let (None, Ok(image)) = (&args.dir, args.image.image.canonicalize()) else { return Ok(()) };
    let is_attached =
        |r: &MountRecord| r.image == image && (r.device.is_some() || r.with.is_some()) && r.is_served();
    let Some(record) = records()?.into_iter().find(is_attached) else { return Ok(()) };
    // Not the old device: it may have been attached with other options.
    let what = match record.device {
        Some(device) => format!("is attached already, at {}", device.display()),
        None => "is being attached by another command".into(),
    };
    let error = Error::new(Kind::Busy, what).at(&args.image.image);
    Err(error.hint("detach it first, or name a directory for a second device"))
}

fn bring_up(plan: MountPlan, foreground: bool, ui: &Ui, tell: impl Fn(&MountRecord)) -> Result<End, Error> {
    let created_dir = plan.created_dir.then(|| plan.dir.clone());
    if foreground {
        let up = daemon::up(plan)?;
        go_on_unheard();
        tell(&up.record);
        ui.say("Ctrl-C ends it");
        return up.serve().map(|()| End::Done);
    }
    match daemon::up_in_background(plan) {
        Ok(record) => {
            tell(&record);
            Ok(End::Done)
        }
        Err(e) => {
            // The daemon has cleaned up unless it died.
            if let Some(dir) = created_dir.filter(|d| matches!(mounted_at(d), Ok(None))) {
                let _ = fs::remove_dir(dir);
            }
            Err(e)
        }
    }
}

/// Opens the image and settles where and how it is to be shown. `device` says how it is to be attached, if it is.
pub(super) fn plan(
    image: &cli::Image,
    dir: Option<&Path>,
    reads: &Reads,
    access: &Access,
    device: Option<&DeviceOptions>,
    ui: &Ui,
) -> Result<MountPlan, Error> {
    // Opened before others are held off: an image may be where reading hangs.
    let disk = open_disk(image, reads.into(), ui)?;
    let exclusive = exclusive()?;
    teardown::clean_up_after_the_dead();
    let path = image.image.canonicalize().map_err(|e| Error::io("cannot be resolved", &image.image, e))?;
    let via = access.via.map(cli::Via::name);
    let own_process = !transport(via)?.serves_itself();
    if own_process {
        refuse_options(image, reads, access)?;
    }
    let with = device.and_then(|d| d.with).map(cli::With::name);
    if device.is_some() {
        attach::candidates(with)?;
        let tail = disk.size() % u64::from(SECTOR);
        if disk.size() < u64::from(SECTOR) {
            return Err(
                Error::bad_image("smaller than a sector: it cannot be a block device").at(&image.image)
            );
        }
        if tail != 0 {
            ui.warning(format!(
                "{} bytes are not whole sectors of {SECTOR}: the device ends {tail} bytes early, disk.raw has them all",
                disk.size()
            ));
        }
    }
    if access.allow_other && dir.is_none() {
        let error = Error::usage("--allow-other needs a folder to mount at: the default one is yours alone");
        return Err(error.hint("name one: cdi attach IMAGE DIR --allow-other"));
    }
    let request = device.map(|d| attach::Request {
        size: disk.size(),
        sector: attach::sector_size(disk.size(), disk.sector()),
        failing: disk.has_failing_reads(),
        partitions: d.partitions,
        readahead: d.readahead,
        mount: d.mount,
    });
    let (dir, created_dir) = match dir {
        Some(dir) => given_dir(dir, &path)?,
        None => (own_dir(&path)?, true),
    };
    if own_process && !access.allow_other && !is_private(&dir) {
        let what =
            "every user of this Mac could read it there: on a mount of FSKit's each counts as the owner";
        let hint = "name a folder in one that is yours alone (chmod 700), or say --allow-other";
        if created_dir {
            let _ = fs::remove_dir(&dir);
        }
        return Err(Error::usage(what).at(&dir).hint(hint));
    }
    let errno = match access.errno {
        ErrnoName::Io => ErrnoStyle::Io,
        ErrnoName::Medium => ErrnoStyle::Medium,
    };
    let allow_other = access.allow_other;
    let plan = MountPlan {
        disk,
        image: path,
        dir,
        created_dir,
        errno,
        allow_other,
        via,
        device: request,
        with,
        exec: false,
        exclusive,
    };
    Ok(plan)
}

/// Where an extension of the system serves the disk, none of our options reaches it; better none than one that does
/// nothing.
fn refuse_options(image: &cli::Image, reads: &Reads, access: &Access) -> Result<(), Error> {
    let cli::HowToOpen { format, mapfile, badblocks, block_size: _, sector_size, allow_parent } = &image.how;
    let given = [
        ("--format", format.is_some()),
        ("--mapfile", mapfile.is_some()),
        ("--badblocks", badblocks.is_some()),
        ("--allow-parent", !allow_parent.is_empty()),
        ("--sector-size", sector_size.is_some()),
        ("--bad", reads.bad != cli::Bad::Error),
        ("--suspect", reads.suspect != cli::Suspect::Error),
        ("--cache", reads.cache != Options::default().cache),
        ("--errno", access.errno != ErrnoName::Io),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((name, _)) => {
            let error = Error::usage(format!("{name} cannot be told to the extension that --via fskit uses"));
            Err(error.hint("leave it out, or mount via nfs"))
        }
        None => Ok(()),
    }
}

/// Whether only this user can reach a folder: whether one above it, of his, lets nobody else through.
fn is_private(dir: &Path) -> bool {
    let user = nix::unistd::geteuid().as_raw();
    let keeps_out =
        |dir: &Path| fs::symlink_metadata(dir).is_ok_and(|m| m.uid() == user && m.mode() & 0o011 == 0);
    dir.ancestors().skip(1).any(keeps_out)
}

/// The folder that the user named: made if it is not there, and empty.
fn given_dir(dir: &Path, image: &Path) -> Result<(PathBuf, bool), Error> {
    let made = match fs::create_dir(dir) {
        Ok(()) => true,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => false,
        Err(e) => return Err(Error::io("cannot be made", dir, e)),
    };
    let check = || {
        let resolved = dir.canonicalize().map_err(|e| Error::io("cannot be resolved", dir, e))?;
        if !resolved.is_dir() {
            return Err(Error::usage("is not a folder").at(dir));
        }
        if mounted_at(&resolved)?.is_some_and(|m| m.is_ours() || m.fstype.starts_with("fuse")) {
            let error = Error::new(Kind::Busy, "something is mounted there already").at(dir);
            return Err(error.hint("'cdi list' shows what; 'cdi unmount' takes it away"));
        }
        let mut entries = fs::read_dir(&resolved).map_err(|e| Error::io("cannot be read", dir, e))?;
        if entries.next().is_some() {
            return Err(Error::usage("is not empty; a mount would hide what is in it").at(dir));
        }
        if image.starts_with(&resolved) {
            return Err(Error::usage("the image lies in the folder that would hide it").at(dir));
        }
        Ok(resolved)
    };
    check().map(|resolved| (resolved, made)).inspect_err(|_| {
        if made {
            let _ = fs::remove_dir(dir);
        }
    })
}

/// A new folder named after the image, among our own.
fn own_dir(image: &Path) -> Result<PathBuf, Error> {
    let parent = runtime_dir()?.join("mnt");
    fs::create_dir_all(&parent).map_err(|e| Error::io("cannot be made", &parent, e))?;
    let name = image.file_stem().unwrap_or(image.as_os_str()).to_string_lossy().into_owned();
    for number in 1..1000 {
        let dir = parent.join(if number == 1 { name.clone() } else { format!("{name}-{number}") });
        match fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io("cannot be made", &dir, e)),
        }
    }
    Err(Error::failed("a thousand images of this name are mounted").at(&parent))
}

pub(super) fn list(ui: &Ui) -> Result<End, Error> {
    let mounts: Vec<_> = records()?.into_iter().map(|r| (r.is_served(), r)).collect();
    let described = |(served, record): &(bool, MountRecord)| {
        let mut value = serde_json::to_value(record).unwrap_or_default();
        value["alive"] = json!(served);
        value
    };
    let table: Vec<_> = mounts.iter().map(described).collect();
    if ui.json(&json!({ "mounts": table })) {
        return Ok(End::Done);
    }
    let tame = |path: &Path| printable(&path.display().to_string()).replace('\n', "\u{fffd}");
    for (served, r) in &mounts {
        let device = r.device.as_deref().map_or("-".into(), tame);
        let dead = if *served { "" } else { "  (its daemon is dead: 'cdi detach' cleans up)" };
        ui.data(format!("{device:<12} {} {}{dead}", tame(&r.mountpoint), tame(&r.image)));
    }
    if mounts.is_empty() {
        ui.say("nothing is mounted");
    }
    Ok(End::Done)
}
