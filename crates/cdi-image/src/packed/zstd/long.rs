//! The pass over long frames: `zstd` makes a single one of a whole disk.
//!
//! Decompression can begin at any block, with a dictionary of what it may refer to. Of the window before the block only
//! those bytes are kept in the index to which the blocks after it refer; the others are zeros there.
//!
//! One thread decompresses; another reads what the blocks refer to, and computes checksums.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use cdi_base::error::Error;
use cdi_base::units::index;
use xxhash_rust::xxh64::Xxh64;

use super::super::build::{Builder, Span, Stop, contents, span_len};
use super::super::stream::{Stream, is_damage};
use super::blocks::{AT_FRAME, Block, Blocks, Frame, Kind, MAX_LONG_WINDOW};
use super::sequences::{Copied, History};
use crate::input::ReadAt;

/// The distance between restart points: at least this, in bytes, and at least this number of windows. It is less near the
/// start of a frame.
const DISTANCE: (u64, u64) = (8 << 20, 4);
/// The maximum length of a batch, in bytes, decompressed or not, and its maximum number of blocks, which may be empty.
const BATCH: (usize, usize) = (2 << 20, 4096);
/// In how many bytes before the place where damage is noticed it may be.
const DOUBTFUL: u64 = 512 << 10;

/// Decompressed blocks on their way to the other thread.
#[derive(Default)]
struct Batch {
    blocks: Vec<Part>,
    bytes: Vec<u8>,
    packed: Vec<u8>,
    /// How far the file was read, in bytes.
    position: u64,
    /// How the file ends, if this is the last batch: an error may be damage.
    end: Option<io::Result<()>>,
}

/// A block in a batch.
struct Part {
    block: Block,
    /// The frame that begins with it, and the offset of what comes before it.
    frame: Option<(Frame, u64)>,
    /// Where in the batch its bytes are, and the block itself, if it is compressed.
    bytes: Range<usize>,
    packed: Range<usize>,
}

/// Adds the spans of all frames.
pub(super) fn scan(source: &Arc<dyn ReadAt>, builder: &mut Builder<'_>) -> Result<(), Stop> {
    let (full_in, full) = sync_channel(4);
    let end = source.len()?;
    let blocks = Blocks::new(Stream::new(source, 0, end))?;
    let mut pass = Pass {
        builder,
        at: 0,
        history: None,
        frame: None,
        frame_start: 0,
        sum: Xxh64::new(0),
        recent: VecDeque::new(),
        last_point: 0,
        pending: None,
    };
    thread::scope(|scope| {
        thread::Builder::new()
            .name("decompress".into())
            .spawn_scoped(scope, || decompress(blocks, full_in))?;
        // By value: if this ends early, the other thread must notice it.
        for batch in full {
            let is_last = batch.end.is_some();
            let position = batch.position;
            pass.add(batch)?;
            if is_last {
                let trailing = if pass.builder.cut { 0 } else { end - position };
                pass.builder.trailing = trailing;
                return Ok(());
            }
        }
        Err(Error::failed("the thread that decompresses has ended").into())
    })
}

/// Decompresses all frames, until the receiver is gone.
#[expect(clippy::needless_pass_by_value, reason = "the channel ends with this thread")]
fn decompress(mut blocks: Blocks, full: SyncSender<Batch>) {
    let mut unpacked = 0;
    let mut batch = Batch::default();
    // The frame that was begun, and the offset at which the one before it ended.
    let mut begun = None;
    let mut within = false;
    let end = loop {
        if !within {
            let at = blocks.position();
            match blocks.begin() {
                Ok(Some(frame)) => begun = Some((frame, at)),
                Ok(None) => break Ok(()),
                Err(e) => break Err(e),
            }
        }
        if batch.is_full(unpacked) {
            unpacked += batch.bytes.len() as u64;
            batch.position = blocks.position();
            if full.send(std::mem::take(&mut batch)).is_err() {
                return;
            }
        }
        let start = batch.bytes.len();
        match blocks.next(&mut batch.bytes) {
            Ok(block) => {
                let packed = batch.packed.len();
                if block.kind == Kind::Compressed {
                    batch.packed.extend(&blocks.packed[3..]);
                }
                within = block.last.is_none();
                batch.blocks.push(Part {
                    block,
                    frame: begun.take(),
                    bytes: start..batch.bytes.len(),
                    packed: packed..batch.packed.len(),
                });
            }
            Err(e) => {
                batch.bytes.truncate(start);
                break Err(e);
            }
        }
    };
    batch.position = blocks.position();
    batch.end = Some(end);
    let _ = full.send(batch);
}

