//! Directory entries of exFAT: those of a file are a set of 3 to 19.
//!
//! Source: Microsoft's "exFAT file system specification", sections 6 and 7; `fs/exfat/exfat_raw.h` of Linux.

use std::ops::Range;

use crate::bytes::{le16, le32, le64};
use crate::fat::slots::{self, SLOT};
use crate::fat::time;
use crate::file_system::{Damage, Times};

/// Types of entries.
pub(super) const END: u8 = 0;
pub(super) const BITMAP: u8 = 0x81;
pub(super) const UP_CASE: u8 = 0x82;
pub(super) const LABEL: u8 = 0x83;
pub(super) const FILE: u8 = 0x85;
pub(super) const STREAM: u8 = 0xC0;
pub(super) const NAME: u8 = 0xC1;
/// From here on, entries belong to one before them.
pub(super) const SECONDARY: u8 = 0xC0;

/// The largest number of entries that follow the first of a set.
pub(super) const MAX_SECONDARY: u8 = 18;
/// The number of characters in an entry of a name.
const PIECE: usize = 15;
/// The longest name.
const MAX_NAME: usize = 255;

/// The entries of a file, as far as they could be read.
#[derive(Default)]
pub(super) struct Set {
    pub(super) slots: Vec<Option<[u8; 32]>>,
    pub(super) at: Vec<Range<u64>>,
    /// The number of entries that there should be.
    pub(super) count: usize,
    /// Why it is not whole.
    pub(super) damage: Option<Damage>,
}

impl Set {
    /// Adds an entry that is at byte `at`.
    pub(super) fn push(&mut self, at: u64, slot: Result<[u8; 32], Damage>) {
        slots::add(&mut self.at, at..at + SLOT);
        match slot {
            Ok(slot) => self.slots.push(Some(slot)),
            Err(damage) => {
                self.damage.get_or_insert(damage);
                self.slots.push(None);
            }
        }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.slots.len() >= self.count
    }

    /// Returns the number of the file.
    pub(super) fn number(&self) -> u64 {
        self.at.first().map_or(0, |range| range.start)
    }

    /// Returns what is wrong with it.
    pub(super) fn check(&self) -> Option<Damage> {
        if self.damage.is_some() {
            return self.damage.clone();
        }
        if !self.is_whole() {
            return Some(Damage::Invalid("some of its directory entries are missing".into()));
        }
        let slots: Vec<_> = self.slots.iter().flatten().copied().collect();
        (!is_sound(&slots)).then(|| Damage::Invalid("the checksum of its directory entries is wrong".into()))
    }

    pub(super) fn file(&self) -> Option<File> {
        self.slots.first()?.as_ref().filter(|slot| slot[0] == FILE).map(File::parse)
    }

    pub(super) fn stream(&self) -> Option<Stream> {
        self.slots.get(1)?.as_ref().filter(|slot| slot[0] == STREAM).and_then(Stream::parse)
    }

    /// Returns the name. An entry of it that is lost is U+FFFD.
    pub(super) fn name(&self) -> String {
        let len = self.stream().map(|stream| stream.name_len);
        let mut units = Vec::new();
        let mut left = len.unwrap_or(MAX_NAME);
        for slot in self.slots.iter().skip(2) {
            if left == 0 || slot.is_some_and(|slot| slot[0] != NAME) {
                break;
            }
            let piece = left.min(PIECE);
            match slot {
                Some(slot) => {
                    units.extend((0..piece).map_while(|n| le16(slot, 2 + n * 2)).take_while(|u| *u != 0))
                }
                None => units.push(0xFFFD),
            }
            left -= piece;
        }
        // The set ended before its name.
        if len.is_some() && left > 0 {
            units.push(0xFFFD);
        }
        String::from_utf16_lossy(&units)
    }
}

/// Returns whether the checksum of a set is right.
pub(super) fn is_sound(slots: &[[u8; 32]]) -> bool {
    let bytes = slots.iter().flatten().enumerate().filter(|(at, _)| !matches!(at, 2 | 3));
    let sum = bytes.fold(0u16, |sum, (_, byte)| sum.rotate_right(1).wrapping_add(u16::from(*byte)));
    slots.first().and_then(|first| le16(first, 2)) == Some(sum)
}

