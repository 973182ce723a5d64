//! Names and times: `$FILE_NAME` and `$STANDARD_INFORMATION`.
//!
//! Facts: `FILE_NAME_ATTR` and `STANDARD_INFORMATION` in ntfs-3g's layout.h.

use crate::bytes::{le32, le64};
use crate::file_system::Times;

use super::record::Reference;

/// The namespaces of names.
const WIN32: u8 = 1;
const DOS: u8 = 2;

/// Attributes of files, as `$FILE_NAME` has them.
pub(super) const SYSTEM: u32 = 0x4;
const REPARSE: u32 = 0x400;
const DIRECTORY: u32 = 0x1000_0000;

/// What a `$FILE_NAME` says.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileName<'b> {
    /// The directory.
    pub(super) parent: Reference,
    /// The size of the file, as it was when the name was last changed.
    pub(super) size: u64,
    attributes: u32,
    reparse: u32,
    namespace: u8,
    name: &'b [u8],
}

impl<'b> FileName<'b> {
    /// Parses the value of the attribute, or the key of an index entry.
    pub(super) fn parse(value: &'b [u8]) -> Option<FileName<'b>> {
        let len = usize::from(*value.get(0x40)?);
        Some(FileName {
            parent: Reference::parse(value, 0)?,
            size: le64(value, 0x30)?,
            attributes: le32(value, 0x38)?,
            reparse: le32(value, 0x3C)?,
            namespace: *value.get(0x41)?,
            name: value.get(0x42..0x42 + 2 * len).filter(|name| !name.is_empty())?,
        })
    }

    /// Returns the name.
    pub(super) fn text(&self) -> String {
        text(self.name)
    }

    /// Returns whether it is a short name, for which a long one exists too.
    pub(super) fn is_dos(&self) -> bool {
        self.namespace == DOS
    }

    /// Returns whether it is a long name, for which a short one exists too.
    pub(super) fn is_win32(&self) -> bool {
        self.namespace == WIN32
    }

    /// Returns whether it is the name of a directory.
    pub(super) fn is_directory(&self) -> bool {
        self.attributes & DIRECTORY != 0
    }

    /// Returns the tag of the reparse point, if there is one.
    pub(super) fn reparse(&self) -> Option<u32> {
        (self.attributes & REPARSE != 0).then_some(self.reparse)
    }
}

/// Converts UTF-16; unpaired surrogates are replaced by U+FFFD.
pub(super) fn text(utf16: &[u8]) -> String {
    let units = utf16.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
    char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// Returns the times in the value of `$STANDARD_INFORMATION`, and the file's attributes.
pub(super) fn standard(value: &[u8]) -> (Times, u32) {
    let time = |at| le64(value, at).and_then(time);
    let times = Times { created: time(0), modified: time(8), changed: time(16), accessed: time(24) };
    (times, le32(value, 32).unwrap_or(0))
}

/// Converts a time, in units of 100 ns since 1601. None if there is none, or if it is too far away.
fn time(units: u64) -> Option<i64> {
    let units = i64::try_from(units).ok().filter(|&units| units != 0)?;
    (units - 116_444_736_000_000_000).checked_mul(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_count_from_1970() {
        assert_eq!(time(116_444_736_000_000_000), Some(0));
        assert_eq!(time(116_444_736_000_000_001), Some(100));
        assert_eq!((time(0), time(u64::MAX), time(i64::MAX.unsigned_abs())), (None, None, None));
    }

    #[test]
    fn unpaired_surrogates_are_replaced() {
        assert_eq!(text(&[0x41, 0, 0x3D, 0xD8, 0x00, 0xDE, 0x3D, 0xD8, 0x42, 0]), "A\u{1F600}\u{FFFD}B");
    }
}
