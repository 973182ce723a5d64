//! gzip: members of a deflate stream each. Sources: RFC 1951, RFC 1952; for members that say how long they are ("BGZF",
//! by bgzip), the SAM specification, section 4.1.
//!
//! A deflate stream can be continued at the start of any of its blocks with the 32 KiB before it: that is what zran.c,
//! an example in zlib, shows. Blocks begin at any bit.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cdi_base::workers;
use flate2::Crc;
use flate2::bufread::MultiGzDecoder;

use super::build::{Builder, Stop};
use super::deflate::{self, HISTORY, Inflate, Stopped};
use super::sequence::{self, MemberSum, Sequence, SequenceReader, Step};
use super::stream::{Stream, cut, damaged};
use super::units::{self, Unit};
use crate::bytes::{le32, le64};
use crate::input::ReadAt;

const MAGIC: [u8; 2] = [0x1F, 0x8B];
/// The members of a gzip file, one after the other.
struct Members {
    stream: Stream,
    inflate: Inflate,
    /// Whether the position is within a member.
    within: bool,
    /// How many bytes before the next one belong to this member, up to [`HISTORY`].
    history: usize,
    /// The offset in the packed file after the last member.
    member_end: u64,
}

impl Members {
    /// Begins at the header of a member.
    fn new(stream: Stream) -> Members {
        Members { stream, inflate: Inflate::new(), within: false, history: 0, member_end: 0 }
    }
}

impl Sequence for Members {
    fn begin(&mut self) -> io::Result<Option<u64>> {
        if !self.within {
            if header(&mut self.stream)?.is_none() {
                return Ok(None);
            }
            self.inflate.reset();
            (self.within, self.history) = (true, 0);
        }
        Ok(Some(self.stream.position() * 8))
    }

    fn step(&mut self, out: &mut [u8], at: &mut usize, stops: bool) -> io::Result<Step> {
        loop {
            // A reference to what was before this member is damage.
            let from = at.saturating_sub(self.history);
            let input = self.stream.fill_buf()?;
            let is_last = input.is_empty();
            let mut end = *at - from;
            let stepped = self.inflate.step(input, &mut out[from..], &mut end, stops);
            let made = from + end - *at;
            *at += made;
            self.history = HISTORY.min(self.history + made);
            let (used, stopped) = stepped?;
            self.stream.consume(used);
            match stopped {
                Stopped::Full => return Ok(Step::Full),
                Stopped::Block => return Ok(Step::Block(self.stream.position() * 8)),
                Stopped::End => {
                    self.within = false;
                    let trailer = self.stream.array::<8>()?;
                    self.member_end = self.stream.position();
                    return Ok(Step::Member(Some(le64(&trailer, 0))));
                }
                Stopped::Input if is_last => return Err(cut()),
                Stopped::Input => {}
            }
        }
    }

    fn history(&self) -> usize {
        self.history
    }

    fn position(&self) -> u64 {
        self.stream.position()
    }

    fn doubtful(&self) -> Option<u64> {
        Some(256 << 10)
    }
}

/// The trailer of a member: its CRC-32, and its length modulo 2^32.
#[derive(Default)]
struct Trailer {
    crc: Crc,
    len: u64,
}

impl MemberSum for Trailer {
    fn update(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        self.len = self.len.wrapping_add(bytes.len() as u64);
    }

    fn finish(&mut self) -> u64 {
        let Trailer { crc, len } = std::mem::take(self);
        u64::from(crc.sum()) | len << 32
    }

    fn has_same_len(&self, stored: u64, computed: u64) -> bool {
        stored >> 32 == computed >> 32
    }
}

/// The `extra` of a restart point that is the header of a member.
pub(super) const AT_HEADER: u32 = 1;

/// Makes the index of a gzip file.
pub(super) fn scan(source: &Arc<dyn ReadAt>, builder: &mut Builder<'_>) -> Result<(), Stop> {
    let end = source.len()?;
    let from_start = || Stream::new(source, 0, end);
    let is_blocked = header(&mut from_start()).is_ok_and(|header| header.flatten().is_some());
    let last = match is_blocked.then(|| scan_blocked(source, builder)).transpose()?.flatten() {
        Some(last) => last,
        None => {
            builder.start_again();
            let mut members = Members::new(from_start());
            let locate = |bit, window: &[u8], data: &[u8]| deflate::locate(source, bit, window, data);
            sequence::scan(&mut members, Box::new(Trailer::default()), &locate, builder)?;
            members.member_end
        }
    };
    builder.trailing = if builder.cut { 0 } else { end - last };
    Ok(())
}

/// Makes the index of a file by bgzip. Returns the end of the last member, or None if others follow.
fn scan_blocked(source: &Arc<dyn ReadAt>, builder: &mut Builder<'_>) -> Result<Option<u64>, Stop> {
    let (last, others) = (AtomicU64::new(0), AtomicBool::new(false));
    let seen = |unit: &io::Result<Unit>| {
        let end = unit.as_ref().map_or(0, |unit| unit.bits.1 / 8);
        last.fetch_max(end, Ordering::Relaxed);
    };
    let end = source.len()?;
    let blocked = Blocked { stream: Stream::new(source, 0, end), end, usual: None, others: &others };
    units::scan(source, Box::new(blocked.inspect(seen)), &open_blocked, workers::cores(), builder)?;
    builder.is_checked = !builder.cut;
    Ok((!others.into_inner()).then(|| last.into_inner()))
}

