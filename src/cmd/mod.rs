//! The verbs, one file each: from the parsed arguments to the output.

mod compact;
mod completions;
mod create;
mod demo;
pub mod dispatch;
mod doctor;
mod exec;
mod extract;
mod files;
mod formats;
mod imaging;
mod index;
mod info;
mod map;
mod mount;
mod passphrase;
mod protect;
mod repair;
mod serve;
mod service;
mod stats;
mod table;
mod unmount;
mod verify;
mod watch;
mod worker_process;

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use cdi_base::error::{Error, Kind, ReadError};
use cdi_base::printable::redacted;
use cdi_capture::guard::{Guard, Over};
use cdi_capture::hash_check::Checked;
use cdi_fs::partitions;
use cdi_image::badmap::Status;
use cdi_image::disk::{BadPolicy, Disk, Options};
use cdi_image::image::{OpenOptions, Opened};
use cdi_image::indexes::Indexes;
use cdi_image::input::{Input, Required, end_reads_when, forget_flag};
use cdi_image::metadata::DiskHashes;
use cdi_image::open;
use cdi_image::stored_hashes::HashKind;
use cdi_system::{ending_signals, mountinfo};
use serde_json::{Value, json};
use table::ReadTable;

use crate::cli;
use crate::indexes::CachedIndexes;
use crate::mount::record::records_if_any;
use crate::report::exit_code;
use crate::ui::Ui;

/// Returns the command line without the name of the program, for the log of an image. It has no secrets: passphrases are
/// never in it, and are cut out of addresses. A long one is cut off.
fn command_line() -> Vec<String> {
    const MAX_BYTES: usize = 32 << 10;
    let mut left = MAX_BYTES;
    let mut words = Vec::new();
    for word in std::env::args_os().skip(1) {
        let word = redacted(&word.to_string_lossy());
        let Some(rest) = left.checked_sub(word.len() + 1) else {
            words.push("…".into());
            break;
        };
        left = rest;
        words.push(word);
    }
    words
}

/// The outcome of a verb that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Everything is done.
    Done,
    /// Everything is done, but some of the disk's data is missing: exit code 4.
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
    let opened = open_image(image, ui)?;
    opened.image.warnings().iter().for_each(|warning| ui.warning(warning));
    Ok(Disk::new(opened, options))
}

fn open_image(image: &cli::Image, ui: &Ui) -> Result<Opened, Error> {
    // Signals are caught only once something takes so long that it must be possible to end it.
    let interrupt = Arc::new(OnceLock::new());
    let of_check = Arc::clone(&interrupt);
    let check = move || match of_check.get_or_init(Interrupt::new) {
        Ok(interrupt) => interrupt.check(),
        Err(_) => Ok(()),
    };
    let opened = open_with(image, Arc::new(CachedIndexes::new(*ui, check)), ui);
    // What serves the image decides for itself when its reads end.
    if let Some(Ok(interrupt)) = interrupt.get() {
        interrupt.spare_reads();
    }
    opened
}

/// Opens the image that was named, and keeps indexes in `indexes`.
fn open_with(image: &cli::Image, indexes: Arc<dyn Indexes>, ui: &Ui) -> Result<Opened, Error> {
    let how = |passphrase| OpenOptions {
        format: image.open.format.clone(),
        mapfile: image.open.mapfile(),
        badblocks: image.open.badblocks.clone().zip(image.open.block_size),
        sector_size: image.open.sector_size,
        allowed: image.open.allow_parent.clone(),
        snapshot: image.open.snapshot.clone(),
        member: image.open.member.clone(),
        remote_cache: image.open.remote_cache.clone(),
        indexes: Some(Arc::clone(&indexes)),
        passphrase,
    };
    log::info!("opening {}", image.image.display());
    let opened =
        passphrase::with_passphrase(image, ui, |passphrase| open::open(&image.image, &how(passphrase)))?;
    log::info!(
        "{} is a {} image of {} bytes",
        image.image.display(),
        opened.format.name,
        opened.image.size()
    );
    Ok(opened)
}

/// Opens the part of the disk that was named, or the whole disk; and reads the partition table of the whole disk. The
/// passphrase is forgotten: the image is not opened again.
fn open_part(
    image: &cli::Image,
    part: &cli::PartArgs,
    options: Options,
    ui: &Ui,
) -> Result<(Disk, ReadTable), Error> {
    let opened = open_part_of(image, part, options, ui);
    image.open.passphrase.forget();
    opened
}

fn open_part_of(
    image: &cli::Image,
    part: &cli::PartArgs,
    options: Options,
    ui: &Ui,
) -> Result<(Disk, ReadTable), Error> {
    let whole = open_disk(image, options.clone(), ui)?;
    let all = whole.input().require_all();
    let table = partitions::table(&whole);
    let range = match part.partition {
        // A disk can be attached even if its partition table cannot be read.
        None if part.offset.is_none() && part.size.is_none() => return Ok((whole, table)),
        None => {
            let start = part.offset.unwrap_or(0);
            let rest = whole.size().saturating_sub(start);
            start..start.saturating_add(part.size.unwrap_or(rest))
        }
        Some(number) => {
            all.check()?;
            if let Some(e) = table.as_ref().ok().and_then(|table| table.as_ref()?.damage) {
                ui.warning(format!(
                    "part of the partition table cannot be read, so the partition may be another: {e}"
                ));
            }
            partition(number, &table, image, suspect_hint(&whole))?
        }
    };
    Ok((Disk::new(open_image(image, ui)?.part(range)?, options), Ok(None)))
}

