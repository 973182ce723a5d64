//! Imaging a disk that may be failing: one thread reads it, pass by pass; others pack; the calling one writes, makes
//! checkpoints, and shows how it stands. None of them waits for a read that hangs.

mod alive;
pub mod areas;
pub mod passes;
mod plan;
mod pool;
pub mod rate;
mod reader;
pub mod source;
pub mod view;

use std::collections::VecDeque;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::hash::hash;
use super::pack::{Bytes, Shared};
use super::sink::Sink;
use super::{Made, Options};
use crate::disk::{BadPolicy, Disk};
use crate::error::{Error, Kind};
use crate::image::cdi::write::Writer;
use crate::image::facts::rfc3339;
use crate::image::{self, OpenOptions};
use crate::parallel;
use passes::{Passes, Plan};
use pool::Pool;
pub use reader::End;
use reader::{Found, Pieces, Reader, lock};
use source::Source;
use view::View;

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

/// So long after a checkpoint there is another one.
const CHECKPOINT_AFTER: Duration = Duration::from_secs(30);
/// How often what was read, and what could not be, goes to the file, so that a program which is killed loses no more.
const TICK: Duration = Duration::from_millis(20);
/// How long a read that is under way is waited for when all is to end.
const PATIENCE: Duration = Duration::from_secs(4);
/// How many errors are told one by one between two checkpoints.
const MOST_EVENTS: u32 = 1000;

/// Reads `source` by `plan` into the image of `writer`, which is at `path`, until all is read that can be, or something
/// ends it. However it ends, there is a checkpoint; the image is complete if the passes came to their end.
pub fn rescue(
    source: &Arc<Source>,
    mut writer: Writer,
    path: &Path,
    options: &Options,
    plan: Plan,
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
    let earlier = writer.earlier_hashes();
    let mut facts = writer.facts().clone();
    writer.keep_reserve()?;
    parallel::spawn("reader", move || reader.run())?;
    let pool = Pool::start(&shared, geometry)?;
    let mut run = Run {
        sink: Sink::new(writer, &shared),
        pieces,
        pending: VecDeque::new(),
        end: None,
        ending: false,
        changed: None,
        checkpoint: Instant::now(),
        events: 0,
        uncounted: 0,
    };
    let result = run.go(&found, &pool, &stop, limits, &mut || {
        let view = lock(&view).clone();
        watch(Tell::Reading(&view)).map(|()| view)
    });
    stop.store(true, Ordering::Relaxed);
    run.note_uncounted();
    let end = run.end.take();
    let (mut writer, made, hashes) = run.sink.finish();
    let view = lock(&view).clone();
    let end = match result {
        Ok(()) => end.unwrap_or(End::Stopped),
        Err(e) if writer.is_full() => {
            // The room that was kept is for this.
            note(&mut writer, "ended", json!({ "why": "full" }));
            writer.leave()?;
            return Err(e.hint("the image is as it was read so far; make room, and go on with --resume"));
        }
        Err(e) if e.kind == Kind::Interrupted => {
            note(&mut writer, "ended", json!({ "why": End::Stopped.name() }));
            writer.leave()?;
            return Err(e.hint("the image is as it was read so far; go on with --resume"));
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
            None if view.read == 0 && earlier.is_some() => earlier,
            None if !shared.options.hash => None,
            None => {
                writer.checkpoint()?;
                let done = read_back(path, &mut |len| watch(Tell::Hashing(len)));
                match done {
                    Err(e) if e.kind == Kind::Interrupted => {
                        writer.leave()?;
                        return Err(e.hint("all is read; --resume makes the hashes"));
                    }
                    done => Some(done?.finish()),
                }
            }
        };
        if let Some((blake3, sha256)) = hashes {
            (facts.blake3_stored, facts.sha256_zero_filled) = (Some(blake3), Some(sha256));
        }
        facts.finished = Some(rfc3339(SystemTime::now()));
        writer.set_facts(facts.clone());
    }
    note(&mut writer, "ended", json!({ "why": end.name() }));
    let missing_bytes = writer.bad().missing();
    let image_bytes = if matches!(end, End::Finished) { writer.finish()? } else { writer.leave()? };
    Ok(Ended { end, made: Made { missing_bytes, image_bytes, facts, ..made }, view })
}

