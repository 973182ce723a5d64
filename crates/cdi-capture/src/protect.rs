//! Adds parity to a finished image.

use std::fs::File;
use std::path::Path;

use cdi_base::advice::Advice;
use cdi_base::error::{Error, Flaw};
use cdi_base::units::human;
use cdi_base::workers;
use cdi_image::cdimg::layout::{HAS_PARITY, RECORDS_AT};
use cdi_image::cdimg::parity::make::{append, protectable};
use cdi_image::cdimg::parity::{Purpose, with_parity};
use cdi_image::cdimg::record;
use cdi_image::cdimg::scan::{Step, Walk, without_parity};
use cdi_image::input::Input;
use cdi_image::input::parity::ParitySummary;

/// What became of an image that was to get parity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protected {
    /// It has this parity now.
    Made(ParitySummary),
    /// It had this parity already, and was not changed.
    Already(ParitySummary),
}

impl Protected {
    /// Returns the parity that the image has.
    pub fn summary(&self) -> &ParitySummary {
        let (Protected::Made(summary) | Protected::Already(summary)) = self;
        summary
    }
}

/// Adds parity of `hundredths` hundredths of a percent to the finished image in `file`, which is at `path` and open for
/// reading and writing. `step` is called with the number of bytes done since its last call; an error from it stops the
/// work, and the image is what it was.
///
/// # Errors
///
/// [`Kind::BadImage`](cdi_base::error::Kind::BadImage) if the image is unfinished, or if it has parity already, which is
/// needed to restore it.
pub fn protect(
    file: &File,
    path: &Path,
    hundredths: u32,
    step: &mut dyn FnMut(u64) -> Result<(), Error>,
) -> Result<Protected, Error> {
    let open = || {
        let copy = file.try_clone().map_err(|e| Error::io("cannot duplicate the open file", path, e))?;
        Input::new(Box::new(copy), path)
    };
    let input = open()?;
    let superblock = protectable(&input).map_err(|e| e.at(path))?;
    let mut input = with_parity(input, Purpose::Read)?;
    if input.parity().is_none() && superblock.may_ignore.get() & HAS_PARITY != 0 {
        // What is left of its description may be anywhere.
        input = with_parity(open()?, Purpose::Repair)?;
        if input.parity().is_none() {
            let what = "the image is damaged: it had parity, of which no description is left";
            return Err(Error::bad_image(what).at(path).hint(Advice::Repair));
        }
    }
    if let Some(parity) = input.parity() {
        let known = parity.summary();
        if known.hundredths == hundredths && known.range().end == superblock.committed_end.get() {
            return Ok(Protected::Already(known));
        }
        let mut damage = None;
        parity.check(
            &mut |flaw, _| {
                damage.get_or_insert(flaw);
            },
            &mut || step(0),
        )?;
        if let Some(flaw) = damage {
            let what = "the image is damaged: new parity would preserve the damage";
            return Err(Error::bad_image(what).at(path).because(flaw).hint(Advice::Repair));
        }
    }
    let store = file.try_clone().map_err(|e| Error::io("cannot duplicate the open file", path, e))?;
    let threads = workers::cores();
    let made = append(Box::new(store), &input, &superblock, path, hundredths, threads, step)?;
    Ok(Protected::Made(ParitySummary {
        hundredths,
        covered_end: made.covered_bytes,
        parity_bytes: made.parity_bytes,
        ..ParitySummary::default()
    }))
}

/// Refuses an image whose records are damaged: parity would preserve the damage. `step` is called with the number of bytes
/// done since its last call.
///
/// # Errors
///
/// [`Kind::BadImage`](cdi_base::error::Kind::BadImage) if a record is damaged, or bytes belong to none.
pub fn refuse_damage(
    input: &Input,
    path: &Path,
    step: &mut dyn FnMut(u64) -> Result<(), Error>,
) -> Result<(), Error> {
    let superblock = protectable(input).map_err(|e| e.at(path))?;
    let end = superblock.committed_end.get();
    let mut done = RECORDS_AT;
    for part in without_parity(input, end) {
        let mut walk = Walk::new(input, superblock.salt.get(), part);
        while let Some(found) = walk.step()? {
            let flaw = match found {
                Step::Gap(gap) => Some(Flaw::at(gap.start, "bytes that do not belong to any record")),
                Step::Header(at, header) => {
                    step(at.saturating_sub(done))?;
                    done = done.max(at);
                    let is_whole = record::with_payload(input, at, header)?.is_some();
                    (!is_whole).then(|| Flaw::at(at, "the payload of a record is damaged"))
                }
                Step::Searching(_) => None,
            };
            if let Some(flaw) = flaw {
                let what = "the image is damaged: parity would preserve the damage";
                return Err(Error::bad_image(what).at(path).because(flaw).hint(Advice::Repair));
            }
        }
    }
    Ok(())
}

/// Returns the size of parity that a file has, in hundredths of a percent.
pub fn parity_of(input: &Input) -> Option<u32> {
    input.parity().map(|parity| parity.summary().hundredths)
}

/// Returns a description of parity for the user.
pub fn describe(summary: &ParitySummary) -> String {
    format!("{} of parity ({})", human(summary.parity_bytes), percent(summary.hundredths))
}

/// Formats hundredths of a percent.
pub fn percent(hundredths: u32) -> String {
    let (whole, part) = (hundredths / 100, hundredths % 100);
    match part {
        0 => format!("{whole} %"),
        _ => format!("{} %", format!("{whole}.{part:02}").trim_end_matches('0')),
    }
}
