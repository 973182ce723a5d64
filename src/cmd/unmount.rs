//! `cdi unmount` and `cdi detach`: the same teardown, whatever names the mount.

use std::path::Path;

use cdi_base::error::Error;
use serde_json::json;

use super::End;
use crate::cli::{Detach, Unmount};
use crate::mount::record::{MountRecord, exclusive, find, nearest, records, was_mounted};
use crate::mount::teardown::{down, unmount_unrecorded};
use crate::ui::Ui;

pub(super) fn unmount(args: &Unmount, ui: &Ui) -> Result<End, Error> {
    run(args.target.as_deref(), args.force, ui)
}

pub(super) fn detach(args: &Detach, ui: &Ui) -> Result<End, Error> {
    run(args.target.as_deref(), args.force, ui)
}

/// Takes down what `target` names, or everything.
fn run(target: Option<&Path>, force: bool, ui: &Ui) -> Result<End, Error> {
    let _exclusive = exclusive()?;
    let Some(target) = target else { return all(force, ui) };
    let records = find(target)?;
    for record in &records {
        take_down(record, force, ui)?;
    }
    let unrecorded = records.is_empty() && unmount_unrecorded(target, force)?;
    if records.is_empty() && !unrecorded {
        if !was_mounted(target) {
            let error = Error::failed("is not mounted or attached").at(target);
            return Err(match nearest(target) {
                Some(name) => error.hint(format!("did you mean {}? 'cdi list' shows all", name.display())),
                None => error.hint("'cdi list' shows what is mounted"),
            });
        }
        // Done already: a second time is fine.
        ui.say(format!("{}: already unmounted", target.display()));
    }
    ui.json(&json!({ "target": target.display().to_string(), "unmounted": records }));
    Ok(End::Done)
}

/// Takes down all mounts of this user. One that cannot go keeps the others from nothing.
fn all(force: bool, ui: &Ui) -> Result<End, Error> {
    let (mut gone, mut failed) = (Vec::new(), None);
    for record in records()? {
        match take_down(&record, force, ui) {
            Ok(()) => gone.push(record),
            Err(e) => {
                if failed.is_some() {
                    ui.warning(format!("{e}"));
                }
                failed = failed.or(Some(e));
            }
        }
    }
    if gone.is_empty() && failed.is_none() {
        ui.say("nothing is mounted");
    }
    ui.json(&json!({ "target": null, "unmounted": gone }));
    match failed {
        Some(e) => Err(e),
        None => Ok(End::Done),
    }
}

fn take_down(record: &MountRecord, force: bool, ui: &Ui) -> Result<(), Error> {
    down(&mut record.clone(), force)?;
    let image = record.image.display();
    match &record.device {
        Some(device) => ui.say(format!("detached {} ({image})", device.display())),
        None => ui.say(format!("unmounted {} ({image})", record.mountpoint.display())),
    }
    Ok(())
}
