//! Checks every block that parity covers, and the parity itself.

use std::ops::Range;

use cdi_base::error::{Error, Flaw};
use cdi_base::units::{human, index};

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
