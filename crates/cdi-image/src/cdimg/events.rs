//! Reads the event log: a chain of EVENTS records, from the last back to the first.

use cdi_base::error::{Error, Flaw};

use super::chain::{Chain, Linked};
use super::layout::*;
use super::record;
use super::record::Record;
use crate::image::CheckCancelled;
use crate::input::Input;

/// What the log of an image says, apart from its events.
pub struct Log {
    /// The chain after all lines.
    pub chain: Chain,
    /// The number of records that do not state the chain: earlier versions wrote them.
    pub unchained: u64,
    /// Whether the last record states the chain.
    pub closed: bool,
    /// The first record that states another chain than that of the lines.
    pub changed: Option<u64>,
    /// The last event; empty if there is none.
    pub last: Vec<u8>,
}

/// Reads the log that `superblock` refers to, and passes its events to `each`, oldest first.
pub fn read_log(
    input: &Input,
    superblock: &Superblock,
    each: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    check_cancelled: &mut CheckCancelled<'_>,
) -> Result<Log, Error> {
    let record_at = |at| record::read(input, at, superblock.salt.get(), RecordType::Events);
    let (mut at, mut records) = (superblock.events_at.get(), Vec::new());
    while at != 0 {
        let (before, _) = decode_events(&record_at(at)?)?;
        // Each step must go backwards in the file, so that the list ends.
        if before >= at {
            return Err(Flaw::at(at, "the list of EVENTS records does not go backwards").into());
        }
        if records.len() >= MAX_EVENTS_RECORDS {
            let what = format!("there are more than {MAX_EVENTS_RECORDS} EVENTS records");
            return Err(Flaw::at(at, what).into());
        }
        check_cancelled()?;
        records.push(at);
        at = before;
    }
    let chain = Chain::new(&superblock.uuid);
    let mut log = Log { chain, unchained: 0, closed: false, changed: None, last: Vec::new() };
    for at in records.into_iter().rev() {
        let (_, lines) = decode_events(&record_at(at)?)?;
        let Linked { closed, right } = log.chain.add_record(&lines, &mut |line| {
            log.last.clear();
            log.last.extend_from_slice(line);
            check_cancelled()?;
            each(line)
        })?;
        log.closed = closed;
        log.unchained += u64::from(!closed);
        if !right {
            log.changed.get_or_insert(at);
        }
        check_cancelled()?;
    }
    Ok(log)
}

/// Decodes an EVENTS record: returns the offset of the previous one (0 if there is none), and its lines.
pub fn decode_events(record: &Record) -> Result<(u64, Vec<u8>), Flaw> {
    let mut payload = record.payload()?;
    let before =
        *payload.first_chunk::<8>().ok_or_else(|| Flaw::at(record.at, "an EVENTS record is too short"))?;
    Ok((u64::from_le_bytes(before), payload.split_off(8)))
}
