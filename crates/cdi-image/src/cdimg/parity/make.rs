//! Makes parity, and appends it to a finished image.
//!
//! Nothing refers to it before the checkpoint at its end: if the program is killed before that, the image is what it was,
//! with bytes after its end that mean nothing.

use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

use cdi_base::advice::Advice;
use cdi_base::error::{Error, ReadError};
use cdi_base::units::index;
use cdi_base::workers::{lock, ordered};
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromZeros, IntoBytes};

use super::super::layout::*;
use super::super::record::{Head, encode};
use super::super::store::Store;
use super::super::superblock::{check, choose, is_valid_in, superblocks};
use super::code::Encoder;
use super::layout::*;
use crate::codec::Codec;
use crate::input::Input;

/// The maximum number of threads: each takes about 20 MiB.
const MAX_THREADS: usize = 8;

/// Parity that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// The number of bytes of the file that are covered.
    pub covered_bytes: u64,
    /// The number of bytes that were added.
    pub parity_bytes: u64,
}

/// Returns whether the image in `input` can be opened and is finished.
pub fn is_finished(input: &Input) -> bool {
    choose(input, &mut Vec::new()).is_ok_and(|superblock| superblock.state == STATE_COMPLETE)
}

/// Returns the superblock of a finished image that parity can be made for.
pub fn protectable(input: &Input) -> Result<Superblock, Error> {
    let superblock = choose(input, &mut Vec::new())?;
    check(&superblock, input)?;
    let slot = index(superblock.generation.get() % 2);
    if !superblocks(input)[slot].1.is_some_and(|s| is_valid_in(slot, &s)) {
        return Err(Error::bad_image("the newest superblock is damaged").hint(Advice::Repair));
    }
    if superblock.state != STATE_COMPLETE {
        let what = "the image is unfinished: parity can be added once it is finished";
        return Err(Error::bad_image(what).hint(Advice::Continue));
    }
    Ok(superblock)
}

/// Makes parity of `hundredths` hundredths of a percent for the image in `input`, whose superblock is `superblock` and
/// which is also in `store`, and appends it. `path` is for messages. `step` is called with the number of bytes done since
/// its last call; an error from it stops the work, and the image is what it was.
pub fn append(
    store: Box<dyn Store>,
    input: &Input,
    superblock: &Superblock,
    path: &Path,
    hundredths: u32,
    threads: usize,
    step: &mut dyn FnMut(u64) -> Result<(), Error>,
) -> Result<Made, Error> {
    let description = Description::new(superblock, hundredths);
    let store = Mutex::new(store);
    let appender = Appender { store: &store, input, path, description };
    let written = appender.write_all(threads.clamp(1, MAX_THREADS), step);
    let superblock = written.inspect_err(|_| {
        // If this fails, there are bytes after the end of the image, which mean nothing.
        let _ = lock(&store).cut(description.end.get());
    })?;
    // From here on, a superblock that refers to the parity may be in the file.
    let slot = index(superblock.generation.get() % 2);
    appender.write(superblock.as_bytes(), SUPERBLOCK_AT[slot])?;
    appender.sync()?;
    Ok(Made {
        covered_bytes: description.end.get(),
        parity_bytes: description.file_end() - description.end.get(),
    })
}

struct Appender<'a> {
    store: &'a Mutex<Box<dyn Store>>,
    input: &'a Input,
    path: &'a Path,
    description: Description,
}

/// An error while a group is encoded.
struct Failed(Error);

impl From<String> for Failed {
    fn from(what: String) -> Failed {
        Failed(Error::failed("cannot compute parity").because(what))
    }
}

