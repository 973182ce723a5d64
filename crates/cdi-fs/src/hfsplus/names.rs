//! Names and times.

use crate::bytes::be16;

/// The longest name, in UTF-16 units.
const MAX_NAME: u16 = 255;

/// Reads a name (its length and UTF-16 units) as Unix programs on macOS show it: a `/` in the name is a `:`, since the Finder
/// shows a `:` as `/`; a NUL is U+2400. Returns the bytes that it takes, too.
pub(super) fn name(bytes: &[u8]) -> Option<(String, usize)> {
    let len = be16(bytes, 0)?;
    if len > MAX_NAME {
        return None;
    }
    let end = 2 + 2 * usize::from(len);
    let units = bytes.get(2..end)?.as_chunks::<2>().0.iter().map(|pair| u16::from_be_bytes(*pair));
    let chars = char::decode_utf16(units).map(|c| match c.unwrap_or(char::REPLACEMENT_CHARACTER) {
        '/' => ':',
        '\0' => '\u{2400}',
        c => c,
    });
    Some((chars.collect(), end))
}

/// Converts a time in seconds since 1904 to nanoseconds since 1970. 0 is none.
pub(super) fn time(seconds: u32) -> Option<i64> {
    (seconds != 0).then(|| (i64::from(seconds) - BEFORE_1970) * 1_000_000_000)
}

/// The seconds from 1904 to 1970.
const BEFORE_1970: i64 = 2_082_844_800;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_unix_programs_show_them() {
        let raw = |units: &[u16]| {
            let len = u16::try_from(units.len()).unwrap();
            [len].iter().chain(units).flat_map(|u| u.to_be_bytes()).collect::<Vec<u8>>()
        };
        let units = |text: &str| text.encode_utf16().collect::<Vec<u16>>();
        for (units, want) in [
            (units("a/b"), "a:b"),
            (units("\0\0HFS+"), "\u{2400}\u{2400}HFS+"),
            (units("e\u{301}\u{1F600}"), "e\u{301}\u{1F600}"),
            (vec![0xD800, 0x41], "\u{FFFD}A"),
        ] {
            let raw = raw(&units);
            assert_eq!(name(&raw), Some((want.to_owned(), raw.len())));
        }
        assert_eq!(name(&[0, 3, 0, 0x41]), None);
        assert_eq!(name(&[1, 0]), None, "256 units");
    }

    #[test]
    fn times_are_since_1904() {
        assert_eq!(time(0), None);
        assert_eq!(time(2_082_844_801), Some(1_000_000_000));
        assert_eq!(time(u32::MAX), Some(2_212_122_495_000_000_000));
    }
}
