//! Writers of other programs' formats, written from the formats' descriptions and not from the readers, for images that no
//! program on a test machine writes.

mod aff;
mod aff4;
mod android_sparse;
mod asif;
mod diskcopy;
mod dmg;
pub mod encrypted;
mod ewf2;
pub mod iboredimg;
pub mod ndif;
mod parallels;
mod partclone;
mod sparse;
pub mod vhd;
pub mod vhdx;
mod vma;
pub mod xways;
mod zstd_frame;
mod zstd_seekable;

use std::io::Write;

use crc::{CRC_32_ISO_HDLC, Crc};

pub use aff::{AffPage, aff, aff_kind, aff_mark, aff_quad, aff_segment};
pub use aff4::{Aff4, aff4};
pub use android_sparse::{android_sparse, android_sparse_part};
pub use asif::{Asif, asif};
pub use diskcopy::diskcopy;
pub use dmg::{Tables, dmg, dmg_segments};
pub use encrypted::{Encryption, encrypted, encrypted_bundle, encrypted_first};
pub use ewf2::{ex01, ex01_bzip2, ex01_segments};
pub use parallels::{parallels, parallels_descriptor};
pub use partclone::partclone_v1;
pub use sparse::{sparsebundle, sparseimage};
pub use vma::{sign_vma, vma};
pub use xways::{XWays, xways};
pub use zstd_frame::as_long_frame;
pub use zstd_seekable::zstd_seekable;

fn crc32(bytes: &[u8]) -> u32 {
    Crc::<u32>::new(&CRC_32_ISO_HDLC).checksum(bytes)
}

pub fn adler(bytes: &[u8]) -> [u8; 4] {
    let (a, b) = bytes.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65521;
        (a, (b + a) % 65521)
    });
    (b << 16 | a).to_le_bytes()
}

pub fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let n = part.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - part.len()));
        for i in 0..4 {
            let letter = LETTERS[(n >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= part.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

/// Appends numbers, big-endian.
macro_rules! put {
    ($out:expr, $($number:expr),+) => { $($out.extend(($number).to_be_bytes());)+ };
}
use put;
