//! The volume header, its copy, and the HFS wrapper.
//!
//! Facts: Apple, Technical Note TN1150 "HFS Plus Volume Format"; `struct hfsplus_vh` in Linux's fs/hfsplus/hfsplus_raw.h.

use std::ops::Range;

use cdi_base::error::ReadError;

use super::fork::{Fork, Layout};
use crate::bytes::{be16, be32, be64};
use crate::file_system::Damage;
use crate::volume::Volume;

/// Where the header is in the volume, and how far before its end the copy is.
pub(super) const HEADER: u64 = 1024;
/// The size of the header.
pub(super) const HEADER_SIZE: usize = 512;
/// The bytes of a header that a fork takes.
const FORK: usize = 80;

/// What the volume header says.
#[derive(Debug, Clone)]
pub(super) struct Header {
    /// HFSX: names may differ in case alone.
    pub(super) hfsx: bool,
    /// Where the blocks are.
    pub(super) layout: Layout,
    /// What tells the volume from others: the last of Finder's eight numbers.
    pub(super) id: u64,
    /// The block of the journal's info block, if there is a journal.
    pub(super) journal: Option<u32>,
    /// The number of files, and of directories other than the root.
    pub(super) files: u32,
    pub(super) folders: u32,
    /// The files of the file system itself.
    pub(super) allocation: Fork,
    pub(super) extents: Fork,
    pub(super) catalogue: Fork,
    pub(super) attributes: Fork,
    pub(super) startup: Fork,
}

/// A header that was found, and what was found on the way.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) header: Header,
    /// Where the volume itself is: not at 0 in an HFS wrapper.
    pub(super) inside: Range<u64>,
}

/// Finds the header, or its copy. None if this is another file system.
pub(super) fn find(volume: &Volume<'_>) -> Result<Option<Found>, Damage> {
    let whole = 0..volume.size();
    let inside = wrapped(volume, HEADER).or_else(|| wrapped(volume, volume.size().checked_sub(HEADER)?));
    let inside = inside.unwrap_or(whole);
    let found = |header| Some(Found { header, inside: inside.clone() });
    let first = match read(volume, inside.start.saturating_add(HEADER), inside.start) {
        // What is readable and no header means another file system: a copy may be left of an older one.
        Ok(header) => return Ok(header.and_then(found)),
        Err(damage) => damage,
    };
    let copy = copy_place(&inside).map(|at| read(volume, at, inside.start));
    match (copy, first) {
        (Some(Ok(Some(header))), _) => Ok(found(header)),
        // Without a readable signature, it may be anything.
        (_, Damage::Unreadable(_)) => Ok(None),
        (_, damage) => Err(damage),
    }
}

/// Returns where the copy of the header of a volume is.
pub(super) fn copy_place(inside: &Range<u64>) -> Option<u64> {
    inside.end.checked_sub(HEADER).filter(|at| *at > inside.start + HEADER)
}

/// Reads the header at `at` of a volume that starts at `base`. None if it is none.
pub(super) fn read(volume: &Volume<'_>, at: u64, base: u64) -> Result<Option<Header>, Damage> {
    let bytes = volume.read(at, HEADER_SIZE)?;
    let hfsx = match bytes.first_chunk() {
        Some(b"H+") => false,
        Some(b"HX") => true,
        _ => return Ok(None),
    };
    let room = volume.size().saturating_sub(base);
    parse(&bytes, hfsx, base, room).map(Some)
}

fn parse(bytes: &[u8], hfsx: bool, base: u64, room: u64) -> Result<Header, Damage> {
    let short = || Damage::Invalid("the volume header is too short".into());
    let word = |at| be32(bytes, at).ok_or_else(short);
    let block_size = word(40)?;
    if !block_size.is_power_of_two() || block_size < 512 {
        return Err(Damage::Invalid(format!("the volume header has blocks of {block_size} bytes")));
    }
    // What lies past the end of the volume is not read, so that a disk that was cut short is listed as well.
    let blocks = word(44)?;
    if blocks == 0 || room < u64::from(block_size) {
        return Err(Damage::Invalid("the volume header has no blocks".into()));
    }
    let layout = Layout { base, block_size, blocks };
    let fork = |at: usize| bytes.get(at..at + FORK).and_then(|b| Fork::parse(b, layout)).ok_or_else(short);
    let journaled = word(4)? & JOURNALED != 0;
    Ok(Header {
        hfsx,
        layout,
        id: u64::from(word(104)?) << 32 | u64::from(word(108)?),
        journal: Some(word(12)?).filter(|block| journaled && *block != 0),
        files: word(32)?,
        folders: word(36)?,
        allocation: fork(112)?,
        extents: fork(192)?,
        catalogue: fork(272)?,
        attributes: fork(352)?,
        startup: fork(432)?,
    })
}

/// The bit of the attributes that says that there is a journal.
const JOURNALED: u32 = 1 << 13;

/// Returns where the HFS+ volume is in an HFS volume whose master directory block is at `at`.
fn wrapped(volume: &Volume<'_>, at: u64) -> Option<Range<u64>> {
    let block = volume.read(at, HEADER_SIZE).ok()?;
    if !block.starts_with(b"BD") || block.get(124..126) != Some(b"H+") {
        return None;
    }
    let unit = u64::from(be32(&block, 20)?);
    let start = u64::from(be16(&block, 28)?) * 512 + u64::from(be16(&block, 126)?) * unit;
    let end = start.checked_add(u64::from(be16(&block, 128)?) * unit)?.min(volume.size());
    (start < end).then_some(start..end)
}

/// Where the journal is.
pub(super) enum Journal {
    /// In these bytes of the volume.
    Here(Range<u64>),
    /// On another disk.
    Elsewhere,
}

/// Reads the journal's info block at `at`.
pub(super) fn journal(volume: &Volume<'_>, at: u64, base: u64) -> Result<Journal, Damage> {
    let bytes = volume.read(at, JOURNAL_INFO)?;
    let flags = be32(&bytes, 0).ok_or(ReadError::PastEnd)?;
    if flags & 1 == 0 {
        return Ok(Journal::Elsewhere);
    }
    let offset = be64(&bytes, 36).ok_or(ReadError::PastEnd)?;
    let size = be64(&bytes, 44).ok_or(ReadError::PastEnd)?;
    let start = base.checked_add(offset);
    let end = start.and_then(|start| start.checked_add(size)).filter(|end| *end <= volume.size());
    match (start, end) {
        (Some(start), Some(end)) => Ok(Journal::Here(start..end)),
        _ => Err(Damage::Invalid("the journal's info block points past the end of the volume".into())),
    }
}

/// The bytes of the journal's info block that are used.
pub(super) const JOURNAL_INFO: usize = 52;
