//! Recognises a dead head by what is left: areas of a few lengths, at a few distances.

use cdi_image::badmap::Status;
use serde_json::{Value, json};

use super::Areas;

/// The shortest area that counts, in bytes: shorter than any band of a head.
const SHORTEST: u64 = 1 << 20;
/// The largest number of kinds of lengths, and of distances.
const KINDS: usize = 4;
/// How many of them must be like one before, at least.
const REPEATED: usize = 3;

/// A head that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadHead {
    /// The number of its bands.
    pub bands: u64,
    /// The length of most of them, in bytes.
    pub band: u64,
    /// All of them, in bytes.
    pub bytes: u64,
    /// Of how many bytes one is in them, about.
    pub of: u64,
}

impl DeadHead {
    /// Returns it for JSON.
    pub fn json(&self) -> Value {
        json!({ "bands": self.bands, "band_bytes": self.band, "bytes": self.bytes, "one_in": self.of })
    }
}

/// Returns the head that the areas are left by; None if they are not as regular as that.
pub(super) fn recognize(areas: &Areas, size: u64) -> Option<DeadHead> {
    let mut holes: Vec<(u64, u64)> = Vec::new();
    let (mut start, mut end, mut skipped, mut failed) = (0, 0, false, false);
    for area in
        areas.iter().map(|a| (a.start, a.end, a.status)).chain([(u64::MAX, u64::MAX, Status::Finished)])
    {
        if area.0 != end {
            // What is only slow is not dead.
            if skipped && failed && end - start >= SHORTEST {
                holes.push((start, end));
            }
            (start, skipped, failed) = (area.0, false, false);
        }
        let tried = area.2 != Status::NonTried;
        (end, skipped, failed) = (area.1, skipped || !tried, failed || tried);
    }
    // Those at the ends of the disk may be cut off.
    let inner = holes.iter().filter(|(start, end)| *start > 0 && *end < size);
    let lengths: Vec<u64> = inner.map(|(start, end)| end - start).collect();
    let gaps: Vec<u64> = holes.windows(2).map(|w| w[1].0 - w[0].1).collect();
    let (true, true) = (is_regular(&lengths), is_regular(&gaps)) else { return None };
    let bytes: u64 = holes.iter().map(|(start, end)| end - start).sum();
    let mut sorted = lengths;
    sorted.sort_unstable();
    let of = size.checked_add(bytes / 2)?.checked_div(bytes)?;
    Some(DeadHead { bands: holes.len() as u64, band: *sorted.get(sorted.len() / 2)?, bytes, of })
}

/// Returns whether nearly all of these are like one of a few before them; they may change slowly.
fn is_regular(all: &[u64]) -> bool {
    let mut kinds: Vec<u64> = Vec::new();
    let (mut repeated, mut odd) = (0, 0);
    for length in all {
        let like = |kind: &u64| kind.abs_diff(*length) <= (*kind).max(*length) / 8;
        match kinds.iter().position(like) {
            Some(n) => {
                kinds[n] = *length;
                repeated += 1;
            }
            None if kinds.len() < KINDS => kinds.push(*length),
            None => odd += 1,
        }
    }
    repeated >= REPEATED && (odd + kinds.len()) * 4 <= all.len() * 3 && odd * 10 <= all.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_lengths_that_come_again_are_regular() {
        assert!(is_regular(&[100, 50, 50, 100, 51, 49, 98, 50]));
        assert!(is_regular(&[100, 99, 97, 95, 92, 90]));
        assert!(!is_regular(&[100, 50, 100]));
        assert!(!is_regular(&[7, 900, 31, 4000, 120, 66, 15, 2, 300]));
    }
}
