//! Reports structures: intact ones of a sort together, damaged ones one by one.

use std::ops::Range;

use crate::file_system::{Damage, Structure, Visitor};

/// The number of ranges that are reported at once.
const MAX_RANGES: usize = 4096;

/// Structures of one sort.
pub(super) struct Structures {
    what: &'static str,
    intact: Vec<Range<u64>>,
}

impl Structures {
    /// Makes an empty list of structures that are called `what` together.
    pub(super) fn new(what: &'static str) -> Structures {
        Structures { what, intact: Vec::new() }
    }

    /// Takes one that is intact.
    pub(super) fn intact(&mut self, at: Range<u64>, visitor: &mut dyn Visitor) -> bool {
        join(&mut self.intact, at);
        self.intact.len() < MAX_RANGES || self.finish(visitor)
    }

    /// Reports those that are intact.
    pub(super) fn finish(&mut self, visitor: &mut dyn Visitor) -> bool {
        let at = std::mem::take(&mut self.intact);
        at.is_empty() || visitor.structure(Structure { what: self.what.into(), at, damage: None })
    }
}

/// Reports one that is damaged.
pub(super) fn damaged(
    visitor: &mut dyn Visitor,
    what: String,
    at: Range<u64>,
    damage: Damage,
    cost: impl Into<String>,
) -> bool {
    visitor.structure(Structure { what, at: vec![at], damage: Some((damage, cost.into())) })
}

/// Adds a range to a list; to its last range, if it follows that.
pub(super) fn join(list: &mut Vec<Range<u64>>, range: Range<u64>) {
    match list.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ if range.is_empty() => {}
        _ => list.push(range),
    }
}
