//! Streams of an AFF4 image: chunks grouped into bevies, each with an index.

use std::ops::Range;

use cdi_base::error::{Error, ReadError};

use super::volume::{Member, Volume, entry};
use crate::bytes::{flaw, le32, le64};
use crate::codec::lz4_len::lz4_len;
use crate::codec::{Codec, Sum};
use crate::extent::{CompressedChunk, MAX_CHUNK, Origin};
use crate::input::Input;
use crate::stored_hashes::HashKind;

/// How many chunks are examined to detect the writer's variant of the compression.
const SAMPLES: u64 = 64;

/// The kinds of block hashes that are checked, the one that costs least first.
const BLOCK_HASHES: [(HashKind, &str); 3] =
    [(HashKind::Sha1, "sha1"), (HashKind::Sha256, "sha256"), (HashKind::Md5, "md5")];

/// A stream: its size, and the size and codec of its chunks.
pub(super) struct Stream {
    pub urn: String,
    /// The number of the volume that contains it.
    pub volume: usize,
    pub size: u64,
    pub chunk: u64,
    per_bevy: u64,
    codec: Codec,
    /// How many bytes come before the compressed data of each chunk.
    prefix: u32,
    /// The kind of block hashes that are checked when chunks are read, and what the names of their members end with.
    block_hash: Option<(HashKind, String)>,
    /// Whether the indices are in the form from before the standard: end offsets of chunks, in 32 bits.
    old: bool,
}

/// A chunk: its offset and length in a member of the zip file, in bytes.
struct Chunk {
    member: Member,
    at: u64,
    len: u64,
}

impl Stream {
    /// Opens the stream of this name, which is described in `volume`, the volume with this number.
    pub(super) fn open(input: &Input, volume: &Volume, number: usize, urn: &str) -> Result<Stream, Error> {
        let chunk = volume.number(urn, &["chunkSize", "chunk_size"]).unwrap_or(32 << 10);
        let per_bevy = volume
            .number(urn, &["chunksInSegment", "chunks_in_segment", "chunks_per_segment"])
            .unwrap_or(1024);
        let Some(size) = volume.number(urn, &["size"]) else {
            return flaw(0, format!("the length of stream {urn} is missing"));
        };
        if !(1..=u64::from(MAX_CHUNK)).contains(&chunk) || !(1..=1 << 32).contains(&per_bevy) {
            return flaw(
                0,
                format!("unsupported chunk size: {chunk} bytes, {per_bevy} chunks in a bevy ({urn})"),
            );
        }
        let method = volume.property(urn, &["compressionMethod", "CompressionMethod", "compression"]);
        let method = method.unwrap_or("").to_ascii_lowercase();
        let codec = match method.as_str() {
            m if m.contains("snappy") => Codec::Snappy,
            m if m.contains("lz4") => Codec::Lz4,
            m if m.contains("rfc1951") => Codec::DeflateUnended,
            m if m.contains("rfc1950") || m.contains("deflatecompressor") => Codec::ZlibPadded,
            m if m.is_empty() || m.contains("null") || m.contains("stored") => Codec::Stored,
            other => return flaw(0, format!("unknown compression '{other}' ({urn})")),
        };
        let old = volume.member(&format!("{urn}/00000000.index")).is_none();
        let mut stream = Stream {
            urn: urn.into(),
            volume: number,
            size,
            chunk,
            per_bevy,
            codec,
            prefix: 0,
            block_hash: None,
            old,
        };
        let named = |(kind, name): (HashKind, &str)| Some((kind, stream.block_hashes(volume, name)?));
        stream.block_hash = BLOCK_HASHES.into_iter().find_map(named);
        stream.detect_variant(input, volume, method.is_empty());
        Ok(stream)
    }

