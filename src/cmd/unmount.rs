//! `cdi unmount` and `cdi detach`: the same way down, whatever names it.

use cdi_base::error::Error;
use serde_json::json;

use super::End;
use crate::cli::Down;
use crate::mount::record::{exclusive, find, nearest, was_there};
use crate::mount::teardown::{down, unmount_unrecorded};
use crate::ui::Ui;

pub(super) fn run(args: &Down, ui: &Ui) -> Result<End, Error> {
    let _exclusive = exclusive()?;
    let records = find(&args.target)?;
    for record in &records {
        down(&mut record.clone(), args.force)?;
        ui.say(format!("{} is no longer at {}", record.image.display(), record.mountpoint.display()));
    }
    let unrecorded = records.is_empty() && unmount_unrecorded(&args.target, args.force)?;
    if records.is_empty() && !unrecorded {
        if !was_there(&args.target) {
            let error = Error::failed("is not mounted or attached").at(&args.target);
            return Err(match nearest(&args.target) {
                Some(name) => error.hint(format!("is it {}? 'cdi list' shows what is", name.display())),
                None => error.hint("'cdi list' shows what is"),
            });
        }
        // Done already: a second time is fine.
        ui.say(format!("{}: is unmounted already", args.target.display()));
    }
    ui.json(&json!({ "target": args.target.display().to_string(), "unmounted": records }));
    Ok(End::Done)
}
