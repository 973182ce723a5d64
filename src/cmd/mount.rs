//! `cdi mount` and `cdi attach`, and what `exec` and `demo` share with them: the plan of a mount, and bringing it up.

mod place;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cdi_base::error::{ErrnoStyle, Error, Kind};
use cdi_base::units::SECTOR;
use cdi_image::disk::Options;
use cdi_image::input::is_remote;
use cdi_serve::transport::Desktop;
use cdi_serve::transports::transport;
use cdi_system::mounted_at;
use serde_json::{Value, json};

pub(in crate::cmd) use self::place::Where;
use super::table::{self, ReadTable};
use super::{End, open_part};
use crate::cli::{Access, Attach, DesktopArgs, DeviceArgs, ErrnoName, Mount, PartArgs, Reads};
use crate::mount::daemon::MountPlan;
use crate::mount::record::{MountRecord, exclusive, records};
use crate::mount::{background, daemon, teardown};
use crate::ui::{Ui, ignore_closed_stdout, printable};
use crate::{attach, cli};

/// What to present, and how.
pub(super) struct Shown<'a> {
    pub image: &'a cli::Image,
    pub part: &'a PartArgs,
    pub reads: &'a Reads,
    pub access: &'a Access,
    pub desktop: Desktop,
}

/// Returns whether desktops show the mount. `usually`: if the user does not say.
fn desktop(args: DesktopArgs, usually: bool) -> Desktop {
    let asked = args.browse || args.no_browse;
    Desktop { show: if asked { args.browse } else { usually }, asked }
}

/// A mount that no desktop needs to show.
pub(super) const UNSEEN: Desktop = Desktop { show: false, asked: false };

pub(super) fn mount(args: &Mount, ui: &Ui) -> Result<End, Error> {
    let shown = Shown {
        image: &args.image,
        part: &args.part,
        reads: &args.reads,
        access: &args.access,
        desktop: desktop(args.desktop, true),
    };
    let place = args.dir.as_deref().map_or(Where::InVolumes, Where::Given);
    let (plan, table) = plan(&shown, place, None, ui)?;
    let dir = plan.dir.clone();
    bring_up(plan, args.foreground, ui, |record| {
        if !args.silent && !ui.json(&with_partitions(record, &table)) {
            ui.message(format!("{} is mounted at {}", record.image.display(), dir.display()));
            if args.dir.is_none() {
                ui.exact(dir.display());
            }
        }
    })
}