/// Reads on from a restart point.
pub(super) fn reader(
    source: &Arc<dyn ReadAt>,
    bit: u64,
    extra: u32,
    window: &[u8],
) -> io::Result<Box<dyn Read + Send>> {
    if extra == AT_HEADER {
        return Ok(Box::new(MultiGzDecoder::new(Stream::new(source, bit / 8, source.len()?))));
    }
    let (inflate, stream) = Inflate::at(source, bit, window)?;
    let history = window.len().min(HISTORY);
    let members = Members { stream, inflate, within: true, history, member_end: 0 };
    Ok(Box::new(SequenceReader::new(Box::new(members), window)))
}

fn open_blocked(source: &Arc<dyn ReadAt>, unit: &Unit) -> io::Result<Box<dyn Read>> {
    Ok(Box::new(MultiGzDecoder::new(Stream::new(source, unit.bits.0 / 8, unit.bits.1 / 8))))
}

/// Reads the header of a member. Returns None if there is none, and otherwise the length of the whole member in bytes, if
/// the header has it.
fn header(stream: &mut Stream) -> io::Result<Option<Option<u64>>> {
    let start = stream.position();
    if !stream.fill_buf()?.starts_with(&MAGIC[..1]) {
        return Ok(None);
    }
    let [first, second, method, flags, ..] = stream.array::<10>()?;
    if [first, second] != MAGIC {
        return Ok(None);
    }
    // Encrypted files and other methods were never in use.
    if method != 8 || flags & 0xE0 != 0 {
        return Err(damaged());
    }
    let mut length = None;
    if flags & 4 != 0 {
        let extra = u64::from(u16::from_le_bytes(stream.array()?));
        let end = stream.position() + extra;
        while stream.position() + 4 <= end {
            let [a, b, low, high] = stream.array::<4>()?;
            let field = u64::from(u16::from_le_bytes([low, high]));
            let next = stream.position() + field;
            if [a, b] == *b"BC" && field == 2 {
                length = Some(u64::from(u16::from_le_bytes(stream.array()?)) + 1);
            }
            stream.skip_to(next.min(end));
        }
        stream.skip_to(end);
    }
    for flag in [8, 16] {
        if flags & flag != 0 {
            while stream.array::<1>()? != [0] {}
        }
    }
    if flags & 2 != 0 {
        stream.array::<2>()?;
    }
    Ok(Some(length.filter(|len| *len > stream.position() - start + 8)))
}

/// The members of a file by bgzip, in groups of about a MiB: each says how long it is.
struct Blocked<'a> {
    stream: Stream,
    end: u64,
    /// Becomes true if a member follows that does not say how long it is.
    others: &'a AtomicBool,
    /// The number of decompressed bytes of the first member.
    usual: Option<u32>,
}

/// The length of a member without bytes, which bgzip writes at the end, in bytes.
const MIN_MEMBER: u64 = 28;
/// The maximum number of decompressed bytes of a member.
const MAX_MEMBER: u32 = 64 << 10;
/// The length of a group of members, in bytes of the packed file and in decompressed bytes.
const GROUP: (u64, u64) = (512 << 10, 1 << 20);

impl Iterator for Blocked<'_> {
    type Item = io::Result<Unit>;

    fn next(&mut self) -> Option<io::Result<Unit>> {
        let start = self.stream.position();
        let (mut len, mut is_sure) = (0, self.usual.is_some());
        let mut group = || -> io::Result<u64> {
            loop {
                let at = self.stream.position();
                let is_full = at - start >= GROUP.0 || len >= GROUP.1;
                if at >= self.end || is_full {
                    return Ok(at);
                }
                let Some(member) = header(&mut self.stream)? else { return Ok(at) };
                let Some(member) = member else {
                    self.others.store(true, Ordering::Relaxed);
                    return Ok(at);
                };
                let end = at.checked_add(member).ok_or_else(damaged)?;
                if end > self.end {
                    return Err(cut());
                }
                self.stream.skip_to(end - 4);
                let member = le32(&self.stream.array::<4>()?, 0);
                let usual = *self.usual.get_or_insert(member.min(MAX_MEMBER));
                // It has no checksum; but a wrong length is hardly like the others. One that cannot be is taken for theirs,
                // unless it may be the last.
                let is_wrong = member > MAX_MEMBER;
                len += u64::from(if is_wrong { usual } else { member });
                is_sure &= if is_wrong { end + MIN_MEMBER < self.end } else { member == usual };
            }
        };
        match group() {
            Ok(end) if end == start => None,
            Ok(end) => {
                Some(Ok(Unit { bits: (start * 8, end * 8), extra: AT_HEADER, len: Some(len), is_sure }))
            }
            Err(e) => Some(Err(e)),
        }
    }
}
