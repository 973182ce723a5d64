//! Imaging a disk that may be failing: one thread reads it, pass by pass; others compress; the calling one writes, makes
//! checkpoints, and shows how it stands. None of them waits for a read that hangs.

pub mod areas;
mod coordinator;
mod drive_health;
pub mod passes;
mod plan;
mod pool;
pub mod progress;
pub mod rate;
mod reader;
pub mod same;
pub mod source;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use cdi_base::advice::Advice;
use cdi_base::error::{Error, Kind};
use cdi_base::workers::{self, lock};
use cdi_image::cdimg::writer::Writer;
use cdi_image::disk::{BadPolicy, Disk};
use cdi_image::image::OpenOptions;
use cdi_image::metadata::rfc3339;
use cdi_image::open;
use coordinator::Coordinator;
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

/// What ends the reading before all is read.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// How many reads may fail.
    pub max_errors: Option<u64>,
    /// How long nothing may be read.
    pub timeout: Option<Duration>,
}

/// What a run has come to.
#[derive(Debug)]
pub struct Ended {
    /// Why it ended.
    pub end: End,
    /// What was made in this run.
    pub made: Made,
    /// How it stood.
    pub view: View,
}

/// What whoever waits is told, some fifty times a second. He may end it all with an error.
pub enum Tell<'a> {
    /// How the reading stands.
    Reading(&'a View),
    /// The image is read back for its hashes: so many bytes more.
    Hashing(u64),
}

/// Reads `source` by `plan` into the image of `writer`, which is at `path`, until all is read that can be, or something
/// ends it. However it ends, there is a checkpoint; the image is complete if the passes came to their end.
pub fn rescue(
    source: &Arc<Source>,
    mut writer: Writer,
    path: &Path,
    options: &Options,
    plan: RescuePlan,
    limits: &Limits,
    watch: &mut dyn FnMut(Tell<'_>) -> Result<(), Error>,
) -> Result<Ended, Error> {
    let geometry = writer.geometry();
    let options = Options { chunk: geometry.chunk_size, ..options.clone() };
    let shared = Arc::new(Shared::new(options));
    let wanted = plan.domain.iter().map(|r| r.end - r.start).sum();
    let passes = Passes::new(plan, writer.bad());
    let view = Arc::new(Mutex::new(View::new(wanted)));
    lock(&view).count(passes.areas());
    let stop = Arc::new(AtomicBool::new(false));
    let (found_in, found) = sync_channel(8);
    let pieces = Arc::new(Mutex::new(None));
    let reader = Reader {
        source: Arc::clone(source),
        passes,
        shared: Arc::clone(&shared),
        view: Arc::clone(&view),
        stop: Arc::clone(&stop),
        found: found_in,
        max_errors: limits.max_errors,
        run: Arc::clone(&pieces),
    };
    let earlier = writer.earlier_hashes().clone();
    let mut metadata = writer.metadata().clone();
    writer.keep_reserve()?;
    workers::spawn("reader", move || reader.run())?;
    let pool = Pool::start(&shared, geometry)?;
    let mut run = Coordinator::new(ImageSink::new(writer, &shared), &pieces);
    let result = run.go(&found, &pool, &stop, limits, &mut || {
        let view = lock(&view).clone();
        watch(Tell::Reading(&view)).map(|()| view)
    });
    stop.store(true, Ordering::Relaxed);
    let asked = run.is_asked_to_end();
    let (sink, end) = run.finish();
    let (mut writer, made, hashes) = sink.finish();
    let view = lock(&view).clone();
    let end = match result {
        Ok(()) => end.unwrap_or(End::Stopped),
        Err(e) if writer.is_full() => {
            // The room that was kept is for this.
            writer.note(&event("ended", json!({ "why": "full" })));
            writer.leave()?;
            return Err(e.hint("make room").then(Advice::Resume(None)));
        }
        Err(e) if asked => {
            writer.note(&event("ended", json!({ "why": End::Stopped.name() })));
            writer.leave()?;
            return Err(match e.kind {
                Kind::Interrupted => e.then(Advice::Resume(None)),
                _ => e,
            });
        }
        Err(e) => {
            // What is in memory may still find its way.
            let _ = writer.write_out();
            return Err(e);
        }
    };
    if matches!(end, End::Finished) {
        let hashes = match hashes {
            Some(hashes) => Some(hashes.finish()),
            None if view.read == 0 && earlier.blake3_rescued.is_some() => Some(earlier),
            None if !shared.options.hash => None,
            None => {
                writer.checkpoint()?;
                let hashes = Hashes::new(&shared.options.hashes);
                let done = read_back(path, hashes, &mut |len| watch(Tell::Hashing(len)));
                match done {
                    Err(e) if e.kind == Kind::Interrupted => {
                        writer.leave()?;
                        return Err(e
                            .then("the whole disk is read; only its hashes are missing")
                            .then(Advice::Resume(None)));
                    }
                    done => Some(done?.finish()),
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
    let written = if matches!(end, End::Finished) { writer.finish() } else { writer.leave() };
    let image_bytes = written.map_err(|e| e.then(Advice::Resume(None)))?;
    Ok(Ended { end, made: Made { missing_bytes, image_bytes, metadata, ..made }, view })
}

/// An event for the image's log, of now.
pub fn event(name: &str, what: Value) -> Value {
    let mut all = json!({ "time": rfc3339(SystemTime::now()), "event": name });
    if let (Some(all), Value::Object(what)) = (all.as_object_mut(), what) {
        all.extend(what);
    }
    all
}

/// The hashes of what is in the image at `path`, which is read for it.
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
            let what =
                format!("what was written for byte {} of the disk cannot be read back", run.disk.start);
            Err(Error::failed(what).at(path).because(e).hint("is the disk that the image is on sound?"))
        }
    })?;
    Ok(hashes)
}
