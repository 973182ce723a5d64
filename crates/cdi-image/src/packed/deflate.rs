//! Deflate streams (RFC 1951): decompressed from the start of any block on, with the 32 KiB before it. Blocks begin at any
//! bit.
//!
//! miniz_oxide says at which bit a block begins, and can go on there. zlib-rs needs half the time, but says only in which
//! byte. So the pass over a whole file is made by zlib-rs, and miniz_oxide then finds the bit: it is the one from which
//! the same bytes are decompressed.

use std::io::{self, BufRead};
use std::sync::Arc;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{BlockBoundaryState, DecompressorOxide, decompress};
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
    /// A block begins, so many bits before the end of the input that was used. The last block of a stream may be reported
    /// like this, too, before its end is.
    Block(u8),
    /// The stream ends.
    End,
}

/// Decompresses deflate streams.
pub(super) trait Inflate: Send {
    /// Begins a stream.
    fn reset(&mut self);

    /// Decompresses into `out` from `at` on, and moves `at`. What is before it in `out` is what the stream may refer to, and what
    /// was decompressed last. `is_last`: no input follows this one; without `stops`, it need not stop where blocks
    /// begin. Returns the number of input bytes that were used.
    fn step(
        &mut self,
        input: &[u8],
        is_last: bool,
        out: &mut [u8],
        at: &mut usize,
        stops: bool,
    ) -> io::Result<(usize, Stopped)>;
}

/// Knows where blocks begin.
#[derive(Default)]
pub(super) struct Exact(Box<DecompressorOxide>);

impl Exact {
    /// Begins at a block, at this bit of the source. Returns the rest of the source, too.
    pub(super) fn at(source: &Arc<dyn ReadAt>, bit: u64) -> io::Result<(Exact, Stream)> {
        let mut stream = Stream::new(source, bit / 8, source.len()?);
        let used = u8::try_from(bit % 8).unwrap_or_default();
        let mut state = BlockBoundaryState::default();
        if used > 0 {
            let mut first = [0];
            io::Read::read_exact(&mut stream, &mut first)?;
            (state.num_bits, state.bit_buf) = (8 - used, first[0] >> used);
        }
        Ok((Exact(Box::new(DecompressorOxide::from_block_boundary_state(&state))), stream))
    }
}

impl Inflate for Exact {
    fn reset(&mut self) {
        *self.0 = DecompressorOxide::default();
    }

    fn step(
        &mut self,
        input: &[u8],
        is_last: bool,
        out: &mut [u8],
        at: &mut usize,
        stops: bool,
    ) -> io::Result<(usize, Stopped)> {
        let more = if is_last { 0 } else { TINFL_FLAG_HAS_MORE_INPUT };
        let stop = if stops { TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY } else { 0 };
        let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF | more | stop;
        let (status, used, made) = decompress(&mut self.0, input, out, *at, flags);
        *at += made;
        let stopped = match status {
            TINFLStatus::HasMoreOutput => Stopped::Full,
            TINFLStatus::BlockBoundary => {
                Stopped::Block(self.0.block_boundary_state().map_or(0, |state| state.num_bits))
            }
            TINFLStatus::Done => Stopped::End,
            TINFLStatus::NeedsMoreInput | TINFLStatus::FailedCannotMakeProgress => Stopped::Input,
            _ => return Err(damaged()),
        };
        Ok((used, stopped))
    }
}

/// Is fast. Of blocks it says that they begin in or at the end of the last byte that was used: the bit is what [`locate`]
/// finds.
pub(super) struct Fast(zlib_rs::Inflate);

impl Fast {
    pub(super) fn new() -> Fast {
        Fast(zlib_rs::Inflate::new(false, 15))
    }
}

impl Inflate for Fast {
    fn reset(&mut self) {
        self.0.reset(false);
    }

    fn step(
        &mut self,
        input: &[u8],
        _: bool,
        out: &mut [u8],
        at: &mut usize,
        stops: bool,
    ) -> io::Result<(usize, Stopped)> {
        let before = (self.0.total_in(), self.0.total_out());
        let flush = if stops { InflateFlush::Block } else { InflateFlush::NoFlush };
        let status = self.0.decompress(input, &mut out[*at..], flush);
        let used = usize::try_from(self.0.total_in() - before.0).unwrap_or(input.len());
        *at += usize::try_from(self.0.total_out() - before.1).unwrap_or_default();
        let stopped = match status {
            Ok(Status::StreamEnd) => Stopped::End,
            Ok(Status::Ok | Status::BufError) if *at == out.len() => Stopped::Full,
            Ok(Status::Ok | Status::BufError) if used == input.len() => Stopped::Input,
            Ok(_) => Stopped::Block(0),
            Err(InflateError::MemError) => return Err(io::ErrorKind::OutOfMemory.into()),
            Err(_) => return Err(damaged()),
        };
        Ok((used, stopped))
    }
}

/// Returns the bit at which a block begins that ends with, or after, this bit of the source: `data` is what comes after it
/// when decompressed, `window` what is before it.
pub(super) fn locate(source: &Arc<dyn ReadAt>, bit: u64, window: &[u8], data: &[u8]) -> Option<u64> {
    let data = &data[..data.len().min(SAME.1)];
    let window = &window[window.len().saturating_sub(HISTORY)..];
    if data.len() < SAME.0 {
        return None;
    }
    let mut out = vec![0; window.len() + data.len()];
    out[..window.len()].copy_from_slice(window);
    let mut is_here = |bit: u64| -> io::Result<bool> {
        let (mut inflate, mut stream) = Exact::at(source, bit)?;
        let mut at = window.len();
        while at < out.len() {
            let input = stream.fill_buf()?;
            let (used, stopped) = inflate.step(input, input.is_empty(), &mut out, &mut at, false)?;
            let is_end = match stopped {
                Stopped::End => true,
                Stopped::Input => input.is_empty(),
                Stopped::Full | Stopped::Block(_) => false,
            };
            let made = at - window.len();
            if is_end || out[window.len()..at] != data[..made] {
                // What comes after the end of the stream is of another one.
                return Ok(made >= SAME.0 && out[window.len()..at] == data[..made]);
            }
            io::BufRead::consume(&mut stream, used);
        }
        Ok(true)
    };
    (0..8).filter_map(|back| bit.checked_sub(back)).find(|bit| is_here(*bit).unwrap_or(false))
}
