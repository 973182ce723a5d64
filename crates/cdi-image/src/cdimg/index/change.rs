//! Changes to the tree: adds data, grows the disk, and writes changed nodes.

use std::ops::Range;

use cdi_base::error::ReadError;
use cdi_base::units::index;
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U32;

use super::{Geometry, NodeToWrite, Slot, chunk_len};
use crate::cdimg::layout::*;
use crate::cdimg::nodes::Nodes;

/// Sets `range` to `piece` in the tree below `slot`, which covers `FANOUT^height` chunks from `first` on.
#[allow(clippy::too_many_arguments)]
pub(super) fn set(
    geometry: &Geometry,
    slot: &mut Slot,
    height: u8,
    first: u64,
    nodes: &dyn Nodes,
    range: &Range<u64>,
    piece: &RawPiece,
    dirty_bytes: &mut usize,
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
            Slot::Entry(entry) => pieces_of(nodes, entry, len)?,
            Slot::Node(_) => return Err(ReadError::Corrupt { at: 0 }),
        };
        let pieces = overlay(old, new);
        // Counted again on each change: the result is an upper bound, which is all that is needed.
        *dirty_bytes += pieces.len() * PIECE_LEN;
        *slot = Slot::Pieces(pieces);
        return Ok(());
    }
    if let Slot::Entry(entry) = slot {
        let count = geometry.entries(first, height);
        let slots = match entry.kind {
            ENTRY_NODE => nodes.node(entry, count)?.iter().map(|e| Slot::Entry(*e)).collect(),
            ENTRY_UNREAD | ENTRY_FILL => (0..count).map(|_| Slot::Entry(*entry)).collect(),
            _ => return Err(ReadError::Corrupt { at: entry.at.get() }),
        };
        *dirty_bytes += count * size_of::<Slot>();
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
            dirty_bytes,
        )?;
    }
    Ok(())
}

/// Adds the entries that a longer disk has to the nodes along the end of the disk.
pub(super) fn extend(
    old: &Geometry,
    new: &Geometry,
    slot: &mut Slot,
    height: u8,
    first: u64,
    nodes: &dyn Nodes,
    dirty_bytes: &mut usize,
) -> Result<(), ReadError> {
    let is_full = height == 0 || old.chunks().saturating_sub(first) >= entry_chunks(height);
    if is_full || matches!(slot, Slot::Entry(entry) if entry.kind == ENTRY_UNREAD) {
        return Ok(());
    }
    let count = old.entries(first, height);
    if let Slot::Entry(entry) = slot {
        let slots = match entry.kind {
            ENTRY_NODE => nodes.node(entry, count)?.iter().map(|e| Slot::Entry(*e)).collect(),
            ENTRY_FILL => (0..count).map(|_| Slot::Entry(*entry)).collect(),
            _ => return Err(ReadError::Corrupt { at: entry.at.get() }),
        };
        *slot = Slot::Node(slots);
    }
    let Slot::Node(slots) = slot else { return Err(ReadError::Corrupt { at: 0 }) };
    if let Some(last) = slots.last_mut() {
        let at = first + (count as u64 - 1) * entry_chunks(height - 1);
        extend(old, new, last, height - 1, at, nodes, dirty_bytes)?;
    }
    let more = new.entries(first, height);
    *dirty_bytes += (more - count) * size_of::<Slot>();
    slots.resize_with(more, || Slot::Entry(RawEntry::UNREAD));
    Ok(())
}

/// Converts a leaf's entry to pieces.
fn pieces_of(nodes: &dyn Nodes, entry: &RawEntry, len: u32) -> Result<Vec<RawPiece>, ReadError> {
    let whole = RawPiece {
        start: U32::ZERO,
        len: U32::new(len),
        skip: U32::ZERO,
        uncompressed: U32::new(if entry.kind == ENTRY_FILL { 0 } else { len }),
        entry: *entry,
    };
    match entry.kind {
        ENTRY_UNREAD => Ok(Vec::new()),
        ENTRY_FILL | ENTRY_DATA => Ok(vec![whole]),
        ENTRY_PIECES => Ok(nodes.pieces(entry, len)?.to_vec()),
        _ => Err(ReadError::Corrupt { at: entry.at.get() }),
    }
}

/// Returns `pieces` overwritten with `new` where they overlap.
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
    // Merge adjacent fills with the same pattern.
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

/// Writes the changed parts of the tree below `slot` with `write`, and returns the entry for it.
pub(super) fn flush<E>(
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
                && (p.entry.kind == ENTRY_FILL || p.uncompressed == p.len) =>
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
