//! The file allocation table: which cluster follows which. FAT's and exFAT's, read in pages, from whichever copy can be read.
//!
//! Sources: Microsoft's "FAT: General Overview of On-Disk Format" 1.03, "FAT Data Structure", and "exFAT file system
//! specification" 4.1; Linux: `fs/fat/fatent.c`, `fs/exfat/fatent.c`.

use std::collections::VecDeque;
use std::ops::Range;

use cdi_base::error::ReadError;
use cdi_base::units::index;

use crate::bytes::{le16, le32};
use crate::volume::Volume;

/// The number of bytes of the table that are read at once.
pub(crate) const PAGE: u64 = 64 << 10;
/// The number of pages that are kept: 64 MiB.
const MAX_PAGES: usize = 1024;

/// How an entry is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    Fat12,
    Fat16,
    Fat32,
    Exfat,
}

impl Width {
    /// Returns the value that marks a bad cluster. What is larger ends a chain.
    fn bad(self) -> u32 {
        match self {
            Width::Fat12 => 0xFF7,
            Width::Fat16 => 0xFFF7,
            Width::Fat32 => 0x0FFF_FFF7,
            Width::Exfat => 0xFFFF_FFF7,
        }
    }

    /// Returns the byte of the table at which the entry of `cluster` begins, and its length in bytes.
    fn place(self, cluster: u32) -> (u64, usize) {
        let cluster = u64::from(cluster);
        match self {
            Width::Fat12 => (cluster + cluster / 2, 2),
            Width::Fat16 => (cluster * 2, 2),
            Width::Fat32 | Width::Exfat => (cluster * 4, 4),
        }
    }

    /// Returns the number of entries that fit in a table of `len` bytes.
    pub(crate) fn entries(self, len: u64) -> u64 {
        match self {
            Width::Fat12 => len.saturating_mul(2) / 3,
            Width::Fat16 => len / 2,
            Width::Fat32 | Width::Exfat => len / 4,
        }
    }

    fn value(self, cluster: u32, bytes: &[u8]) -> Option<u32> {
        match self {
            Width::Fat12 if cluster % 2 == 1 => le16(bytes, 0).map(|v| u32::from(v >> 4)),
            Width::Fat12 => le16(bytes, 0).map(|v| u32::from(v & 0xFFF)),
            Width::Fat16 => le16(bytes, 0).map(u32::from),
            Width::Fat32 => le32(bytes, 0).map(|v| v & 0x0FFF_FFFF),
            Width::Exfat => le32(bytes, 0),
        }
    }
}

/// What follows a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// This cluster.
    Next(u32),
    /// Nothing: it is the last.
    End,
    /// Nothing: the cluster is free.
    Free,
    /// Something that no chain can have: a cluster that is bad or does not exist.
    Invalid(u32),
    /// The entry can be read in no copy.
    Lost(ReadError),
}

/// Where the tables are.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) width: Width,
    /// The byte of the volume at which each copy begins that is in use, the preferred one first.
    pub(crate) copies: Vec<u64>,
    /// The number of clusters. They are numbered from 2.
    pub(crate) clusters: u32,
}

impl Layout {
    /// Returns the length in bytes of the part of a copy that has entries.
    pub(crate) fn len(&self) -> u64 {
        let last = self.clusters.saturating_add(1);
        let (at, len) = self.width.place(last);
        at + len as u64
    }

    /// Returns the last cluster.
    pub(crate) fn last(&self) -> u32 {
        self.clusters.saturating_add(1)
    }

    /// Returns the first and the last cluster whose entries have a byte in `range` of the table.
    pub(crate) fn clusters_of(&self, range: &Range<u64>) -> (u32, u32) {
        let (first, last) = match self.width {
            Width::Fat12 => (range.start.saturating_sub(1) * 2 / 3, range.end * 2 / 3),
            Width::Fat16 => (range.start / 2, range.end.saturating_sub(1) / 2),
            Width::Fat32 | Width::Exfat => (range.start / 4, range.end.saturating_sub(1) / 4),
        };
        let cut = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).clamp(2, self.last());
        (cut(first), cut(last))
    }

    fn link(&self, value: u32) -> Link {
        match value {
            0 => Link::Free,
            v if v > self.width.bad() => Link::End,
            v if v >= 2 && v <= self.last() => Link::Next(v),
            v => Link::Invalid(v),
        }
    }
}

