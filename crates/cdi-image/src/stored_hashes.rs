//! Hashes of the disk that its maker stored in the image. `cdi verify` compares the disk with them.

use std::ops::Range;

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use super::codec::{Crc32, crc32, disk_copy_6};

/// A hash of the disk, or of parts of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredHash {
    /// What is hashed, as shown to the user: "the disk", "partition 'disk image (Apple_HFS : 3)'".
    pub of: String,
    /// The runs of the disk that the hash covers, in order. Unreadable data is hashed as zeros.
    pub disk: Vec<Range<u64>>,
    /// Bytes that the image holds after the end of the disk, if the hash also covers them.
    pub after: Vec<u8>,
    /// The hash algorithm.
    pub kind: HashKind,
    /// The hash.
    pub value: Vec<u8>,
}

impl StoredHash {
    /// Returns a hash of the whole disk of `size` bytes.
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

/// A hash algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashKind {
    /// CRC-32 (as in zip and Ethernet), four bytes, big-endian.
    Crc32,
    /// The checksum of DiskCopy 4.2, four bytes, big-endian: each 16-bit word is added, and the sum rotated by one bit.
    DiskCopy,
    /// The CRC-32 of DiskCopy 6, four bytes, big-endian.
    DiskCopy6,
    /// MD5.
    Md5,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
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
            HashKind::DiskCopy => "diskcopy_zero_filled",
            HashKind::DiskCopy6 => "diskcopy6_zero_filled",
            HashKind::Md5 => "md5_zero_filled",
            HashKind::Sha1 => "sha1_zero_filled",
            HashKind::Sha256 => "sha256_zero_filled",
            HashKind::Sha512 => "sha512_zero_filled",
            HashKind::Blake3 => "blake3_zero_filled",
        }
    }

    /// Returns the name.
    pub fn name(self) -> &'static str {
        match self {
            HashKind::Crc32 => "CRC-32",
            HashKind::DiskCopy => "DiskCopy checksum",
            HashKind::DiskCopy6 => "DiskCopy CRC-32",
            HashKind::Md5 => "MD5",
            HashKind::Sha1 => "SHA-1",
            HashKind::Sha256 => "SHA-256",
            HashKind::Sha512 => "SHA-512",
            HashKind::Blake3 => "BLAKE3",
        }
    }
}

/// Computes a hash incrementally.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Crc32(Crc32),
    DiskCopy(WordSum),
    DiskCopy6(Crc32),
    Md5(Md5),
    Sha1(Sha1),
    Sha256(Sha256),
    Sha512(Box<Sha512>),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    /// Starts a hash.
    pub fn new(kind: HashKind) -> Hasher {
        Hasher(match kind {
            HashKind::Crc32 => State::Crc32(crc32()),
            HashKind::DiskCopy => State::DiskCopy(WordSum::default()),
            HashKind::DiskCopy6 => State::DiskCopy6(disk_copy_6()),
            HashKind::Md5 => State::Md5(Md5::new()),
            HashKind::Sha1 => State::Sha1(Sha1::new()),
            HashKind::Sha256 => State::Sha256(Sha256::new()),
            HashKind::Sha512 => State::Sha512(Box::default()),
            HashKind::Blake3 => State::Blake3(Box::default()),
        })
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Crc32(state) | State::DiskCopy6(state) => state.update(bytes),
            State::DiskCopy(state) => state.update(bytes),
            State::Md5(state) => state.update(bytes),
            State::Sha1(state) => state.update(bytes),
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
            State::Blake3(state) => {
                state.update(bytes);
            }
        }
    }

    /// Returns the hash, in the form of [`StoredHash::value`].
    pub fn finish(self) -> Vec<u8> {
        match self.0 {
            State::Crc32(state) | State::DiskCopy6(state) => state.finalize().to_be_bytes().into(),
            State::DiskCopy(state) => state.sum.to_be_bytes().into(),
            State::Md5(state) => state.finalize().to_vec(),
            State::Sha1(state) => state.finalize().to_vec(),
            State::Sha256(state) => state.finalize().to_vec(),
            State::Sha512(state) => state.finalize().to_vec(),
            State::Blake3(state) => state.finalize().as_bytes().to_vec(),
        }
    }
}

/// The checksum of DiskCopy 4.2.
#[derive(Clone, Default)]
struct WordSum {
    sum: u32,
    /// The first byte of a word of which the second one is still to come.
    half: Option<u8>,
}

impl WordSum {
    fn update(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        if let (Some(first), Some((second, rest))) = (self.half, bytes.split_first()) {
            self.add([first, *second]);
            (self.half, bytes) = (None, rest);
        }
        let (words, rest) = bytes.as_chunks();
        words.iter().for_each(|word| self.add(*word));
        self.half = rest.first().copied().or(self.half);
    }

    fn add(&mut self, word: [u8; 2]) {
        self.sum = self.sum.wrapping_add(u16::from_be_bytes(word).into()).rotate_right(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_does_not_depend_on_how_the_bytes_come() {
        let bytes: Vec<u8> = (0..1000u32).map(|n| (n * n % 251).to_le_bytes()[0]).collect();
        for kind in [HashKind::Crc32, HashKind::DiskCopy] {
            let mut whole = Hasher::new(kind);
            whole.update(&bytes);
            for step in [1, 2, 3, 7, 999] {
                let mut parts = Hasher::new(kind);
                bytes.chunks(step).for_each(|part| parts.update(part));
                parts.update(&[]);
                assert_eq!(parts.finish(), whole.clone().finish(), "{kind:?} in steps of {step}");
            }
        }
    }

    #[test]
    fn diskcopy_adds_words_and_rotates() {
        let mut sum = Hasher::new(HashKind::DiskCopy);
        sum.update(&[0x80, 1, 0, 3]);
        // 0x8001 becomes 0x80004000, and with 3 0x80004003.
        assert_eq!(sum.finish(), 0xC000_2001u32.to_be_bytes());
    }
}
