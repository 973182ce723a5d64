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

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cdi_base::error::{Error, Kind};
use cdi_capture::guard::{Guard, Over};
use cdi_capture::hash_check::Checked;
use cdi_image::disk::{BadPolicy, Disk, Options};
use cdi_image::image::OpenOptions;
use cdi_image::open;
use cdi_system::{ending_signals, mountinfo};

use crate::cli;
use crate::cli::report::exit_code;
use crate::mount::record::records_if_any;
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

/// Opens the image that was named, tells its warnings, and gives its disk.
fn open_disk(image: &cli::Image, options: Options, ui: &Ui) -> Result<Disk, Error> {
    let how = OpenOptions {
        format: image.how.format.clone(),
        mapfile: image.how.mapfile(),
        badblocks: image.how.badblocks.clone().zip(image.how.block_size),
        sector_size: image.how.sector_size,
        allowed: image.how.allow_parent.clone(),
    };
    let opened = open::open(&image.image, &how)?;
    for warning in opened.image.warnings() {
        ui.warning(warning);
    }
    Ok(Disk::new(opened, options))
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
                .map_err(|e| Error::failed("signals cannot be caught").because(e))?;
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
    let lists = [image.how.mapfile.as_deref(), image.how.badblocks.as_deref()];
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

/// Protects the images that are mounted: their readers would lose them.
fn protect_shown(guard: &mut Guard) {
    for record in records_if_any() {
        let why = format!("is mounted at {}", record.mountpoint.display());
        guard.protect(&record.image, &why);
        record.files.iter().for_each(|file| guard.protect(file, &why));
    }
    // Another user's: on Linux the mount says what it is of.
    for mount in mountinfo().unwrap_or_default().iter().filter(|m| m.is_ours() && m.source.starts_with('/')) {
        guard.protect(Path::new(&mount.source), &format!("is mounted at {}", mount.mountpoint.display()));
    }
}
