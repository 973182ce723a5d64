//! lz4: frames of blocks. Blocks of one frame either stand alone or refer to the 64 KiB before them. Sources: "LZ4 Frame
//! Format Description", version 1.6.4; it also has the legacy frame, of which every block has 8 MiB.

use std::io::{self, BufRead, Read};
use std::sync::Arc;

use lz4_flex::block::{decompress_into, decompress_into_with_dict};
use xxhash_rust::xxh32::{Xxh32, xxh32};

use super::build::{Builder, Stop};
use super::sequence::{self, MemberSum, Sequence, SequenceReader, Step, WINDOW};
use super::stream::{Stream, cut, damaged};
use crate::input::ReadAt;

pub(super) const MAGIC: [u8; 4] = 0x184D_2204u32.to_le_bytes();
pub(super) const LEGACY: [u8; 4] = 0x184C_2102u32.to_le_bytes();
/// The magic of a frame that is to be skipped, without its lowest four bits.
const SKIPPED: u32 = 0x184D_2A50;
/// In the size of a block: it is not compressed.
const STORED: u32 = 1 << 31;

/// What a frame says about its blocks. As a number, it is the `extra` of a restart point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    /// The base 2 logarithm of the maximum length of a block, in bytes.
    bits: u32,
    linked: bool,
    block_sums: bool,
    sum: bool,
    legacy: bool,
}

impl Frame {
    fn number(self) -> u32 {
        let flags = [self.linked, self.block_sums, self.sum, self.legacy];
        flags.iter().fold(self.bits, |number, flag| number << 1 | u32::from(*flag))
    }

    fn from_number(number: u32) -> Option<Frame> {
        let flag = |n: u32| number >> n & 1 != 0;
        let bits = number >> 4;
        let [linked, block_sums, sum, legacy] = [flag(3), flag(2), flag(1), flag(0)];
        (16..=23).contains(&bits).then_some(Frame { bits, linked, block_sums, sum, legacy })
    }
}

/// Reads the header of a frame, after those of frames that are to be skipped. Returns None at the end.
fn header(stream: &mut Stream) -> io::Result<Option<Frame>> {
    loop {
        if stream.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let magic = stream.array::<4>()?;
        if magic == LEGACY {
            return Ok(Some(Frame { bits: 23, linked: false, block_sums: false, sum: false, legacy: true }));
        }
        if u32::from_le_bytes(magic) & !0xF == SKIPPED {
            stream.skip_frame()?;
            continue;
        }
        if magic != MAGIC {
            // As for other packings, what follows the last frame does not matter.
            return Ok(None);
        }
        let [flags, sizes] = stream.array()?;
        let mut described = vec![flags, sizes];
        if flags & 8 != 0 {
            described.extend(stream.array::<8>()?);
        }
        // Version 1; reserved bits; dictionaries, which are not there.
        if flags >> 6 != 1 || flags & 3 != 0 || sizes & 0x8F != 0 {
            return Err(damaged());
        }
        let [sum] = stream.array()?;
        if (xxh32(&described, 0) >> 8 & 0xFF) != u32::from(sum) {
            return Err(damaged());
        }
        let bits = match sizes >> 4 {
            4 => 16,
            5 => 18,
            6 => 20,
            7 => 22,
            _ => return Err(damaged()),
        };
        let (linked, block_sums, sum) = (flags & 0x20 == 0, flags & 0x10 != 0, flags & 4 != 0);
        return Ok(Some(Frame { bits, linked, block_sums, sum, legacy: false }));
    }
}

/// The frames of an lz4 file, one after the other.
struct Blocks {
    stream: Stream,
    frame: Option<Frame>,
    /// A decompressed block, and how much of it was taken.
    block: Vec<u8>,
    taken: usize,
    packed: Vec<u8>,
    /// How many bytes before the next one belong to this frame, up to [`WINDOW`].
    history: usize,
    member_end: u64,
}

impl Blocks {
    fn new(stream: Stream, frame: Option<Frame>, history: usize) -> Blocks {
        Blocks { stream, frame, block: Vec::new(), taken: 0, packed: Vec::new(), history, member_end: 0 }
    }

