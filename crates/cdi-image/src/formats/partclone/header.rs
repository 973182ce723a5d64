//! The header of a partclone image.

use cdi_base::error::Error;

use crate::bytes::{flaw, le16, le32, le64};
use crate::codec::crc32;
use crate::extent::FileNo;
use crate::input::Input;

pub(super) const MAGIC: &[u8] = b"partclone-image";
/// The length of a header of version 0002, and of one of version 0001, in bytes.
const LEN: usize = 110;
const OLD_LEN: u64 = 4160;
/// The largest block of the format, in bytes.
const MAX_BLOCK: u64 = 64 << 20;
/// The maximum number of blocks: their bitmap has 2 GiB.
const MAX_BLOCKS: u64 = 1 << 34;

/// How blocks are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    None,
    Crc32,
    Xxh64,
    Xxh128,
    /// Of version 0001: a CRC-32 of the first byte of each block only, because of a bug. It has this many bytes.
    Old(u64),
}

impl Checksum {
    /// Returns its length in bytes.
    pub(super) fn len(self) -> u64 {
        match self {
            Checksum::None => 0,
            Checksum::Crc32 => 4,
            Checksum::Xxh64 => 8,
            Checksum::Xxh128 => 16,
            Checksum::Old(len) => len,
        }
    }
}

/// How the blocks that are in the image are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bitmap {
    /// All are.
    None,
    Bits,
    Bytes,
}

impl Bitmap {
    /// Returns the length of the bitmap for this number of blocks, with what follows it, in bytes.
    pub(super) fn stored_len(self, blocks: u64) -> u64 {
        match self {
            Bitmap::None => 0,
            Bitmap::Bits => blocks.div_ceil(8) + 4,
            Bitmap::Bytes => blocks + 8,
        }
    }
}

/// What the header says.
#[derive(Debug, Clone)]
pub(super) struct Header {
    /// The length of the header in bytes; the bitmap follows.
    pub(super) len: u64,
    pub(super) file_system: String,
    /// The version of partclone.
    pub(super) tool: String,
    /// The size of the partition in bytes.
    pub(super) size: u64,
    pub(super) block: u64,
    /// The number of blocks.
    pub(super) blocks: u64,
    pub(super) bitmap: Bitmap,
    pub(super) checksum: Checksum,
    /// How many blocks that are in the image a checksum covers.
    pub(super) per_checksum: u64,
    /// Whether each checksum starts over; otherwise it continues the one before.
    pub(super) reseed: bool,
}

impl Header {
    /// Reads the header of `file`.
    pub(super) fn read(input: &Input, file: FileNo) -> Result<Header, Error> {
        let bytes = input.bytes_of(file, 0, LEN, "the header")?;
        if !bytes.starts_with(MAGIC) {
            return flaw(0, "not a partclone image");
        }
        let header = match &bytes[30..34] {
            b"0001" => Header::version_1(&bytes),
            b"0002" => Header::version_2(&bytes)?,
            other => {
                let version = String::from_utf8_lossy(other);
                return flaw(30, format!("unsupported version '{version}' (supported: 0001 and 0002)"));
            }
        };
        if header.block == 0 || header.block > MAX_BLOCK {
            return flaw(36, format!("invalid block size: {} bytes", header.block));
        }
        if header.blocks == 0 || header.blocks > MAX_BLOCKS {
            return flaw(48, format!("unsupported number of blocks: {}", header.blocks));
        }
        // No overflow: 2^34 times 2^26.
        let covered = header.blocks * header.block;
        // Version 0001 has sizes that are too small in files by 32-bit programs.
        let size = header.size.max(covered);
        if i64::try_from(size).is_err() {
            return flaw(40, format!("invalid partition size: {size} bytes"));
        }
        Ok(Header { size, ..header })
    }

    fn version_1(bytes: &[u8]) -> Header {
        Header {
            len: OLD_LEN,
            file_system: text_of(&bytes[15..30]),
            tool: "partclone 0.2 or older".into(),
            size: le64(bytes, 40),
            block: le32(bytes, 36).into(),
            blocks: le64(bytes, 48),
            bitmap: Bitmap::Bytes,
            checksum: Checksum::Old(4),
            per_checksum: 1,
            reseed: false,
        }
    }

    fn version_2(bytes: &[u8]) -> Result<Header, Error> {
        let mut crc = crc32();
        crc.update(&bytes[..LEN - 4]);
        // partclone does not invert the result.
        if !crc.finalize() != le32(bytes, LEN - 4) {
            return flaw(106, "the header is damaged: its checksum is wrong");
        }
        match le16(bytes, 34) {
            0xC0DE => {}
            0xDEC0 => return flaw(34, "made on a big-endian machine (not supported)"),
            other => return flaw(34, format!("unknown byte order {other:#x}")),
        }
        let (mode, len) = (le16(bytes, 96), u64::from(le16(bytes, 98)));
        let checksum = match mode {
            0 => Checksum::None,
            0x20 => Checksum::Crc32,
            0x30 => Checksum::Xxh64,
            0x31 => Checksum::Xxh128,
            other => return flaw(96, format!("unknown kind of checksum ({other:#x})")),
        };
        if checksum.len() != len {
            return flaw(98, format!("checksums of {len} bytes do not fit their kind ({mode:#x})"));
        }
        let per_checksum = u64::from(le32(bytes, 100));
        if checksum != Checksum::None && per_checksum == 0 {
            return flaw(100, "checksums of no blocks");
        }
        let bitmap = match bytes[105] {
            0 => Bitmap::None,
            1 => Bitmap::Bits,
            8 => Bitmap::Bytes,
            other => return flaw(105, format!("unknown kind of bitmap ({other})")),
        };
        Ok(Header {
            len: LEN as u64,
            file_system: text_of(&bytes[36..52]),
            tool: format!("partclone {}", text_of(&bytes[16..30])),
            size: le64(bytes, 52),
            block: le32(bytes, 84).into(),
            blocks: le64(bytes, 60),
            bitmap,
            checksum,
            // Without checksums, the format has no strips; any length will do.
            per_checksum: if checksum == Checksum::None { u64::MAX } else { per_checksum },
            reseed: bytes[104] != 0,
        })
    }
}

/// Returns a text that ends at the first zero byte.
fn text_of(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).trim().to_owned()
}