    /// Detects writers whose compression is not the declared one: zlib instead of deflate or none, or LZ4 preceded by
    /// the length. `undeclared` says that the image declares no compression.
    fn detect_variant(&mut self, input: &Input, volume: &Volume, undeclared: bool) {
        let count = self.size.div_ceil(self.chunk);
        let last = count.saturating_sub(1);
        let heads = (0..count.min(SAMPLES)).chain(Some(last).filter(|n| *n >= SAMPLES)).filter_map(|n| {
            let chunk = self.find(input, volume, n).ok().filter(|c| c.len < self.chunk && c.len >= 4)?;
            let mut head = [0; 4];
            input.read_exact_at(chunk.member.file, &mut head, chunk.member.at + chunk.at).ok()?;
            Some(head)
        });
        let heads: Vec<[u8; 4]> = heads.collect();
        let all = |is: &dyn Fn(&[u8; 4]) -> bool| !heads.is_empty() && heads.iter().all(is);
        let rest = self.size - last * self.chunk;
        let zlib = |h: &[u8; 4]| h[0] & 0x0F == 8 && u16::from_be_bytes([h[0], h[1]]).is_multiple_of(31);
        match self.codec {
            Codec::DeflateUnended if all(&zlib) => self.codec = Codec::ZlibPadded,
            Codec::Stored if undeclared && all(&zlib) => self.codec = Codec::ZlibPadded,
            Codec::Lz4 if all(&|h| [self.chunk, rest].contains(&le32(h, 0).into())) => self.prefix = 4,
            _ => {}
        }
    }

    /// Returns the number of bevies.
    pub(super) fn bevies(&self) -> u64 {
        self.size.div_ceil(self.chunk).div_ceil(self.per_bevy)
    }

    /// Returns what the names of the members with the block hashes of this kind end with, if there are any. (The
    /// standard has another name than its reference images.)
    pub(super) fn block_hashes(&self, volume: &Volume, kind: &str) -> Option<String> {
        let endings = [".blockHash.", "/blockHash.", "."].map(|before| format!("{before}{kind}"));
        endings.into_iter().find(|ending| self.with_ending(volume, 0, ending).is_some())
    }

    /// Finds the member of a bevy whose name ends like this.
    pub(super) fn with_ending(&self, volume: &Volume, bevy: u64, ending: &str) -> Option<Member> {
        volume.member(&format!("{}/{bevy:08}{ending}", self.urn))
    }

    /// Returns the block hash of the chunk with this number, if there is one.
    fn block_sum(&self, input: &Input, volume: &Volume, number: u64) -> Result<Sum, ReadError> {
        let Some((kind, ending)) = &self.block_hash else { return Ok(Sum::None) };
        let member = self.with_ending(volume, number / self.per_bevy, ending);
        let Some(member) = member else { return Ok(Sum::None) };
        let n = number % self.per_bevy;
        let (mut md5, mut sha1, mut sha256) = ([0; 16], [0; 20], [0; 32]);
        Ok(match kind {
            HashKind::Md5 => {
                entry(input, member, n, &mut md5)?;
                Sum::Md5Uncompressed(md5)
            }
            HashKind::Sha1 => {
                entry(input, member, n, &mut sha1)?;
                Sum::Sha1Uncompressed(sha1)
            }
            _ => {
                entry(input, member, n, &mut sha256)?;
                Sum::Sha256Uncompressed(sha256)
            }
        })
    }

    /// Finds the chunk with this number.
    fn find(&self, input: &Input, volume: &Volume, number: u64) -> Result<Chunk, ReadError> {
        let unmapped = ReadError::Unmapped { offset: number.saturating_mul(self.chunk) };
        let (bevy, n) = (number / self.per_bevy, number % self.per_bevy);
        let name = format!("{}/{bevy:08}", self.urn);
        let member = volume.member(&name).ok_or(unmapped)?;
        let index = if self.old { format!("{name}/index") } else { format!("{name}.index") };
        let index = volume.member(&index).ok_or(unmapped)?;
        let (at, len) = if self.old {
            let mut end = [0; 4];
            entry(input, index, n, &mut end)?;
            let end = u64::from(u32::from_le_bytes(end));
            let mut first = [0; 4];
            entry(input, index, 0, &mut first)?;
            if first == [0; 4] {
                // A variant whose index contains the start offsets of chunks.
                let mut next = [0; 4];
                let stop = match entry(input, index, n + 1, &mut next) {
                    Ok(()) => u64::from(u32::from_le_bytes(next)),
                    Err(_) => member.len,
                };
                (end, stop.checked_sub(end))
            } else {
                let mut before = [0; 4];
                if n > 0 {
                    entry(input, index, n - 1, &mut before)?;
                }
                let start = u64::from(u32::from_le_bytes(before));
                (start, end.checked_sub(start))
            }
        } else {
            let mut entry_bytes = [0; 12];
            entry(input, index, n, &mut entry_bytes)?;
            (le64(&entry_bytes, 0), Some(u64::from(le32(&entry_bytes, 8))))
        };
        let corrupt = ReadError::Corrupt { at: index.at };
        let len =
            len.filter(|len| at.checked_add(*len).is_some_and(|end| end <= member.len)).ok_or(corrupt)?;
        Ok(Chunk { member, at, len })
    }

