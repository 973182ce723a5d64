//! The tables by which numbers in a compressed block are coded (finite state entropy), and the bits that they decode.
//! Source: RFC 8878, section 4.1.

/// One state of a table: the code it stands for, and the state that follows it: `base` plus as many `bits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct State {
    code: u8,
    bits: u8,
    base: u16,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Table {
    states: Vec<State>,
    /// The base 2 logarithm of the number of states.
    log: u8,
    /// How the block described it. None if it stands for a single code, which cannot be described like this.
    pub(super) description: Option<Vec<u8>>,
}

impl Table {
    /// The table of a single code, which takes no bits.
    pub(super) fn single(code: u8) -> Table {
        Table { states: vec![State { code, bits: 0, base: 0 }], log: 0, description: None }
    }

    /// Reads the description at the start of `bytes`, of codes up to `max_code` and up to `2^max_log` states. Returns None if
    /// there is none. Its length is that of the table's description.
    pub(super) fn read(bytes: &[u8], max_code: u8, max_log: u8) -> Option<Table> {
        let mut at = 0;
        let mut take = |count: u32| -> Option<i32> {
            let value = peek(bytes, at, count)?;
            at += u64::from(count);
            Some(value)
        };
        let log = u8::try_from(take(4)?).ok()? + 5;
        if log > max_log {
            return None;
        }
        let size = 1 << log;
        let mut counts: Vec<i16> = Vec::new();
        // How many states are left, plus one. Numbers up to this are stored in as few bits as that takes.
        let mut left = size + 1;
        while left > 1 {
            if counts.len() > usize::from(max_code) {
                return None;
            }
            let bits = 32 - i32::leading_zeros(left);
            let (half, short) = (1 << (bits - 1), (1 << bits) - 1 - left);
            let mut value = take(bits - 1)?;
            if value >= short {
                value += half * take(1)?;
                if value >= half {
                    value -= short;
                }
            }
            // -1 stands for less than one state.
            let count = value - 1;
            left -= count.abs();
            counts.push(i16::try_from(count).ok()?);
            // After a code without states: how many others follow, three and more in several steps.
            let mut more = if count == 0 { 3 } else { 0 };
            while more == 3 && counts.len() <= usize::from(max_code) {
                more = take(2)?;
                counts.resize(counts.len() + usize::try_from(more).ok()?, 0);
            }
        }
        if left != 1 || counts.len() > usize::from(max_code) + 1 {
            return None;
        }
        let len = usize::try_from(at.div_ceil(8)).ok()?;
        let description = Some(bytes.get(..len)?.to_vec());
        Some(Table { states: spread(&counts, log)?, log, description })
    }

    /// Reads the state that `bits` begins with.
    fn begin(&self, bits: &mut Bits<'_>) -> Option<usize> {
        Some(bits.take(self.log)? as usize)
    }
}

/// Returns the `count` bits from bit `at` on, the lowest first; what is after the end is zero if any of it is within.
fn peek(bytes: &[u8], at: u64, count: u32) -> Option<i32> {
    let first = usize::try_from(at / 8).ok()?;
    let mut word = [0; 8];
    let part = bytes.get(first..bytes.len().min(first + 8)).filter(|part| !part.is_empty())?;
    word[..part.len()].copy_from_slice(part);
    i32::try_from(u64::from_le_bytes(word) >> (at % 8) & ((1 << count) - 1)).ok()
}

/// Distributes the states: `counts` says how many each code has.
fn spread(counts: &[i16], log: u8) -> Option<Vec<State>> {
    let size = 1usize << log;
    let mut codes = vec![0; size];
    let mut end = size;
    let each = || (0u8..).zip(counts);
    for (code, _) in each().filter(|(_, count)| **count == -1) {
        end = end.checked_sub(1)?;
        codes[end] = code;
    }
    let mut at = 0;
    for (code, count) in each().filter(|(_, count)| **count > 0) {
        for _ in 0..*count {
            codes[at] = code;
            loop {
                at = (at + (size >> 1) + (size >> 3) + 3) & (size - 1);
                if at < end {
                    break;
                }
            }
        }
    }
    let mut next: Vec<u16> = counts.iter().map(|count| count.unsigned_abs()).collect();
    let state = |code: u8| {
        let n = next.get_mut(usize::from(code))?;
        let bits = log.checked_sub(u8::try_from(n.checked_ilog2()?).ok()?)?;
        let base = u16::try_from((u32::from(*n) << bits).checked_sub(1 << log)?).ok()?;
        *n += 1;
        Some(State { code, bits, base })
    };
    codes.into_iter().map(state).collect()
}

/// Bits that are read from their end: a one comes after the last of them.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// How many were not read yet.
    left: usize,
}

impl<'a> Bits<'a> {
    /// Returns None if there is no end.
    pub(super) fn new(bytes: &'a [u8]) -> Option<Bits<'a>> {
        let last = bytes.last()?.checked_ilog2()?;
        Some(Bits { bytes, left: (bytes.len() - 1) * 8 + last as usize })
    }

    /// Returns the next `count` bits, at most 32.
    pub(super) fn take(&mut self, count: u8) -> Option<u32> {
        self.left = self.left.checked_sub(usize::from(count))?;
        let first = self.left / 8;
        let word = match self.bytes.get(first..first + 8) {
            Some(word) => u64::from_le_bytes(word.try_into().ok()?),
            None => self.bytes[first..].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        };
        u32::try_from(word >> (self.left % 8) & ((1 << count) - 1)).ok()
    }
}

/// A table that is used to decode.
pub(super) struct Decoder<'a> {
    table: &'a Table,
    state: State,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(table: &'a Table, bits: &mut Bits<'_>) -> Option<Decoder<'a>> {
        let state = *table.states.get(table.begin(bits)?)?;
        Some(Decoder { table, state })
    }

    /// Returns the current code.
    pub(super) fn code(&self) -> u8 {
        self.state.code
    }

    /// Goes to the next code.
    pub(super) fn step(&mut self, bits: &mut Bits<'_>) -> Option<()> {
        let next = u32::from(self.state.base) + bits.take(self.state.bits)?;
        self.state = *self.table.states.get(next as usize)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_as_it_was_written() {
        // 32 states of code 0: 4 bits for the number of states, 6 for the 33.
        let table = Table::read(&[0xF0, 0x03, 0xAA], 10, 9).unwrap();
        assert_eq!(table.description.as_deref(), Some(&[0xF0, 0x03][..]));
        assert!(table.states.iter().all(|state| state.code == 0 && state.bits == 0));
        for bytes in [&[][..], &[0xF0], &[0x0F, 0, 0], &[0; 40], &[0xFF; 40]] {
            assert_eq!(Table::read(bytes, 10, 9), None, "{bytes:?}");
        }
    }

    #[test]
    fn bits_are_read_from_the_end() {
        let mut bits = Bits::new(&[0b1010_0001, 0, 0, 0, 0, 0, 0, 0, 0b0001_0110]).unwrap();
        assert_eq!(bits.take(3), Some(0b011));
        assert_eq!(bits.take(1), Some(0));
        assert_eq!(bits.take(32), Some(0));
        assert_eq!(bits.take(24), Some(0));
        assert_eq!(bits.take(8), Some(0b1010_0001));
        assert_eq!(bits.take(1), None);
        assert!(Bits::new(&[1, 0]).is_none() && Bits::new(&[]).is_none());
    }
}
