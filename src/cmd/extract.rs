//! `cdi extract IMAGE OUT`: exports the disk to a raw, sparse file, to a device, or to stdout.

mod device;
mod stdout;

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use cdi_base::error::{Error, Kind, ReadError};
use cdi_base::units::{human, index};
use cdi_base::workers;
use cdi_capture::guard::{refuse_foreign_map, refuse_other_name};
use cdi_capture::hash_check::{Checked, HashChecks};
use cdi_image::badmap::builder::BadMapBuilder;
use cdi_image::badmap::mapfile::Mapfile;
use cdi_image::badmap::{BadBlocks, BadRange, Status};
use cdi_image::disk::runs::{Run, RunKind, around_marks, runs};
use cdi_image::disk::{BadPolicy, Disk, Options};
use cdi_image::formats::raw;
use cdi_image::metadata::DiskHashes;
use cdi_image::stored_hashes::{HashKind, StoredHash};
use cdi_image::text::listing;
use serde_json::json;

use super::{End, Interrupt, guard, hash_lines, hash_values, hashes_match, open_disk, plain_reads};
use crate::cli::{Bad, Extract};
use crate::ui::Ui;

pub(super) fn run(args: &Extract, ui: &Ui) -> Result<End, Error> {
    if args.image.image.as_os_str() == "-" {
        return Err(Error::usage("cannot read an image from stdin: it needs random access"));
    }
    let policy = args.bad.as_ref().map_or(BadPolicy::Error, BadPolicy::from);
    let disk = open_disk(&args.image, Options { bad: policy, ..plain_reads() }, ui)?;
    let missing = disk.bad().missing();
    if args.bad == Some(Bad::Error) && missing > 0 {
        let what = format!("{} of the disk are missing, and --bad error was given", human(missing));
        return Err(Error::new(Kind::DataMissing, what).at(&args.image.image).hint("nothing was written"));
    }
    let copied = if args.out.as_os_str() == "-" {
        stdout::write(args, &disk, ui)?
    } else if std::fs::metadata(&args.out)
        .is_ok_and(|m| m.file_type().is_block_device() || m.file_type().is_char_device())
    {
        device::restore(args, &disk, ui)?
    } else {
        to_file(args, &disk, ui)?
    };
    let Copied { lost, marked, took, mapfile, checked } = copied;
    let missing = missing + marked;
    let checked = if lost == 0 { checked } else { Vec::new() };
    let (computed, checked): (Vec<_>, Vec<_>) = checked.into_iter().partition(|c| c.stored.value.is_empty());
    let mut value = json!({
        "out": args.out.display().to_string(),
        "mapfile": mapfile.as_ref().map(|path| path.display().to_string()),
        "size_bytes": disk.size(),
        "missing_bytes": missing,
        "lost_bytes": lost,
        "hashes_match": hashes_match(&checked),
    });
    let hashes = DiskHashes {
        zero_filled: computed.into_iter().map(|c| (c.stored.kind, c.got)).collect(),
        ..DiskHashes::default()
    };
    let wanted: Vec<HashKind> = args.hash.iter().map(|name| (*name).into()).collect();
    hash_values(&hashes, &wanted, &mut value);
    if !ui.json(&value) {
        // With '-', the disk itself is on stdout.
        let is_stdout = args.out.as_os_str() == "-";
        hash_lines(&hashes, &wanted, &|line| if is_stdout { ui.message(line) } else { ui.data(line) });
    }
    let wrong = checked.iter().filter(|c| !c.matches()).inspect(|c| ui.warning(c)).count() > 0;
    ui.message(format!("{}: {}, {took}", args.out.display(), human(disk.size())));
    if lost > 0 {
        ui.warning(format!(
            "{} could not be read because the image is damaged, and are zeros in the copy; 'cdi verify' lists the errors",
            human(lost)
        ));
    }
    if missing > 0 {
        let how = match &args.bad {
            None if mapfile.is_some() => "left as holes",
            None => "written as stored in the image, or as zeros",
            Some(_) => "filled",
        };
        let place = match &mapfile {
            Some(path) => format!("see {}", path.display()),
            None => "see 'cdi map --bad'".into(),
        };
        ui.message(format!("{} are missing and {how}; {place}", human(missing)));
    }
    let suspect = disk.bad().count(Status::Suspect).bytes;
    if suspect > 0 {
        let place = match &mapfile {
            Some(path) => {
                format!("{} lists them as not tried; to read all of the copy: --mapfile none", path.display())
            }
            None => "see 'cdi map --bad'".into(),
        };
        ui.message(format!(
            "{} are suspect, and were written as they are: any of it may be wrong; {place}",
            human(suspect)
        ));
    }
    Ok(if !wrong && missing + lost == 0 && !disk.image().is_incomplete() {
        End::Done
    } else {
        End::DataMissing
    })
}

/// The result of the export.
struct Copied {
    /// The number of bytes that could not be read because the image is damaged.
    lost: u64,
    /// The number of bytes in sectors that were found to be unreadable only when they were read.
    marked: u64,
    /// The elapsed time and the rate, for the summary.
    took: String,
    /// The mapfile that was written.
    mapfile: Option<PathBuf>,
    /// The hashes that the image stores, compared with those of the data read.
    checked: Vec<Checked>,
}

