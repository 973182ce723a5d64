//! The attributes file, as far as it says where contents are: which files are compressed, and which attributes have blocks of
//! their own.
//!
//! Facts: TN1150, "Attributes File"; the records in Apple's hfs_format.h (HFSPlusAttrKey, HFSPlusAttrRecord); the header of
//! com.apple.decmpfs in Apple's sys/decmpfs.h.

use std::ops::Range;

use super::btree::{Lost, Tree};
use super::fork::{Extents, Fork, Layout, RawFork, extents};
use super::names::name;
use crate::bytes::{be16, be32, le32, le64};
use crate::file_system::Data;
use crate::file_system::Place;
use crate::volume::Volume;

/// The largest number of compressed files, and of attributes with blocks of their own, that are kept.
const MAX_COMPRESSED: usize = 1 << 20;
const MAX_FORKS: usize = 1 << 15;

/// The kinds of records: contents in the record, in a fork, and more extents of one.
const INLINE: u32 = 0x10;
const FORK: u32 = 0x20;
const EXTENTS: u32 = 0x30;

/// That a file is compressed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Compressed {
    id: u32,
    /// Its size when it is decompressed.
    pub(super) size: u64,
    /// Whether the compressed contents are the resource fork; else they are in the attribute.
    pub(super) in_resource: bool,
    at: u64,
    len: u32,
}

impl Compressed {
    /// Returns where the attribute is, in the attributes file.
    pub(super) fn place(&self) -> Range<u64> {
        self.at..self.at + u64::from(self.len)
    }
}

/// A part of an attribute that has blocks of its own.
#[derive(Debug)]
struct ForkPart {
    id: u32,
    name: String,
    start: u32,
    extents: Extents,
    /// The whole fork, in the first part.
    fork: Option<RawFork>,
    at: u64,
}

/// What the attributes file has.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    compressed: Vec<Compressed>,
    forks: Vec<ForkPart>,
    /// Whether some could not be read.
    pub(super) incomplete: bool,
}

impl Attributes {
    /// Reads all records of `tree`. Returns the nodes of which something is lost.
    pub(super) fn load(volume: &Volume<'_>, tree: &Tree) -> (Attributes, Vec<Lost>) {
        let mut all = Attributes::default();
        let mut invalid = false;
        let lost = tree.scan(volume, &mut |leaf| {
            invalid |= leaf.cut || all.add(leaf.bytes, leaf.at).is_none();
            true
        });
        all.compressed.sort_by_key(|c| c.id);
        all.compressed.dedup_by_key(|c| c.id);
        all.forks.sort_by(|a, b| (a.id, &a.name, a.start).cmp(&(b.id, &b.name, b.start)));
        all.forks.dedup_by(|a, b| (a.id, &a.name, a.start) == (b.id, &b.name, b.start));
        let lost = lost.unwrap_or_default();
        all.incomplete = invalid || !lost.is_empty();
        (all, lost)
    }

    /// Takes a record. None if it makes no sense, or there are too many.
    fn add(&mut self, bytes: &[u8], at: u64) -> Option<()> {
        let key = usize::from(be16(bytes, 0)?);
        let (id, start) = (be32(bytes, 4)?, be32(bytes, 8)?);
        let (name, _) = name(bytes.get(12..)?)?;
        let data = bytes.get(2 + key..)?;
        match be32(data, 0)? {
            INLINE if name == "com.apple.decmpfs" => {
                let header = data.get(16..32).filter(|header| header.starts_with(b"fpmc"))?;
                if self.compressed.len() >= MAX_COMPRESSED {
                    return None;
                }
                let in_resource = matches!(le32(header, 4)?, 4 | 8 | 10 | 12 | 14);
                let len = u32::try_from(bytes.len()).ok()?;
                self.compressed.push(Compressed { id, size: le64(header, 8)?, in_resource, at, len });
            }
            INLINE => {}
            kind @ (FORK | EXTENTS) => {
                if self.forks.len() >= MAX_FORKS {
                    return None;
                }
                let fork = if kind == FORK { Some(RawFork::parse(data.get(8..88)?)?) } else { None };
                let extents = fork.map_or_else(|| extents(data.get(8..72)?), |fork| Some(fork.extents))?;
                self.forks.push(ForkPart { id, name, start, extents, fork, at });
            }
            _ => return None,
        }
        Some(())
    }

    /// Returns whether a file is compressed, and how.
    pub(super) fn compressed(&self, id: u32) -> Option<&Compressed> {
        self.compressed.binary_search_by_key(&id, |c| c.id).ok().map(|i| &self.compressed[i])
    }

