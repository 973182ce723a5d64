//! `cdi info IMAGE`: shows the metadata of an image, and its log.

use cdi_base::error::Error;
use cdi_base::printable::{self, quoted};
use cdi_base::units::{human, plural};
use cdi_capture::protect::describe;
use cdi_fs::partitions;
use cdi_image::badmap::{BadRange, Status};
use cdi_image::cdimg;
use cdi_image::disk::Disk;
use cdi_image::stored_hashes::ZERO_FILLED;
use cdi_serve::texts;
use serde::Serialize;
use serde_json::Value;

pub(in crate::cmd) mod health;

use super::{End, Interrupt, open_disk, plain_reads, table};
use crate::cli::Info;
use crate::ui::{Ui, printable};

pub(super) fn run(args: &Info, ui: &Ui) -> Result<End, Error> {
    let disk = open_disk(&args.image, plain_reads(), ui)?;
    if args.events {
        events(&disk, ui)?;
        return Ok(End::Done);
    }
    if args.health {
        health::print(&disk, ui)?;
        return Ok(End::Done);
    }
    let interrupt = Interrupt::of(disk.input())?;
    let seal = disk.image().seal(&mut || interrupt.check())?;
    let incomplete = disk.image().is_incomplete() || !seal.flaws.is_empty();
    let end = if incomplete { End::DataMissing } else { End::Done };
    let table = partitions::table(&disk);
    interrupt.check()?;
    let mut value = texts::info(&disk);
    table::add_to(&mut value, &table);
    seal.flaws.iter().for_each(|(flaw, affects)| ui.warning(format!("{flaw}; affects {affects}")));
    if ui.json(&WithDigest { info: &value, digest: seal.digest.as_deref() }) {
        return Ok(end);
    }
    let metadata = disk.metadata();
    let size = disk.size();
    // Text from an image must stay on its line, and must not control the terminal.
    let tame = |text: &str| printable(text).replace(['\n', '\t'], " ");
    let line = |name: &str, value: String| ui.data(format!("{:<15} {}", tame(name), tame(&value)));
    line("image", disk.input().path().display().to_string());
    line("format", format!("{} ({})", disk.format().name, disk.format().integrity));
    if let Some(how) = disk.input().encryption() {
        line("encryption", how.to_owned());
    }
    line("disk", format!("{size} bytes ({}), sectors of {}", human(size), sector_text(&disk)));
    line(
        "file",
        format!(
            "{} bytes ({:.1} % of the disk)",
            disk.input().total_len(),
            disk.input().total_len() as f64 * 100.0 / size as f64
        ),
    );
    if let Some(parity) = disk.input().parity().map(|parity| parity.summary()) {
        let (covered, end) = (human(parity.covered_end), parity.range().end);
        let rest = if end < disk.input().len() { "; what follows is not" } else { "" };
        line("parity", format!("{}: the first {covered} of the file are covered{rest}", describe(&parity)));
    }
    for (number, what) in table::lines(&table) {
        line(&format!("partition {number}"), what);
    }
    for packed in &disk.image().details().packed {
        let name = packed.path.file_name().unwrap_or_default().display();
        let (len, points) = (human(packed.packed_bytes), plural(packed.points, "restart point"));
        line("packed", format!("{name}: {}, {len}, {points}", packed.packing));
    }
    for (name, value) in [
        ("model", &metadata.model),
        ("serial", &metadata.serial),
        ("source", &metadata.source),
        ("created", &metadata.created),
        ("ended", &metadata.finished),
        ("created by", &metadata.tool),
    ] {
        if let Some(value) = value {
            line(name, value.clone());
        }
    }
    for note in &metadata.notes {
        line("note", note.clone());
    }
    let is_hash = |name: &str| name.ends_with("_stored") || name.ends_with("_zero_filled");
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    for (name, value) in metadata.more.iter().filter(|(name, _)| !is_hash(name)) {
        line(&name.replace('_', " "), text(value));
    }
    if let Some(hex) = &metadata.blake3_rescued {
        line("blake3", format!("{hex} (of the rescued data)"));
    }
    for kind in ZERO_FILLED {
        if let Some(hex) = metadata.zero_filled(kind) {
            line(kind.key().trim_end_matches("_zero_filled"), hex.to_owned());
        }
    }
    for (name, value) in metadata.more.iter().filter(|(name, _)| name.ends_with("_stored")) {
        line(&name.replace('_', " "), text(value));
    }
    let listed: u64 = disk.bad().ranges().iter().map(BadRange::len).sum();
    let whole = if listed == 0 { " (everything)" } else { "" };
    line("finished", format!("{} bytes ({}){whole}", size - listed, human(size - listed)));
    for status in Status::LISTED {
        let count = disk.bad().count(status);
        if count.ranges > 0 {
            line(
                status.name(),
                format!(
                    "{} bytes ({}) in {}",
                    count.bytes,
                    human(count.bytes),
                    plural(count.ranges, "range")
                ),
            );
        }
    }
    let lost: u64 = disk.image().lost().iter().map(|r| r.end - r.start).sum();
    if lost > 0 {
        line("lost", format!("{lost} bytes ({}): part of the image's files is missing", human(lost)));
    }
    match (seal.digest, seal.no_digest) {
        (Some(digest), _) => line("digest", digest),
        (None, Some(why)) => line("digest", format!("none: {why}")),
        (None, None) if !seal.flaws.is_empty() => {
            line("digest", "none: the image is not as it was sealed".into())
        }
        (None, None) => {}
    }
    let untried: u64 = [Status::NonTried, Status::NonTrimmed, Status::NonScraped]
        .into_iter()
        .map(|status| disk.bad().count(status).bytes)
        .sum();
    if untried > 0 && disk.format().name == cdimg::FORMAT.name {
        let image = quoted(&args.image.image.display().to_string());
        ui.message(format!(
            "{} were not tried, or not completely; to go on: cdi create --resume DISK {image}",
            human(untried)
        ));
    }
    Ok(end)
}

/// The output as JSON: the digest of all of it comes last.
#[derive(Serialize)]
struct WithDigest<'a> {
    #[serde(flatten)]
    info: &'a Value,
    digest: Option<&'a str>,
}

/// Prints the events one by one as they are read: they need not fit into memory.
fn events(disk: &Disk, ui: &Ui) -> Result<(), Error> {
    let interrupt = Interrupt::new()?;
    let path = disk.input().path().display().to_string();
    let mut comma = "";
    if ui.json {
        let path = printable::json(&serde_json::json!(path).to_string());
        ui.raw(format!("{{\n  \"image\": {path},\n  \"events\": [").as_bytes());
    }
    let mut print = |line: &str| {
        if ui.json {
            let value = serde_json::from_str(line).unwrap_or(serde_json::Value::String(line.to_owned()));
            ui.raw(format!("{comma}\n    {}", printable::json(&value.to_string())).as_bytes());
            comma = ",";
        } else {
            ui.data(line);
        }
        Ok(())
    };
    disk.image().events(&mut print, &mut || interrupt.check())?;
    if ui.json {
        ui.raw(b"\n  ]\n}\n");
    }
    Ok(())
}

/// Returns the sector sizes as text.
fn sector_text(disk: &Disk) -> String {
    let metadata = disk.metadata();
    match (metadata.logical_sector_bytes, metadata.physical_sector_bytes) {
        (0, _) => format!("{} bytes (assumed)", disk.sector()),
        (logical, physical) if physical != 0 && physical != logical => {
            format!("{logical} bytes (physical: {physical})")
        }
        (logical, _) => format!("{logical} bytes"),
    }
}
