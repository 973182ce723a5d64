//! Virtual PC and older Hyper-V disk images (`.vhd`): fixed, dynamic, and differencing with their parents.
//!
//! Sources: "Virtual Hard Disk Image Format Specification", version 1.0 (Microsoft, 2006). All numbers are big-endian.
//! The file ends with a footer of 512 bytes. A dynamic disk begins with a copy of the footer, followed by a header and
//! a block table; a block is a bitmap of its sectors and the sectors. In a differencing disk, sectors whose bit is 0
//! come from the parent.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use cdi_base::error::{Error, Flaw, ReadError};
use cdi_base::units::index;

use super::chain::{self, Chain, Found, next_depth};
use crate::bytes::{be32, be64, flaw};
use crate::extent::{Extent, FileNo, Origin};
use crate::image::{Format, Image, OpenOptions};
use crate::input::Input;

/// VHD images.
pub const FORMAT: Format = Format {
    name: "vhd",
    summary: "Virtual PC's and Hyper-V's VHD: fixed, dynamic, differencing with its parents",
    integrity: "checksums of the headers only: damaged disk data cannot be detected",
    suffixes: &["vhd", "vpc"],
    probe: |input| {
        let cookie_at = |at: u64| input.bytes(at, COOKIE.len(), "the footer").is_ok_and(|b| b == COOKIE);
        let footers = [FOOTER, SHORT].map(|len| input.len().checked_sub(len as u64));
        cookie_at(0) || footers.into_iter().flatten().any(cookie_at)
    },
    open,
};

const COOKIE: &[u8] = b"conectix";
const FOOTER: usize = 512;
/// The length of the footer that Virtual PC wrote before 2004; the missing last byte is taken as 0.
const SHORT: usize = 511;
const HEADER: usize = 1024;
/// A block table entry without a block.
const UNUSED: u32 = u32::MAX;
const SECTOR: u64 = 512;

/// One file of a chain of disks.
pub(super) struct Layer {
    file: FileNo,
    uuid: [u8; 16],
    size: u64,
    blocks: Option<Blocks>,
    parent: Option<Box<Layer>>,
}

/// The blocks of a dynamic disk.
struct Blocks {
    /// The file offset of the block table, its number of entries, and the block size, in bytes.
    table: u64,
    count: u64,
    len: u64,
    /// The length in bytes of the bitmap before each block.
    bitmap: u64,
}

/// Returns the one's complement of the sum of all bytes except the four of the checksum itself, at `at`.
fn checksum(bytes: &[u8], at: usize) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().fold(0u32, |sum, b| sum.wrapping_add(u32::from(*b)));
    !sum(&bytes[..at]).wrapping_add(sum(&bytes[at + 4..]))
}

fn open(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let mut warnings = Vec::new();
    let top = open_layer(&input, Input::MAIN, 0, &mut warnings)?;
    Ok(Box::new(Chain::of(input, top, options, warnings)))
}

/// Reads the footer, or if it is damaged, its copy at the start. Returns its file offset and its bytes.
fn footer(input: &Input, file: FileNo, warnings: &mut Vec<String>) -> Result<(u64, Vec<u8>), Error> {
    let last = input.len_of(file).saturating_sub(FOOTER as u64);
    let read_valid = |at: u64, len: usize| {
        let mut bytes = input.bytes_of(file, at, len, "the footer").ok()?;
        bytes.resize(FOOTER, 0);
        (bytes.starts_with(COOKIE) && checksum(&bytes, 64) == be32(&bytes, 64)).then_some((at, bytes))
    };
    let short = input.len_of(file).checked_sub(SHORT as u64);
    match read_valid(last, FOOTER).or_else(|| read_valid(short?, SHORT)) {
        Some(footer) => Ok(footer),
        None => {
            let copy = read_valid(0, FOOTER).ok_or_else(|| {
                Error::from(Flaw::at(last, "the footer and its copy are both missing or damaged"))
            })?;
            warnings
                .push("the footer at the end is missing or damaged; its copy at the start was used".into());
            Ok(copy)
        }
    }
}

pub(super) fn open_layer(
    input: &Input,
    file: FileNo,
    depth: usize,
    warnings: &mut Vec<String>,
) -> Result<Layer, Error> {
    let (at, footer) = footer(input, file, warnings)?;
    let (version, size) = (be32(&footer, 12), be64(&footer, 48));
    if version >> 16 != 1 {
        return flaw(
            at + 12,
            format!(
                "unsupported version {}.{} (only version 1 is supported)",
                version >> 16,
                version & 0xFFFF
            ),
        );
    }
    if size == 0 || i64::try_from(size).is_err() {
        return flaw(at + 48, format!("invalid disk size: {size} bytes"));
    }
    let uuid = *footer[68..].first_chunk().unwrap_or(&[0; 16]);
    let layer = |blocks, parent| Layer { file, uuid, size, blocks, parent };
    match be32(&footer, 60) {
        2 => {
            if size > at {
                return flaw(
                    at + 48,
                    format!(
                        "the file is truncated: the disk has {size} bytes, but the file contains only {at}"
                    ),
                );
            }
            Ok(layer(None, None))
        }
        kind @ (3 | 4) => {
            let header_at = be64(&footer, 16);
            let header = input.bytes_of(file, header_at, HEADER, "the header of a dynamic disk")?;
            if !header.starts_with(b"cxsparse") || checksum(&header, 36) != be32(&header, 36) {
                return flaw(header_at, "the header of the dynamic disk is damaged");
            }
            let blocks = blocks(input, file, header_at, &header, size)?;
            let parent =
                if kind == 4 { Some(Box::new(parent(input, &header, depth, warnings)?)) } else { None };
            Ok(layer(Some(blocks), parent))
        }
        kind => flaw(at + 60, format!("unknown disk type {kind}")),
    }
}

