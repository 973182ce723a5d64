//! What the calling thread does while a disk is imaged.

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

use super::pool::Pool;
use super::progress::View;
use super::reader::{End, Found, Pieces};
use super::{Limits, event};
use crate::compress::Bytes;
use crate::image_sink::ImageSink;

/// So long after a checkpoint there is another one.
const CHECKPOINT_AFTER: Duration = Duration::from_secs(30);
/// How often what was read, and what could not be, goes to the file, so that a program which is killed loses no more.
const TICK: Duration = Duration::from_millis(20);
/// How long a read that is under way is waited for when all is to end.
const TIMEOUT: Duration = Duration::from_secs(4);
/// How many errors are told one by one between two checkpoints.
const MAX_EVENTS: u32 = 1000;

/// What was found, in its order, on its way to the sink.
enum Pending {
    Compression(Receiver<Bytes>),
    Found(Found),
}

/// The thread that waits for all others: it takes what was read, in its order, and writes.
pub(super) struct Coordinator<'a> {
    sink: ImageSink<'a>,
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
    /// Whether the watching caller wanted it to end.
    asked: bool,
}

impl<'a> Coordinator<'a> {
    /// Begins, with what the reader gathers its small pieces in.
    pub(super) fn new(sink: ImageSink<'a>, pieces: &Arc<Mutex<Pieces>>) -> Coordinator<'a> {
        Coordinator {
            sink,
            pieces: Arc::clone(pieces),
            pending: VecDeque::new(),
            end: None,
            ending: false,
            changed: None,
            checkpoint: Instant::now(),
            events: 0,
            uncounted: 0,
            asked: false,
        }
    }

    /// Whether the caller that watches ended it, and not a failure.
    pub(super) fn is_asked_to_end(&self) -> bool {
        self.asked
    }

    /// What was written to, and why the reading ended.
    pub(super) fn finish(mut self) -> (ImageSink<'a>, Option<End>) {
        self.note_uncounted();
        (self.sink, self.end)
    }

    /// Until the reader has come to an end, or somebody wants one.
    pub(super) fn go(
        &mut self,
        found: &Receiver<Found>,
        pool: &Pool,
        stop: &AtomicBool,
        limits: &Limits,
        watch: &mut dyn FnMut() -> Result<View, Error>,
    ) -> Result<(), Error> {
        let depth = 4 * workers::cores();
        let mut tick = Instant::now();
        // Since when all is to end, and why.
        let mut stopped: Option<(Instant, Result<End, Error>)> = None;
        loop {
            self.take_finished()?;
            let waited_enough = stopped.as_ref().is_some_and(|(since, _)| since.elapsed() > TIMEOUT);
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
                        self.asked = true;
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
            Found::Bytes(start, raw) => {
                self.pending.push_back(Pending::Compression(pool.compress(start, raw)))
            }
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
                Pending::Compression(result) => match result.try_recv() {
                    Ok(bytes) => self.sink.bytes(bytes)?,
                    Err(TryRecvError::Empty) => {
                        self.pending.push_front(Pending::Compression(result));
                        return Ok(());
                    }
                    Err(_) => return Err(Error::failed("a thread that compresses has failed")),
                },
            }
        }
        Ok(())
    }

    fn wait_for_first(&mut self) -> Result<(), Error> {
        match self.pending.pop_front() {
            None => thread::sleep(Duration::from_millis(2)),
            Some(Pending::Found(found)) => self.take(found)?,
            Some(Pending::Compression(result)) => match result.recv_timeout(TICK) {
                Ok(bytes) => self.sink.bytes(bytes)?,
                Err(RecvTimeoutError::Timeout) => self.pending.push_front(Pending::Compression(result)),
                Err(_) => return Err(Error::failed("a thread that compresses has failed")),
            },
        }
        Ok(())
    }

    fn take(&mut self, found: Found) -> Result<(), Error> {
        match found {
            Found::Hole(disk) => self.sink.fill(disk, [0; 8])?,
            Found::ReplayedState(changes) => {
                for what in changes {
                    self.sink.writer.set_status(what)?;
                    let hull = self.changed.take().unwrap_or(what.start..what.end);
                    self.changed = Some(hull.start.min(what.start)..hull.end.max(what.end));
                }
            }
            Found::Event(event) => {
                let error = event["event"] == "read-error";
                self.events += u32::from(error);
                if error && self.events > MAX_EVENTS {
                    self.uncounted += 1;
                } else {
                    self.sink.writer.note(&event);
                }
            }
            Found::End(end) => self.end = Some(end),
            Found::Bytes(..) => debug_assert!(false, "bytes are compressed first"),
        }
        Ok(())
    }

    fn note_uncounted(&mut self) {
        if self.uncounted > 0 {
            let event = event("read-errors", json!({ "count": self.uncounted }));
            self.sink.writer.note(&event);
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
                if !self.sink.writer.write_map_update(range.clone())? {
                    self.changed = Some(range);
                    self.sink.writer.write_out()?;
                }
            }
            None => self.sink.writer.write_out()?,
        }
        Ok(())
    }
}
