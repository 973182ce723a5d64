//! Verifies the hashes that an image stores, by computing them again from the disk's bytes in order.

use cdi_base::printable::hex;
use cdi_base::units::index;
use cdi_image::disk::fill;
use cdi_image::stored_hashes::{Hasher, StoredHash};

/// A stored hash and the hash computed from the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The stored hash.
    pub stored: StoredHash,
    /// The hash computed from the disk's bytes, in hex.
    pub got: String,
}

impl Checked {
    /// Checks whether both hashes match.
    pub fn matches(&self) -> bool {
        self.got == hex(&self.stored.value)
    }
}

impl std::fmt::Display for Checked {
    /// Writes the message for a mismatch.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let StoredHash { of, kind, value, .. } = &self.stored;
        let (kind, got, value) = (kind.name(), &self.got, hex(value));
        write!(
            f,
            "the {kind} of {of} is {got}, but the stored {kind} is {value}: the data differs from what was imaged"
        )
    }
}

/// Verification of stored hashes in progress.
pub struct HashChecks {
    running: Vec<Running>,
}

struct Running {
    stored: StoredHash,
    hasher: Hasher,
    /// The index of the first run that is not hashed completely.
    next: usize,
}

impl HashChecks {
    /// Starts the verification of these hashes.
    pub fn new(stored_hashes: &[StoredHash]) -> HashChecks {
        let start = |c: &StoredHash| Running { stored: c.clone(), hasher: Hasher::new(c.kind), next: 0 };
        HashChecks { running: stored_hashes.iter().map(start).collect() }
    }

    /// Adds the bytes of the disk at `at`, in bytes. Must be called in order.
    pub fn bytes(&mut self, at: u64, bytes: &[u8]) {
        let end = at + bytes.len() as u64;
        for Running { stored, hasher, next } in &mut self.running {
            while let Some(run) = stored.disk.get(*next).filter(|run| run.start < end) {
                let (from, to) = (run.start.max(at), run.end.min(end));
                if from < to {
                    hasher.update(&bytes[index(from - at)..index(to - at)]);
                }
                if run.end > end {
                    break;
                }
                *next += 1;
            }
        }
    }

    /// Adds `len` bytes at `at` of the disk that repeat `pattern`, which starts at every multiple of 8.
    pub fn fill(&mut self, at: u64, len: u64, pattern: [u8; 8]) {
        if pattern == [0; 8] || self.running.is_empty() {
            return self.zeros(at, len);
        }
        let mut block = vec![0; 64 << 10];
        let mut done = 0;
        while done < len {
            let part = &mut block[..index((len - done).min(64 << 10))];
            fill(part, &pattern, at + done);
            self.bytes(at + done, part);
            done += part.len() as u64;
        }
    }

    /// Adds `len` zeros at `at` of the disk.
    pub fn zeros(&mut self, at: u64, len: u64) {
        const ZEROS: &[u8] = &[0; 64 << 10];
        let mut done = 0;
        while done < len && !self.running.is_empty() {
            let part = (len - done).min(ZEROS.len() as u64);
            self.bytes(at + done, &ZEROS[..index(part)]);
            done += part;
        }
    }

    /// Returns the results.
    pub fn finish(self) -> Vec<Checked> {
        let checked = |Running { stored, hasher, .. }: Running| {
            let mut longer = hasher.clone();
            longer.update(&stored.after);
            let got = [hasher, longer].map(|hasher| hex(&hasher.finish()));
            // No image records whether a hash covers the bytes after the disk.
            let [disk, all] = got;
            let got = if all == hex(&stored.value) { all } else { disk };
            Checked { stored, got }
        };
        self.running.into_iter().map(checked).collect()
    }
}
