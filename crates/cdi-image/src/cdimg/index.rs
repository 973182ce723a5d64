//! The index of a `.cdimg`: a tree with the location of each chunk.
//!
//! On disk it consists of NODE records of up to 512 entries; a subtree in which nothing was read, or which is a single
//! pattern, is a single entry. Only the nodes changed since the last checkpoint are kept in memory; all others are
//! loaded on demand, through [`Nodes`]. So an image of any size opens immediately.

mod change;

use std::ops::Range;

use cdi_base::error::ReadError;
use cdi_base::units::index;
use change::{extend, flush, set};
use zerocopy::byteorder::little_endian::U32;

use super::layout::*;
use super::nodes::Nodes;
use crate::codec::{Codec, Sum};
use crate::extent::{CompressedChunk, Extent, Origin};
use crate::input::Input;

/// The sizes that determine the shape of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// The size of the disk in bytes; not 0.
    pub disk_size: u64,
    /// The size of a chunk in bytes.
    pub chunk_size: u32,
}

impl Geometry {
    /// Returns the number of chunks of the disk.
    pub fn chunks(&self) -> u64 {
        self.disk_size.div_ceil(u64::from(self.chunk_size))
    }

    /// Returns the byte range on the disk of `count` chunks from chunk `first` on.
    pub fn bytes(&self, first: u64, count: u64) -> Range<u64> {
        let size = u64::from(self.chunk_size);
        first.saturating_mul(size)..first.saturating_add(count).saturating_mul(size).min(self.disk_size)
    }

    /// Returns the number of the chunk that contains `offset`.
    pub fn chunk_of(&self, offset: u64) -> u64 {
        offset / u64::from(self.chunk_size)
    }

    /// Returns the number of levels of nodes.
    pub fn levels(&self) -> u8 {
        levels(self.chunks())
    }

    /// Returns the number of entries of the node that covers `FANOUT^height` chunks from `first` on.
    fn entries(&self, first: u64, height: u8) -> usize {
        let each = entry_chunks(height - 1);
        self.chunks().saturating_sub(first).div_ceil(each).min(FANOUT) as usize
    }
}

/// A place in the tree.
enum Slot {
    /// An entry as stored in the file.
    Entry(RawEntry),
    /// A changed node.
    Node(Vec<Slot>),
    /// The changed pieces of a chunk.
    Pieces(Vec<RawPiece>),
}

/// The index tree.
pub struct Index {
    geometry: Geometry,
    root: Slot,
    dirty_bytes: usize,
}

/// A node to be written.
pub struct NodeToWrite<'a> {
    /// The record type: NODE or PIECES.
    pub kind: RecordType,
    /// For NODE: the level.
    pub level: u8,
    /// The byte range on the disk that it covers.
    pub disk: Range<u64>,
    /// The payload.
    pub bytes: &'a [u8],
}

impl Index {
    /// Returns the index with the root entry `root`.
    pub fn new(geometry: Geometry, root: RawEntry) -> Index {
        Index { geometry, root: Slot::Entry(root), dirty_bytes: 0 }
    }

    /// Returns the sizes of the disk and its chunks.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Returns the memory used by changed nodes and pieces, in bytes.
    pub fn dirty_bytes(&self) -> usize {
        self.dirty_bytes
    }

    /// Returns the location of the bytes around `offset`, which must be less than the size of the disk.
    pub fn find(&self, nodes: &dyn Nodes, offset: u64) -> Result<Extent, ReadError> {
        let chunk = self.geometry.chunk_of(offset);
        let (mut slot, mut height, mut first) = (&self.root, self.geometry.levels(), 0);
        let entry = loop {
            match slot {
                Slot::Entry(entry) => break *entry,
                Slot::Pieces(pieces) => return Ok(find_piece(pieces, self.geometry.bytes(first, 1), offset)),
                Slot::Node(slots) => {
                    height -= 1;
                    let child = (chunk - first) / entry_chunks(height);
                    first += child * entry_chunks(height);
                    slot = &slots[index(child)];
                }
            }
        };
        self.find_in_file(nodes, entry, height, first, offset)
    }

    fn find_in_file(
        &self,
        nodes: &dyn Nodes,
        mut entry: RawEntry,
        mut height: u8,
        mut first: u64,
        offset: u64,
    ) -> Result<Extent, ReadError> {
        let chunk = self.geometry.chunk_of(offset);
        loop {
            let disk = self.geometry.bytes(first, entry_chunks(height));
            match (entry.kind, height) {
                (ENTRY_UNREAD, _) => return Ok(Extent { disk, origin: Origin::Unread }),
                (ENTRY_FILL, _) => return Ok(Extent { disk, origin: Origin::Fill(entry.pattern()) }),
                (ENTRY_DATA, 0) => {
                    let len = chunk_len(&disk);
                    return Ok(Extent { disk, origin: payload(&entry, 0, len) });
                }
                (ENTRY_PIECES, 0) => {
                    let pieces = nodes.pieces(&entry, chunk_len(&disk))?;
                    return Ok(find_piece(&pieces, disk, offset));
                }
                (ENTRY_NODE, 1..) => {
                    let entries = nodes.node(&entry, self.geometry.entries(first, height))?;
                    height -= 1;
                    let child = (chunk - first) / entry_chunks(height);
                    first += child * entry_chunks(height);
                    entry = entries[index(child)];
                }
                // A DATA entry above the leaves, or a NODE entry below them.
                _ => return Err(ReadError::Corrupt { at: entry.at.get() }),
            }
        }
    }

