//! Reports the names in a directory.

use std::ops::Range;

use cdi_base::units::index;

use super::checksum::crc32c;
use super::contents::Built;
use super::doubtful::MAX_NAMES;
use super::inode::{Inode, flag};
use super::names::{Entry, Piece, Rules, text};
use super::reader::Reader;
use super::structures::damaged;
use crate::bytes::{le16, le32};
use crate::file_system::{Child, Damage, Name, Place, Run, Visitor};
use crate::volume::Part;

/// The number of bytes that are read at once.
const CHUNK: u64 = 256 << 10;

/// A directory whose names are reported.
struct Directory<'a, 'v> {
    reader: &'a Reader<'v>,
    rules: Rules,
    number: u64,
    seed: u32,
    encrypted: bool,
    indexed: bool,
}

/// Reports the names in a directory. Returns whether the scan goes on.
pub(super) fn report(
    reader: &Reader<'_>,
    inode: Inode<'_>,
    built: &Built,
    visitor: &mut dyn Visitor,
) -> bool {
    let directory = Directory {
        reader,
        rules: Rules::new(reader.sb),
        number: built.record.number,
        seed: inode.seed(reader.sb),
        encrypted: inode.has(flag::ENCRYPTED),
        indexed: inode.has(flag::INDEXED),
    };
    if !built.lost.iter().all(|(at, damage)| directory.lose(at.clone(), damage.clone(), visitor)) {
        return false;
    }
    match &built.record.data.place {
        Place::Inline(_) => directory.inline(inode, built, visitor),
        Place::Runs(runs) | Place::Units(_, runs) => directory.runs(runs, visitor),
    }
}

impl Directory<'_, '_> {
    fn lose(&self, at: Range<u64>, damage: Damage, visitor: &mut dyn Visitor) -> bool {
        let what = format!("block of directory {}", self.number);
        let cost = format!("names of an unknown number of files in directory {}", self.number);
        damaged(visitor, what, at, damage, cost)
    }

    fn child(&self, entry: &Entry<'_>) -> Child {
        let name = Name { parent: self.number, name: text(entry.name, self.encrypted) };
        Child { number: entry.inode.into(), name, kind: entry.kind, size: None }
    }

    fn entries(&self, piece: &Piece<'_>, visitor: &mut dyn Visitor) -> bool {
        let is_name = |e: &&Entry<'_>| e.name != b"." && e.name != b"..";
        let mut doubtful = self.reader.doubtful.borrow_mut();
        let room = MAX_NAMES.saturating_sub(doubtful.len());
        doubtful.extend(piece.doubtful.iter().filter(is_name).take(room).map(|entry| self.child(entry)));
        piece.certain.iter().filter(is_name).all(|entry| visitor.child(self.child(entry)))
    }

    /// Reports names that are in the inode. They begin with the number of the parent directory.
    fn inline(&self, inode: Inode<'_>, built: &Built, visitor: &mut dyn Visitor) -> bool {
        let parts = [inode.map().get(4..).unwrap_or_default(), inode.inline_rest().unwrap_or_default()];
        for part in parts {
            let piece = self.rules.piece(part, 0, part.len());
            let at = built.record.metadata.first().cloned().unwrap_or_default();
            let makes_none = || Damage::Invalid("an entry makes no sense".into());
            if !self.entries(&piece, visitor) || (piece.strange && !self.lose(at, makes_none(), visitor)) {
                return false;
            }
        }
        true
    }

    fn runs(&self, runs: &[Run], visitor: &mut dyn Visitor) -> bool {
        let block = self.reader.sb.block;
        for run in runs.iter().filter(|run| !run.unwritten) {
            let Some(start) = run.volume else { continue };
            let end = start + run.len;
            let mut at = start;
            while at < end {
                let next = at.saturating_add(CHUNK).min(end);
                if let Err(damage) = self.reader.spend((next - at) / block) {
                    return self.lose(at..end, damage, visitor);
                }
                let part = self.reader.volume.read_part(at..next);
                for place in (at..next).step_by(index(block)) {
                    let first = run.file == 0 && place == start;
                    if !self.block(&part, place, first, visitor) {
                        return false;
                    }
                }
                at = next;
            }
        }
        true
    }

    fn block(&self, part: &Part, at: u64, first: bool, visitor: &mut dyn Visitor) -> bool {
        let size = index(self.reader.sb.block);
        match part.get(at, size) {
            Ok(bytes) => {
                let piece = self.rules.piece(bytes, 0, size);
                let damage = if piece.strange {
                    Some("an entry makes no sense")
                } else if !self.checksum_right(bytes, first) {
                    Some("its checksum is wrong")
                } else {
                    None
                };
                self.entries(&piece, visitor)
                    && damage.is_none_or(|what| {
                        self.lose(at..at + self.reader.sb.block, Damage::Invalid(what.into()), visitor)
                    })
            }
            Err(error) => {
                let end = at + self.reader.sb.block;
                let mut from = at;
                let gaps: Vec<Range<u64>> = part.lost().iter().map(|(r, _)| r.clone()).collect();
                let gaps = gaps.into_iter().filter(|r| r.end > at && r.start < end);
                for gap in gaps.chain(std::iter::once(end..end)) {
                    let to = gap.start.min(end);
                    if to > from
                        && let Ok(bytes) = part.get(from, index(to - from))
                        && !self.entries(&self.rules.piece(bytes, index(from - at), size), visitor)
                    {
                        return false;
                    }
                    from = from.max(gap.end);
                }
                self.lose(at..end, error.into(), visitor)
            }
        }
    }

    /// Returns whether the checksum of a block is right; true if it has none. Blocks of the index have theirs after the index.
    fn checksum_right(&self, bytes: &[u8], first: bool) -> bool {
        if !self.reader.sb.metadata_csum() {
            return true;
        }
        let tail = bytes.len() - 12;
        if Some(crc32c(self.seed, &[&bytes[..tail]])) == le32(bytes, tail + 8) {
            return true;
        }
        let place = if first { 0x20 } else { 8 };
        let index = || {
            let (limit, count) = (usize::from(le16(bytes, place)?), usize::from(le16(bytes, place + 2)?));
            let tail = place + limit * 8;
            let sum =
                crc32c(self.seed, &[bytes.get(..place + count * 8)?, bytes.get(tail..tail + 4)?, &[0; 4]]);
            Some(sum == le32(bytes, tail + 4)?)
        };
        self.indexed && index().unwrap_or(false)
    }
}
