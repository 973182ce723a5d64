//! `cdi mount` and `cdi attach`, and what `exec` and `demo` share with them: the plan of a mount, and bringing it up.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cdi_base::error::{ErrnoStyle, Error, Kind, ReadError};
use cdi_base::units::{SECTOR, human};
use cdi_image::disk::Options;
use cdi_image::part::PART_OF_DISK;
use cdi_image::partitions::Partition;
use cdi_serve::transports::transport;
use cdi_system::mounted_at;
use serde_json::{Value, json};

use super::{End, ReadTable, open_part};
use crate::cli::{Access, Attach, DeviceArgs, ErrnoName, Mount, PartArgs, Reads};
use crate::mount::daemon::MountPlan;
use crate::mount::record::{MountRecord, exclusive, records, runtime_dir};
use crate::mount::{daemon, teardown};
use crate::ui::{Ui, ignore_closed_stdout, printable};
use crate::{attach, cli};

/// What to present, and how.
pub(super) struct Shown<'a> {
    pub image: &'a cli::Image,
    pub part: &'a PartArgs,
    pub reads: &'a Reads,
    pub access: &'a Access,
}

pub(super) fn mount(args: &Mount, ui: &Ui) -> Result<End, Error> {
    let shown = Shown { image: &args.image, part: &args.part, reads: &args.reads, access: &args.access };
    let (plan, table) = plan(&shown, Some(&args.dir), None, ui)?;
    let dir = plan.dir.clone();
    bring_up(plan, args.foreground, ui, |record| {
        if !ui.json(&with_partitions(record, &table)) {
            ui.message(format!("{} is mounted at {}", record.image.display(), dir.display()));
        }
    })
}

pub(super) fn attach(args: &Attach, ui: &Ui) -> Result<End, Error> {
    // Check this first: nothing else is of use without it.
    attach::ready(args.device.with.map(cli::With::name))?;
    let shown = Shown { image: &args.image, part: &args.part, reads: &args.reads, access: &args.access };
    let (plan, table) = plan(&shown, args.dir.as_deref(), Some(&args.device), ui)?;
    // The plan holds the lock: no other command attaches until this one has.
    refuse_attached(args, &plan).inspect_err(|_| {
        if plan.created_dir {
            let _ = fs::remove_dir(&plan.dir);
        }
    })?;
    bring_up(plan, args.foreground, ui, |record| {
        if args.device.partscan {
            warn_of_missing_partitions(record, &table, ui);
        }
        if !ui.json(&with_partitions(record, &table)) {
            print_attached(record, &table, ui);
        }
    })
}

/// Prints the device, the mount point and the partitions of an attached image.
fn print_attached(record: &MountRecord, table: &ReadTable, ui: &Ui) {
    ui.message(format!("{} is mounted at {}", record.image.display(), record.mountpoint.display()));
    let Some(device) = &record.device else { return };
    ui.data(device.display());
    if let Some(name) = device.to_str().and_then(|d| d.strip_prefix("/dev/disk")) {
        ui.message(format!("use the raw device for tools that read sectors: /dev/rdisk{name}"));
    }
    if let Some(e) = unreadable(table) {
        ui.warning(format!("cannot read the partition table, or not all of it: {e}"));
    }
    for p in table.iter().flatten().flat_map(|table| &table.partitions) {
        let name = p.name.as_ref().map(|name| format!(" '{}'", tame(name))).unwrap_or_default();
        let kind = tame(&p.kind);
        ui.message(format!("partition {}: {kind}{name}, {} at byte {}", p.number, human(p.size), p.start));
    }
}

/// Warns if the kernel made no devices for the partitions, as some kernels do not.
fn warn_of_missing_partitions(record: &MountRecord, table: &ReadTable, ui: &Ui) {
    let first = table.iter().flatten().flat_map(|table| &table.partitions).next();
    let node =
        record.device.as_ref().zip(first).map(|(device, p)| format!("{}p{}", device.display(), p.number));
    if let Some(node) = node.filter(|node| cfg!(target_os = "linux") && !Path::new(node).exists()) {
        ui.warning(format!(
            "the kernel made no device for the partitions ({node}): use --partition N instead"
        ));
    }
}

/// Returns the error in reading the partition table or part of it.
fn unreadable(table: &ReadTable) -> Option<ReadError> {
    match table {
        Ok(table) => table.as_ref().and_then(|table| table.damage),
        Err(e) => Some(*e),
    }
}