/// Exports the disk to a new sparse file, with a mapfile if anything is missing.
fn to_file(args: &Extract, disk: &Disk, ui: &Ui) -> Result<Copied, Error> {
    let mut map_path = args.out.clone();
    map_path.as_mut_os_string().push(".map");
    refuse_other_name(&args.out, &raw::FORMAT)?;
    refuse_missing_device(&args.out)?;
    let guard = guard(args.over, &args.image, Some(disk));
    guard.for_map().check(&map_path)?;
    refuse_foreign_map(&map_path)?;
    let (mut target, file) = guard.create(&args.out)?;
    // Create the map now: if that fails, nothing has been extracted in vain.
    let (map_target, mut map_file) = guard.for_map().create(&map_path)?;
    let filling = !matches!(args.bad, None | Some(Bad::Error));
    let missing = if filling { Missing::Filled } else { Missing::Left };
    let copied = copy_all(args, disk, &file, missing, &mut || target.check(), ui)?;
    let out = |e| cannot_write(&args.out, e);
    file.set_len(disk.size()).and_then(|()| file.sync_all()).map_err(out)?;

    // The map is put in place first: without it, holes cannot be distinguished from zeros of the disk. An existing
    // map (with --force) is replaced even if nothing is missing, because it describes another disk.
    let mapped = !copied.map.is_empty() || map_path.exists();
    if mapped {
        let written = listing::write(&Mapfile { map: &copied.map, size: disk.size() }, &mut map_file);
        let written = written.and_then(|()| map_file.sync_all());
        written.map_err(|e| Error::io("cannot write", &map_path, e))?;
        map_target.finish()?;
    }
    target.finish()?;
    let mapfile = mapped.then_some(map_path);
    let AllCopied { lost, marked, took, checked, .. } = copied;
    Ok(Copied { lost, marked, took, mapfile, checked })
}

/// Refuses a file in /dev that does not exist: a mistyped device name must not create a file.
fn refuse_missing_device(out: &Path) -> Result<(), Error> {
    let dir = out.parent().and_then(|dir| dir.canonicalize().ok());
    if dir.is_some_and(|dir| dir == Path::new("/dev")) && !out.exists() {
        return Err(Error::usage("no such device").at(out));
    }
    Ok(())
}

/// What to write for missing data and for zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    /// In a new file: missing data and zeros are left as holes.
    Left,
    /// In a new file: missing data is filled by the disk's policy, and zeros are left as holes.
    Filled,
    /// Over existing contents: everything is written.
    WrittenOver,
}

/// The result of [`copy_all`].
struct AllCopied<'a> {
    /// The map of the disk, with the lost ranges added.
    map: Cow<'a, BadBlocks>,
    lost: u64,
    marked: u64,
    took: String,
    /// The hashes that the image stores, compared with those of the data read.
    checked: Vec<Checked>,
}

/// Copies the disk to the same offsets of `file`.
fn copy_all<'a>(
    args: &Extract,
    disk: &'a Disk,
    file: &File,
    missing: Missing,
    check: &mut dyn FnMut() -> Result<(), Error>,
    ui: &Ui,
) -> Result<AllCopied<'a>, Error> {
    let interrupt = Interrupt::of(disk.input())?;
    let mut map = Cow::Borrowed(disk.bad());
    let mut damaged = BadMapBuilder::default();
    let mut lost = 0;
    let mut progress = ui.progress("extracting", disk.size());
    // Check the stored hashes while the data is in memory anyway.
    let mut stored_hashes = HashChecks::new(&hashes_of(args, disk));
    let has_hashes = !hashes_of(args, disk).is_empty();
    let copy = |buf: &mut Vec<u8>, run: Run| {
        let whole = missing == Missing::WrittenOver;
        let done = match run.kind {
            RunKind::Present => copy(disk, file, &run.disk, buf, whole),
            RunKind::Missing if missing == Missing::Filled => fill(disk, file, &run.disk, buf),
            RunKind::Missing if whole => pieces(&run.disk)
                .try_for_each(|piece| {
                    buf.resize(index(piece.end - piece.start), 0);
                    fill_missing(args, disk, buf, piece.start);
                    file.write_all_at(buf, piece.start)
                })
                .map(Ok),
            RunKind::Zeros if whole => write_zeros(file, &run.disk).map(Ok),
            RunKind::Missing | RunKind::Zeros => Ok(Ok(())),
        };
        // Data that could not be read becomes zeros, whatever was there before.
        let done = match done {
            Ok(Err(e)) if whole => write_zeros(file, &run.disk).map(|()| Err(e)),
            done => done,
        };
        let held = has_hashes && run.kind == RunKind::Present && matches!(done, Ok(Ok(())));
        let bytes = if held { std::mem::take(buf) } else { Vec::new() };
        (run, done, bytes)
    };
    let mut add = |(run, done, bytes): (Run, io::Result<Result<(), ReadError>>, Vec<u8>)| {
        let done = done.map_err(|e| cannot_write(&args.out, e))?;
        if bytes.is_empty() {
            stored_hashes.zeros(run.disk.start, run.disk.end - run.disk.start);
        } else {
            stored_hashes.bytes(run.disk.start, &bytes);
        }
        if let Err(e) = done {
            // What a server does not give for now is not lost.
            interrupt.check()?;
            lost += lost_now(args, &run, e)?;
            damaged.set(BadRange::new(run.disk.clone(), Status::NonTried));
        }
        progress.advance(run.disk.end - run.disk.start);
        check()?;
        interrupt.check()
    };
    workers::ordered(workers::cores(), runs(disk), Vec::new, copy, |(run, done, bytes)| {
        let Ok(Err(ReadError::Bad { .. })) = done else { return add((run, done, bytes)) };
        if args.bad == Some(Bad::Error) {
            let what = "sectors of the disk are missing, and --bad error was given";
            return Err(Error::new(Kind::DataMissing, what).at(&args.image.image));
        }
        around_marks(disk, &run).into_iter().try_for_each(|part| add(copy(&mut Vec::new(), part)))
    })?;
    let found = disk.found_bad();
    let marked = found.missing();
    if lost + marked > 0 {
        map.to_mut().apply(damaged.settle().ranges());
        map.to_mut().apply(found.ranges());
    }
    Ok(AllCopied { checked: stored_hashes.finish(), map, lost, marked, took: progress.finish() })
}

