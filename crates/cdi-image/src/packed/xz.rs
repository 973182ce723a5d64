//! xz: streams of blocks, each of which can be decompressed alone. Source: "The .xz File Format", version 1.2.1.
//!
//! The index at the end of each stream has the lengths of its blocks. If it is missing, because the file was cut off, the
//! lengths are in the headers of the blocks, if several threads wrote them.

use std::io::{self, Chain, Cursor, Read};
use std::sync::Arc;

use cdi_base::units::index;
use cdi_base::workers;
use lzma_rust2::XzReader;

use super::build::{Builder, Stop};
use super::index::read_exact;
use super::stream::{Stream, cut, damaged};
use super::units::{self, Unit};
use crate::bytes::le32;
use crate::codec::crc32;
use crate::input::ReadAt;

pub(super) const MAGIC: &[u8] = b"\xFD7zXZ\0";
const FOOTER_MAGIC: &[u8] = b"YZ";
/// The length of the header of a stream, and of its footer, in bytes.
const HEADER: u64 = 12;
/// The maximum number of blocks.
const MAX_BLOCKS: usize = 1 << 20;
/// The maximum memory for a block in KiB: the dictionary of the strongest preset.
const MEMORY: u32 = 65 << 10;

/// A block: its unit, and its length in the file without padding, in bytes.
type Block = (Unit, u64);

/// Makes the index of an xz file.
pub(super) fn scan(source: &Arc<dyn ReadAt>, builder: &mut Builder<'_>) -> Result<(), Stop> {
    let end = source.len()?;
    match blocks(source, end) {
        Ok(blocks) => {
            let all_checked = blocks.iter().all(|(unit, _)| unit.extra != 0);
            scan_blocks(source, Box::new(blocks.into_iter().map(Ok)), builder)?;
            builder.is_checked = all_checked && !builder.cut;
            Ok(())
        }
        Err(e) if super::stream::is_damage(&e) => {
            builder.cut = true;
            scan_blocks(
                source,
                Box::new(Forward { stream: Stream::new(source, 0, end), check: None, ended: false }),
                builder,
            )
        }
        Err(e) => Err(e.into()),
    }
}

fn scan_blocks(
    source: &Arc<dyn ReadAt>,
    blocks: Box<dyn Iterator<Item = io::Result<Block>> + Send + '_>,
    builder: &mut Builder<'_>,
) -> Result<(), Stop> {
    // A dictionary may have 64 MiB. Blocks of that kind are long, and there is one thread for them.
    let mut blocks = blocks.peekable();
    let large = matches!(blocks.peek(), Some(Ok((unit, _))) if unit.len.is_none_or(|len| len > 64 << 20));
    let threads = if large { 1 } else { workers::cores().min(8) };
    let lengths = std::sync::Mutex::new(std::collections::HashMap::new());
    let units = blocks.map(|block| {
        block.map(|(unit, unpadded)| {
            workers::lock(&lengths).insert(unit.bits.0, unpadded);
            unit
        })
    });
    let open = |source: &Arc<dyn ReadAt>, unit: &Unit| -> io::Result<Box<dyn Read>> {
        let unpadded = workers::lock(&lengths).remove(&unit.bits.0).unwrap_or_default();
        Ok(Box::new(block_reader(source, unit, unpadded)?))
    };
    units::scan(source, Box::new(units), &open, threads, builder)
}

/// The parts of the stream that is made around one block.
type OneBlock = XzReader<Chain<Chain<Cursor<Vec<u8>>, Stream>, Cursor<Vec<u8>>>>;

/// Reads one block, as a stream that consists of it alone: with its checksum.
fn block_reader(source: &Arc<dyn ReadAt>, unit: &Unit, unpadded: u64) -> io::Result<OneBlock> {
    let check = u8::try_from(unit.extra).map_err(|_| damaged())?;
    let block = Stream::new(source, unit.bits.0 / 8, unit.bits.1 / 8);
    let tail = unit.len.map_or(Vec::new(), |len| stream_end(check, unpadded, len));
    let stream = Cursor::new(stream_header(check)).chain(block).chain(Cursor::new(tail));
    Ok(XzReader::new_mem_limit(stream, false, MEMORY))
}

