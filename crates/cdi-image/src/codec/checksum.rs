//! Checksums of chunks and of metadata structures.

use crc::{Algorithm, CRC_16_IBM_3740, CRC_16_XMODEM, CRC_32_ISO_HDLC, Crc, Digest, Table};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};
use xxhash_rust::xxh64::xxh64;

static CRC16: Crc<u16, Table<16>> = Crc::<u16, Table<16>>::new(&CRC_16_IBM_3740);
/// That of zip with the polynomial as for the other order of bits, and without the complement at the end.
static DISK_COPY_6: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&Algorithm {
    poly: 0x04C1_1DB7_u32.reverse_bits(),
    xorout: 0,
    check: 0,
    residue: 0,
    ..CRC_32_ISO_HDLC
});
static CRC32: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISO_HDLC);

/// A checksum of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sum {
    /// The format has none, so damage cannot be detected here.
    None,
    /// XXH3, 64 bits, seed 0, of the chunk as stored in the file.
    Xxh3(u64),
    /// The low half of XXH64, seed 0, of the uncompressed chunk.
    Xxh64Uncompressed(u32),
    /// XXH64, seed 0, of the uncompressed chunk.
    Xxh64(u64),
    /// XXH3 with 128 bits, seed 0, of the uncompressed chunk.
    Xxh3With128(u128),
    /// CRC-32 of the uncompressed chunk as a register, which is not inverted at the end: what is in it before and after the
    /// chunk.
    Crc32State {
        /// Before.
        before: u32,
        /// After.
        after: u32,
    },
    /// CRC-16 (polynomial 0x1021, initial value 0xFFFF) of the uncompressed chunk.
    Crc16Uncompressed(u16),
    /// MD5 of the uncompressed chunk.
    Md5Uncompressed([u8; 16]),
    /// SHA-1 of the uncompressed chunk.
    Sha1Uncompressed([u8; 20]),
    /// SHA-256 of the uncompressed chunk.
    Sha256Uncompressed([u8; 32]),
}

impl Sum {
    /// Checks `compressed`, the chunk as stored in the file. Returns true if there is no checksum of that.
    pub fn matches(self, compressed: &[u8]) -> bool {
        match self {
            Sum::Xxh3(sum) => xxh3_64(compressed) == sum,
            _ => true,
        }
    }

    /// Checks `uncompressed`, the uncompressed chunk. Returns true if there is no checksum of that.
    pub fn matches_uncompressed(self, uncompressed: &[u8]) -> bool {
        match self {
            Sum::Xxh64Uncompressed(sum) => {
                xxh64(uncompressed, 0).to_le_bytes().starts_with(&sum.to_le_bytes())
            }
            Sum::Xxh64(sum) => xxh64(uncompressed, 0) == sum,
            Sum::Xxh3With128(sum) => xxh3_128(uncompressed) == sum,
            Sum::Crc32State { before, after } => crc32_state(before, uncompressed) == after,
            Sum::Crc16Uncompressed(sum) => CRC16.checksum(uncompressed) == sum,
            Sum::Md5Uncompressed(sum) => *Md5::digest(uncompressed) == sum,
            Sum::Sha1Uncompressed(sum) => *Sha1::digest(uncompressed) == sum,
            Sum::Sha256Uncompressed(sum) => *Sha256::digest(uncompressed) == sum,
            Sum::None | Sum::Xxh3(_) => true,
        }
    }
}

/// Starts a CRC-16 (polynomial 0x1021, initial value 0xFFFF).
pub fn crc16() -> Digest<'static, u16, Table<16>> {
    CRC16.digest()
}

/// Returns what the register of a CRC-32 contains after `bytes`, if it contained `before`. It is not inverted at the end.
pub fn crc32_state(before: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(!before);
    hasher.update(bytes);
    !hasher.finalize()
}

/// Returns the CRC-16 (polynomial 0x1021, initial value 0) of `bytes`.
pub fn crc16_xmodem(bytes: &[u8]) -> u16 {
    Crc::<u16>::new(&CRC_16_XMODEM).checksum(bytes)
}

/// A CRC-32 in progress.
pub type Crc32 = Digest<'static, u32, Table<16>>;

/// Starts a CRC-32 (the one of zip and Ethernet).
pub fn crc32() -> Crc32 {
    CRC32.digest()
}

/// Starts the CRC-32 of DiskCopy 6.
pub fn disk_copy_6() -> Crc32 {
    DISK_COPY_6.digest()
}

/// Returns the Adler-32 (RFC 1950) of `bytes`.
pub fn adler32(bytes: &[u8]) -> u32 {
    let (mut a, mut b) = (1u32, 0u32);
    // The sums cannot overflow within this many bytes.
    for part in bytes.chunks(5552) {
        for byte in part {
            a += u32::from(*byte);
            b += a;
        }
        (a, b) = (a % 65_521, b % 65_521);
    }
    b << 16 | a
}
