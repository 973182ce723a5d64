//! Directory entries of FAT.
//!
//! Source: Microsoft's "FAT: General Overview of On-Disk Format" 1.03, "FAT Directory Structure".

use super::{names, time};
use crate::bytes::{array, le16, le32};
use crate::file_system::Times;

const READ_ONLY_TO_ARCHIVE: u8 = 0x3F;
const VOLUME_LABEL: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
const LONG_NAME: u8 = 0x0F;

/// What an entry of a directory is.
pub(super) enum Entry {
    /// No entry follows.
    End,
    /// It is deleted.
    Free,
    /// A piece of a long name.
    LongName,
    /// The label of the volume.
    Label(String),
    /// `.` or `..`.
    Dots,
    /// A file or directory.
    Short(Short),
    /// None of these.
    Invalid,
}

/// A file or directory.
pub(super) struct Short {
    pub(super) raw: [u8; 11],
    pub(super) name: String,
    pub(super) directory: bool,
    pub(super) cluster: u32,
    pub(super) size: u32,
    pub(super) times: Times,
}

/// Parses an entry. `fat32` says that cluster numbers have 32 bits: elsewhere OS/2 used the upper half for something else.
pub(super) fn parse(slot: &[u8; 32], fat32: bool) -> Entry {
    let attributes = slot[11];
    match slot[0] {
        0 => return Entry::End,
        0xE5 => return Entry::Free,
        _ => {}
    }
    if attributes & READ_ONLY_TO_ARCHIVE == LONG_NAME {
        return Entry::LongName;
    }
    let raw: [u8; 11] = array(slot, 0).unwrap_or_default();
    if &raw == b".          " || &raw == b"..         " {
        return Entry::Dots;
    }
    if !names::is_short(raw) || attributes & !READ_ONLY_TO_ARCHIVE != 0 {
        return Entry::Invalid;
    }
    if attributes & VOLUME_LABEL != 0 {
        return Entry::Label(names::text(&raw).trim_end().to_owned());
    }
    let u16_at = |at| le16(slot, at).unwrap_or(0);
    let high = if fat32 { u32::from(u16_at(20)) << 16 } else { 0 };
    Entry::Short(Short {
        raw,
        name: names::short(raw, slot[12]),
        directory: attributes & DIRECTORY != 0,
        cluster: high | u32::from(u16_at(26)),
        size: le32(slot, 28).unwrap_or(0),
        times: Times {
            modified: time::nanoseconds(u16_at(24), u16_at(22), 0),
            created: time::nanoseconds(u16_at(16), u16_at(14), slot[13]),
            accessed: time::nanoseconds(u16_at(18), 0, 0),
            changed: None,
        },
    })
}
