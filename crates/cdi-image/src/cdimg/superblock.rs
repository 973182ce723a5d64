//! The superblocks of a `.cdimg`: chooses the one to use, and checks its values.

use cdi_base::advice::Advice;
use cdi_base::error::{Error, Flaw};
use cdi_base::units::{human, index};
use zerocopy::FromBytes;

use super::index::Geometry;
use super::layout::*;
use super::nodes::check_entry;
use super::record;
use crate::input::Input;

/// Reads the superblock at offset `at` if its magic number is present. Does not check whether it is valid.
fn superblock_at(input: &Input, at: u64) -> Option<Superblock> {
    let bytes = input.bytes(at, SUPERBLOCK_LEN, "a superblock").ok()?;
    Superblock::read_from_bytes(&bytes).ok().filter(|s| s.magic == MAGIC)
}

/// Reads both superblocks, and returns them with the offsets at which they should be.
pub(super) fn superblocks(input: &Input) -> [(u64, Option<Superblock>); 2] {
    SUPERBLOCK_AT.map(|at| (at, superblock_at(input, at)))
}

/// Returns whether the superblock in `slot` is valid and belongs there.
pub(super) fn is_valid_in(slot: usize, superblock: &Superblock) -> bool {
    superblock.is_valid() && superblock.generation.get() % 2 == slot as u64
}

/// Reads the copy in the CHECKPOINT record at the end of a complete image, if it is valid.
pub(super) fn last_checkpoint(input: &Input) -> Option<Superblock> {
    let at = input.len().checked_sub(SUPERBLOCK_LEN as u64)?;
    let is_right = |bytes: &[u8]| Superblock::parse(bytes).is_some();
    let copy = Superblock::parse(&input.bytes_right(at, SUPERBLOCK_LEN, "a superblock", is_right).ok()??)?;
    let header = at.checked_sub(HEADER_LEN as u64)?;
    let header = record::header_at(input, header, copy.salt.get()).ok()??;
    (header.kind == RecordType::Checkpoint as u8 && copy.committed_end.get() == input.len()).then_some(copy)
}

/// Returns the sizes in a superblock.
pub(super) fn geometry(superblock: &Superblock) -> Geometry {
    Geometry { disk_size: superblock.disk_size.get(), chunk_size: superblock.chunk_size.get() }
}

/// Returns the valid superblock with the highest generation. The copy at the end of the file replaces a superblock that
/// was written and is damaged, and nothing else: after a crash, a copy may have reached the disk before the data that
/// it refers to, but then the superblock that it was to replace is still valid.
pub(super) fn choose(input: &Input, warnings: &mut Vec<String>) -> Result<Superblock, Error> {
    let found = superblocks(input);
    let slots = [0, 1].map(|slot| found[slot].1.filter(|s| is_valid_in(slot, s)));
    let best = slots.iter().flatten().max_by_key(|s| s.generation.get()).copied();
    let copy = last_checkpoint(input).filter(|copy| slots[index(copy.generation.get() % 2)].is_none());
    match (best, copy) {
        (Some(best), Some(copy))
            if copy.generation.get() > best.generation.get() && copy.salt == best.salt =>
        {
            warnings.push("the newest superblock is damaged; its copy at the end of the file is used".into());
            Ok(copy)
        }
        (Some(best), _) => Ok(best),
        (None, Some(copy)) => {
            warnings.push("both superblocks are damaged; the copy at the end of the file is used".into());
            Ok(copy)
        }
        (None, None) => {
            // Report the position of a superblock that is present, if there is one.
            let (at, _) = found.iter().find(|(_, s)| s.is_some()).unwrap_or(&found[0]);
            let what = "the superblock is damaged, so is the other one, and there is no intact copy at the end of \
                        the file";
            Err(with_hint(Flaw::at(*at, what).into()))
        }
    }
}

/// Checks the values of a valid superblock that do not depend on the file, such as the sizes of the disk.
pub fn check_disk(s: &Superblock) -> Result<(), Error> {
    let fail = |field: usize, what: String| Err(Flaw::at(slot_offset(s) + field as u64, what).into());
    let version = s.version.get();
    if version == 0 || version > VERSION {
        let what = format!(
            "unsupported version {version} of the format; this program reads versions 1 to {VERSION}"
        );
        return fail(std::mem::offset_of!(Superblock, version), what);
    }
    let unknown = s.must_understand.get() & !HAS_LZ4;
    if unknown != 0 {
        let what = format!("the image requires features that this program does not support ({unknown:#x})");
        return fail(std::mem::offset_of!(Superblock, must_understand), what);
    }
    if s.state != STATE_ACQUIRING && s.state != STATE_COMPLETE {
        return fail(std::mem::offset_of!(Superblock, state), format!("unknown state {}", s.state));
    }
    let zero = s.zero1.iter().chain(&s.zero2).all(|b| *b == 0);
    if !zero || s.salt.get() == 0 {
        return fail(0, "a reserved field of the superblock is not zero, or its salt is zero".into());
    }
    if s.disk_size.get() == 0 || s.disk_size.get() > i64::MAX as u64 {
        return fail(
            std::mem::offset_of!(Superblock, disk_size),
            format!("invalid disk size: {} bytes", s.disk_size.get()),
        );
    }
    let chunk = s.chunk_size.get();
    if !chunk.is_power_of_two() || !(MIN_CHUNK_SIZE..=MAX_CHUNK_SIZE).contains(&chunk) {
        return fail(
            std::mem::offset_of!(Superblock, chunk_size),
            format!("invalid chunk size: {chunk} bytes"),
        );
    }
    for (field, sector) in [
        (std::mem::offset_of!(Superblock, logical_sector), s.logical_sector.get()),
        (std::mem::offset_of!(Superblock, physical_sector), s.physical_sector.get()),
    ] {
        if !is_sector_size(sector) {
            return fail(field, format!("invalid sector size: {sector} bytes"));
        }
    }
    Ok(())
}

/// Adds the advice to repair the image.
fn with_hint(e: Error) -> Error {
    e.hint(Advice::Repair)
}

/// Returns the offset at which a superblock belongs.
fn slot_offset(s: &Superblock) -> u64 {
    SUPERBLOCK_AT[index(s.generation.get() % 2)]
}

/// Checks all values of a valid superblock, including those that depend on the file.
pub(super) fn check(s: &Superblock, input: &Input) -> Result<(), Error> {
    check_disk(s)?;
    let fail = |field: usize, what: String| Err(Error::from(Flaw::at(slot_offset(s) + field as u64, what)));
    let end = s.committed_end.get();
    if end > input.len() {
        let missing = human(end - input.len());
        let what =
            format!("the file is truncated: it ends {missing} before byte {end}, the end of its records");
        return fail(std::mem::offset_of!(Superblock, committed_end), what).map_err(with_hint);
    }
    if !end.is_multiple_of(RECORD_ALIGN) {
        let what = format!("invalid end of the records: byte {end}");
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
            return fail(field, format!("invalid record offset: byte {at}"));
        }
    }
    if let Err(what) = check_entry(&s.root, end) {
        return fail(std::mem::offset_of!(Superblock, root), what.into());
    }
    Ok(())
}
