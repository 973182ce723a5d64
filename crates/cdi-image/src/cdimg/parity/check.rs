//! Checks every block that parity covers, and the parity itself.

use std::ops::Range;

use cdi_base::error::{Error, Flaw};
use cdi_base::units::{human, index};
use zerocopy::{FromBytes, IntoBytes};

use super::super::layout::*;
use super::layout::*;
use super::restore::Restorer;

/// The effect of damage that parity makes up for.
const RESTORED: &str = "nothing: it is restored from parity";

/// The number of damaged places that are reported one by one.
const LISTED: u64 = 1000;

/// Reports every damaged run of blocks, and damage of the parity. See [`crate::input::parity::Parity::check`].
pub(super) fn check(
    restorer: &Restorer,
    report: &mut dyn FnMut(Flaw, &str),
    check_cancelled: &mut dyn FnMut() -> Result<(), Error>,
) -> Result<(), Error> {
    let description = &restorer.description;
    let (mut listed, mut more, mut parity) = (0, 0, 0);
    for span in (0..description.spans()).map(|n| description.span(n)) {
        let mut runs: Vec<Range<u64>> = Vec::new();
        let survey = restorer.survey(
            &span,
            &mut |block| match runs.last_mut() {
                Some(run) if run.end == block => run.end = block + 1,
                _ => runs.push(block..block + 1),
            },
            check_cancelled,
        )?;
        parity += survey.damaged;
        for run in runs {
            let bytes = description.bytes_of(run.start).start..description.bytes_of(run.end - 1).end;
            if listed == LISTED {
                more += bytes.end - bytes.start;
                continue;
            }
            listed += 1;
            let hopeless =
                run.clone().any(|block| survey.hopeless[index((block - span.first) % span.groups)]);
            let affects = if hopeless {
                "what is stored there: more is damaged than parity can restore"
            } else {
                RESTORED
            };
            report(Flaw::at(bytes.start, format!("{} are damaged", human(bytes.end - bytes.start))), affects);
        }
    }
    parity += damaged_heads(restorer, check_cancelled)?;
    if more > 0 {
        report(
            Flaw::at(description.end.get(), format!("{} at further places are damaged", human(more))),
            "as above",
        );
    }
    if parity > 0 {
        let what = format!("{} of the parity are damaged", human(parity * BLOCK));
        report(Flaw::at(description.first_record(), what), "nothing yet: less can be restored");
    }
    Ok(())
}

/// Returns the number of records of the parity of which the header, the description or what fills them up is damaged.
fn damaged_heads(
    restorer: &Restorer,
    check_cancelled: &mut dyn FnMut() -> Result<(), Error>,
) -> Result<u64, Error> {
    let description = &restorer.description;
    let bytes = description.as_bytes();
    let filler = description.end.get()..description.first_record();
    let last = description.records_end()..description.records_end() + (HEADER_LEN + DESCRIPTION_LEN) as u64;
    let records = (0..description.records()).map(|n| description.record(n));
    let mut damaged = 0;
    for (record, starts_with) in
        [(filler, &[][..]), (last, bytes)].into_iter().chain(records.map(|r| (r, bytes)))
    {
        check_cancelled()?;
        // Of a record with slots, those have checksums of their own.
        let mut head = vec![0; index((record.end - record.start).min(BLOCK))];
        let is_read = restorer.fill(record.start, &mut head);
        let header = RecordHeader::read_from_prefix(&head).ok().map(|(header, _)| header);
        let is_valid = header.is_some_and(|h| {
            h.is_valid(description.superblock.salt.get())
                && h.kind == RecordType::Parity as u8
                && h.next(record.start) == record.end
        });
        let payload = head.get(HEADER_LEN..).and_then(|payload| payload.strip_prefix(starts_with));
        let is_right = is_read && is_valid && payload.is_some_and(|rest| rest.iter().all(|b| *b == 0));
        damaged += u64::from(!is_right);
    }
    Ok(damaged)
}
