//! Parses, formats and rounds sizes.

use std::ops::Range;

/// The smallest sector size of any disk, in bytes; also the unit in which Linux counts sectors.
pub const SECTOR: u32 = 512;

/// Parses a size as users write it: `4096`, `0x1000`, `64k`, `64KiB`, `1MB`, or `3s` in sectors of 512 bytes. A
/// letter alone or followed by `iB` is a power of 1024; a letter followed by `B` is a power of 1000.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let invalid = || format!("'{text}' is not a size (examples: 4096, 64k, 1MiB)");
    let text = text.trim();
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).map_err(|_| invalid());
    }
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..split].parse().map_err(|_| invalid())?;
    let unit = text[split..].trim().to_ascii_lowercase();
    let (power, base) = match unit.as_str() {
        "" | "b" => (0, 1024),
        "s" => return number.checked_mul(u64::from(SECTOR)).ok_or_else(invalid),
        unit => {
            let power =
                (1..).zip("kmgtpe".chars()).find(|(_, c)| unit.starts_with(*c)).ok_or_else(invalid)?.0;
            match &unit[1..] {
                "" | "ib" => (power, 1024u64),
                "b" => (power, 1000),
                _ => return Err(invalid()),
            }
        }
    };
    base.checked_pow(power).and_then(|factor| number.checked_mul(factor)).ok_or_else(invalid)
}

/// Formats a number of bytes for people, with three significant digits and a binary unit.
pub fn human(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {}", units[unit])
}

/// Formats a number of things: `1 range`, `2 ranges`.
pub fn plural(count: u64, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ if noun.ends_with('y') && !noun.ends_with("ay") => {
            format!("{count} {}ies", &noun[..noun.len() - 1])
        }
        _ => format!("{count} {noun}s"),
    }
}

/// Converts a length or offset to an index. Lossless, since only 64-bit targets are supported (see lib.rs).
#[allow(clippy::cast_possible_truncation)]
pub const fn index(number: u64) -> usize {
    number as usize
}

/// Extends `range` at both ends to multiples of `unit`, but not past `end`.
pub fn round_outwards(range: Range<u64>, unit: u64, end: u64) -> Range<u64> {
    let start = range.start - range.start % unit;
    let stop = range.end.checked_next_multiple_of(unit).unwrap_or(u64::MAX);
    start..stop.min(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed_as_users_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("0x1000", 4096),
            ("64k", 65536),
            ("64KiB", 65536),
            ("64 KiB", 65536),
            ("1MB", 1_000_000),
            ("2M", 2 << 20),
            ("8T", 8 << 40),
            ("3s", 1536),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "k", "-1", "1x", "1kk", "0xg", "99999999999T", "1.5M"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_printed_with_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (10 * 1024, "10.0 KiB"),
            (1000 * 1024, "0.98 MiB"),
            (1 << 20, "1.00 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }

    #[test]
    fn one_is_singular() {
        for (count, text) in [(0, "0 errors"), (1, "1 error"), (2, "2 errors")] {
            assert_eq!(plural(count, "error"), text);
        }
        assert_eq!((plural(2, "directory"), plural(2, "day")), ("2 directories".into(), "2 days".into()));
    }

    #[test]
    fn rounding_stays_inside_the_disk() {
        assert_eq!(round_outwards(700..1300, 512, 4096), 512..1536);
        assert_eq!(round_outwards(512..1024, 512, 4096), 512..1024);
        assert_eq!(round_outwards(4000..4050, 512, 4060), 3584..4060);
        assert_eq!(round_outwards(0..u64::MAX, 4096, 5000), 0..5000);
    }
}
