//! Hashes that an image holds of its disk: what its maker claims. `cdi verify` holds the disk against them.

use std::ops::Range;

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::codec::{Crc32, crc32};

/// A hash of the disk, or of parts of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredHash {
    /// What it is of, for a person: "the disk", "partition 'disk image (Apple_HFS : 3)'".
    pub of: String,
    /// The runs of the disk that it covers, in order. Whatever could not be read counts as zeros.
    pub disk: Vec<Range<u64>>,
    /// Bytes after the end of the disk that the image holds: the hash may cover them, too.
    pub after: Vec<u8>,
    /// How it is made.
    pub kind: HashKind,
    /// The hash.
    pub value: Vec<u8>,
}

impl StoredHash {
    /// A hash of all of a disk of `size` bytes.
    pub fn of_disk(size: u64, kind: HashKind, value: Vec<u8>) -> StoredHash {
        StoredHash {
            of: "the disk".into(),
            disk: std::iter::once(0..size).collect(),
            after: Vec::new(),
            kind,
            value,
        }
    }
}

/// How a hash is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashKind {
    /// CRC-32 (as of zip and Ethernet), four bytes, the highest first.
    Crc32,
    /// MD5.
    Md5,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// BLAKE3.
    Blake3,
}

/// The kinds of which a `.cdimg` can store the hash of the zero-filled disk.
pub const ZERO_FILLED: [HashKind; 4] = [HashKind::Md5, HashKind::Sha1, HashKind::Sha256, HashKind::Blake3];

impl HashKind {
    /// Returns the name of the metadata that holds it, of the disk with zeros where nothing could be read.
    pub fn key(self) -> &'static str {
        match self {
            HashKind::Crc32 => "crc32_zero_filled",
            HashKind::Md5 => "md5_zero_filled",
            HashKind::Sha1 => "sha1_zero_filled",
            HashKind::Sha256 => "sha256_zero_filled",
            HashKind::Blake3 => "blake3_zero_filled",
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            HashKind::Crc32 => "CRC-32",
            HashKind::Md5 => "MD5",
            HashKind::Sha1 => "SHA-1",
            HashKind::Sha256 => "SHA-256",
            HashKind::Blake3 => "BLAKE3",
        }
    }
}

/// A hash, under way.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Crc32(Crc32),
    Md5(Md5),
    Sha1(Sha1),
    Sha256(Sha256),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    /// A hash of nothing yet.
    pub fn new(kind: HashKind) -> Hasher {
        Hasher(match kind {
            HashKind::Crc32 => State::Crc32(crc32()),
            HashKind::Md5 => State::Md5(Md5::new()),
            HashKind::Sha1 => State::Sha1(Sha1::new()),
            HashKind::Sha256 => State::Sha256(Sha256::new()),
            HashKind::Blake3 => State::Blake3(Box::default()),
        })
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Crc32(state) => state.update(bytes),
            State::Md5(state) => state.update(bytes),
            State::Sha1(state) => state.update(bytes),
            State::Sha256(state) => state.update(bytes),
            State::Blake3(state) => {
                state.update(bytes);
            }
        }
    }

    /// The hash, as a [`StoredHash`] has it.
    pub fn finish(self) -> Vec<u8> {
        match self.0 {
            State::Crc32(state) => state.finalize().to_be_bytes().into(),
            State::Md5(state) => state.finalize().to_vec(),
            State::Sha1(state) => state.finalize().to_vec(),
            State::Sha256(state) => state.finalize().to_vec(),
            State::Blake3(state) => state.finalize().as_bytes().to_vec(),
        }
    }
}
