//! Names of FAT: short ones of 8 and 3 bytes in a code page, and long ones in UTF-16.
//!
//! Sources: Microsoft's "FAT: General Overview of On-Disk Format" 1.03, "Long Directory Entries"; for the flags of lower case,
//! `fs/fat/dir.c` of Linux (`CASE_LOWER_BASE`). A volume does not say which code page its short names have: code page 437 is
//! taken, as Linux does.

use crate::bytes::le16;

/// The characters of code page 437 from 0x80.
const CP437: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐\
                     └┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{A0}";

/// Flags of byte 12 of a directory entry: Windows NT's way to store `name.txt` without a long name.
const LOWER_BASE: u8 = 0x08;
const LOWER_EXTENSION: u8 = 0x10;

/// Returns the text of bytes in code page 437.
pub(super) fn text(bytes: &[u8]) -> String {
    let character = |byte: &u8| match byte.checked_sub(0x80) {
        None => char::from(*byte),
        Some(high) => CP437.chars().nth(usize::from(high)).unwrap_or(char::REPLACEMENT_CHARACTER),
    };
    bytes.iter().map(character).collect()
}

/// Returns whether these can be the 11 bytes of a short name.
pub(super) fn is_short(name: [u8; 11]) -> bool {
    let valid = |(i, byte): (usize, &u8)| match byte {
        0x05 => i == 0,
        0..0x20 | b'"' | b'*' | b'/' | b':' | b'<' | b'>' | b'?' | b'\\' | b'|' | 0x7F => false,
        b' ' => i != 0,
        _ => true,
    };
    name.iter().enumerate().all(valid)
}

/// Returns a short name, from its 11 bytes and byte 12 of the entry.
pub(super) fn short(mut name: [u8; 11], case: u8) -> String {
    if name[0] == 0x05 {
        name[0] = 0xE5; // which would mean that the entry is free
    }
    let part = |bytes: &[u8], lower: u8| {
        let end = bytes.iter().rposition(|b| *b != b' ').map_or(0, |last| last + 1);
        let mut bytes = bytes[..end].to_vec();
        if case & lower != 0 {
            bytes.make_ascii_lowercase();
        }
        text(&bytes)
    };
    let (base, extension) = (part(&name[..8], LOWER_BASE), part(&name[8..], LOWER_EXTENSION));
    if extension.is_empty() { base } else { format!("{base}.{extension}") }
}

/// The entries of a long name that were read so far. They precede the short one, the last piece first.
#[derive(Default)]
pub(super) struct LongName {
    /// The pieces, in reverse.
    pieces: Vec<[u16; 13]>,
    /// The number of the piece that was read last; 1 if it is complete.
    number: u8,
    checksum: u8,
}

/// The most pieces that a name has.
const MAX_PIECES: u8 = 20;

impl LongName {
    /// Forgets what was read.
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.number = 0;
    }

    /// Takes an entry. Returns whether it begins a name.
    pub(super) fn push(&mut self, slot: &[u8; 32]) -> bool {
        let (number, first) = (slot[0] & 0x3F, slot[0] & 0x40 != 0);
        let follows = number + 1 == self.number && slot[13] == self.checksum;
        if number == 0 || number > MAX_PIECES || (!first && !follows) {
            self.clear();
            return false;
        }
        if first {
            self.clear();
        }
        (self.number, self.checksum) = (number, slot[13]);
        let mut piece = [0; 13];
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
        for (unit, at) in piece.iter_mut().zip(places) {
            *unit = le16(slot, at).unwrap_or(0);
        }
        self.pieces.push(piece);
        first
    }

    /// Returns the name if all of it was read.
    pub(super) fn complete(&self) -> Option<String> {
        if self.number != 1 {
            return None;
        }
        let units: Vec<u16> = self.pieces.iter().rev().flatten().copied().take_while(|u| *u != 0).collect();
        (!units.is_empty()).then(|| String::from_utf16_lossy(&units))
    }

    /// Returns the name if all of it was read, and belongs to the short name `short`.
    pub(super) fn of(&self, short: &[u8; 11]) -> Option<String> {
        let add = |sum: u8, byte: &u8| sum.rotate_right(1).wrapping_add(*byte);
        if short.iter().fold(0, add) != self.checksum {
            return None;
        }
        self.complete()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names() {
        assert_eq!(short(*b"README  TXT", 0), "README.TXT");
        assert_eq!(short(*b"README  TXT", 0x18), "readme.txt");
        assert_eq!(short(*b"MAKEFILE   ", 0x10), "MAKEFILE");
        assert_eq!(short(*b"\x05BC     \x81  ", 0), "σBC.ü");
        assert!(is_short(*b"\x05BC     TXT"));
        assert!(!is_short(*b"AB\x05     TXT"));
        assert!(!is_short(*b" BC     TXT"));
        assert_eq!(CP437.chars().count(), 128);
    }

    fn piece(number: u8, checksum: u8, name: &str) -> [u8; 32] {
        let mut slot = [0xFF; 32];
        (slot[0], slot[11], slot[12], slot[13]) = (number, 0x0F, 0, checksum);
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
        for (unit, at) in name.encode_utf16().chain(Some(0)).zip(places) {
            slot[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        slot
    }

    #[test]
    fn long_names_need_every_piece_and_the_checksum() {
        let short = *b"LONGNA~1TXT";
        let sum = short.iter().fold(0u8, |sum, b| sum.rotate_right(1).wrapping_add(*b));
        let mut name = LongName::default();
        assert!(name.push(&piece(0x42, sum, "e.txt")));
        assert_eq!(name.of(&short), None);
        assert!(!name.push(&piece(1, sum, "a long name.å")));
        assert_eq!(name.of(&short).as_deref(), Some("a long name.åe.txt"));
        assert_eq!(name.of(b"OTHERNA1TXT"), None);
        name.push(&piece(1, sum, "a long name.å"));
        assert_eq!(name.complete(), None);
    }
}
