//! `cdi verify IMAGE`: reads and checks everything in an image.

use std::ops::Range;

use cdi_base::error::{Error, Flaw, ReadError};
use cdi_base::printable::{hex, quoted};
use cdi_base::units::{human, plural};
use cdi_capture::hash::{Hashes, hash};
use cdi_capture::hash_check::Checked;
use cdi_image::badmap::Status;
use cdi_image::cdimg;
use cdi_image::disk::Disk;
use cdi_image::disk::runs::RunKind;
use cdi_image::image::SealCheck;
use cdi_image::metadata::DiskHashes;
use cdi_image::stored_hashes::{HashKind, StoredHash};
use serde_json::{Value, json};

use super::{End, Interrupt, SUSPECT, hash_lines, hash_values, open_disk, plain_reads};
use crate::cli::Verify;
use crate::ui::Ui;

pub(super) fn run(args: &Verify, ui: &Ui) -> Result<End, Error> {
    let disk = open_disk(&args.image, plain_reads(), ui)?;
    let interrupt = Interrupt::of(disk.input())?;
    let mut errors = Errors { ui, list: Vec::new() };
    let mut report = |flaw: Flaw, affects: &str| {
        // What a server does not give for now is not a flaw of the image.
        if interrupt.check().is_ok() {
            errors.report(Some(flaw.at), &flaw.what, affects);
        }
    };
    disk.image().check(&mut report, &mut || interrupt.check())?;
    interrupt.check()?;
    let wanted: Vec<HashKind> = args.hash.iter().map(|name| (*name).into()).collect();
    let read = read(&disk, &wanted, &interrupt, ui)?;
    let lost_bytes = report_lost(&disk, &read.lost, &mut errors);
    if read.lost.is_empty() {
        report_hashes(&disk, &read, &mut errors);
    }
    Ok(finish(args, &disk, &read, &wanted, lost_bytes, &errors.list, ui))
}

/// The errors found so far.
struct Errors<'a> {
    ui: &'a Ui,
    list: Vec<Value>,
}

impl Errors<'_> {
    /// Prints an error, and keeps it for the JSON result.
    fn report(&mut self, at: Option<u64>, what: &str, affects: &str) {
        if !self.ui.json {
            let place = at.map_or(String::new(), |at| format!(" at file offset {at}"));
            self.ui.data(format!("error{place}: {what}; affects {affects}"));
        }
        self.list.push(json!({ "file_offset_bytes": at, "what": what, "affects": affects }));
    }
}

/// The result of reading the whole disk.
struct Read {
    /// Ranges that could not be read because the image is damaged.
    lost: Vec<(Range<u64>, ReadError)>,
    /// The number of bytes of the disk that could not be read when the image was made.
    missing: u64,
    hashes: DiskHashes,
    /// The hashes that the image stores of its disk or parts of it, compared with those of the data read.
    stored: Vec<Checked>,
    /// The result of checking the log and the seal.
    seal: SealCheck,
    /// The elapsed time and the rate, for the summary.
    took: String,
}

/// Reads every byte of the disk on all cores, and hashes them in order.
fn read(disk: &Disk, wanted: &[HashKind], interrupt: &Interrupt, ui: &Ui) -> Result<Read, Error> {
    let mut progress = ui.progress("verifying", disk.size());
    let mut lost: Vec<(Range<u64>, ReadError)> = Vec::new();
    let mut missing = 0;
    let hashes = Hashes::wanted(disk.metadata(), wanted);
    let (hashes, stored) = hash(disk, hashes, &mut |run, error| {
        if let Some(e) = error {
            interrupt.check()?;
            match lost.last_mut() {
                Some((range, error)) if range.end == run.disk.start && *error == e => {
                    range.end = run.disk.end
                }
                _ => lost.push((run.disk.clone(), e)),
            }
        }
        let len = run.disk.end - run.disk.start;
        missing += if run.kind == RunKind::Missing { len } else { 0 };
        progress.advance(len);
        interrupt.check()
    })?;
    let seal = disk.image().seal(&mut || interrupt.check())?;
    interrupt.check()?;
    Ok(Read { lost, missing, hashes: hashes.finish(), stored, seal, took: progress.finish() })
}

/// Reports the lost ranges of the disk. Returns their total size in bytes.
fn report_lost(disk: &Disk, lost: &[(Range<u64>, ReadError)], errors: &mut Errors<'_>) -> u64 {
    const MISSING: &str = "part of the image's files is missing";
    let mut lost_bytes = 0;
    let suspect = disk.bad().count(Status::Suspect).bytes;
    if suspect > 0 && disk.image().is_incomplete() {
        let what = "a checksum in the image's file is wrong, or cannot be checked";
        errors.report(None, what, &format!("{} of the disk: any of it may be wrong", human(suspect)));
    } else if disk.image().is_incomplete() && disk.image().lost().is_empty() {
        errors.report(None, MISSING, "no known data, but a list of bad sectors may have been in them");
    }
    for range in disk.image().lost() {
        lost_bytes += range.end - range.start;
        errors.report(None, MISSING, &bytes(range));
    }
    for (range, error) in lost {
        lost_bytes += range.end - range.start;
        let at = match error {
            ReadError::Corrupt { at } => Some(*at),
            _ => None,
        };
        let what = if at.is_some() { "the data is damaged".into() } else { error.to_string() };
        errors.report(at, &what, &bytes(range));
    }
    lost_bytes
}