pub(super) fn attach(args: &Attach, ui: &Ui) -> Result<End, Error> {
    // Check this first: nothing else is of use without it.
    attach::ready(args.device.with.map(cli::With::name))?;
    let shown = Shown {
        image: &args.image,
        part: &args.part,
        reads: &args.reads,
        access: &args.access,
        desktop: desktop(args.desktop, false),
    };
    let place = args.dir.as_deref().map_or(Where::InRuntimeDir, Where::Given);
    let (plan, table) = plan(&shown, place, Some(&args.device), ui)?;
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
    if let Some(e) = table::unreadable(table) {
        ui.warning(format!("cannot read the partition table, or not all of it: {e}"));
    }
    for (number, what) in table::lines(table) {
        ui.message(format!("partition {number}: {what}"));
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

/// Returns the record as JSON, with the partitions of the disk.
fn with_partitions(record: &MountRecord, table: &ReadTable) -> Value {
    let mut value = serde_json::to_value(record).unwrap_or_default();
    table::add_to(&mut value, table);
    value
}

/// Refuses to attach an image, or the same part of it, a second time if the user names no mount point: they may not
/// know of the first.
fn refuse_attached(args: &Attach, plan: &MountPlan) -> Result<(), Error> {
    if args.dir.is_some() {
        return Ok(());
    }
    let part = plan.disk.part();
    let is_attached = |r: &MountRecord| {
        r.image == plan.image && r.part == part && (r.device.is_some() || r.with.is_some()) && r.is_served()
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
        let mut up = daemon::start(plan)?;
        up.confine(None);
        ignore_closed_stdout();
        report(&up.record);
        ui.message("press Ctrl-C to stop");
        return up.serve().map(|()| End::Done);
    }
    match background::start_in_background(plan) {
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
    place: Where<'_>,
    device: Option<&DeviceArgs>,
    ui: &Ui,
) -> Result<(MountPlan, ReadTable), Error> {
    let Shown { image, part, reads, access, desktop } = *shown;
    // Open the image before taking the lock: reading it may hang.
    let (disk, table) = open_part(image, part, reads.into(), ui)?;
    let exclusive = exclusive()?;
    teardown::clean_up_stale_mounts();
    let path = resolved(&image.image)?;
    let via = access.via.map(cli::Via::name);
    let own_process = !transport(via)?.serves_itself();
    if own_process {
        refuse_options(shown, disk.input().encryption().is_some())?;
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
    let request = device.map(|d| attach::Request {
        size: disk.size(),
        sector: attach::sector_size(disk.size(), disk.sector()),
        failing: disk.has_failing_reads(),
        partitions: d.partscan,
        readahead: d.readahead,
        mount: d.mount,
    });
    let (dir, created_dir) = place.prepare(&path, own_process, access.allow_other)?;
    if nix::unistd::geteuid().is_root() && !access.allow_other && place.is_open_to_others(&dir) {
        let who = if cfg!(target_os = "macos") { "to browse it in the Finder" } else { "for other users" };
        ui.warning(format!("only root can read it there; {who}, add --allow-other"));
    }
    if desktop.asked && cfg!(target_os = "linux") && (nix::unistd::geteuid().is_root() || via == Some("nfs"))
    {
        ui.warning("--browse and --no-browse have no effect for root, or with --via nfs: only fusermount3 can set them");
    }
    let errno = match access.errno {
        ErrnoName::Io => ErrnoStyle::Io,
        ErrnoName::Medium => ErrnoStyle::Medium,
    };
    let allow_other = access.allow_other;
    let plan = MountPlan {
        disk: Arc::new(disk).into(),
        image: path,
        dir,
        created_dir,
        bad: reads.bad.to_string(),
        errno,
        allow_other,
        files: access.files,
        desktop,
        via,
        device: request,
        with,
        exec: false,
        exclusive,
    };
    Ok((plan, table))
}

/// Returns the path of an image without links, or its address.
fn resolved(image: &Path) -> Result<PathBuf, Error> {
    if is_remote(image) {
        return Ok(image.to_owned());
    }
    image.canonicalize().map_err(|e| Error::io("cannot resolve", image, e))
}

/// Refuses options that have no effect: if an extension of the system serves the disk, none of our options reaches
/// it. An error is better than an option that is ignored. `encrypted`: the image needs a passphrase.
fn refuse_options(shown: &Shown<'_>, encrypted: bool) -> Result<(), Error> {
    let Shown { image, part, reads, access, desktop: _ } = *shown;
    let cli::OpenArgs {
        format,
        mapfile,
        badblocks,
        block_size: _,
        sector_size,
        allow_parent,
        remote_cache: _,
        snapshot,
        member,
        passphrase_file,
        passphrase_fd,
        passphrase: _,
    } = &image.open;
    let given = [
        ("--format", format.is_some()),
        ("--mapfile", mapfile.is_some()),
        ("--badblocks", badblocks.is_some()),
        ("an image on another system", is_remote(&image.image)),
        ("--allow-parent", !allow_parent.is_empty()),
        ("--sector-size", sector_size.is_some()),
        ("--snapshot", snapshot.is_some()),
        ("--member", member.is_some()),
        ("a passphrase", encrypted || passphrase_file.is_some() || passphrase_fd.is_some()),
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

/// Returns text on one line that does not control the terminal.
fn tame(text: &str) -> String {
    printable(text).replace('\n', "\u{fffd}")
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
