//! The index of a `.cdimg`: a tree that says where each chunk is.
//!
//! On disk it is made of NODE records of up to 512 entries; a subtree in which nothing was read, or which is one
//! pattern, is a single entry. In memory only the nodes that were changed since the last checkpoint are held; all
//! others are fetched when they are asked for, through [`Nodes`]. So an image of any size opens at once.

use std::num::NonZero;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U32;

use super::layout::*;
use super::record::array;
use crate::error::{Flaw, ReadError};
use crate::image::codec::{Codec, Sum};
use crate::image::input::Input;
use crate::image::{Extent, Origin, Packed};
use crate::units::index;

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

/// Where nodes are fetched from.
pub trait Nodes {
    /// The entries of the node at `entry`, which must be `count`, each checked by itself.
    fn node(&self, entry: &RawEntry, count: usize) -> Result<Arc<[RawEntry]>, ReadError>;
    /// The pieces at `entry`, of a chunk of `chunk_len` bytes, checked: in order, inside the chunk.
    fn pieces(&self, entry: &RawEntry, chunk_len: u32) -> Result<Arc<[RawPiece]>, ReadError>;
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
    changed: usize,
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
        Index { geometry, root: Slot::Entry(root), changed: 0 }
    }

    /// The sizes of the disk and its chunks.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// How many nodes and chunks with pieces are held in memory because they have changed.
    pub fn changed(&self) -> usize {
        self.changed
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

    /// Says that the run of `len` bytes from `start` on, within one chunk, is the payload at `entry`, which unpacks
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
            unpacked: U32::new(len),
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
            &mut self.changed,
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
            unpacked: U32::ZERO,
            entry: RawEntry::fill(pattern),
        };
        let height = self.geometry.levels();
        set(&self.geometry, &mut self.root, height, 0, nodes, &range, &piece, &mut self.changed)
    }

    /// Writes every changed node by `write`, children before parents, and gives the new root.
    pub fn flush<E>(
        &mut self,
        write: &mut dyn FnMut(NodeToWrite<'_>) -> Result<RawEntry, E>,
    ) -> Result<RawEntry, E> {
        let height = self.geometry.levels();
        let entry = flush(&self.geometry, &mut self.root, height, 0, write)?;
        self.changed = 0;
        Ok(entry)
    }
}

/// The length of a run within one chunk.
fn chunk_len(disk: &Range<u64>) -> u32 {
    u32::try_from(disk.end - disk.start).unwrap_or(u32::MAX)
}

fn payload(entry: &RawEntry, skip: u32, unpacked: u32) -> Origin {
    let (at, len) = (entry.at.get(), entry.stored.get());
    Origin::Packed(Packed {
        file: Input::MAIN,
        at,
        len,
        skip,
        unpacked,
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
                payload(&p.entry, p.skip.get(), p.unpacked.get())
            };
            Extent { disk: bounds(p), origin }
        }
        Some(p) => Extent { disk: before..bounds(p).start, origin: Origin::Unread },
        None => Extent { disk: before..disk.end, origin: Origin::Unread },
    }
}

