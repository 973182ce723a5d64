//! Names in directories whose records are lost: their index blocks are in clusters that are in use and belong to nothing that
//! is known. Each entry in them says which directory it is of.

use std::ops::Range;

use cdi_base::units::{SECTOR, index};

use crate::file_system::{Child, Damage, Data, Record, Structure, Visitor};

use super::bits;
use super::index::{self as names, MAGIC};
use super::io::Io;
use super::mft::Mft;
use super::scan;
use super::structures;
use super::table;

/// The largest volume in which is searched, in clusters: 128 MiB of memory.
const MAX_CLUSTERS: u64 = 1 << 30;
/// The number of places that are looked at.
const MAX_PROBES: u64 = 1 << 18;
/// After so many places without an index block, the rest of a range is taken for a file.
const MISSES: u64 = 1024;

/// Clusters that belong to something that is known.
struct Owned {
    cluster: u64,
    bits: Vec<u64>,
}

impl Owned {
    fn mark(&mut self, range: &Range<u64>) {
        for cluster in range.start / self.cluster..range.end.div_ceil(self.cluster) {
            if let Some(word) = self.bits.get_mut(index(cluster / 64)) {
                *word |= 1 << (cluster % 64);
            }
        }
    }

    fn mark_data(&mut self, data: &Data) {
        for run in data.place.runs() {
            if let Some(start) = run.volume {
                self.mark(
                    &(start..start.saturating_add(run.len).min(self.bits.len() as u64 * 64 * self.cluster)),
                );
            }
        }
    }

    fn has(&self, cluster: u64) -> bool {
        self.bits.get(index(cluster / 64)).is_none_or(|word| word >> (cluster % 64) & 1 != 0)
    }
}

impl Visitor for Owned {
    fn record(&mut self, record: Record) -> bool {
        self.mark_data(&record.data);
        record.streams.iter().for_each(|(_, data)| self.mark_data(data));
        record.metadata.iter().for_each(|range| self.mark(range));
        true
    }

    fn child(&mut self, _: Child) -> bool {
        true
    }

    fn lost_record(&mut self, _: u64, at: Range<u64>, _: Option<bool>, _: Damage) -> bool {
        self.mark(&at);
        true
    }

    fn structure(&mut self, structure: Structure) -> bool {
        structure.at.iter().for_each(|range| self.mark(range));
        true
    }
}

/// Reports the names in directories of which only the numbers are known: those in `lost`, in order. Returns whether the scan
/// goes on.
pub(super) fn find(io: &Io<'_>, mft: &Mft, lost: &[u64], visitor: &mut dyn Visitor) -> bool {
    let boot = &mft.boot;
    let end = boot.size.min(io.volume().size());
    let clusters = end / boot.cluster;
    if clusters > MAX_CLUSTERS {
        return true;
    }
    let Ok((extents, size, _)) = structures::clusters(io, mft) else { return true };
    let mut owned = Owned { cluster: boot.cluster, bits: vec![0; index(clusters.div_ceil(64))] };
    scan::known(io, mft, &mut owned);
    let mut used = Vec::new();
    let mut at = 0;
    bits::free(io.volume(), &extents, size, end, &mut |free| {
        used.push(at..free.start);
        at = free.end;
    });
    used.push(at..end);
    let step = boot.cluster.min(boot.index).max(u64::from(SECTOR));
    let (mut probes, mut misses) = (0, 0);
    for range in used {
        for cluster in range.start / boot.cluster..range.end / boot.cluster {
            if owned.has(cluster) {
                misses = 0;
                continue;
            }
            for at in (cluster * boot.cluster..(cluster + 1) * boot.cluster).step_by(index(step)) {
                probes += 1;
                misses += 1;
                if probes > MAX_PROBES {
                    return true;
                }
                if misses > MISSES || !io.read(at, MAGIC.len()).is_ok_and(|magic| magic == MAGIC) {
                    continue;
                }
                misses = 0;
                if !block(io, mft, at, lost, visitor) {
                    return false;
                }
            }
        }
    }
    true
}

/// Reports the names in an index block at byte `at`.
fn block(io: &Io<'_>, mft: &Mft, at: u64, lost: &[u64], visitor: &mut dyn Visitor) -> bool {
    match table::single(io, at, mft.boot.index, MAGIC) {
        Ok(unit) => names::of_lost(io, &mft.boot, &unit, lost, visitor),
        Err(_) => true,
    }
}
