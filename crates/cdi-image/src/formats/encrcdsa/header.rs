//! The header of an encrypted image: how it is encrypted, and its key, which is wrapped for each way to open it.

use cdi_base::advice::Advice;
use cdi_base::error::Error;
use cdi_base::units::index;

use super::unsupported;
use crate::bytes::{be32, be64, flaw};
use crate::crypto::{AES_BLOCK, BlockKeys, open_3des, pbkdf2_sha1};
use crate::extent::FileNo;
use crate::input::Input;
use crate::passphrase::Passphrase;

pub(super) const MAGIC: &[u8] = b"encrcdsa";
/// The length of the header up to its list of wrapped keys, and of an entry of the list, in bytes.
const LIST: usize = 76;
const ENTRY: usize = 20;
/// The maximum number of wrapped keys: hdiutil makes one for the passphrase and one for each certificate.
const MAX_KEYS: u32 = 64;
/// The length of what is before a key that is wrapped by a passphrase, and the maximum length of it, in bytes.
const WRAPPED: usize = 104;
const MAX_WRAPPED: u32 = 512;
/// The maximum number of iterations of PBKDF2: some seconds of work. hdiutil's are 60,000 to 400,000.
pub(super) const MAX_ITERATIONS: u64 = 1 << 23;
/// The maximum size of a block in bytes; hdiutil's are 512 and 4096.
pub(super) const MAX_BLOCK: u32 = 1 << 20;
/// What follows the keys once they are unwrapped.
const END_OF_KEYS: &[u8] = b"CKIE\0";

/// Algorithms and their parameters, by their numbers in Apple's CSSM.
pub(super) const AES: u32 = 0x8000_0001;
pub(super) const CBC_IV: u32 = 5;
pub(super) const CBC_PADDED: u32 = 6;
pub(super) const HMAC_SHA1: u32 = 91;
pub(super) const PBKDF2: u32 = 103;
pub(super) const TRIPLE_DES: u32 = 17;
pub(super) const PKCS7: u32 = 7;

/// The header.
pub(super) struct Header {
    key_bits: u32,
    vector_bits: u32,
    /// The size of a block in bytes.
    pub block: u32,
    /// Where the blocks begin, and how many bytes are encrypted in them.
    pub start: u64,
    pub len: u64,
    /// The keys that a passphrase unwraps, where they could be read; and what else opens the image.
    keys: Vec<WrappedKey>,
    damaged: Option<Error>,
    others: Vec<String>,
}

/// The keys of the image, encrypted with a key that is derived from a passphrase.
struct WrappedKey {
    iterations: u32,
    salt: Vec<u8>,
    iv: [u8; 8],
    wrapped: Vec<u8>,
}

impl Header {
    /// Reads the header at the start of `file`.
    pub(super) fn read(input: &Input, file: FileNo) -> Result<Header, Error> {
        let bytes = input.bytes_of(file, 0, LIST, "the header of the encrypted image")?;
        let field = |at: usize| be32(&bytes, at);
        if !bytes.starts_with(MAGIC) {
            return flaw(0, "not an encrypted image");
        }
        for (at, what, expected) in [
            (8, "version", 2),
            (12, "length of the initialization vectors", 16),
            (16, "cipher mode", CBC_IV),
            (20, "cipher", AES),
            (28, "algorithm for initialization vectors", HMAC_SHA1),
        ] {
            if field(at) != expected {
                return unsupported(at as u64, format!("encrypted image with {what} {:#x}", field(at)));
            }
        }
        let (key_bits, vector_bits, block, count) = (field(24), field(32), field(52), field(72));
        if !matches!(key_bits, 128 | 256) || vector_bits != 160 {
            return unsupported(
                24,
                format!("encrypted image with keys of {key_bits} and {vector_bits} bits"),
            );
        }
        if block == 0 || block > MAX_BLOCK || !(block as usize).is_multiple_of(AES_BLOCK) {
            return flaw(52, format!("invalid size of encrypted blocks: {block} bytes"));
        }
        if count == 0 || count > MAX_KEYS {
            return flaw(72, format!("invalid number of keys: {count}"));
        }
        let (start, len) = (be64(&bytes, 64), be64(&bytes, 56));
        let mut header = Header {
            key_bits,
            vector_bits,
            block,
            start,
            len,
            keys: Vec::new(),
            damaged: None,
            others: Vec::new(),
        };
        let list = input.bytes_of(file, LIST as u64, count as usize * ENTRY, "the list of keys")?;
        for entry in list.chunks_exact(ENTRY) {
            let (at, len) = (be64(entry, 4), be64(entry, 12));
            match be32(entry, 0) {
                // One damaged key does not matter if another one opens the image.
                1 => match WrappedKey::read(input, file, at, len) {
                    Ok(key) => header.keys.push(key),
                    Err(e) => drop(header.damaged.get_or_insert(e)),
                },
                2 => header.others.push("a certificate".into()),
                3 => header.others.push("a keybag".into()),
                kind => header.others.push(format!("a key of the unknown kind {kind}")),
            }
        }
        Ok(header)
    }

