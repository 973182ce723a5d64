//! The checksums of ext4: CRC-32C and CRC-16, both without a final inversion (Linux, `ext4_chksum` and `crc16`).

use crc::{Algorithm, CRC_16_MODBUS, CRC_32_ISCSI, Crc, Table};

const RAW_CRC32C: Algorithm<u32> = Algorithm { xorout: 0, ..CRC_32_ISCSI };

static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&RAW_CRC32C);
static CRC16: Crc<u16> = Crc::<u16>::new(&CRC_16_MODBUS);

/// Returns the CRC-32C of `parts`, one after the other, continuing from `seed`.
pub(super) fn crc32c(seed: u32, parts: &[&[u8]]) -> u32 {
    let mut digest = CRC32C.digest_with_initial(seed.reverse_bits());
    for part in parts {
        digest.update(part);
    }
    digest.finalize()
}

/// Returns the CRC-16 of `parts`, one after the other.
pub(super) fn crc16(parts: &[&[u8]]) -> u16 {
    let mut digest = CRC16.digest();
    for part in parts {
        digest.update(part);
    }
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_linux() {
        assert_eq!(crc32c(u32::MAX, &[b"123456789"]), !0xe306_9283);
        let first = crc32c(u32::MAX, &[b"1234"]);
        assert_eq!(crc32c(first, &[b"567", b"89"]), !0xe306_9283);
        assert_eq!(crc16(&[b"12345", b"6789"]), 0x4b37);
    }
}