    /// Decompresses the next block, after `before`. Returns false at the end of the frame.
    fn next_block(&mut self, frame: Frame, before: &[u8]) -> io::Result<bool> {
        let ends = frame.legacy && self.stream.fill_buf()?.is_empty();
        let size = if ends { 0 } else { u32::from_le_bytes(self.stream.array()?) };
        let at = self.stream.position() - 4;
        // A legacy frame has no end mark: the file ends, or another frame begins.
        let is_next = [MAGIC, LEGACY].contains(&size.to_le_bytes()) || size & !0xF == SKIPPED;
        if size == 0 || (frame.legacy && is_next) {
            if frame.legacy && is_next {
                self.stream.step_back(at);
            }
            return Ok(false);
        }
        let max = 1usize << frame.bits;
        let len = (size & !STORED) as usize;
        // A compressed legacy block may be a little longer than what it holds.
        if len > max + max / 255 + 16 {
            return Err(damaged());
        }
        self.packed.resize(len, 0);
        self.stream.read_exact(&mut self.packed)?;
        if frame.block_sums && self.stream.array()? != xxh32(&self.packed, 0).to_le_bytes() {
            return Err(damaged());
        }
        self.block.resize(max, 0);
        let made = if size & STORED != 0 {
            self.block.get_mut(..len).ok_or_else(damaged)?.copy_from_slice(&self.packed);
            len
        } else if frame.linked {
            decompress_into_with_dict(&self.packed, &mut self.block, before).map_err(|_| damaged())?
        } else {
            decompress_into(&self.packed, &mut self.block).map_err(|_| damaged())?
        };
        self.block.truncate(made);
        self.taken = 0;
        Ok(true)
    }
}

impl Sequence for Blocks {
    fn begin(&mut self) -> io::Result<Option<u64>> {
        if self.frame.is_none() {
            self.frame = header(&mut self.stream)?;
            self.history = 0;
        }
        Ok(self.frame.map(|_| self.stream.position() * 8))
    }

    fn step(&mut self, out: &mut [u8], at: &mut usize, _: bool) -> io::Result<Step> {
        let Some(frame) = self.frame else { return Err(cut()) };
        if self.taken == self.block.len() {
            let history = if frame.linked { self.history } else { 0 };
            if !self.next_block(frame, &out[at.saturating_sub(history)..*at])? {
                self.frame = None;
                let sum =
                    if frame.sum { Some(u32::from_le_bytes(self.stream.array()?).into()) } else { None };
                self.member_end = self.stream.position();
                return Ok(Step::Member(sum));
            }
        }
        let rest = &self.block[self.taken..];
        let n = rest.len().min(out.len() - *at);
        out[*at..*at + n].copy_from_slice(&rest[..n]);
        *at += n;
        self.taken += n;
        self.history = WINDOW.min(self.history + n);
        if self.taken < self.block.len() {
            return Ok(Step::Full);
        }
        Ok(Step::Block(self.stream.position() * 8))
    }

    fn history(&self) -> usize {
        match self.frame {
            Some(frame) if frame.linked => self.history,
            _ => 0,
        }
    }

    fn position(&self) -> u64 {
        self.stream.position()
    }

    fn doubtful(&self) -> Option<u64> {
        // Each block has its length in front of it; if bytes are missing or too many, the next one shows it.
        None
    }

    fn extra(&self) -> u32 {
        self.frame.map_or(0, Frame::number)
    }
}

/// The checksum of a frame.
struct FrameSum(Xxh32);

impl MemberSum for FrameSum {
    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&mut self) -> u64 {
        std::mem::replace(&mut self.0, Xxh32::new(0)).digest().into()
    }

    fn has_same_len(&self, _: u64, _: u64) -> bool {
        // A frame does not have to say how long it is.
        false
    }
}

/// Makes the index of an lz4 file.
pub(super) fn scan(source: &Arc<dyn ReadAt>, builder: &mut Builder<'_>) -> Result<(), Stop> {
    let end = source.len()?;
    let mut blocks = Blocks::new(Stream::new(source, 0, end), None, 0);
    sequence::scan(&mut blocks, Box::new(FrameSum(Xxh32::new(0))), &|bit, _, _| Some(bit), builder)?;
    builder.trailing = if builder.cut { 0 } else { end - blocks.member_end };
    Ok(())
}

/// Reads the whole file from its start.
pub(super) fn whole(source: &Arc<dyn ReadAt>) -> io::Result<Box<dyn Read + Send>> {
    let mut blocks = Blocks::new(Stream::new(source, 0, source.len()?), None, 0);
    blocks.begin()?;
    Ok(Box::new(SequenceReader::new(Box::new(blocks), &[])))
}

/// Reads on from a block.
pub(super) fn reader(
    source: &Arc<dyn ReadAt>,
    bit: u64,
    extra: u32,
    window: &[u8],
) -> io::Result<Box<dyn Read + Send>> {
    let frame = Frame::from_number(extra).ok_or_else(damaged)?;
    let stream = Stream::new(source, bit / 8, source.len()?);
    Ok(Box::new(SequenceReader::new(Box::new(Blocks::new(stream, Some(frame), window.len())), window)))
}
