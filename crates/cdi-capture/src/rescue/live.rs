//! The disk as it is shown while it is imaged: what was read comes from the image, what was not tried is read at once.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use cdi_base::error::{Error, ReadError};
use cdi_base::readable::{Missing, Readable};
use cdi_base::units::index;
use cdi_base::workers::lock;
use cdi_image::badmap::{BadBlocks, BadRange, Status};
use cdi_image::cdimg::writer::Writer;
use cdi_image::disk::live::Live;
use cdi_image::disk::stats::{Reads, Stats};
use cdi_image::disk::{self, BadPolicy, Disk};
use cdi_image::image::OpenOptions;
use cdi_image::input::ReadAt;
use cdi_image::metadata::Metadata;
use cdi_image::open;
use nix::errno::Errno;

use super::areas::Areas;
use super::demands::{Answer, Demands};

/// Timeout for a read. Readers that wait longer seem to hang, and take everything that waits for them with them.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A disk that is shown while it is imaged, also over several runs.
pub struct LiveDisk {
    path: PathBuf,
    size: u64,
    sector: u32,
    /// The unit of reads of the disk, in bytes: the physical sector.
    unit: u64,
    state: Mutex<State>,
    /// Something has come into the image, or has failed.
    changed: Condvar,
    pub(super) demands: Demands,
    reads: Reads,
    finished: OnceLock<Arc<Disk>>,
}

struct State {
    /// The data of the image.
    data: Arc<Disk>,
    metadata: Metadata,
    /// What is not in the image.
    areas: Areas,
}

/// What is there at a place.
enum There {
    /// The image has it up to here.
    Held(Arc<Disk>, u64),
    /// It was not tried up to here.
    Untried(u64),
    /// It has failed.
    Failed(Status),
}

impl LiveDisk {
    /// Returns the disk that `writer` images. `file` reads the file that is written, at `path`. Physical sectors have `unit`
    /// bytes. Reads of what is not in the image wait for [`super::rescue`].
    pub fn new(
        writer: &mut Writer,
        file: Box<dyn ReadAt>,
        path: &Path,
        unit: u64,
    ) -> Result<LiveDisk, Error> {
        let (sector, _) = writer.sectors();
        Ok(LiveDisk {
            path: path.to_owned(),
            size: writer.geometry().disk_size,
            sector,
            unit: unit.max(sector.into()),
            state: Mutex::new(State::of(writer, file)?),
            changed: Condvar::new(),
            demands: Demands::new(),
            reads: Reads::default(),
            finished: OnceLock::new(),
        })
    }

    /// Goes on with another run: `writer` now writes the image.
    pub fn resume(&self, writer: &mut Writer, file: Box<dyn ReadAt>) -> Result<(), Error> {
        *lock(&self.state) = State::of(writer, file)?;
        self.changed.notify_all();
        Ok(())
    }

    /// Shows the image from now on, which is complete as far as it goes; `file` reads it.
    pub fn finish(&self, file: Box<dyn ReadAt>) -> Result<(), Error> {
        self.demands.set_open(false);
        self.changed.notify_all();
        // Whatever is at its path by now.
        let opened = open::open_source(file, &self.path, &OpenOptions::default())?;
        let _ = self.finished.set(Arc::new(Disk::new(opened, disk::Options::default())));
        Ok(())
    }

    /// Notes that `range` is in the image.
    pub(super) fn held(&self, range: Range<u64>) {
        lock(&self.state).areas.finish(range);
        self.changed.notify_all();
    }

    /// Notes a change of the map.
    pub(super) fn set(&self, area: BadRange) {
        lock(&self.state).areas.set(area);
        self.changed.notify_all();
    }

    /// Returns what is at `at`, of what ends at `end`.
    fn at(&self, at: u64, end: u64) -> There {
        let state = lock(&self.state);
        match state.areas.around(at) {
            Some(area) if area.status == Status::NonTried => There::Untried(area.end.min(end)),
            Some(area) => There::Failed(area.status),
            None => {
                let stop = state.areas.after(at).map_or(end, |area| area.start.min(end));
                There::Held(Arc::clone(&state.data), stop)
            }
        }
    }

