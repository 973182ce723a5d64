//! The superblocks of a `.cdimg`: which of them holds, and whether what it says can be.

use cdi_base::advice::Advice;
use cdi_base::error::{Error, Flaw};
use cdi_base::units::{human, index};
use zerocopy::FromBytes;

use super::index::Geometry;
use super::layout::*;
use super::nodes::check_entry;
use super::record;
use crate::input::Input;

/// The superblock at `at`, if its magic is there; whether it is sound is not looked at.
fn superblock_at(input: &Input, at: u64) -> Option<Superblock> {
    let bytes = input.bytes(at, SUPERBLOCK_LEN, "a superblock").ok()?;
    Superblock::read_from_bytes(&bytes).ok().filter(|s| s.magic == MAGIC)
}

/// Both superblocks, by where they should be.
pub(super) fn superblocks(input: &Input) -> [(u64, Option<Superblock>); 2] {
    SUPERBLOCK_AT.map(|at| (at, superblock_at(input, at)))
}

/// Whether the superblock in `slot` is sound and belongs there.
pub(super) fn is_sound_in(slot: usize, superblock: &Superblock) -> bool {
    superblock.is_sound() && superblock.generation.get() % 2 == slot as u64
}

/// The copy in the CHECKPOINT record at the end of a finished image, if it is sound.
pub(super) fn last_checkpoint(input: &Input) -> Option<Superblock> {
    let at = input.len().checked_sub(SUPERBLOCK_LEN as u64)?;
    let copy = superblock_at(input, at).filter(Superblock::is_sound)?;
    let header = at.checked_sub(HEADER_LEN as u64)?;
    let header = record::header_at(input, header, copy.salt.get()).ok()??;
    (header.kind == RecordType::Checkpoint as u8 && copy.committed_end.get() == input.len()).then_some(copy)
}

/// The sizes that a superblock says.
pub(super) fn geometry(superblock: &Superblock) -> Geometry {
    Geometry { disk_size: superblock.disk_size.get(), chunk_size: superblock.chunk_size.get() }
}

/// The sound superblock with the highest generation. The copy at the end of the file stands in for one that was
/// written and is damaged, and only for that: after a crash, a copy may have reached the disk before what it speaks of,
/// but then the superblock whose place it was to take is still sound.
pub(super) fn choose(input: &Input, warnings: &mut Vec<String>) -> Result<Superblock, Error> {
    let found = superblocks(input);
    let slots = [0, 1].map(|slot| found[slot].1.filter(|s| is_sound_in(slot, s)));
    let best = slots.iter().flatten().max_by_key(|s| s.generation.get()).copied();
    let copy = last_checkpoint(input).filter(|copy| slots[index(copy.generation.get() % 2)].is_none());
    match (best, copy) {
        (Some(best), Some(copy))
            if copy.generation.get() > best.generation.get() && copy.salt == best.salt =>
        {
            warnings
                .push("the newest superblock is damaged; its copy at the end of the file was used".into());
            Ok(copy)
        }
        (Some(best), _) => Ok(best),
        (None, Some(copy)) => {
            warnings.push("both superblocks are damaged; the copy at the end of the file was used".into());
            Ok(copy)
        }
        (None, None) => {
            // Say of a superblock that is there what is wrong with it.
            let (at, _) = found.iter().find(|(_, s)| s.is_some()).unwrap_or(&found[0]);
            let what = "the superblock is damaged, so is the other one, and there is no sound copy at the end of the file";
            Err(saved(Flaw::at(*at, what).into()))
        }
    }
}

/// Checks what a sound superblock says of the disk and of itself.
pub fn check_disk(s: &Superblock) -> Result<(), Error> {
    let fail = |field: usize, what: String| Err(Flaw::at(place(s) + field as u64, what).into());
    let version = s.version.get();
    if version == 0 || version > VERSION {
        let what =
            format!("this is version {version} of the format; this program reads versions 1 to {VERSION}");
        return fail(std::mem::offset_of!(Superblock, version), what);
    }
    if s.must_understand.get() != 0 {
        let what = format!(
            "the image needs features that this program does not know ({:#x})",
            s.must_understand.get()
        );
        return fail(std::mem::offset_of!(Superblock, must_understand), what);
    }
    if s.state != STATE_ACQUIRING && s.state != STATE_COMPLETE {
        return fail(std::mem::offset_of!(Superblock, state), format!("unknown state {}", s.state));
    }
    let zero = s.zero1.iter().chain(&s.zero2).all(|b| *b == 0);
    if !zero || s.salt.get() == 0 {
        return fail(
            0,
            "the superblock has a value where there must be zero, or none where there must be one".into(),
        );
    }
    if s.disk_size.get() == 0 || s.disk_size.get() > i64::MAX as u64 {
        return fail(
            std::mem::offset_of!(Superblock, disk_size),
            format!("a disk of {} bytes cannot be", s.disk_size.get()),
        );
    }
    let chunk = s.chunk_size.get();
    if !chunk.is_power_of_two() || !(CHUNK_LEAST..=CHUNK_MAX).contains(&chunk) {
        return fail(
            std::mem::offset_of!(Superblock, chunk_size),
            format!("a chunk size of {chunk} bytes cannot be"),
        );
    }
    for (field, sector) in [
        (std::mem::offset_of!(Superblock, logical_sector), s.logical_sector.get()),
        (std::mem::offset_of!(Superblock, physical_sector), s.physical_sector.get()),
    ] {
        if !is_sector_size(sector) {
            return fail(field, format!("a sector size of {sector} bytes cannot be"));
        }
    }
    Ok(())
}

/// The way out for an image that is not whole.
fn saved(e: Error) -> Error {
    e.hint(Advice::Repair)
}

/// Where a superblock belongs.
fn place(s: &Superblock) -> u64 {
    SUPERBLOCK_AT[index(s.generation.get() % 2)]
}

/// Checks what a sound superblock says, also of the file.
pub(super) fn check(s: &Superblock, input: &Input) -> Result<(), Error> {
    check_disk(s)?;
    let fail = |field: usize, what: String| Err(Error::from(Flaw::at(place(s) + field as u64, what)));
    let end = s.committed_end.get();
    if end > input.len() {
        let missing = human(end - input.len());
        let what = format!("the file is cut off: it ends {missing} before byte {end}, where its records end");
        return fail(std::mem::offset_of!(Superblock, committed_end), what).map_err(saved);
    }
    if !end.is_multiple_of(RECORD_ALIGN) {
        let what = format!("the records cannot end at byte {end}");
        return fail(std::mem::offset_of!(Superblock, committed_end), what);
    }
    if end < RECORDS_AT {
        return fail(
            std::mem::offset_of!(Superblock, committed_end),
            "the records end before they begin".into(),
        );
    }
    for (field, at) in [
        (std::mem::offset_of!(Superblock, map_at), s.map_at.get()),
        (std::mem::offset_of!(Superblock, metadata_at), s.metadata_at.get()),
        (std::mem::offset_of!(Superblock, events_at), s.events_at.get()),
    ] {
        if (at != 0 || field == std::mem::offset_of!(Superblock, metadata_at))
            && !(RECORDS_AT..end).contains(&at)
        {
            return fail(field, format!("a record that lies at byte {at} cannot be"));
        }
    }
    if let Err(what) = check_entry(&s.root, end) {
        return fail(std::mem::offset_of!(Superblock, root), what.into());
    }
    Ok(())
}
