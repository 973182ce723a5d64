//! Computes the hashes of a disk (docs/FORMAT.md, "Hashes") from its bytes in order.

use std::ops::Range;
use std::sync::Arc;

use cdi_base::error::{Error, ReadError};
use cdi_base::printable::hex;
use cdi_base::units::index;
use cdi_base::workers;
use cdi_base::workers::Background;
use cdi_image::disk::Disk;
use cdi_image::disk::runs::{Run, RunKind, around_marks, runs};
use cdi_image::metadata::{DiskHashes, Metadata};
use cdi_image::stored_hashes::{HashKind, Hasher, ZERO_FILLED};

use super::hash_check::{Checked, HashChecks};

/// Bytes of the disk, which the hashes read while others do.
pub type Held = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// The hashes of a disk, over the bytes added so far. Each is computed on a thread of its own.
pub struct Hashes {
    rescued: Option<Background<Hasher>>,
    /// Hashes of the disk with zeros in place of missing bytes.
    filled: Vec<(HashKind, Background<Hasher>)>,
    /// The current run of bytes that the image holds.
    run: Range<u64>,
}

/// How many parts of the disk wait for the threads: a part is 1 MiB, as a rule.
const WAITING: usize = 8;

/// Called for each run, with the error if it could not be read. An error from it cancels the operation.
pub type Each<'a> = dyn FnMut(&Run, Option<ReadError>) -> Result<(), Error> + 'a;

/// The maximum number of zeros hashed in one piece, in bytes. The user can interrupt between two pieces.
const ZEROS_AT_ONCE: u64 = 8 << 20;

/// Reads all of `disk` on all cores, adds it to `hashes`, and checks the hashes that its image stores. `each` is
/// called for each run in order, and may cancel the operation. A run that cannot be read is hashed as missing.
pub fn hash(disk: &Disk, mut hashes: Hashes, each: &mut Each<'_>) -> Result<(Hashes, Vec<Checked>), Error> {
    let is_free = hashes.is_free() && disk.image().stored_hashes().is_empty();
    let mut stored_hashes = checks(disk);
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
        let error = result.as_ref().err().copied();
        match (result, run.kind) {
            (Ok(bytes), RunKind::Present) => {
                let (bytes, start): (Held, u64) = (Arc::new(bytes), run.disk.start);
                hashes.held(Arc::clone(&bytes));
                stored_hashes.run(move |hashes| hashes.bytes(start, (*bytes).as_ref()));
            }
            (Ok(_), RunKind::Zeros) if is_free => {}
            (Ok(_), RunKind::Zeros) => {
                let mut at = run.disk.start;
                while at < run.disk.end {
                    let end = run.disk.end.min(at + ZEROS_AT_ONCE);
                    hashes.fill(&[0; 8], end - at);
                    stored_hashes.run(move |hashes| hashes.zeros(at, end - at));
                    each(&Run { disk: at..end, kind: run.kind }, None)?;
                    at = end;
                }
                return Ok(());
            }
            _ => {
                hashes.missing(len);
                let start = run.disk.start;
                stored_hashes.run(move |hashes| hashes.zeros(start, len));
            }
        }
        each(&run, error)
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
    Ok((hashes, stored_hashes.finish().finish()))
}

/// Starts the verification of the hashes that the image of `disk` stores, on a thread of its own.
pub(crate) fn checks(disk: &Disk) -> Background<HashChecks> {
    Background::start("hash-checks", WAITING, || HashChecks::new(disk.image().stored_hashes()))
}

/// Hashes `len` bytes that repeat `pattern`.
fn repeat(hasher: &mut Hasher, pattern: [u8; 8], len: u64) {
    const ZEROS: &[u8] = &[0; 64 << 10];
    let other: Vec<u8>;
    let block = if pattern == [0; 8] {
        ZEROS
    } else {
        other = pattern.repeat(ZEROS.len() / 8);
        &other
    };
    let mut left = len;
    while left > 0 {
        let part = left.min(block.len() as u64);
        hasher.update(&block[..index(part)]);
        left -= part;
    }
}

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
        let start = |kind: HashKind| Background::start(kind.name(), WAITING, || Hasher::new(kind));
        let filled = kinds.into_iter().map(|kind| (kind, start(kind))).collect();
        Hashes { rescued: rescued.then(|| start(HashKind::Blake3)), filled, run: 0..0 }
    }

    /// Checks whether there is nothing to compute.
    fn is_free(&self) -> bool {
        self.rescued.is_none() && self.filled.is_empty()
    }

    /// Returns the number of bytes of the disk added so far.
    pub fn at(&self) -> u64 {
        self.run.end
    }

    fn each(&mut self) -> impl Iterator<Item = &mut Background<Hasher>> {
        self.rescued.iter_mut().chain(self.filled.iter_mut().map(|(_, hasher)| hasher))
    }

    /// Adds the next bytes of the disk, which the image holds.
    pub fn held(&mut self, bytes: Held) {
        self.run.end += (*bytes).as_ref().len() as u64;
        for hasher in self.each() {
            let bytes = Arc::clone(&bytes);
            hasher.run(move |hasher| hasher.update((*bytes).as_ref()));
        }
    }

    /// Adds the next `len` bytes of the disk: `pattern` repeated, which the image holds.
    pub fn fill(&mut self, pattern: &[u8; 8], len: u64) {
        self.run.end += len;
        let pattern = *pattern;
        self.each().for_each(|hasher| hasher.run(move |hasher| repeat(hasher, pattern, len)));
    }

    /// Adds the next `len` bytes of the disk, which are missing.
    pub fn missing(&mut self, len: u64) {
        self.end_run();
        self.run = self.run.end + len..self.run.end + len;
        for (_, hasher) in &mut self.filled {
            hasher.run(move |hasher| repeat(hasher, [0; 8], len));
        }
    }

    /// Ends a run that the image holds: its start and length in bytes are hashed too.
    fn end_run(&mut self) {
        let Range { start, end } = self.run;
        if let Some(rescued) = self.rescued.as_mut().filter(|_| start < end) {
            rescued.run(move |rescued| {
                rescued.update(&start.to_le_bytes());
                rescued.update(&(end - start).to_le_bytes());
            });
        }
    }

    /// Returns the hashes.
    pub fn finish(mut self) -> DiskHashes {
        self.end_run();
        DiskHashes {
            blake3_rescued: self.rescued.map(|rescued| hex(&rescued.finish().finish())),
            zero_filled: self
                .filled
                .into_iter()
                .map(|(kind, hasher)| (kind, hex(&hasher.finish().finish())))
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
        hashes.held(Arc::new(*b"ab"));
        hashes.held(Arc::new(*b"cdefgh"));
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
