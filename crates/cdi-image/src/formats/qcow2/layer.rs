//! Finds the data of a qcow2 disk: two levels of tables, then the backing file.

use cdi_base::error::{Error, Flaw, ReadError};

use super::{COMPRESSED, COPIED, OFFSET, Qcow2};
use crate::bytes::be64;
use crate::codec::Sum;
use crate::extent::{CompressedChunk, Extent, Origin};
use crate::formats::chain::{Found, Layer, Uses, count_matching, zeros};
use crate::image::CheckCancelled;
use crate::input::Input;

impl Qcow2 {
    fn entry(&self, input: &Input, at: u64) -> Result<u64, ReadError> {
        let mut entry = [0; 8];
        input.read_exact_at(self.file, &mut entry, at)?;
        Ok(u64::from_be_bytes(entry))
    }

    /// Returns the disk offset where a run of table entries that satisfy `is` ends. The first of the `count` entries is
    /// at file offset `at`, has `width` bytes, and describes the `each` bytes of the disk around `offset`.
    fn run(
        &self,
        input: &Input,
        (at, count, width): (u64, u64, usize),
        (offset, each): (u64, u64),
        is: &dyn Fn(&[u8]) -> bool,
    ) -> Result<u64, ReadError> {
        let read = |bytes: &mut [u8], at: u64| input.read_exact_at(self.file, bytes, at);
        let entries = count_matching(&read, at, count, width, is)?.max(1);
        Ok((offset & !(each - 1)).saturating_add(entries.saturating_mul(each)))
    }

    /// Checks whether there is no backing data at `offset`, so that absent clusters are zeros, like zero clusters.
    fn is_deepest(&self, offset: u64) -> bool {
        self.backing.as_ref().is_none_or(|layer| offset >= layer.size())
    }

    /// Does the work of [`Layer::find`] for a cluster with subclusters, whose entry is at file offset `at`, with `left`
    /// entries up to the end of its table.
    fn map_parts(
        &self,
        input: &Input,
        (entry, at, left): (u64, u64, u64),
        offset: u64,
        limit: u64,
    ) -> Result<Found, ReadError> {
        // The lower half says which subclusters are allocated, the upper half which are zeros.
        const ZEROS: u64 = 0xFFFF_FFFF << 32;
        const BOTH: u64 = 1 << 32 | 1;
        let cluster = 1u64 << self.cluster_bits;
        let start = offset & !(cluster - 1);
        let bitmap = self.entry(input, at + 8)?;
        let is_deepest = self.is_deepest(offset);
        if bitmap == 0 || bitmap == ZEROS {
            let is = |entry: &[u8]| {
                let other = be64(entry, 8);
                let same = other == bitmap || (is_deepest && other & !ZEROS == 0);
                same && be64(entry, 0) & COMPRESSED == 0
            };
            let stop = self.run(input, (at, left, 16), (offset, cluster), &is)?.min(limit);
            return Ok(if bitmap == 0 {
                Found::Below(offset..stop)
            } else {
                Found::Here(zeros(offset, stop))
            });
        }
        let part = cluster / 32;
        let n = (offset - start) / part;
        let kind = bitmap >> n & BOTH;
        let same = (n..32).take_while(|n| bitmap >> n & BOTH == kind).count() as u64;
        let end = limit.min(start.saturating_add((n + same) * part));
        match kind {
            0 => Ok(Found::Below(offset..end)),
            1 if self.is_allocated(entry) => self.stored(input, entry & OFFSET, at, offset, start, end),
            1 | BOTH => Err(ReadError::Corrupt { at }),
            _ => Ok(Found::Here(zeros(offset, end))),
        }
    }

    /// Checks whether an entry of a second-level table contains the offset of a cluster. In an external data file that
    /// may be 0.
    fn is_allocated(&self, entry: u64) -> bool {
        entry & OFFSET != 0 || (self.data != self.file && entry & COPIED != 0)
    }

    fn stored(
        &self,
        input: &Input,
        place: u64,
        entry_at: u64,
        offset: u64,
        start: u64,
        end: u64,
    ) -> Result<Found, ReadError> {
        // The last cluster of a file may be short: the missing part was never written.
        let left = input.len_of(self.data).checked_sub(place).filter(|left| *left > offset - start);
        let Some(left) = left else { return Err(ReadError::Corrupt { at: entry_at }) };
        let end = end.min(start.saturating_add(left));
        let at = place + (offset - start);
        Ok(Found::Here(Extent { disk: offset..end, origin: Origin::Stored { file: self.data, at } }))
    }

