//! `cdi compact IMAGE [OUT]`: rewrites an image without superseded data.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use cdi_base::advice::Advice;
use cdi_base::error::Error;
use cdi_base::units::human;
use cdi_capture::compact::compact;
use cdi_capture::guard::{Guard, Over, refuse_other_name};
use cdi_capture::protect::parity_of;
use cdi_image::cdimg::parity::{Purpose, with_parity};
use cdi_image::cdimg::{FORMAT, reader};
use cdi_image::image::Image;
use cdi_image::input::Input;
use cdi_system::output_file::{OutputFile, open_locked};
use serde_json::json;

use super::{End, Interrupt, command_line, protect, protect_mounted};
use crate::cli::Compact;
use crate::ui::Ui;

pub(super) fn run(args: &Compact, ui: &Ui) -> Result<End, Error> {
    let path = &args.image;
    if !(FORMAT.probe)(&Input::open(path)?) {
        return Err(Error::bad_image("not a .cdimg image (only .cdimg images can be compacted)").at(path));
    }
    // Replace the image, or write a separate file. Both fail if another process is writing the old image.
    let out = args.out.as_ref().unwrap_or(path);
    let (_old, (mut target, new)) = match &args.out {
        None => (None, OutputFile::replace(path)?),
        Some(out) => {
            refuse_other_name(out, &FORMAT)?;
            let mut guard =
                Guard::new(Over { force: args.force, discard_unfinished: args.discard_unfinished });
            guard.protect(path, "is the image that is read");
            protect_mounted(&mut guard);
            (Some(open_locked(path, false)?), guard.create(out)?)
        }
    };
    let input = Arc::new(with_parity(Input::open(path)?, Purpose::Read)?);
    let image = reader::open(Arc::clone(&input)).map_err(|e| e.at(path))?;
    image.warnings().iter().for_each(|r| ui.warning(r));
    if image.has_more()? {
        let what = "the image is damaged: compacting it would lose data that can still be salvaged";
        return Err(Error::bad_image(what).at(path).hint("nothing was changed").then(Advice::Repair));
    }
    let interrupt = Interrupt::of(&input)?;
    if let Some((flaw, _)) = image.seal(&mut || interrupt.check())?.flaws.into_iter().next() {
        // The new image would be sealed, and nothing in its file would show this any more.
        let what = format!("the image is not compacted, because it is not as it was written: {flaw}");
        return Err(Error::bad_image(what).at(path).hint("nothing was changed").then(Advice::Repair));
    }
    let (size, before) = (image.size(), input.len());
    if args.out.is_none() {
        keep_owner(path, &new)?;
    }
    let mut progress = ui.progress("compacting", size);
    let copy = protect::copy(&new, out)?;
    let mut after = compact(&input, image, Box::new(new), out, &command_line(), &mut |bytes| {
        progress.advance(bytes);
        target.check()?;
        interrupt.check()
    })?;
    let took = progress.finish();
    // An image that has parity keeps it.
    if let Some(hundredths) = parity_of(&input) {
        protect::add_if_finished(&copy, out, hundredths, &mut || interrupt.check(), ui)?;
        after = copy.metadata().map_or(after, |meta| meta.len());
    }
    if args.out.is_none() && after >= before {
        // Dropping the target removes the new file.
        drop(target);
        if !ui.json(
            &json!({ "image": out.display().to_string(), "bytes_before": before, "image_bytes": before }),
        ) {
            ui.message(format!("{}: nothing to reclaim; {took}", out.display()));
        }
        return Ok(End::Done);
    }
    target.finish()?;
    if !ui.json(&json!({ "image": out.display().to_string(), "bytes_before": before, "image_bytes": after }))
    {
        ui.message(format!("{}: {} (was {}), {took}", out.display(), human(after), human(before)));
    }
    Ok(End::Done)
}

/// Gives the new file the mode of the old one and, if permitted, its owner and group.
fn keep_owner(old: &Path, new: &File) -> Result<(), Error> {
    let cannot = |e| Error::io("cannot preserve its mode", old, e);
    let meta = fs::metadata(old).map_err(cannot)?;
    let _ = std::os::unix::fs::fchown(new, Some(meta.uid()), Some(meta.gid()));
    new.set_permissions(meta.permissions()).map_err(cannot)
}