/// How to read what may be wrong.
const SUSPECT: &str = "reads of it fail; with --suspect read they return what there is";

/// Returns the hint for a read of `disk` that failed because its bytes are suspect.
fn suspect_hint(disk: &Disk) -> Option<&'static str> {
    (disk.bad().count(Status::Suspect).bytes > 0).then_some(
        "a checksum of the image is wrong, so that any of it may be wrong; --suspect read returns what there is",
    )
}

/// Finds a partition by its number.
fn partition(
    number: u32,
    table: &ReadTable,
    image: &cli::Image,
    suspect: Option<&'static str>,
) -> Result<Range<u64>, Error> {
    let at = |e: Error| e.at(&image.image);
    let unreadable = |what: String, e: ReadError| {
        let hint = suspect.unwrap_or("use --offset and --size");
        at(Error::new(Kind::DataMissing, what).because(e).hint(hint))
    };
    let table = match table {
        Ok(Some(table)) => table,
        Ok(None) => {
            return Err(at(Error::usage("the disk has no partition table").hint("use --offset and --size")));
        }
        Err(e) => return Err(unreadable("cannot read the partition table".into(), *e)),
    };
    match table.partitions.iter().find(|p| p.number == number) {
        Some(p) => Ok(p.start..p.start + p.size),
        None => {
            let numbers: Vec<String> = table.partitions.iter().map(|p| p.number.to_string()).collect();
            let what = format!("no partition {number} (there are: {})", numbers.join(", "));
            Err(match table.damage {
                Some(e) => unreadable(format!("{what}; part of the partition table cannot be read"), e),
                None => at(Error::usage(what)),
            })
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

/// Returns the options for reading everything in an image: bad sectors are errors, suspect bytes are returned as
/// stored.
fn plain_reads() -> Options {
    Options { bad: BadPolicy::Error, read_suspect: true, ..Options::default() }
}

/// What ends work at its next step: a flag that is set when the user interrupts, and, of work that needs all of an image, a
/// server that does not give it.
struct Interrupt {
    flag: Arc<AtomicBool>,
    all: Option<Required>,
}

impl Interrupt {
    fn new() -> Result<Interrupt, Error> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in ending_signals() {
            signal_hook::flag::register(signal, Arc::clone(&flag))
                .map_err(|e| Error::failed("cannot install signal handlers").because(e))?;
        }
        // A read that waits for a server ends, too.
        end_reads_when(&flag);
        Ok(Interrupt { flag, all: None })
    }

    /// Also ends the work when the server of a file of the image does not give what is read of it.
    fn of(input: &Input) -> Result<Interrupt, Error> {
        let mut interrupt = Interrupt::new()?;
        interrupt.all = Some(input.require_all());
        Ok(interrupt)
    }

    fn check(&self) -> Result<(), Error> {
        if self.flag.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::Interrupted, "interrupted"));
        }
        self.all.as_ref().map_or(Ok(()), Required::check)
    }

    /// Ends only the work from now on, and no reads of others.
    fn spare_reads(&self) {
        forget_flag(&self.flag);
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.spare_reads();
    }
}

/// Returns the guard of a verb that reads `image` (open as `disk`, if it could be opened) and writes files. It
/// protects the files that are read, and mounted images, from being overwritten.
fn guard(over: impl Into<Over>, image: &cli::Image, disk: Option<&Disk>) -> Guard {
    let mut guard = Guard::new(over.into());
    guard.protect(&image.image, "is the image that is read");
    let lists = [image.open.mapfile.as_deref(), image.open.badblocks.as_deref()];
    lists.into_iter().flatten().for_each(|list| guard.protect(list, "is a map that is read"));
    if let Some(file) = &image.open.passphrase_file {
        guard.protect(file, "is the file with the passphrase");
    }
    if let Some(disk) = disk {
        guard.protect_input(disk.input());
    }
    protect_mounted(&mut guard);
    guard
}

/// Returns whether all hashes that an image stores match, for JSON; null if there are none, or they were not computed.
fn hashes_match(checked: &[Checked]) -> Option<bool> {
    (!checked.is_empty()).then(|| checked.iter().all(Checked::matches))
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

/// Protects mounted images: overwriting them would destroy them for their readers.
fn protect_mounted(guard: &mut Guard) {
    for record in records_if_any() {
        let files = std::iter::once(&record.image).chain(&record.files);
        files.for_each(|file| guard.protect_mounted(file, &record.mountpoint));
    }
    // Those of other users: on Linux the source of the mount is the image.
    for mount in
        mountinfo().unwrap_or_default().iter().filter(|m| m.is_cdi_mount() && m.source.starts_with('/'))
    {
        guard.protect_mounted(Path::new(&mount.source), &mount.mountpoint);
    }
}
