//! The index of a `.cdimg`: a tree that says where each chunk is.
//!
//! On disk it is made of NODE records of up to 512 entries; a subtree in which nothing was read, or which is one
//! pattern, is a single entry. In memory only the nodes that were changed since the last checkpoint are held; all
//! others are fetched when they are asked for, through [`Nodes`]. So an image of any size opens at once.

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

/// The sizes that the shape of the tree follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// The size of the disk in bytes; not 0.
    pub disk_size: u64,
    /// The size of a chunk in bytes.
    pub chunk_size: u32,
}

impl Geometry {
    /// How many chunks the disk has.
    pub fn chunks(&self) -> u64 {
        self.disk_size.div_ceil(u64::from(self.chunk_size))
    }

    /// The bytes of the disk that `count` chunks from chunk `first` on cover.
    pub fn bytes(&self, first: u64, count: u64) -> Range<u64> {
        let size = u64::from(self.chunk_size);
        first.saturating_mul(size)..first.saturating_add(count).saturating_mul(size).min(self.disk_size)
    }

    /// The chunk that `offset` lies in.
    pub fn chunk_of(&self, offset: u64) -> u64 {
        offset / u64::from(self.chunk_size)
    }

    /// How many levels of nodes there are.
    pub fn levels(&self) -> u8 {
        levels(self.chunks())
    }

    /// How many entries the node has that covers `FANOUT^height` chunks from `first` on.
    fn entries(&self, first: u64, height: u8) -> usize {
        let each = entry_chunks(height - 1);
        self.chunks().saturating_sub(first).div_ceil(each).min(FANOUT) as usize
    }
}

/// A place in the tree.
enum Slot {
    /// As it lies in the file.
    Entry(RawEntry),
    /// A node that has changed.
    Node(Vec<Slot>),
    /// The pieces of a chunk, changed.
    Pieces(Vec<RawPiece>),
}

/// The tree.
pub struct Index {
    geometry: Geometry,
    root: Slot,
    held: usize,
}

/// A node as it is written: its level, the disk it covers, its bytes.
pub struct NodeToWrite<'a> {
    /// NODE or PIECES.
    pub kind: RecordType,
    /// The level of a NODE.
    pub level: u8,
    /// The bytes of the disk below it.
    pub disk: Range<u64>,
    /// The payload.
    pub bytes: &'a [u8],
}

impl Index {
    /// The index whose root lies in the file at `root`.
    pub fn new(geometry: Geometry, root: RawEntry) -> Index {
        Index { geometry, root: Slot::Entry(root), held: 0 }
    }

    /// The sizes of the disk and its chunks.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// How many bytes of memory hold what has changed.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Where the bytes around `offset` are. `offset` must be less than the size of the disk.
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
                // A DATA entry above the leaves, or a NODE below them.
                _ => return Err(ReadError::Corrupt { at: entry.at.get() }),
            }
        }
    }

    /// Says that the run of `len` bytes from `start` on, within one chunk, is the payload at `entry`, which decompresses
    /// to exactly that run.
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
            &mut self.held,
        )
    }

    /// Says that `range` of the disk is `pattern` over and over.
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
        set(&self.geometry, &mut self.root, height, 0, nodes, &range, &piece, &mut self.held)
    }

    /// Makes the disk `disk_size` bytes long, which is more than it has and not less than whole chunks: it ended on a chunk's
    /// border. What is new was not read.
    pub fn grow(&mut self, nodes: &dyn Nodes, disk_size: u64) -> Result<(), ReadError> {
        let old = self.geometry;
        let new = Geometry { disk_size, ..old };
        debug_assert!(old.disk_size.is_multiple_of(old.chunk_size.into()) && disk_size >= old.disk_size);
        extend(&old, &new, &mut self.root, old.levels(), 0, nodes, &mut self.held)?;
        for height in old.levels()..new.levels() {
            let mut slots = vec![std::mem::replace(&mut self.root, Slot::Entry(RawEntry::UNREAD))];
            slots.resize_with(new.entries(0, height + 1), || Slot::Entry(RawEntry::UNREAD));
            self.held += slots.len() * size_of::<Slot>();
            self.root = Slot::Node(slots);
        }
        self.geometry = new;
        Ok(())
    }

    /// Writes every changed node by `write`, children before parents, and gives the new root.
    pub fn flush<E>(
        &mut self,
        write: &mut dyn FnMut(NodeToWrite<'_>) -> Result<RawEntry, E>,
    ) -> Result<RawEntry, E> {
        let height = self.geometry.levels();
        let entry = flush(&self.geometry, &mut self.root, height, 0, write)?;
        self.held = 0;
        Ok(entry)
    }
}

/// The length of a run within one chunk.
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

/// The piece around `offset`, or the gap around it.
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
