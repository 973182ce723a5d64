//! Imaging of a disk that may be failing: one thread reads it, pass by pass; others compress; the calling thread
//! writes, makes checkpoints, and reports progress. A read that hangs blocks only the reading thread.

pub mod areas;
mod coordinator;
mod demands;
mod drive_health;
pub mod first;
pub mod live;
pub mod passes;
mod plan;
mod pool;
pub mod progress;
pub mod rate;
mod reader;
pub mod same;
pub mod source;
mod why;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use cdi_base::advice::{Advice, Saved};
use cdi_base::error::{Error, Kind};
use cdi_base::workers::{self, lock};
use cdi_image::badmap::Status;
use cdi_image::cdimg::writer::Writer;
use cdi_image::disk::{BadPolicy, Disk};
use cdi_image::image::OpenOptions;
use cdi_image::metadata::{DiskHashes, rfc3339};
use cdi_image::open;
use cdi_image::stored_hashes::HashKind;
use coordinator::Coordinator;
use demands::Turns;
use first::Order;
use first::stages::Stages;
use live::LiveDisk;
use passes::{Passes, RescuePlan};
use pool::Pool;
use progress::View;
pub use reader::End;
use reader::Reader;
use serde_json::{Value, json};
use source::Source;

use super::compress::Shared;
use super::hash::{Hashes, hash};
use super::image_sink::ImageSink;
use super::options::{Made, Options};

/// Limits that stop the imaging early.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// The maximum number of failed reads.
    pub max_errors: Option<u64>,
    /// The maximum time without a successful read.
    pub timeout: Option<Duration>,
}

/// What is to be read of a disk, and how.
pub struct Task {
    /// The parameters of the passes.
    pub plan: RescuePlan,
    /// What is read first.
    pub order: Order,
    /// What stops the imaging early.
    pub limits: Limits,
    /// The disk as it is shown while it is imaged.
    pub live: Option<Arc<LiveDisk>>,
    /// What else goes into the log.
    pub notes: Option<Box<dyn Notes>>,
}

/// Events that come from elsewhere. Called by the thread that writes.
pub trait Notes {
    /// Returns an event that is to be logged now, if there is one. Called often; must not wait.
    fn next(&mut self, view: &View) -> Option<Value>;
    /// Returns the last event, after everything was read.
    fn last(&mut self, end: &End, view: &View) -> Option<Value>;
}

/// The result of a run.
#[derive(Debug)]
pub struct Ended {
    /// The reason why it ended.
    pub end: End,
    /// Statistics and metadata of what was written in this run.
    pub made: Made,
    /// The state at the end.
    pub view: View,
    /// How many bytes of the whole image have each status but finished, also outside the domain.
    pub left: Vec<(Status, u64)>,
}

/// Progress that is reported to the caller about 50 times a second. The caller can cancel with an error.
pub enum Update<'a> {
    /// The state of the reading.
    Reading(&'a View),
    /// The image is being read back for its hashes: the number of bytes since the last report.
    Hashing(u64),
}

