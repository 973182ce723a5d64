//! `cdi unmount` and `cdi detach`: the same teardown, whether the image, the mount point or the device is named.

use std::path::Path;

use cdi_base::error::Error;
use nix::unistd::geteuid;
use serde_json::json;

use super::End;
use crate::cli::{Detach, Unmount};
use crate::mount::record::{MountRecord, exclusive, find, nearest, records, was_mounted};
use crate::mount::teardown::{tear_down, unmount_unrecorded};
use crate::ui::Ui;

pub(super) fn unmount(args: &Unmount, ui: &Ui) -> Result<End, Error> {
    run(args.target.as_deref(), args.force, ui)
}

pub(super) fn detach(args: &Detach, ui: &Ui) -> Result<End, Error> {
    run(args.target.as_deref(), args.force, ui)
}

/// Unmounts and detaches `target`, or everything.
fn run(target: Option<&Path>, force: bool, ui: &Ui) -> Result<End, Error> {
    let _exclusive = exclusive()?;
    let Some(target) = target else { return all(force, ui) };
    let records = find(target)?;
    for record in &records {
        unmount_one(record, force, ui)?;
    }
    let unrecorded = records.is_empty() && unmount_unrecorded(target, force)?;
    if records.is_empty() && !unrecorded {
        if !was_mounted(target) {
            return Err(not_mounted(target));
        }
        // Unmounting again is not an error.
        ui.message(format!("{}: already unmounted", target.display()));
    }
    ui.json(&json!({ "target": target.display().to_string(), "unmounted": records }));
    Ok(End::Done)
}

/// Returns the error for a target that is not mounted, with the most similar one that is.
pub(super) fn not_mounted(target: &Path) -> Error {
    let error = Error::failed("not mounted or attached").at(target);
    match nearest(target) {
        Some(name) => error.hint(format!("did you mean {}? 'cdi list' shows all", name.display())),
        None if cfg!(target_os = "linux") && !geteuid().is_root() => {
            error.hint("'cdi list' shows what is mounted; what root has mounted is listed by 'sudo cdi list'")
        }
        None => error.hint("'cdi list' shows what is mounted"),
    }
}

/// Unmounts all mounts of this user. If one fails, the others are still unmounted.
fn all(force: bool, ui: &Ui) -> Result<End, Error> {
    let (mut unmounted, mut failed) = (Vec::new(), None);
    for record in records()? {
        match unmount_one(&record, force, ui) {
            Ok(()) => unmounted.push(record),
            Err(e) => {
                if failed.is_some() {
                    ui.warning(format!("{e}"));
                }
                failed = failed.or(Some(e));
            }
        }
    }
    if unmounted.is_empty() && failed.is_none() {
        ui.message("nothing is mounted");
    }
    ui.json(&json!({ "target": null, "unmounted": unmounted }));
    match failed {
        Some(e) => Err(e),
        None => Ok(End::Done),
    }
}

/// Unmounts and detaches one mount, and prints what was done.
fn unmount_one(record: &MountRecord, force: bool, ui: &Ui) -> Result<(), Error> {
    tear_down(&mut record.clone(), force)?;
    let image = record.image.display();
    match &record.device {
        Some(device) => ui.message(format!("detached {} ({image})", device.display())),
        None => ui.message(format!("unmounted {} ({image})", record.mountpoint.display())),
    }
    Ok(())
}
