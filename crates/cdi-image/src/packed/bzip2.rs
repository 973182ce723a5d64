//! bzip2: blocks of up to 900 kB, each of which can be decompressed alone. They begin at any bit. Sources: the format
//! has no specification of its own; bzip2's documentation and "BZIP2: Format Specification" (J. Tsai, 2016).
//!
//! A block begins with 48 bits that are looked for. If they are found elsewhere by chance (once in 32 TiB), that counts as
//! damage.

use std::io::{self, Cursor, Read};
use std::sync::Arc;

use cdi_base::workers;

use super::build::{Builder, Stop};
use super::stream::{Stream, cut, damaged};
use super::units::{self, Unit};
use crate::input::ReadAt;

pub(super) const MAGIC: &[u8] = b"BZh";
const BLOCK: u64 = 0x3141_5926_5359;
const END: u64 = 0x1772_4538_5090;
const MASK: u64 = (1 << 48) - 1;
/// The maximum length of a block in the file, in bits. (Blocks have up to 900 kB before they are compressed, and those that
/// cannot be compressed grow by some percent.)
const MAX_BLOCK: u64 = 8 * 1_200_000;
/// Where the length of a block begins in `extra`, in bits; below is the digit of its stream.
const LEN_SHIFT: u32 = 4;

/// Makes the index of a bzip2 file.
pub(super) fn scan(source: &Arc<dyn ReadAt>, builder: &mut Builder<'_>) -> Result<(), Stop> {
    let end = source.len()?;
    let blocks =
        Blocks { bits: Bits::new(Stream::new(source, 0, end)), end: end * 8, level: 0, sum: 0, start: None };
    units::scan(
        source,
        Box::new(blocks),
        &|source, unit| Ok(Box::new(block_reader(source, unit.bits.0, unit.extra)?)),
        workers::cores(),
        builder,
    )?;
    builder.is_checked = !builder.cut;
    Ok(())
}

/// Reads the block at this bit.
pub(super) fn reader(source: &Arc<dyn ReadAt>, bit: u64, extra: u32) -> io::Result<Box<dyn Read + Send>> {
    Ok(Box::new(block_reader(source, bit, extra)?))
}

/// Reads the whole file from its start.
pub(super) fn whole(source: &Arc<dyn ReadAt>) -> io::Result<Box<dyn Read + Send>> {
    Ok(Box::new(bzip2::bufread::MultiBzDecoder::new(Stream::new(source, 0, source.len()?))))
}

/// Returns whether a file goes on like this after the digit of its first stream.
pub(super) fn begins_a_stream(bytes: &[u8]) -> bool {
    [BLOCK, END].iter().any(|magic| magic.to_be_bytes()[2..] == *bytes)
}

/// Reads one block as a stream that consists of it alone.
fn block_reader(
    source: &Arc<dyn ReadAt>,
    bit: u64,
    extra: u32,
) -> io::Result<bzip2::read::BzDecoder<Cursor<Vec<u8>>>> {
    let (level, len) = (extra & ((1 << LEN_SHIFT) - 1), u64::from(extra >> LEN_SHIFT));
    if !(80..=MAX_BLOCK).contains(&len) {
        return Err(damaged());
    }
    let mut bits = Bits::new(Stream::new(source, bit / 8, source.len()?));
    bits.read(bit % 8)?;
    let mut out = Packed { bytes: MAGIC.to_vec(), pending: 0, count: 0 };
    out.bytes.push(b'0' + u8::try_from(level).unwrap_or(9));
    let magic = bits.read(48)?;
    let sum = bits.read(32)?;
    out.push(magic, 48);
    out.push(sum, 32);
    let mut left = len - 80;
    while left > 0 {
        let count = left.min(48);
        out.push(bits.read(count)?, count);
        left -= count;
    }
    // The checksum of a stream of one block is the block's.
    out.push(END, 48);
    out.push(sum, 32);
    out.push(0, (8 - out.count % 8) % 8);
    Ok(bzip2::read::BzDecoder::new(Cursor::new(out.bytes)))
}

/// Bits as they are written, the highest first.
struct Packed {
    bytes: Vec<u8>,
    pending: u64,
    count: u64,
}

