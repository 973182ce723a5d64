//! `cdi create DISK IMAGE`: images a disk that may be failing, in several passes.

mod begin;
mod checks;
mod ends;
mod health;
mod order;
mod shown;
mod summary;
mod watch;

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use cdi_base::advice::{Advice, Saved};
use cdi_base::error::{Error, Kind};
use cdi_capture::options::Options;
use cdi_capture::rescue;
use cdi_capture::rescue::{Limits, Task, Update};
use cdi_image::image::Mapfile;
use cdi_system::placement::{CHECK_INTERVAL, Placed};

use begin::{Begun, Run, begin_or_resume, plan};
use checks::{is_device, refuse_other_image, refuse_own_disk, refuse_raw_image};
use ends::{outcome, wait_at_start, wait_for};
use health::{Last, Monitor};
use shown::Shown;
use watch::Watch;

use super::{End, Interrupt, protect};
use crate::cli::{Create, Rescue};
use crate::ui::Ui;

/// Checks whether the arguments name a disk that may be failing, as opposed to an image to be converted.
pub(super) fn applies(args: &Create) -> bool {
    let asked = args.rescue != Rescue::default();
    let raw = args.open.format.as_deref().is_none_or(|f| f == "raw");
    asked || (is_device(&args.source) && raw && !matches!(args.open.mapfile(), Mapfile::File(_)))
}

/// Returns whether the process goes on after the imaging, because it shows the disk.
pub(super) fn stays(args: &Create) -> bool {
    shown::is_wanted(&args.rescue)
}

/// What others see of the imaging, and of the disk meanwhile.
#[derive(Default)]
pub(super) struct Seen {
    shown: Option<Shown>,
    watch: Option<Watch>,
    health: Arc<Mutex<Option<Last>>>,
}

impl Seen {
    /// Waits until nobody looks any more.
    pub(super) fn wait(self) {
        if let Some(watch) = self.watch {
            watch.wait();
        }
        if let Some(shown) = self.shown {
            shown.wait();
        }
    }
}

/// Images the disk. Also returns what is still seen of it, and is to be waited for.
pub(super) fn run(
    args: &Create,
    options: Options,
    interrupt: &Interrupt,
    ui: &Ui,
) -> (Result<End, Error>, Seen) {
    let mut seen = Seen::default();
    let result = image(args, &options, interrupt, &mut seen, ui);
    let result = match seen.shown.as_ref().map(Shown::wait_for_mount) {
        Some(Err(e)) => result.and(Err(e)),
        _ => result,
    };
    if let Some(shown) = &seen.shown {
        let stays = !matches!(&result, Err(e) if e.kind == Kind::Interrupted);
        shown.finish(stays, ui);
    }
    if let (Err(_), Some(watch)) = (&result, &mut seen.watch) {
        watch.fails();
    }
    (result, seen)
}

fn image(
    args: &Create,
    options: &Options,
    interrupt: &Interrupt,
    seen: &mut Seen,
    ui: &Ui,
) -> Result<End, Error> {
    refuse_options(args)?;
    wait_at_start(args, interrupt, ui)?;
    refuse_other_image(args)?;
    refuse_raw_image(args)?;
    refuse_own_disk(args, ui)?;
    let mut prepared = shown::prepare(args)?;
    let mut place = Watch::prepare(args, ui)?;
    let mut run = Run { disk: args.source.clone(), resumes: args.rescue.resume };
    loop {
        let mut begun = begin_or_resume(args, &run, options, interrupt, ui)?;
        let (fresh, source) = (begun.fresh, Arc::clone(&begun.source));
        match (&seen.shown, prepared.take()) {
            (Some(shown), _) => shown.resume(&mut begun.writer, &begun.file, &args.image)?,
            (None, Some(prepared)) => {
                let unit = begun.writer.sectors().1.max(source.metadata().physical);
                let Begun { writer, file, .. } = &mut begun;
                seen.shown = Some(Shown::start(prepared, writer, file, &args.image, unit, ui)?);
            }
            (None, None) => {}
        }
        if let Some(place) = place.take() {
            seen.watch = Some(Watch::new(place, args, &source, begun.writer.metadata(), &seen.health));
        }
        let start = Instant::now();
        let ended = read(args, options, begun, seen, interrupt, ui)?;
        if fresh && ended.view.read == 0 && matches!(ended.end, rescue::End::Failed(_)) {
            let _ = fs::remove_file(&args.image);
        }
        if let (rescue::End::Gone, Some(time)) = (&ended.end, args.rescue.wait)
            && let Some(disk) = {
                if let Some(watch) = &mut seen.watch {
                    watch.set_state("waiting");
                }
                wait_for(&run.disk, source.metadata(), time, interrupt, ui)?
            }
        {
            run = Run { disk, resumes: true };
            continue;
        }
        if let Some(watch) = &mut seen.watch {
            watch.end(&ended.view, ended.end.name());
        }
        summary::print(args, &source, &ended, start.elapsed(), ui);
        return outcome(ended, args, &source);
    }
}