/// Reads `source` according to `task` into the image of `writer`, which is at `path`, until everything readable is
/// read, or until it is stopped. Ends with a checkpoint, unless a failure other than a full disk prevents it. The image
/// is complete if all passes are done. Calls `watch` with the progress; an error from it cancels the imaging.
pub fn rescue(
    source: &Arc<Source>,
    mut writer: Writer,
    path: &Path,
    options: &Options,
    task: Task,
    watch: &mut dyn FnMut(Update<'_>) -> Result<(), Error>,
) -> Result<Ended, Error> {
    let Task { plan, order, limits, live, mut notes } = task;
    let geometry = writer.geometry();
    let options = Options { chunk: geometry.chunk_size, ..options.clone() };
    let shared = Arc::new(Shared::new(options));
    let wanted = plan.domain.iter().map(|r| r.end - r.start).sum();
    let passes = Passes::new(plan, writer.bad());
    let view = Arc::new(Mutex::new(View::new(wanted)));
    lock(&view).count(&passes);
    let stop = Arc::new(AtomicBool::new(false));
    let (found_in, found) = sync_channel(8);
    let pieces = Arc::new(Mutex::new(None));
    let reader = Reader {
        source: Arc::clone(source),
        stages: Stages::new(order, path, &passes),
        passes,
        shared: Arc::clone(&shared),
        view: Arc::clone(&view),
        stop: Arc::clone(&stop),
        found: found_in,
        max_errors: limits.max_errors,
        pieces: Arc::clone(&pieces),
        live: live.clone(),
        turns: Turns::new(),
        ended: None,
        naming: why::Naming::Right(0),
    };
    let earlier = writer.earlier_hashes().clone();
    let mut metadata = writer.metadata().clone();
    writer.keep_reserve()?;
    if let Some(live) = &live {
        live.demands.set_open(true);
    }
    workers::spawn("reader", move || reader.run())?;
    let pool = Pool::start(&shared, geometry)?;
    let mut coordinator = Coordinator::new(ImageSink::new(writer, &shared), &pieces, live.clone());
    let result = coordinator.run(&found, &pool, &stop, &limits, &mut notes, &mut || {
        let view = lock(&view).clone();
        watch(Update::Reading(&view)).map(|()| view)
    });
    stop.store(true, Ordering::Relaxed);
    if let Some(live) = &live {
        live.demands.set_open(false);
    }
    let cancelled = coordinator.is_cancelled();
    let (sink, end) = coordinator.finish();
    let (mut writer, made, hashes) = sink.finish();
    let view = lock(&view).clone();
    let end = match result {
        Ok(()) => end.unwrap_or(End::Stopped),
        Err(e) if writer.is_full() => {
            // Space was reserved for this.
            writer.note(&event("ended", json!({ "why": "full" })));
            writer.leave()?;
            return Err(e.hint("make room").then(Advice::Resume(Saved::All)));
        }
        Err(e) if cancelled && e.kind == Kind::Interrupted => End::Stopped,
        Err(e) if cancelled => {
            writer.note(&event("ended", json!({ "why": End::Stopped.name() })));
            writer.leave()?;
            return Err(e);
        }
        Err(e) => {
            // Try to save the data that is still in memory.
            let _ = writer.write_out();
            return Err(e);
        }
    };
    if let Some(event) = notes.as_mut().and_then(|notes| notes.last(&end, &view)) {
        writer.note(&event);
    }
    if matches!(end, End::Finished) {
        let hashes = match hashes {
            Some(hashes) => Some(hashes.finish()),
            None if view.read == 0 && earlier.has(&shared.options.hashes) => Some(earlier),
            None if !shared.options.hash => None,
            None => {
                match hash_image(&mut writer, path, &kinds(&shared.options.hashes, &earlier, &view), watch) {
                    Err(e) if e.kind == Kind::Interrupted => {
                        writer.leave()?;
                        return Err(e);
                    }
                    hashes => Some(hashes?),
                }
            }
        };
        if let Some(hashes) = hashes {
            hashes.store(&mut metadata);
        }
        metadata.finished = Some(rfc3339(SystemTime::now()));
        writer.set_metadata(metadata.clone());
    }
    writer.note(&event("ended", json!({ "why": end.name() })));
    let missing_bytes = writer.bad().missing();
    let left = Status::LISTED.map(|status| (status, writer.bad().count(status).bytes)).to_vec();
    let written = if matches!(end, End::Finished) { writer.finish() } else { writer.leave() };
    let image_bytes = written.map_err(|e| e.then(Advice::Resume(Saved::Earlier)))?;
    Ok(Ended { end, made: Made { missing_bytes, image_bytes, metadata, ..made }, view, left })
}

/// Returns the kinds of hashes to compute: those that are wanted, and those that the image has had, if it has not changed.
fn kinds(wanted: &[HashKind], earlier: &DiskHashes, view: &View) -> Vec<HashKind> {
    let earlier = earlier.zero_filled.iter().map(|(kind, _)| *kind).filter(|_| view.read == 0);
    wanted.iter().copied().chain(earlier).collect()
}

/// Commits the image and reads it back for its hashes.
fn hash_image(
    writer: &mut Writer,
    path: &Path,
    kinds: &[HashKind],
    watch: &mut dyn FnMut(Update<'_>) -> Result<(), Error>,
) -> Result<DiskHashes, Error> {
    writer.checkpoint()?;
    let hashes = read_back(path, Hashes::new(kinds), &mut |len| watch(Update::Hashing(len)));
    hashes.map(Hashes::finish).map_err(|e| match e.kind {
        Kind::Interrupted => e
            .then("the disk has been read completely; only its hashes are missing")
            .then(Advice::Resume(Saved::All)),
        _ => e,
    })
}

/// Creates an event for the image's log, with the current time.
pub fn event(name: &str, what: Value) -> Value {
    let mut all = json!({ "time": rfc3339(SystemTime::now()), "event": name });
    if let (Some(all), Value::Object(what)) = (all.as_object_mut(), what) {
        all.extend(what);
    }
    all
}

/// Reads back the image at `path`, and returns the hashes of its contents. Calls `step` with the number of bytes
/// since the last call.
fn read_back(
    path: &Path,
    hashes: Hashes,
    step: &mut dyn FnMut(u64) -> Result<(), Error>,
) -> Result<Hashes, Error> {
    let opened = open::open(path, &OpenOptions::default())?;
    let options = cdi_image::disk::Options {
        bad: BadPolicy::Error,
        read_suspect: true,
        ..cdi_image::disk::Options::default()
    };
    let disk = Disk::new(opened, options);
    let (hashes, _) = hash(&disk, hashes, &mut |run, error| match error {
        None => step(run.disk.end - run.disk.start),
        Some(e) => {
            let what = format!("cannot read back the data of disk byte {}", run.disk.start);
            Err(Error::failed(what)
                .at(path)
                .because(e)
                .hint("check the disk that the image is stored on for errors"))
        }
    })?;
    Ok(hashes)
}
