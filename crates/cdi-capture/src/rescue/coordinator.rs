//! The work of the calling thread while a disk is imaged.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cdi_base::error::Error;
use cdi_base::workers::{self, lock};
use serde_json::json;

use super::live::LiveDisk;
use super::pool::Pool;
use super::progress::View;
use super::reader::{End, Found, Pieces};
use super::{Limits, Notes, event};
use crate::compress::Bytes;
use crate::image_sink::ImageSink;

/// The interval between checkpoints.
const CHECKPOINT_AFTER: Duration = Duration::from_secs(30);
/// How often new data and map changes are written to the file: if the program is killed, it loses no more than this.
const TICK: Duration = Duration::from_millis(20);
/// Timeout for a pending read when imaging is to stop.
const TIMEOUT: Duration = Duration::from_secs(4);
/// The number of read errors that are logged individually between two checkpoints.
const MAX_EVENTS: u32 = 1000;

/// A result of the reader on its way to the sink. Results stay in order.
enum Pending {
    Compression(Receiver<Bytes>),
    Found(Found),
}

/// The coordinating thread: receives the results of the reader and of the compressing threads in order, and writes
/// them.
pub(super) struct Coordinator<'a> {
    sink: ImageSink<'a>,
    /// The disk as it is shown meanwhile.
    live: Option<Arc<LiveDisk>>,
    /// Small pieces that the reader has read, but not sent yet.
    pieces: Arc<Mutex<Pieces>>,
    pending: VecDeque<Pending>,
    end: Option<End>,
    /// Whether the reader has ended. Its last results may still be pending.
    ending: bool,
    /// The range in which the map has changed since it was last written, and the time of the last checkpoint.
    changed: Option<Range<u64>>,
    checkpoint: Instant,
    /// Read errors since the last checkpoint, and how many of them were only counted instead of logged.
    error_count: u32,
    unlogged_errors: u32,
    /// Whether the caller cancelled the imaging.
    cancelled: bool,
}

