//! What a compressed block says about the blocks after it: the tables that they may use again, and the last three
//! offsets. And what it refers to: each sequence copies bytes from before it.
//!
//! With that and the bytes before a block, decompression can begin at it: they are exactly what a dictionary holds.
//! Source: RFC 8878, sections 3.1.1.3 and 5.

use super::entropy::{Bits, Decoder, Table};

/// The magic of a dictionary.
const DICTIONARY: [u8; 4] = 0xEC30_A437u32.to_le_bytes();

/// The additional bits of each code of a literals length, and of a match length, whose first value is 3.
const LITERALS: [u8; 36] = [
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13,
    14, 15, 16,
];
const MATCHES: [u8; 53] = [
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1,
    1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
];

/// One of the three tables: the highest code, the base 2 logarithm of the number of states, and the table for blocks that
/// do not describe one, as they would describe it.
struct Kind {
    max_code: u8,
    max_log: u8,
    predefined: &'static [u8],
}

const KINDS: [Kind; 3] = [
    Kind {
        max_code: 35,
        max_log: 9,
        predefined: &[
            0x51, 0x10, 0x63, 0x8C, 0x31, 0xC6, 0x18, 0x63, 0x0C, 0x21, 0xC4, 0x18, 0x63, 0x66, 0x66, 0x86,
            0x46, 0x92, 0x04, 0x00,
        ],
    },
    Kind {
        max_code: 31,
        max_log: 8,
        predefined: &[0x20, 0x84, 0x10, 0x42, 0x66, 0x46, 0x44, 0x44, 0x44, 0x44, 0x24, 0x49, 0x02, 0x00],
    },
    Kind {
        max_code: 52,
        max_log: 9,
        predefined: &[
            0x21, 0x14, 0xC4, 0x18, 0x63, 0x8C, 0x21, 0x84, 0x10, 0x42, 0x08, 0x21, 0x84, 0x10, 0x42, 0x08,
            0x21, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x24, 0x09, 0x00, 0x00,
        ],
    },
];

/// The shortest descriptions, for tables that no block uses: of a code for bytes, and of one for numbers.
const NO_HUFFMAN: &[u8] = &[0x80, 0x10];
const NO_TABLE: &[u8] = &[0xF0, 0x03];

/// What blocks may use of the blocks before them in a frame.
pub(super) struct History {
    /// The description of the code for bytes, if there was one.
    huffman: Vec<u8>,
    /// For literals lengths, offsets, and match lengths; None if there was none.
    tables: [Option<Table>; 3],
    /// The last three offsets, the last one first.
    offsets: [u32; 3],
    /// Whether decompression was to begin at a block before which a table of a single code was in use. That cannot be said
    /// in a dictionary; no known compressor uses such a table again.
    without_single: [bool; 3],
}

/// A sequence: after this number of bytes as they are, `len` bytes are copied from `offset` bytes before them.
pub(super) struct Copied {
    pub(super) literals: u32,
    pub(super) offset: u32,
    pub(super) len: u32,
}

impl History {
    /// Begins a frame.
    pub(super) fn new() -> History {
        History {
            huffman: Vec::new(),
            tables: [const { None }; 3],
            offsets: [1, 4, 8],
            without_single: [false; 3],
        }
    }

    /// Returns the dictionary without which decompression cannot begin at the next block, up to the bytes themselves, of which
    /// there are `len`. Returns None if it cannot.
    pub(super) fn dictionary(&mut self, len: usize) -> Option<Vec<u8>> {
        if self.offsets.iter().any(|offset| *offset as usize > len) {
            return None;
        }
        self.without_single = [false; 3];
        let mut out = DICTIONARY.to_vec();
        out.extend(1u32.to_le_bytes());
        out.extend(if self.huffman.is_empty() { NO_HUFFMAN } else { &self.huffman });
        // In this order.
        for n in [1, 2, 0] {
            match &self.tables[n] {
                Some(Table { description: Some(description), .. }) => out.extend(description),
                table => {
                    self.without_single[n] = table.is_some();
                    out.extend(NO_TABLE);
                }
            }
        }
        out.extend(self.offsets.map(u32::to_le_bytes).as_flattened());
        Some(out)
    }

    /// Returns whether decompression was to begin where a table of a single code was in use, and no other has replaced it.
    pub(super) fn is_used_without_single(&self) -> bool {
        self.without_single != [false; 3]
    }