/// Puts `piece` over `range` in the tree below `slot`, which covers `FANOUT^height` chunks from `first` on.
#[allow(clippy::too_many_arguments)]
fn set(
    geometry: &Geometry,
    slot: &mut Slot,
    height: u8,
    first: u64,
    nodes: &dyn Nodes,
    range: &Range<u64>,
    piece: &RawPiece,
    changed: &mut usize,
) -> Result<(), ReadError> {
    let disk = geometry.bytes(first, entry_chunks(height));
    let fill = piece.entry.kind == ENTRY_FILL;
    let covers = range.start <= disk.start && range.end >= disk.end;
    if covers && (fill || height == 0) {
        *slot = Slot::Entry(piece.entry);
        return Ok(());
    }
    if height == 0 {
        let len = chunk_len(&disk);
        let part = range.start.max(disk.start)..range.end.min(disk.end);
        let mut new = *piece;
        new.start = U32::new(chunk_len(&(disk.start..part.start)));
        new.len = U32::new(chunk_len(&part));
        let old = match slot {
            Slot::Pieces(pieces) => std::mem::take(pieces),
            Slot::Entry(entry) => {
                *changed += 1;
                pieces_of(nodes, entry, len)?
            }
            Slot::Node(_) => return Err(ReadError::Corrupt { at: 0 }),
        };
        *slot = Slot::Pieces(overlay(old, new));
        return Ok(());
    }
    if let Slot::Entry(entry) = slot {
        let count = geometry.entries(first, height);
        let slots = match entry.kind {
            ENTRY_NODE => nodes.node(entry, count)?.iter().map(|e| Slot::Entry(*e)).collect(),
            ENTRY_UNREAD | ENTRY_FILL => (0..count).map(|_| Slot::Entry(*entry)).collect(),
            _ => return Err(ReadError::Corrupt { at: entry.at.get() }),
        };
        *changed += 1;
        *slot = Slot::Node(slots);
    }
    let Slot::Node(slots) = slot else { return Err(ReadError::Corrupt { at: 0 }) };
    let each = entry_chunks(height - 1);
    let from = geometry.chunk_of(range.start).saturating_sub(first) / each;
    let to = (geometry.chunk_of(range.end - 1).saturating_sub(first) / each).min(slots.len() as u64 - 1);
    for child in from..=to {
        set(
            geometry,
            &mut slots[index(child)],
            height - 1,
            first + child * each,
            nodes,
            range,
            piece,
            changed,
        )?;
    }
    Ok(())
}

/// What a leaf's entry means, as pieces.
fn pieces_of(nodes: &dyn Nodes, entry: &RawEntry, len: u32) -> Result<Vec<RawPiece>, ReadError> {
    let whole = RawPiece {
        start: U32::ZERO,
        len: U32::new(len),
        skip: U32::ZERO,
        unpacked: U32::new(if entry.kind == ENTRY_FILL { 0 } else { len }),
        entry: *entry,
    };
    match entry.kind {
        ENTRY_UNREAD => Ok(Vec::new()),
        ENTRY_FILL | ENTRY_DATA => Ok(vec![whole]),
        ENTRY_PIECES => Ok(nodes.pieces(entry, len)?.to_vec()),
        _ => Err(ReadError::Corrupt { at: entry.at.get() }),
    }
}

/// `pieces` with `new` on top.
fn overlay(pieces: Vec<RawPiece>, new: RawPiece) -> Vec<RawPiece> {
    let (start, end) = (new.start.get(), new.start.get() + new.len.get());
    let mut out = Vec::with_capacity(pieces.len() + 2);
    for p in pieces {
        let (a, b) = (p.start.get(), p.start.get() + p.len.get());
        if a < start {
            out.push(RawPiece { len: U32::new(b.min(start) - a), ..p });
        }
        if b > end {
            let cut = end.max(a) - a;
            let skip = if p.entry.kind == ENTRY_FILL { 0 } else { p.skip.get() + cut };
            out.push(RawPiece {
                start: U32::new(a + cut),
                len: U32::new(b - a - cut),
                skip: U32::new(skip),
                ..p
            });
        }
    }
    out.push(new);
    out.sort_by_key(|p| p.start.get());
    // Like fills side by side are one.
    out.dedup_by(|b, a| {
        let joined =
            a.entry.kind == ENTRY_FILL && a.entry == b.entry && a.start.get() + a.len.get() == b.start.get();
        if joined {
            a.len = U32::new(a.len.get() + b.len.get());
        }
        joined
    });
    out
}

