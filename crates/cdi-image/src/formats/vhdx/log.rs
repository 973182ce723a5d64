//! The log of a VHDX: updates to its structures that may not have been written to their final place yet. The file is
//! not modified; reads see the log's sectors in place of the file's.

use std::collections::BTreeMap;
use std::ops::Range;

use cdi_base::error::{Error, ReadError};
use cdi_base::units::index;

use super::{CHECKSUM, crc32c_of};
use crate::bytes::{flaw, le32, le64};
use crate::extent::FileNo;
use crate::input::Input;

/// The size in bytes of the sectors that a log consists of and refers to.
const SECTOR: u64 = 4096;
const SECTOR_LEN: usize = 4096;
/// Maximum supported length of a log in bytes. Windows uses 1 MiB.
const MAX_LEN: u64 = 8 << 20;
/// Maximum number of bytes to parse in search of the active sequence, as a multiple of the log's length.
const MAX_READ: u64 = 64;
/// The length in bytes of an entry's header, and of a descriptor.
const HEADER: usize = 64;
const DESCRIPTOR: usize = 32;

/// The log's contents, which replace those of the file.
#[derive(Default)]
pub(super) struct Overlay {
    sectors: BTreeMap<u64, [u8; SECTOR_LEN]>,
    /// Ranges of zeros, in bytes. `sectors` override them; sectors older than a range were removed when it was added.
    zeros: Vec<Range<u64>>,
}

/// A complete and valid log entry.
struct Entry {
    bytes: Vec<u8>,
    sequence: u64,
    tail: u64,
}

impl Overlay {
    /// Reads from the file, with the log applied.
    pub(super) fn read(&self, input: &Input, file: FileNo, buf: &mut [u8], at: u64) -> Result<(), ReadError> {
        let end = at.saturating_add(buf.len() as u64);
        // The log may refer to parts of the file past its current end.
        let in_file = index(input.len_of(file).clamp(at, end) - at);
        if in_file < buf.len() && self.sectors.is_empty() {
            return Err(ReadError::Corrupt { at });
        }
        buf[in_file..].fill(0);
        if in_file > 0 {
            input.read_exact_at(file, &mut buf[..in_file], at)?;
        }
        for zeros in self.zeros.iter().filter(|z| z.start < end && z.end > at) {
            let (from, to) = (zeros.start.max(at), zeros.end.min(end));
            buf[index(from - at)..index(to - at)].fill(0);
        }
        for (start, sector) in self.sectors.range(at.saturating_sub(SECTOR - 1)..end) {
            let (from, to) = (at.max(*start), end.min(start + SECTOR));
            buf[index(from - at)..index(to - at)]
                .copy_from_slice(&sector[index(from - start)..index(to - start)]);
        }
        Ok(())
    }

    /// Checks whether the log contains no updates.
    pub(super) fn is_empty(&self) -> bool {
        self.sectors.is_empty() && self.zeros.is_empty()
    }

    /// Reads the log at `place` (a byte range of the file) for the image whose header has the log GUID `guid`.
    pub(super) fn of(input: &Input, file: FileNo, place: Range<u64>, guid: &[u8]) -> Result<Overlay, Error> {
        let len = place.end - place.start;
        if len > MAX_LEN || !len.is_multiple_of(SECTOR) || len == 0 {
            return flaw(place.start, format!("unsupported log length: {len} bytes"));
        }
        let log = input.bytes_of(file, place.start, index(len), "the log")?;
        // The newest sequence of consecutive entries: the one whose last entry has the highest number.
        let mut newest: Vec<Entry> = Vec::new();
        // Each sector may claim to begin an entry; a valid log is read at most a few times over.
        let mut left = MAX_READ * len;
        let mut entry = |start| {
            left = left.saturating_sub(claimed_len(&log, start));
            if left > 0 { entry(&log, start, guid) } else { None }
        };
        for start in (0..len).step_by(SECTOR_LEN) {
            let Some(first) = entry(start) else { continue };
            let mut at = start;
            let mut run = vec![first];
            while let Some(last) = run.last()
                && run.iter().map(|e| e.bytes.len() as u64).sum::<u64>() < len
            {
                at = (at + last.bytes.len() as u64) % len;
                match entry(at).filter(|next| last.sequence.checked_add(1) == Some(next.sequence)) {
                    Some(next) => run.push(next),
                    None => break,
                }
            }
            // The newest entry contains the position of the oldest one that is still active.
            let is_whole = run.last().is_some_and(|last| last.tail == start);
            let sequence = |run: &[Entry]| run.last().map_or(0, |e| e.sequence);
            if is_whole && sequence(&run) > sequence(&newest) {
                newest = run;
            }
        }
        if newest.is_empty() {
            return flaw(
                place.start,
                "the image needs its log to be replayed, but the log contains no complete sequence of entries",
            );
        }
        let mut overlay = Overlay::default();
        newest.iter().for_each(|entry| overlay.apply(&entry.bytes));
        Ok(overlay)
    }

