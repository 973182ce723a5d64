//! zstd: frames, each of which can be decompressed alone. Source: RFC 8878. Those that are too long for that are read
//! block by block (`long`).

mod blocks;
mod entropy;
mod long;
mod sequences;

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cdi_base::units::index;
use cdi_base::workers;

use super::build::{Builder, MAX_DISTANCE, Stop};
use super::stream::{Stream, cut, damaged, is_damage};
use super::units::{self, Unit};
use crate::input::ReadAt;
use blocks::BlockReader;

pub(super) const MAGIC: [u8; 4] = 0xFD2F_B528u32.to_le_bytes();
/// The magic of a frame that is to be skipped, without its lowest four bits.
const SKIPPED: u32 = 0x184D_2A50;
/// The base 2 logarithm of the longest window that is decompressed, in bytes.
const MAX_WINDOW: u32 = 27;

/// The maximum length in the file of frames that are restart points, in bytes, unless their windows leave no choice: damage
/// costs a whole frame, or everything if there is only one.
const SHORT: u64 = 8 << 20;
/// The length of a group of frames, in bytes of the file and in decompressed bytes.
const GROUP: (u64, u64) = (512 << 10, 1 << 20);

/// Makes the index of a zstd file.
pub(super) fn scan(source: &Arc<dyn ReadAt>, builder: &mut Builder<'_>) -> Result<(), Stop> {
    if has_long_frame(source, source.len()?) {
        return long::scan(source, builder);
    }
    match scan_frames(source, builder) {
        // A frame is too long.
        Err(Stop::NoPoints) => {
            builder.start_again();
            long::scan(source, builder)
        }
        other => other,
    }
}

/// Returns whether the first frame is long, or the only one, and can be read block by block.
fn has_long_frame(source: &Arc<dyn ReadAt>, end: u64) -> bool {
    let mut stream = Stream::new(source, 0, end);
    let frame = loop {
        match header(&mut stream) {
            Ok(Some(frame)) => break frame,
            Ok(None) => {}
            Err(_) => return false,
        }
    };
    let start = stream.position();
    while stream.position() - start <= SHORT {
        match skip_block(&mut stream) {
            Ok(false) => {}
            Ok(true) => {
                stream.skip_to(stream.position() + if frame.has_sum { 4 } else { 0 });
                // Others follow.
                if stream.position() < end && !is_over(&mut stream).unwrap_or(true) {
                    return false;
                }
                break;
            }
            Err(_) => break,
        }
    }
    frame.window <= blocks::MAX_LONG_WINDOW
}

/// Skips a block. Returns whether it is the last one of its frame.
fn skip_block(stream: &mut Stream) -> io::Result<bool> {
    let [a, b, c] = stream.array()?;
    let block = u32::from_le_bytes([a, b, c, 0]);
    let len = if block >> 1 & 3 == 1 { 1 } else { block >> 3 };
    let next = stream.position() + u64::from(len);
    if next > stream.end() {
        return Err(cut());
    }
    stream.skip_to(next);
    Ok(block & 1 != 0)
}

/// Makes the index of a file with frames that are short enough to be restart points.
fn scan_frames(source: &Arc<dyn ReadAt>, builder: &mut Builder<'_>) -> Result<(), Stop> {
    let end = source.len()?;
    let mut window = 0;
    // A frame with a long window needs as much memory.
    if let Ok(Some(frame)) = header(&mut Stream::new(source, 0, end)) {
        window = frame.window;
    }
    let threads = workers::cores().min(usize::try_from((64 << 20) / window.max(1 << 20)).unwrap_or(1).max(1));
    let all_checked = AtomicBool::new(true);
    let last = AtomicU64::new(end);
    let stream = Stream::new(source, 0, end);
    let frames = Frames { stream, end, usual: None, all_checked: &all_checked, last: &last };
    units::scan(
        source,
        Box::new(frames),
        &|source, unit| Ok(Box::new(frame_reader(Stream::new(source, unit.bits.0 / 8, unit.bits.1 / 8))?)),
        threads,
        builder,
    )?;
    builder.is_checked = all_checked.into_inner() && !builder.cut;
    builder.trailing = if builder.cut { 0 } else { end - last.into_inner() };
    Ok(())
}

/// Returns the maximum length of what is kept with a restart point, in bytes: the bytes before it, and what else is in a
/// dictionary.
pub(super) fn max_window() -> usize {
    index(blocks::MAX_LONG_WINDOW) + (1 << 10)
}

/// Reads on from a restart point.
pub(super) fn reader(
    source: &Arc<dyn ReadAt>,
    bit: u64,
    extra: u32,
    dictionary: &[u8],
) -> io::Result<Box<dyn Read + Send>> {
    if extra != 0 {
        return Ok(Box::new(BlockReader::new(source, bit / 8, extra, dictionary)?));
    }
    Ok(Box::new(frame_reader(Stream::new(source, bit / 8, source.len()?))?))
}

fn frame_reader(stream: Stream) -> io::Result<zstd::stream::read::Decoder<'static, Stream>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(stream)?;
    decoder.window_log_max(MAX_WINDOW)?;
    Ok(decoder)
}

