//! Sparse extents of VMDK disks: a directory of grain tables. There are three kinds: hosted (VMware Workstation's,
//! including stream optimised ones), ESX's older "COWD", and its newer "SEsparse".

use cdi_base::error::{Error, Flaw, ReadError};
use cdi_base::units::{SECTOR, index};

use crate::bytes::{flaw, le32, le64};
use crate::codec::{Codec, Sum};
use crate::extent::{CompressedChunk, Extent, FileNo, MAX_CHUNK, Origin};
use crate::formats::chain::{count_matching, zeros};
use crate::input::Input;

pub(super) const HOSTED: &[u8] = b"KDMV";
pub(super) const COWD: &[u8] = b"COWD";
const SESPARSE: &[u8] = b"\xBE\xBA\xFE\xCA\0\0\0\0";
/// Flags of a hosted extent.
const NEWLINE_TEST: u32 = 1;
const ZEROED_GRAINS: u32 = 1 << 2;
const COMPRESSED: u32 = 1 << 16;
const MARKERS: u32 = 1 << 17;
/// The directory's offset in the header of a stream, which was written before it was known; it is in a footer then.
const AT_END: u64 = u64::MAX;
/// How many sectors at the end of the file are searched for the footer.
const FOOTER_SEARCH: usize = 2048;

/// A sparse extent.
pub(super) struct Sparse {
    file: FileNo,
    /// Its length on the disk, and the grain size, in bytes.
    pub len: u64,
    grain: u64,
    /// The file offset of the grain directory in bytes, and the number of entries of a grain table.
    directory: u64,
    per_table: u64,
    kind: Kind,
    /// The file offset and length of its embedded descriptor, in bytes.
    pub descriptor: Option<(u64, u64)>,
}

enum Kind {
    Hosted { flags: u32 },
    Cowd,
    SeSparse { tables: u64, grains: u64 },
}

/// The data of an extent at some offset; None if it comes from the parent.
pub(super) type Found = Option<Extent>;

impl Sparse {
    /// Opens an extent file: reads and checks its header.
    pub(super) fn open(input: &Input, file: FileNo) -> Result<Sparse, Error> {
        let header = input.bytes_of(file, 0, 512, "the extent header")?;
        let sparse = if header.starts_with(HOSTED) {
            Sparse::hosted(input, file, &header)?
        } else if header.starts_with(COWD) {
            let sectors = |at: usize| u64::from(le32(&header, at)) * u64::from(SECTOR);
            Sparse {
                file,
                len: sectors(12),
                grain: sectors(16),
                directory: sectors(20),
                per_table: 4096,
                kind: Kind::Cowd,
                descriptor: None,
            }
        } else if header.starts_with(SESPARSE) {
            Sparse::se_sparse(input, file, &header)?
        } else {
            return Err(Error::from(Flaw::at(0, "not a sparse extent of a VMDK disk"))
                .hint("if it is a flat extent, open the disk's descriptor instead"));
        };
        let Sparse { len, grain, per_table, directory, .. } = sparse;
        if len == 0 || i64::try_from(len).is_err() {
            return flaw(12, format!("invalid extent size: {len} bytes"));
        }
        if !grain.is_power_of_two() || !(u64::from(SECTOR)..=MAX_CHUNK.into()).contains(&grain) {
            return flaw(20, format!("invalid grain size: {grain} bytes"));
        }
        if !(1..=1 << 20).contains(&per_table) {
            return flaw(44, format!("invalid number of grains per table: {per_table}"));
        }
        let entries = len.div_ceil(grain).div_ceil(per_table);
        if directory.checked_add(entries * sparse.entry_len()).is_none_or(|end| end > input.len_of(file)) {
            return flaw(
                56,
                format!(
                    "the grain directory of {entries} tables at byte {directory} extends past the end of the file"
                ),
            );
        }
        Ok(sparse)
    }

