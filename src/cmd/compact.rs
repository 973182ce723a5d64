//! `cdi compact IMAGE [OUT]`

use std::fs::File;
use std::sync::Arc;

use serde_json::json;

use super::{End, Interrupt};
use crate::capture::compact::compact;
use crate::capture::target::{Target, lock};
use crate::cli::Compact;
use crate::error::Error;
use crate::image::Image;
use crate::image::cdi::{FORMAT, read};
use crate::image::input::Input;
use crate::ui::Ui;
use crate::units::human;

pub(super) fn run(args: &Compact, ui: &Ui) -> Result<End, Error> {
    let path = &args.image;
    let input = Arc::new(Input::open(path)?);
    if !(FORMAT.probe)(&input) {
        return Err(Error::bad_image("is no .cdimg; nothing else can be compacted").at(path));
    }
    // Not while somebody writes it.
    let file = File::open(path).map_err(|e| Error::io("cannot be opened", path, e))?;
    lock(&file, path)?;
    let image = read::open(Arc::clone(&input)).map_err(|e| e.at(path))?;
    let (size, before) = (image.size(), input.len());
    // In place of the old one, or as a file of its own.
    let out = args.out.as_ref().unwrap_or(path);
    let interrupt = Interrupt::new()?;
    let (target, new) = Target::create(out, args.force || args.out.is_none())?;
    let mut progress = ui.progress("compacting", size);
    let after = compact(&input, image, Box::new(new), out, &mut |bytes| {
        progress.advance(bytes);
        interrupt.check()
    })?;
    let took = progress.finish();
    target.finish()?;
    if !ui.json(&json!({ "image": out.display().to_string(), "bytes_before": before, "image_bytes": after }))
    {
        ui.say(format!("{}: {} were {}; {took}", out.display(), human(after), human(before)));
    }
    Ok(End::Done)
}
