//! The thread that reads the disk. No other thread does, so that a hung read blocks nothing else.

use cdi_base::workers::lock;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cdi_base::error::Error;
use cdi_base::units::index;
use cdi_image::badmap::cells::cells;
use cdi_image::badmap::{BadRange, Reason};
use serde_json::{Value, json};

use super::demands::Turns;
use super::event;
use super::first::stages::Stages;
use super::live::LiveDisk;
use super::passes::{Next, Outcome, Pass, Passes, Read, Why};
use super::progress::{CELLS, View};
use super::source::Source;
use super::why::Naming;
use crate::buffer::Buffer;
use crate::compress::Shared;

/// A result of the reader. Results are sent in order.
pub(super) enum Found {
    /// Bytes of the disk.
    Bytes(u64, Buffer),
    /// Zeros from a hole in the source file.
    Hole(Range<u64>),
    /// Changes of the map: the new status of unfinished ranges.
    MapChanges(Vec<BadRange>),
    /// An event for the log.
    Event(Value),
    /// Everything so far is to be written to the file, and this answered.
    Checkpoint(SyncSender<()>),
    /// The reader has ended.
    End(End),
}

/// Why the reading ended.
#[derive(Debug)]
pub enum End {
    /// All passes are done.
    Finished,
    /// Stopped on request.
    Stopped,
    /// More reads failed than are allowed.
    TooManyErrors,
    /// No successful read for too long.
    Timeout,
    /// The disk is gone.
    Gone,
    /// The drive can no longer read what it could read before.
    Dead,
    /// The drive has returned an error for every read.
    Unreadable,
    /// The disk cannot be read with these parameters.
    Failed(Error),
}

impl End {
    /// Returns the name of the reason, for events and JSON.
    pub fn name(&self) -> &'static str {
        match self {
            End::Finished => "finished",
            End::Stopped => "interrupted",
            End::TooManyErrors => "too-many-errors",
            End::Timeout => "timeout",
            End::Gone => "gone",
            End::Dead => "dead",
            End::Unreadable => "unreadable",
            End::Failed(_) => "failed",
        }
    }
}

/// The duration from which a read is logged as slow.
const SLOW: Duration = Duration::from_secs(1);
/// The interval at which the displayed map is updated.
const REDRAW_EVERY: Duration = Duration::from_millis(300);

pub(super) struct Reader {
    pub source: Arc<Source>,
    pub passes: Passes,
    pub stages: Stages,
    pub shared: Arc<Shared>,
    pub view: Arc<Mutex<View>>,
    pub stop: Arc<AtomicBool>,
    pub found: SyncSender<Found>,
    /// The maximum number of failed reads.
    pub max_errors: Option<u64>,
    /// Adjacent small pieces that are not sent yet. The coordinator may take them, but must hold the lock until it
    /// has also received everything that was sent before.
    pub pieces: Arc<Mutex<Pieces>>,
    /// The disk as it is shown meanwhile, and whose turn it is: that of the programs that read it, or of the passes.
    pub live: Option<Arc<LiveDisk>>,
    pub turns: Turns,
    /// Why the imaging ends, if that was found out during a scan.
    pub ended: Option<End>,
    /// Whether the disk names the sectors that fail.
    pub naming: Naming,
}

/// The coordinator has exited.
pub(super) struct CoordinatorGone;

impl Reader {
    /// Reads until the imaging ends, and sends the reason.
    pub(super) fn run(mut self) {
        if let Ok(end) = self.read_all() {
            let _ = self.send_pieces();
            {
                let mut view = lock(&self.view);
                view.reading = None;
                view.count(&self.passes);
                self.update_cells(&mut view);
            }
            let _ = self.found.send(Found::End(end));
        }
    }

    fn update_cells(&self, view: &mut View) {
        view.cells = cells(self.passes.unfinished(), self.passes.plan().size, CELLS);
    }