    fn compressed(
        &self,
        input: &Input,
        entry: u64,
        entry_at: u64,
        disk: std::ops::Range<u64>,
    ) -> Result<Found, ReadError> {
        let corrupt = ReadError::Corrupt { at: entry_at };
        // External data files contain no compressed clusters.
        if self.data != self.file {
            return Err(corrupt);
        }
        let place_bits = 62 - (self.cluster_bits - 8);
        let place = entry & ((1 << place_bits) - 1);
        let sectors = (entry & !(3 << 62)) >> place_bits;
        let len = (sectors + 1) * 512 - place % 512;
        // The length is in whole sectors; the file may end within the last one.
        let len = len.min(input.len_of(self.file).checked_sub(place).ok_or(corrupt)?);
        let compressed = CompressedChunk {
            file: self.file,
            at: place,
            len: u32::try_from(len).map_err(|_| corrupt)?,
            skip: 0,
            uncompressed: 1 << self.cluster_bits,
            codec: self.codec,
            sum: Sum::None,
        };
        if compressed.len == 0 {
            return Err(corrupt);
        }
        Ok(Found::Here(Extent { disk, origin: Origin::Compressed(compressed) }))
    }
}

impl Layer for Qcow2 {
    fn size(&self) -> u64 {
        self.size
    }

    fn parent(&self) -> Option<&dyn Layer> {
        self.backing.as_deref()
    }

    fn find(&self, input: &Input, offset: u64, end: u64) -> Result<Found, ReadError> {
        let bits = self.cluster_bits;
        let entry_bits = if self.subclusters { 4 } else { 3 };
        let cluster = 1u64 << bits;
        let start = offset & !(cluster - 1);
        let limit = end;
        let end = limit.min(start.saturating_add(cluster));
        let table_bits = 2 * bits - entry_bits;
        let l1_index = offset >> table_bits;
        if l1_index >= self.l1_len {
            return Err(ReadError::Unmapped { offset });
        }
        let l1_at = self.l1 + l1_index * 8;
        let l2 = self.entry(input, l1_at)? & OFFSET;
        if l2 == 0 {
            let is = |entry: &[u8]| be64(entry, 0) & OFFSET == 0;
            let table = (l1_at, self.l1_len - l1_index, 8);
            let stop = self.run(input, table, (offset, 1 << table_bits), &is)?;
            return Ok(Found::Below(offset..stop.min(limit)));
        }
        let l2_len = 1u64 << (bits - entry_bits);
        let l2_index = (offset >> bits) & (l2_len - 1);
        let at = l2 + (l2_index << entry_bits);
        let left = l2_len - l2_index;
        let entry = self.entry(input, at)?;
        if entry & COMPRESSED != 0 {
            return self.compressed(input, entry, at, start..end);
        }
        if self.subclusters {
            return self.map_parts(input, (entry, at, left), offset, limit);
        }
        // Version 2 has no zero clusters: its writers never set the bit, and its readers do not check it.
        let is_zeros = |entry: u64| entry & 1 != 0;
        if !is_zeros(entry) && self.is_allocated(entry) {
            return self.stored(input, entry & OFFSET, at, offset, start, end);
        }
        let is_deepest = self.is_deepest(offset);
        let is = |other: &[u8]| {
            let other = be64(other, 0);
            let absent = !self.is_allocated(other);
            let same = if is_zeros(entry) { is_zeros(other) } else { absent && !is_zeros(other) };
            other & COMPRESSED == 0 && (same || (is_deepest && (absent || is_zeros(other))))
        };
        let stop = self.run(input, (at, left, 8), (offset, cluster), &is)?.min(limit);
        Ok(if is_zeros(entry) { Found::Here(zeros(offset, stop)) } else { Found::Below(offset..stop) })
    }

    fn check(
        &self,
        input: &Input,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        let uses = |file| Uses::new(input.len_of(file), 1 << self.cluster_bits);
        let (Some(mut tables), Some(mut data)) = (uses(self.file), uses(self.data)) else { return Ok(()) };
        let read = |bytes: &mut [u8], at: u64| input.read_exact_at(self.file, bytes, at);
        let (width, entry_bits) = if self.subclusters { (16, 4) } else { (8, 3) };
        let l2_len = 1u64 << (self.cluster_bits - entry_bits);
        // Compressed clusters may share a sector.
        let place = |entry: &[u8]| {
            let is_stored = be64(entry, 0) & COMPRESSED == 0;
            Some(be64(entry, 0) & OFFSET).filter(|place| is_stored && *place != 0)
        };
        let mut at = self.l1;
        let end = at + self.size.div_ceil(1 << (2 * self.cluster_bits - entry_bits)) * 8;
        while at < end {
            check_cancelled()?;
            // What cannot be read is reported where the disk is read.
            let l2 = self.entry(input, at).map_or(0, |entry| entry & OFFSET);
            if l2 == 0 {
                let is_absent = |entry: &[u8]| be64(entry, 0) & OFFSET == 0;
                at += count_matching(&read, at, (end - at) / 8, 8, &is_absent).unwrap_or(1).max(1) * 8;
                continue;
            }
            if !tables.mark(l2, at, report) {
                let table = (l2, l2_len, width);
                let file = if self.data == self.file { &mut tables } else { &mut data };
                file.mark_table(&read, table, &place, report, check_cancelled)?;
            }
            at += 8;
        }
        Ok(())
    }
}
