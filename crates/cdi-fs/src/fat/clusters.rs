//! Clusters and their chains: FAT's and exFAT's.

use std::ops::Range;

use cdi_base::units::index;

use crate::fat::table::{Link, Table};
use crate::file_system::{Damage, MAX_RUNS, Run};

/// The largest number of clusters that are remembered as used: 64 MiB of bits, taken as they are needed.
const MAX_BITS: usize = 16 << 10;
/// The number of bits that are taken at once.
const BITS: u32 = 32 << 10;

/// Where clusters are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heap {
    /// The byte of the volume at which cluster 2 begins.
    pub(crate) start: u64,
    /// The size of a cluster in bytes.
    pub(crate) cluster: u64,
    /// The number of clusters.
    pub(crate) count: u32,
}

impl Heap {
    /// Returns whether there is such a cluster.
    pub(crate) fn has(&self, cluster: u32) -> bool {
        cluster >= 2 && cluster - 2 < self.count
    }

    /// Returns the byte of the volume at which `cluster` begins, which must exist.
    pub(crate) fn at(&self, cluster: u32) -> u64 {
        self.start + u64::from(cluster.saturating_sub(2)) * self.cluster
    }
}

/// A set of clusters.
pub(crate) struct Bits {
    parts: Vec<Option<Box<[u64; BITS as usize / 64]>>>,
    taken: usize,
}

impl Bits {
    pub(crate) fn new(heap: &Heap) -> Bits {
        let parts = (u64::from(heap.count) + 2).div_ceil(u64::from(BITS));
        Bits { parts: std::iter::repeat_with(|| None).take(index(parts)).collect(), taken: 0 }
    }

    /// Returns a set that takes nothing.
    pub(crate) fn none() -> Bits {
        Bits { parts: Vec::new(), taken: 0 }
    }

    /// Adds `cluster`. Returns whether it is new; always, once the set has no more room.
    pub(crate) fn insert(&mut self, cluster: u32) -> bool {
        let Some(part) = self.parts.get_mut((cluster / BITS) as usize) else { return true };
        if part.is_none() {
            if self.taken >= MAX_BITS {
                return true;
            }
            self.taken += 1;
        }
        let part = part.get_or_insert_with(|| Box::new([0; BITS as usize / 64]));
        let (word, bit) = ((cluster % BITS / 64) as usize, 1 << (cluster % 64));
        let new = part[word] & bit == 0;
        part[word] |= bit;
        new
    }

    /// Returns whether it has `cluster`.
    pub(crate) fn has(&self, cluster: u32) -> bool {
        let part = self.parts.get((cluster / BITS) as usize).and_then(Option::as_ref);
        part.is_some_and(|part| part[(cluster % BITS / 64) as usize] & (1 << (cluster % 64)) != 0)
    }
}

/// The clusters of a file or directory, as far as they are known.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    /// The first cluster, and the number, of each run of clusters.
    pub(crate) runs: Vec<(u32, u32)>,
    /// The number of clusters.
    pub(crate) clusters: u64,
    /// Why the rest is not known.
    pub(crate) damage: Option<Damage>,
}

impl Chain {
    pub(crate) fn push(&mut self, cluster: u32) {
        self.clusters += 1;
        match self.runs.last_mut() {
            Some((first, count)) if first.checked_add(*count) == Some(cluster) => *count += 1,
            _ => self.runs.push((cluster, 1)),
        }
    }

    fn has(&self, cluster: u32) -> bool {
        self.runs.iter().any(|(first, count)| cluster >= *first && cluster - first < *count)
    }

    /// Returns where it is on a volume of `size` bytes, without what lies past its end.
    pub(crate) fn ranges(&self, heap: &Heap, size: u64) -> Vec<Range<u64>> {
        let place = |(first, count): &(u32, u32)| {
            let start = heap.at(*first);
            start..(start + u64::from(*count) * heap.cluster).min(size)
        };
        self.runs.iter().map(place).filter(|range| !range.is_empty()).collect()
    }