impl Batch {
    /// Returns whether the batch, whose first byte is at offset `start`, is long enough.
    fn is_full(&self, start: u64) -> bool {
        self.bytes.len() as u64 >= span_len(start).min(BATCH.0 as u64)
            || self.packed.len() >= BATCH.0
            || self.blocks.len() >= BATCH.1
    }
}

/// What is known while the batches pass by.
struct Pass<'a, 'b> {
    builder: &'a mut Builder<'b>,
    /// The offset of the next block's first byte, decompressed.
    at: u64,
    /// What the next block may refer to; None if that is not known.
    history: Option<History>,
    frame: Option<Frame>,
    frame_start: u64,
    sum: Xxh64,
    /// The last batches, at least a window of them, each with the offset of its first byte.
    recent: VecDeque<(u64, Vec<u8>)>,
    last_point: u64,
    pending: Option<Pending>,
}

/// A restart point, while it is not known yet which bytes of the window are needed.
struct Pending {
    at: u64,
    bit: u64,
    extra: u32,
    /// The dictionary: the window is the end of it.
    dictionary: Vec<u8>,
    /// The number of bytes of the window.
    window: usize,
    /// What comes after the point.
    spans: Vec<Span>,
}

impl Pass<'_, '_> {
    fn add(&mut self, batch: Batch) -> Result<(), Stop> {
        self.builder.progress(batch.position)?;
        let start = self.at;
        let mut point = None;
        for (n, part) in batch.blocks.iter().enumerate() {
            if let Some((frame, at)) = part.frame {
                self.finish_point()?;
                self.frame = Some(frame);
                // As much memory is needed several times.
                self.history = (frame.window() <= MAX_LONG_WINDOW).then(History::new);
                (self.frame_start, self.last_point) = (self.at, self.at);
                point = point.or((n == 0).then(|| (at * 8, AT_FRAME, Vec::new())));
            } else if n == 0 {
                self.begin_point(&part.block);
            }
            if part.block.kind == Kind::Compressed {
                self.follow(&batch.packed[part.packed.clone()])?;
            }
            self.sum.update(&batch.bytes[part.bytes.clone()]);
            self.at += part.bytes.len() as u64;
            if let Some(stored) = part.block.last {
                self.end_frame(stored);
            }
        }
        let span = Span { len: batch.bytes.len() as u64, contents: contents(&batch.bytes), point };
        match &mut self.pending {
            Some(_) if span.len == 0 => {}
            Some(pending) => pending.spans.push(span),
            None => self.builder.add(span)?,
        }
        if self.pending.as_ref().is_some_and(|pending| self.at - pending.at >= pending.window as u64) {
            self.finish_point()?;
        }
        self.remember(start, batch.bytes);
        match batch.end {
            None => Ok(()),
            Some(Ok(())) => self.finish_point(),
            Some(Err(e)) if is_damage(&e) => {
                self.finish_point()?;
                (self.builder.cut, self.builder.is_checked) = (true, false);
                if self.frame.is_some() {
                    let from = self.at.saturating_sub(DOUBTFUL).max(self.frame_start);
                    self.builder.suspect(from..self.at);
                }
                Ok(())
            }
            Some(Err(e)) => Err(e.into()),
        }
    }

    /// Makes a restart point of the next block, if it is time for one, and the dictionary can be made.
    fn begin_point(&mut self, block: &Block) {
        let (Some(frame), Some(history)) = (self.frame, &mut self.history) else { return };
        let distance = DISTANCE.0.min((self.at - self.frame_start) / 4).max(DISTANCE.1 * frame.window());
        if self.pending.is_some() || self.at - self.last_point < distance {
            return;
        }
        let window = index(frame.window().min(self.at - self.frame_start));
        let Some(mut dictionary) = history.dictionary(window) else { return };
        dictionary.resize(dictionary.len() + window, 0);
        let (bit, extra) = (block.at * 8, frame.number());
        self.last_point = self.at;
        self.pending = Some(Pending { at: self.at, bit, extra, dictionary, window, spans: Vec::new() });
    }

