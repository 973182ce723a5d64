//! Encrypts dmgs, sparse images and sparse bundles as hdiutil does ("encrcdsa", version 2).

use aes::cipher::{Array, BlockCipherEncrypt, BlockSizeUser, KeyInit};
use aes::{Aes128Enc, Aes256Enc};
use des::TdesEde3;
use hmac::{Hmac, Mac};
use sha1::Sha1;

use super::{put, sparsebundle};

/// How an image is encrypted.
#[derive(Clone, Copy)]
pub struct Encryption<'a> {
    /// Each opens the image.
    pub passphrases: &'a [&'a str],
    /// The bits of the key: 128 or 256.
    pub bits: u32,
    /// The size of a block in bytes.
    pub block: u32,
}

/// As hdiutil encrypts by default, but for the number of iterations, which is that of vfdecrypt.
pub const USUAL: Encryption<'_> = Encryption { passphrases: &["open sesame"], bits: 128, block: 512 };
pub const ITERATIONS: u32 = 1000;
/// The length of the header.
const HEADER: usize = 4096;

impl Encryption<'_> {
    fn key(&self) -> Vec<u8> {
        (0..(self.bits / 8) as u8).map(|n| n.wrapping_mul(37) ^ 0x5A).collect()
    }

    /// The keys of the cipher and of the initialization vectors, as vfdecrypt takes them.
    pub fn keys_in_hex(&self) -> String {
        cdi_base::printable::hex(&[&self.key()[..], &VECTORS].concat())
    }

    /// The header of an image of `len` bytes.
    pub fn header(&self, len: u64) -> Vec<u8> {
        let mut header = b"encrcdsa".to_vec();
        put!(header, 2u32, 16u32, 5u32, 0x8000_0001u32, self.bits, 91u32, 160u32);
        header.extend([0xE5; 16]);
        put!(header, self.block, len, HEADER as u64, self.passphrases.len() as u32);
        let first = 76 + 20 * self.passphrases.len();
        for n in 0..self.passphrases.len() {
            put!(header, 1u32, (first + 616 * n) as u64, 616u64);
        }
        for (n, passphrase) in self.passphrases.iter().enumerate() {
            let (salt, iv) = ([n as u8 + 1; 20], [n as u8 + 9; 8]);
            let mut wrapping = [0; 24];
            pbkdf2::pbkdf2_hmac::<Sha1>(passphrase.as_bytes(), &salt, ITERATIONS, &mut wrapping);
            let mut keys = [&self.key()[..], &VECTORS, b"CKIE\0"].concat();
            let padding = 8 - keys.len() % 8;
            keys.resize(keys.len() + padding, padding as u8);
            encrypt_cbc(&TdesEde3::new_from_slice(&wrapping).unwrap(), &mut keys, &iv);
            put!(header, 103u32, 0u32, ITERATIONS, 20u32);
            header.extend(salt);
            header.extend([0; 12]);
            put!(header, 8u32);
            header.extend(iv);
            header.extend([0; 24]);
            put!(header, 192u32, 17u32, 7u32, 6u32, keys.len() as u32);
            keys.resize(512, 0);
            header.extend(keys);
        }
        header.resize(HEADER, 0);
        header
    }

    /// The blocks of a file, the last one padded.
    pub fn blocks(&self, plain: &[u8]) -> Vec<u8> {
        let mut file = plain.to_vec();
        file.resize(plain.len().next_multiple_of(self.block as usize), 0);
        for (n, block) in file.chunks_mut(self.block as usize).enumerate() {
            let number = (n as u32).to_be_bytes();
            let vector =
                Hmac::<Sha1>::new_from_slice(&VECTORS).unwrap().chain_update(number).finalize().into_bytes();
            match self.bits {
                128 => {
                    encrypt_cbc(&Aes128Enc::new_from_slice(&self.key()).unwrap(), block, &vector[..16]);
                }
                _ => encrypt_cbc(&Aes256Enc::new_from_slice(&self.key()).unwrap(), block, &vector[..16]),
            }
        }
        file
    }
}

/// The key of the initialization vectors.
const VECTORS: [u8; 20] = *b"twenty bytes for it.";

fn encrypt_cbc<C: BlockCipherEncrypt + BlockSizeUser>(cipher: &C, bytes: &mut [u8], iv: &[u8]) {
    let mut before = iv.to_vec();
    for block in bytes.chunks_mut(iv.len()) {
        block.iter_mut().zip(&before).for_each(|(byte, before)| *byte ^= before);
        cipher.encrypt_block(Array::slice_as_mut_array(block).unwrap());
        before = block.to_vec();
    }
}

/// Encrypts an image that is one file.
pub fn encrypted(image: &[u8], how: &Encryption<'_>) -> Vec<u8> {
    [how.header(image.len() as u64), how.blocks(image)].concat()
}

/// Encrypts an image as Mac OS X before 10.5 did: blocks of 4096 bytes, and the keys at the end of the file.
pub fn encrypted_first(image: &[u8]) -> Vec<u8> {
    let how = Encryption { block: 4096, ..USUAL };
    let mut file = how.blocks(image);
    let (salt, len) = ([5; 20], file.len() as u64);
    let mut wrapping = [0; 24];
    pbkdf2::pbkdf2_hmac::<Sha1>(how.passphrases[0].as_bytes(), &salt, ITERATIONS, &mut wrapping);
    let cipher = TdesEde3::new_from_slice(&wrapping).unwrap();
    let seal = |plain: &[u8], iv: [u8; 8]| {
        let padding = 8 - plain.len() % 8;
        let mut sealed = [plain, &vec![padding as u8; padding]].concat();
        encrypt_cbc(&cipher, &mut sealed, &iv);
        sealed
    };
    let wrap = |key: &[u8], iv: [u8; 8]| {
        let mut inner = [&iv[..], &seal(&[&[0; 4], key].concat(), iv)].concat();
        inner.reverse();
        seal(&inner, [0x4A, 0xDD, 0xA2, 0x2C, 0x79, 0xE8, 0x21, 0x05])
    };
    let mut end = vec![0xE5; 16];
    put!(end, 4096u32, 17u32, 7u32, 6u32, 192u32, 8u32, 103u32, 0u32, ITERATIONS, 20u32);
    end.extend(salt);
    end.resize(88, 0);
    put!(end, 16u32, 5u32, 0x8000_0001u32, 128u32);
    for (at, next, key) in [(136, 396, &how.key()[..]), (436, 696, &VECTORS)] {
        end.resize(at, 0);
        let wrapped = wrap(key, [at as u8; 8]);
        put!(end, wrapped.len() as u32);
        end.extend(wrapped);
        end.resize(next, 0);
        put!(end, 91u32, 160u32);
    }
    end.resize(1256, 0);
    put!(end, len, 1u32);
    end.extend(b"cdsaencr");
    file.extend(end);
    file
}

/// The files of an encrypted sparse bundle: each band by itself, and the header as its token.
pub fn encrypted_bundle(disk: &[u8], how: &Encryption<'_>) -> Vec<(String, Vec<u8>)> {
    let files = sparsebundle(disk).into_iter();
    let encrypt = |(name, bytes): (String, Vec<u8>)| match name.as_str() {
        "token" => (name, how.header(0)),
        band if band.starts_with("bands/") => (name, how.blocks(&bytes)),
        _ => (name, bytes),
    };
    files.map(encrypt).collect()
}