fn blocks(input: &Input, file: FileNo, at: u64, header: &[u8], size: u64) -> Result<Blocks, Error> {
    let (table, count, len) = (be64(header, 16), u64::from(be32(header, 28)), u64::from(be32(header, 32)));
    if !len.is_power_of_two() || !(SECTOR..=1 << 30).contains(&len) {
        return flaw(at + 32, format!("invalid block size: {len} bytes"));
    }
    if count < size.div_ceil(len) {
        return flaw(
            at + 28,
            format!("a block table of {count} entries is too short for a disk of {size} bytes"),
        );
    }
    if table.checked_add(count * 4).is_none_or(|end| end > input.len_of(file)) {
        return flaw(at + 16, format!("the block table at byte {table} extends past the end of the file"));
    }
    let bitmap = len.div_ceil(SECTOR).div_ceil(8).next_multiple_of(SECTOR);
    Ok(Blocks { table, count, len, bitmap })
}

/// Opens the parent of a differencing disk: the file named in the header, if its UUID matches.
fn parent(input: &Input, header: &[u8], depth: usize, warnings: &mut Vec<String>) -> Result<Layer, Error> {
    let units: Vec<u16> = header[64..576]
        .chunks_exact(2)
        .map(|b| u16::from_be_bytes([b[0], b[1]]))
        .take_while(|u| *u != 0)
        .collect();
    let path = String::from_utf16_lossy(&units);
    let file = chain::parent(input, path.as_ref())?;
    let name = input.path_of(file).display().to_string();
    let parent = open_layer(input, file, next_depth(depth)?, warnings).map_err(|e| e.at(Path::new(&name)))?;
    if parent.uuid[..] != header[40..56] {
        let what = format!("'{name}' is not the parent of this differencing image: its UUID does not match");
        return Err(Error::bad_image(what));
    }
    warnings.push(format!("differencing image: blocks not in it are read from {name}"));
    Ok(parent)
}

impl chain::Layer for Layer {
    fn size(&self) -> u64 {
        self.size
    }

    fn parent(&self) -> Option<&dyn chain::Layer> {
        Some(&**self.parent.as_ref()?)
    }

    fn find(&self, input: &Input, offset: u64, end: u64) -> Result<Found, ReadError> {
        let Some(blocks) = &self.blocks else {
            return Ok(self.stored(offset..end, offset));
        };
        let (block, start) = (offset / blocks.len, offset - offset % blocks.len);
        let limit = end;
        let end = limit.min(start + blocks.len);
        if block >= blocks.count {
            return Err(ReadError::Unmapped { offset });
        }
        let entry_at = blocks.table + block * 4;
        let mut entry = [0; 4];
        input.read_exact_at(self.file, &mut entry, entry_at)?;
        let entry = u32::from_be_bytes(entry);
        if entry == UNUSED {
            let read = |bytes: &mut [u8], at: u64| input.read_exact_at(self.file, bytes, at);
            let is = |entry: &[u8]| be32(entry, 0) == UNUSED;
            let count = chain::count_matching(&read, entry_at, blocks.count - block, 4, &is)?.max(1);
            let stop = start.saturating_add(count.saturating_mul(blocks.len));
            return Ok(Found::Below(offset..stop.min(limit)));
        }
        let at = u64::from(entry) * SECTOR;
        let data = at + blocks.bitmap;
        if data + (end - start) > input.len_of(self.file) {
            return Err(ReadError::Corrupt { at: entry_at });
        }
        if self.parent.is_none() {
            return Ok(self.stored(offset..end, data + (offset - start)));
        }
        // Find the run of sectors that are all in this file, or all in the parent.
        let mut bitmap = vec![0; index(blocks.bitmap)];
        input.read_exact_at(self.file, &mut bitmap, at)?;
        let is_here = |at: u64| {
            let sector = (at - start) / SECTOR;
            bitmap[index(sector / 8)] & (0x80 >> (sector % 8)) != 0
        };
        let here = is_here(offset);
        let mut stop = offset - offset % SECTOR + SECTOR;
        while stop < end && is_here(stop) == here {
            stop += SECTOR;
        }
        let stop = stop.min(end);
        let disk = offset..stop;
        Ok(if here { self.stored(disk, data + (offset - start)) } else { Found::Below(disk) })
    }
}

impl Layer {
    fn stored(&self, disk: Range<u64>, at: u64) -> Found {
        Found::Here(Extent { disk, origin: Origin::Stored { file: self.file, at } })
    }
}