    fn hosted(input: &Input, file: FileNo, first: &[u8]) -> Result<Sparse, Error> {
        let mut header = first.to_vec();
        if le64(first, 56) == AT_END {
            // The footer has the form of a header. It comes before the last sector; some padding may follow.
            let sectors = input.len_of(file) / u64::from(SECTOR);
            let mut places = (1..sectors).rev().take(FOOTER_SEARCH).map(|n| n * u64::from(SECTOR));
            let footer = places.find_map(|at| {
                let sector = input.bytes_of(file, at, 512, "the footer").ok()?;
                (sector.starts_with(HOSTED) && le64(&sector, 56) != AT_END).then_some(sector)
            });
            let Some(footer) = footer else {
                return flaw(56, "the footer is missing: the file is truncated");
            };
            header = footer;
        }
        let bytes = |header: &[u8], at: usize| le64(header, at).saturating_mul(SECTOR.into());
        let (version, flags) = (le32(&header, 4), le32(&header, 8));
        if !(1..=3).contains(&version) {
            return flaw(4, format!("unsupported version {version} (supported: 1 to 3)"));
        }
        let algorithm = u16::from_le_bytes([header[77], header[78]]);
        if flags & COMPRESSED != 0 && algorithm != 1 {
            return flaw(77, format!("unknown compression {algorithm} (only 1, deflate, is supported)"));
        }
        // A transfer in text mode, for example by FTP, would have changed these bytes.
        if flags & NEWLINE_TEST != 0 && header[73..77] != *b"\n \r\n" {
            return flaw(73, "the file was modified in transit, for example by a transfer in text mode");
        }
        let descriptor = (bytes(first, 28), bytes(first, 36));
        Ok(Sparse {
            file,
            len: bytes(&header, 12),
            grain: bytes(&header, 20),
            directory: bytes(&header, 56),
            per_table: u64::from(le32(&header, 44)),
            kind: Kind::Hosted { flags },
            descriptor: Some(descriptor).filter(|(at, len)| *at != 0 && *len != 0),
        })
    }

    fn se_sparse(input: &Input, file: FileNo, header: &[u8]) -> Result<Sparse, Error> {
        let bytes = |at: usize| le64(header, at).saturating_mul(SECTOR.into());
        if le64(header, 8) != 0x2_0000_0001 {
            return flaw(
                8,
                format!("unsupported SEsparse version {:#x} (only 2.1 is supported)", le64(header, 8)),
            );
        }
        let volatile = input.bytes_of(file, bytes(80), 512, "the volatile header")?;
        if le64(&volatile, 0) != 0xCAFE_CAFE {
            return flaw(bytes(80), "the volatile header is damaged");
        }
        if volatile[24] != 0 {
            return flaw(
                bytes(80) + 24,
                "the disk was not closed properly, and needs its journal to be replayed (not supported)",
            );
        }
        Ok(Sparse {
            file,
            len: bytes(16),
            grain: bytes(24),
            directory: bytes(128),
            per_table: bytes(32) / 8,
            kind: Kind::SeSparse { tables: bytes(144), grains: bytes(192) },
            descriptor: None,
        })
    }

    fn entry_len(&self) -> u64 {
        if matches!(self.kind, Kind::SeSparse { .. }) { 8 } else { 4 }
    }

    fn entry(&self, input: &Input, table: u64, n: u64) -> Result<(u64, u64), ReadError> {
        let at = table.saturating_add(n * self.entry_len());
        let mut entry = [0; 8];
        let len = if self.entry_len() == 8 { 8 } else { 4 };
        input.read_exact_at(self.file, &mut entry[..len], at)?;
        Ok((at, u64::from_le_bytes(entry)))
    }

