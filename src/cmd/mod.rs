//! The verbs, one file each: from what was typed to what is answered.

mod compact;
mod completions;
mod create;
mod demo;
pub mod dispatch;
mod doctor;
mod exec;
mod extract;
mod formats;
mod imaging;
mod info;
mod map;
mod mount;
mod repair;
mod serve;
mod service;
mod stats;
mod unmount;
mod verify;
mod worker_process;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cdi_base::error::{Error, Kind, ReadError};
use cdi_capture::guard::{Guard, Over};
use cdi_capture::hash_check::Checked;
use cdi_image::disk::{BadPolicy, Disk, Options};
use cdi_image::image::{OpenOptions, Opened};
use cdi_image::metadata::DiskHashes;
use cdi_image::open;
use cdi_image::partitions::{self, Table};
use cdi_image::stored_hashes::HashKind;
use cdi_system::{ending_signals, mountinfo};
use serde_json::{Value, json};

use crate::cli;
use crate::mount::record::records_if_any;
use crate::report::exit_code;
use crate::ui::Ui;

/// How a verb that did not fail ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All is done.
    Done,
    /// All is done, and some of the disk's data is missing: exit code 4.
    DataMissing,
    /// The exit code of the user's own command.
    Code(u8),
}

impl End {
    fn code(self) -> u8 {
        match self {
            End::Done => 0,
            End::DataMissing => exit_code(Kind::DataMissing),
            End::Code(code) => code,
        }
    }
}

/// Opens the image that was named, prints its warnings, and returns its disk.
fn open_disk(image: &cli::Image, options: Options, ui: &Ui) -> Result<Disk, Error> {
    let opened = open_image(image)?;
    opened.image.warnings().iter().for_each(|warning| ui.warning(warning));
    Ok(Disk::new(opened, options))
}

fn open_image(image: &cli::Image) -> Result<Opened, Error> {
    let how = OpenOptions {
        format: image.open.format.clone(),
        mapfile: image.open.mapfile(),
        badblocks: image.open.badblocks.clone().zip(image.open.block_size),
        sector_size: image.open.sector_size,
        allowed: image.open.allow_parent.clone(),
    };
    log::info!("opening {}", image.image.display());
    let opened = open::open(&image.image, &how)?;
    log::info!(
        "{} is a {} image of {} bytes",
        image.image.display(),
        opened.format.name,
        opened.image.size()
    );
    Ok(opened)
}

/// Opens the part of the disk that was named, or the whole disk; and reads the partition table of the whole disk.
fn open_part(
    image: &cli::Image,
    part: &cli::PartArgs,
    options: Options,
    ui: &Ui,
) -> Result<(Disk, Option<Table>), Error> {
    let whole = open_disk(image, options.clone(), ui)?;
    let table = partitions::table(&whole);
    let range = match part.partition {
        None if part.offset.is_none() && part.size.is_none() => {
            // That it cannot be read keeps nobody from attaching the disk.
            let table = table.inspect_err(|e| log::info!("cannot read the partition table: {e}"));
            return Ok((whole, table.ok().flatten()));
        }
        None => {
            let start = part.offset.unwrap_or(0);
            let rest = whole.size().saturating_sub(start);
            start..start.saturating_add(part.size.unwrap_or(rest))
        }
        Some(number) => partition(number, &table, image)?,
    };
    Ok((Disk::new(open_image(image)?.part(range)?, options), None))
}

/// Finds a partition by its number.
fn partition(
    number: u32,
    table: &Result<Option<Table>, ReadError>,
    image: &cli::Image,
) -> Result<Range<u64>, Error> {
    let at = |e: Error| e.at(&image.image);
    let table = match table {
        Ok(Some(table)) => table,
        Ok(None) => {
            return Err(at(Error::usage("the disk has no partition table").hint("use --offset and --size")));
        }
        Err(e) => {
            let error = Error::new(Kind::DataMissing, "cannot read the partition table").because(*e);
            return Err(at(error.hint("use --offset and --size")));
        }
    };
    match table.partitions.iter().find(|p| p.number == number) {
        Some(p) => Ok(p.start..p.start + p.size),
        None => {
            let numbers: Vec<String> = table.partitions.iter().map(|p| p.number.to_string()).collect();
            let what = format!("no partition {number} (there are: {})", numbers.join(", "));
            Err(at(Error::usage(what)))
        }
    }
}