/// The frames of a file.
struct Frames<'a> {
    stream: Stream,
    end: u64,
    /// The length of the first frame's contents.
    usual: Option<u64>,
    /// Becomes false if a frame has no checksum.
    all_checked: &'a AtomicBool,
    /// Becomes the end of the last frame, in bytes.
    last: &'a AtomicU64,
}

/// What the header of a frame says.
struct Header {
    /// The length of the window, and of the contents if it is known, in bytes.
    window: u64,
    len: Option<u64>,
    has_sum: bool,
}

/// Returns whether what follows is no frame: after the last one, there may be anything.
fn is_over(stream: &mut Stream) -> io::Result<bool> {
    let at = stream.position();
    let magic = match stream.array::<4>() {
        Ok(magic) => magic,
        Err(e) if is_damage(&e) => [0; 4],
        Err(e) => return Err(e),
    };
    stream.step_back(at);
    Ok(at > 0 && magic != MAGIC && u32::from_le_bytes(magic) & !0xF != SKIPPED)
}

/// Reads the header of a frame. Returns None for a frame that is to be skipped, which it does.
fn header(stream: &mut Stream) -> io::Result<Option<Header>> {
    let magic = stream.array::<4>()?;
    if u32::from_le_bytes(magic) & !0xF == SKIPPED {
        stream.skip_frame()?;
        return Ok(None);
    }
    let [descriptor] = stream.array()?;
    // The reserved bit, and dictionaries, which are not there.
    if magic != MAGIC || descriptor & 0x0B != 0 {
        return Err(damaged());
    }
    let single = descriptor & 0x20 != 0;
    let mut window = 0;
    if !single {
        let [byte] = stream.array()?;
        let base = 1u64 << (10 + (byte >> 3));
        window = base + base / 8 * u64::from(byte & 7);
    }
    let len = match descriptor >> 6 {
        0 if single => Some(stream.array::<1>()?[0].into()),
        0 => None,
        1 => Some(u64::from(u16::from_le_bytes(stream.array()?)) + 256),
        2 => Some(u32::from_le_bytes(stream.array()?).into()),
        _ => Some(u64::from_le_bytes(stream.array()?)),
    };
    let window = if single { len.unwrap_or_default() } else { window };
    // No block of four bytes makes more than 128 KiB.
    if single && window / (128 << 10) > (stream.end() - stream.position()) / 4 + 1 {
        return Err(damaged());
    }
    if window > 1 << MAX_WINDOW {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    Ok(Some(Header { window, len, has_sum: descriptor & 4 != 0 }))
}

impl Frames<'_> {
    /// Returns whether frames have this length. Headers have no checksum; but a wrong one is hardly like the others.
    fn is_usual(&mut self, len: Option<u64>) -> bool {
        let is_usual = self.usual.is_some() && self.usual == len;
        self.usual = self.usual.or(len);
        is_usual
    }

    /// Returns the next frames: one, or a group of short ones.
    fn group(&mut self) -> io::Result<Option<Unit>> {
        let Some(mut unit) = self.frame()? else { return Ok(None) };
        while let Some(len) = unit.len.filter(|len| *len < GROUP.1)
            && unit.bits.1 - unit.bits.0 < GROUP.0 * 8
        {
            let at = self.stream.position();
            match self.frame() {
                Ok(Some(Unit { bits, len: Some(more), is_sure, .. })) if more <= GROUP.1 => {
                    unit.bits.1 = bits.1;
                    unit.len = Some(len + more);
                    unit.is_sure &= is_sure;
                }
                Ok(None) => break,
                // It comes next.
                Ok(Some(_)) | Err(_) => {
                    self.stream.step_back(at);
                    break;
                }
            }
        }
        Ok(Some(unit))
    }

    fn frame(&mut self) -> io::Result<Option<Unit>> {
        loop {
            let start = self.stream.position();
            if start >= self.end || is_over(&mut self.stream)? {
                self.last.store(start, Ordering::Relaxed);
                return Ok(None);
            }
            let Some(header) = header(&mut self.stream)? else { continue };
            let too_long =
                Unit { bits: (start * 8, self.end * 8), extra: 0, len: Some(u64::MAX), is_sure: false };
            if header.len.is_some_and(|len| len > MAX_DISTANCE) {
                return Ok(Some(too_long));
            }
            loop {
                match skip_block(&mut self.stream) {
                    Ok(true) => break,
                    Ok(false) if self.stream.position() - start > MAX_DISTANCE => return Ok(Some(too_long)),
                    Ok(false) => {}
                    // What there is of the last frame is right.
                    Err(e) if is_damage(&e) => {
                        self.stream.skip_to(self.end);
                        let bits = (start * 8, self.end * 8);
                        let is_sure = self.is_usual(header.len);
                        return Ok(Some(Unit { bits, extra: 0, len: header.len, is_sure }));
                    }
                    Err(e) => return Err(e),
                }
            }
            if header.has_sum {
                self.stream.array::<4>()?;
            } else {
                self.all_checked.store(false, Ordering::Relaxed);
            }
            return Ok(Some(Unit {
                bits: (start * 8, self.stream.position() * 8),
                extra: 0,
                len: header.len,
                is_sure: self.is_usual(header.len),
            }));
        }
    }
}

impl Iterator for Frames<'_> {
    type Item = io::Result<Unit>;

    fn next(&mut self) -> Option<io::Result<Unit>> {
        self.group().transpose()
    }
}