impl Appender<'_> {
    /// Writes everything but the superblock, which it returns, and syncs.
    fn write_all(
        &self,
        threads: usize,
        step: &mut dyn FnMut(u64) -> Result<(), Error>,
    ) -> Result<Superblock, Error> {
        let description = &self.description;
        // What a run that was killed has left.
        lock(self.store)
            .cut(description.end.get())
            .map_err(|e| Error::io("cannot truncate the image", self.path, e))?;
        for span in (0..description.spans()).map(|n| description.span(n)) {
            self.append_span(&span, threads, step)?;
        }
        // A record's header has the checksum of all of it, so it comes last.
        let filler = vec![0; index(description.first_record() - description.end.get()) - HEADER_LEN];
        self.write_record(description.end.get(), &filler)?;
        for record in (0..description.records()).map(|n| description.record(n)) {
            step(0)?;
            self.finish_record(record)?;
        }
        let mut end = description.records_end();
        self.write_record(end, description.as_bytes())?;
        end += (HEADER_LEN + DESCRIPTION_LEN) as u64;
        let superblock = self.new_superblock()?;
        self.write(self.header(RecordType::Checkpoint, superblock.as_bytes()).as_bytes(), end)?;
        self.write(superblock.as_bytes(), end + HEADER_LEN as u64)?;
        self.sync()?;
        step(0)?;
        Ok(superblock)
    }

    /// Writes the recovery blocks and the checksums of a span.
    fn append_span(
        &self,
        span: &Span,
        threads: usize,
        step: &mut dyn FnMut(u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut sums = vec![U64::ZERO; index(span.blocks + span.recovery_blocks())];
        ordered(
            threads,
            0..span.groups,
            Encoder::default,
            |encoder, group| self.encode_group(encoder, span, group).map(|sums| (group, sums)),
            |encoded: Result<(u64, Vec<u64>), Error>| {
                let (group, of_group) = encoded?;
                // Block n of a group is n * groups + group, of the data as of the recovery blocks.
                let data = (0..span.data).map_while(|n| span.data_block(group, n));
                let recovery = (0..span.recovery).map(|n| span.blocks + n * span.groups + group);
                data.chain(recovery).zip(of_group).for_each(|(n, sum)| sums[index(n)] = U64::new(sum));
                step(span.data * BLOCK)
            },
        )?;
        for (n, sums) in sums.chunks(SUMS_LEN).enumerate() {
            let mut block = SumsBlock::new_zeroed();
            block.sums[..sums.len()].copy_from_slice(sums);
            block.parity = self.description.sum;
            block.slot = U64::new(span.sums_slot(0, n as u64));
            let block = block.sealed();
            for copy in 0..COPIES {
                self.write(block.as_bytes(), self.description.slot_at(span.sums_slot(copy, n as u64)))?;
            }
        }
        Ok(())
    }

    /// Writes the recovery blocks of a group. Returns the checksums of its data blocks, then of its recovery blocks.
    fn encode_group(&self, encoder: &mut Encoder, span: &Span, group: u64) -> Result<Vec<u64>, Error> {
        let mut sums = Vec::with_capacity(index(span.data + span.recovery));
        let mut block = [0; BLOCK_LEN];
        let encoded = encoder.encode(span, |n, start, part| {
            let Some(within) = span.data_block(group, n) else {
                part.fill(0);
                return Ok(());
            };
            let bytes = self.description.bytes_of(span.first + within);
            let read = |buf: &mut [u8], at| {
                let len = index(bytes.end.saturating_sub(at)).min(buf.len());
                buf[len..].fill(0);
                if len == 0 {
                    return Ok(());
                }
                self.input.read_exact_at(Input::MAIN, &mut buf[..len], at).map_err(|e| self.unreadable(at, e))
            };
            // The whole block is read once, for its checksum.
            if start == 0 {
                read(&mut block, bytes.start)?;
                sums.push(xxh3_64(&block));
                part.copy_from_slice(&block[..part.len()]);
                return Ok(());
            }
            read(part, bytes.start + start as u64)
        });
        let recovery = encoded.map_err(|Failed(e)| e)?;
        for (n, block) in recovery.chunks(BLOCK_LEN).enumerate() {
            sums.push(xxh3_64(block));
            self.write(block, self.description.slot_at(span.recovery_slot(group, n as u64)))?;
        }
        Ok(sums)
    }

    fn unreadable(&self, at: u64, e: ReadError) -> Failed {
        Failed(Error::failed(format!("cannot read byte {at}")).at(self.path).because(e))
    }

    /// Writes header and description of a record whose blocks have been written.
    fn finish_record(&self, record: Range<u64>) -> Result<(), Error> {
        let mut payload = vec![0; index(record.end - record.start) - HEADER_LEN];
        let blocks = BLOCK_LEN - HEADER_LEN;
        lock(self.store)
            .read_exact_at(&mut payload[blocks..], record.start + BLOCK)
            .map_err(|e| Error::io("cannot read back the image", self.path, e))?;
        payload[..DESCRIPTION_LEN].copy_from_slice(self.description.as_bytes());
        self.write(self.header(RecordType::Parity, &payload).as_bytes(), record.start)?;
        self.write(&payload[..blocks], record.start + HEADER_LEN as u64)
    }

    fn header(&self, kind: RecordType, payload: &[u8]) -> RecordHeader {
        let superblock = &self.description.superblock;
        let disk_len = if kind == RecordType::Checkpoint { superblock.disk_size.get() } else { 0 };
        let uncompressed = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let head = Head { kind, codec: Codec::Stored, uncompressed, disk_at: 0, disk_len, detail: 0 };
        encode(head, superblock.salt.get(), superblock.epoch.get(), payload)
    }

    fn write_record(&self, at: u64, payload: &[u8]) -> Result<(), Error> {
        self.write(self.header(RecordType::Parity, payload).as_bytes(), at)?;
        self.write(payload, at + HEADER_LEN as u64)
    }

    /// Returns the superblock that is next.
    fn new_superblock(&self) -> Result<Superblock, Error> {
        let old = &self.description.superblock;
        let generation = old.generation.get().checked_add(1).ok_or_else(|| {
            let what = "the image has reached the maximum number of checkpoints";
            Error::failed(what).at(self.path).hint(Advice::Compact)
        })?;
        let new = Superblock {
            generation: U64::new(generation),
            committed_end: U64::new(self.description.file_end()),
            may_ignore: U64::new(old.may_ignore.get() | HAS_PARITY),
            ..*old
        };
        Ok(new.sealed())
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<(), Error> {
        lock(self.store)
            .write_all_at(bytes, at)
            .map_err(|e| Error::io("cannot write the image", self.path, e))
    }

    fn sync(&self) -> Result<(), Error> {
        lock(self.store).sync().map_err(|e| Error::io("cannot sync the image to disk", self.path, e))
    }
}