    /// Returns the attributes of a file that have blocks of their own, with where their records are in the attributes file.
    pub(super) fn forks(&self, id: u32, layout: Layout) -> Vec<(String, Data, Range<u64>)> {
        let first = self.forks.partition_point(|part| part.id < id);
        let parts = self.forks.get(first..).unwrap_or_default().iter().take_while(|part| part.id == id);
        let mut found: Vec<(String, Fork, Range<u64>)> = Vec::new();
        for part in parts {
            match (&part.fork, found.last_mut()) {
                (Some(raw), _) => {
                    let place = part.at..part.at + 88 + 14 + 2 * part.name.encode_utf16().count() as u64;
                    found.push((part.name.clone(), Fork::new(raw, layout), place));
                }
                (None, Some((name, fork, _))) if *name == part.name && part.start >= fork.known => {
                    fork.skip(part.start);
                    fork.add(&part.extents, layout);
                }
                (None, _) => {}
            }
        }
        let data = |fork: Fork| Data { size: fork.size, place: Place::Runs(fork.runs), packed: None };
        found.into_iter().map(|(name, fork, place)| (name, data(fork), place)).collect()
    }
}

/// Returns the length of a record.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let key = usize::from(be16(bytes, 0)?);
    let units = usize::from(be16(bytes, 12)?);
    if units > 127 || key < 12 + 2 * units || key > 266 {
        return None;
    }
    let data = bytes.get(2 + key..)?;
    let len = match be32(data, 0)? {
        INLINE => 16usize.checked_add(usize::try_from(be32(data, 12)?).ok()?)?,
        FORK => 88,
        EXTENTS => 72,
        _ => return None,
    };
    (2 + key).checked_add(len).filter(|len| *len < 1 << 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_system::Run;

    /// Makes a record of the attributes file.
    fn record(id: u32, start: u32, name: &str, data: &[u8]) -> Vec<u8> {
        let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_be_bytes).collect();
        let len = u16::try_from(12 + units.len()).unwrap();
        let mut bytes = len.to_be_bytes().to_vec();
        bytes.extend([0, 0]);
        bytes.extend(id.to_be_bytes());
        bytes.extend(start.to_be_bytes());
        bytes.extend(u16::try_from(name.len()).unwrap().to_be_bytes());
        bytes.extend(units);
        bytes.extend(data);
        bytes
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn attributes_with_blocks_of_their_own_are_found() {
        let mut all = Attributes::default();
        // 40,000 bytes, ten blocks: eight extents of a block, and two in another record.
        let mut fork = words(&[FORK, 0, 0, 40_000, 0, 10]);
        fork.extend((0..8).flat_map(|i| words(&[100 + 2 * i, 1])));
        let mut more = words(&[EXTENTS, 0, 200, 2]);
        more.extend([0; 56]);
        for (at, bytes) in [(8192, record(20, 0, "large", &fork)), (9000, record(20, 8, "large", &more))] {
            assert_eq!(length(&bytes), Some(bytes.len()));
            assert_eq!(all.add(&bytes, at), Some(()));
        }
        let layout = Layout { base: 0, block_size: 4096, blocks: 1000 };
        let found = all.forks(20, layout);
        let [(name, data, _)] = found.as_slice() else { panic!("{found:?}") };
        let Place::Runs(runs) = &data.place else { panic!("{data:?}") };
        assert_eq!((name.as_str(), data.size, runs.len()), ("large", 40_000, 9));
        let last = Run { file: 8 * 4096, len: 2 * 4096, volume: Some(200 * 4096), unwritten: false };
        assert_eq!(runs.last(), Some(&last));
        assert!(all.forks(19, layout).is_empty() && all.forks(21, layout).is_empty());
    }

    #[test]
    fn only_sound_headers_of_compressed_files_count() {
        let mut all = Attributes::default();
        let mut data = words(&[INLINE, 0, 0, 16]);
        data.extend(b"fpmc\x04\0\0\0\x07\0\0\0\0\0\0\0");
        assert_eq!(all.add(&record(5, 0, "com.apple.decmpfs", &data), 0), Some(()));
        data[16] = b'x';
        assert_eq!(all.add(&record(6, 0, "com.apple.decmpfs", &data), 0), None);
        assert_eq!(all.add(&record(7, 0, "com.apple.decmpfs", &data[..20]), 0), None);
        assert_eq!(all.add(&record(8, 0, "com.apple.quarantine", &data), 0), Some(()));
        let found = all.compressed(5).map(|c| (c.size, c.in_resource));
        assert_eq!((found, all.compressed(8).is_some()), (Some((7, true)), false));
    }
}
