//! Reads records in the order in which they were written, and replays their contents.
//!
//! This is the second way to find the disk's data, apart from the index. Opening an image uses it for the records after
//! the last checkpoint, and `verify` uses it to check every record.

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
use crate::input::Input;
use crate::metadata::Metadata;

/// The result of a step of a [`Walk`].
#[derive(Debug)]
pub enum Step {
    /// A record with a valid header; its payload has not been checked.
    Header(u64, RecordHeader),
    /// Bytes that do not belong to a record of this image.
    Gap(Range<u64>),
    /// Nothing yet: the search for the end of a gap has reached this offset. It can take long, and the caller may want
    /// to cancel it.
    Searching(u64),
}

/// The number of bytes of a gap that are searched in a step.
const SEARCH_STEP: u64 = 1 << 20;

/// Iterates over the records between `at` and `end`. After a gap it continues at the next valid header.
pub struct Walk<'a> {
    input: &'a Input,
    salt: Option<u64>,
    at: u64,
    end: u64,
    /// How far a gap at `at` has been searched.
    searched: Option<u64>,
    found: Option<(u64, RecordHeader)>,
}

impl<'a> Walk<'a> {
    /// Starts at the beginning of `range` of the file. Finds the records of the image with `salt`, or, without a salt,
    /// of any image.
    pub fn new(input: &'a Input, salt: impl Into<Option<u64>>, range: Range<u64>) -> Walk<'a> {
        let salt = salt.into();
        Walk { input, salt, at: range.start, end: range.end.min(input.len()), searched: None, found: None }
    }

    fn step_over(&mut self, at: u64, header: RecordHeader) -> Step {
        self.at = header.next(at);
        Step::Header(at, header)
    }

    /// Returns the next record or gap, or `None` at the end.
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
        if self.found.is_none() && from + SEARCH_STEP + (HEADER_LEN as u64) <= self.end {
            self.searched = Some(from + SEARCH_STEP);
            return Ok(Some(Step::Searching(from + SEARCH_STEP)));
        }
        let start = self.at;
        self.at = self.found.map_or(self.end, |(at, _)| at);
        Ok(Some(Step::Gap(start..self.at)))
    }

    /// Returns the first valid header that begins in the [`SEARCH_STEP`] bytes from `from` on.
    fn search(&self, from: u64) -> Result<Option<(u64, RecordHeader)>, Error> {
        // Steps overlap by the length of a header, so that no header between two steps is missed.
        let len = self.end.saturating_sub(from).min(SEARCH_STEP + HEADER_LEN as u64);
        if len < HEADER_LEN as u64 {
            return Ok(None);
        }
        let bytes = self.input.bytes(from, index(len), "a part of the file")?;
        for offset in (0..bytes.len().saturating_sub(HEADER_LEN - 1)).step_by(index(RECORD_ALIGN)) {
            if bytes[offset..].starts_with(&RECORD_MAGIC)
                && let Ok((header, _)) = RecordHeader::read_from_prefix(&bytes[offset..])
                && header.is_valid(self.salt.unwrap_or(header.salt.get()))
            {
                return Ok(Some((from + offset as u64, header)));
            }
        }
        Ok(None)
    }
}

/// Returns the parts of the records between the first one and `end` that are not parity, which has checksums of its own.
pub fn without_parity(input: &Input, end: u64) -> [Range<u64>; 2] {
    let parity = input.parity().map_or(end..end, |parity| parity.summary().range());
    [RECORDS_AT..parity.start.min(end), parity.end.min(end)..end]
}

/// The state of the disk that results from replaying records in order.
pub struct ReplayedState {
    /// The locations of the data.
    pub index: Index,
    /// The bad-block map.
    pub bad: BadMapBuilder,
    /// The metadata.
    pub metadata: Metadata,
}