    /// Logs the dead head whose bands are left out.
    fn tell_dead_head(&mut self) -> Result<(), CoordinatorGone> {
        let Some(head) = self.passes.dead_head() else { return Ok(()) };
        lock(&self.view).count(&self.passes);
        self.send(Found::Event(event("dead-head", head.json())))
    }

    fn read_all(&mut self) -> Result<End, CoordinatorGone> {
        let mut errors = 0;
        let mut pass = Pass::Finished;
        let mut drawn: Option<Instant> = None;
        let mut ending: Option<End> = None;
        loop {
            if let Some(end) = self.ended.take() {
                return Ok(end);
            }
            if ending.is_none() && self.stop.load(Ordering::Relaxed) {
                ending = Some(End::Stopped);
            }
            let failed = lock(&self.view).errors;
            if ending.is_none() && failed > errors {
                errors = failed;
                if self.max_errors.is_some_and(|max| errors > max) {
                    ending = Some(End::TooManyErrors);
                }
            }
            // The last errors may be due to a dead drive. Find out before ending, so that they can be reverted.
            if ending.is_some() && !self.passes.settle() {
                self.send_map_changes()?;
                return Ok(ending.take().unwrap_or(End::Stopped));
            }
            if ending.is_none() && self.stages.are_due(&self.passes) && !self.passes.settle() {
                self.next_stage()?;
                pass = Pass::Finished;
                continue;
            }
            if ending.is_none() {
                match self.answer_demand()? {
                    Ok(false) => {}
                    Ok(true) => continue,
                    Err(end) => return Ok(end),
                }
            }
            let next = self.passes.next_read();
            self.send_map_changes()?;
            let read = match next {
                Next::Read(read) => read,
                // The errors of a stage must not be taken for those of the next.
                Next::Finished if ending.is_none() && self.stages.are_left() && self.passes.settle() => {
                    continue;
                }
                Next::Finished if ending.is_none() && self.next_stage()? => {
                    pass = Pass::Finished;
                    continue;
                }
                Next::Finished => {
                    self.tell_dead_head()?;
                    return Ok(End::Finished);
                }
                Next::Dead => return Ok(End::Dead),
                Next::Unreadable => return Ok(End::Unreadable),
            };
            if self.passes.pass().0 != pass {
                pass = self.passes.pass().0;
                self.send(Found::Event(event("pass", json!({ "pass": pass.name() }))))?;
            }
            let now = Instant::now();
            {
                let mut view = lock(&self.view);
                (view.pass, view.at, view.reading) = (self.passes.pass(), read.range.start, Some(now));
                if drawn.is_none_or(|at| now - at > REDRAW_EVERY) {
                    drawn = Some(now);
                    self.update_cells(&mut view);
                }
                view.count(&self.passes);
            }
            if let Err(end) = self.read(&read, now)? {
                return Ok(end);
            }
            self.turns.pass_took(now.elapsed());
        }
    }