/// Returns the record as JSON, with the partitions of the disk.
fn with_partitions(record: &MountRecord, table: &ReadTable) -> Value {
    let mut value = serde_json::to_value(record).unwrap_or_default();
    if let Some(e) = unreadable(table) {
        value["partition_table_error"] = e.to_string().into();
    }
    if let Ok(Some(table)) = table {
        value["partition_table"] = table.scheme.name().into();
        let partition = |p: &Partition| {
            json!({
                "number": p.number,
                "offset_bytes": p.start,
                "size_bytes": p.size,
                "type": p.kind,
                "name": p.name,
            })
        };
        value["partitions"] = table.partitions.iter().map(partition).collect();
    }
    value
}

/// Refuses to attach an image, or the same part of it, a second time if the user names no mount point: they may not
/// know of the first.
fn refuse_attached(args: &Attach, plan: &MountPlan) -> Result<(), Error> {
    if args.dir.is_some() {
        return Ok(());
    }
    let part = plan.disk.metadata().more.get(PART_OF_DISK);
    let is_attached = |r: &MountRecord| {
        r.image == plan.image
            && r.part.as_ref() == part
            && (r.device.is_some() || r.with.is_some())
            && r.is_served()
    };
    let Some(record) = records()?.into_iter().find(is_attached) else { return Ok(()) };
    // Do not return the existing device: it may have been attached with other options.
    let what = match record.device {
        Some(device) => format!("already attached as {}", device.display()),
        None => "another command is attaching it".into(),
    };
    let error = Error::new(Kind::Busy, what).at(&args.image.image);
    Err(error.hint("detach it first, or name a mount point for a second device"))
}

