//! A set of the numbers of files, small if they are dense.

use std::collections::HashMap;

use cdi_base::units::index;

/// The IDs that a page has.
const PAGE: u64 = 4096;
/// The largest number of pages: 16 MiB, for 134 million IDs without gaps.
const MAX_PAGES: usize = 1 << 15;

/// A set of IDs.
#[derive(Debug, Default)]
pub(crate) struct IdSet {
    pages: HashMap<u64, Box<[u64; 64]>>,
    len: u64,
    full: bool,
}

impl IdSet {
    /// Adds `id`, unless that would take too much memory.
    pub(crate) fn insert(&mut self, id: u64) {
        let page = id / PAGE;
        if self.pages.len() >= MAX_PAGES && !self.pages.contains_key(&page) {
            self.full = true;
            return;
        }
        let bits = self.pages.entry(page).or_insert_with(|| Box::new([0; 64]));
        let (word, bit) = place(id);
        if bits[word] & bit == 0 {
            bits[word] |= bit;
            self.len += 1;
        }
    }

    /// Returns whether `id` was added.
    pub(crate) fn contains(&self, id: u64) -> bool {
        let (word, bit) = place(id);
        self.pages.get(&(id / PAGE)).is_some_and(|bits| bits[word] & bit != 0)
    }

    /// Returns how many were added; None if some were left out.
    pub(crate) fn len(&self) -> Option<u64> {
        (!self.full).then_some(self.len)
    }
}

/// Returns the word of a page, and the bit in it.
fn place(id: u64) -> (usize, u64) {
    let bit = id % PAGE;
    (index(bit / 64), 1 << (bit % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_counted_once() {
        let mut set = IdSet::default();
        for id in [0, 63, 64, 4095, 4096, u64::MAX, 64] {
            set.insert(id);
        }
        assert_eq!(set.len(), Some(6));
        assert!(set.contains(u64::MAX) && set.contains(64) && !set.contains(65));
    }

    #[test]
    fn memory_is_bounded() {
        let mut set = IdSet::default();
        for page in 0..=MAX_PAGES as u64 {
            set.insert(page * PAGE);
        }
        assert_eq!((set.len(), set.pages.len()), (None, MAX_PAGES));
    }
}
