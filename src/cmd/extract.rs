//! `cdi extract IMAGE OUT`: the disk as a raw, sparse file.

use std::borrow::Cow;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use serde_json::json;

use super::{End, Interrupt, open_disk, plain_reads, refuse_to_write_over};
use crate::capture::target::Target;
use crate::cli::{Bad, Extract};
use crate::disk::runs::{Run, RunKind, runs};
use crate::disk::{BadPolicy, Disk, Options};
use crate::error::{Error, Kind, ReadError};
use crate::image::bad::{BadRange, Status};
use crate::image::changing::ChangingMap;
use crate::image::listing;
use crate::image::mapfile::Mapfile;
use crate::parallel;
use crate::ui::Ui;
use crate::units::{human, index};

pub(super) fn run(args: &Extract, ui: &Ui) -> Result<End, Error> {
    let policy = args.bad.as_ref().map_or(BadPolicy::Error, BadPolicy::from);
    let disk = open_disk(&args.image, Options { bad: policy, ..plain_reads() }, ui)?;
    let missing = disk.bad().missing();
    if args.bad == Some(Bad::Error) && missing > 0 {
        let what = format!("{} of the disk are missing, and --bad error was asked for", human(missing));
        return Err(Error::new(Kind::DataMissing, what).at(&args.image.image).hint("nothing was written"));
    }
    let interrupt = Interrupt::new()?;
    let mut map_path = args.out.clone();
    map_path.as_mut_os_string().push(".map");
    refuse_to_write_over(&args.image, &args.out)?;
    refuse_to_write_over(&args.image, &map_path)?;
    let (target, file) = Target::create(&args.out, args.force)?;
    // The map's place is taken now: what was extracted must not be lost for want of it.
    let (map_target, mut map_file) = Target::create(&map_path, args.force)?;
    // Copied when something is to be added.
    let mut map = Cow::Borrowed(disk.bad());
    let mut damaged = ChangingMap::default();
    let mut lost = 0;
    let mut progress = ui.progress("extracting", disk.size());
    let out = |e| Error::io("cannot be written", &args.out, e);
    let filling = !matches!(args.bad, None | Some(Bad::Error));
    let copy = |buf: &mut Vec<u8>, run: Run| {
        let done = match run.kind {
            RunKind::Held => copy(&disk, &file, &run.disk, buf),
            RunKind::Missing if filling => fill(&disk, &file, &run.disk, buf),
            // Left as a hole of the sparse file.
            RunKind::Missing | RunKind::Zeros => Ok(Ok(())),
        };
        (run, done)
    };
    parallel::ordered(parallel::cores(), runs(&disk), Vec::new, copy, |(run, done)| {
        if let Err(e) = done.map_err(out)? {
            if args.bad == Some(Bad::Error) {
                return Err(Error::bad_image("the image is damaged").at(&args.image.image).because(e));
            }
            lost += run.disk.end - run.disk.start;
            damaged.set(BadRange::new(run.disk.clone(), Status::NonTried));
        }
        progress.advance(run.disk.end - run.disk.start);
        interrupt.check()
    })?;
    file.set_len(disk.size()).and_then(|()| file.sync_all()).map_err(out)?;
    let took = progress.finish();

    // Without the map nobody could tell the holes from zeros of the disk: it comes first. A map that is there already
    // (with --force) must not go on telling of another disk.
    if !damaged.settle().is_empty() {
        map.to_mut().apply(damaged.settle().ranges());
    }
    let mapped = !map.is_empty() || map_path.exists();
    if mapped {
        let written = listing::write(&Mapfile { map: &map, size: disk.size() }, &mut map_file);
        let written = written.and_then(|()| map_file.sync_all());
        written.map_err(|e| Error::io("cannot be written", &map_path, e))?;
        map_target.finish()?;
    }
    target.finish()?;

    ui.json(&json!({
        "out": args.out.display().to_string(),
        "mapfile": mapped.then(|| map_path.display().to_string()),
        "size_bytes": disk.size(),
        "missing_bytes": missing,
        "lost_bytes": lost,
    }));
    ui.say(format!("{}: {}, {took}", args.out.display(), human(disk.size())));
    if lost > 0 {
        ui.remark(format!(
            "{} could not be read because the image is damaged, and are left as holes; 'cdi verify' tells more",
            human(lost)
        ));
    }
    if missing > 0 {
        let how = if filling { "filled" } else { "left as holes" };
        ui.say(format!("{} are missing and {how}; {} says where", human(missing), map_path.display()));
    }
    Ok(if missing + lost == 0 { End::Done } else { End::DataMissing })
}

/// Copies a run, leaving out blocks of zeros. The outer error is the file's, the inner one the image's.
fn copy(
    disk: &Disk,
    file: &File,
    range: &Range<u64>,
    buf: &mut Vec<u8>,
) -> std::io::Result<Result<(), ReadError>> {
    const BLOCK: usize = 4096;
    buf.resize(index(range.end - range.start), 0);
    if let Err(e) = disk.read_at(buf, range.start) {
        return Ok(Err(e));
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

/// Writes what the policy fills a missing run with.
fn fill(
    disk: &Disk,
    file: &File,
    range: &Range<u64>,
    buf: &mut Vec<u8>,
) -> std::io::Result<Result<(), ReadError>> {
    let mut at = range.start;
    while at < range.end {
        let end = (at + (1 << 20)).min(range.end);
        if let Err(e) = copy(disk, file, &(at..end), buf)? {
            return Ok(Err(e));
        }
        at = end;
    }
    Ok(Ok(()))
}