/// Reads on from a block.
pub(super) fn reader(source: &Arc<dyn ReadAt>, bit: u64, extra: u32) -> io::Result<Box<dyn Read + Send>> {
    let unit = Unit { bits: (bit, source.len()?.saturating_mul(8)), extra, len: None, is_sure: false };
    Ok(Box::new(block_reader(source, &unit, 0)?))
}

/// Reads the whole file from its start.
pub(super) fn whole(source: &Arc<dyn ReadAt>) -> io::Result<Box<dyn Read + Send>> {
    Ok(Box::new(XzReader::new_mem_limit(Stream::new(source, 0, source.len()?), true, MEMORY)))
}

/// Returns the header of a stream whose blocks have this kind of checksum.
fn stream_header(check: u8) -> Vec<u8> {
    let flags = [0, check];
    let mut header = MAGIC.to_vec();
    header.extend(flags);
    header.extend(crc(&flags).to_le_bytes());
    header
}

/// Returns index and footer of a stream with one block.
fn stream_end(check: u8, unpadded: u64, len: u64) -> Vec<u8> {
    let mut end = vec![0, 1];
    for mut number in [unpadded, len] {
        while number >= 0x80 {
            end.push(u8::try_from(number & 0x7F).unwrap_or(0) | 0x80);
            number >>= 7;
        }
        end.push(u8::try_from(number).unwrap_or(0));
    }
    end.resize(end.len().next_multiple_of(4), 0);
    end.extend(crc(&end).to_le_bytes());
    let size = u32::try_from(end.len() / 4 - 1).unwrap_or(0);
    let mut fields = size.to_le_bytes().to_vec();
    fields.extend([0, check]);
    end.extend(crc(&fields).to_le_bytes());
    end.extend(fields);
    end.extend(FOOTER_MAGIC);
    end
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = crc32();
    crc.update(bytes);
    crc.finalize()
}