impl From<&cli::Bad> for BadPolicy {
    fn from(bad: &cli::Bad) -> BadPolicy {
        match bad {
            cli::Bad::Error => BadPolicy::Error,
            cli::Bad::Zero => BadPolicy::Zero,
            cli::Bad::Pattern(text) => BadPolicy::Pattern(text.clone().into_bytes()),
        }
    }
}

impl From<&cli::Reads> for Options {
    fn from(reads: &cli::Reads) -> Options {
        Options {
            bad: (&reads.bad).into(),
            read_suspect: reads.suspect == cli::Suspect::Read,
            cache: reads.cache,
        }
    }
}

/// For verbs that look at everything in an image: errors for bad sectors, and suspect bytes as they are.
fn plain_reads() -> Options {
    Options { bad: BadPolicy::Error, read_suspect: true, ..Options::default() }
}

/// Set when the user interrupts, so that the work ends at its next step.
struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    fn new() -> Result<Interrupt, Error> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in ending_signals() {
            signal_hook::flag::register(signal, Arc::clone(&flag))
                .map_err(|e| Error::failed("cannot install signal handlers").because(e))?;
        }
        Ok(Interrupt(flag))
    }

    fn check(&self) -> Result<(), Error> {
        if self.0.load(Ordering::Relaxed) {
            Err(Error::new(Kind::Interrupted, "interrupted"))
        } else {
            Ok(())
        }
    }
}

/// The guard of a verb that reads `image`, which is open as `disk` if it could be opened, and writes files: nothing that is
/// read, nor what is mounted, is written over.
fn guard(over: impl Into<Over>, image: &cli::Image, disk: Option<&Disk>) -> Guard {
    let mut guard = Guard::new(over.into());
    guard.protect(&image.image, "is the image that is read");
    let lists = [image.open.mapfile.as_deref(), image.open.badblocks.as_deref()];
    lists.into_iter().flatten().for_each(|list| guard.protect(list, "is a list that is read"));
    if let Some(disk) = disk {
        guard.protect_input(disk.input());
    }
    protect_shown(&mut guard);
    guard
}

/// Whether the hashes that an image stores hold, for JSON; null if there are none, or they were not made.
fn hashes_match(checked: &[Checked]) -> Option<bool> {
    (!checked.is_empty()).then(|| checked.iter().all(Checked::holds))
}

/// Adds the hashes that the user asked for to the JSON of a verb.
fn hash_values(hashes: &DiskHashes, wanted: &[HashKind], value: &mut Value) {
    for kind in wanted {
        value[kind.key()] = json!(hashes.of(*kind));
    }
}

/// Prints the hashes that the user asked for.
fn hash_lines(hashes: &DiskHashes, wanted: &[HashKind], print: &dyn Fn(String)) {
    for kind in wanted {
        if let Some(hex) = hashes.of(*kind) {
            print(format!("{:<8} {hex}", kind.name()));
        }
    }
}

/// Protects the images that are mounted: their readers would lose them.
fn protect_shown(guard: &mut Guard) {
    for record in records_if_any() {
        let why = format!("is mounted at {}", record.mountpoint.display());
        guard.protect(&record.image, &why);
        record.files.iter().for_each(|file| guard.protect(file, &why));
    }
    // Another user's: on Linux the mount says what it is of.
    for mount in
        mountinfo().unwrap_or_default().iter().filter(|m| m.is_cdi_mount() && m.source.starts_with('/'))
    {
        guard.protect(Path::new(&mount.source), &format!("is mounted at {}", mount.mountpoint.display()));
    }
}
