//! `cdi info --health`: what smartctl said about the drive while it was imaged.

use cdi_base::error::Error;
use cdi_capture::health::Health;
use cdi_image::disk::Disk;
use serde_json::{Value, json};

use crate::cmd::Interrupt;
use crate::ui::Ui;

/// A report of the drive.
pub(in crate::cmd) struct Reported {
    pub time: String,
    pub health: Health,
    pub warnings: Vec<String>,
}

impl Reported {
    /// Returns it as JSON.
    pub fn json(&self) -> Value {
        let mut value = json!(self.health);
        value["time"] = json!(self.time);
        value["warnings"] = json!(self.warnings);
        value
    }
}

/// Returns the reports in the log of an image, in order.
pub(in crate::cmd) fn reports(disk: &Disk) -> Result<Vec<Reported>, Error> {
    let interrupt = Interrupt::new()?;
    let mut all = Vec::new();
    let mut take = |line: &str| {
        // Most events are others.
        if line.contains("\"health\"")
            && let Ok(event) = serde_json::from_str::<Value>(line)
            && event["event"] == "health"
            && let Some(health) = Health::stored(&event["health"])
        {
            let time = event["time"].as_str().unwrap_or_default().replace(['\n', '\t'], " ");
            let texts = event["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let warnings = texts.map(|text| text.replace(['\n', '\t'], " ")).collect();
            all.push(Reported { time, health, warnings });
        }
        Ok(())
    };
    disk.image().events(&mut take, &mut || interrupt.check())?;
    Ok(all)
}

/// Prints the first and the last report, and what has changed.
pub(super) fn print(disk: &Disk, ui: &Ui) -> Result<(), Error> {
    let all = reports(disk)?;
    let image = disk.input().path().display().to_string();
    let reported: Vec<Value> = all.iter().map(Reported::json).collect();
    if ui.json(&json!({ "image": image, "health": reported })) {
        return Ok(());
    }
    let (Some(first), Some(last)) = (all.first(), all.last()) else {
        ui.message(format!(
            "{image}: no report of the drive's health is recorded (smartctl makes them during 'create')"
        ));
        return Ok(());
    };
    let mut rows = vec![[String::new(), first.time.clone(), last.time.clone()]];
    let mut row = |name: &str, value: &dyn Fn(&Health) -> Option<String>| {
        let (a, b) = (value(&first.health), value(&last.health));
        if a.is_some() || b.is_some() {
            let text = |value: Option<String>| value.unwrap_or_else(|| "-".into());
            rows.push([name.to_owned(), text(a), text(b)]);
        }
    };
    let count = |number: Option<u64>| number.map(|number| number.to_string());
    row("SMART status", &|h| h.passed.map(|passed| if passed { "passed" } else { "FAILED" }.into()));
    row("reallocated sectors", &|h| count(h.reallocated_sectors));
    row("pending sectors", &|h| count(h.pending_sectors));
    row("uncorrectable sectors", &|h| count(h.uncorrectable_sectors));
    row("temperature", &|h| h.temperature_celsius.map(|degrees| format!("{degrees} C")));
    row("temperature limit", &|h| h.temperature_limit_celsius.map(|degrees| format!("{degrees} C")));
    row("power-on hours", &|h| count(h.power_on_hours));
    row("life used", &|h| h.used_percent.map(|percent| format!("{percent} %")));
    for head in &last.health.heads {
        for name in head.values.keys() {
            let value = |health: &Health| {
                let head = health.heads.iter().find(|other| other.head == head.head)?;
                head.values.get(name).map(Value::to_string)
            };
            row(&format!("head {}: {}", head.head, name.replace('_', " ")), &value);
        }
    }
    ui.table(rows);
    for report in &all {
        for warning in &report.warnings {
            ui.data(format!("{}  {warning}", report.time));
        }
    }
    Ok(())
}