    /// Finds the data at `offset` (in bytes within the extent), up to `end` at most. Returns it and where it ends.
    pub(super) fn map(&self, input: &Input, offset: u64, end: u64) -> Result<(Found, u64), ReadError> {
        let grain = offset / self.grain;
        let start = grain * self.grain;
        let limit = end.min(self.len);
        let end = limit.min(start + self.grain);
        let (table_at, table) = self.entry(input, self.directory, grain / self.per_table)?;
        let n = grain % self.per_table;
        let left = (self.per_table - n).min(self.len.div_ceil(self.grain) - grain);
        let grains_end = |count: u64| limit.min((grain + count).saturating_mul(self.grain));
        let stored = |at: u64, entry_at: u64| {
            let is_inside = at.checked_add(end - start).is_some_and(|e| e <= input.len_of(self.file));
            if !is_inside {
                return Err(ReadError::Corrupt { at: entry_at });
            }
            let origin = Origin::Stored { file: self.file, at: at + (offset - start) };
            Ok((Some(Extent { disk: offset..end, origin }), end))
        };
        if table == 0 {
            // Skip all adjacent tables that are absent.
            let first = grain / self.per_table;
            let left = self.len.div_ceil(self.grain).div_ceil(self.per_table) - first;
            let absent = self.run(input, table_at, left, 0)?;
            let next = (first + absent).saturating_mul(self.per_table).saturating_mul(self.grain);
            return Ok((None, limit.min(next)));
        }
        if let Kind::SeSparse { tables, grains } = self.kind {
            if table >> 32 != 0x1000_0000 {
                return Err(ReadError::Corrupt { at: table_at });
            }
            let table = tables.saturating_add((table & 0xFFFF_FFFF).saturating_mul(self.per_table * 8));
            let (entry_at, entry) = self.entry(input, table, n)?;
            return match entry >> 60 {
                0 if entry == 0 => Ok((None, grains_end(self.run(input, entry_at, left, 0)?))),
                0 => Ok((None, end)),
                // Unmapped, and written with zeros.
                1 | 2 => Ok((Some(zeros(offset, end)), end)),
                3 => {
                    let place = (entry >> 48 & 0xFFF) | (entry & 0xFFFF_FFFF_FFFF) << 12;
                    stored(grains.saturating_add(place.saturating_mul(self.grain)), entry_at)
                }
                _ => Err(ReadError::Corrupt { at: entry_at }),
            };
        }
        let (entry_at, entry) = self.entry(input, table * u64::from(SECTOR), n)?;
        let at = entry * u64::from(SECTOR);
        match self.kind {
            _ if entry == 0 => Ok((None, grains_end(self.run(input, entry_at, left, 0)?))),
            Kind::Hosted { flags } if entry == 1 && flags & ZEROED_GRAINS != 0 => {
                let end = grains_end(self.run(input, entry_at, left, 1)?);
                Ok((Some(zeros(offset, end)), end))
            }
            Kind::Hosted { flags } if flags & COMPRESSED != 0 => {
                Ok((Some(self.compressed(input, flags, grain, at)?), end))
            }
            _ => stored(at, entry_at),
        }
    }

    /// Counts how many of the `count` entries at file offset `at` have this `value` in a row: at least 1.
    fn run(&self, input: &Input, at: u64, count: u64, value: u64) -> Result<u64, ReadError> {
        let width = index(self.entry_len());
        let read = |bytes: &mut [u8], at: u64| input.read_exact_at(self.file, bytes, at);
        let is = |entry: &[u8]| {
            if width == 8 { le64(entry, 0) == value } else { u64::from(le32(entry, 0)) == value }
        };
        Ok(count_matching(&read, at, count, width, &is)?.max(1))
    }

    fn compressed(&self, input: &Input, flags: u32, grain: u64, at: u64) -> Result<Extent, ReadError> {
        let corrupt = ReadError::Corrupt { at };
        let start = grain * self.grain;
        let disk = start..(start + self.grain).min(self.len);
        let mut head = [0; 12];
        let head_len = if flags & MARKERS != 0 { 12 } else { 4 };
        input.read_exact_at(self.file, &mut head[..head_len], at)?;
        // The length is preceded by the number of the disk's sector.
        if flags & MARKERS != 0 && le64(&head, 0).checked_mul(SECTOR.into()) != Some(start) {
            return Err(corrupt);
        }
        let len = le32(&head, head_len - 4);
        let uncompressed = u32::try_from(disk.end - disk.start).map_err(|_| corrupt)?;
        if len == 0 || len > 2 * MAX_CHUNK {
            return Err(corrupt);
        }
        // Some writers compress a whole last grain, even if the disk ends within it.
        let whole = disk.end - disk.start == self.grain;
        let codec = if whole { Codec::ZlibPadded } else { Codec::ZlibUnended };
        let at = at + head_len as u64;
        let compressed =
            CompressedChunk { file: self.file, at, len, skip: 0, uncompressed, codec, sum: Sum::None };
        Ok(Extent { disk, origin: Origin::Compressed(compressed) })
    }
}