impl ReplayedState {
    /// Applies the contents of `record`.
    pub fn apply(&mut self, record: &Record, nodes: &dyn Nodes, file_len: u64) -> Result<(), Error> {
        let h = &record.header;
        let fail = |what: &str| Error::from(Flaw::at(record.at, what));
        let corrupt =
            |e: ReadError| Error::from(Flaw::at(record.at, format!("cannot add a record to the index: {e}")));
        let geometry = self.index.geometry();
        let disk = h.disk_at.get()..h.disk_at.get().saturating_add(h.disk_len.get());
        if disk.end > geometry.disk_size {
            return Err(fail("a record refers to bytes past the end of the disk"));
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
                        .map_err(|_| fail("a SAME record must contain one entry"))?
                };
                if entry.kind != ENTRY_DATA || (kind == RecordType::Data && h.uncompressed.get() != len) {
                    return Err(fail("the length of a record does not match its data"));
                }
                check_entry(&entry, file_len).map_err(fail)?;
                self.index.set_data(nodes, disk.start, len, entry).map_err(corrupt)?;
                self.bad.finish(disk);
            }
            Some(RecordType::Fill) => {
                let payload = record.payload()?;
                let pattern =
                    payload.try_into().map_err(|_| fail("a FILL record must contain eight bytes"))?;
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
            Some(
                RecordType::Node
                | RecordType::Pieces
                | RecordType::Checkpoint
                | RecordType::Parity
                | RecordType::Events,
            ) => {}
            None if h.kind >= FIRST_IGNORABLE_TYPE => {}
            None => return Err(fail(&format!("record type {} is not supported by this version", h.kind))),
        }
        Ok(())
    }
}

/// Decodes the metadata in a METADATA record.
pub fn decode_metadata(record: &Record) -> Result<Metadata, Flaw> {
    if record.header.uncompressed.get() > MAX_METADATA {
        return Err(Flaw::at(record.at, format!("the metadata is longer than {MAX_METADATA} bytes")));
    }
    Metadata::parse(&record.payload()?)
        .map_err(|e| Flaw::at(record.at, format!("the metadata is not valid JSON: {e}")))
}

/// Encodes the payload of a MAP record of `ranges`. `before` is the offset of the previous record of the map (0 if
/// there is none).
pub(super) fn encode_map(before: u64, ranges: impl IntoIterator<Item = BadRange>) -> Vec<u8> {
    let mut payload = before.to_le_bytes().to_vec();
    ranges.into_iter().for_each(|r| payload.extend_from_slice(raw_range(&r).as_bytes()));
    payload
}

/// Returns a checksum that identifies a map.
pub(super) fn map_sum(map: &BadBlocks) -> u128 {
    let mut sum = Xxh3::new();
    map.ranges().iter().for_each(|r| sum.update(raw_range(r).as_bytes()));
    sum.digest128()
}

/// Returns a range as a MAP record has it.
pub(super) fn raw_range(r: &BadRange) -> RawRange {
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

/// Decodes a MAP record: returns the offset of the previous record of the map (0 if there is none), and the ranges.
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
            fail("ranges of a MAP record overlap, are out of order, or extend outside the record's part of the disk")
        })?;
        at = stop;
        let status = Status::from_number(raw.status).filter(|s| *s != Status::Finished);
        let [key, asc, ascq, _] = raw.reason.to_bytes();
        ranges.push(BadRange {
            start,
            end: stop,
            status: status
                .ok_or_else(|| fail(&format!("status {} is not supported by this version", raw.status)))?,
            tries: raw.tries,
            reason: match raw.reason_kind {
                REASON_NONE => None,
                REASON_ERRNO => Some(Reason::errno(raw.reason.get())),
                REASON_SENSE => Some(Reason::Sense { key, asc, ascq }),
                other => return Err(fail(&format!("reason kind {other} is not supported by this version"))),
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
    fn an_invalid_map_is_refused_with_the_reason() {
        let (before, ranges) = decode_map(&map(0..4096, 7, &[range(512, 512, 4, 1)])).unwrap();
        assert_eq!((before, ranges[0].reason, ranges[0].end), (7, Some(Reason::errno(5)), 1024));
        let place = "ranges of a MAP record overlap, are out of order, or extend outside the record's part of the disk";
        for (wrong, word) in [
            (vec![range(0, 0, 4, 0)], place),
            (vec![range(4096, 1, 4, 0)], place),
            (vec![range(0, 4097, 4, 0)], place),
            (vec![range(u64::MAX, 2, 4, 0)], place),
            (vec![range(512, 512, 4, 0), range(0, 512, 4, 0)], place),
            (vec![range(0, 512, 0, 0)], "status 0 is not supported by this version"),
            (vec![range(0, 512, 6, 0)], "status 6 is not supported by this version"),
            (vec![range(0, 512, 255, 0)], "status 255 is not supported by this version"),
            (vec![range(0, 512, 4, 3)], "reason kind 3 is not supported by this version"),
        ] {
            assert_eq!(decode_map(&map(0..4096, 0, &wrong)).unwrap_err(), Flaw::at(99, word));
        }
        let mut short = map(0..4096, 0, &[]);
        short.stored.truncate(7);
        short.header.uncompressed = U32::new(7);
        assert_eq!(decode_map(&short).unwrap_err().what, "a MAP record is too short");
    }
}
