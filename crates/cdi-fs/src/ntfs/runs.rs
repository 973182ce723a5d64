//! The list of runs ("mapping pairs") of an attribute: which clusters it has.
//!
//! Facts: `ntfs_mapping_pairs_decompress` in ntfs-3g's runlist.c, `run_unpack` in Linux's fs/ntfs3/run.c.

use std::ops::Range;

use crate::file_system::{MAX_RUNS, Run};

/// Clusters of an attribute that lie one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// The first, counted from the attribute's start.
    pub(super) vcn: u64,
    /// How many there are.
    pub(super) len: u64,
    /// The first, counted from the volume's start; None for a hole.
    pub(super) lcn: Option<u64>,
}

impl Extent {
    /// Returns the cluster after the last, counted from the attribute's start.
    pub(super) fn end(&self) -> u64 {
        self.vcn + self.len
    }
}

/// Appends the runs of `pairs`, of which the first begins at cluster `vcn` of the attribute, to `out`. The volume has
/// `clusters`. Returns the attribute's cluster after the last; on an error, `out` has the runs before it.
pub(super) fn decode(pairs: &[u8], vcn: u64, clusters: u64, out: &mut Vec<Extent>) -> Result<u64, String> {
    let mut vcn = vcn;
    let mut lcn = 0i64;
    let mut rest = pairs;
    while let Some((&head, after)) = rest.split_first() {
        if head == 0 {
            return Ok(vcn);
        }
        let (lens, offsets) = (usize::from(head & 15), usize::from(head >> 4));
        if lens == 0 || lens > 8 || offsets > 8 || after.len() < lens + offsets {
            return Err("a run has a wrong length".into());
        }
        let len = u64::try_from(number(&after[..lens])).ok().filter(|&len| len > 0);
        let len = len.ok_or("a run has no clusters")?;
        let end = vcn.checked_add(len).filter(|&end| end <= 1 << 62).ok_or("a run is too long")?;
        let place = if offsets == 0 {
            None
        } else {
            lcn =
                lcn.checked_add(number(&after[lens..lens + offsets])).ok_or("a run is outside the volume")?;
            // NTFS before version 3 stored a hole as cluster -1.
            (lcn != -1).then_some(lcn)
        };
        let place = match place.map(u64::try_from) {
            None => None,
            Some(Ok(first)) if first.checked_add(len).is_some_and(|end| end <= clusters) => Some(first),
            Some(_) => return Err("a run is outside the volume".into()),
        };
        push(out, Extent { vcn, len, lcn: place })?;
        vcn = end;
        rest = &after[lens + offsets..];
    }
    Err("the list of runs has no end".into())
}

/// A signed number of 1 to 8 bytes.
fn number(bytes: &[u8]) -> i64 {
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut whole = if negative { [0xFF; 8] } else { [0; 8] };
    whole[..bytes.len()].copy_from_slice(bytes);
    i64::from_le_bytes(whole)
}

/// Appends an extent, to the last one if it continues that.
fn push(out: &mut Vec<Extent>, extent: Extent) -> Result<(), String> {
    if let Some(last) = out.last_mut()
        && last.end() == extent.vcn
        && last.lcn.map(|lcn| lcn + last.len) == extent.lcn
    {
        last.len += extent.len;
        return Ok(());
    }
    if out.len() >= MAX_RUNS {
        return Err("it has too many runs".into());
    }
    out.push(extent);
    Ok(())
}

/// Clusters of an attribute, in order, and their size in bytes. What is between them is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Extents {
    /// The extents.
    pub(super) list: Vec<Extent>,
    /// The size of a cluster.
    pub(super) cluster: u64,
}

impl Extents {
    /// Returns the byte after the last that is known.
    pub(super) fn end(&self) -> u64 {
        self.list.last().map_or(0, |last| last.end().saturating_mul(self.cluster))
    }

    /// Returns where byte `at` of the attribute is on the volume, and how many bytes follow there; None if that is not known,
    /// or a hole.
    pub(super) fn find(&self, at: u64) -> Option<(u64, u64)> {
        let vcn = at / self.cluster.max(1);
        let next = self.list.partition_point(|extent| extent.end() <= vcn);
        let extent = self.list.get(next).filter(|extent| extent.vcn <= vcn)?;
        let into = at - extent.vcn * self.cluster;
        Some((extent.lcn? * self.cluster + into, extent.len * self.cluster - into))
    }