    /// Sets the run of `len` bytes from `start` on, within one chunk, to the payload at `entry`, which decompresses to
    /// exactly that run.
    pub fn set_data(
        &mut self,
        nodes: &dyn Nodes,
        start: u64,
        len: u32,
        entry: RawEntry,
    ) -> Result<(), ReadError> {
        let chunk = self.geometry.chunk_of(start);
        let disk = self.geometry.bytes(chunk, 1);
        debug_assert!(start + u64::from(len) <= disk.end);
        let piece = RawPiece {
            start: U32::new(chunk_len(&(disk.start..start))),
            len: U32::new(len),
            skip: U32::ZERO,
            uncompressed: U32::new(len),
            entry,
        };
        let height = self.geometry.levels();
        set(
            &self.geometry,
            &mut self.root,
            height,
            0,
            nodes,
            &(start..start + u64::from(len)),
            &piece,
            &mut self.dirty_bytes,
        )
    }

    /// Sets `range` of the disk to `pattern` repeated.
    pub fn set_fill(
        &mut self,
        nodes: &dyn Nodes,
        range: Range<u64>,
        pattern: [u8; 8],
    ) -> Result<(), ReadError> {
        let piece = RawPiece {
            start: U32::ZERO,
            len: U32::ZERO,
            skip: U32::ZERO,
            uncompressed: U32::ZERO,
            entry: RawEntry::fill(pattern),
        };
        let height = self.geometry.levels();
        set(&self.geometry, &mut self.root, height, 0, nodes, &range, &piece, &mut self.dirty_bytes)
    }

    /// Grows the disk to `disk_size` bytes, which must not be less than before. Its old end must be on a chunk
    /// boundary. The new part is unread.
    pub fn grow(&mut self, nodes: &dyn Nodes, disk_size: u64) -> Result<(), ReadError> {
        let old = self.geometry;
        let new = Geometry { disk_size, ..old };
        debug_assert!(old.disk_size.is_multiple_of(old.chunk_size.into()) && disk_size >= old.disk_size);
        extend(&old, &new, &mut self.root, old.levels(), 0, nodes, &mut self.dirty_bytes)?;
        for height in old.levels()..new.levels() {
            let mut slots = vec![std::mem::replace(&mut self.root, Slot::Entry(RawEntry::UNREAD))];
            slots.resize_with(new.entries(0, height + 1), || Slot::Entry(RawEntry::UNREAD));
            self.dirty_bytes += slots.len() * size_of::<Slot>();
            self.root = Slot::Node(slots);
        }
        self.geometry = new;
        Ok(())
    }

    /// Writes every changed node with `write`, children before parents, and returns the new root.
    pub fn flush<E>(
        &mut self,
        write: &mut dyn FnMut(NodeToWrite<'_>) -> Result<RawEntry, E>,
    ) -> Result<RawEntry, E> {
        let height = self.geometry.levels();
        let entry = flush(&self.geometry, &mut self.root, height, 0, write)?;
        self.dirty_bytes = 0;
        Ok(entry)
    }
}

/// Returns the length of a run within one chunk, in bytes.
fn chunk_len(disk: &Range<u64>) -> u32 {
    u32::try_from(disk.end - disk.start).unwrap_or(u32::MAX)
}

fn payload(entry: &RawEntry, skip: u32, uncompressed: u32) -> Origin {
    let (at, len) = (entry.at.get(), entry.stored.get());
    Origin::Compressed(CompressedChunk {
        file: Input::MAIN,
        at,
        len,
        skip,
        uncompressed,
        codec: Codec::from_number(entry.codec).unwrap_or(Codec::Stored),
        sum: Sum::Xxh3(entry.sum.get()),
    })
}

/// Returns the piece that contains `offset`, or the gap around it.
fn find_piece(pieces: &[RawPiece], disk: Range<u64>, offset: u64) -> Extent {
    let bounds = |p: &RawPiece| {
        let start = disk.start + u64::from(p.start.get());
        start..start + u64::from(p.len.get())
    };
    let next = pieces.partition_point(|p| bounds(p).end <= offset);
    let before = if next > 0 { bounds(&pieces[next - 1]).end } else { disk.start };
    match pieces.get(next) {
        Some(p) if bounds(p).start <= offset => {
            let origin = if p.entry.kind == ENTRY_FILL {
                Origin::Fill(p.entry.pattern())
            } else {
                payload(&p.entry, p.skip.get(), p.uncompressed.get())
            };
            Extent { disk: bounds(p), origin }
        }
        Some(p) => Extent { disk: before..bounds(p).start, origin: Origin::Unread },
        None => Extent { disk: before..disk.end, origin: Origin::Unread },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_grow_with_the_disk() {
        assert_eq!([1, 512, 513, 512 * 512, 512 * 512 + 1].map(levels), [1, 1, 2, 2, 3]);
        assert_eq!(levels(u64::MAX), 8);
    }
}