    fn apply(&mut self, entry: &[u8]) {
        let count = le32(entry, 24) as usize;
        let mut data = (HEADER + count * DESCRIPTOR).next_multiple_of(SECTOR_LEN);
        for d in entry[HEADER..].chunks_exact(DESCRIPTOR).take(count) {
            let (a, place) = (le64(d, 8), le64(d, 16));
            if d.starts_with(b"zero") {
                let range = place..place.saturating_add(a);
                self.sectors.retain(|at, _| !range.contains(at));
                self.zeros.push(range);
                continue;
            }
            // The sector's first eight and last four bytes are in the descriptor: the log uses their place for a
            // signature and the sequence number.
            let mut sector = [0; SECTOR_LEN];
            sector[..8].copy_from_slice(&d[8..16]);
            sector[8..4092].copy_from_slice(&entry[data + 8..data + 4092]);
            sector[4092..].copy_from_slice(&d[4..8]);
            self.sectors.insert(place, sector);
            data += SECTOR_LEN;
        }
    }
}

/// Returns the length in bytes that an entry at `start` claims to have; 0 if there is none.
fn claimed_len(log: &[u8], start: u64) -> u64 {
    let header = log.get(index(start)..).filter(|header| header.starts_with(b"loge"));
    header.map_or(0, |header| u64::from(le32(header, 8)).min(log.len() as u64))
}

/// Parses the entry at `start` of the circular log, if it is complete and valid.
fn entry(log: &[u8], start: u64, guid: &[u8]) -> Option<Entry> {
    let start = index(start);
    let header = log.get(start..start + HEADER)?;
    let len = le32(header, 8) as usize;
    let (count, sequence) = (le32(header, 24) as usize, le64(header, 16));
    if !header.starts_with(b"loge") || &header[32..48] != guid || sequence == 0 {
        return None;
    }
    if len == 0 || len > log.len() || !len.is_multiple_of(SECTOR_LEN) {
        return None;
    }
    let first = (log.len() - start).min(len);
    let bytes = [&log[start..start + first], &log[..len - first]].concat();
    let descriptors = HEADER.checked_add(count.checked_mul(DESCRIPTOR)?)?;
    if crc32c_of(&bytes, CHECKSUM) != le32(header, 4) || descriptors > len {
        return None;
    }
    let mut data = descriptors.next_multiple_of(SECTOR_LEN);
    for d in bytes[HEADER..].chunks_exact(DESCRIPTOR).take(count) {
        if le64(d, 24) != sequence || !le64(d, 16).is_multiple_of(SECTOR) {
            return None;
        }
        if d.starts_with(b"zero") {
            continue;
        }
        let sector = bytes.get(data..data + SECTOR_LEN)?;
        let data_sequence = u64::from(le32(sector, 4)) << 32 | u64::from(le32(sector, 4092));
        if !d.starts_with(b"desc") || !sector.starts_with(b"data") || data_sequence != sequence {
            return None;
        }
        data += SECTOR_LEN;
    }
    Some(Entry { sequence, tail: u64::from(le32(header, 12)), bytes })
}
