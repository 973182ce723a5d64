//! What `cdi create` says at the end: what was read, what is left, and what to do about it.

use std::time::Duration;

use cdi_base::printable::quoted;
use cdi_base::units::{human, plural};
use cdi_capture::rescue;
use cdi_capture::rescue::passes::CLUSTER;
use cdi_capture::rescue::passes::dead_head::DeadHead;
use cdi_capture::rescue::rate::per_second;
use cdi_capture::rescue::source::Source;
use cdi_image::badmap::Status;
use cdi_serve::texts;
use serde_json::json;

use super::super::create::stored_hash_lines;
use crate::cli::{Create, FirstName};
use crate::ui::Ui;
use crate::ui::imaging::{left, stages, statuses};

/// Prints what was read and written.
pub(super) fn print(args: &Create, source: &Source, ended: &rescue::Ended, took: Duration, ui: &Ui) {
    let (view, made) = (&ended.view, &ended.made);
    let is_json = ui.json(&json!({
        "image": args.image.display().to_string(),
        "size_bytes": source.metadata().size,
        "image_bytes": made.image_bytes,
        "compressed_bytes": made.compressed_bytes,
        "shared_bytes": made.shared_bytes,
        "fill_bytes": made.fill_bytes,
        "parity": made.parity.as_ref().map(texts::parity),
        "ended": ended.end.name(),
        "wanted_bytes": view.wanted,
        "rescued_bytes": view.rescued(),
        "missing_bytes": made.missing_bytes,
        "left_bytes": statuses(view),
        "areas": view.areas,
        "read_bytes": view.read,
        "failed_reads": view.errors,
        "demanded": {
            "reads": view.demanded.reads,
            "bytes": view.demanded.bytes,
            "failed": view.demanded.failed,
        },
        "stages": stages(view),
        "unmatched": view.unmatched,
        "dead_head": view.dead_head.map(|head| head.json()),
        "files": view.files.map(|files| json!({
            "whole": files.whole,
            "known": files.known,
            "unreadable_records": files.unreadable_records,
        })),
        "left_out_bytes": view.left_out,
        "seconds": took.as_secs_f64(),
        "metadata": made.metadata,
    }));
    if is_json {
        return;
    }
    stored_hash_lines(&made.metadata, args, ui);
    let seconds = took.as_secs_f64();
    ui.message(format!(
        "{}: {}, image file {}; {seconds:.1} s, {}/s",
        args.image.display(),
        rescued(view.rescued(), view.wanted),
        human(made.image_bytes),
        human(per_second((view.read, took)))
    ));
    for (status, bytes) in left(view) {
        ui.message(format!("{:>12}  {}", human(bytes), status.name()));
    }
    match ended.end {
        rescue::End::TooManyErrors => {
            ui.message(format!("stopped after {}", plural(view.errors, "failed read")))
        }
        rescue::End::Timeout => ui.message("stopped: no data could be read within --timeout"),
        _ => {}
    }
    let inside: u64 = left(view).map(|(_, bytes)| bytes).sum();
    let outside = made.missing_bytes.saturating_sub(inside);
    // Only then they were counted at the end.
    if let Some(files) = view.files.filter(|_| matches!(ended.end, rescue::End::Finished)) {
        ui.message(format!("{} of {} can be read completely", files.whole, plural(files.known, "file")));
        if files.unreadable_records > 0 {
            let records = plural(files.unreadable_records, "record");
            ui.message(format!("{records} of the file systems cannot be read; each may be a file"));
        }
    }
    if let Some(bytes) = view.left_out.filter(|bytes| *bytes > 0) {
        let why = if args.rescue.only.contains(&FirstName::Used) {
            "--only used: the file systems say that they are free, or they are in no partition"
        } else {
            "--only"
        };
        ui.message(format!("{} were left out ({why})", human(bytes)));
    }
    let outside = outside.saturating_sub(view.left_out.unwrap_or(0));
    if outside > 0 {
        ui.message(format!("{} are missing outside the part that was to be read", human(outside)));
    }
    if let Some(head) = &view.dead_head {
        ui.message(dead_head(head));
    }
    for pattern in &view.unmatched {
        ui.warning(format!("no file matches '{pattern}'"));
    }
    what_next(args, ended, ui);
}