/// Refuses options that do not apply to a disk.
fn refuse_options(args: &Create) -> Result<(), Error> {
    if let Some(format) = args.open.format.as_ref().filter(|f| *f != "raw") {
        let what = format!(
            "a {format} image is converted, not read as a disk: options for reading a failing disk do not apply"
        );
        return Err(Error::usage(what));
    }
    if let Mapfile::File(_) = args.open.mapfile() {
        return Err(Error::usage("--mapfile is for raw images; for a disk use --from-mapfile"));
    }
    Ok(())
}

/// Reads the disk into the image, and displays the progress.
fn read(
    args: &Create,
    options: &Options,
    begun: Begun,
    seen: &mut Seen,
    interrupt: &Interrupt,
    ui: &Ui,
) -> Result<rescue::Ended, Error> {
    let plan = plan(&args.rescue, &begun);
    let Begun { source, writer, file, .. } = begun;
    let notes = Monitor::begin(&source, &seen.health, ui);
    let limits = Limits { max_errors: args.rescue.max_read_errors, timeout: args.rescue.timeout };
    let mut display = ui.imaging(&args.image.display().to_string());
    let placed = Placed::new(&file, &args.image)?;
    let mut last_check = Instant::now();
    let mut hashing = None;
    let size = plan.size;
    let live = seen.shown.as_ref().map(|shown| Arc::clone(&shown.live));
    let notes = notes.map(|notes| Box::new(notes) as _);
    let task = Task { plan, order: order::order(&args.rescue)?, limits, live, notes };
    let result = rescue::rescue(&source, writer, &args.image, options, task, &mut |update| {
        match update {
            Update::Reading(view) => {
                display.show(view);
                if let Some(watch) = &mut seen.watch {
                    watch.show(view, seen.shown.as_ref().and_then(Shown::place));
                }
            }
            Update::Hashing(bytes) => {
                if let Some(watch) = &mut seen.watch {
                    watch.set_state("hashing");
                }
                hashing.get_or_insert_with(|| ui.progress("hashing", size)).advance(bytes);
            }
        }
        if last_check.elapsed() > CHECK_INTERVAL {
            last_check = Instant::now();
            placed.check()?;
        }
        seen.shown.as_ref().map_or(Ok(()), Shown::check)?;
        interrupt.check()
    });
    // Fail if the image is no longer at its path: the user would not find it.
    let result = result.and_then(|ended| placed.check().map(|()| ended));
    drop(display);
    if let Some(hashing) = hashing {
        hashing.finish();
    }
    // An unfinished image gets its parity when it is finished.
    let result = result.and_then(|mut ended| {
        protect::add_if_wanted(&file, args, &mut ended.made, &mut || interrupt.check(), ui)?;
        Ok(ended)
    });
    // Unlock the image for processes that wait for it: a hung read may keep this process from exiting.
    let _ = file.unlock();
    result.map_err(|e| match placed.where_it_is() {
        // Any other advice refers to the file by its old path.
        Some(place) => Error { advice: vec![place], ..e },
        None => e.hint(Advice::Resume(Saved::Earlier)),
    })
}
