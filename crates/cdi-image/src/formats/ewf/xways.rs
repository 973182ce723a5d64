//! Encryption by X-Ways: each chunk is encrypted as it is stored, so that its checksum is inside. The section
//! "x_encryption" says how; its fields are a number of 16 bits for the cipher (0: AES-128, 1: AES-256), flags of 16 bits,
//! the salt (32 bytes), the first counter (16), and what a passphrase is checked with (32).
//!
//! The key is the SHA-256 of the passphrase, filled up with zeros to 32 bytes, and the salt; its halves are XORed for
//! AES-128. AES is used in counter mode. The first eight bytes of the counter grow by one for each block of the disk
//! before the chunk, as a little-endian number; within a chunk, the counter of AES-128 counts as one big-endian number of
//! 128 bits, that of AES-256 goes on in its first eight bytes.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use cdi_base::advice::Advice;
use cdi_base::error::{Error, Flaw};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::bytes::{flaw, le16, le64};
use crate::crypto::{AES_BLOCK, KeyStream};
use crate::extent::FileNo;
use crate::input::Input;
use crate::passphrase::Passphrase;

/// The length of the section in bytes.
const LEN: usize = 84;
/// The flags: this one says that the key has 128 bits, the next that there is nothing to check a passphrase with. One has
/// no known meaning, and is set in all images.
const SHORT_KEY: u16 = 1;
const NO_CHECK: u16 = 2;
const USUAL: u16 = 0x1000;
/// How often the passphrase is hashed to check it, with a key of 128 bits.
const ROUNDS: u32 = 100_000;
/// The error about a segment without the section.
pub(super) const MISSING: &str = "this segment is encrypted, but the section that says how is missing";
/// What can be done about an image that cannot be decrypted.
pub(super) const DECRYPT: &str =
    "if it was encrypted by X-Ways, open it there with its password and create an image without encryption";

/// How a segment is encrypted.
pub(super) struct Sealing {
    pub file: FileNo,
    /// Where this was found, in bytes.
    at: u64,
    bytes: Vec<u8>,
}

/// The passphrase, and what is the same for all segments.
struct Secret {
    is_short: bool,
    /// Filled up with zeros.
    padded: Zeroizing<[u8; 32]>,
    /// What the passphrase is checked with; that takes some time.
    hashes: OnceCell<Zeroizing<[[u8; 32]; 2]>>,
}

/// The keys of an image, for each of its segments.
pub(super) struct Unlocked {
    segments: BTreeMap<FileNo, Arc<ChunkKeys>>,
    /// Whether the passphrase is known to be right.
    pub is_checked: bool,
    /// Whether the image says something that is not so with this passphrase.
    pub is_doubtful: bool,
}

impl Sealing {
    /// Reads the section at offset `at` of `file`, which has `len` bytes.
    pub(super) fn read(input: &Input, file: FileNo, at: u64, len: u64) -> Result<Sealing, Error> {
        if len != LEN as u64 {
            return flaw(at, format!("the section about encryption has {len} bytes, expected {LEN}"));
        }
        Ok(Sealing { file, at, bytes: input.bytes_of(file, at, LEN, "the section about encryption")? })
    }

    /// Returns whether the key has 128 bits and not 256. Refuses what is not known.
    fn is_short(&self) -> Result<bool, Error> {
        let (method, flags) = (le16(&self.bytes, 0), le16(&self.bytes, 2));
        let unsupported = |at: u64, what: String| {
            let what = format!("image encrypted by X-Ways with {what} (not supported)");
            Err(Error::from(Flaw::at(at, what)).hint(DECRYPT))
        };
        let is_short = match method {
            0 => true,
            1 => false,
            _ => return unsupported(self.at, format!("the unknown cipher {method}")),
        };
        if flags & !(SHORT_KEY | NO_CHECK | USUAL) != 0 {
            return unsupported(self.at + 2, format!("the unknown flags {flags:#06x}"));
        }
        if is_short != (flags & SHORT_KEY != 0) {
            return flaw(self.at + 2, format!("cipher {method} does not match the flags {flags:#06x}"));
        }
        Ok(is_short)
    }

    /// Returns whether this passphrase is the one that the segment is to be opened with. None if it does not say so.
    fn check(&self, secret: &Secret) -> Option<bool> {
        (le16(&self.bytes, 2) & NO_CHECK == 0).then(|| {
            let hash = Sha256::new().chain_update(&self.bytes[4..36]);
            hash.chain_update(secret.hashes().as_flattened()).finalize()[..] == self.bytes[52..]
        })
    }

    fn keys(&self, secret: &Secret, chunk: u64) -> Option<ChunkKeys> {
        let hash = Sha256::new().chain_update(secret.padded.as_slice()).chain_update(&self.bytes[4..36]);
        let mut key: Zeroizing<[u8; 32]> = Zeroizing::new(hash.finalize().into());
        let (first, second) = key.split_at_mut(16);
        if secret.is_short {
            first.iter_mut().zip(&*second).for_each(|(byte, other)| *byte ^= other);
        }
        let stream = KeyStream::new(if secret.is_short { first } else { &*key })?;
        let counter = *self.bytes[36..].first_chunk()?;
        Some(ChunkKeys { stream, counter, is_short: secret.is_short, blocks: chunk / AES_BLOCK as u64 })
    }
}

