//! A bit reader, and the Huffman codes of MAME's images.
//!
//! Sources: MAME's own reader (src/lib/util/huffman.cpp), as documented by the authors of other readers.

/// Reads bits, the most significant bit of each byte first.
#[derive(Debug, Clone)]
pub(crate) struct Bits<'a> {
    bytes: &'a [u8],
    at: u64,
}

impl<'a> Bits<'a> {
    /// Starts reading at bit `at` of `bytes`.
    pub(crate) fn new(bytes: &'a [u8], at: u64) -> Bits<'a> {
        Bits { bytes, at }
    }

    /// Returns the position of the next bit.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Reads the next `count` bits, at most 48, as a number. Returns None past the end.
    pub(crate) fn take(&mut self, count: u8) -> Option<u64> {
        if self.at + u64::from(count) > self.bytes.len() as u64 * 8 {
            return None;
        }
        let bits = self.peek(count);
        self.at += u64::from(count);
        Some(bits)
    }

    /// Returns the next `count` bits without consuming them; bits past the end are zeros.
    fn peek(&self, count: u8) -> u64 {
        let first = usize::try_from(self.at / 8).unwrap_or(usize::MAX);
        let rest = self.bytes.get(first..).unwrap_or_default();
        let mut word = [0; 8];
        let len = rest.len().min(8);
        word[..len].copy_from_slice(&rest[..len]);
        let shifted = u64::from_be_bytes(word) << (self.at % 8);
        if count == 0 { 0 } else { shifted >> (64 - u32::from(count)) }
    }
}

/// The maximum length of a code in bits.
const MAX_LEN: u8 = 16;

/// A canonical Huffman code.
#[derive(Debug)]
pub(crate) struct Code {
    /// The length in bits of the longest code in use.
    longest: u8,
    /// Indexed by the next `longest` bits: the symbol, and the length of its code in bits; 0 if there is none.
    symbols: Vec<(u16, u8)>,
}

impl Code {
    /// Builds the code with these code lengths, one for each symbol (0: the symbol is not in use). Unlike in deflate,
    /// the longest codes have the lowest numbers. Returns None if the lengths are invalid.
    fn new(lengths: &[u8]) -> Option<Code> {
        let longest = lengths.iter().copied().max().filter(|l| (1..=MAX_LEN).contains(l))?;
        let mut symbols = vec![(0, 0); 1 << longest];
        let mut next = 0usize;
        for length in (1..=longest).rev() {
            for (symbol, _) in lengths.iter().enumerate().filter(|(_, l)| **l == length) {
                let each = 1 << (longest - length);
                let slots = symbols.get_mut(next * each..(next + 1) * each)?;
                slots.fill((u16::try_from(symbol).ok()?, length));
                next += 1;
            }
            if !next.is_multiple_of(2) && length != 1 {
                return None;
            }
            next /= 2;
        }
        Some(Code { longest, symbols })
    }

    /// Reads the code for the hunk types of a map: 16 symbols, whose lengths are run-length encoded.
    pub(crate) fn of_kinds(bits: &mut Bits<'_>) -> Option<Code> {
        let mut lengths = Vec::new();
        while lengths.len() < 16 {
            match bits.take(4)? {
                1 => match bits.take(4)? {
                    1 => lengths.push(1),
                    length => {
                        let times = usize::try_from(bits.take(4)?).ok()? + 3;
                        lengths.extend(vec![u8::try_from(length).ok()?; times]);
                    }
                },
                length => lengths.push(u8::try_from(length).ok()?),
            }
        }
        if lengths.len() > 16 || lengths.iter().any(|l| *l > 8) {
            return None;
        }
        Code::new(&lengths)
    }

    /// Reads the code for bytes: 256 symbols, whose lengths are compressed with another, small code.
    fn of_bytes(bits: &mut Bits<'_>) -> Option<Code> {
        let mut small = [0; 24];
        small[0] = u8::try_from(bits.take(3)?).ok().filter(|l| *l < 7)?;
        let first = usize::try_from(bits.take(3)?).ok()? + 1;
        for length in &mut small[first..] {
            match u8::try_from(bits.take(3)?).ok()? {
                7 => break,
                value => *length = value,
            }
        }
        let code = Code::new(&small)?;
        let (mut lengths, mut last) = (Vec::with_capacity(256), 0);
        while lengths.len() < 256 {
            match code.symbol(bits)? {
                0 => {
                    let mut times = bits.take(3)? + 2;
                    if times == 9 {
                        times += bits.take(8)?;
                    }
                    let times = usize::try_from(times).ok()?.min(256 - lengths.len());
                    lengths.extend(vec![last; times]);
                }
                other => {
                    last = u8::try_from(other).ok()? - 1;
                    lengths.push(last);
                }
            }
        }
        Code::new(&lengths)
    }

    /// Reads the next symbol.
    pub(crate) fn symbol(&self, bits: &mut Bits<'_>) -> Option<u16> {
        let slot = usize::try_from(bits.peek(self.longest)).ok()?;
        let (symbol, length) = self.symbols[slot];
        (length != 0).then_some(())?;
        bits.take(length)?;
        Some(symbol)
    }
}

/// Decompresses a code for bytes, followed by one symbol for each byte of `out`.
pub(super) fn decompress(compressed: &[u8], out: &mut [u8]) -> Option<()> {
    let mut bits = Bits::new(compressed, 0);
    let code = Code::of_bytes(&mut bits)?;
    for byte in out {
        *byte = u8::try_from(code.symbol(&mut bits)?).ok()?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_codes_have_the_lowest_numbers() {
        // Lengths 1, 2, 2: the two long codes are 00 and 01, the short one is 1.
        let code = Code::new(&[1, 2, 2]).unwrap();
        let mut bits = Bits::new(&[0b1000_1100, 0], 0);
        let got: Vec<_> = std::iter::from_fn(|| code.symbol(&mut bits)).take(5).collect();
        assert_eq!(got, [0, 1, 2, 0, 1]);
        assert!(Code::new(&[2, 2, 2]).is_none(), "an odd number of codes");
        assert!(Code::new(&[1, 1, 1]).is_none(), "more codes than there can be");
        assert!(Code::new(&[0, 0]).is_none());
        // A single symbol has the code 0; 1 is not in use.
        let one = Code::new(&[0, 1]).unwrap();
        assert_eq!(one.symbol(&mut Bits::new(&[0], 0)), Some(1));
        assert_eq!(one.symbol(&mut Bits::new(&[0x80], 0)), None);
        assert_eq!(one.symbol(&mut Bits::new(&[], 0)), None);
    }
}