    /// Returns its contents, without what lies past the end of a volume of `size` bytes, and whether anything does.
    pub(crate) fn contents(&self, heap: &Heap, size: u64) -> (Vec<Run>, bool) {
        let (mut runs, mut file, mut cut) = (Vec::with_capacity(self.runs.len()), 0, false);
        for (first, count) in &self.runs {
            let (start, len) = (heap.at(*first), u64::from(*count) * heap.cluster);
            let there = len.min(size.saturating_sub(start));
            cut |= there < len;
            if there > 0 {
                runs.push(Run { file, len: there, volume: Some(start), unwritten: false });
            }
            file += len;
        }
        (runs, cut)
    }
}

/// Follows chains.
pub(crate) struct Follower<'a> {
    pub(crate) table: Table<'a>,
    pub(crate) heap: Heap,
    /// All clusters of the chains so far.
    pub(crate) seen: Bits,
    /// The number of links that may still be followed. Chains that share no clusters have no more links than there are
    /// clusters.
    budget: u64,
}

impl<'a> Follower<'a> {
    pub(crate) fn new(table: Table<'a>, heap: Heap) -> Follower<'a> {
        Follower { table, heap, seen: Bits::new(&heap), budget: u64::from(heap.count) * 4 + (1 << 20) }
    }

    /// Follows the chain of a file of `clusters` clusters. It is damaged if it ends before; clusters after these are ignored.
    pub(crate) fn file(&mut self, first: u32, clusters: u64) -> Chain {
        self.follow(first, clusters, false, true)
    }

    /// Follows the chain of something of unknown size, for `limit` clusters at most. If it was followed before, `again`, its
    /// clusters are not taken for another's.
    pub(crate) fn whole(&mut self, first: u32, limit: u64, again: bool) -> Chain {
        self.follow(first, limit, true, !again)
    }

    /// Notes that the `count` clusters from `first` on belong to something.
    pub(crate) fn mark(&mut self, first: u32, count: u64) {
        let count = count.min(self.budget);
        self.budget -= count;
        for cluster in (first..).take(index(count)) {
            self.seen.insert(cluster);
        }
    }

    fn follow(&mut self, first: u32, limit: u64, ends: bool, mark_seen: bool) -> Chain {
        let mut chain = Chain::default();
        let mut cluster = first;
        // Brent's algorithm finds a loop where the set of seen clusters does not.
        let (mut mark, mut next_mark, mut shared) = (0, 2, !mark_seen);
        if limit == 0 {
            return chain;
        }
        if !self.heap.has(first) {
            chain.damage =
                Some(Damage::Invalid(format!("it begins at cluster {first}, which does not exist")));
            return chain;
        }
        loop {
            if !shared && !self.seen.insert(cluster) {
                shared = true;
                if chain.has(cluster) {
                    chain.damage = Some(looped(cluster));
                    return chain;
                }
            }
            if cluster == mark {
                chain.damage = Some(looped(cluster));
                return chain;
            }
            if chain.clusters == next_mark {
                (mark, next_mark) = (cluster, next_mark * 2);
            }
            chain.push(cluster);
            if chain.clusters >= limit {
                break;
            }
            if self.budget == 0 || chain.runs.len() > MAX_RUNS {
                chain.damage = Some(Damage::Invalid("its chain of clusters is too long".into()));
                return chain;
            }
            self.budget -= 1;
            match self.table.link(cluster) {
                Link::Next(next) => cluster = next,
                Link::End if ends => break,
                Link::End => {
                    let text = format!("its chain of clusters ends after {} of {limit}", chain.clusters);
                    chain.damage = Some(Damage::Invalid(text));
                    return chain;
                }
                Link::Lost(error) => {
                    chain.damage = Some(Damage::Unreadable(error));
                    return chain;
                }
                Link::Free => {
                    let text =
                        format!("its chain of clusters reaches cluster {cluster}, which is marked free");
                    chain.damage = Some(Damage::Invalid(text));
                    return chain;
                }
                Link::Invalid(value) => {
                    let text =
                        format!("its chain of clusters is broken: cluster {value} cannot follow {cluster}");
                    chain.damage = Some(Damage::Invalid(text));
                    return chain;
                }
            }
        }
        if shared && mark_seen {
            chain.damage =
                Some(Damage::Invalid("another file or directory uses some of its clusters".into()));
        }
        chain
    }
}

fn looped(cluster: u32) -> Damage {
    Damage::Invalid(format!("its chain of clusters is a loop at cluster {cluster}"))
}
