//! `cdi formats`

use cdi_base::error::Error;
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
        for f in FORMATS {
            ui.data(format!("{:<8}{}", f.name, f.summary));
            ui.data(format!("{:<8}integrity: {}", "", f.integrity));
        }
    }
    Ok(End::Done)
}