impl Secret {
    fn new(passphrase: &Passphrase, is_short: bool) -> Result<Secret, Error> {
        let (bytes, max) = (passphrase.bytes(), if is_short { 16 } else { 32 });
        let mut padded = Zeroizing::new([0; 32]);
        let Some(start) = padded.get_mut(..bytes.len()).filter(|_| bytes.len() <= max) else {
            return Err(wrong(passphrase, &format!("X-Ways takes at most {max} bytes for this cipher")));
        };
        start.copy_from_slice(bytes);
        Ok(Secret { is_short, padded, hashes: OnceCell::new() })
    }

    /// Returns the last two of a sequence of hashes, each of the passphrase and the one before it.
    fn hashes(&self) -> &[[u8; 32]; 2] {
        self.hashes.get_or_init(|| {
            let mut hashes = Zeroizing::new([[0; 32]; 2]);
            hashes[1] = Sha256::digest(self.padded.as_slice()).into();
            for _ in 0..if self.is_short { ROUNDS } else { 1 } {
                hashes[0] = hashes[1];
                let hash = Sha256::new().chain_update(self.padded.as_slice()).chain_update(hashes[0]);
                hashes[1] = hash.finalize().into();
            }
            hashes
        })
    }
}

impl Unlocked {
    /// Derives the keys of an image from the passphrase, for chunks of the disk of `chunk` bytes.
    pub(super) fn new(
        input: &Input,
        (first, others): (&Sealing, &[Sealing]),
        passphrase: Option<&Passphrase>,
        chunk: u64,
    ) -> Result<Unlocked, Error> {
        let is_short = first.is_short()?;
        let how = format!("AES-{}, by X-Ways; passphrase", if is_short { 128 } else { 256 });
        if !chunk.is_multiple_of(AES_BLOCK as u64) {
            return flaw(first.at, format!("encrypted image with chunks of {chunk} bytes"));
        }
        let Some(passphrase) = passphrase else {
            let what = format!("encrypted image ({how}): its passphrase is needed");
            return Err(Error::bad_image(what).hint(Advice::Passphrase));
        };
        let secret = Secret::new(passphrase, is_short)?;
        let mut unlocked = Unlocked { segments: BTreeMap::new(), is_checked: true, is_doubtful: false };
        for sealing in std::iter::once(first).chain(others) {
            if sealing.is_short().map_err(|e| e.at(&input.path_of(sealing.file)))? != is_short {
                let what = "this segment is encrypted with another cipher than the first one";
                return Err(Error::from(Flaw::at(sealing.at, what)).at(&input.path_of(sealing.file)));
            }
            let is_right = sealing.check(&secret);
            unlocked.is_checked &= is_right == Some(true);
            unlocked.is_doubtful |= is_right == Some(false);
            unlocked.segments.extend(sealing.keys(&secret, chunk).map(|keys| (sealing.file, Arc::new(keys))));
        }
        input.note_encryption(how);
        Ok(unlocked)
    }

    /// Returns the keys of the chunks in `file`.
    pub(super) fn keys(&self, input: &Input, file: FileNo) -> Result<Arc<ChunkKeys>, Error> {
        self.segments
            .get(&file)
            .map(Arc::clone)
            .ok_or_else(|| Error::bad_image(MISSING).at(&input.path_of(file)))
    }
}

/// The keys of chunks.
pub(super) struct ChunkKeys {
    stream: KeyStream,
    counter: [u8; AES_BLOCK],
    is_short: bool,
    /// How many blocks of AES a chunk of the disk has.
    blocks: u64,
}

impl ChunkKeys {
    /// Decrypts `bytes` in place, which are at offset `at` of the chunk with this number, as it is stored.
    pub(super) fn decrypt(&self, chunk: u64, at: u64, bytes: &mut [u8]) {
        let first = le64(&self.counter, 0).wrapping_add(chunk.wrapping_mul(self.blocks));
        let with_start = |start: u64| {
            let mut counter = self.counter;
            counter[..8].copy_from_slice(&start.to_le_bytes());
            counter
        };
        if self.is_short {
            let first = u128::from_be_bytes(with_start(first));
            self.stream.apply(bytes, at, |n| first.wrapping_add(n.into()).to_be_bytes());
        } else {
            self.stream.apply(bytes, at, |n| with_start(first.wrapping_add(n)));
        }
    }
}

/// Returns the error about a wrong passphrase; `why` says how that is known.
pub(super) fn wrong(passphrase: &Passphrase, why: &str) -> Error {
    let error = Error::bad_image(format!("the passphrase is wrong: {why}")).hint(Advice::WrongPassphrase);
    match passphrase.bytes().is_ascii() {
        true => error,
        false => error.then(
            "it is used in the bytes that it was given in; X-Ways may have used others for letters that are not ASCII: \
             try those of the code page of Windows ('iconv -t WINDOWS-1252')",
        ),
    }
}