    /// Checks that a file of `file_len` bytes has all of the encrypted bytes.
    pub(super) fn check_data(&self, file_len: u64) -> Result<(), Error> {
        let Header { start, len, block, .. } = *self;
        if len == 0 {
            return flaw(56, "the encrypted image is empty");
        }
        if len.div_ceil(block.into()) > 1 << 32 {
            return unsupported(56, "encrypted image of more than 2^32 blocks");
        }
        let stored = len.checked_next_multiple_of(AES_BLOCK as u64);
        if stored.and_then(|len| start.checked_add(len)).is_none_or(|end| end > file_len) {
            let what = format!("the encrypted data ({len} bytes at byte {start})");
            return flaw(56, format!("{what} extends past the end of the file: the image is truncated"));
        }
        Ok(())
    }

    /// Returns in words how the image is encrypted.
    pub(super) fn description(&self) -> String {
        let by = self.keys.iter().map(|key| format!("passphrase, {} iterations", key.iterations));
        let ways: Vec<_> = by.chain(self.others.iter().cloned()).collect();
        format!("AES-{}; {}", self.key_bits, if ways.is_empty() { "no key".into() } else { ways.join("; ") })
    }

    /// Returns an error if no passphrase can open the image.
    pub(super) fn refuse_without_passphrase(&self) -> Result<(), Error> {
        if !self.keys.is_empty() {
            return Ok(());
        }
        match &self.damaged {
            Some(e) => Err(copy_of(e)),
            None => unsupported(72, format!("encrypted image that only {} opens", self.others.join(" or "))),
        }
    }

    /// Unwraps the keys of the image.
    pub(super) fn unlock(&self, passphrase: &Passphrase) -> Result<BlockKeys, Error> {
        self.refuse_without_passphrase()?;
        if let Some(keys) = self.keys.iter().find_map(|key| self.unwrap(key, passphrase)) {
            return Ok(keys);
        }
        let mut what = String::from("the passphrase is wrong: it does not open this encrypted image");
        if let Some(e) = &self.damaged {
            what += &format!(" (but not all of its keys could be tried: {})", e.what);
        } else if !self.others.is_empty() {
            what += &format!(" (which {} opens, too)", self.others.join(" or "));
        }
        Err(Error::bad_image(what).hint(Advice::WrongPassphrase))
    }

    fn unwrap(&self, key: &WrappedKey, passphrase: &Passphrase) -> Option<BlockKeys> {
        let wrapping = pbkdf2_sha1::<24>(passphrase, &key.salt, key.iterations);
        let opened = open_3des(&wrapping, &key.iv, &key.wrapped)?;
        // With a wrong passphrase, one padding in 256 is right by chance: so the mark counts, too.
        let keys = opened.strip_suffix(END_OF_KEYS)?;
        let (cipher, vectors) = keys.split_at_checked(self.key_bits as usize / 8)?;
        let vectors = Some(vectors).filter(|key| key.len() == self.vector_bits as usize / 8)?;
        BlockKeys::new(cipher, vectors)
    }
}

impl WrappedKey {
    /// Reads what is at offset `at`, `len` bytes with what is not used.
    fn read(input: &Input, file: FileNo, at: u64, len: u64) -> Result<WrappedKey, Error> {
        let fixed = input.bytes_of(file, at, WRAPPED, "a key of the encrypted image")?;
        let field = |at: usize| be32(&fixed, at);
        for (of, what, expected) in [
            (0, "key derivation", PBKDF2),
            (48, "length of the initialization vector of a key", 8),
            (84, "bits in the wrapping key", 192),
            (88, "wrapping cipher", TRIPLE_DES),
            (92, "padding of a key", PKCS7),
            (96, "wrapping mode", CBC_PADDED),
        ] {
            if field(of) != expected {
                return unsupported(at + of as u64, format!("encrypted image with {what} {:#x}", field(of)));
            }
        }
        let (iterations, salt, wrapped) = (be64(&fixed, 4), field(12), field(100));
        let few = u32::try_from(iterations).ok().filter(|n| (1..=MAX_ITERATIONS).contains(&u64::from(*n)));
        let Some(iterations) = few else {
            return flaw(at + 4, format!("invalid number of iterations: {iterations}"));
        };
        if salt > 32 {
            return flaw(at + 12, format!("invalid length of the salt: {salt} bytes"));
        }
        let inside = len.checked_sub(WRAPPED as u64).is_some_and(|rest| u64::from(wrapped) <= rest);
        if !inside || wrapped > MAX_WRAPPED {
            return flaw(at + 100, format!("invalid length of a key: {wrapped} bytes"));
        }
        Ok(WrappedKey {
            iterations,
            salt: fixed[16..16 + salt as usize].to_vec(),
            iv: fixed[52..].first_chunk().copied().unwrap_or_default(),
            wrapped: input.bytes_of(file, at + WRAPPED as u64, index(wrapped.into()), "a wrapped key")?,
        })
    }
}

fn copy_of(e: &Error) -> Error {
    let copy = Error::new(e.kind, e.what.clone());
    e.advice.iter().cloned().fold(copy, Error::then)
}