    /// Returns where the bytes `at..at + len` of the attribute are on the volume; None if a part is not known, or a hole.
    pub(super) fn places(&self, at: u64, len: u64) -> Option<Vec<Range<u64>>> {
        let mut places = Vec::with_capacity(1);
        let mut done = 0;
        while done < len {
            let (from, follow) = self.find(at.checked_add(done)?)?;
            let part = follow.min(len - done);
            places.push(from..from + part);
            done += part;
        }
        Some(places)
    }

    /// Returns the ranges of the volume that the attribute has.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let cluster = self.cluster;
        let range = move |e: &Extent| e.lcn.map(|lcn| lcn * cluster..(lcn + e.len) * cluster);
        self.list.iter().filter_map(range)
    }

    /// Returns the runs of the contents of a file of `size` bytes. What follows `written` reads as zeros.
    pub(super) fn runs(&self, size: u64, written: u64) -> Vec<Run> {
        let mut runs = Vec::with_capacity(self.list.len());
        for extent in &self.list {
            let Some(file) = extent.vcn.checked_mul(self.cluster).filter(|&file| file < size) else { break };
            let len = extent.len.saturating_mul(self.cluster).min(u64::MAX - file);
            let volume = extent.lcn.map(|lcn| lcn * self.cluster);
            let whole = Run { file, len, volume, unwritten: false };
            let before = written.saturating_sub(file).min(len);
            if volume.is_none() || before == len {
                runs.push(whole);
                continue;
            }
            if before > 0 {
                runs.push(Run { len: before, ..whole });
            }
            if file + before < size {
                let volume = volume.map(|at| at + before);
                runs.push(Run { file: file + before, len: len - before, volume, unwritten: true });
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(vcn: u64, len: u64, lcn: Option<u64>) -> Extent {
        Extent { vcn, len, lcn }
    }

    #[test]
    fn runs_are_relative_to_the_one_before() {
        let mut out = Vec::new();
        let pairs =
            [0x21, 0x18, 0x34, 0x56, 0x11, 0x10, 0xF0, 0x01, 0x04, 0x11, 0x02, 0x20, 0x11, 0x01, 0x02, 0];
        assert_eq!(decode(&pairs, 0, 1 << 20, &mut out), Ok(0x2F));
        let first = 0x5634;
        let expected = [
            extent(0, 0x18, Some(first)),
            extent(0x18, 0x10, Some(first - 16)),
            extent(0x28, 4, None),
            extent(0x2C, 3, Some(first + 16)),
        ];
        assert_eq!(out, expected);
        let extents = Extents { list: out, cluster: 4096 };
        assert_eq!(extents.find(0x28 * 4096), None);
        assert_eq!(extents.find(0x18 * 4096 + 5), Some(((first - 16) * 4096 + 5, 16 * 4096 - 5)));
        assert_eq!(extents.places(0x17 * 4096, 8192).unwrap().len(), 2);
        assert_eq!(extents.places(0x27 * 4096, 8192), None);
    }

    #[test]
    fn nonsense_is_an_error() {
        for pairs in [
            &[0x11, 1][..],
            &[0x10, 1, 0],
            &[0x19, 0],
            &[0x11, 0, 5, 0],
            &[0x11, 0x80, 5, 0],
            &[0x01, 1],
            &[0x11, 1, 0xFE, 0],
            &[0x21, 1, 0xFF, 0x7F, 0],
            &[0x08, 255, 255, 255, 255, 255, 255, 255, 0x7F, 0],
        ] {
            assert!(decode(pairs, 0, 1000, &mut Vec::new()).is_err(), "{pairs:?}");
        }
        assert_eq!(decode(&[0], 7, 1000, &mut Vec::new()), Ok(7));
    }

    #[test]
    fn what_was_not_written_is_split_off() {
        let extents = Extents {
            list: vec![extent(0, 2, Some(10)), extent(2, 2, None), extent(4, 4, Some(50))],
            cluster: 512,
        };
        let run = |file, len, volume, unwritten| Run { file, len, volume, unwritten };
        let all = [
            run(0, 1024, Some(5120), false),
            run(1024, 1024, None, false),
            run(2048, 2048, Some(25600), false),
        ];
        assert_eq!(extents.runs(4096, 4096), all);
        let split = extents.runs(4000, 2100);
        assert_eq!(split[2..], [run(2048, 52, Some(25600), false), run(2100, 1996, Some(25652), true)]);
        assert_eq!(extents.runs(1024, 0), [run(0, 1024, Some(5120), true)]);
    }
}