fn bytes(range: &Range<u64>) -> String {
    format!("disk bytes {} to {}", range.start, range.end - 1)
}

/// Reports hashes that do not match those that the image stores.
fn report_hashes(disk: &Disk, read: &Read, errors: &mut Errors<'_>) {
    for (name, stored, calculated) in read.hashes.differences(disk.metadata()) {
        let what = format!("{name} mismatch: calculated {calculated}, stored {stored}");
        errors.report(None, &what, "unknown bytes of the disk");
    }
    for checked in read.stored.iter().filter(|c| !c.matches()) {
        let StoredHash { of, kind, value, .. } = &checked.stored;
        let what =
            format!("{} of {of} mismatch: calculated {}, stored {}", kind.name(), checked.got, hex(value));
        errors.report(None, &what, &format!("unknown bytes of {of}"));
    }
}

/// Prints the result. Returns how the command ends.
fn finish(
    args: &Verify,
    disk: &Disk,
    read: &Read,
    wanted: &[HashKind],
    lost_bytes: u64,
    errors: &[Value],
    ui: &Ui,
) -> End {
    let (missing, seal) = (read.missing, &read.seal);
    let restored = disk.input().parity().map_or(0, |parity| parity.summary().restored_bytes);
    let name = args.image.image.display();
    let mut value = json!({
        "image": name.to_string(),
        "ok": errors.is_empty(),
        "errors": errors,
        "lost_bytes": lost_bytes,
        "missing_bytes": missing,
        "digest": seal.digest.as_ref().filter(|_| errors.is_empty()),
        "unchained_log_records": seal.unchained,
        "restored_bytes": restored,
        "blake3_rescued": read.hashes.blake3_rescued.as_ref().filter(|_| read.lost.is_empty()),
        "sha256_zero_filled": read.hashes.of(HashKind::Sha256).filter(|_| read.lost.is_empty()),
        "stored_hashes": read.stored.iter().map(|c| json!({
            "of": c.stored.of,
            "start_byte": c.stored.disk.first().map(|run| run.start),
            "end_byte": c.stored.disk.last().map(|run| run.end),
            "hash": c.stored.kind.name(),
            "value": hex(&c.stored.value),
            "matches": read.lost.is_empty().then(|| c.matches()),
        })).collect::<Vec<_>>(),
    });
    // If data is lost, the hashes are not those of the disk.
    let wanted = if read.lost.is_empty() { wanted } else { &[] };
    hash_values(&read.hashes, wanted, &mut value);
    if ui.json(&value) {
        return if errors.is_empty() { End::Done } else { End::DataMissing };
    }
    hash_lines(&read.hashes, wanted, &|line| ui.data(line));
    if !errors.is_empty() {
        let count = plural(errors.len() as u64, "error");
        let suspect = match disk.bad().count(Status::Suspect).bytes {
            0 => String::new(),
            bytes => format!(", {} are suspect: {SUSPECT}", human(bytes)),
        };
        ui.message(format!("{name}: {count}, {} of the disk cannot be read{suspect}", human(lost_bytes)));
        if restored > 0 {
            ui.message(format!("{} were restored from parity while they were read", human(restored)));
        }
        let has_parity = disk.input().parity().is_some();
        if (lost_bytes > 0 || has_parity) && disk.format().name == cdimg::FORMAT.name {
            let what = if lost_bytes > 0 { "to save the rest" } else { "to make an undamaged image of it" };
            ui.message(format!("{what}: cdi repair {} NEW.cdimg", quoted(&name.to_string())));
        }
        return End::DataMissing;
    }
    ui.message(match disk.format().integrity.strip_prefix("none: ") {
        Some(why) => format!("{name}: all data can be read, but {why} ({})", read.took),
        None => format!("{name}: no errors found ({}; {})", disk.format().integrity, read.took),
    });
    if let Some(digest) = &seal.digest {
        ui.message(format!("log, metadata and map are as they were sealed; digest: {digest}"));
    } else if let Some(why) = seal.no_digest {
        ui.message(format!("no digest: {why}"));
    }
    if seal.unchained > 0 {
        let count = seal.unchained;
        ui.message(format!(
            "records of the log that an earlier version has written, without the chain: {count}"
        ));
    }
    for Checked { stored, got } in &read.stored {
        ui.message(format!(
            "{} of {} verified: {got} (matches the stored hash)",
            stored.kind.name(),
            stored.of
        ));
    }
    if missing > 0 {
        let statuses: Vec<String> = Status::LISTED
            .into_iter()
            .map(|status| {
                // Those that are found only when they are read are bad sectors.
                let found = if status == Status::Bad { disk.found_bad().missing() } else { 0 };
                (status, disk.bad().count(status).bytes + found)
            })
            .filter(|(status, bytes)| *status != Status::Suspect && *bytes > 0)
            .map(|(status, bytes)| format!("{} {}", human(bytes), status.name()))
            .collect();
        ui.message(format!("the disk itself: {} (not errors of the image)", statuses.join(", ")));
    }
    End::Done
}