/// Mounts or attaches as planned, in the foreground or by a daemon. Calls `report` when it is up.
fn bring_up(plan: MountPlan, foreground: bool, ui: &Ui, report: impl Fn(&MountRecord)) -> Result<End, Error> {
    let created_dir = plan.created_dir.then(|| plan.dir.clone());
    if foreground {
        let up = daemon::start(plan)?;
        ignore_closed_stdout();
        report(&up.record);
        ui.message("press Ctrl-C to stop");
        return up.serve().map(|()| End::Done);
    }
    match daemon::start_in_background(plan) {
        Ok(record) => {
            report(&record);
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

/// Opens the image, and decides where and how it is presented. `device` says how it is attached, if it is. Also
/// returns the partition table if the whole disk is presented.
pub(super) fn plan(
    shown: &Shown<'_>,
    dir: Option<&Path>,
    device: Option<&DeviceArgs>,
    ui: &Ui,
) -> Result<(MountPlan, ReadTable), Error> {
    let Shown { image, part, reads, access } = *shown;
    // Open the image before taking the lock: reading it may hang.
    let (disk, table) = open_part(image, part, reads.into(), ui)?;
    let exclusive = exclusive()?;
    teardown::clean_up_stale_mounts();
    let path = image.image.canonicalize().map_err(|e| Error::io("cannot resolve", &image.image, e))?;
    let via = access.via.map(cli::Via::name);
    let own_process = !transport(via)?.serves_itself();
    if own_process {
        refuse_options(shown)?;
    }
    let with = device.and_then(|d| d.with).map(cli::With::name);
    if device.is_some() {
        attach::candidates(with)?;
        let tail = disk.size() % u64::from(SECTOR);
        if disk.size() < u64::from(SECTOR) {
            return Err(Error::bad_image("smaller than a sector: cannot be attached as a block device")
                .at(&image.image));
        }
        if tail != 0 {
            ui.warning(format!(
                "the size of {} bytes is not a multiple of {SECTOR}: the device is {tail} bytes shorter than disk.raw",
                disk.size()
            ));
        }
    }
    if access.allow_other && dir.is_none() {
        let error = Error::usage("--allow-other needs a mount point: the default one is private");
        return Err(error.hint("name one: cdi attach IMAGE DIR --allow-other"));
    }
    let request = device.map(|d| attach::Request {
        size: disk.size(),
        sector: attach::sector_size(disk.size(), disk.sector()),
        failing: disk.has_failing_reads(),
        partitions: d.partscan,
        readahead: d.readahead,
        mount: d.mount,
    });
    let (dir, created_dir) = match dir {
        Some(dir) => given_dir(dir, &path)?,
        None => (own_dir(&path)?, true),
    };
    if own_process && !access.allow_other && !is_private(&dir) {
        let what = "every user of this Mac could read it there: FSKit treats all users as the owner";
        let hint = "use a mount point inside a private directory (chmod 700), or --allow-other";
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
        bad: reads.bad.to_string(),
        errno,
        allow_other,
        via,
        device: request,
        with,
        exec: false,
        exclusive,
    };
    Ok((plan, table))
}

/// Refuses options that have no effect: if an extension of the system serves the disk, none of our options reaches
/// it. An error is better than an option that is ignored.
fn refuse_options(shown: &Shown<'_>) -> Result<(), Error> {
    let Shown { image, part, reads, access } = *shown;
    let cli::OpenArgs { format, mapfile, badblocks, block_size: _, sector_size, allow_parent } = &image.open;
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
        ("--partition", part.partition.is_some()),
        ("--offset", part.offset.is_some()),
        ("--size", part.size.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((name, _)) => {
            let error = Error::usage(format!("{name} does not work with --via fskit"));
            Err(error.hint("leave it out, or use --via nfs"))
        }
        None => Ok(()),
    }
}

/// Checks whether only this user can reach a directory: whether one of its parent directories belongs to this user and
/// gives nobody else access.
fn is_private(dir: &Path) -> bool {
    let user = nix::unistd::geteuid().as_raw();
    let is_closed =
        |dir: &Path| fs::symlink_metadata(dir).is_ok_and(|m| m.uid() == user && m.mode() & 0o011 == 0);
    dir.ancestors().skip(1).any(is_closed)
}

/// Prepares the mount point that the user named: creates it if it does not exist, and checks that it is empty. Also
/// returns whether it was created.
fn given_dir(dir: &Path, image: &Path) -> Result<(PathBuf, bool), Error> {
    let created = match fs::create_dir(dir) {
        Ok(()) => true,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => false,
        Err(e) => return Err(Error::io("cannot create", dir, e)),
    };
    let check = || {
        let resolved = dir.canonicalize().map_err(|e| Error::io("cannot resolve", dir, e))?;
        if !resolved.is_dir() {
            return Err(Error::usage("not a directory").at(dir));
        }
        if mounted_at(&resolved)?.is_some_and(|m| m.is_cdi_mount() || m.fstype.starts_with("fuse")) {
            let error = Error::new(Kind::Busy, "already a mount point").at(dir);
            return Err(error.hint("see 'cdi list'; 'cdi unmount' unmounts it"));
        }
        let mut entries = fs::read_dir(&resolved).map_err(|e| Error::io("cannot read", dir, e))?;
        if entries.next().is_some() {
            return Err(Error::usage("directory not empty: a mount would hide its contents").at(dir));
        }
        if image.starts_with(&resolved) {
            return Err(Error::usage("the image is in this directory, which the mount would hide").at(dir));
        }
        Ok(resolved)
    };
    check().map(|resolved| (resolved, created)).inspect_err(|_| {
        if created {
            let _ = fs::remove_dir(dir);
        }
    })
}

/// Returns text on one line that does not control the terminal.
fn tame(text: &str) -> String {
    printable(text).replace('\n', "\u{fffd}")
}

/// Creates a mount point named after the image in the runtime directory.
fn own_dir(image: &Path) -> Result<PathBuf, Error> {
    let parent = runtime_dir()?.join("mnt");
    fs::create_dir_all(&parent).map_err(|e| Error::io("cannot create", &parent, e))?;
    let name = image.file_stem().unwrap_or(image.as_os_str()).to_string_lossy().into_owned();
    for number in 1..1000 {
        let dir = parent.join(if number == 1 { name.clone() } else { format!("{name}-{number}") });
        match fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io("cannot create", &dir, e)),
        }
    }
    Err(Error::failed("too many mounted images of this name").at(&parent))
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
    let path = |path: &Path| tame(&path.display().to_string());
    let row = |(alive, r): &(bool, MountRecord)| {
        let state = if *alive { "" } else { "  (not served any more: 'cdi detach' cleans up)" };
        let device = r.device.as_deref().map_or("-".into(), path);
        let part =
            r.part.as_ref().map(|part| format!(" (from byte {})", part["offset_bytes"])).unwrap_or_default();
        [device, tame(&r.bad), path(&r.mountpoint), path(&r.image) + &part + state]
    };
    if !mounts.is_empty() {
        let header = ["DEVICE", "BAD", "MOUNT POINT", "IMAGE"].map(str::to_owned);
        ui.table(std::iter::once(header).chain(mounts.iter().map(row)).collect());
    }
    if mounts.is_empty() {
        ui.message("nothing is mounted");
    }
    Ok(End::Done)
}