    /// Performs a read and sends its result. Returns the bytes that were read, if a program asked for them.
    pub(super) fn read(
        &mut self,
        read: &Read,
        start: Instant,
    ) -> Result<Result<Vec<u8>, End>, CoordinatorGone> {
        let demanded = read.why == Why::Demand;
        if !demanded
            && let Some(to) = self.source.hole_to(read.range.start).filter(|to| *to >= read.range.end)
        {
            let hole = self.passes.stretched(read, to);
            let len = hole.range.end - hole.range.start;
            self.passes.got(&hole, &Outcome { good: len, ..Outcome::default() });
            self.send_pieces()?;
            self.count_good(len);
            return self.send(Found::Hole(hole.range)).map(|()| Ok(Vec::new()));
        }
        let mut buffer = self.shared.buffer(index(read.range.end - read.range.start));
        let outcome = self.read_disk(&mut buffer, read.range.start)?;
        lock(&self.view).reading = None;
        let (good, failure) = match outcome {
            Ok(outcome) => outcome,
            Err(end) => return Ok(Err(end)),
        };
        let reason = failure.map(|failure| failure.reason);
        let located = failure.is_some_and(|failure| failure.located);
        let took = start.elapsed();
        let failed = reason.is_some();
        let check = read.why == Why::Check;
        self.passes.got(read, &Outcome { good, reason, located, took });
        if failed {
            self.stages.trouble = true;
            lock(&self.view).errors += u64::from(!check);
            let mut what = json!({ "check": check });
            match reason {
                Some(Reason::Sense { key, asc, ascq }) => {
                    what["sense"] = json!({ "key": key, "asc": asc, "ascq": ascq });
                }
                Some(Reason::Errno(errno)) => what["errno"] = json!(errno.get()),
                None => {}
            }
            if located {
                what["first_bad_bytes"] = json!(read.range.start + good);
            }
            self.read_event("read-error", what, (read, took))?;
        } else if took >= SLOW {
            self.stages.trouble = true;
            self.read_event("slow", json!({}), (read, took))?;
        }
        let mut copy = Vec::new();
        if good > 0 && !check {
            self.count_good(good);
            buffer.set_len(index(good));
            if demanded {
                copy = buffer.to_vec();
            }
            self.send_bytes(read.range.start, buffer)?;
        }
        if failed {
            self.send_pieces()?;
        }
        Ok(Ok(copy))
    }

    fn count_good(&self, bytes: u64) {
        let mut view = lock(&self.view);
        view.read += bytes;
        view.last_good = Instant::now();
    }

    /// Sends bytes to be compressed. Collects adjacent small pieces of a chunk and sends them together.
    fn send_bytes(&mut self, start: u64, buffer: Buffer) -> Result<(), CoordinatorGone> {
        let chunk = u64::from(self.shared.options.chunk);
        let end = start + buffer.len() as u64;
        if start / chunk != (end - 1) / chunk || buffer.len() as u64 == chunk {
            self.send_pieces()?;
            return self.send(Found::Bytes(start, buffer));
        }
        let fits = lock(&self.pieces).as_ref().is_none_or(|(from, bytes)| {
            *from / chunk == start / chunk && (*from + bytes.len() as u64 == start || end == *from)
        });
        if !fits {
            self.send_pieces()?;
        }
        match &mut *lock(&self.pieces) {
            Some((from, bytes)) if end == *from => {
                bytes.splice(0..0, buffer.iter().copied());
                *from = start;
            }
            Some((_, bytes)) => bytes.extend_from_slice(&buffer),
            empty => *empty = Some((start, buffer.to_vec())),
        }
        Ok(())
    }

    pub(super) fn send_pieces(&mut self) -> Result<(), CoordinatorGone> {
        let pieces = lock(&self.pieces).take();
        match pieces {
            Some((start, bytes)) => self.send(Found::Bytes(start, bytes.into())),
            None => Ok(()),
        }
    }

    pub(super) fn send_map_changes(&mut self) -> Result<(), CoordinatorGone> {
        let changes = self.passes.changes();
        if changes.is_empty() { Ok(()) } else { self.send(Found::MapChanges(changes)) }
    }

    /// Logs a read with its range and duration.
    fn read_event(
        &self,
        name: &str,
        mut what: Value,
        (read, took): (&Read, Duration),
    ) -> Result<(), CoordinatorGone> {
        what["offset_bytes"] = json!(read.range.start);
        what["length_bytes"] = json!(read.range.end - read.range.start);
        what["milliseconds"] = json!(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        self.send(Found::Event(event(name, what)))
    }

    pub(super) fn send(&self, found: Found) -> Result<(), CoordinatorGone> {
        let start = Instant::now();
        self.found.send(found).map_err(|_| CoordinatorGone)?;
        // Time spent waiting for a free slot does not count as time without a successful read.
        let waited = start.elapsed();
        if waited > Duration::from_millis(1) {
            lock(&self.view).last_good += waited;
        }
        Ok(())
    }
}

/// Adjacent bytes that were read, with the offset of the first.
pub(super) type Pieces = Option<(u64, Vec<u8>)>;
