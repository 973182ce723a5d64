//! Opens a disk and the image that it is read into: a new one, or one that is resumed.

use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cdi_base::advice::Advice;
use cdi_base::error::{Error, Kind};
use cdi_base::units::human;
use cdi_capture::guard::Over;
use cdi_capture::options::{Options, TOOL, new_image};
use cdi_capture::rescue;
use cdi_capture::rescue::areas::Direction;
use cdi_capture::rescue::passes::{CLUSTER, MAX, RescuePlan};
use cdi_capture::rescue::same::compare;
use cdi_capture::rescue::source::Source;
use cdi_image::badmap::{Status, load};
use cdi_image::cdimg::writer::{Writer, check_metadata};
use cdi_image::cdimg::{FORMAT, reader};
use cdi_image::disk::Disk;
use cdi_image::image::{Image, Opened};
use cdi_image::input::Input;
use cdi_image::metadata::{Metadata, rfc3339};
use cdi_system::output_file::{lock, open_locked};
use serde_json::json;

use super::checks::same_disk;
use crate::cli;
use crate::cli::{Create, Rescue};
use crate::cmd::{Interrupt, guard, plain_reads};
use crate::ui::Ui;

/// What one run of the passes reads: with `--wait`, the disk may come back under another name.
pub(super) struct Run {
    pub(super) disk: PathBuf,
    pub(super) resumes: bool,
}

/// A disk and the image that it is read into, before reading starts.
pub(super) struct Begun {
    pub(super) source: Arc<Source>,
    pub(super) writer: Writer,
    /// The image's file, locked.
    pub(super) file: File,
    pub(super) domain: Vec<Range<u64>>,
    /// Whether the image is new.
    pub(super) fresh: bool,
}

/// Opens the disk and the image. All checks are made before anything is changed.
pub(super) fn begin_or_resume(
    args: &Create,
    run: &Run,
    options: &Options,
    interrupt: &Interrupt,
    ui: &Ui,
) -> Result<Begun, Error> {
    // Like ddrescue, --resume starts an image if there is none.
    let resumes = run.resumes && fs::symlink_metadata(&args.image).is_ok();
    if run.resumes && !resumes {
        ui.warning(format!("{}: there is no image to resume: a new one is begun", args.image.display()));
    }
    // The image first: a process that wrote it and is exiting may keep it and the disk open for a moment.
    let old = if resumes { Some(locked_image(args)?) } else { None };
    let wait = if old.is_some() { TIMEOUT } else { Duration::ZERO };
    let source = Arc::new(Source::open(&run.disk, args.force, args.open.sector_size, wait)?);
    let known = match &args.rescue.from_mapfile {
        Some(path) => {
            let (map, warnings) = load::load(path, source.metadata().size, source.metadata().logical)?;
            warnings.iter().for_each(|r| ui.warning(r));
            Some(map)
        }
        None => None,
    };
    let old = old.map(|file| old_image(args, file, &source, interrupt)).transpose()?;
    let fresh = old.is_none();
    let size = old.as_ref().map_or(source.metadata().size, |old| old.size.min(source.metadata().size));
    if source.metadata().size > size {
        let more = human(source.metadata().size - size);
        ui.warning(format!("the last {more} of the disk will not be imaged: the image is of a smaller disk"));
    }
    let domain = domain(&args.rescue, &source, size, ui)?;
    let (mut writer, file) = match old {
        Some(old) => resume(args, &source, old, ui)?,
        None => begin(args, &source, options)?,
    };
    if let Some(map) = known {
        for r in map.ranges().iter().filter(|r| r.status != Status::NonTried) {
            writer.set_status(*r)?;
        }
        writer.checkpoint()?;
    }
    writer.note(&rescue::event(
        if fresh { "begun" } else { "resumed" },
        json!({
            "tool": TOOL,
            "source": source.path().display().to_string(),
            "model": source.metadata().model,
            "serial": source.metadata().serial,
            "options": options.command,
        }),
    ));
    Ok(Begun { source, writer, file, domain, fresh })
}

/// Returns the plan for the rescue: what to read, and how.
pub(super) fn plan(rescue: &Rescue, begun: &Begun) -> RescuePlan {
    let (logical, physical) = begun.writer.sectors();
    let disk = begun.source.metadata();
    RescuePlan {
        size: begun.writer.geometry().disk_size,
        // If the disk reports larger sectors than before, those are the unit now.
        sector: logical.max(disk.logical).into(),
        unit: physical.max(disk.physical).into(),
        cluster: CLUSTER,
        most: MAX,
        domain: begun.domain.clone(),
        trim: !rescue.no_trim,
        sweep: match (rescue.sweep, rescue.no_sweep) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        },
        skip: rescue.skip_size.unwrap_or_default(),
        scrape: !rescue.no_scrape,
        retries: u32::try_from(rescue.retry_passes).ok(),
        direction: if rescue.reverse { Direction::Backwards } else { Direction::Forwards },
        min_rate: rescue.min_read_rate,
    }
}

