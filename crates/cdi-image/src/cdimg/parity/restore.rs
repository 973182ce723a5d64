//! Restores damaged blocks from parity. All blocks of a group are restored together, and kept.

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use cdi_base::error::Error;
use cdi_base::units::index;
use cdi_base::workers::lock;
use lru::LruCache;
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::FromBytes;

use super::code;
use super::layout::*;
use crate::input::ReadAt;

/// The number of blocks of checksums that are kept.
const SUMS_KEPT: NonZero<usize> = NonZero::new(1024).expect("not 0");
/// The number of restored blocks that are kept: 256 MiB. All that can be lost of a span fits, so that no group is decoded
/// twice while a disk is read from its start to its end.
const BLOCKS_KEPT: NonZero<usize> = NonZero::new(MAX_RESTORED).expect("not 0");
/// The number of groups that cannot be restored that are remembered.
const FAILED_KEPT: NonZero<usize> = NonZero::new(4096).expect("not 0");

/// A block of the file, padded with zeros.
pub(super) type Block = [u8; BLOCK_LEN];

/// Restores blocks of a file.
pub(super) struct Restorer {
    source: Arc<dyn ReadAt>,
    pub(super) description: Description,
    /// The number of reads of the file that have failed. What they cost may be there again later, so it is not remembered.
    failed_reads: AtomicU64,
    /// Locked while a group is decoded: who waits for it is likely to want blocks of the same group.
    state: Mutex<State>,
}

struct State {
    sums: LruCache<u64, Option<Box<SumsBlock>>>,
    restored: LruCache<u64, Box<Block>>,
    failed: LruCache<(u64, u64), ()>,
}

/// What became of a group that was to be restored.
pub(super) enum Outcome {
    /// All its data blocks are as they were.
    Restored,
    /// More blocks are lost than it has recovery blocks left.
    TooManyLost,
}

impl Restorer {
    pub(super) fn new(source: Arc<dyn ReadAt>, description: Description) -> Restorer {
        let state = State {
            sums: LruCache::new(SUMS_KEPT),
            restored: LruCache::new(BLOCKS_KEPT),
            failed: LruCache::new(FAILED_KEPT),
        };
        Restorer { source, description, failed_reads: AtomicU64::new(0), state: Mutex::new(state) }
    }

    /// Reads data block `number` as it was. Returns whether it had to be restored; None if it cannot be.
    pub(super) fn block(&self, number: u64, out: &mut Block) -> Option<bool> {
        let state = &mut *lock(&self.state);
        if let Some(block) = state.restored.get(&number) {
            out.copy_from_slice(&**block);
            return Some(true);
        }
        let span = self.description.span_of(number);
        let within = number - span.first;
        if self.is_intact(&mut state.sums, &span, within, out) {
            return Some(false);
        }
        let group = (span.number, within % span.groups);
        if state.failed.contains(&group) {
            return None;
        }
        let failed_before = self.failed_reads.load(Ordering::Relaxed);
        match self.restore(state, &span, group.1) {
            Outcome::Restored => {
                out.copy_from_slice(&**state.restored.get(&number)?);
                Some(true)
            }
            Outcome::TooManyLost => {
                if self.failed_reads.load(Ordering::Relaxed) == failed_before {
                    state.failed.put(group, ());
                }
                None
            }
        }
    }

    /// Reads data block `within` of a span, and returns whether its checksum is known and right.
    fn is_intact(&self, sums: &mut Sums, span: &Span, within: u64, out: &mut Block) -> bool {
        self.read_data(span, within, 0, out)
            && self.sum(sums, span, within).is_some_and(|sum| sum == xxh3_64(out))
    }

    /// Restores all lost data blocks of a group into the cache.
    fn restore(&self, state: &mut State, span: &Span, group: u64) -> Outcome {
        let mut block = [0; BLOCK_LEN];
        let mut lost = Vec::new();
        for n in 0..span.data {
            if let Some(within) = span.data_block(group, n)
                && !self.is_intact(&mut state.sums, span, within, &mut block)
            {
                lost.push(n);
                if lost.len() as u64 > span.recovery {
                    return Outcome::TooManyLost;
                }
            }
        }
        let mut recovery = Vec::new();
        for n in 0..span.recovery {
            if recovery.len() == lost.len() {
                break;
            }
            if self.is_recovery_intact(&mut state.sums, span, group, n, &mut block) {
                recovery.push(n);
            }
        }
        if recovery.len() < lost.len() {
            return Outcome::TooManyLost;
        }
        let decoded = code::decode(span, &lost, &recovery, |n, is_recovery, start, part| {
            match (is_recovery, span.data_block(group, n)) {
                (true, _) => {
                    let at = self.description.slot_at(span.recovery_slot(group, n));
                    self.fill(at + start as u64, part)
                }
                (false, Some(within)) => self.read_data(span, within, start, part),
                (false, None) => {
                    part.fill(0);
                    true
                }
            }
        });
        let Some(decoded) = decoded else { return Outcome::TooManyLost };
        for (n, bytes) in lost.iter().zip(decoded) {
            let (Some(within), Ok(block)) = (span.data_block(group, *n), bytes.into_boxed_slice().try_into())
            else {
                return Outcome::TooManyLost;
            };
            let block: Box<Block> = block;
            // The file may have changed meanwhile.
            if self.sum(&mut state.sums, span, within).is_some_and(|sum| sum != xxh3_64(&*block)) {
                return Outcome::TooManyLost;
            }
            state.restored.put(span.first + within, block);
        }
        Outcome::Restored
    }