impl<'a> Coordinator<'a> {
    /// Creates a coordinator. `pieces` is where the reader collects small pieces.
    pub(super) fn new(
        sink: ImageSink<'a>,
        pieces: &Arc<Mutex<Pieces>>,
        live: Option<Arc<LiveDisk>>,
    ) -> Coordinator<'a> {
        Coordinator {
            sink,
            live,
            pieces: Arc::clone(pieces),
            pending: VecDeque::new(),
            end: None,
            ending: false,
            changed: None,
            checkpoint: Instant::now(),
            error_count: 0,
            unlogged_errors: 0,
            cancelled: false,
        }
    }

    /// Checks whether the caller cancelled the imaging, as opposed to a failure.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled
    }

    /// Returns the sink, and the reason why the reading ended.
    pub(super) fn finish(mut self) -> (ImageSink<'a>, Option<End>) {
        self.note_unlogged_errors();
        (self.sink, self.end)
    }

    /// Runs until the reader has ended, or the caller or a limit stops the imaging.
    pub(super) fn run(
        &mut self,
        found: &Receiver<Found>,
        pool: &Pool,
        stop: &AtomicBool,
        limits: &Limits,
        notes: &mut Option<Box<dyn Notes>>,
        watch: &mut dyn FnMut() -> Result<View, Error>,
    ) -> Result<(), Error> {
        let depth = 4 * workers::cores();
        let mut tick = Instant::now();
        // When and why the imaging was stopped.
        let mut stopped: Option<(Instant, Result<End, Error>)> = None;
        loop {
            self.process_ready()?;
            let timed_out = stopped.as_ref().is_some_and(|(since, _)| since.elapsed() > TIMEOUT);
            if self.pending.is_empty() && (self.end.is_some() || timed_out) {
                break;
            }
            let may_receive = !self.ending && !timed_out && self.pending.len() < depth;
            if may_receive {
                let wait = if self.pending.is_empty() { TICK } else { Duration::from_millis(2) };
                match found.recv_timeout(wait) {
                    Ok(found) => self.receive(found, pool),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(Error::failed("the reader thread has failed"));
                    }
                }
            } else {
                self.wait_for_first()?;
            }
            if tick.elapsed() >= TICK {
                tick = Instant::now();
                self.take_pieces(found, pool);
                self.save_progress()?;
                let view = match watch() {
                    Ok(view) => view,
                    Err(e) if stopped.is_none() => {
                        stop.store(true, Ordering::Relaxed);
                        stopped = Some((Instant::now(), Err(e)));
                        self.cancelled = true;
                        continue;
                    }
                    Err(_) => continue,
                };
                if let Some(event) = notes.as_mut().and_then(|notes| notes.next(&view)) {
                    self.sink.writer.note(&event);
                }
                // Only time spent waiting for the disk counts.
                let silent = view.reading.map_or(Duration::ZERO, |_| view.last_good.elapsed());
                if stopped.is_none() && limits.timeout.is_some_and(|most| silent > most) {
                    stop.store(true, Ordering::Relaxed);
                    stopped = Some((Instant::now(), Ok(End::Timeout)));
                }
            }
        }
        if let Some((_, why)) = stopped
            && !matches!(self.end, Some(End::Dead | End::Unreadable | End::Gone))
        {
            self.end = Some(why?);
        }
        Ok(())
    }

    /// Takes the pieces that were read before a read that is still pending, after everything that was sent before them.
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
            Found::Bytes(start, raw) => {
                self.pending.push_back(Pending::Compression(pool.compress(start, raw)))
            }
            other => {
                self.ending |= matches!(other, Found::End(_));
                self.pending.push_back(Pending::Found(other));
            }
        }
    }

    /// Processes the results that are ready, in order.
    fn process_ready(&mut self) -> Result<(), Error> {
        while let Some(first) = self.pending.pop_front() {
            match first {
                Pending::Found(found) => self.process(found)?,
                Pending::Compression(result) => match result.try_recv() {
                    Ok(bytes) => self.put(bytes)?,
                    Err(TryRecvError::Empty) => {
                        self.pending.push_front(Pending::Compression(result));
                        return Ok(());
                    }
                    Err(_) => return Err(Error::failed("a compression thread has failed")),
                },
            }
        }
        Ok(())
    }

    fn wait_for_first(&mut self) -> Result<(), Error> {
        match self.pending.pop_front() {
            None => thread::sleep(Duration::from_millis(2)),
            Some(Pending::Found(found)) => self.process(found)?,
            Some(Pending::Compression(result)) => match result.recv_timeout(TICK) {
                Ok(bytes) => self.put(bytes)?,
                Err(RecvTimeoutError::Timeout) => self.pending.push_front(Pending::Compression(result)),
                Err(_) => return Err(Error::failed("a compression thread has failed")),
            },
        }
        Ok(())
    }

    fn put(&mut self, bytes: Bytes) -> Result<(), Error> {
        let disk = bytes.start..bytes.start + bytes.raw.len() as u64;
        self.sink.bytes(bytes)?;
        self.show(disk);
        Ok(())
    }

    /// From now on, `disk` is read from the image.
    fn show(&self, disk: Range<u64>) {
        if let Some(live) = &self.live {
            live.held(disk);
        }
    }

    fn process(&mut self, found: Found) -> Result<(), Error> {
        match found {
            Found::Hole(disk) => {
                self.sink.fill(disk.clone(), [0; 8])?;
                self.show(disk);
            }
            Found::MapChanges(changes) => {
                for area in changes {
                    self.sink.writer.set_status(area)?;
                    if let Some(live) = &self.live {
                        live.set(area);
                    }
                    let hull = self.changed.take().unwrap_or(area.start..area.end);
                    self.changed = Some(hull.start.min(area.start)..hull.end.max(area.end));
                }
            }
            Found::Event(event) => {
                let error = event["event"] == "read-error";
                self.error_count += u32::from(error);
                if error && self.error_count > MAX_EVENTS {
                    self.unlogged_errors += 1;
                } else {
                    self.sink.writer.note(&event);
                }
            }
            Found::Checkpoint(written) => {
                self.make_checkpoint()?;
                // The reader may have exited.
                let _ = written.send(());
            }
            Found::End(end) => self.end = Some(end),
            Found::Bytes(..) => debug_assert!(false, "bytes must be compressed first"),
        }
        Ok(())
    }

    fn note_unlogged_errors(&mut self) {
        if self.unlogged_errors > 0 {
            let event = event("read-errors", json!({ "count": self.unlogged_errors }));
            self.sink.writer.note(&event);
        }
    }

    /// Makes a checkpoint if one is due; otherwise writes new data and the changes of the map.
    fn save_progress(&mut self) -> Result<(), Error> {
        if self.checkpoint.elapsed() >= CHECKPOINT_AFTER {
            return self.make_checkpoint();
        }
        match self.changed.take() {
            Some(range) => {
                if !self.sink.writer.write_map_update(range.clone())? {
                    self.changed = Some(range);
                    self.sink.writer.write_out()?;
                }
            }
            None => self.sink.writer.write_out()?,
        }
        Ok(())
    }

    fn make_checkpoint(&mut self) -> Result<(), Error> {
        self.note_unlogged_errors();
        (self.checkpoint, self.error_count, self.unlogged_errors) = (Instant::now(), 0, 0);
        self.changed = None;
        self.sink.writer.checkpoint()
    }
}
