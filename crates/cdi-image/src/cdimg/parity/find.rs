//! Finds the description of a file's parity.

use cdi_base::units::index;

use super::super::layout::*;
use super::layout::*;
use crate::input::Input;

/// How far a description is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Within some mebibytes before the end of the file and before each end that a superblock gives: a longer file with
    /// parity has several descriptions there. What follows the last committed record may be long: a writer was killed.
    NearEnd,
    /// In the whole file, from its end. This can take long.
    Everywhere,
}

/// How far from an end is near, in bytes.
const NEAR: u64 = 64 << 20;
/// How much is searched at a time, in bytes.
const STEP: u64 = 1 << 20;

/// Returns the newest description of parity in `input`. `known` are the superblocks of the image that are left.
pub fn find(input: &Input, known: &[Superblock], effort: Effort) -> Option<Description> {
    let salt = known.first().map(|s| s.salt.get());
    let is_ours = |d: &Description| salt.is_none_or(|salt| d.superblock.salt.get() == salt);
    let mut ends: Vec<u64> = known.iter().map(|s| s.committed_end.get().min(input.len())).collect();
    ends.push(input.len());
    ends.sort_unstable_by(|a, b| b.cmp(a));
    ends.dedup();
    // Right before a checkpoint.
    let after = (DESCRIPTION_LEN + HEADER_LEN + SUPERBLOCK_LEN) as u64;
    let before = |end: u64| {
        let at = end.checked_sub(after)?;
        let bytes = input.bytes(at, DESCRIPTION_LEN, "a description of parity").ok()?;
        Description::parse(&bytes).filter(|d| d.records_end() < at && is_ours(d))
    };
    // From the last one on: before an earlier end there may be an earlier parity, which was replaced. What is near one end
    // may be near the next.
    let mut searched = input.len();
    for end in ends {
        if let Some(found) = before(end) {
            return Some(found);
        }
        let mut end = end.min(searched);
        let lowest = match effort {
            Effort::NearEnd => end.saturating_sub(NEAR).max(RECORDS_AT),
            Effort::Everywhere => RECORDS_AT,
        };
        while end > lowest {
            let start = (end - 1).saturating_sub(STEP - 1).max(lowest) / BLOCK * BLOCK;
            let found = last_within(input, start, end, &is_ours);
            if found.is_some() {
                return found;
            }
            end = start;
        }
        searched = end;
    }
    None
}

/// Returns the last description at the start of a record in a part of the file, which begins at the start of a block.
fn last_within(
    input: &Input,
    start: u64,
    end: u64,
    is_ours: &dyn Fn(&Description) -> bool,
) -> Option<Description> {
    let parsed = |(n, block): (usize, &[u8])| {
        let at = start + n as u64 * BLOCK;
        let bytes = block.get(HEADER_LEN..).filter(|bytes| bytes.starts_with(&DESCRIPTION_MAGIC))?;
        Description::parse(bytes).filter(|d| is_ours(d) && d.is_record_at(at))
    };
    let mut bytes = vec![0; index(end - start)];
    if input.read_exact_at(Input::MAIN, &mut bytes, start).is_err() {
        // Some of it cannot be read: blocks that cannot are zeros.
        bytes.fill(0);
        for (n, block) in bytes.chunks_mut(BLOCK_LEN).enumerate() {
            if input.read_exact_at(Input::MAIN, block, start + n as u64 * BLOCK).is_err() {
                block.fill(0);
            }
        }
    }
    bytes.chunks(BLOCK_LEN).enumerate().rev().find_map(parsed)
}
