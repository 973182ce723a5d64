//! The hashes that an image claims of its disk, made anew from the disk's bytes in order.

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::image::claims::{Claim, Kind, hex};
use crate::image::codec::{Crc32, crc32};
use crate::units::index;

/// A claim and what the disk gives for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The claim.
    pub claim: Claim,
    /// The hash of the disk's bytes, in hex.
    pub got: String,
}

impl Checked {
    /// Whether the claim holds.
    pub fn holds(&self) -> bool {
        self.got == hex(&self.claim.value)
    }
}

/// Claims, under way.
pub struct Claims {
    claims: Vec<Open>,
}

struct Open {
    claim: Claim,
    state: State,
    /// Which of its runs is the next one that has not ended.
    next: usize,
}

enum State {
    Crc32(Crc32),
    Md5(Md5),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl State {
    fn new(kind: Kind) -> State {
        match kind {
            Kind::Crc32 => State::Crc32(crc32()),
            Kind::Md5 => State::Md5(Md5::new()),
            Kind::Sha1 => State::Sha1(Sha1::new()),
            Kind::Sha256 => State::Sha256(Sha256::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            State::Crc32(state) => state.update(bytes),
            State::Md5(state) => state.update(bytes),
            State::Sha1(state) => state.update(bytes),
            State::Sha256(state) => state.update(bytes),
        }
    }

    fn finish(self) -> String {
        match self {
            State::Crc32(state) => format!("{:08x}", state.finalize()),
            State::Md5(state) => hex(&state.finalize()),
            State::Sha1(state) => hex(&state.finalize()),
            State::Sha256(state) => hex(&state.finalize()),
        }
    }
}

impl Claims {
    /// None of these is checked yet.
    pub fn new(claims: &[Claim]) -> Claims {
        let open = |c: &Claim| Open { claim: c.clone(), state: State::new(c.kind), next: 0 };
        Claims { claims: claims.iter().map(open).collect() }
    }

    /// The bytes of the disk at `at`. They must come in order.
    pub fn bytes(&mut self, at: u64, bytes: &[u8]) {
        let end = at + bytes.len() as u64;
        for Open { claim, state, next } in &mut self.claims {
            while let Some(run) = claim.disk.get(*next).filter(|run| run.start < end) {
                let (from, to) = (run.start.max(at), run.end.min(end));
                if from < to {
                    state.update(&bytes[index(from - at)..index(to - at)]);
                }
                if run.end > end {
                    break;
                }
                *next += 1;
            }
        }
    }

    /// So many zeros at `at` of the disk.
    pub fn zeros(&mut self, at: u64, len: u64) {
        const ZEROS: &[u8] = &[0; 64 << 10];
        let mut done = 0;
        while done < len && !self.claims.is_empty() {
            let part = (len - done).min(ZEROS.len() as u64);
            self.bytes(at + done, &ZEROS[..index(part)]);
            done += part;
        }
    }

    /// What came of them.
    pub fn finish(self) -> Vec<Checked> {
        let checked = |open: Open| Checked { claim: open.claim, got: open.state.finish() };
        self.claims.into_iter().map(checked).collect()
    }
}