/// Says that a head of the drive fails.
fn dead_head(head: &DeadHead) -> String {
    const ORDINALS: [&str; 7] = ["second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"];
    let ordinal = usize::try_from(head.of).ok().and_then(|of| ORDINALS.get(of.checked_sub(2)?));
    let which = ordinal.map_or_else(|| format!("one in {}", head.of), |ordinal| format!("every {ordinal}"));
    format!(
        "{which} {} fails: a dead head. What the other heads hold is read. --sweep reads on into it ({} that are likely to fail)",
        human(head.band),
        plural(head.bytes.div_ceil(CLUSTER), "read")
    )
}

/// Returns how much of what was wanted is rescued. It is not rounded to all of it if it is less.
fn rescued(rescued: u64, wanted: u64) -> String {
    if rescued == wanted {
        return format!("all of {} rescued", human(wanted));
    }
    let hundredths = u128::from(rescued) * 10_000 / u128::from(wanted.max(1));
    let percent = format!("{}.{:02} %", hundredths / 100, hundredths % 100);
    format!("{} of {} rescued ({percent}), {} left", human(rescued), human(wanted), human(wanted - rescued))
}

/// Returns the command that continues this image, and leaves out all but `only`. `command` is its beginning.
pub(super) fn command(args: &Create, only: &[FirstName], command: &str) -> String {
    let (source, image) = (args.source.display().to_string(), args.image.display().to_string());
    let mut options = if args.force { " --force".to_owned() } else { String::new() };
    // The image does not store them.
    for (option, names) in [("--first", &args.rescue.first[..]), ("--only", only)] {
        names.iter().for_each(|name| options += &format!(" {option} {}", quoted(name.text())));
    }
    if args.rescue.in_order {
        options += " --in-order";
    }
    format!("{command}{options} {} {}", quoted(&source), quoted(&image))
}

/// Prints the commands that may get more of the disk.
fn what_next(args: &Create, ended: &rescue::Ended, ui: &Ui) {
    // What -m leaves out is not wanted.
    let all = args.rescue.domain_mapfile.is_none();
    let missing = |of: fn(Status) -> bool| {
        let wanted = if all { &ended.left[..] } else { &ended.view.left[..] };
        wanted.iter().any(|(status, bytes)| *bytes > 0 && of(*status))
    };
    let untried = |status| matches!(status, Status::NonTried | Status::NonTrimmed | Status::NonScraped);
    // Otherwise an error follows, which says what to do.
    if !matches!(ended.end, rescue::End::Finished | rescue::End::TooManyErrors | rescue::End::Timeout) {
        return;
    }
    if missing(untried) {
        // With what --only left out.
        ui.message(format!("to go on: {}", command(args, &[], "cdi create --resume")));
    }
    if missing(|status| status == Status::Bad) {
        let sectors = &ended.made.metadata;
        let (logical, physical) = (sectors.logical_sector_bytes, sectors.physical_sector_bytes);
        let why = if physical > logical && args.rescue.retry_passes == 0 {
            format!(" (each {logical} bytes separately; they were read in physical sectors of {physical})")
        } else {
            String::new()
        };
        ui.message(format!(
            "to retry the bad sectors{why}: {}",
            command(args, &args.rescue.only, "cdi create --resume -r3")
        ));
    }
    if ended.made.missing_bytes > 0 {
        let image = quoted(&args.image.display().to_string());
        ui.message(format!(
            "to see where they are: cdi map {image}; which files are damaged: cdi files {image}"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_not_rounded_away() {
        assert_eq!(rescued(8 << 20, 8 << 20), "all of 8.00 MiB rescued");
        assert_eq!(rescued((8 << 20) - 512, 8 << 20), "8.00 MiB of 8.00 MiB rescued (99.99 %), 512 B left");
        assert_eq!(rescued(0, 0), "all of 0 B rescued");
        assert_eq!(rescued(1, u64::MAX), "1 B of 16.0 EiB rescued (0.00 %), 16.0 EiB left");
    }
}