/// The entry that stands for the tree below `slot`, which is written by `write` where it has changed.
fn flush<E>(
    geometry: &Geometry,
    slot: &mut Slot,
    height: u8,
    first: u64,
    write: &mut dyn FnMut(NodeToWrite<'_>) -> Result<RawEntry, E>,
) -> Result<RawEntry, E> {
    let disk = geometry.bytes(first, entry_chunks(height));
    let entry = match slot {
        Slot::Entry(entry) => return Ok(*entry),
        Slot::Pieces(pieces) => match &pieces[..] {
            [p] if u64::from(p.len.get()) == disk.end - disk.start
                && p.skip.get() == 0
                && (p.entry.kind == ENTRY_FILL || p.unpacked == p.len) =>
            {
                p.entry
            }
            pieces => {
                write(NodeToWrite { kind: RecordType::Pieces, level: 0, disk, bytes: pieces.as_bytes() })?
            }
        },
        Slot::Node(slots) => {
            let mut entries = Vec::with_capacity(slots.len());
            for (child, slot) in slots.iter_mut().enumerate() {
                let at = first + child as u64 * entry_chunks(height - 1);
                entries.push(flush(geometry, slot, height - 1, at, write)?);
            }
            let uniform = entries.iter().all(|e| *e == entries[0]);
            if uniform && matches!(entries[0].kind, ENTRY_UNREAD | ENTRY_FILL) {
                entries[0]
            } else {
                write(NodeToWrite {
                    kind: RecordType::Node,
                    level: height - 1,
                    disk,
                    bytes: entries.as_bytes(),
                })?
            }
        }
    };
    *slot = Slot::Entry(entry);
    Ok(entry)
}

/// Checks an entry by itself: what it says must be possible in a file of `file_len` bytes.
pub fn check_entry(e: &RawEntry, file_len: u64) -> Result<(), &'static str> {
    let fits = e.at.get() >= RECORDS_AT
        && e.at.get().checked_add(u64::from(e.stored.get())).is_some_and(|x| x <= file_len);
    if e.zero.get() != 0 || (e.kind != ENTRY_DATA && e.codec != 0) {
        return Err("an index entry has a value where there must be zero");
    }
    match e.kind {
        ENTRY_UNREAD if *e == RawEntry::UNREAD => Ok(()),
        ENTRY_FILL if e.sum.get() == 0 && e.stored.get() == 0 => Ok(()),
        ENTRY_UNREAD | ENTRY_FILL => Err("an index entry without a payload has one"),
        ENTRY_DATA | ENTRY_NODE | ENTRY_PIECES if !fits => Err("an index entry points outside the file"),
        ENTRY_DATA if e.stored.get() > CHUNK_MOST || e.stored.get() == 0 => {
            Err("a chunk's stored length cannot be")
        }
        ENTRY_DATA if Codec::from_number(e.codec).is_none() => Err("an index entry has an unknown codec"),
        ENTRY_DATA | ENTRY_NODE | ENTRY_PIECES => Ok(()),
        _ => Err("an index entry is of an unknown kind"),
    }
}

/// The entries of a node whose payload is `bytes`, which lies at `at` of a file of `file_len` bytes.
pub fn decode_node(bytes: &[u8], at: u64, file_len: u64) -> Result<Arc<[RawEntry]>, Flaw> {
    let entries: Vec<RawEntry> = array(bytes, at, "a node")?;
    for (i, e) in entries.iter().enumerate() {
        check_entry(e, file_len).map_err(|what| Flaw::at(at + (i * ENTRY_LEN) as u64, what))?;
    }
    Ok(entries.into())
}