impl Packed {
    fn push(&mut self, value: u64, count: u64) {
        self.pending = self.pending << count | value;
        self.count += count;
        while self.count >= 8 {
            self.count -= 8;
            self.bytes.push((self.pending >> self.count & 0xFF) as u8);
        }
        self.pending &= (1 << self.count) - 1;
    }
}

/// Bits as they are read, the highest first.
struct Bits {
    stream: Stream,
    pending: u64,
    count: u64,
}

impl Bits {
    fn new(stream: Stream) -> Bits {
        Bits { stream, pending: 0, count: 0 }
    }

    /// Returns the next `count` bits, at most 48.
    fn read(&mut self, count: u64) -> io::Result<u64> {
        while self.count < count {
            self.pending = self.pending << 8 | u64::from(self.stream.array::<1>()?[0]);
            self.count += 8;
        }
        self.count -= count;
        let value = self.pending >> self.count;
        self.pending &= (1 << self.count) - 1;
        Ok(value)
    }

    /// Returns the position in bits.
    fn position(&self) -> u64 {
        self.stream.position() * 8 - self.count
    }

    /// Moves to the next byte.
    fn align(&mut self) {
        self.count -= self.count % 8;
        self.pending &= (1 << self.count) - 1;
    }
}

/// The blocks of a file.
struct Blocks {
    bits: Bits,
    /// The end of the file, in bits.
    end: u64,
    /// The digit of the stream.
    level: u32,
    /// The checksum of the stream's blocks so far.
    sum: u32,
    /// Where the current block begins, in bits, after its magic was read.
    start: Option<u64>,
}

impl Blocks {
    fn block(&mut self) -> io::Result<Option<Unit>> {
        let start = match self.start.take() {
            Some(start) => start,
            None => match self.begin_stream()? {
                Some(start) => start,
                None => return Ok(None),
            },
        };
        let sum = self.bits.read(32)?;
        self.sum = self.sum.rotate_left(1) ^ u32::try_from(sum).unwrap_or(0);
        let mut last = self.bits.read(47)?;
        loop {
            last = (last << 1 | self.bits.read(1)?) & MASK;
            let at = self.bits.position() - 48;
            if at - start > MAX_BLOCK {
                return Err(damaged());
            }
            if last == BLOCK {
                self.start = Some(at);
            } else if last == END {
                if self.bits.read(32)? != u64::from(self.sum) {
                    return Err(damaged());
                }
                self.bits.align();
            } else {
                continue;
            }
            let len = u32::try_from(at - start).map_err(|_| damaged())?;
            return Ok(Some(Unit {
                bits: (start, at),
                extra: len << LEN_SHIFT | self.level,
                len: None,
                is_sure: false,
            }));
        }
    }

    /// Reads the header of a stream, and of those that follow while they are empty. Returns where the first block begins.
    fn begin_stream(&mut self) -> io::Result<Option<u64>> {
        loop {
            let at = self.bits.position();
            if at == self.end {
                return Ok(None);
            }
            let [b, z, h, level] = [(); 4].map(|()| self.bits.read(8).unwrap_or(0));
            // What a tape or a device is filled up with.
            if at > 0 && [b, z, h, level] == [0; 4] {
                return Ok(None);
            }
            if at + 8 * 14 > self.end {
                return Err(cut());
            }
            if [b, z, h].map(|b| u8::try_from(b).unwrap_or(0)) != *MAGIC
                || !(b'1'..=b'9').map(u64::from).any(|digit| digit == level)
            {
                // bzip2 accepts anything after the last stream; here it counts as damage.
                return Err(damaged());
            }
            (self.level, self.sum) = (u32::try_from(level).unwrap_or(0) - u32::from(b'0'), 0);
            match self.bits.read(48)? {
                BLOCK => return Ok(Some(self.bits.position() - 48)),
                END => {
                    self.bits.read(32)?;
                    self.bits.align();
                }
                _ => return Err(damaged()),
            }
        }
    }
}

impl Iterator for Blocks {
    type Item = io::Result<Unit>;

    fn next(&mut self) -> Option<io::Result<Unit>> {
        self.block().transpose()
    }
}
