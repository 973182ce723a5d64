//! `cdi formats`: lists the supported formats.

use cdi_base::error::Error;
use cdi_image::image::Format;
use cdi_image::open::FORMATS;
use serde_json::json;

use super::End;
use crate::ui::Ui;

pub(super) fn run(ui: &Ui) -> Result<End, Error> {
    let table: Vec<_> = FORMATS
        .iter()
        .map(|f| json!({ "name": f.name, "summary": f.summary, "integrity": f.integrity, "suffixes": f.suffixes }))
        .collect();
    if !ui.json(&json!({ "formats": table })) {
        let row = |f: &&Format| [f.name.to_owned(), f.summary.to_owned()];
        let header = ["FORMAT", "DESCRIPTION"].map(str::to_owned);
        ui.table(std::iter::once(header).chain(FORMATS.iter().map(row)).collect());
    }
    Ok(End::Done)
}