/// Returns the blocks of all streams, by their indexes.
fn blocks(source: &Arc<dyn ReadAt>, mut end: u64) -> io::Result<Vec<Block>> {
    let mut all = Vec::new();
    while end > 0 {
        end = without_padding(source, end)?;
        let mut footer = [0; index(HEADER)];
        let footer_at = end.checked_sub(HEADER).ok_or_else(damaged)?;
        read_exact(&**source, &mut footer, footer_at)?;
        let size = (u64::from(le32(&footer, 4)) + 1) * 4;
        if !footer.ends_with(FOOTER_MAGIC) || le32(&footer, 0) != crc(&footer[4..10]) || footer[8] != 0 {
            return Err(damaged());
        }
        let index_at = footer_at.checked_sub(size).ok_or_else(damaged)?;
        let records = records(&mut Stream::new(source, index_at, footer_at))?;
        let padded = |unpadded: u64| unpadded.checked_next_multiple_of(4);
        let mut len = 0u64;
        for (unpadded, _) in &records {
            len = padded(*unpadded).and_then(|padded| len.checked_add(padded)).ok_or_else(damaged)?;
        }
        let start = index_at.checked_sub(len).and_then(|at| at.checked_sub(HEADER)).ok_or_else(damaged)?;
        let mut header = [0; index(HEADER)];
        read_exact(&**source, &mut header, start)?;
        if header[..] != stream_header(footer[9]) {
            return Err(damaged());
        }
        if all.len() + records.len() > MAX_BLOCKS {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut at = start + HEADER;
        let mut stream: Vec<Block> = Vec::new();
        for (unpadded, len) in records {
            let next = at + unpadded.next_multiple_of(4);
            let unit =
                Unit { bits: (at * 8, next * 8), extra: footer[9].into(), len: Some(len), is_sure: true };
            stream.push((unit, unpadded));
            at = next;
        }
        // From the last stream to the first, and turned at the end.
        all.extend(stream.into_iter().rev());
        end = start;
    }
    all.reverse();
    Ok(all)
}

/// Returns where the stream ends that is followed by zeros up to `end`.
fn without_padding(source: &Arc<dyn ReadAt>, mut end: u64) -> io::Result<u64> {
    let mut buffer = vec![0; 64 << 10];
    while end > 0 {
        let len = index(end.min(buffer.len() as u64));
        let part = &mut buffer[..len];
        read_exact(&**source, part, end - len as u64)?;
        match part.iter().rposition(|b| *b != 0) {
            Some(last) => {
                let zeros = (len - 1 - last) as u64 / 4 * 4;
                return Ok(end - zeros);
            }
            None => end -= len as u64,
        }
    }
    Err(damaged())
}

/// Reads an index: for each block, its length in the file without padding and its decompressed length, in bytes.
fn records(index: &mut Stream) -> io::Result<Vec<(u64, u64)>> {
    let mut crc = crc32();
    let mut next = |index: &mut Stream| -> io::Result<u8> {
        let [byte] = index.array()?;
        crc.update(&[byte]);
        Ok(byte)
    };
    if next(index)? != 0 {
        return Err(damaged());
    }
    let count = number(|| next(index))?;
    let start = index.position();
    if count > MAX_BLOCKS as u64 {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut records = Vec::new();
    for _ in 0..count {
        let record = (number(|| next(index))?, number(|| next(index))?);
        if record.0 == 0 {
            return Err(damaged());
        }
        records.push(record);
    }
    // The index began two bytes or more before `start`: one, and the number of records.
    let used = index.position() - start + 1 + encoded_len(count);
    for _ in used..used.next_multiple_of(4) {
        if next(index)? != 0 {
            return Err(damaged());
        }
    }
    if index.array()? != crc.finalize().to_le_bytes() {
        return Err(damaged());
    }
    Ok(records)
}

/// Reads a number of a variable length.
fn number(mut next: impl FnMut() -> io::Result<u8>) -> io::Result<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let byte = next()?;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(damaged())
}

fn encoded_len(number: u64) -> u64 {
    u64::from((u64::BITS - number.leading_zeros()).div_ceil(7).max(1))
}

/// The blocks of a file without an index, by their headers.
struct Forward {
    stream: Stream,
    /// The kind of checksum of the stream that is being read.
    check: Option<u8>,
    ended: bool,
}

impl Forward {
    fn block(&mut self) -> io::Result<Block> {
        let check = match self.check {
            Some(check) => check,
            None => {
                let header = self.stream.array::<12>()?;
                if header[..] != stream_header(header[7]) {
                    return Err(damaged());
                }
                *self.check.insert(header[7])
            }
        };
        let at = self.stream.position();
        let [first] = self.stream.array()?;
        if first == 0 {
            // The index of a stream: this one is complete, and so is what comes before another that is not.
            return Err(cut());
        }
        let mut header = vec![0; (usize::from(first) + 1) * 4];
        header[0] = first;
        self.stream.read_exact(&mut header[1..])?;
        let (fields, sum) = header.split_at(header.len() - 4);
        if sum != crc(fields).to_le_bytes() {
            return Err(damaged());
        }
        let mut rest = fields[2..].iter();
        let mut next = || rest.next().copied().ok_or_else(damaged);
        let flags = fields[1];
        let packed = if flags & 0x40 != 0 { Some(number(&mut next)?) } else { None };
        let len = if flags & 0x80 != 0 { Some(number(&mut next)?) } else { None };
        let extra = u32::from(check);
        let (Some(packed), Some(len)) = (packed, len) else {
            // Where it ends is not known: it is the last one.
            self.ended = true;
            return Ok((Unit { bits: (at * 8, u64::MAX / 2), extra, len: None, is_sure: false }, 0));
        };
        let unpadded =
            (header.len() as u64).checked_add(packed).and_then(|n| n.checked_add(check_len(check)));
        let next = unpadded.and_then(|n| n.checked_next_multiple_of(4)?.checked_add(at));
        let (Some(unpadded), Some(next)) = (unpadded, next.filter(|next| *next < u64::MAX / 8)) else {
            return Err(damaged());
        };
        self.stream.skip_to(next);
        Ok((Unit { bits: (at * 8, next * 8), extra, len: Some(len), is_sure: true }, unpadded))
    }
}

/// Returns the length of a block's checksum in bytes.
fn check_len(check: u8) -> u64 {
    match check & 0xF {
        0 => 0,
        n => 4 << ((n - 1) / 3),
    }
}

impl Iterator for Forward {
    type Item = io::Result<Block>;

    fn next(&mut self) -> Option<io::Result<Block>> {
        (!self.ended).then(|| self.block())
    }
}
