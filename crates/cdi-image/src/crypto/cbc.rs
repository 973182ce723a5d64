//! AES and triple DES in CBC mode, with keys derived from a passphrase: Apple's encrypted images.

use aes::cipher::{Array, BlockCipherDecrypt, BlockSizeUser, KeyInit};
use aes::{Aes128Dec, Aes256Dec};
use des::TdesEde3;
use hmac::{Hmac, Mac};
use sha1::Sha1;
use zeroize::{Zeroize, Zeroizing};

use super::AES_BLOCK;
use crate::passphrase::Passphrase;

/// Derives a key of N bytes from a passphrase: PBKDF2 (RFC 8018) with HMAC-SHA1.
pub(crate) fn pbkdf2_sha1<const N: usize>(
    passphrase: &Passphrase,
    salt: &[u8],
    iterations: u32,
) -> Zeroizing<[u8; N]> {
    let mut key = Zeroizing::new([0; N]);
    pbkdf2::pbkdf2_hmac::<Sha1>(passphrase.bytes(), salt, iterations, &mut *key);
    key
}

/// Decrypts `sealed` with three-key triple DES in CBC mode, and removes the padding (PKCS #7). None if the length or the
/// padding is wrong: then so is the key, or `sealed` is damaged.
pub(crate) fn open_3des(key: &[u8; 24], iv: &[u8; 8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let cipher = TdesEde3::new_from_slice(key).ok()?;
    let mut opened = Zeroizing::new(sealed.to_vec());
    if opened.is_empty() || !opened.len().is_multiple_of(iv.len()) {
        return None;
    }
    decrypt_cbc(&cipher, &mut opened, iv, &mut Vec::new());
    let padding = usize::from(*opened.last()?);
    let end = opened.len().checked_sub(padding).filter(|_| (1..=iv.len()).contains(&padding))?;
    if opened[end..].iter().any(|b| usize::from(*b) != padding) {
        return None;
    }
    opened[end..].zeroize();
    opened.truncate(end);
    Some(opened)
}

/// Decrypts `bytes`, which are whole blocks of the cipher, in place. `before` is memory for what was there.
fn decrypt_cbc<C: BlockCipherDecrypt + BlockSizeUser>(
    cipher: &C,
    bytes: &mut [u8],
    iv: &[u8],
    before: &mut Vec<u8>,
) {
    before.clear();
    before.extend_from_slice(iv);
    before.extend_from_slice(bytes);
    let (blocks, _) = Array::<u8, C::BlockSize>::slice_as_chunks_mut(bytes);
    cipher.decrypt_blocks(blocks);
    bytes.iter_mut().zip(&*before).for_each(|(byte, before)| *byte ^= before);
}

/// The keys of a file that is encrypted in blocks, each by itself: AES in CBC mode, whose initialization vector is the
/// start of the HMAC-SHA1 of the block's number.
pub(crate) struct BlockKeys {
    cipher: Aes,
    vectors: Hmac<Sha1>,
}

enum Aes {
    Bits128(Box<Aes128Dec>),
    Bits256(Box<Aes256Dec>),
}

impl BlockKeys {
    /// Creates them of the key of the cipher, 16 or 32 bytes, and that of the initialization vectors. None if the length of
    /// a key is wrong.
    pub(crate) fn new(cipher: &[u8], vectors: &[u8]) -> Option<BlockKeys> {
        let cipher = match cipher.len() {
            16 => Aes::Bits128(Box::new(Aes128Dec::new_from_slice(cipher).ok()?)),
            32 => Aes::Bits256(Box::new(Aes256Dec::new_from_slice(cipher).ok()?)),
            _ => return None,
        };
        Some(BlockKeys { cipher, vectors: Hmac::new_from_slice(vectors).ok()? })
    }

    /// Decrypts `bytes` in place: blocks of `block` bytes, of which the first has the number `first`. The last one may be
    /// shorter; `block` and the length of `bytes` are multiples of [`AES_BLOCK`]. Numbers count modulo 2^32.
    pub(crate) fn decrypt(&self, bytes: &mut [u8], block: usize, first: u32) {
        let mut before = Vec::with_capacity(AES_BLOCK + block);
        let mut number = first;
        for bytes in bytes.chunks_mut(block) {
            let vector = self.vectors.clone().chain_update(number.to_be_bytes()).finalize().into_bytes();
            match &self.cipher {
                Aes::Bits128(cipher) => decrypt_cbc(&**cipher, bytes, &vector[..AES_BLOCK], &mut before),
                Aes::Bits256(cipher) => decrypt_cbc(&**cipher, bytes, &vector[..AES_BLOCK], &mut before),
            }
            number = number.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::hex;
    use super::*;

    #[test]
    fn keys_are_derived_as_in_rfc_6070() {
        let passphrase = Passphrase::new("passwordPASSWORDpassword");
        let salt = b"saltSALTsaltSALTsaltSALTsaltSALTsalt";
        let key = pbkdf2_sha1::<25>(&passphrase, salt, 4096);
        assert_eq!(key[..], hex("3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038"));
    }

    #[test]
    fn blocks_are_decrypted_as_in_sp_800_38a() {
        // Its vectors F.2.2 and F.2.6 have another initialization vector: the difference is in the first block's bytes.
        let plain = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        for (key, sealed) in [
            (
                "2b7e151628aed2a6abf7158809cf4f3c",
                "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2",
            ),
            (
                "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
                "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d",
            ),
        ] {
            let keys = BlockKeys::new(&hex(key), b"any").unwrap();
            let mut bytes = hex(sealed);
            keys.decrypt(&mut bytes, 32, 7);
            let vector = keys.vectors.clone().chain_update([0, 0, 0, 7]).finalize().into_bytes();
            bytes
                .iter_mut()
                .zip(0u8..16)
                .zip(vector)
                .for_each(|((byte, theirs), ours)| *byte ^= theirs ^ ours);
            assert_eq!(bytes, plain);
        }
        assert!(BlockKeys::new(&[0; 24], b"any").is_none());
    }

    #[test]
    fn a_wrong_padding_is_noticed() {
        // Two blocks, encrypted by openssl's des-ede3-cbc: "eleven byte" and five bytes of padding.
        let (key, iv) = (hex("0123456789abcdef23456789abcdef01456789abcdef0123"), [7; 8]);
        let key: [u8; 24] = key.try_into().unwrap();
        let sealed = hex("856e34e21a22a3fc2cc12e7c50e58adf");
        assert_eq!(open_3des(&key, &iv, &sealed).unwrap()[..], b"eleven byte"[..]);
        assert!(open_3des(&key, &iv, &sealed[..8]).is_none());
        assert!(open_3des(&key, &iv, &sealed[..15]).is_none());
        assert!(open_3des(&key, &iv, &[]).is_none());
    }
}