fn cannot_write(out: &Path, e: io::Error) -> Error {
    Error::io("cannot write", out, e)
}

/// Returns the hashes to compute while the disk is read: those that the image stores, and those that the user asked
/// for, which have no value to compare with.
fn hashes_of(args: &Extract, disk: &Disk) -> Vec<StoredHash> {
    let wanted = args.hash.iter().map(|name| StoredHash::of_disk(disk.size(), (*name).into(), Vec::new()));
    disk.image().stored_hashes().iter().cloned().chain(wanted).collect()
}

/// Returns the number of bytes lost with a run that cannot be read. With `--bad error` that is an error.
fn lost_now(args: &Extract, run: &Run, e: ReadError) -> Result<u64, Error> {
    if args.bad == Some(Bad::Error) {
        return Err(Error::bad_image("the image is damaged").at(&args.image.image).because(e));
    }
    Ok(run.disk.end - run.disk.start)
}

/// Fills `buf`, a piece of a missing range, where something has to be written: as `--bad` says; without it, with the
/// bytes that the image's files contain there, or zeros if there are none.
fn fill_missing(args: &Extract, disk: &Disk, buf: &mut [u8], offset: u64) {
    match args.bad {
        None | Some(Bad::Error) => disk.read_stored_or_zeros(buf, offset),
        Some(Bad::Zero) => buf.fill(0),
        // The disk fills it by the same policy, without reading anything.
        Some(Bad::Pattern(_)) => {
            if disk.read_at(buf, offset).is_err() {
                buf.fill(0);
            }
        }
    }
}

/// Copies a run, blocks of zeros only if `whole`. The outer error is from writing the file, the inner one from
/// reading the image.
fn copy(
    disk: &Disk,
    file: &File,
    range: &Range<u64>,
    buf: &mut Vec<u8>,
    whole: bool,
) -> io::Result<Result<(), ReadError>> {
    const BLOCK: usize = 4096;
    buf.resize(index(range.end - range.start), 0);
    if let Err(e) = disk.read_at(buf, range.start) {
        return Ok(Err(e));
    }
    if whole {
        return file.write_all_at(buf, range.start).map(Ok);
    }
    let mut from = 0;
    while from < buf.len() {
        let zeros = |at: usize| buf[at..(at + BLOCK).min(buf.len())].iter().all(|b| *b == 0);
        let mut to = from;
        while to < buf.len() && !zeros(to) {
            to = (to + BLOCK).min(buf.len());
        }
        file.write_all_at(&buf[from..to], range.start + from as u64)?;
        from = to;
        while from < buf.len() && zeros(from) {
            from = (from + BLOCK).min(buf.len());
        }
    }
    Ok(Ok(()))
}

/// Splits a range into pieces of at most 1 MiB.
fn pieces(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let (mut at, end) = (range.start, range.end);
    std::iter::from_fn(move || {
        let piece = at..(at + (1 << 20)).min(end);
        at = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Writes a missing run, filled by the disk's policy.
fn fill(
    disk: &Disk,
    file: &File,
    range: &Range<u64>,
    buf: &mut Vec<u8>,
) -> io::Result<Result<(), ReadError>> {
    for piece in pieces(range) {
        if let Err(e) = copy(disk, file, &piece, buf, false)? {
            return Ok(Err(e));
        }
    }
    Ok(Ok(()))
}

fn write_zeros(file: &File, range: &Range<u64>) -> io::Result<()> {
    let block = vec![0; index((range.end - range.start).min(1 << 20))];
    pieces(range)
        .try_for_each(|piece| file.write_all_at(&block[..index(piece.end - piece.start)], piece.start))
}