    /// Reads a compressed block, without its header, and calls `copied` for each of its sequences. Returns None if it is
    /// damaged, or uses what was not in a dictionary.
    pub(super) fn read(&mut self, block: &[u8], mut copied: impl FnMut(&Copied)) -> Option<()> {
        let rest = block.get(self.read_literals(block)?..)?;
        let (first, rest) = rest.split_first()?;
        let (count, rest) = match first {
            0 => return rest.is_empty().then_some(()),
            1..128 => (u32::from(*first), rest),
            128..255 => {
                let (low, rest) = rest.split_first()?;
                ((u32::from(*first) - 128) << 8 | u32::from(*low), rest)
            }
            255 => {
                let (bytes, rest) = rest.split_first_chunk()?;
                (u32::from(u16::from_le_bytes(*bytes)) + 0x7F00, rest)
            }
        };
        let (modes, mut rest) = rest.split_first()?;
        if modes & 3 != 0 {
            return None;
        }
        for (n, Kind { max_code, max_log, predefined }) in KINDS.iter().enumerate() {
            let table = match modes >> (6 - 2 * n) & 3 {
                0 => Table::read(predefined, *max_code, *max_log)?,
                1 => {
                    let (code, after) = rest.split_first().filter(|(code, _)| **code <= *max_code)?;
                    rest = after;
                    Table::single(*code)
                }
                2 => {
                    let table = Table::read(rest, *max_code, *max_log)?;
                    rest = rest.get(table.description.as_ref()?.len()..)?;
                    table
                }
                _ if self.without_single[n] || self.tables[n].is_none() => return None,
                _ => continue,
            };
            self.without_single[n] = false;
            self.tables[n] = Some(table);
        }
        self.read_sequences(rest, count, &mut copied)
    }

    /// Reads the header of the literals, and the description of their code. Returns the length of the whole section in bytes.
    fn read_literals(&mut self, block: &[u8]) -> Option<usize> {
        let first = *block.first()?;
        let (kind, format) = (first & 3, first >> 2 & 3);
        let (header, bits) = match (kind, format) {
            (0 | 1, 0 | 2) => (1, 5),
            (0 | 1, 1) => (2, 12),
            (0 | 1, _) => (3, 20),
            (_, 0 | 1) => (3, 10),
            (_, 2) => (4, 14),
            _ => (5, 18),
        };
        let mut word = [0; 8];
        word[..header].copy_from_slice(block.get(..header)?);
        let word = u64::from_le_bytes(word) >> if header == 1 { 3 } else { 4 };
        let size = |n: u64| usize::try_from(n & ((1 << bits) - 1)).ok();
        let len = match kind {
            0 => size(word)?,
            1 => 1,
            _ => size(word >> bits)?,
        };
        if kind == 2 {
            let tree = block.get(header..header.checked_add(len)?)?;
            let len = match *tree.first()? {
                compressed @ 0..128 => usize::from(compressed),
                count => usize::from(count - 127).div_ceil(2),
            };
            self.huffman = tree.get(..len + 1)?.to_vec();
        }
        header.checked_add(len)
    }

    fn read_sequences(&mut self, bits: &[u8], count: u32, copied: &mut dyn FnMut(&Copied)) -> Option<()> {
        let [Some(literals), Some(offsets), Some(matches)] = &self.tables else { return None };
        let mut bits = Bits::new(bits)?;
        let mut literals = Decoder::new(literals, &mut bits)?;
        let mut offsets = Decoder::new(offsets, &mut bits)?;
        let mut matches = Decoder::new(matches, &mut bits)?;
        for left in (0..count).rev() {
            let code = offsets.code();
            let offset = (1u32.checked_shl(code.into())?).checked_add(bits.take(code)?)?;
            let len = value(&MATCH_VALUES, matches.code(), &MATCHES, &mut bits)?;
            let before = value(&LITERAL_VALUES, literals.code(), &LITERALS, &mut bits)?;
            let [a, b, c] = self.offsets;
            self.offsets = match offset {
                1 if before > 0 => [a, b, c],
                1 => [b, a, c],
                2 if before > 0 => [b, a, c],
                2 => [c, a, b],
                3 if before > 0 => [c, a, b],
                3 => [a.checked_sub(1).filter(|a| *a > 0)?, a, b],
                new => [new - 3, a, b],
            };
            copied(&Copied { literals: before, offset: self.offsets[0], len });
            if left > 0 {
                literals.step(&mut bits)?;
                matches.step(&mut bits)?;
                offsets.step(&mut bits)?;
            }
        }
        Some(())
    }
}

/// The first value of each code.
const LITERAL_VALUES: [u32; 36] = first_values(&LITERALS, 0);
const MATCH_VALUES: [u32; 53] = first_values(&MATCHES, 3);

const fn first_values<const N: usize>(bits: &[u8; N], first: u32) -> [u32; N] {
    let mut values = [first; N];
    let mut n = 1;
    while n < N {
        values[n] = values[n - 1] + (1 << bits[n - 1]);
        n += 1;
    }
    values
}

fn value(first: &[u32], code: u8, more: &[u8], bits: &mut Bits<'_>) -> Option<u32> {
    let code = usize::from(code);
    Some(first.get(code)? + bits.take(*more.get(code)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_standard() {
        assert_eq!(LITERAL_VALUES[16..20], [16, 18, 20, 22]);
        assert_eq!((LITERAL_VALUES[25], LITERAL_VALUES[35]), (64, 65536));
        assert_eq!(MATCH_VALUES[32..36], [35, 37, 39, 41]);
        assert_eq!((MATCH_VALUES[43], MATCH_VALUES[52]), (131, 65539));
    }

    #[test]
    fn predefined_tables_are_described_to_their_last_byte() {
        for Kind { max_code, max_log, predefined } in &KINDS {
            let table = Table::read(predefined, *max_code, *max_log).unwrap();
            assert_eq!(table.description.as_deref(), Some(*predefined));
        }
    }
}