/// What could be read of a part of the table, from all copies.
pub(crate) struct Page {
    bytes: Vec<u8>,
    /// What can be read in no copy, by offset in the table.
    pub(crate) lost: Vec<(Range<u64>, ReadError)>,
}

/// Reads the table.
pub(crate) struct Table<'a> {
    volume: Volume<'a>,
    layout: &'a Layout,
    pages: Vec<Option<Box<Page>>>,
    loaded: VecDeque<usize>,
}

impl<'a> Table<'a> {
    pub(crate) fn new(volume: &Volume<'a>, layout: &'a Layout) -> Table<'a> {
        let count = index(layout.len().div_ceil(PAGE));
        let pages = std::iter::repeat_with(|| None).take(count).collect();
        Table { volume: *volume, layout, pages, loaded: VecDeque::new() }
    }

    /// Returns the number of pages.
    pub(crate) fn count(&self) -> usize {
        self.pages.len()
    }

    /// Returns a page of the table. There must be one of that number.
    pub(crate) fn page(&mut self, number: usize) -> &Page {
        if self.pages[number].is_none() {
            if self.loaded.len() >= MAX_PAGES
                && let Some(oldest) = self.loaded.pop_front()
            {
                self.pages[oldest] = None;
            }
            self.loaded.push_back(number);
        }
        let (volume, layout) = (&self.volume, self.layout);
        self.pages[number].get_or_insert_with(|| {
            let start = number as u64 * PAGE;
            Box::new(load(volume, layout, start..(start + PAGE).min(layout.len())))
        })
    }

    /// Returns what the table says of `cluster`, which must be one of the volume's. An entry that no chain can have is looked
    /// up in the other copy.
    pub(crate) fn link(&mut self, cluster: u32) -> Link {
        match self.in_page(cluster) {
            found @ (Link::Free | Link::Invalid(_)) => match self.in_second(cluster) {
                Some(second @ (Link::Next(_) | Link::End)) => second,
                _ => found,
            },
            found => found,
        }
    }

    /// Returns whether each entry can be read in some copy.
    pub(crate) fn is_whole(&mut self) -> bool {
        (0..self.count()).all(|number| self.page(number).lost.is_empty())
    }

    /// Returns what the first copy that can be read says of `cluster`.
    pub(crate) fn in_page(&mut self, cluster: u32) -> Link {
        let layout = self.layout;
        let (at, len) = layout.width.place(cluster);
        let page = self.page(index(at / PAGE));
        let lost = page.lost.partition_point(|(range, _)| range.end <= at);
        if let Some((range, error)) = page.lost.get(lost)
            && range.start < at + len as u64
        {
            return Link::Lost(*error);
        }
        let bytes = page.bytes.get(index(at % PAGE)..).unwrap_or_default();
        layout.width.value(cluster, bytes).map_or(Link::Lost(ReadError::PastEnd), |v| layout.link(v))
    }

    fn in_second(&self, cluster: u32) -> Option<Link> {
        let (at, len) = self.layout.width.place(cluster);
        let bytes = self.volume.read(self.layout.copies.get(1)?.checked_add(at)?, len).ok()?;
        self.layout.width.value(cluster, &bytes).map(|v| self.layout.link(v))
    }
}

fn load(volume: &Volume<'_>, layout: &Layout, range: Range<u64>) -> Page {
    let mut bytes = vec![0; index(range.end - range.start)];
    let mut lost = vec![(range.clone(), ReadError::PastEnd)];
    for copy in &layout.copies {
        let mut still = Vec::new();
        for (wanted, _) in lost {
            let part = volume.read_part(copy + wanted.start..copy + wanted.end);
            let mut at = part.range().start;
            let end = (part.range().end, part.range().end..copy + wanted.end, ReadError::PastEnd);
            let holes = part.lost().iter().map(|(hole, e)| (hole.start, hole.clone(), *e));
            for (good_end, hole, error) in holes.chain([end]) {
                if let Ok(good) = part.get(at, index(good_end - at)) {
                    let to = index(at - copy - range.start);
                    bytes[to..to + good.len()].copy_from_slice(good);
                }
                at = hole.end;
                if !hole.is_empty() {
                    still.push((hole.start - copy..hole.end - copy, error));
                }
            }
        }
        lost = still;
    }
    Page { bytes, lost }
}
