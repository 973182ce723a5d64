//! Deflate streams (RFC 1951): decompressed from the start of any block on, with the 32 KiB before it. Blocks begin at any
//! bit.
//!
//! zlib-rs is fast, but begins at whole bytes, and says of a block only in which byte it begins. So blocks without
//! contents are put in front of it that end where it begins ([`padding`]); and which bit that is, is found out by trying:
//! it is the one from which the same bytes are decompressed ([`locate`]).

use std::io::{self, BufRead, Read};
use std::sync::Arc;

use zlib_rs::{InflateError, InflateFlush, Status};

use super::stream::{Stream, damaged};
use crate::input::ReadAt;

/// How far back a deflate stream refers, in bytes.
pub(super) const HISTORY: usize = 32 << 10;
/// How many bytes must be the same to find where a block begins: at least, and enough.
const SAME: (usize, usize) = (1 << 10, 64 << 10);

/// Why [`Inflate::step`] returned.
pub(super) enum Stopped {
    /// All input was used.
    Input,
    /// The output is full.
    Full,
    /// A block begins, in the last byte that was used or after it. The last block of a stream may be reported like this, too,
    /// before its end is.
    Block,
    /// The stream ends.
    End,
}

/// Decompresses deflate streams.
pub(super) struct Inflate {
    inner: zlib_rs::Inflate,
    /// What comes before the input: blocks without contents, and the first bits.
    before: Vec<u8>,
}

impl Inflate {
    /// Begins a stream.
    pub(super) fn new() -> Inflate {
        Inflate { inner: zlib_rs::Inflate::new(false, 15), before: Vec::new() }
    }

    /// Begins at a block, at this bit of the source, with `window` before it. Returns the rest of the source, too.
    pub(super) fn at(source: &Arc<dyn ReadAt>, bit: u64, window: &[u8]) -> io::Result<(Inflate, Stream)> {
        let mut inflate = Inflate::new();
        let window = &window[window.len().saturating_sub(HISTORY)..];
        inflate.inner.set_dictionary(window).map_err(|_| damaged())?;
        let mut stream = Stream::new(source, bit / 8, source.len()?);
        let used = u32::try_from(bit % 8).unwrap_or_default();
        if used > 0 {
            let mut first = [0];
            stream.read_exact(&mut first)?;
            let (blocks, count) = padding(used);
            let bits = blocks | u128::from(first[0] >> used) << count;
            let bytes = (count + 8 - used) as usize / 8;
            inflate.before = bits.to_le_bytes()[..bytes].to_vec();
        }
        Ok((inflate, stream))
    }

    /// Begins another stream.
    pub(super) fn reset(&mut self) {
        self.inner.reset(false);
    }

    /// Decompresses into `out` from `at` on, and moves `at`, also before an error. Without `stops`, it does not stop where
    /// blocks begin. Returns the number of input bytes that were used.
    pub(super) fn step(
        &mut self,
        input: &[u8],
        out: &mut [u8],
        at: &mut usize,
        stops: bool,
    ) -> io::Result<(usize, Stopped)> {
        let is_before = !self.before.is_empty();
        let input = if is_before { &self.before } else { input };
        let flush = if stops { InflateFlush::Block } else { InflateFlush::NoFlush };
        let before = (self.inner.total_in(), self.inner.total_out());
        let status = self.inner.decompress(input, &mut out[*at..], flush);
        let used = usize::try_from(self.inner.total_in() - before.0).unwrap_or(input.len());
        *at += usize::try_from(self.inner.total_out() - before.1).unwrap_or_default();
        let stopped = match status {
            Ok(Status::StreamEnd) => Stopped::End,
            Ok(Status::Ok | Status::BufError) if *at == out.len() => Stopped::Full,
            Ok(Status::Ok | Status::BufError) if used == input.len() => Stopped::Input,
            Ok(_) => Stopped::Block,
            Err(InflateError::MemError) => return Err(io::ErrorKind::OutOfMemory.into()),
            Err(_) => return Err(damaged()),
        };
        if is_before {
            self.before.drain(..used);
            return Ok((0, stopped));
        }
        Ok((used, stopped))
    }
}