/// The maximum time to wait for a disk that an ending process still has open.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the ranges of the disk to be read, in bytes.
fn domain(rescue: &Rescue, source: &Source, size: u64, ui: &Ui) -> Result<Vec<Range<u64>>, Error> {
    let sector = u64::from(source.metadata().logical);
    let start = rescue.input_position.unwrap_or(0);
    let end = rescue.size.map_or(size, |len| start.saturating_add(len).min(size));
    if rescue.size == Some(0) {
        return Err(Error::usage("--size is 0: nothing to read"));
    }
    if start >= end {
        return Err(Error::usage(format!("nothing to read from byte {start} on: the disk has {size} bytes")));
    }
    let whole = |at: u64| at.is_multiple_of(sector);
    if !whole(start) || !(whole(end) || end == size) {
        return Err(Error::usage(format!(
            "--input-position and --size must be multiples of the sector size, {sector} bytes"
        )));
    }
    let Some(path) = &rescue.domain_mapfile else { return Ok(std::iter::once(start..end).collect()) };
    let (map, warnings) = load::load(path, size, source.metadata().logical)?;
    warnings.iter().for_each(|r| ui.warning(r));
    let domain: Vec<_> = map.held(start..end).collect();
    if domain.is_empty() {
        Err(Error::usage("no block of this disk is marked finished").at(path))
    } else {
        Ok(domain)
    }
}

/// Creates a new image. It has its final name from the start, so that it can be attached and resumed.
fn begin(args: &Create, source: &Source, options: &Options) -> Result<(Writer, File), Error> {
    let known = source.metadata();
    let sector = known.logical;
    let physical = options.physical_sector.unwrap_or(known.physical).max(sector);
    let metadata = Metadata {
        model: options.metadata.model.clone().or(known.model.clone()),
        serial: options.metadata.serial.clone().or(known.serial.clone()),
        source: Some(source.path().display().to_string()),
        size_bytes: known.size,
        logical_sector_bytes: sector,
        physical_sector_bytes: physical,
        created: Some(rfc3339(SystemTime::now())),
        tool: Some(TOOL.into()),
        notes: options.metadata.notes.clone(),
        ..Metadata::default()
    };
    let new = new_image(known.size, options.chunk, sector, physical)?;
    let over = Over { force: args.force, discard_unfinished: args.discard_unfinished };
    let image = cli::Image { image: args.source.clone(), open: args.open.clone() };
    let mut guard = guard(over, &image, None);
    let maps = [&args.rescue.domain_mapfile, &args.rescue.from_mapfile];
    maps.into_iter().flatten().for_each(|map| guard.protect(map, "is a mapfile that is read"));
    let (target, file) = guard.create(&args.image).map_err(|e| match e.advice[..] {
        [Advice::Overwrite] if is_cdimg(&args.image) => {
            let advice =
                "--resume continues this image, and with -r3 retries its bad sectors; --force overwrites \
                it, and what was read from the disk is then lost";
            Error { advice: vec![advice.into()], ..e }
        }
        _ => e,
    })?;
    lock(&file, &args.image)?;
    let copy =
        file.try_clone().map_err(|e| Error::io("cannot duplicate the file descriptor", &args.image, e))?;
    let writer = Writer::create(Box::new(file), &args.image, &new, metadata)?;
    target.publish()?;
    Ok((writer, copy))
}

/// An image to be resumed: opened, not yet changed.
struct Old {
    pub(super) file: File,
    input: Arc<Input>,
    /// The size of its disk in bytes.
    size: u64,
}

fn is_cdimg(path: &Path) -> bool {
    Input::open(path).is_ok_and(|input| (FORMAT.probe)(&input))
}

/// Opens and locks the image to be resumed. Fails if another process is writing it.
fn locked_image(args: &Create) -> Result<File, Error> {
    open_locked(&args.image, true).map_err(|e| match e.kind {
        Kind::Busy => e.hint("another cdi is writing it: wait until it is done, or stop it"),
        _ => e.hint("to create a new image, leave out --resume"),
    })
}

/// Reads the image to be resumed, and checks that it is of this disk.
fn old_image(args: &Create, file: File, source: &Arc<Source>, interrupt: &Interrupt) -> Result<Old, Error> {
    let path = &args.image;
    let copy = file.try_clone().map_err(|e| Error::io("cannot duplicate the file descriptor", path, e))?;
    let input = Arc::new(Input::new(Box::new(copy), path)?);
    if !(FORMAT.probe)(&input) {
        return Err(Error::bad_image("not a .cdimg image (only .cdimg images can be resumed)").at(path));
    }
    let image = reader::open(Arc::clone(&input)).map_err(|e| e.at(path))?;
    same_disk(&image, source, args.force)?;
    let size = image.size();
    let opened = Opened { image: Box::new(image), input: Arc::clone(&input), format: &FORMAT };
    compare(&Disk::new(opened, plain_reads()), source, &mut || interrupt.check())?;
    Ok(Old { file, input, size })
}

/// Prepares an image to be continued. Returns its writer, and its file.
fn resume(args: &Create, source: &Source, old: Old, ui: &Ui) -> Result<(Writer, File), Error> {
    let path = &args.image;
    let copy =
        old.file.try_clone().map_err(|e| Error::io("cannot duplicate the file descriptor", path, e))?;
    let (mut writer, warnings) =
        Writer::resume(Box::new(old.file), &old.input, path).map_err(|e| e.at(path))?;
    warnings.iter().for_each(|r| ui.warning(r));
    let mut metadata = writer.metadata().clone();
    metadata.model = args.write.model.clone().or(metadata.model).or(source.metadata().model.clone());
    metadata.serial = args.write.serial.clone().or(metadata.serial).or(source.metadata().serial.clone());
    metadata.notes.extend(args.write.notes.iter().cloned());
    check_metadata(&metadata).map_err(|e| e.at(path))?;
    writer.set_metadata(metadata);
    Ok((writer, copy))
}
