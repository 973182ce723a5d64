//! Records in the order in which they were written: walking over them, and what each one says.
//!
//! This is the second way to the disk's bytes. Opening uses it for what came after the last checkpoint, `verify` to
//! look at every record.

use std::ops::Range;

use cdi_base::error::{Error, Flaw, ReadError};
use cdi_base::units::index;
use xxhash_rust::xxh3::Xxh3;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use super::index::Index;
use super::layout::*;
use super::nodes::{Nodes, check_entry};
use super::record;
use super::record::{Record, array};
use crate::badmap::builder::BadMapBuilder;
use crate::badmap::{BadBlocks, BadRange, MAX_RANGES, Reason, Status};
use crate::image::{CheckCancelled, Each};
use crate::input::Input;
use crate::metadata::Metadata;

/// What walking over a file finds next.
#[derive(Debug)]
pub enum Step {
    /// A record with a sound header; whether its payload is sound has not been looked at.
    Header(u64, RecordHeader),
    /// Bytes that are no record of this image.
    Gap(Range<u64>),
    /// Nothing yet: the search for the end of a gap has come to here. It takes long, and the caller may want to end it.
    Searching(u64),
}

/// How many bytes of a gap are searched in a step.
const SEARCHED: u64 = 1 << 20;

/// Walks over the records between `at` and `end`. After a gap it goes on at the next sound header.
pub struct Walk<'a> {
    input: &'a Input,
    salt: Option<u64>,
    at: u64,
    end: u64,
    /// How far a gap that begins at `at` was searched.
    searched: Option<u64>,
    found: Option<(u64, RecordHeader)>,
}