/// Adds an event to the image's log.
pub fn note(writer: &mut Writer, event: &str, what: Value) {
    let mut all = json!({ "time": rfc3339(SystemTime::now()), "event": event });
    if let (Some(all), Value::Object(what)) = (all.as_object_mut(), what) {
        all.extend(what);
    }
    writer.note(&all);
}

/// The hashes of what is in the image at `path`, which is read for it.
fn read_back(path: &Path, step: &mut dyn FnMut(u64) -> Result<(), Error>) -> Result<super::Hashes, Error> {
    let opened = image::open(path, &OpenOptions::default())?;
    let options =
        crate::disk::Options { bad: BadPolicy::Error, read_suspect: true, ..crate::disk::Options::default() };
    hash(&Disk::new(opened, options), &mut |run, error| match error {
        None => step(run.disk.end - run.disk.start),
        Some(e) => {
            let what =
                format!("what was written for byte {} of the disk cannot be read back", run.disk.start);
            Err(Error::failed(what).at(path).because(e).hint("is the disk that the image is on sound?"))
        }
    })
}

/// What was found, in its order, on its way to the sink.
enum Pending {
    Packing(Receiver<Bytes>),
    Found(Found),
}

struct Run<'a> {
    sink: Sink<'a>,
    /// What the reader has read and not handed on yet.
    pieces: Arc<Mutex<Pieces>>,
    pending: VecDeque<Pending>,
    end: Option<End>,
    /// Whether the reader has said its last word, which may still be pending.
    ending: bool,
    /// Where the map has changed since it was written down, and when the last checkpoint was.
    changed: Option<Range<u64>>,
    checkpoint: Instant,
    /// Errors told one by one since the last checkpoint, and those that were only counted.
    events: u32,
    uncounted: u32,
}

