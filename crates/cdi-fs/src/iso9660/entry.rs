//! Directory records.
//!
//! Source: ECMA-119, sections 9.1 and 7.5.

use super::descriptor::ucs2;
use super::rock_ridge;
use crate::bytes::le32;
use crate::fat::time::days;

const DIRECTORY: u8 = 0x02;
const ASSOCIATED: u8 = 0x04;
const MULTI_EXTENT: u8 = 0x80;

/// A directory record.
pub(super) struct Entry<'b> {
    /// The first block of the contents, after the extended attribute record.
    pub(super) block: u64,
    /// The length of the contents, or of this part of them, in bytes.
    pub(super) len: u32,
    pub(super) directory: bool,
    /// Whether it is an associated file: a resource fork.
    pub(super) associated: bool,
    /// Whether the next record has the next part of the same file.
    pub(super) more: bool,
    /// Whether the contents are interleaved with those of another file.
    pub(super) interleaved: bool,
    pub(super) time: Option<i64>,
    pub(super) name: &'b [u8],
    /// What Rock Ridge makes use of.
    pub(super) system_use: &'b [u8],
}

/// Parses a directory record. None if it makes no sense.
pub(super) fn parse(bytes: &[u8]) -> Option<Entry<'_>> {
    let name_len = usize::from(*bytes.get(32)?);
    let name = bytes.get(33..33 + name_len).filter(|name| !name.is_empty())?;
    let flags = *bytes.get(25)?;
    let system_use = 33 + name_len + usize::from(name_len.is_multiple_of(2));
    Some(Entry {
        block: u64::from(le32(bytes, 2)?) + u64::from(*bytes.get(1)?),
        len: le32(bytes, 10)?,
        directory: flags & DIRECTORY != 0,
        associated: flags & ASSOCIATED != 0,
        more: flags & MULTI_EXTENT != 0,
        interleaved: *bytes.get(26)? != 0 || *bytes.get(27)? != 0,
        time: time(bytes.get(18..25)?),
        name,
        system_use: bytes.get(system_use..).unwrap_or_default(),
    })
}

impl Entry<'_> {
    /// Returns whether it is the entry of the directory itself or of the one above.
    pub(super) fn is_dots(&self) -> bool {
        matches!(self.name, [0] | [1])
    }
}

/// Returns a name without its version.
pub(super) fn name(bytes: &[u8], joliet: bool) -> String {
    let text = if joliet { ucs2(bytes) } else { String::from_utf8_lossy(bytes).into_owned() };
    let base = match text.rsplit_once(';') {
        Some((base, version)) if version.bytes().all(|b| b.is_ascii_digit()) => base,
        _ => &text,
    };
    match base.strip_suffix('.') {
        Some(without) if !joliet && !without.is_empty() => without.to_owned(),
        _ => base.to_owned(),
    }
}

/// Returns the nanoseconds since 1970 of a time of 7 bytes.
pub(super) fn time(bytes: &[u8]) -> Option<i64> {
    let [year, month, day, hour, minute, second, offset] = *bytes.first_chunk()?;
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let fields =
        [1900 + i64::from(year), month.into(), day.into(), hour.into(), minute.into(), second.into()];
    Some(rock_ridge::nanoseconds(fields, offset))
}

/// Returns the seconds of a date and time.
pub(super) fn seconds([year, month, day, hour, minute, second]: [i64; 6]) -> i64 {
    (days(year, month, day) * 24 + hour) * 3600 + minute * 60 + second
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_version() {
        assert_eq!(name(b"README.TXT;1", false), "README.TXT");
        assert_eq!(name(b"README.;1", false), "README");
        assert_eq!(name(b"\0a\0;\0b", true), "a;b");
        assert_eq!(name(b"\0a\0.\0;\x001", true), "a.");
    }

    #[test]
    fn times_have_an_offset() {
        assert_eq!(time(&[70, 1, 1, 1, 0, 0, 4]), Some(0));
        assert_eq!(time(&[69, 12, 31, 23, 0, 0, 0xFC]), Some(0));
        assert_eq!(time(&[70, 13, 1, 1, 0, 0, 4]), None);
    }
}
