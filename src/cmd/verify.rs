//! `cdi verify IMAGE`: reads and checks everything.

use std::ops::Range;

use cdi_base::error::{Error, Flaw, ReadError};
use cdi_base::printable::hex;
use cdi_base::units::human;
use cdi_capture::hash::{Hashes, hash};
use cdi_capture::hash_check::Checked;
use cdi_image::stored_hashes::StoredHash;
use serde_json::json;

use super::{End, Interrupt, open_disk, plain_reads};
use crate::cli::Image;
use crate::ui::Ui;

pub(super) fn run(args: &Image, ui: &Ui) -> Result<End, Error> {
    let disk = open_disk(args, plain_reads(), ui)?;
    let interrupt = Interrupt::new()?;
    let mut flaws = Vec::new();
    let mut tell = |at: Option<u64>, what: &str, cost: &str| {
        if !ui.json {
            let place = at.map_or(String::new(), |at| format!("at byte {at}: "));
            ui.data(format!("flaw: {place}{what}; costs: {cost}"));
        }
        flaws.push(json!({ "file_offset_bytes": at, "what": what, "affects": cost }));
    };
    disk.image()
        .check(&mut |flaw: Flaw, cost| tell(Some(flaw.at), &flaw.what, cost), &mut || interrupt.check())?;

    // Every byte of the disk, on every core; the hashes take them in order.
    let mut progress = ui.progress("verifying", disk.size());
    let mut lost: Vec<(Range<u64>, ReadError)> = Vec::new();
    let (hashes, stored_hashes) = hash(&disk, Hashes::wanted(disk.metadata()), &mut |run, error| {
        if let Some(e) = error {
            match lost.last_mut() {
                Some((range, error)) if range.end == run.disk.start && *error == e => {
                    range.end = run.disk.end
                }
                _ => lost.push((run.disk.clone(), e)),
            }
        }
        progress.advance(run.disk.end - run.disk.start);
        interrupt.check()
    })?;
    let took = progress.finish();

    let mut lost_bytes = 0;
    if disk.image().is_incomplete() && disk.image().lost().is_empty() {
        let cost = "nothing that is known of; what was in them may have been a list of bad sectors";
        tell(None, "part of the image's files is missing", cost);
    }
    for range in disk.image().lost() {
        lost_bytes += range.end - range.start;
        let cost = format!("disk bytes {} to {}", range.start, range.end);
        tell(None, "part of the image's files is missing", &cost);
    }
    for (range, error) in &lost {
        lost_bytes += range.end - range.start;
        let at = match error {
            ReadError::Corrupt { at } => Some(*at),
            _ => None,
        };
        tell(at, &error.to_string(), &format!("disk bytes {} to {}", range.start, range.end));
    }
    let (blake3, sha256) = hashes.results();
    if lost.is_empty() {
        for (name, stored, got) in [
            ("BLAKE3 of the stored view", &disk.metadata().blake3_rescued, &blake3),
            ("SHA-256 of the zero-filled view", &disk.metadata().sha256_zero_filled, &sha256),
        ] {
            if stored
                .as_ref()
                .zip(got.as_ref())
                .is_some_and(|(stored, got)| !stored.eq_ignore_ascii_case(got))
            {
                tell(
                    None,
                    &format!("the {name} is not the one that was stored"),
                    "unknown: some byte is not the disk's",
                );
            }
        }
        for checked in stored_hashes.iter().filter(|c| !c.holds()) {
            let StoredHash { of, kind, value, .. } = &checked.stored;
            tell(
                None,
                &format!("the {} of {of} is {}, and the image says {}", kind.name(), checked.got, hex(value)),
                &format!("unknown: some byte of {of} is not what it was"),
            );
        }
    }
    let sound = flaws.is_empty();
    let missing = disk.bad().missing();
    ui.json(&json!({
        "image": args.image.display().to_string(),
        "ok": sound,
        "errors": flaws,
        "lost_bytes": lost_bytes,
        "missing_bytes": missing,
        "blake3_rescued": blake3,
        "sha256_zero_filled": sha256,
        "stored_hashes": stored_hashes.iter().map(|c| json!({
            "of": c.stored.of,
            "start_byte": c.stored.disk.first().map(|run| run.start),
            "end_byte": c.stored.disk.last().map(|run| run.end),
            "hash": c.stored.kind.name(),
            "value": hex(&c.stored.value),
            "matches": lost.is_empty().then(|| c.holds()),
        })).collect::<Vec<_>>(),
    }));
    if sound {
        ui.say(format!("{}: sound ({}; {took})", args.image.display(), disk.format().integrity));
        for Checked { stored, got } in &stored_hashes {
            ui.say(format!("the {} of {} holds: {got}", stored.kind.name(), stored.of));
        }
        if missing > 0 {
            ui.say(format!("{} of the disk were never read; that is not damage", human(missing)));
        }
        return Ok(End::Done);
    }
    ui.say(format!(
        "{}: {} flaws, {} of the disk lost",
        args.image.display(),
        flaws.len(),
        human(lost_bytes)
    ));
    Ok(End::DataMissing)
}
