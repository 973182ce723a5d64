//! `cdi protect IMAGE`: adds parity to a finished image; and the same for images that other verbs have made.

use std::fs::File;
use std::path::Path;

use cdi_base::error::Error;
use cdi_capture::guard::{Guard, Over};
use cdi_capture::options::Made;
use cdi_capture::protect::{Protected, describe, protect, refuse_damage};
use cdi_image::cdimg::FORMAT;
use cdi_image::cdimg::parity::make::is_finished;
use cdi_image::input::Input;
use cdi_serve::texts;
use cdi_system::output_file::open_locked;
use serde_json::json;

use super::{End, Interrupt, protect_mounted};
use crate::cli::{Create, Protect};
use crate::ui::Ui;

pub(super) fn run(args: &Protect, ui: &Ui) -> Result<End, Error> {
    let path = &args.image;
    if !(FORMAT.probe)(&Input::open(path)?) {
        return Err(Error::bad_image("not a .cdimg image (only .cdimg images can have parity)").at(path));
    }
    // Parts of the disk that are missing from a finished image are no reason to refuse it.
    let mut guard = Guard::new(Over { force: true, discard_unfinished: true });
    protect_mounted(&mut guard);
    guard.check(path)?;
    let file = open_locked(path, true)?;
    let interrupt = Interrupt::new()?;
    let mut progress = ui.progress("verifying", file.metadata().map_or(0, |meta| meta.len()));
    let input = Input::new(Box::new(copy(&file, path)?), path)?;
    refuse_damage(&input, path, &mut |bytes| {
        progress.advance(bytes);
        interrupt.check()
    })?;
    progress.finish();
    let (protected, took) = add(&file, path, args.parity, &mut || interrupt.check(), ui)?;
    let summary = protected.summary();
    let value = json!({
        "image": path.display().to_string(),
        "image_bytes": summary.range().end,
        "changed": matches!(protected, Protected::Made(_)),
        "parity": texts::parity(summary),
    });
    if !ui.json(&value) {
        let name = path.display();
        ui.message(match protected {
            Protected::Made(_) => format!("{name}: {} added, {took}", describe(summary)),
            Protected::Already(_) => format!("{name}: already has {}", describe(summary)),
        });
    }
    Ok(End::Done)
}

/// Adds parity to the finished image in `file`, which is at `path`. Also returns the time that it took, for the user.
pub(super) fn add(
    file: &File,
    path: &Path,
    hundredths: u32,
    check: &mut dyn FnMut() -> Result<(), Error>,
    ui: &Ui,
) -> Result<(Protected, String), Error> {
    let len = file.metadata().map_or(0, |meta| meta.len());
    let mut progress = ui.progress("adding parity", len);
    let protected = protect(file, path, hundredths, &mut |bytes| {
        progress.advance(bytes);
        check()
    })?;
    Ok((protected, progress.finish()))
}

/// Adds parity to the image that `create` has made, if that was asked for and the image is finished.
pub(super) fn add_if_wanted(
    file: &File,
    args: &Create,
    made: &mut Made,
    check: &mut dyn FnMut() -> Result<(), Error>,
    ui: &Ui,
) -> Result<(), Error> {
    let Some(hundredths) = args.write.parity else { return Ok(()) };
    if let Some(protected) = add_if_finished(file, &args.image, hundredths, check, ui)? {
        made.parity = Some(*protected.summary());
        made.image_bytes = protected.summary().range().end;
    }
    Ok(())
}

/// Returns another handle for an open file, for the parity that is added after it was written.
pub(super) fn copy(file: &File, path: &Path) -> Result<File, Error> {
    file.try_clone().map_err(|e| Error::io("cannot duplicate the open file", path, e))
}

/// Adds parity to an image that was written, unless it is unfinished.
pub(super) fn add_if_finished(
    file: &File,
    path: &Path,
    hundredths: u32,
    check: &mut dyn FnMut() -> Result<(), Error>,
    ui: &Ui,
) -> Result<Option<Protected>, Error> {
    let input = Input::new(Box::new(copy(file, path)?), path)?;
    if !is_finished(&input) {
        return Ok(None);
    }
    add(file, path, hundredths, check, ui).map(|(protected, _)| Some(protected))
}
