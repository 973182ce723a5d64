//! The thread that reads the disk. Nothing else does, so that a read which hangs holds up nothing else.

use cdi_base::workers::lock;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cdi_base::advice::Advice;
use cdi_base::error::Error;
use cdi_base::units::index;
use cdi_image::badmap::cells::cells;
use cdi_image::badmap::{BadRange, Reason};
use serde_json::{Value, json};

use super::event;
use super::passes::{Next, Outcome, Pass, Passes, Read};
use super::progress::{CELLS, View};
use super::source::{Failure, Source};
use crate::buffer::Buffer;
use crate::compress::Shared;

/// What the reader has found, in the order in which it was.
pub(super) enum Found {
    /// Bytes of the disk.
    Bytes(u64, Buffer),
    /// Zeros that are a hole in a file.
    Hole(Range<u64>),
    /// What is known now of sectors that could not be read.
    ReplayedState(Vec<BadRange>),
    /// Something for the log.
    Event(Value),
    /// The reader has ended.
    End(End),
}

/// Why the reading ended.
#[derive(Debug)]
pub enum End {
    /// All passes are done.
    Finished,
    /// Somebody wanted it to.
    Stopped,
    /// More reads failed than are allowed.
    TooManyErrors,
    /// Nothing was read for too long.
    Timeout,
    /// The disk is not there any more.
    Gone,
    /// The drive does not read any more what it has read before.
    Dead,
    /// It cannot be read like this.
    Failed(Error),
}

impl End {
    /// In one word, for events and JSON.
    pub fn name(&self) -> &'static str {
        match self {
            End::Finished => "finished",
            End::Stopped => "interrupted",
            End::TooManyErrors => "too-many-errors",
            End::Timeout => "timeout",
            End::Gone => "gone",
            End::Dead => "dead",
            End::Failed(_) => "failed",
        }
    }
}

/// A read that takes longer is told in the log.
const SLOW: Duration = Duration::from_secs(1);
/// How often the map that people see is made anew.
const SEEN: Duration = Duration::from_millis(300);
/// How often a read is done again that failed for want of memory, and the pause between.
const AGAIN: u32 = 100;
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Reader {
    pub source: Arc<Source>,
    pub passes: Passes,
    pub shared: Arc<Shared>,
    pub view: Arc<Mutex<View>>,
    pub stop: Arc<AtomicBool>,
    pub found: SyncSender<Found>,
    /// How many reads may fail.
    pub max_errors: Option<u64>,
    /// Small pieces that were read one beside the other and are not handed on yet. Whoever waits for the reader may take
    /// them, with the lock held until all that was sent before is taken, too.
    pub run: Arc<Mutex<Pieces>>,
}

/// Nobody listens any more.
struct CoordinatorGone;

impl Reader {
    /// Reads until there is an end.
    pub(super) fn run(mut self) {
        if let Ok(end) = self.read_all() {
            let _ = self.hand_on_run();
            {
                let mut view = lock(&self.view);
                view.reading = None;
                view.count(self.passes.areas());
                self.draw(&mut view);
            }
            let _ = self.found.send(Found::End(end));
        }
    }

    fn draw(&self, view: &mut View) {
        view.cells = cells(self.passes.areas().iter(), self.passes.plan().size, CELLS);
    }

    fn read_all(&mut self) -> Result<End, CoordinatorGone> {
        let mut errors = 0;
        let mut pass = Pass::Finished;
        let mut seen: Option<Instant> = None;
        let mut ending: Option<End> = None;
        loop {
            if ending.is_none() && self.stop.load(Ordering::Relaxed) {
                ending = Some(End::Stopped);
            }
            // Errors that came last may have been the drive's end; before that is known they are not left as they are.
            if ending.is_some() && !self.passes.settle() {
                self.write_map_changes()?;
                return Ok(ending.take().unwrap_or(End::Stopped));
            }
            let next = self.passes.next_read();
            self.write_map_changes()?;
            let read = match next {
                Next::Read(read) => read,
                Next::Finished => return Ok(End::Finished),
                Next::Dead => return Ok(End::Dead),
            };
            if self.passes.pass().0 != pass {
                pass = self.passes.pass().0;
                self.send(Found::Event(event("pass", json!({ "pass": pass.name() }))))?;
            }
            let now = Instant::now();
            {
                let mut view = lock(&self.view);
                (view.pass, view.at, view.reading) = (self.passes.pass(), read.range.start, Some(now));
                if seen.is_none_or(|at| now - at > SEEN) {
                    seen = Some(now);
                    self.draw(&mut view);
                }
                view.count(self.passes.areas());
            }
            if let Err(end) = self.read(&read, now)? {
                return Ok(end);
            }
            let failed = lock(&self.view).errors;
            if failed > errors {
                errors = failed;
                if self.max_errors.is_some_and(|most| errors > most) {
                    ending = Some(End::TooManyErrors);
                }
            }
        }
    }

