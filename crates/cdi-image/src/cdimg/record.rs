//! Reads and encodes single records.

use cdi_base::error::{Error, Flaw};
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::layout::{HEADER_LEN, MAX_PAYLOAD, RECORD_MAGIC, RecordHeader, RecordType};
use crate::codec::{Codec, decompress};
use crate::input::Input;

/// A record as stored in the file, with a valid header and a correct checksum.
#[derive(Debug, Clone)]
pub struct Record {
    /// The offset in the file, in bytes.
    pub at: u64,
    /// The header.
    pub header: RecordHeader,
    /// The payload, as stored.
    pub stored: Vec<u8>,
}

impl Record {
    /// Returns the type, if this version supports it.
    pub fn kind(&self) -> Option<RecordType> {
        RecordType::from_number(self.header.kind)
    }

    /// Returns the offset of the payload, in bytes.
    pub fn payload_at(&self) -> u64 {
        self.at + HEADER_LEN as u64
    }

    /// Decompresses the payload.
    pub fn payload(&self) -> Result<Vec<u8>, Flaw> {
        let codec = Codec::from_number(self.header.codec)
            .ok_or_else(|| Flaw::at(self.at, format!("unknown codec {}", self.header.codec)))?;
        let mut out = vec![0; self.header.uncompressed.get() as usize];
        decompress(codec, &self.stored, &mut out)
            .map_err(|_| Flaw::at(self.at, format!("cannot decompress the {} payload", codec.name())))?;
        Ok(out)
    }
}

/// Reads the header at offset `at`, if there is a valid one of the image with `salt`, or, without a salt, of any image.
pub fn header_at(
    input: &Input,
    at: u64,
    salt: impl Into<Option<u64>>,
) -> Result<Option<RecordHeader>, Error> {
    let salt = salt.into();
    if at.checked_add(HEADER_LEN as u64).is_none_or(|end| end > input.len()) {
        return Ok(None);
    }
    let header = |bytes: &[u8]| {
        let header = RecordHeader::read_from_bytes(bytes).ok();
        header.filter(|h| h.is_valid(salt.unwrap_or(h.salt.get())))
    };
    let bytes = input.bytes_right(at, HEADER_LEN, "a record's header", |bytes| header(bytes).is_some())?;
    Ok(bytes.and_then(|bytes| header(&bytes)))
}

/// Reads the record at offset `at`, which must exist and be of type `kind`.
pub fn read(input: &Input, at: u64, salt: u64, kind: RecordType) -> Result<Record, Error> {
    match header_at(input, at, salt)? {
        None => Err(Flaw::at(at, format!("expected a {kind:?} record")).into()),
        Some(h) if h.kind != kind as u8 => {
            Err(Flaw::at(at, format!("expected a {kind:?} record, found one of type {}", h.kind)).into())
        }
        Some(header) => with_payload(input, at, header)?
            .ok_or_else(|| Flaw::at(at, format!("checksum mismatch in the {kind:?} record")).into()),
    }
}

/// Reads the record with `header` at offset `at`. Returns `None` if its payload is truncated or damaged.
pub fn with_payload(input: &Input, at: u64, header: RecordHeader) -> Result<Option<Record>, Error> {
    let (start, len) = (at + HEADER_LEN as u64, u64::from(header.stored.get()));
    if start.checked_add(len).is_none_or(|end| end > input.len()) {
        return Ok(None);
    }
    let is_right = |bytes: &[u8]| xxh3_64(bytes) == header.payload_sum.get();
    let stored = input.bytes_right(start, header.stored.get() as usize, "a record's payload", is_right)?;
    Ok(stored.map(|stored| Record { at, header, stored }))
}

/// The contents of the header of a new record; see [`encode`].
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// The type.
    pub kind: RecordType,
    /// How the payload is compressed.
    pub codec: Codec,
    /// The uncompressed length of the payload, in bytes.
    pub uncompressed: u32,
    /// The first byte of the disk that the record is about.
    pub disk_at: u64,
    /// The number of bytes of the disk that the record is about.
    pub disk_len: u64,
    /// For NODE: the level. Otherwise 0.
    pub detail: u16,
}

/// Returns the header of a record with `payload`.
pub fn encode(head: Head, salt: u64, epoch: u32, payload: &[u8]) -> RecordHeader {
    debug_assert!(payload.len() <= MAX_PAYLOAD as usize);
    RecordHeader {
        magic: RECORD_MAGIC,
        salt: U64::new(salt),
        disk_at: U64::new(head.disk_at),
        disk_len: U64::new(head.disk_len),
        payload_sum: U64::new(xxh3_64(payload)),
        stored: U32::new(u32::try_from(payload.len()).unwrap_or(u32::MAX)),
        uncompressed: U32::new(head.uncompressed),
        epoch: U32::new(epoch),
        kind: head.kind as u8,
        codec: head.codec as u8,
        detail: U16::new(head.detail),
        sum: U64::new(0),
    }
    .sealed()
}

/// Decodes a payload as an array of `T`, whose length it must be a multiple of.
pub fn array<T>(bytes: &[u8], at: u64, what: &str) -> Result<Vec<T>, Flaw>
where
    T: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned + Copy,
{
    <[T]>::ref_from_bytes(bytes)
        .map(<[T]>::to_vec)
        .map_err(|_| Flaw::at(at, format!("{what}: {} bytes are not a whole number of entries", bytes.len())))
}
