//! The hashes that an image claims of its disk, made anew from the disk's bytes in order.

use cdi_base::printable::hex;
use cdi_base::units::index;
use cdi_image::disk::fill;
use cdi_image::stored_hashes::{Hasher, StoredHash};

/// A claim and what the disk gives for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The claim.
    pub stored: StoredHash,
    /// The hash of the disk's bytes, in hex.
    pub got: String,
}

impl Checked {
    /// Whether the claim holds.
    pub fn holds(&self) -> bool {
        self.got == hex(&self.stored.value)
    }
}

impl std::fmt::Display for Checked {
    /// What a claim that does not hold says.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let StoredHash { of, kind, value, .. } = &self.stored;
        let (kind, got, value) = (kind.name(), &self.got, hex(value));
        write!(f, "the {kind} of {of} is {got}, and the image says {value}: some byte is not what was imaged")
    }
}

/// HashChecks, under way.
pub struct HashChecks {
    stored_hashes: Vec<Open>,
}

struct Open {
    stored: StoredHash,
    hasher: Hasher,
    /// Which of its runs is the next one that has not ended.
    next: usize,
}

impl HashChecks {
    /// None of these is checked yet.
    pub fn new(stored_hashes: &[StoredHash]) -> HashChecks {
        let open = |c: &StoredHash| Open { stored: c.clone(), hasher: Hasher::new(c.kind), next: 0 };
        HashChecks { stored_hashes: stored_hashes.iter().map(open).collect() }
    }

    /// The bytes of the disk at `at`. They must come in order.
    pub fn bytes(&mut self, at: u64, bytes: &[u8]) {
        let end = at + bytes.len() as u64;
        for Open { stored, hasher, next } in &mut self.stored_hashes {
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

    /// `len` bytes at `at` of the disk, which are `pattern` over and over, the first of it at every multiple of 8.
    pub fn fill(&mut self, at: u64, len: u64, pattern: [u8; 8]) {
        if pattern == [0; 8] || self.stored_hashes.is_empty() {
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

    /// So many zeros at `at` of the disk.
    pub fn zeros(&mut self, at: u64, len: u64) {
        const ZEROS: &[u8] = &[0; 64 << 10];
        let mut done = 0;
        while done < len && !self.stored_hashes.is_empty() {
            let part = (len - done).min(ZEROS.len() as u64);
            self.bytes(at + done, &ZEROS[..index(part)]);
            done += part;
        }
    }

    /// What came of them.
    pub fn finish(self) -> Vec<Checked> {
        let checked = |Open { stored, hasher, .. }: Open| {
            let mut longer = hasher.clone();
            longer.update(&stored.after);
            let got = [hasher, longer].map(|hasher| hex(&hasher.finish()));
            // Whether a hash covers the bytes after the disk, no image says.
            let [disk, all] = got;
            let got = if all == hex(&stored.value) { all } else { disk };
            Checked { stored, got }
        };
        self.stored_hashes.into_iter().map(checked).collect()
    }
}
