//! Checks whether a disk is the one that an unfinished image belongs to, by comparing some places.

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

/// The number of places that are compared.
const PLACES: u64 = 16;
/// The size of each place, in bytes, and its alignment. Very few disks have larger sectors.
const BLOCK: u64 = 4096;
/// The maximum number of extents that are examined to find bytes that are not all the same, and the maximum number of
/// them that are decompressed.
const MAX_EXTENTS: usize = 1 << 17;
const MAX_DECOMPRESSED: usize = 64;
/// Timeout for reading all places from the disk. If the disk hangs, the check ends without a result.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Compares a few places in `image` with `source`. Returns an error if they differ, and ignores places that the disk
/// cannot read. Calls `step` several times a second; an error from it cancels the comparison.
pub fn compare(
    image: &Disk,
    source: &Arc<Source>,
    step: &mut dyn FnMut() -> Result<(), Error>,
) -> Result<(), Error> {
    let places = places(image, source.metadata().size)?;
    let (send, receive) = channel();
    let reader = Arc::clone(source);
    let wanted: Vec<u64> = places.iter().map(|(at, _)| *at).collect();
    // A hung read is abandoned together with its thread.
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
                format!("differs from the image at byte {at}: it is a different disk, or was written to");
            return Err(Error::usage(what)
                .at(source.path())
                .hint("nothing was changed; to image this disk, choose a new image file"));
        }
    }
    Ok(())
}

/// Selects blocks of the image that are significant for a comparison. Returns their offsets and bytes.
fn places(image: &Disk, source_size: u64) -> Result<Vec<(u64, Vec<u8>)>, Error> {
    let finished: Vec<Range<u64>> = {
        // Leave out suspect ranges: their bytes may not be the disk's.
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
        // The first block often identifies the disk; each of the others is at a random place in its part of the disk.
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
        // Without a better block, use the one at this place: even zeros have to match.
        let place = varied_block(image, from..finished[run].end).or_else(|| block(image, from));
        if let Some(place) = place.filter(|(at, _)| places.iter().all(|(other, _)| other != at)) {
            places.push(place);
        }
    }
    Ok(places)
}

/// Returns the first block of a range whose bytes are not all the same, if there is one within the limits of the
/// search.
fn varied_block(image: &Disk, range: Range<u64>) -> Option<(u64, Vec<u8>)> {
    let mut decompressed = 0;
    for extent in image.extents(range.clone()).take(MAX_EXTENTS) {
        let extent = extent.ok()?;
        if matches!(extent.origin, Origin::Fill(_) | Origin::Unread) {
            continue;
        }
        let at = extent.disk.start.next_multiple_of(BLOCK);
        decompressed += 1;
        if at + BLOCK > range.end || decompressed > MAX_DECOMPRESSED {
            return None;
        }
        if let Some(place) = block(image, at).filter(|(_, bytes)| bytes.iter().any(|b| *b != bytes[0])) {
            return Some(place);
        }
    }
    None
}

/// Returns the block at `at`, if the image can read it.
fn block(image: &Disk, at: u64) -> Option<(u64, Vec<u8>)> {
    let mut bytes = vec![0; index(BLOCK)];
    image.read_at(&mut bytes, at).ok().map(|()| (at, bytes))
}