/// Returns blocks without contents that have `used` bits more than whole bytes, and the number of their bits.
fn padding(used: u32) -> (u128, u32) {
    let mut bits = (0, 0);
    let add = |bits: &mut (u128, u32), value: u128, len: u32| {
        bits.0 |= value << bits.1;
        bits.1 += len;
    };
    if !used.is_multiple_of(2) {
        // A block with codes of its own: 93 bits. The code of the lengths has 0 (one bit: 0), 1 (1, 0), and 18, which
        // stands for 11 and more zeros (1, 1, and seven bits).
        add(&mut bits, 0b100, 3);
        add(&mut bits, 0, 5 + 5);
        add(&mut bits, 14, 4);
        for len in [0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2] {
            add(&mut bits, len, 3);
        }
        // No literals, one bit for the end of the block, no distances; and the end.
        for zeros in [138, 118] {
            add(&mut bits, 0b11 | (zeros - 11) << 2, 9);
        }
        add(&mut bits, 0b01, 2);
        add(&mut bits, 0, 1 + 1);
    }
    while bits.1 % 8 != used {
        // A block with the fixed codes: 10 bits.
        add(&mut bits, 0b010, 10);
    }
    bits
}

/// Returns the bit at which a block begins that is reported at the end of a byte, at this bit of the source: `data` is what
/// comes after it when decompressed, `window` what is before it.
pub(super) fn locate(source: &Arc<dyn ReadAt>, bit: u64, window: &[u8], data: &[u8]) -> Option<u64> {
    let data = &data[..data.len().min(SAME.1)];
    if data.len() < SAME.0 {
        return None;
    }
    let mut out = vec![0; data.len()];
    let mut is_here = |bit: u64| -> io::Result<bool> {
        let (mut inflate, mut stream) = Inflate::at(source, bit, window)?;
        let mut at = 0;
        while at < out.len() {
            let input = stream.fill_buf()?;
            let is_last = input.is_empty();
            let (used, stopped) = inflate.step(input, &mut out, &mut at, false)?;
            let is_end = match stopped {
                Stopped::End => true,
                Stopped::Input => is_last,
                Stopped::Full | Stopped::Block => false,
            };
            if is_end || out[..at] != data[..at] {
                // What comes after the end of the stream is of another one.
                return Ok(at >= SAME.0 && out[..at] == data[..at]);
            }
            stream.consume(used);
        }
        Ok(out == data)
    };
    (0..8).filter_map(|back| bit.checked_sub(back)).find(|bit| is_here(*bit).unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decompression_begins_at_any_bit() {
        let data: Vec<u8> = (0..40_000u32).map(|n| ((n * n) >> 7).to_le_bytes()[0]).collect();
        for level in [0, 1, 9] {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(level));
            io::Write::write_all(&mut encoder, &data).unwrap();
            let packed = encoder.finish().unwrap();
            // (Stored blocks would be elsewhere.)
            for used in if level == 0 { 0..1 } else { 0..8 } {
                let mut shifted = vec![0; packed.len() + 1];
                for (n, byte) in packed.iter().enumerate() {
                    let [low, high] = (u16::from(*byte) << used).to_le_bytes();
                    shifted[n] |= low;
                    shifted[n + 1] |= high;
                }
                let source: Arc<dyn ReadAt> = Arc::new(shifted);
                let (mut inflate, mut stream) = Inflate::at(&source, used, &[]).unwrap();
                let (mut out, mut at) = (vec![0; data.len() + 1], 0);
                loop {
                    let input = stream.fill_buf().unwrap();
                    let (used, stopped) = inflate.step(input, &mut out, &mut at, false).unwrap();
                    stream.consume(used);
                    if let Stopped::End = stopped {
                        break;
                    }
                }
                assert!(out[..at] == data, "level {level}, bit {used}");
            }
        }
    }

    #[test]
    fn padding_has_the_bits_that_are_missing() {
        for used in 1..8 {
            let (bits, count) = padding(used);
            assert_eq!(count % 8, used);
            assert!(count + 8 - used <= 128 && (count == 128 || bits >> count == 0));
        }
    }
}
