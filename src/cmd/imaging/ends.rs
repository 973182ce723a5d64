//! How the imaging of a disk ends, and what is done about a disk that is gone.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cdi_base::advice::{Advice, Saved};
use cdi_base::error::{Error, Kind};
use cdi_capture::rescue;
use cdi_capture::rescue::source::{Failure, Source};
use cdi_system::{DiskInfo, find_again};

use super::summary;
use crate::cli::Create;
use crate::cmd::{End, Interrupt};
use crate::ui::Ui;

/// Waits for a disk that is gone. Returns where it is again; None if it does not come back in time.
pub(super) fn wait_for(
    path: &Path,
    known: &DiskInfo,
    time: Duration,
    interrupt: &Interrupt,
    ui: &Ui,
) -> Result<Option<PathBuf>, Error> {
    let serial = known.serial.as_ref().map_or_else(String::new, |serial| format!(", serial number {serial}"));
    ui.warning(format!("{}{serial}: the disk is gone; waiting {} s for it", path.display(), time.as_secs()));
    let start = Instant::now();
    loop {
        if let Some(found) = find_again(path, known) {
            ui.warning(format!("{}: the disk is back", found.display()));
            return Ok(Some(found));
        }
        if start.elapsed() >= time {
            return Ok(None);
        }
        interrupt.check()?;
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// With `--wait`, waits for a disk that is not there at the start.
pub(super) fn wait_at_start(args: &Create, interrupt: &Interrupt, ui: &Ui) -> Result<(), Error> {
    let Some(time) = args.rescue.wait else { return Ok(()) };
    let is_there = || match Source::open(&args.source, true, None, Duration::ZERO) {
        // Also a drive that has not found its medium yet.
        Err(e) => e.kind != Kind::Gone && !is_absent(&e),
        Ok(_) => true,
    };
    let start = Instant::now();
    let mut warned = false;
    while !is_there() {
        if start.elapsed() >= time {
            return Err(Error::new(Kind::Gone, "the disk is not there")
                .at(&args.source)
                .hint("connect the disk"));
        }
        if !std::mem::replace(&mut warned, true) {
            ui.warning(format!(
                "{}: the disk is not there; waiting {} s for it",
                args.source.display(),
                time.as_secs()
            ));
        }
        interrupt.check()?;
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

/// Returns whether the system has no such file, or its driver no such device.
fn is_absent(e: &Error) -> bool {
    let source = e.source.as_ref().and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|e| e.kind() == io::ErrorKind::NotFound || Failure::of(e) == Failure::Gone)
}

/// Converts the end of the rescue to the outcome of the command.
pub(super) fn outcome(ended: rescue::Ended, args: &Create, source: &Source) -> Result<End, Error> {
    match ended.end {
        rescue::End::Finished if ended.made.missing_bytes == 0 => Ok(End::Done),
        rescue::End::Timeout if ended.view.reading.is_some() => {
            let what = "stopped: a read has not returned within --timeout, and still hangs";
            Err(Error::new(Kind::PowerCycle, what)
                .at(source.path())
                .hint("switch the disk off and on")
                .then(Advice::Resume(Saved::All)))
        }
        rescue::End::Finished | rescue::End::TooManyErrors | rescue::End::Timeout => Ok(End::DataMissing),
        rescue::End::Stopped => {
            let hint = format!("{}; to go on: {}", Saved::All, summary::command(args, &args.rescue.only, "cdi create --resume"));
            Err(Error::new(Kind::Interrupted, "interrupted").at(&args.image).hint(hint))
        }
        rescue::End::Gone => Err(Error::new(Kind::Gone, "the disk is gone (no sectors were marked bad because of that)")
            .at(source.path())
            .hint("reconnect the disk")
            .then(Advice::Resume(Saved::All))),
        rescue::End::Dead => Err(Error::new(
            Kind::PowerCycle,
            "the disk fails on sectors that it could read before: it seems to be dying (its last errors were not \
             recorded as bad sectors)",
        )
        .at(source.path())
        .hint("switch it off, and on again when it has cooled down")
        .then(Advice::Resume(Saved::All))),
        rescue::End::Unreadable => Err(Error::new(
            Kind::PowerCycle,
            "the disk has returned an error for every read (nothing was recorded as bad): is it the cable, the power, or \
             a password?",
        )
        .at(source.path())
        .hint(
            "switch it off and on, and try another cable or adapter; 'smartctl -x' and the system's log may say more; \
             --sweep tries every sector all the same",
        )
        .then(Advice::Resume(Saved::All))),
        rescue::End::Failed(e) => Err(e),
    }
}
