//! Finds a superblock of a damaged image.

use cdi_base::error::Error;
use cdi_image::cdimg::layout::*;
use cdi_image::cdimg::scan::{Step, Walk};
use cdi_image::cdimg::superblock::check_disk;
use cdi_image::input::Input;

/// Returns an intact superblock of the image, from its place or from a copy in a CHECKPOINT record. If there are
/// several, returns the newest.
pub(super) fn find_superblock(
    input: &Input,
    step: &mut dyn FnMut(u64) -> Result<(), Error>,
) -> Result<Superblock, Error> {
    let parse = |at: u64| {
        let bytes = input.bytes(at, SUPERBLOCK_LEN, "a superblock").ok()?;
        Superblock::parse(&bytes).filter(|s| check_disk(s).is_ok())
    };
    let slots = SUPERBLOCK_AT.into_iter().filter_map(parse);
    if let Some(newest) = slots.max_by_key(|s| s.generation.get()) {
        return Ok(newest);
    }
    // Records of another image can only be inside a record of this one. The walk skips over the contents of records, so
    // the image with the most bytes is this one.
    let mut found: Vec<(u64, u64, Option<Superblock>)> = Vec::new();
    let mut walk = Walk::new(input, None, RECORDS_AT.min(input.len())..input.len());
    while let Some(found_step) = walk.step()? {
        let (at, header) = match found_step {
            Step::Header(at, header) => (at, header),
            Step::Searching(at) => {
                step(at)?;
                continue;
            }
            Step::Gap(_) => continue,
        };
        step(at)?;
        let salt = header.salt.get();
        if !found.iter().any(|(s, ..)| *s == salt) {
            if found.len() >= 1000 {
                continue;
            }
            found.push((salt, 0, None));
        }
        let Some((_, bytes, superblock)) = found.iter_mut().find(|(s, ..)| *s == salt) else { continue };
        *bytes += u64::from(header.stored.get());
        if header.kind == RecordType::Checkpoint as u8
            && let Some(copy) = parse(at + HEADER_LEN as u64).filter(|c| c.salt.get() == salt)
            && superblock.is_none_or(|h| h.generation.get() < copy.generation.get())
        {
            *superblock = Some(copy);
        }
    }
    found
        .into_iter()
        .filter_map(|(_, bytes, superblock)| Some((bytes, superblock?)))
        .max_by_key(|(bytes, _)| *bytes)
        .map(|(_, superblock)| superblock)
        .ok_or_else(|| {
            let what = "neither a superblock nor a copy of one found: not a .cdimg image, or nothing can be salvaged";
            Error::bad_image(what).at(input.path())
        })
}
