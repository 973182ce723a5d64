//! `cdi index IMAGE`: makes the index of a packed image, and keeps it next to the image.

use std::sync::Arc;

use cdi_base::error::Error;
use cdi_base::units::human;
use cdi_image::input::is_remote;
use serde_json::json;

use super::{End, Interrupt, open_with};
use crate::cli::Index;
use crate::indexes::IndexesNextTo;
use crate::ui::Ui;

pub(super) fn run(args: &Index, ui: &Ui) -> Result<End, Error> {
    if is_remote(&args.image.image) {
        let error = Error::usage("nothing can be written next to an image on another system");
        return Err(error
            .at(&args.image.image)
            .hint("its index is made when it is opened, and kept in your cache"));
    }
    let interrupt = Interrupt::new()?;
    let indexes = Arc::new(IndexesNextTo::new(*ui, args.over.into(), move || interrupt.check()));
    let opened = open_with(&args.image, Arc::clone(&indexes) as _, ui)?;
    opened.image.warnings().iter().for_each(|warning| ui.warning(warning));
    let made = indexes.made();
    let packed = &opened.image.details().packed;
    let end = if opened.image.is_incomplete() { End::DataMissing } else { End::Done };
    let list: Vec<_> = made
        .iter()
        .map(|made| json!({ "file": made.packed, "index": made.index, "index_bytes": made.bytes }))
        .collect();
    if ui.json(&json!({ "made": list, "packed_files": packed.len() })) {
        return Ok(end);
    }
    for made in &made {
        ui.data(made.index.display());
        ui.message(format!("{}: {}, {}", made.index.display(), human(made.bytes), made.took));
    }
    match (made.is_empty(), packed.is_empty()) {
        (true, true) => ui.message(format!("{} images need no index", opened.format.name)),
        (true, false) => ui.message("the index is up to date"),
        _ => {}
    }
    Ok(end)
}