/// The pieces whose payload is `bytes`, which lies at `at` of a file of `file_len` bytes.
pub fn decode_pieces(bytes: &[u8], at: u64, file_len: u64, chunk_len: u32) -> Result<Arc<[RawPiece]>, Flaw> {
    let pieces: Vec<RawPiece> = array(bytes, at, "a list of pieces")?;
    let mut end = 0;
    for (i, p) in pieces.iter().enumerate() {
        let fail = |what| Flaw::at(at + (i * PIECE_LEN) as u64, what);
        check_entry(&p.entry, file_len).map_err(fail)?;
        if p.start.get() < end
            || p.len.get() == 0
            || p.start.get().checked_add(p.len.get()).is_none_or(|e| e > chunk_len)
        {
            return Err(fail("pieces overlap, are out of order, or leave their chunk"));
        }
        end = p.start.get() + p.len.get();
        match p.entry.kind {
            ENTRY_FILL if p.skip.get() == 0 && p.unpacked.get() == 0 => {}
            ENTRY_DATA
                if p.unpacked.get() <= CHUNK_MOST
                    && p.skip.get().checked_add(p.len.get()).is_some_and(|e| e <= p.unpacked.get()) => {}
            _ => return Err(fail("a piece does not lie within its payload")),
        }
    }
    Ok(pieces.into())
}

/// The nodes of an image's file, a bounded number of them cached.
pub struct CachedNodes {
    input: Arc<Input>,
    nodes: Mutex<LruCache<u64, Arc<[RawEntry]>>>,
    pieces: Mutex<LruCache<u64, Arc<[RawPiece]>>>,
}

/// How many nodes (12 KiB each) and lists of pieces are kept.
const NODES_KEPT: NonZero<usize> = NonZero::new(512).expect("not 0");

impl CachedNodes {
    /// The nodes in `input`.
    pub fn new(input: Arc<Input>) -> CachedNodes {
        let (nodes, pieces) = (Mutex::new(LruCache::new(NODES_KEPT)), Mutex::new(LruCache::new(NODES_KEPT)));
        CachedNodes { input, nodes, pieces }
    }

    fn payload(&self, entry: &RawEntry, longest: usize) -> Result<Vec<u8>, ReadError> {
        let at = entry.at.get();
        let len = entry.stored.get() as usize;
        if len > longest {
            return Err(ReadError::Corrupt { at });
        }
        let mut bytes = vec![0; len];
        self.input.read_exact_at(Input::MAIN, &mut bytes, at)?;
        if xxh3_64(&bytes) != entry.sum.get() {
            return Err(ReadError::Corrupt { at });
        }
        Ok(bytes)
    }
}

/// A list of pieces has at most one a byte pair of the smallest sector; in truth far fewer.
const MOST_PIECES: usize = CHUNK_MOST as usize / 256;

impl Nodes for CachedNodes {
    fn node(&self, entry: &RawEntry, count: usize) -> Result<Arc<[RawEntry]>, ReadError> {
        let at = entry.at.get();
        if let Some(node) = self.nodes.lock().unwrap_or_else(PoisonError::into_inner).get(&at) {
            return if node.len() == count { Ok(Arc::clone(node)) } else { Err(ReadError::Corrupt { at }) };
        }
        let bytes = self.payload(entry, index(FANOUT) * ENTRY_LEN)?;
        let node = decode_node(&bytes, at, self.input.len()).map_err(|f| ReadError::Corrupt { at: f.at })?;
        if node.len() != count {
            return Err(ReadError::Corrupt { at });
        }
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).put(at, Arc::clone(&node));
        Ok(node)
    }

    fn pieces(&self, entry: &RawEntry, chunk_len: u32) -> Result<Arc<[RawPiece]>, ReadError> {
        let at = entry.at.get();
        if let Some(pieces) = self.pieces.lock().unwrap_or_else(PoisonError::into_inner).get(&at) {
            let inside = pieces.last().is_none_or(|p| p.start.get() + p.len.get() <= chunk_len);
            return if inside { Ok(Arc::clone(pieces)) } else { Err(ReadError::Corrupt { at }) };
        }
        let bytes = self.payload(entry, MOST_PIECES * PIECE_LEN)?;
        let pieces = decode_pieces(&bytes, at, self.input.len(), chunk_len)
            .map_err(|f| ReadError::Corrupt { at: f.at })?;
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner).put(at, Arc::clone(&pieces));
        Ok(pieces)
    }
}
