//! Computes the hashes of a disk (docs/FORMAT.md, "Hashes") from its bytes in order.

use std::ops::Range;

use cdi_base::error::{Error, ReadError};
use cdi_base::printable::hex;
use cdi_base::units::index;
use cdi_base::workers;
use cdi_image::disk::Disk;
use cdi_image::disk::runs::{Run, RunKind, around_marks, runs};
use cdi_image::metadata::{DiskHashes, Metadata};
use cdi_image::stored_hashes::{HashKind, Hasher, ZERO_FILLED};

use super::hash_check::{Checked, HashChecks};

/// The hashes of a disk, over the bytes added so far.
pub struct Hashes {
    rescued: Option<blake3::Hasher>,
    /// Hashes of the disk with zeros in place of missing bytes.
    filled: Vec<(HashKind, Hasher)>,
    /// The current run of bytes that the image holds.
    run: Range<u64>,
}

/// Called for each run, with the error if it could not be read. An error from it cancels the operation.
pub type Each<'a> = dyn FnMut(&Run, Option<ReadError>) -> Result<(), Error> + 'a;

/// The maximum number of zeros hashed in one piece, in bytes. The user can interrupt between two pieces.
const ZEROS_AT_ONCE: u64 = 64 << 20;

/// Reads all of `disk` on all cores, adds it to `hashes`, and checks the hashes that its image stores. `each` is
/// called for each run in order, and may cancel the operation. A run that cannot be read is hashed as missing.
pub fn hash(disk: &Disk, mut hashes: Hashes, each: &mut Each<'_>) -> Result<(Hashes, Vec<Checked>), Error> {
    // What a server does not give for now is not lost.
    let all = disk.input().require_all();
    let is_free = hashes.is_free() && disk.image().stored_hashes().is_empty();
    let mut stored_hashes = HashChecks::new(disk.image().stored_hashes());
    let read = |(): &mut (), run: Run| {
        // Read only runs that the image holds: within a missing run even a read of no bytes would fail.
        if run.kind != RunKind::Present {
            return (run, Ok(Vec::new()));
        }
        let mut bytes = vec![0; index(run.disk.end - run.disk.start)];
        let result = disk.read_at(&mut bytes, run.disk.start);
        (run, result.map(|()| bytes))
    };
    let mut add = |(run, result): (Run, Result<Vec<u8>, ReadError>)| {
        let len = run.disk.end - run.disk.start;
        if result.is_err() {
            all.check()?;
        }
        match (&result, run.kind) {
            (Ok(bytes), RunKind::Present) => {
                hashes.held(bytes);
                stored_hashes.bytes(run.disk.start, bytes);
            }
            (Ok(_), RunKind::Zeros) if is_free => {}
            (Ok(_), RunKind::Zeros) => {
                let mut at = run.disk.start;
                while at < run.disk.end {
                    let end = run.disk.end.min(at + ZEROS_AT_ONCE);
                    hashes.fill(&[0; 8], end - at);
                    stored_hashes.zeros(at, end - at);
                    each(&Run { disk: at..end, kind: run.kind }, None)?;
                    at = end;
                }
                return Ok(());
            }
            _ => {
                hashes.missing(len);
                stored_hashes.zeros(run.disk.start, len);
            }
        }
        each(&run, result.err())
    };
    workers::ordered(
        workers::cores(),
        runs(disk),
        || (),
        read,
        |(run, result)| {
            if let Err(ReadError::Bad { .. }) = result {
                return around_marks(disk, &run).into_iter().try_for_each(|part| add(read(&mut (), part)));
            }
            add((run, result))
        },
    )?;
    Ok((hashes, stored_hashes.finish()))
}

const ZEROS: &[u8] = &[0; 64 << 10];

impl Hashes {
    /// Starts the hashes of a new image: BLAKE3 of the rescued data, and SHA-256 and `others` of the zero-filled disk.
    pub fn new(others: &[HashKind]) -> Hashes {
        let mut kinds = vec![HashKind::Sha256];
        others.iter().for_each(|kind| {
            if !kinds.contains(kind) {
                kinds.push(*kind);
            }
        });
        Hashes::of(true, kinds)
    }