impl<'a> Walk<'a> {
    /// Records of the image with `salt` in `range` of the file; without one, records of any image.
    pub fn new(input: &'a Input, salt: impl Into<Option<u64>>, range: Range<u64>) -> Walk<'a> {
        let salt = salt.into();
        Walk { input, salt, at: range.start, end: range.end.min(input.len()), searched: None, found: None }
    }

    fn step_over(&mut self, at: u64, header: RecordHeader) -> Step {
        self.at = header.next(at);
        Step::Header(at, header)
    }

    /// The next record or gap.
    pub fn step(&mut self) -> Result<Option<Step>, Error> {
        if let Some((at, header)) = self.found.take() {
            return Ok(Some(self.step_over(at, header)));
        }
        if self.at >= self.end {
            return Ok(None);
        }
        let from = match self.searched.take() {
            Some(searched) => searched,
            None => match record::header_at(self.input, self.at, self.salt)? {
                Some(header) => return Ok(Some(self.step_over(self.at, header))),
                None => self.at + RECORD_ALIGN,
            },
        };
        self.found = self.search(from)?;
        if self.found.is_none() && from + SEARCHED + (HEADER_LEN as u64) <= self.end {
            self.searched = Some(from + SEARCHED);
            return Ok(Some(Step::Searching(from + SEARCHED)));
        }
        let start = self.at;
        self.at = self.found.map_or(self.end, |(at, _)| at);
        Ok(Some(Step::Gap(start..self.at)))
    }

    /// The first sound header that begins in the [`SEARCHED`] bytes from `from` on.
    fn search(&self, from: u64) -> Result<Option<(u64, RecordHeader)>, Error> {
        // Steps overlap by a header, so that none is missed between two of them.
        let len = self.end.saturating_sub(from).min(SEARCHED + HEADER_LEN as u64);
        if len < HEADER_LEN as u64 {
            return Ok(None);
        }
        let bytes = self.input.bytes(from, index(len), "a part of the file")?;
        for offset in (0..bytes.len().saturating_sub(HEADER_LEN - 1)).step_by(index(RECORD_ALIGN)) {
            if bytes[offset..].starts_with(&RECORD_MAGIC)
                && let Ok((header, _)) = RecordHeader::read_from_prefix(&bytes[offset..])
                && header.is_sound(self.salt.unwrap_or(header.salt.get()))
            {
                return Ok(Some((from + offset as u64, header)));
            }
        }
        Ok(None)
    }
}

/// What records say of the disk, put together in their order.
pub struct ReplayedState {
    /// Where the bytes are.
    pub index: Index,
    /// What is not finished.
    pub bad: BadMapBuilder,
    /// The metadata.
    pub metadata: Metadata,
}

impl ReplayedState {
    /// Takes in what `record` says.
    pub fn take(&mut self, record: &Record, nodes: &dyn Nodes, file_len: u64) -> Result<(), Error> {
        let h = &record.header;
        let fail = |what: &str| Error::from(Flaw::at(record.at, what));
        let corrupt =
            |e: ReadError| Error::from(Flaw::at(record.at, format!("cannot be put into the index: {e}")));
        let geometry = self.index.geometry();
        let disk = h.disk_at.get()..h.disk_at.get().saturating_add(h.disk_len.get());
        if disk.end > geometry.disk_size {
            return Err(fail("a record speaks of bytes past the end of the disk"));
        }
        let within_chunk =
            || !disk.is_empty() && geometry.chunk_of(disk.start) == geometry.chunk_of(disk.end - 1);
        match record.kind() {
            Some(kind @ (RecordType::Data | RecordType::Same)) => {
                if !within_chunk() {
                    return Err(fail("a record's bytes are not within one chunk"));
                }
                let len = u32::try_from(h.disk_len.get()).map_err(|_| fail("a record is too long"))?;
                let entry = if kind == RecordType::Data {
                    let (at, sum) = (record.payload_at(), h.payload_sum.get());
                    RawEntry::payload(ENTRY_DATA, h.codec, at, h.stored.get(), sum)
                } else {
                    RawEntry::read_from_bytes(&record.payload()?)
                        .map_err(|_| fail("a SAME record must hold one entry"))?
                };
                if entry.kind != ENTRY_DATA || (kind == RecordType::Data && h.uncompressed.get() != len) {
                    return Err(fail("a record's length is not that of its bytes"));
                }
                check_entry(&entry, file_len).map_err(fail)?;
                self.index.set_data(nodes, disk.start, len, entry).map_err(corrupt)?;
                self.bad.finish(disk);
            }
            Some(RecordType::Fill) => {
                let payload = record.payload()?;
                let pattern = payload.try_into().map_err(|_| fail("a FILL record must hold eight bytes"))?;
                if disk.is_empty() {
                    return Err(fail("a FILL record covers nothing"));
                }
                self.index.set_fill(nodes, disk.clone(), pattern).map_err(corrupt)?;
                self.bad.finish(disk);
            }
            Some(RecordType::Map) => {
                let (_, ranges) = decode_map(record)?;
                self.bad.replace(disk, &ranges);
                if self.bad.is_longer_than(MAX_RANGES) {
                    return Err(fail("the bad-block map has too many ranges"));
                }
            }
            Some(RecordType::Metadata) => self.metadata = decode_metadata(record)?,
            Some(RecordType::Node | RecordType::Pieces | RecordType::Checkpoint | RecordType::Events) => {}
            None if h.kind >= FIRST_IGNORABLE_TYPE => {}
            None => return Err(fail(&format!("record type {} is not known to this version", h.kind))),
        }
        Ok(())
    }
}

/// Gives the lines of the EVENTS records that `superblock` leads to, first those that were written first.
pub fn read_events(
    input: &Input,
    superblock: &Superblock,
    each: &mut Each<'_>,
    check_cancelled: &mut CheckCancelled<'_>,
) -> Result<(), Error> {
    let record_at = |at| record::read(input, at, superblock.salt.get(), RecordType::Events);
    let (mut at, mut chain) = (superblock.events_at.get(), Vec::new());
    while at != 0 {
        let (before, _) = decode_events(&record_at(at)?)?;
        // Each step goes back in the file, so that the chain ends.
        if before >= at {
            return Err(Flaw::at(at, "the chain of EVENTS records does not go back").into());
        }
        if chain.len() >= MAX_EVENTS_RECORDS {
            return Err(
                Flaw::at(at, format!("there are more than {MAX_EVENTS_RECORDS} EVENTS records")).into()
            );
        }
        check_cancelled()?;
        chain.push(at);
        at = before;
    }
    for at in chain.into_iter().rev() {
        for line in decode_events(&record_at(at)?)?.1.lines().filter(|l| !l.is_empty()) {
            check_cancelled()?;
            each(line)?;
        }
        check_cancelled()?;
    }
    Ok(())
}

/// Where the EVENTS record before this one begins (0: there is none), and its lines.
pub fn decode_events(record: &Record) -> Result<(u64, String), Flaw> {
    let payload = record.payload()?;
    let (before, lines) = payload
        .split_first_chunk::<8>()
        .ok_or_else(|| Flaw::at(record.at, "an EVENTS record is too short"))?;
    Ok((u64::from_le_bytes(*before), String::from_utf8_lossy(lines).into_owned()))
}

/// The metadata in a METADATA record.
pub fn decode_metadata(record: &Record) -> Result<Metadata, Flaw> {
    if record.header.uncompressed.get() > MAX_METADATA {
        return Err(Flaw::at(record.at, format!("the metadata are longer than {MAX_METADATA} bytes")));
    }
    serde_json::from_slice(&record.payload()?)
        .map_err(|e| Flaw::at(record.at, format!("the metadata are not JSON: {e}")))
}

/// The payload of a MAP record of `ranges`, with where the record before it in the map begins (0: there is none).
pub(super) fn encode_map(before: u64, ranges: impl IntoIterator<Item = BadRange>) -> Vec<u8> {
    let mut payload = before.to_le_bytes().to_vec();
    ranges.into_iter().for_each(|r| payload.extend_from_slice(raw_range(&r).as_bytes()));
    payload
}

/// What tells a map from others.
pub(super) fn map_sum(map: &BadBlocks) -> u128 {
    let mut sum = Xxh3::new();
    map.ranges().iter().for_each(|r| sum.update(raw_range(r).as_bytes()));
    sum.digest128()
}

fn raw_range(r: &BadRange) -> RawRange {
    let (reason_kind, reason) = match r.reason {
        None => (REASON_NONE, U32::ZERO),
        Some(Reason::Errno(errno)) => (REASON_ERRNO, U32::new(errno.get())),
        Some(Reason::Sense { key, asc, ascq }) => (REASON_SENSE, U32::from_bytes([key, asc, ascq, 0])),
    };
    RawRange {
        start: U64::new(r.start),
        len: U64::new(r.len()),
        status: r.status as u8,
        tries: r.tries,
        reason_kind,
        zero: 0,
        reason,
    }
}

/// The ranges in a MAP record, and where the record before it in the map begins (0: there is none).
pub fn decode_map(record: &Record) -> Result<(u64, Vec<BadRange>), Flaw> {
    let fail = |what: &str| Flaw::at(record.at, what);
    let payload = record.payload()?;
    let (before, rest) = payload.split_first_chunk::<8>().ok_or_else(|| fail("a MAP record is too short"))?;
    let h = &record.header;
    let end = h.disk_at.get().saturating_add(h.disk_len.get());
    let mut at = h.disk_at.get();
    let mut ranges = Vec::new();
    for raw in array::<RawRange>(rest, record.at, "a MAP record")? {
        let (start, len) = (raw.start.get(), raw.len.get());
        let stop = start.checked_add(len).filter(|s| len > 0 && start >= at && *s <= end);
        let stop = stop.ok_or_else(|| {
            fail("ranges of a MAP record overlap, are out of order, or leave the record's part of the disk")
        })?;
        at = stop;
        let status = Status::from_number(raw.status).filter(|s| *s != Status::Finished);
        let [key, asc, ascq, _] = raw.reason.to_bytes();
        ranges.push(BadRange {
            start,
            end: stop,
            status: status
                .ok_or_else(|| fail(&format!("status {} is not known to this version", raw.status)))?,
            tries: raw.tries,
            reason: match raw.reason_kind {
                REASON_NONE => None,
                REASON_ERRNO => Some(Reason::errno(raw.reason.get())),
                REASON_SENSE => Some(Reason::Sense { key, asc, ascq }),
                other => return Err(fail(&format!("reason kind {other} is not known to this version"))),
            },
        });
    }
    Ok((u64::from_le_bytes(*before), ranges))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdimg::record::{Head, encode};
    use crate::codec::Codec;

    fn map(disk: Range<u64>, before: u64, ranges: &[RawRange]) -> Record {
        let stored = [before.as_bytes(), ranges.as_bytes()].concat();
        let head = Head {
            kind: RecordType::Map,
            codec: Codec::Stored,
            uncompressed: u32::try_from(stored.len()).unwrap(),
            disk_at: disk.start,
            disk_len: disk.end - disk.start,
            detail: 0,
        };
        Record { at: 99, header: encode(head, 1, 1, &stored), stored }
    }

    fn range(start: u64, len: u64, status: u8, reason_kind: u8) -> RawRange {
        let (start, len, reason) = (U64::new(start), U64::new(len), U32::new(5));
        RawRange { start, len, status, tries: 1, reason_kind, zero: 0, reason }
    }

    #[test]
    fn a_map_that_cannot_be_is_refused_with_the_reason() {
        let (before, ranges) = decode_map(&map(0..4096, 7, &[range(512, 512, 4, 1)])).unwrap();
        assert_eq!((before, ranges[0].reason, ranges[0].end), (7, Some(Reason::errno(5)), 1024));
        let place =
            "ranges of a MAP record overlap, are out of order, or leave the record's part of the disk";
        for (wrong, word) in [
            (vec![range(0, 0, 4, 0)], place),
            (vec![range(4096, 1, 4, 0)], place),
            (vec![range(0, 4097, 4, 0)], place),
            (vec![range(u64::MAX, 2, 4, 0)], place),
            (vec![range(512, 512, 4, 0), range(0, 512, 4, 0)], place),
            (vec![range(0, 512, 0, 0)], "status 0 is not known to this version"),
            (vec![range(0, 512, 6, 0)], "status 6 is not known to this version"),
            (vec![range(0, 512, 255, 0)], "status 255 is not known to this version"),
            (vec![range(0, 512, 4, 3)], "reason kind 3 is not known to this version"),
        ] {
            assert_eq!(decode_map(&map(0..4096, 0, &wrong)).unwrap_err(), Flaw::at(99, word));
        }
        let mut short = map(0..4096, 0, &[]);
        short.stored.truncate(7);
        short.header.uncompressed = U32::new(7);
        assert_eq!(decode_map(&short).unwrap_err().what, "a MAP record is too short");
    }
}
