//! The segments of an AFF file: a head, a name, data and a tail each, one after the other.

use std::ops::Range;

use cdi_base::error::{Error, Flaw, Kind};
use cdi_base::units::index;

use crate::bytes::be32;
use crate::extent::FileNo;
use crate::input::Input;

/// The length in bytes of the file's header, and of a segment's head and tail.
pub(super) const HEADER: u64 = 8;
const HEAD: u64 = 16;
const TAIL: u64 = 8;
/// Maximum length of a segment's name in bytes. AFFLIB's buffers have room for 63.
const MAX_NAME: u64 = 63;

/// A segment.
pub(super) struct Segment {
    /// The name; empty for room that is not used.
    pub name: String,
    /// The number in its head: a value, or how a page is compressed.
    pub flag: u32,
    /// The file, and the range in it that contains the data.
    pub file: FileNo,
    pub data: Range<u64>,
}

/// The part of a file whose segments are damaged or missing.
pub(super) struct Damage {
    /// The range in the file, in bytes.
    pub file: Range<u64>,
    /// What is wrong at its start.
    pub error: Error,
}

/// Passes the segments of a file to `each`, in order. From a damaged one on, they are searched from the end of the file,
/// since their tails have their lengths; returns what is between, if anything is.
pub(super) fn walk(
    input: &Input,
    file: FileNo,
    each: &mut dyn FnMut(Segment) -> Result<(), Error>,
) -> Result<Option<Damage>, Error> {
    let len = input.len_of(file);
    let mut at = HEADER;
    // One read for each segment: the tail of one, and the head and the name of the next.
    let read = |at: u64, len_of_tail: u64| {
        let wanted = (len_of_tail + HEAD + MAX_NAME).min(len.saturating_sub(at));
        input.bytes_of(file, at, index(wanted), "a segment")
    };
    let mut head = read(at, 0)?;
    while at < len {
        let next = segment(file, at, &head, len).and_then(|segment| {
            let end = segment.data.end;
            let mut bytes = read(end, TAIL)?;
            let head = bytes.split_off(index(TAIL).min(bytes.len()));
            check_tail(&bytes, at, end).map(|()| (segment, head))
        });
        match next {
            Ok((segment, next_head)) => {
                at = segment.data.end + TAIL;
                head = next_head;
                each(segment)?;
            }
            // A temporary read error must not be taken for damage.
            Err(error) if error.kind != Kind::BadImage => return Err(error),
            Err(error) => {
                let end = walk_back(input, file, at, each)?;
                return Ok(Some(Damage { file: at..end, error }));
            }
        }
    }
    Ok(None)
}

/// Passes the segments to `each` that end at the end of the file, the last one first, until one is damaged. Returns the
/// file offset of the first of them; they begin at `start` at the earliest.
fn walk_back(
    input: &Input,
    file: FileNo,
    start: u64,
    each: &mut dyn FnMut(Segment) -> Result<(), Error>,
) -> Result<u64, Error> {
    let mut end = input.len_of(file);
    while end - start >= HEAD + TAIL {
        let tail = input.bytes_of(file, end - TAIL, index(TAIL), "a segment")?;
        let at = end.checked_sub(be32(&tail, 4).into()).filter(|at| *at >= start && end - at >= HEAD + TAIL);
        let Some(at) = at else { break };
        let head = input.bytes_of(file, at, index((HEAD + MAX_NAME).min(end - at)), "a segment")?;
        match segment(file, at, &head, end) {
            Ok(segment) if segment.data.end + TAIL == end && tail.starts_with(b"ATT\0") => each(segment)?,
            _ => break,
        }
        end = at;
    }
    Ok(end)
}

/// Parses the head of the segment at file offset `at`, which ends at `end` at the latest.
fn segment(file: FileNo, at: u64, head: &[u8], end: u64) -> Result<Segment, Error> {
    let fail = |what: String| Err(Flaw::at(at, what).into());
    if head.len() < index(HEAD) || !head.starts_with(b"AFF\0") {
        return fail("not the head of a segment".into());
    }
    let name_len = u64::from(be32(head, 4));
    let Some(name) = head.get(16..index(HEAD + name_len.min(MAX_NAME))).filter(|_| name_len <= MAX_NAME)
    else {
        return fail(format!("invalid length of a segment's name: {name_len} bytes"));
    };
    // No overflow: the lengths have 32 bits, and the offset is within the file.
    let data = at + HEAD + name_len..at + HEAD + name_len + u64::from(be32(head, 8));
    if data.end + TAIL > end {
        let name = String::from_utf8_lossy(name);
        return fail(format!("the segment '{name}' extends past the end of the file: it is truncated"));
    }
    Ok(Segment { name: String::from_utf8_lossy(name).into_owned(), flag: be32(head, 12), file, data })
}

/// Checks the tail of the segment whose head is at file offset `at`, and whose data ends at `end`.
fn check_tail(tail: &[u8], at: u64, end: u64) -> Result<(), Error> {
    if tail.starts_with(b"ATT\0") && u64::from(be32(tail, 4)) == end + TAIL - at {
        return Ok(());
    }
    Err(Flaw::at(end, "the tail of a segment does not match its head").into())
}
