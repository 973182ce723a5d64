//! A read of the disk, with what the disk says about it if it fails: why, and which sector was the first that failed.
//!
//! Adapters may say something wrong. So what comes before a sector that was named is read again, and the first sectors that are
//! named are read alone, and some of the others; a disk that has named one that can be read is not believed any more, and
//! those that it has named are read alone.

use std::thread;
use std::time::Duration;

use cdi_base::advice::Advice;
use cdi_base::error::Error;
use cdi_base::units::index;
use cdi_base::workers::lock;
use cdi_image::badmap::Reason;
use serde_json::json;

use super::event;
use super::reader::{CoordinatorGone, End, Found, Reader};
use super::source::{FailedRead, Failure};

/// The maximum number of retries of a read with a temporary error, such as lack of memory, and the pause between them.
const MAX_AGAIN: u32 = 100;
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How many sectors that were named are read alone before the disk is believed, and of how many one after that.
const TRIALS: u32 = 3;
const EVERY: u32 = 32;

/// Whether the disk names the sectors that fail.
#[derive(Debug, Clone, Copy)]
pub(super) enum Naming {
    /// It was right so often.
    Right(u32),
    /// It was wrong.
    Wrong,
}

/// Why a read has failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Why {
    pub reason: Reason,
    /// Whether the sector after what could be read is the first that cannot.
    pub located: bool,
}

/// The number of bytes that could be read, in whole sectors, and why they are not all; or why the imaging ends.
type Got = Result<(u64, Option<Why>), End>;

impl Reader {
    /// Fills `buffer` from offset `at`.
    pub(super) fn read_disk(&mut self, buffer: &mut [u8], at: u64) -> Result<Got, CoordinatorGone> {
        let (good, failed) = match self.pread(buffer, at) {
            Ok((good, Some(failed))) => (good, failed),
            Ok((good, None)) => return Ok(Ok((good, None))),
            Err(end) => return Ok(Err(end)),
        };
        self.source.ask_why();
        let Some(sense) = failed.sense else {
            let errno = failed.error.raw_os_error().map_or(nix::libc::EIO, i32::abs);
            let reason = Reason::errno(errno.unsigned_abs());
            return Ok(Ok((good, Some(Why { reason, located: false }))));
        };
        let reason = Reason::Sense { key: sense.key, asc: sense.asc, ascq: sense.ascq };
        let unknown = Why { reason, located: false };
        let sector = u64::from(self.source.metadata().logical);
        let end = at + buffer.len() as u64;
        let named = sense.sector.and_then(|number| number.checked_mul(sector));
        let unit = self.passes.plan().unit;
        let named = named.filter(|named| (at + good..end).contains(named) && end - at > unit);
        // A drive reads whole physical sectors.
        let named = named.map(|named| (named - named % unit).max(at));
        let (Some(named), Naming::Right(times)) = (named, self.naming) else {
            return Ok(Ok((good, Some(unknown))));
        };
        // What a failed command has transferred is not relied on.
        let before = index(named - at);
        let again =
            if named > at + good { self.pread(&mut buffer[..before], at) } else { Ok((named - at, None)) };
        match again {
            Ok((_, None)) => {}
            Ok((good, Some(_))) => return self.was_wrong(named).map(|()| Ok((good, Some(unknown)))),
            Err(end) => return Ok(Err(end)),
        }
        self.naming = Naming::Right(times.saturating_add(1));
        if times < TRIALS || times.is_multiple_of(EVERY) {
            let after = index((named + unit).min(end) - at);
            lock(&self.view).errors += 1;
            match self.pread(&mut buffer[before..after], named) {
                Ok((_, None)) => {
                    lock(&self.view).errors -= 1;
                    return self.was_wrong(named).map(|()| Ok((after as u64, Some(unknown))));
                }
                Ok(_) => {}
                Err(end) => return Ok(Err(end)),
            }
        }
        Ok(Ok((named - at, Some(Why { reason, located: true }))))
    }

    /// Notes that the disk has named the wrong sector.
    fn was_wrong(&mut self, named: u64) -> Result<(), CoordinatorGone> {
        self.naming = Naming::Wrong;
        self.passes.distrust();
        self.send(Found::Event(event("wrong-sector-named", json!({ "offset_bytes": named }))))
    }

    /// Fills `buffer` from offset `at`. Returns the number of bytes read, in whole sectors, and the failure if these are not all.
    fn pread(&self, buffer: &mut [u8], at: u64) -> Result<(u64, Option<FailedRead>), End> {
        let (mut done, mut again) = (0, 0);
        while done < buffer.len() {
            let failed = match self.source.read_at(&mut buffer[done..], at + done as u64) {
                Ok(0) => return Err(End::Gone),
                Ok(n) => {
                    done += n;
                    continue;
                }
                Err(e) => e,
            };
            match Failure::of(&failed.error) {
                Failure::Again if again < MAX_AGAIN => {
                    again += 1;
                    if failed.error.kind() != std::io::ErrorKind::Interrupted {
                        thread::sleep(RETRY_PAUSE);
                    }
                }
                Failure::Bad(_) => {
                    if !self.source.is_there() {
                        return Err(End::Gone);
                    }
                    let sector = self.passes.plan().sector;
                    let done = done as u64;
                    return Ok((done - done % sector, Some(failed)));
                }
                Failure::Gone => return Err(End::Gone),
                Failure::Invalid(_) => {
                    let what = format!(
                        "cannot read {} bytes at byte {}: is the sector size correct ({})?",
                        buffer.len(),
                        at,
                        self.passes.plan().sector
                    );
                    let error = Error::failed(what).at(self.source.path()).because(failed.error);
                    return Err(End::Failed(error.hint(Advice::SectorSize)));
                }
                Failure::Again => {
                    let error = Error::failed("cannot read").at(self.source.path());
                    return Err(End::Failed(error.because(failed.error)));
                }
            }
        }
        Ok((done as u64, None))
    }
}