    fn read_within(&self, buf: &mut [u8], offset: u64, deadline: Instant) -> Result<(), ReadError> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.size);
        let end = end.ok_or(ReadError::PastEnd)?;
        // It fails as a whole: the disk need not be read for the rest of it.
        if let Some(failed) = self.failed(offset..end).first() {
            return Err(self.bad(failed.start.max(offset), offset, failed.status));
        }
        let mut at = offset;
        while at < end {
            let out = &mut buf[index(at - offset)..];
            at = match self.at(at, end) {
                There::Held(data, stop) => {
                    data.read_at(&mut out[..index(stop - at)], at)?;
                    stop
                }
                There::Failed(status) => return Err(self.bad(at, offset, status)),
                There::Untried(stop) => {
                    let read = self.demand(&mut out[..index(stop - at)], at, deadline);
                    at + read.map_err(|e| match e {
                        ReadError::Bad { sector, untried, .. } => {
                            ReadError::Bad { sector, good: index(at - offset), untried }
                        }
                        e => e,
                    })?
                }
            };
        }
        Ok(())
    }

    /// The error of a sector that cannot be read, in a read from `offset`.
    fn bad(&self, at: u64, offset: u64, status: Status) -> ReadError {
        let untried = !matches!(status, Status::Bad | Status::Suspect);
        ReadError::Bad { sector: at / u64::from(self.sector), good: index(at - offset), untried }
    }

    /// Has the disk read at `at`. Returns how many bytes of `out` are filled: more than 0, or none if it must be looked up again.
    fn demand(&self, out: &mut [u8], at: u64, deadline: Instant) -> Result<u64, ReadError> {
        let end = at + out.len() as u64;
        let range = at - at % self.unit..end.next_multiple_of(self.unit).min(self.size);
        let failed = |untried| Err(self.bad(at, at, if untried { Status::NonTried } else { Status::Bad }));
        let Some((number, answer)) = self.demands.add(range, at) else { return failed(true) };
        let left = deadline.saturating_duration_since(Instant::now());
        match answer.recv_timeout(left) {
            Ok(Answer::Bytes(start, bytes)) => {
                let skip = index(at.saturating_sub(start)).min(bytes.len());
                let got = bytes[skip..].len().min(out.len());
                out[..got].copy_from_slice(&bytes[skip..skip + got]);
                if got == 0 { failed(true) } else { Ok(got as u64) }
            }
            Ok(Answer::Coming) => self.wait_for(at, deadline).map(|()| 0),
            Ok(Answer::Failed { untried }) => failed(untried),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                self.demands.withdraw(number);
                Err(TIMED_OUT)
            }
            // The imaging has ended.
            Err(_) => failed(true),
        }
    }

    /// Waits until something is known about `at`.
    fn wait_for(&self, at: u64, deadline: Instant) -> Result<(), ReadError> {
        let mut state = lock(&self.state);
        while state.areas.around(at).is_some_and(|area| area.status == Status::NonTried) {
            if !self.demands.is_open() {
                return Err(self.bad(at, at, Status::NonTried));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(TIMED_OUT);
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Returns what of `range` has failed.
    fn failed(&self, range: Range<u64>) -> Vec<BadRange> {
        let mut areas = lock(&self.state).areas.within(range);
        areas.retain(|area| area.status != Status::NonTried);
        areas
    }
}

const TIMED_OUT: ReadError = ReadError::Io { errno: Errno::ETIMEDOUT as i32 };

impl State {
    fn of(writer: &mut Writer, file: Box<dyn ReadAt>) -> Result<State, Error> {
        let mut areas = Areas::default();
        writer.bad().ranges().iter().for_each(|range| areas.set(*range));
        let options = disk::Options { bad: BadPolicy::Error, ..disk::Options::default() };
        let data = Arc::new(Disk::new(writer.live(file)?, options));
        Ok(State { data, metadata: writer.metadata().clone(), areas })
    }
}

impl Readable for LiveDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector(&self) -> u32 {
        self.sector
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> Result<(), ReadError> {
        let start = Instant::now();
        let result = self.read_within(buffer, at, start + TIMEOUT);
        self.reads.note(buffer.len(), start.elapsed(), result.is_err());
        result
    }

    fn missing(&self, range: Range<u64>) -> Vec<Missing> {
        let failed = self.failed(range).into_iter();
        failed
            .map(|area| Missing { range: area.start..area.end, untried: area.status != Status::Bad })
            .collect()
    }
}

impl Live for LiveDisk {
    fn bad(&self) -> BadBlocks {
        BadBlocks::from_ordered(lock(&self.state).areas.iter().copied().collect())
    }

    fn finished(&self) -> Option<&Arc<Disk>> {
        self.finished.get()
    }

    fn image(&self) -> &Path {
        &self.path
    }

    fn metadata(&self) -> Metadata {
        lock(&self.state).metadata.clone()
    }

    fn stats(&self) -> Stats {
        self.reads.stats()
    }
}
