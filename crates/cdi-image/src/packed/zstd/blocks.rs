//! Decompresses frames block by block, from any block on.

use std::io::{self, Read};
use std::sync::Arc;

use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use super::super::stream::{Stream, cut, damaged};
use super::{Header, MAGIC, MAX_WINDOW, header, is_over};
use crate::input::ReadAt;

/// The longest window of a frame with restart points in it, in bytes: as much memory is needed several times.
pub(super) const MAX_LONG_WINDOW: u64 = 32 << 20;
/// The maximum length of a block in bytes, decompressed or not.
const MAX_BLOCK: usize = 128 << 10;

/// In the `extra` of a restart point: it is within a frame, or at the start of one that is read block by block. The lower bits
/// are those of [`Frame::number`].
const WITHIN: u32 = 1 << 31;
pub(super) const AT_FRAME: u32 = 1 << 30;

/// The frames of a file, or what follows a restart point in it.
pub(super) struct Blocks {
    stream: Stream,
    context: DCtx<'static>,
    frame: Option<Frame>,
    /// The last block with its header, as it is in the file.
    pub(super) packed: Vec<u8>,
}

/// What must be known of a frame to decompress its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    /// The length of the window, as the header of a frame has it.
    window: u8,
    has_sum: bool,
    /// The number of decompressed bytes, if the frame says it.
    pub(super) len: Option<u64>,
}

/// How a block is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    Compressed,
}

/// A block that was decompressed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    /// The offset of its header in the file.
    pub(super) at: u64,
    pub(super) kind: Kind,
    /// If it is the last one of its frame: the frame's checksum, if it has one.
    pub(super) last: Option<Option<u32>>,
}

impl Frame {
    fn new(header: &Header) -> Frame {
        let is_enough = |code: &u8| window_len(*code) >= header.window;
        let window = (0..=u8::MAX).find(is_enough).unwrap_or(u8::MAX);
        Frame { window, has_sum: header.has_sum, len: header.len }
    }

    /// Returns the length of the window, in bytes.
    pub(super) fn window(self) -> u64 {
        window_len(self.window)
    }

    /// Returns the `extra` of a restart point within the frame.
    pub(super) fn number(self) -> u32 {
        WITHIN | u32::from(self.has_sum) << 8 | u32::from(self.window)
    }

    fn from_number(number: u32) -> Frame {
        let window = number.to_le_bytes()[0];
        Frame { window, has_sum: number >> 8 & 1 != 0, len: None }
    }

    /// Returns a header for blocks of the frame, without its checksum: that is of all blocks.
    fn header(self) -> Vec<u8> {
        [&MAGIC[..], &[0, self.window]].concat()
    }
}

/// Returns the length that a byte of a frame's header stands for, in bytes.
pub(super) fn window_len(code: u8) -> u64 {
    let base = 1u64 << (10 + (code >> 3));
    base + base / 8 * u64::from(code & 7)
}

impl Blocks {
    /// Begins at the header of a frame.
    pub(super) fn new(stream: Stream) -> io::Result<Blocks> {
        let context = DCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Blocks { stream, context, frame: None, packed: Vec::new() })
    }

    /// Returns the offset of the next byte in the file.
    pub(super) fn position(&self) -> u64 {
        self.stream.position()
    }

    /// Begins the next frame, unless the position is within one. Returns None at the end.
    pub(super) fn begin(&mut self) -> io::Result<Option<Frame>> {
        while self.frame.is_none() {
            if self.stream.position() >= self.stream.end() || is_over(&mut self.stream)? {
                return Ok(None);
            }
            let Some(header) = header(&mut self.stream)? else { continue };
            self.start(Frame::new(&header), &[])?;
        }
        Ok(self.frame)
    }

    /// Gets ready for the blocks of a frame, of which the first refers to what is in the dictionary.
    fn start(&mut self, frame: Frame, dictionary: &[u8]) -> io::Result<()> {
        let refused = |_| damaged();
        self.context.reset(ResetDirective::SessionAndParameters).map_err(refused)?;
        self.context.set_parameter(DParameter::WindowLogMax(MAX_WINDOW)).map_err(refused)?;
        self.context.load_dictionary(dictionary).map_err(refused)?;
        self.packed = frame.header();
        self.frame = Some(frame);
        self.decompress(&mut Vec::new())
    }

    /// Decompresses the next block, and appends its bytes to `out`. Must be within a frame.
    pub(super) fn next(&mut self, out: &mut Vec<u8>) -> io::Result<Block> {
        let Some(frame) = self.frame else { return Err(cut()) };
        let at = self.stream.position();
        let [a, b, c] = self.stream.array()?;
        let word = u32::from_le_bytes([a, b, c, 0]);
        let (kind, len) = match word >> 1 & 3 {
            0 => (Kind::Plain, word >> 3),
            1 => (Kind::Plain, 1),
            2 => (Kind::Compressed, word >> 3),
            _ => return Err(damaged()),
        };
        if len as usize > MAX_BLOCK {
            return Err(damaged());
        }
        self.packed.clear();
        self.packed.extend([a, b, c]);
        self.packed.resize(3 + len as usize, 0);
        self.stream.read_exact(&mut self.packed[3..])?;
        self.decompress(out)?;
        let mut last = None;
        if word & 1 != 0 {
            self.frame = None;
            last = Some(if frame.has_sum { Some(u32::from_le_bytes(self.stream.array()?)) } else { None });
        }
        Ok(Block { at, kind, last })
    }

    /// Decompresses what is in `packed`.
    fn decompress(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len();
        out.reserve(MAX_BLOCK);
        let mut input = InBuffer::around(&self.packed);
        let mut output = OutBuffer::around_pos(out, start);
        while input.pos() < self.packed.len() {
            let before = (input.pos(), output.pos());
            self.context.decompress_stream(&mut output, &mut input).map_err(|_| damaged())?;
            if (input.pos(), output.pos()) == before {
                return Err(damaged());
            }
        }
        Ok(())
    }
}

/// Reads on from a restart point.
pub(super) struct BlockReader {
    blocks: Blocks,
    block: Vec<u8>,
    unread: usize,
}

impl BlockReader {
    /// `dictionary` is that of the restart point.
    pub(super) fn new(
        source: &Arc<dyn ReadAt>,
        at: u64,
        extra: u32,
        dictionary: &[u8],
    ) -> io::Result<BlockReader> {
        let mut blocks = Blocks::new(Stream::new(source, at, source.len()?))?;
        if extra & WITHIN != 0 {
            blocks.start(Frame::from_number(extra), dictionary)?;
        }
        Ok(BlockReader { blocks, block: Vec::new(), unread: 0 })
    }
}

impl Read for BlockReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.unread == self.block.len() {
            if self.blocks.begin()?.is_none() {
                return Ok(0);
            }
            self.block.clear();
            self.unread = 0;
            self.blocks.next(&mut self.block)?;
        }
        let n = out.len().min(self.block.len() - self.unread);
        out[..n].copy_from_slice(&self.block[self.unread..self.unread + n]);
        self.unread += n;
        Ok(n)
    }
}
