//! `cdi repair IMAGE OUT`: salvages a damaged image into a new one.

use std::ops::Range;
use std::sync::Arc;

use cdi_base::error::Error;
use cdi_base::units::{human, plural};
use cdi_capture::guard::{Guard, refuse_other_name};
use cdi_capture::protect::parity_of;
use cdi_capture::repair::repair;
use cdi_image::cdimg;
use cdi_image::cdimg::parity::{Purpose, with_parity};
use cdi_image::input::Input;
use cdi_image::input::salvaged::salvaged;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::{End, Interrupt, command_line, protect, protect_mounted};
use crate::cli::Repair;
use crate::ui::Ui;

pub(super) fn run(args: &Repair, ui: &Ui) -> Result<End, Error> {
    let (input, first_unreadable) = salvaged(Input::open(&args.image)?)?;
    let input = Arc::new(with_parity(input, Purpose::Repair)?);
    refuse_other_name(&args.out, &cdimg::FORMAT)?;
    let mut guard = Guard::new(args.over.into());
    guard.protect(&args.image, "is the damaged image");
    protect_mounted(&mut guard);
    let interrupt = Interrupt::new()?;
    let (mut target, file) = guard.create(&args.out)?;
    let mut progress = ui.progress("repairing", 2 * input.len());
    let mut done = 0;
    let mut repaired = repair(&input, &file, &args.out, &command_line(), &mut |at| {
        progress.advance(at.saturating_sub(done));
        done = done.max(at);
        target.check()?;
        interrupt.check()
    })?;
    let took = progress.finish();
    // An image that has parity keeps it.
    if let Some(hundredths) = parity_of(&input) {
        let added = protect::add_if_finished(&file, &args.out, hundredths, &mut || interrupt.check(), ui)?;
        repaired.image_bytes = added.map_or(repaired.image_bytes, |added| added.summary().range().end);
    }
    target.finish()?;
    if let Some(at) = first_unreadable.get() {
        let what = "parts of the file cannot be read, and are taken as damaged: the first is at byte";
        ui.warning(format!("{}: {what} {at}", args.image.display()));
    }
    if repaired.cut_off > 0 {
        let what = format!("{} are missing at the end of the file", human(repaired.cut_off));
        ui.warning(format!("{}: {what}", args.image.display()));
    }
    repaired.not_as_sealed.iter().for_each(|what| ui.warning(format!("{}: {what}", args.image.display())));
    let restored = input.parity().map_or(0, |parity| parity.summary().restored_bytes);
    let lost_bytes: u64 = repaired.lost.iter().map(|r| r.end - r.start).sum();
    let maybe = if repaired.uncertain { repaired.unread_bytes } else { 0 };
    let sector = u64::from(cdi_base::units::SECTOR);
    let all = json!({
        "image": args.out.display().to_string(),
        "image_bytes": repaired.image_bytes,
        "intact_records": repaired.intact,
        "damaged_records": repaired.damaged,
        "gap_bytes": repaired.gap_bytes,
        "cut_off_bytes": repaired.cut_off,
        "restored_bytes": restored,
        "lost_bytes": lost_bytes,
        "unread_bytes": repaired.unread_bytes,
        "uncertain": repaired.uncertain,
        "missing_bytes": repaired.missing_bytes,
    });
    let is_json = ui.json(&Output { all: &all, lost: Lost(&repaired.lost) });
    if !is_json {
        ui.lines(repaired.lost.iter().map(|r| {
            let sectors = r.end.div_ceil(sector) - r.start / sector;
            Ok(format!("{:>14} {:>12} sectors  lost", r.start / sector, sectors))
        }))?;
        let of_disk = match (lost_bytes, maybe) {
            (0, 0) => "no data lost".into(),
            (lost, 0) => format!("{} of disk data lost", human(lost)),
            // If the map is lost too, sectors that were read cannot be distinguished from those that were not.
            (lost, maybe) => format!("up to {} of disk data may be lost", human(lost + maybe)),
        };
        ui.message(format!(
            "{}: {} recovered, {} damaged; {of_disk}; {took}",
            args.out.display(),
            plural(repaired.intact, "record"),
            repaired.damaged
        ));
        if restored > 0 {
            ui.message(format!("{} of the file were restored from parity", human(restored)));
        }
        if maybe > 0 {
            ui.message(format!(
                "{} of that may never have been read from the disk; what its map lists as bad is tried again by \
                 'cdi create --resume --retry-passes 1'",
                human(maybe)
            ));
        }
        if lost_bytes + maybe > 0 {
            ui.message(
                "lost ranges are marked non-tried; with the disk, 'cdi create --resume' reads them again",
            );
        }
    }
    Ok(if lost_bytes + maybe > 0 { End::DataMissing } else { End::Done })
}

/// The result as JSON. The list of lost ranges may be long.
#[derive(Serialize)]
struct Output<'a> {
    #[serde(flatten)]
    all: &'a Value,
    lost: Lost<'a>,
}

struct Lost<'a>(&'a [Range<u64>]);

impl Serialize for Lost<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(
            self.0.iter().map(|r| json!({ "offset_bytes": r.start, "length_bytes": r.end - r.start })),
        )
    }
}