    /// Checks recovery block `n` of a group, using `block` for its contents.
    fn is_recovery_intact(
        &self,
        sums: &mut Sums,
        span: &Span,
        group: u64,
        n: u64,
        block: &mut Block,
    ) -> bool {
        let at = self.description.slot_at(span.recovery_slot(group, n));
        let number = span.blocks + n * span.groups + group;
        self.fill(at, block) && self.sum(sums, span, number).is_some_and(|sum| sum == xxh3_64(block))
    }

    /// Reads a part of data block `within` of a span, from byte `start` of the block on.
    fn read_data(&self, span: &Span, within: u64, start: usize, part: &mut [u8]) -> bool {
        let bytes = self.description.bytes_of(span.first + within);
        let at = bytes.start + start as u64;
        let len = index(bytes.end.saturating_sub(at)).min(part.len());
        part[len..].fill(0);
        self.fill(at, &mut part[..len])
    }

    /// Fills `buf` from the file. Returns whether it could be read.
    pub(super) fn fill(&self, at: u64, buf: &mut [u8]) -> bool {
        let mut done = 0;
        while done < buf.len() {
            match self.source.read_at(&mut buf[done..], at + done as u64) {
                Ok(0) => return false,
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.failed_reads.fetch_add(1, Ordering::Relaxed);
                    return false;
                }
            }
        }
        true
    }

    /// Returns the checksum of block `number` of a span: its data blocks, then its recovery blocks.
    fn sum(&self, sums: &mut Sums, span: &Span, number: u64) -> Option<u64> {
        let n = number / SUMS;
        let slot = span.sums_slot(0, n);
        let sum = |block: &SumsBlock| block.sums[index(number % SUMS)].get();
        if let Some(block) = sums.get(&slot) {
            return block.as_deref().map(sum);
        }
        let failed_before = self.failed_reads.load(Ordering::Relaxed);
        let block = (0..COPIES).find_map(|copy| self.sums_block(span, copy, n));
        let found = block.as_deref().map(sum);
        if found.is_some() || self.failed_reads.load(Ordering::Relaxed) == failed_before {
            sums.put(slot, block);
        }
        found
    }

    /// Returns a copy of a block of checksums, if it is intact.
    pub(super) fn sums_block(&self, span: &Span, copy: u64, n: u64) -> Option<Box<SumsBlock>> {
        let mut bytes = vec![0; BLOCK_LEN];
        let at = self.description.slot_at(span.sums_slot(copy, n));
        let read = self.fill(at, &mut bytes);
        let block = SumsBlock::read_from_bytes(&bytes).ok().filter(|_| read)?;
        block.is_valid(&self.description, span.sums_slot(0, n)).then(|| Box::new(block))
    }

    /// Counts what is damaged of a span, and passes the numbers of its damaged data blocks to `damaged`, in order.
    /// `check_cancelled` is called often; its error stops the survey.
    pub(super) fn survey(
        &self,
        span: &Span,
        damaged: &mut dyn FnMut(u64),
        check_cancelled: &mut dyn FnMut() -> Result<(), Error>,
    ) -> Result<Survey, Error> {
        // A cache of its own, so that readers are not held up.
        let mut sums = LruCache::new(SUMS_KEPT);
        let mut block = [0; BLOCK_LEN];
        let mut lost = vec![0u64; index(span.groups)];
        for within in 0..span.blocks {
            if within % 256 == 0 {
                check_cancelled()?;
            }
            if !self.is_intact(&mut sums, span, within, &mut block) {
                lost[index(within % span.groups)] += 1;
                damaged(span.first + within);
            }
        }
        let mut survey = Survey::default();
        let mut left = vec![0u64; index(span.groups)];
        for n in 0..span.recovery {
            check_cancelled()?;
            for group in 0..span.groups {
                let intact = self.is_recovery_intact(&mut sums, span, group, n, &mut block);
                left[index(group)] += u64::from(intact);
                survey.damaged += u64::from(!intact);
            }
        }
        for (copy, n) in (0..COPIES).flat_map(|copy| (0..span.sums_blocks()).map(move |n| (copy, n))) {
            survey.damaged += u64::from(self.sums_block(span, copy, n).is_none());
        }
        survey.hopeless = lost.iter().zip(&left).map(|(lost, left)| lost > left).collect();
        Ok(survey)
    }
}

type Sums = LruCache<u64, Option<Box<SumsBlock>>>;

/// What is damaged of the parity of a span.
#[derive(Default)]
pub(super) struct Survey {
    /// The number of damaged recovery blocks and blocks of checksums.
    pub(super) damaged: u64,
    /// For each group, whether more blocks are lost than can be restored.
    pub(super) hopeless: Vec<bool>,
}