impl Run<'_> {
    fn go(
        &mut self,
        found: &Receiver<Found>,
        pool: &Pool,
        stop: &AtomicBool,
        limits: &Limits,
        watch: &mut dyn FnMut() -> Result<View, Error>,
    ) -> Result<(), Error> {
        let depth = 4 * parallel::cores();
        let mut tick = Instant::now();
        // Since when all is to end, and why.
        let mut stopped: Option<(Instant, Result<End, Error>)> = None;
        loop {
            self.take_finished()?;
            let waited_enough = stopped.as_ref().is_some_and(|(since, _)| since.elapsed() > PATIENCE);
            if self.pending.is_empty() && (self.end.is_some() || waited_enough) {
                break;
            }
            let coming = !self.ending && !waited_enough && self.pending.len() < depth;
            if coming {
                let wait = if self.pending.is_empty() { TICK } else { Duration::from_millis(2) };
                match found.recv_timeout(wait) {
                    Ok(found) => self.receive(found, pool),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(Error::failed("the thread that reads the disk has failed"));
                    }
                }
            } else {
                self.wait_for_first()?;
            }
            if tick.elapsed() >= TICK {
                tick = Instant::now();
                self.take_pieces(found, pool);
                self.write_down()?;
                let view = match watch() {
                    Ok(view) => view,
                    Err(e) if stopped.is_none() => {
                        stop.store(true, Ordering::Relaxed);
                        stopped = Some((Instant::now(), Err(e)));
                        continue;
                    }
                    Err(_) => continue,
                };
                // Only the disk's own time counts.
                let silent = view.reading.map_or(Duration::ZERO, |_| view.last_good.elapsed());
                if stopped.is_none() && limits.timeout.is_some_and(|most| silent > most) {
                    stop.store(true, Ordering::Relaxed);
                    stopped = Some((Instant::now(), Ok(End::Timeout)));
                }
            }
        }
        if let Some((_, why)) = stopped
            && !matches!(self.end, Some(End::Dead | End::Gone))
        {
            self.end = Some(why?);
        }
        Ok(())
    }

    /// Takes what was read before a read that has not come back, behind all that was sent before it.
    fn take_pieces(&mut self, found: &Receiver<Found>, pool: &Pool) {
        let pieces = Arc::clone(&self.pieces);
        let mut pieces = lock(&pieces);
        if pieces.is_none() {
            return;
        }
        while let Ok(found) = found.try_recv() {
            self.receive(found, pool);
        }
        if let Some((start, bytes)) = pieces.take() {
            self.receive(Found::Bytes(start, bytes.into()), pool);
        }
    }

    fn receive(&mut self, found: Found, pool: &Pool) {
        match found {
            Found::Bytes(start, raw) => self.pending.push_back(Pending::Packing(pool.pack(start, raw))),
            other => {
                self.ending |= matches!(other, Found::End(_));
                self.pending.push_back(Pending::Found(other));
            }
        }
    }

    /// Takes in what is ready, in its order.
    fn take_finished(&mut self) -> Result<(), Error> {
        while let Some(first) = self.pending.pop_front() {
            match first {
                Pending::Found(found) => self.take(found)?,
                Pending::Packing(result) => match result.try_recv() {
                    Ok(bytes) => self.take_bytes(bytes)?,
                    Err(std::sync::mpsc::TryRecvError::Empty) => {
                        self.pending.push_front(Pending::Packing(result));
                        return Ok(());
                    }
                    Err(_) => return Err(Error::failed("a thread that packs has failed")),
                },
            }
        }
        Ok(())
    }

    fn wait_for_first(&mut self) -> Result<(), Error> {
        match self.pending.pop_front() {
            None => thread::sleep(Duration::from_millis(2)),
            Some(Pending::Found(found)) => self.take(found)?,
            Some(Pending::Packing(result)) => match result.recv_timeout(TICK) {
                Ok(bytes) => self.take_bytes(bytes)?,
                Err(RecvTimeoutError::Timeout) => self.pending.push_front(Pending::Packing(result)),
                Err(_) => return Err(Error::failed("a thread that packs has failed")),
            },
        }
        Ok(())
    }

    fn take_bytes(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.sink.bytes(bytes)
    }

    fn take(&mut self, found: Found) -> Result<(), Error> {
        match found {
            Found::Hole(disk) => self.sink.fill(disk, [0; 8])?,
            Found::Told(changes) => {
                for what in changes {
                    self.sink.writer.set_status(what)?;
                    let hull = self.changed.take().unwrap_or(what.start..what.end);
                    self.changed = Some(hull.start.min(what.start)..hull.end.max(what.end));
                }
            }
            Found::Event(event) => {
                let error = event["event"] == "read-error";
                self.events += u32::from(error);
                if error && self.events > MOST_EVENTS {
                    self.uncounted += 1;
                } else {
                    self.sink.writer.note(&event);
                }
            }
            Found::End(end) => self.end = Some(end),
            Found::Bytes(..) => debug_assert!(false, "bytes are packed first"),
        }
        Ok(())
    }

    fn note_uncounted(&mut self) {
        if self.uncounted > 0 {
            note(&mut self.sink.writer, "read-errors", json!({ "count": self.uncounted }));
        }
    }

    /// Makes a checkpoint if it is time, and between two of them writes down what the map has to say.
    fn write_down(&mut self) -> Result<(), Error> {
        if self.checkpoint.elapsed() >= CHECKPOINT_AFTER {
            self.note_uncounted();
            (self.checkpoint, self.events, self.uncounted) = (Instant::now(), 0, 0);
            self.changed = None;
            return self.sink.writer.checkpoint();
        }
        match self.changed.take() {
            Some(range) => {
                if !self.sink.writer.tell_map(range.clone())? {
                    self.changed = Some(range);
                    self.sink.writer.write_out()?;
                }
            }
            None => self.sink.writer.write_out()?,
        }
        Ok(())
    }
}