    /// Starts the hashes that `metadata` contains, to compare them, and `others`.
    pub fn wanted(metadata: &Metadata, others: &[HashKind]) -> Hashes {
        let is = |kind: &HashKind| metadata.zero_filled(*kind).is_some() || others.contains(kind);
        Hashes::of(metadata.blake3_rescued.is_some(), ZERO_FILLED.into_iter().filter(is).collect())
    }

    fn of(rescued: bool, kinds: Vec<HashKind>) -> Hashes {
        let filled = kinds.into_iter().map(|kind| (kind, Hasher::new(kind))).collect();
        Hashes { rescued: rescued.then(blake3::Hasher::new), filled, run: 0..0 }
    }

    /// Checks whether there is nothing to compute.
    fn is_free(&self) -> bool {
        self.rescued.is_none() && self.filled.is_empty()
    }

    /// Returns the number of bytes of the disk added so far.
    pub fn at(&self) -> u64 {
        self.run.end
    }

    /// Adds the next bytes of the disk, which the image holds.
    pub fn held(&mut self, bytes: &[u8]) {
        if let Some(rescued) = &mut self.rescued {
            rescued.update(bytes);
        }
        self.filled.iter_mut().for_each(|(_, hasher)| hasher.update(bytes));
        self.run.end += bytes.len() as u64;
    }

    /// Adds the next `len` bytes of the disk: `pattern` repeated, which the image holds.
    pub fn fill(&mut self, pattern: &[u8; 8], len: u64) {
        let other: Vec<u8>;
        let block = if *pattern == [0; 8] {
            ZEROS
        } else {
            other = pattern.repeat(ZEROS.len() / 8);
            &other
        };
        let mut left = len;
        while left > 0 {
            let part = left.min(block.len() as u64);
            self.held(&block[..index(part)]);
            left -= part;
        }
    }

    /// Adds the next `len` bytes of the disk, which are missing.
    pub fn missing(&mut self, len: u64) {
        self.end_run();
        self.run = self.run.end + len..self.run.end + len;
        let mut left = if self.filled.is_empty() { 0 } else { len };
        while left > 0 {
            let part = left.min(ZEROS.len() as u64);
            self.filled.iter_mut().for_each(|(_, hasher)| hasher.update(&ZEROS[..index(part)]));
            left -= part;
        }
    }

    /// Ends a run that the image holds: its start and length in bytes are hashed too.
    fn end_run(&mut self) {
        if let Some(rescued) = self.rescued.as_mut().filter(|_| !self.run.is_empty()) {
            rescued.update(&self.run.start.to_le_bytes());
            rescued.update(&(self.run.end - self.run.start).to_le_bytes());
        }
    }

    /// Returns the hashes.
    pub fn finish(mut self) -> DiskHashes {
        self.end_run();
        DiskHashes {
            blake3_rescued: self.rescued.map(|rescued| rescued.finalize().to_hex().to_string()),
            zero_filled: self
                .filled
                .into_iter()
                .map(|(kind, hasher)| (kind, hex(&hasher.finish())))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn blake3_covers_each_run_followed_by_its_position() {
        let mut hashes = Hashes::new(&[HashKind::Md5]);
        hashes.held(b"ab");
        hashes.held(b"cdefgh");
        hashes.missing(8);
        hashes.fill(b"01234567", 16);
        let mut by_hand = blake3::Hasher::new();
        by_hand.update(b"abcdefgh");
        by_hand.update(&[0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
        by_hand.update(b"0123456701234567");
        by_hand.update(&[16, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0]);
        let sha = Sha256::digest(b"abcdefgh\0\0\0\0\0\0\0\x000123456701234567");
        let results = hashes.finish();
        assert_eq!(results.blake3_rescued, Some(by_hand.finalize().to_hex().to_string()));
        assert_eq!(results.of(HashKind::Sha256), Some(hex(&sha).as_str()));
        let mut metadata = Metadata::default();
        results.clone().store(&mut metadata);
        assert!(results.differences(&metadata).is_empty() && metadata.zero_filled(HashKind::Md5).is_some());
        metadata.set_zero_filled(HashKind::Md5, Some("00".into()));
        assert_eq!(results.differences(&metadata).len(), 1);
    }
}
