//! AES in counter mode: the bytes are XORed with a key stream, which is a sequence of encrypted counters.

use aes::cipher::array::Array;
use aes::cipher::consts::U16;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes::{Aes128Enc, Aes256Enc};
use cdi_base::units::index;

use super::AES_BLOCK;

/// How many bytes of a key stream are made at once.
const BATCH: usize = 64 * AES_BLOCK;

/// AES as the source of a key stream.
pub(crate) enum KeyStream {
    Bits128(Box<Aes128Enc>),
    Bits256(Box<Aes256Enc>),
}

impl KeyStream {
    /// Creates it of a key of 16 or 32 bytes. None if the length is another one.
    pub(crate) fn new(key: &[u8]) -> Option<KeyStream> {
        match key.len() {
            16 => Some(KeyStream::Bits128(Box::new(Aes128Enc::new_from_slice(key).ok()?))),
            32 => Some(KeyStream::Bits256(Box::new(Aes256Enc::new_from_slice(key).ok()?))),
            _ => None,
        }
    }

    /// Encrypts or decrypts `bytes` in place, whose first byte is XORed with the byte at offset `at` of the key stream.
    /// `counter` returns what is encrypted for a block of it, by the number of the block.
    pub(crate) fn apply(&self, bytes: &mut [u8], at: u64, counter: impl Fn(u64) -> [u8; AES_BLOCK]) {
        let (mut number, mut skip) = (at / AES_BLOCK as u64, index(at % AES_BLOCK as u64));
        let mut rest = bytes;
        while !rest.is_empty() {
            let mut stream = [0; BATCH];
            let end = BATCH.min(skip + rest.len());
            let (blocks, _) =
                Array::<u8, U16>::slice_as_chunks_mut(&mut stream[..end.next_multiple_of(AES_BLOCK)]);
            for block in &mut *blocks {
                block.copy_from_slice(&counter(number));
                number = number.wrapping_add(1);
            }
            match self {
                KeyStream::Bits128(cipher) => cipher.encrypt_blocks(blocks),
                KeyStream::Bits256(cipher) => cipher.encrypt_blocks(blocks),
            }
            let (part, after) = rest.split_at_mut(end - skip);
            part.iter_mut().zip(&stream[skip..end]).for_each(|(byte, key)| *byte ^= key);
            (rest, skip) = (after, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::hex;
    use super::*;

    /// The counter of the vectors F.5, as one number.
    fn counter(number: u64) -> [u8; 16] {
        (0xF0F1_F2F3_F4F5_F6F7_F8F9_FAFB_FCFD_FEFF_u128 + u128::from(number)).to_be_bytes()
    }

    #[test]
    fn bytes_are_decrypted_as_in_sp_800_38a() {
        let plain = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        for (key, sealed) in [
            (
                "2b7e151628aed2a6abf7158809cf4f3c",
                "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff",
            ),
            (
                "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
                "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5",
            ),
        ] {
            let mut bytes = hex(sealed);
            KeyStream::new(&hex(key)).unwrap().apply(&mut bytes, 0, counter);
            assert_eq!(bytes, plain);
        }
        assert!(KeyStream::new(&[0; 24]).is_none());
    }

    #[test]
    fn any_part_is_decrypted_as_in_the_whole() {
        let keys = KeyStream::new(&[7; 16]).unwrap();
        let mut whole = vec![0; 5000];
        keys.apply(&mut whole, 0, counter);
        for (at, len) in [(0, 1), (15, 2), (16, 16), (1000, 3000), (1023, 1026), (4999, 1), (77, 0)] {
            let mut part = vec![0; len];
            keys.apply(&mut part, at as u64, counter);
            assert!(part == whole[at..at + len], "{len} bytes at {at}");
        }
    }
}
