//! A file with parity, as its readers see it: the bytes that are there, and on request those that belong there.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cdi_base::error::{Error, Flaw};
use cdi_base::units::index;
use zerocopy::IntoBytes;

use super::super::layout::*;
use super::super::scan::{Step, Walk};
use super::super::superblock::{check, check_disk, choose, is_valid_in, superblocks};
use super::check::check as check_blocks;
use super::find::{Effort, find};
use super::layout::*;
use super::restore::Restorer;
use crate::input::parity::{Parity, ParitySummary};
use crate::input::{Input, ReadAt};

/// What an image is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To read it.
    Read,
    /// To save what is left of it.
    Repair,
}

/// Returns the file of an image as it is with the help of its parity, if it has any; otherwise `input` as it is.
///
/// If the file is truncated, or none of its superblocks is left, or if it is to be repaired, it is the file that the
/// parity was made for, without the parity; unless something was added after the parity.
pub fn with_parity(input: Input, purpose: Purpose) -> Result<Input, Error> {
    let found = superblocks(&input);
    let slots = [0, 1].map(|slot| found[slot].1.filter(|s| is_valid_in(slot, s)));
    let chosen = choose(&input, &mut Vec::new()).and_then(|s| check(&s, &input).map(|()| s));
    let known = || slots.iter().flatten().chain(&chosen);
    // The superblock that refers to the parity may be lost, but not replaced by another one.
    let is_lost = slots.iter().any(Option::is_none);
    if !is_lost && known().all(|s| s.may_ignore.get() & HAS_PARITY == 0) {
        return Ok(input);
    }
    let effort = match purpose {
        Purpose::Read => Effort::NearEnd,
        Purpose::Repair => Effort::Everywhere,
    };
    let known_blocks: Vec<Superblock> = known().copied().collect();
    let Some(description) = find(&input, &known_blocks, effort) else { return Ok(input) };
    let protected = &description.superblock;
    // Parity itself took one generation.
    let is_last = known().all(|s| s.generation.get() <= protected.generation.get().saturating_add(1));
    let whole = is_last
        && (chosen.is_err() || purpose == Purpose::Repair)
        && check_disk(protected).is_ok()
        && !has_more(&input, &description)?;
    let source = input.source();
    let view = View {
        len: if whole { description.end.get() } else { input.len() },
        superblock: whole.then_some(*protected),
        path: input.path().to_owned(),
        restorer: Restorer::new(Arc::clone(&source), description),
        source,
        is_logged: AtomicBool::new(false),
        reads: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
    };
    let name = input.name().to_owned();
    input.within(Arc::new(view), &name)
}

/// Returns whether records about the disk follow the parity: they were added later, and it is not the superblocks alone,
/// which may be lost, that tell of them.
fn has_more(input: &Input, description: &Description) -> Result<bool, Error> {
    let salt = description.superblock.salt.get();
    let mut walk = Walk::new(input, salt, description.file_end()..input.len());
    while let Some(step) = walk.step()? {
        let kind = match step {
            Step::Header(_, header) => RecordType::from_number(header.kind),
            _ => continue,
        };
        use RecordType::{Data, Fill, Map, Metadata, Same};
        if matches!(kind, Some(Data | Fill | Same | Map | Metadata)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A file with parity.
struct View {
    source: Arc<dyn ReadAt>,
    restorer: Restorer,
    /// The length that the file has for readers, in bytes.
    len: u64,
    /// Set if the file is that which the parity was made for: the superblock that it had.
    superblock: Option<Superblock>,
    /// For messages.
    path: PathBuf,
    is_logged: AtomicBool,
    reads: AtomicU64,
    bytes: AtomicU64,
}

impl ReadAt for View {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let len = index(self.len.saturating_sub(at).min(buf.len() as u64));
        let buf = &mut buf[..len];
        let Some(superblock) = self.superblock.as_ref().filter(|_| at < RECORDS_AT) else {
            return self.source.read_at(buf, at);
        };
        // Before the records there is nothing but the superblocks.
        let len = index((RECORDS_AT - at).min(buf.len() as u64));
        let (slot, bytes) = (SUPERBLOCK_AT[index(superblock.generation.get() % 2)], superblock.as_bytes());
        for (byte, at) in buf[..len].iter_mut().zip(at..) {
            let within = at.checked_sub(slot).map_or(usize::MAX, index);
            *byte = bytes.get(within).copied().unwrap_or(0);
        }
        Ok(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn parity(&self) -> Option<&dyn Parity> {
        Some(self)
    }
}

impl Parity for View {
    fn restore(&self, buf: &mut [u8], at: u64) -> bool {
        let description = &self.restorer.description;
        let end = at.saturating_add(buf.len() as u64);
        if at < RECORDS_AT || end > description.end.get() || buf.is_empty() {
            return false;
        }
        let mut block = [0; BLOCK_LEN];
        let mut restored = 0;
        for number in (at - RECORDS_AT) / BLOCK..=(end - 1 - RECORDS_AT) / BLOCK {
            let bytes = description.bytes_of(number);
            let (from, to) = (bytes.start.max(at), bytes.end.min(end));
            match self.restorer.block(number, &mut block) {
                None => return false,
                Some(was_damaged) => restored += if was_damaged { to - from } else { 0 },
            }
            buf[index(from - at)..index(to - at)]
                .copy_from_slice(&block[index(from - bytes.start)..index(to - bytes.start)]);
        }
        if restored > 0 {
            self.reads.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(restored, Ordering::Relaxed);
            if !self.is_logged.swap(true, Ordering::Relaxed) {
                log::warn!(
                    "{}: the file is damaged at byte {at}, and is restored from parity as it is read",
                    self.path.display()
                );
            }
        }
        true
    }

    fn summary(&self) -> ParitySummary {
        let description = &self.restorer.description;
        ParitySummary {
            hundredths: description.hundredths.get(),
            covered_end: description.end.get(),
            parity_bytes: description.file_end() - description.end.get(),
            is_earlier: self.superblock.is_some(),
            restored_reads: self.reads.load(Ordering::Relaxed),
            restored_bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    fn check(
        &self,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut dyn FnMut() -> Result<(), Error>,
    ) -> Result<(), Error> {
        check_blocks(&self.restorer, report, check_cancelled)
    }
}