/// The first entry of a set.
pub(super) struct File {
    pub(super) directory: bool,
    pub(super) times: Times,
}

impl File {
    fn parse(slot: &[u8; 32]) -> File {
        let time = |at: usize, hundredths: u8, offset: u8| {
            let local = time::nanoseconds(le16(slot, at + 2)?, le16(slot, at)?, hundredths)?;
            Some(local - utc_offset(offset))
        };
        File {
            directory: le16(slot, 4).unwrap_or(0) & 0x10 != 0,
            times: Times {
                created: time(8, slot[20], slot[22]),
                modified: time(12, slot[21], slot[23]),
                accessed: time(16, 0, slot[24]),
                changed: None,
            },
        }
    }
}

/// Returns the difference of a local time from UTC in nanoseconds: a number of 7 bits with a sign, in units of 15 minutes, and a
/// bit that says whether it is known.
fn utc_offset(byte: u8) -> i64 {
    if byte & 0x80 == 0 {
        return 0;
    }
    let units = i64::from(byte & 0x7F) - if byte & 0x40 != 0 { 0x80 } else { 0 };
    units * 15 * 60 * 1_000_000_000
}

/// The second entry of a set: where the contents are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream {
    /// Whether the clusters are contiguous, and the table has nothing of them.
    pub(super) contiguous: bool,
    pub(super) name_len: usize,
    /// What was written; the rest up to `size` reads as zeros.
    pub(super) valid: u64,
    pub(super) cluster: u32,
    pub(super) size: u64,
}

impl Stream {
    pub(super) fn parse(slot: &[u8; 32]) -> Option<Stream> {
        let allocated = slot[1] & 1 != 0;
        Some(Stream {
            contiguous: slot[1] & 2 != 0,
            name_len: usize::from(slot[3]),
            valid: le64(slot, 8)?,
            cluster: le32(slot, 20)?,
            size: if allocated { le64(slot, 24)? } else { 0 },
        })
    }
}

/// Returns the label of an entry that has it.
pub(super) fn label(slot: &[u8; 32]) -> Option<String> {
    let units: Vec<u16> = (0..usize::from(slot[1]).min(11)).map_while(|n| le16(slot, 2 + n * 2)).collect();
    (!units.is_empty()).then(|| String::from_utf16_lossy(&units))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_signed_quarters_of_an_hour() {
        let hours = |byte| utc_offset(byte) / 1_000_000_000 / 900;
        assert_eq!((hours(0x80), hours(0x84), hours(0xFC), hours(0x04)), (0, 4, -4, 0));
    }

    fn name_slot(name: &str) -> [u8; 32] {
        let mut slot = [0; 32];
        slot[0] = NAME;
        for (unit, at) in name.encode_utf16().zip((2..).step_by(2)) {
            slot[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        slot
    }

    #[test]
    fn a_name_has_a_mark_where_an_entry_is_lost() {
        let mut stream = [0; 32];
        (stream[0], stream[1], stream[3]) = (STREAM, 1, 34);
        let slots = [
            [FILE; 32],
            stream,
            name_slot("the first 15 ch"),
            name_slot("of many more in"),
            name_slot(" all"),
        ];
        let lost = || Err(Damage::Invalid(String::new()));
        let set = |without: usize| {
            let mut set = Set { count: 5, ..Set::default() };
            for (n, slot) in slots.iter().enumerate() {
                set.push(n as u64 * 32, if n == without { lost() } else { Ok(*slot) });
            }
            set
        };
        assert_eq!(set(9).name(), "the first 15 chof many more in all");
        assert_eq!(set(3).name(), "the first 15 ch\u{FFFD} all");
        assert_eq!(set(1).name(), "the first 15 chof many more in all");
        assert!(set(1).stream().is_none());
        assert!(set(9).check().is_some(), "no checksum");
    }
}
