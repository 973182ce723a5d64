//! The first version of the encryption ("cdsaencr"), of Mac OS X before 10.5: what is said of the blocks and the keys is
//! at the end of the file. The keys are wrapped twice, much as in RFC 3217.

use cdi_base::advice::Advice;
use cdi_base::error::Error;
use zeroize::Zeroizing;

use super::header::{
    AES, CBC_IV, CBC_PADDED, HMAC_SHA1, MAX_BLOCK, MAX_ITERATIONS, PBKDF2, PKCS7, TRIPLE_DES,
};
use super::unsupported;
use crate::bytes::{be32, be64, flaw};
use crate::crypto::{AES_BLOCK, BlockKeys, open_3des, pbkdf2_sha1};
use crate::input::Input;
use crate::passphrase::Passphrase;

pub(super) const MAGIC: &[u8] = b"cdsaencr";
const LEN: usize = 1276;
/// The maximum length of a wrapped key in bytes.
const MAX_WRAPPED: u32 = 256;
/// The initialization vector of the outer encryption of a key.
const OUTER: [u8; 8] = [0x4A, 0xDD, 0xA2, 0x2C, 0x79, 0xE8, 0x21, 0x05];

/// How an image is encrypted.
pub(super) struct Trailer {
    /// The size of a block in bytes.
    pub block: u32,
    /// How many bytes are encrypted, from the start of the file on.
    pub len: u64,
    iterations: u32,
    bytes: Vec<u8>,
}

impl Trailer {
    /// Reads the trailer at the end of the image's main file.
    pub(super) fn read(input: &Input) -> Result<Trailer, Error> {
        let at = input.len().saturating_sub(LEN as u64);
        let bytes = input.bytes(at, LEN, "the trailer of the encrypted image")?;
        let field = |at: usize| be32(&bytes, at);
        for (of, what, expected) in [
            (1264, "version", 1),
            (20, "wrapping cipher", TRIPLE_DES),
            (24, "padding of a key", PKCS7),
            (28, "wrapping mode", CBC_PADDED),
            (32, "bits in the wrapping key", 192),
            (40, "key derivation", PBKDF2),
            (88, "length of the initialization vectors", 16),
            (92, "cipher mode", CBC_IV),
            (96, "cipher", AES),
            (100, "bits in the key", 128),
            (396, "algorithm for initialization vectors", HMAC_SHA1),
        ] {
            if field(of) != expected {
                return unsupported(at + of as u64, format!("encrypted image with {what} {:#x}", field(of)));
            }
        }
        let (block, len, iterations) = (field(16), be64(&bytes, 1256), be64(&bytes, 44));
        if block == 0 || block > MAX_BLOCK || !(block as usize).is_multiple_of(AES_BLOCK) {
            return flaw(at + 16, format!("invalid size of encrypted blocks: {block} bytes"));
        }
        if len != at || len == 0 || len % AES_BLOCK as u64 != 0 {
            return flaw(at + 1256, format!("{len} bytes are encrypted, but there are {at}"));
        }
        if len.div_ceil(block.into()) > 1 << 32 {
            return unsupported(at + 1256, "encrypted image of more than 2^32 blocks");
        }
        let few = u32::try_from(iterations).ok().filter(|n| (1..=MAX_ITERATIONS).contains(&u64::from(*n)));
        let Some(iterations) = few else {
            return flaw(at + 44, format!("invalid number of iterations: {iterations}"));
        };
        for (of, what, most) in
            [(52, "salt", 32), (136, "wrapped key", MAX_WRAPPED), (436, "wrapped key", MAX_WRAPPED)]
        {
            if field(of) > most {
                return flaw(at + of as u64, format!("invalid length of a {what}: {} bytes", field(of)));
            }
        }
        Ok(Trailer { block, len, iterations, bytes })
    }

    /// Returns in words how the image is encrypted.
    pub(super) fn description(&self) -> String {
        format!("AES-128; passphrase, {} iterations", self.iterations)
    }

    /// Unwraps the keys of the image.
    pub(super) fn unlock(&self, passphrase: &Passphrase) -> Result<BlockKeys, Error> {
        let salt = &self.bytes[56..][..be32(&self.bytes, 52) as usize];
        let wrapping = pbkdf2_sha1::<24>(passphrase, salt, self.iterations);
        let key = |at: usize| {
            let wrapped = &self.bytes[at + 4..][..be32(&self.bytes, at) as usize];
            unwrap(&wrapping, wrapped)
        };
        let keys = key(136).zip(key(436)).and_then(|(cipher, vectors)| {
            let lengths = cipher.len() == 16 && vectors.len() == 20;
            BlockKeys::new(&cipher, &vectors).filter(|_| lengths)
        });
        keys.ok_or_else(|| {
            let what = "the passphrase is wrong: it does not open this encrypted image";
            Error::bad_image(what).hint(Advice::WrongPassphrase)
        })
    }
}

/// Unwraps a key: it was encrypted after an initialization vector and four zeros, then reversed and encrypted again.
fn unwrap(wrapping: &[u8; 24], wrapped: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut inner = open_3des(wrapping, &OUTER, wrapped)?;
    inner.reverse();
    let (iv, sealed) = inner.split_first_chunk::<8>()?;
    let key = open_3des(wrapping, iv, sealed)?;
    Some(Zeroizing::new(key.strip_prefix(&[0; 4])?.to_vec()))
}

/// Returns whether the image's main file ends like an encrypted image of this version.
pub(super) fn is_encrypted(input: &Input) -> bool {
    let at = input.len().checked_sub(MAGIC.len() as u64);
    at.is_some_and(|at| input.bytes(at, 8, "the trailer").is_ok_and(|b| b == MAGIC))
}