    /// Adds the pending point, and the spans after it.
    fn finish_point(&mut self) -> Result<(), Stop> {
        let Some(pending) = self.pending.take() else { return Ok(()) };
        let mut point = Some((pending.bit, pending.extra, zstd::bulk::compress(&pending.dictionary, 1)?));
        pending.spans.into_iter().try_for_each(|span| {
            let point = point.take().or(span.point);
            self.builder.add(Span { point, ..span })
        })
    }

    /// Reads a block, and keeps the bytes of a pending point's window to which it refers.
    fn follow(&mut self, block: &[u8]) -> Result<(), Stop> {
        let Some(history) = &mut self.history else { return Ok(()) };
        let mut at = self.at;
        let (pending, recent) = (&mut self.pending, &self.recent);
        let window = self.frame.map_or(0, Frame::window);
        let mut is_beyond = false;
        let read = history.read(block, |Copied { literals, offset, len }| {
            is_beyond |= u64::from(*offset) > window;
            let from = (at + u64::from(*literals)).saturating_sub((*offset).into());
            at += u64::from(*literals) + u64::from(*len);
            if let Some(pending) = pending
                && from < pending.at
            {
                pending.need(recent, from..pending.at.min(from + u64::from(*len)));
            }
        });
        // No frame may refer to more than its window; with a dictionary, those that do cannot be read.
        if read.is_none() || is_beyond {
            if history.is_used_without_single() {
                return Err(Stop::NoPoints);
            }
            // It is not known what the blocks after it need, nor what they refer to.
            self.history = None;
            if let Some(pending) = self.pending.take() {
                pending.spans.into_iter().try_for_each(|span| self.builder.add(span))?;
            }
        }
        Ok(())
    }

    /// Checks the frame that has ended.
    fn end_frame(&mut self, stored: Option<u32>) {
        let sum = std::mem::replace(&mut self.sum, Xxh64::new(0)).digest();
        let len = self.frame.take().and_then(|frame| frame.len);
        let has_len = len.is_none_or(|len| len == self.at - self.frame_start);
        self.builder.is_checked &= stored.is_some();
        // A wrong length in the header of a frame whose checksum is right is of no consequence.
        if stored.map_or(!has_len, |stored| u64::from(stored) != sum & 0xFFFF_FFFF) {
            self.builder.suspect(self.frame_start..self.at);
        }
    }

    /// Keeps a batch for as long as blocks may refer to it.
    fn remember(&mut self, start: u64, mut bytes: Vec<u8>) {
        // A copy, because what is left of a large buffer that is cut would be scattered over the memory.
        if bytes.capacity() / 2 > bytes.len() {
            bytes = bytes.as_slice().to_vec();
        }
        if !bytes.is_empty() {
            self.recent.push_back((start, bytes));
        }
        let window = self.frame.filter(|_| self.history.is_some()).map_or(0, Frame::window);
        while self.recent.get(1).is_some_and(|(start, _)| self.at - start >= window) {
            self.recent.pop_front();
        }
    }
}

impl Pending {
    /// Keeps the bytes in `range`, which is before the point.
    fn need(&mut self, recent: &VecDeque<(u64, Vec<u8>)>, range: Range<u64>) {
        let Some(first) = self.at.checked_sub(self.window as u64) else { return };
        let window = self.dictionary.len() - self.window;
        let mut at = range.start.max(first);
        let mut n = recent.partition_point(|(start, _)| *start <= at).saturating_sub(1);
        while let Some((start, bytes)) = recent.get(n).filter(|(start, _)| at < range.end && *start <= at) {
            let from = index(at - start);
            let to = index((range.end - start).min(bytes.len() as u64));
            let out = window + index(at - first);
            let Some(part) = bytes.get(from..to) else { return };
            self.dictionary[out..out + part.len()].copy_from_slice(part);
            at += part.len() as u64;
            n += 1;
        }
    }
}