    /// Does a read, and hands on what came of it.
    fn read(&mut self, read: &Read, start: Instant) -> Result<Result<(), End>, CoordinatorGone> {
        if let Some(to) = self.source.hole_to(read.range.start).filter(|to| *to >= read.range.end) {
            let hole = self.passes.stretched(read, to);
            let len = hole.range.end - hole.range.start;
            self.passes.got(&hole, &Outcome { good: len, reason: None, took: Duration::ZERO });
            self.hand_on_run()?;
            self.was_good(len);
            return self.send(Found::Hole(hole.range)).map(Ok);
        }
        let mut buffer = self.shared.buffer(index(read.range.end - read.range.start));
        let outcome = self.pread(&mut buffer, read.range.start);
        lock(&self.view).reading = None;
        let (good, reason) = match outcome {
            Ok(outcome) => outcome,
            Err(end) => return Ok(Err(end)),
        };
        let took = start.elapsed();
        let failed = reason.is_some();
        self.passes.got(read, &Outcome { good, reason, took });
        if failed {
            lock(&self.view).errors += u64::from(!read.check);
            let errno = match reason {
                Some(Reason::Errno(errno)) => errno.get(),
                _ => 0,
            };
            self.read_event("read-error", json!({ "errno": errno, "check": read.check }), (read, took))?;
        } else if took >= SLOW {
            self.read_event("slow", json!({}), (read, took))?;
        }
        if good > 0 && !read.check {
            self.was_good(good);
            buffer.set_len(index(good));
            self.hand_on(read.range.start, buffer)?;
        }
        if failed {
            self.hand_on_run()?;
        }
        Ok(Ok(()))
    }

    fn was_good(&self, bytes: u64) {
        let mut view = lock(&self.view);
        view.read += bytes;
        view.last_good = Instant::now();
    }

    /// Fills `buffer` from `at`: how many bytes in whole sectors were read, and why not all.
    fn pread(&self, buffer: &mut [u8], at: u64) -> Result<(u64, Option<Reason>), End> {
        let (mut done, mut again) = (0, 0);
        while done < buffer.len() {
            let e = match self.source.read_at(&mut buffer[done..], at + done as u64) {
                Ok(0) => return Err(End::Gone),
                Ok(n) => {
                    done += n;
                    continue;
                }
                Err(e) => e,
            };
            match Failure::of(&e) {
                Failure::Again if again < AGAIN => {
                    again += 1;
                    if e.kind() != std::io::ErrorKind::Interrupted {
                        thread::sleep(PAUSE);
                    }
                }
                Failure::Bad(errno) => {
                    if !self.source.is_there() {
                        return Err(End::Gone);
                    }
                    let sector = self.passes.plan().sector;
                    let done = done as u64;
                    return Ok((done - done % sector, Some(Reason::errno(errno))));
                }
                Failure::Gone => return Err(End::Gone),
                Failure::Ours(_) => {
                    let what = format!(
                        "a read of {} bytes at {} is not possible: is the sector size right ({})?",
                        buffer.len(),
                        at,
                        self.passes.plan().sector
                    );
                    let error = Error::failed(what).at(self.source.path()).because(e);
                    return Err(End::Failed(error.hint(Advice::SectorSize)));
                }
                Failure::Again => {
                    return Err(End::Failed(
                        Error::failed("cannot be read").at(self.source.path()).because(e),
                    ));
                }
            }
        }
        Ok((done as u64, None))
    }

    /// Hands bytes on to be compressed; small pieces that adjoin within a chunk go together.
    fn hand_on(&mut self, start: u64, buffer: Buffer) -> Result<(), CoordinatorGone> {
        let chunk = u64::from(self.shared.options.chunk);
        let end = start + buffer.len() as u64;
        if start / chunk != (end - 1) / chunk || buffer.len() as u64 == chunk {
            self.hand_on_run()?;
            return self.send(Found::Bytes(start, buffer));
        }
        let fits = lock(&self.run).as_ref().is_none_or(|(from, bytes)| {
            *from / chunk == start / chunk && (*from + bytes.len() as u64 == start || end == *from)
        });
        if !fits {
            self.hand_on_run()?;
        }
        match &mut *lock(&self.run) {
            Some((from, bytes)) if end == *from => {
                bytes.splice(0..0, buffer.iter().copied());
                *from = start;
            }
            Some((_, bytes)) => bytes.extend_from_slice(&buffer),
            none => *none = Some((start, buffer.to_vec())),
        }
        self.shared.give_back(buffer, Vec::new());
        Ok(())
    }

    fn hand_on_run(&mut self) -> Result<(), CoordinatorGone> {
        let run = lock(&self.run).take();
        match run {
            Some((start, bytes)) => self.send(Found::Bytes(start, bytes.into())),
            None => Ok(()),
        }
    }

    fn write_map_changes(&mut self) -> Result<(), CoordinatorGone> {
        let changes = self.passes.changes();
        if changes.is_empty() { Ok(()) } else { self.send(Found::ReplayedState(changes)) }
    }

    /// Tells of a read that took so long.
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

    fn send(&self, found: Found) -> Result<(), CoordinatorGone> {
        let start = Instant::now();
        self.found.send(found).map_err(|_| CoordinatorGone)?;
        // That nobody took it is not the disk's fault.
        let waited = start.elapsed();
        if waited > Duration::from_millis(1) {
            lock(&self.view).last_good += waited;
        }
        Ok(())
    }
}

/// Bytes that were read one beside the other, and where the first is.
pub(super) type Pieces = Option<(u64, Vec<u8>)>;