    /// Finds the chunk around `offset` of the stream. Returns its range in the stream and the location of its data.
    pub(super) fn map(
        &self,
        input: &Input,
        volume: &Volume,
        offset: u64,
    ) -> Result<(Range<u64>, Origin), ReadError> {
        let number = offset / self.chunk;
        let start = number * self.chunk;
        let range = start..start.saturating_add(self.chunk).min(self.size);
        let Chunk { member, at, len } = self.find(input, volume, number)?;
        let (file, at) = (member.file, member.at + at);
        let corrupt = ReadError::Corrupt { at };
        let chunk_len = range.end - range.start;
        // Whether the hash of a last, shorter chunk includes its padding is not known.
        let is_whole = chunk_len == self.chunk;
        let sum = if is_whole { self.block_sum(input, volume, number)? } else { Sum::None };
        if len == self.chunk || self.codec == Codec::Stored {
            // The last chunk may or may not be padded.
            if len != self.chunk && len != chunk_len {
                return Err(corrupt);
            }
            if sum == Sum::None {
                return Ok((range, Origin::Stored { file, at }));
            }
            let len = u32::try_from(len).map_err(|_| corrupt)?;
            let (codec, skip, uncompressed) = (Codec::Stored, 0, len);
            let chunk = CompressedChunk { file, at, len, skip, uncompressed, codec, sum };
            return Ok((range, Origin::Compressed(chunk)));
        }
        let (at, len) = (at + u64::from(self.prefix), len.checked_sub(self.prefix.into()).ok_or(corrupt)?);
        let len = u32::try_from(len).ok().filter(|len| (1..=2 * MAX_CHUNK).contains(len)).ok_or(corrupt)?;
        let mut uncompressed = u32::try_from(self.chunk).map_err(|_| corrupt)?;
        let mut codec = self.codec;
        if chunk_len < self.chunk {
            // The last chunk was compressed with or without padding.
            match codec {
                Codec::Snappy => {
                    let mut head = vec![0; len.min(8) as usize];
                    input.read_exact_at(file, &mut head, at)?;
                    let len =
                        snappy_len(&head).filter(|len| u64::from(*len) >= chunk_len && *len <= uncompressed);
                    uncompressed = len.ok_or(corrupt)?;
                }
                Codec::Lz4 => {
                    let mut block = vec![0; len as usize];
                    input.read_exact_at(file, &mut block, at)?;
                    let len = lz4_len(&block).filter(|len| (chunk_len..=self.chunk).contains(len));
                    uncompressed = len.and_then(|len| u32::try_from(len).ok()).ok_or(corrupt)?;
                }
                Codec::ZlibPadded => codec = Codec::ZlibUnended,
                _ => {}
            }
            if matches!(codec, Codec::ZlibUnended | Codec::DeflateUnended) {
                uncompressed = u32::try_from(chunk_len).map_err(|_| corrupt)?;
            }
        }
        Ok((range, Origin::Compressed(CompressedChunk { file, at, len, skip: 0, uncompressed, codec, sum })))
    }
}

/// Returns the uncompressed length stored in a snappy block: seven bits of each byte, the lowest first.
fn snappy_len(head: &[u8]) -> Option<u32> {
    let mut len = 0u64;
    for (n, byte) in head.iter().take(5).enumerate() {
        len |= u64::from(byte & 0x7F) << (7 * n);
        if byte & 0x80 == 0 {
            return u32::try_from(len).ok();
        }
    }
    None
}
