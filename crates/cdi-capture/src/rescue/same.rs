//! Whether a disk is the one that an unfinished image is of: some places of it are compared.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use cdi_base::error::Error;
use cdi_base::units::index;
use cdi_base::workers;
use cdi_image::disk::Disk;
use cdi_image::extent::Origin;
use cdi_system::random;

use super::source::Source;
use crate::buffer::Buffer;

/// How many places are compared.
const PLACES: u64 = 16;
/// How much of each, in bytes, and where it begins: at a multiple of this. No disk has larger sectors but a few.
const BLOCK: u64 = 4096;
/// How many extents of the image are looked at to find bytes that are not all the same, and how many of them are uncompressed.
const LOOKED_AT: usize = 1 << 17;
const UNCOMPRESSED: usize = 64;
/// How long the disk may take for all of them. One that hangs tells nothing.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Compares a few places that `image` holds with `source`. Where the disk cannot be read nothing is said; a difference is an
/// error. `step` is called some times a second, and may end it with an error.
pub fn compare(
    image: &Disk,
    source: &Arc<Source>,
    step: &mut dyn FnMut() -> Result<(), Error>,
) -> Result<(), Error> {
    let places = places(image, source.metadata().size)?;
    let (send, receive) = channel();
    let reader = Arc::clone(source);
    let wanted: Vec<u64> = places.iter().map(|(at, _)| *at).collect();
    // A read that hangs is left to itself.
    workers::spawn("comparing", move || {
        for at in wanted {
            let mut buffer = Buffer::default();
            buffer.set_len(index(BLOCK));
            let whole = reader.read_at(&mut buffer, at).is_ok_and(|n| n == buffer.len());
            if send.send(whole.then(|| buffer.to_vec())).is_err() {
                return;
            }
        }
    })?;
    let start = Instant::now();
    for (at, expect) in &places {
        let read = loop {
            step()?;
            match receive.recv_timeout(Duration::from_millis(50)) {
                Ok(read) => break read,
                Err(RecvTimeoutError::Timeout) if start.elapsed() < TIMEOUT => {}
                Err(_) => return Ok(()),
            }
        };
        if read.is_some_and(|read| read != *expect) {
            let what =
                format!("has other bytes at byte {at} than the image: it is another disk, or was written to");
            return Err(Error::usage(what)
                .at(source.path())
                .hint("nothing was changed; a new image of this disk needs a file of its own"));
        }
    }
    Ok(())
}

/// Chooses blocks that the image holds and that say something, and gives them with where they are.
fn places(image: &Disk, source_size: u64) -> Result<Vec<(u64, Vec<u8>)>, Error> {
    let finished: Vec<Range<u64>> = {
        // What is suspect may be another's.
        let size = image.size().min(source_size);
        let mut at = 0;
        let mut runs = Vec::new();
        for r in image.bad().ranges() {
            runs.push(at..r.start.min(size));
            at = r.end;
        }
        runs.push(at..size);
        let whole = runs.into_iter().map(|r| r.start.next_multiple_of(BLOCK)..r.end - r.end % BLOCK);
        whole.filter(|r| r.start < r.end).collect()
    };
    let total: u64 = finished.iter().map(|r| r.end - r.start).sum();
    let random = random()?;
    let mut places: Vec<(u64, Vec<u8>)> = Vec::new();
    for n in 0..PLACES.min(total / BLOCK) {
        // The first blocks have the disk's identity in them; the others are anywhere in a part of their own.
        let part = total / PLACES.min(total / BLOCK);
        let by = if n == 0 { 0 } else { u64::from(random[index(n)]) * part / 256 };
        let mut skip = n * part + by;
        let run = finished.iter().position(|r| {
            let here = skip < r.end - r.start;
            if !here {
                skip -= r.end - r.start;
            }
            here
        });
        let Some(run) = run else { continue };
        let from = finished[run].start + skip - skip % BLOCK;
        // Where nothing says more, what is there: that it is zeros, too, is something.
        let place = telling(image, from..finished[run].end).or_else(|| block(image, from));
        if let Some(place) = place.filter(|(at, _)| places.iter().all(|(other, _)| other != at)) {
            places.push(place);
        }
    }
    Ok(places)
}

/// The first block of a range whose bytes are not all the same, as far as is looked.
fn telling(image: &Disk, range: Range<u64>) -> Option<(u64, Vec<u8>)> {
    let mut uncompressed = 0;
    for extent in image.extents(range.clone()).take(LOOKED_AT) {
        let extent = extent.ok()?;
        if matches!(extent.origin, Origin::Fill(_) | Origin::Unread) {
            continue;
        }
        let at = extent.disk.start.next_multiple_of(BLOCK);
        uncompressed += 1;
        if at + BLOCK > range.end || uncompressed > UNCOMPRESSED {
            return None;
        }
        if let Some(place) = block(image, at).filter(|(_, bytes)| bytes.iter().any(|b| *b != bytes[0])) {
            return Some(place);
        }
    }
    None
}

/// The block at `at`, if the image can give it.
fn block(image: &Disk, at: u64) -> Option<(u64, Vec<u8>)> {
    let mut bytes = vec![0; index(BLOCK)];
    image.read_at(&mut bytes, at).ok().map(|()| (at, bytes))
}
