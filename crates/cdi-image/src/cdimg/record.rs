//! Records, one by one: reading one where it should be, and walking over all of them.

use cdi_base::error::{Error, Flaw};
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::layout::{HEADER_LEN, MAX_PAYLOAD, RECORD_MAGIC, RecordHeader, RecordType};
use crate::codec::{Codec, decompress};
use crate::input::Input;

/// A record as it lies in the file, its header and checksum found right.
#[derive(Debug, Clone)]
pub struct Record {
    /// Where it begins, in bytes.
    pub at: u64,
    /// Its header.
    pub header: RecordHeader,
    /// Its payload, as stored.
    pub stored: Vec<u8>,
}

impl Record {
    /// Its type, if this version knows it.
    pub fn kind(&self) -> Option<RecordType> {
        RecordType::from_number(self.header.kind)
    }

    /// Where its payload begins.
    pub fn payload_at(&self) -> u64 {
        self.at + HEADER_LEN as u64
    }

    /// Its payload, uncompressed.
    pub fn payload(&self) -> Result<Vec<u8>, Flaw> {
        let codec = Codec::from_number(self.header.codec)
            .ok_or_else(|| Flaw::at(self.at, format!("unknown codec {}", self.header.codec)))?;
        let mut out = vec![0; self.header.uncompressed.get() as usize];
        decompress(codec, &self.stored, &mut out)
            .map_err(|_| Flaw::at(self.at, format!("its {} payload does not decompress", codec.name())))?;
        Ok(out)
    }
}

/// Reads the header at `at`, if there is a sound one of the image with `salt`; without a salt, of any image.
pub fn header_at(
    input: &Input,
    at: u64,
    salt: impl Into<Option<u64>>,
) -> Result<Option<RecordHeader>, Error> {
    let salt = salt.into();
    if at.checked_add(HEADER_LEN as u64).is_none_or(|end| end > input.len()) {
        return Ok(None);
    }
    let bytes = input.bytes(at, HEADER_LEN, "a record's header")?;
    let header = RecordHeader::read_from_bytes(&bytes).ok();
    Ok(header.filter(|h| h.is_sound(salt.unwrap_or(h.salt.get()))))
}

/// Reads the record at `at`, which must be there and of type `kind`.
pub fn read(input: &Input, at: u64, salt: u64, kind: RecordType) -> Result<Record, Error> {
    match header_at(input, at, salt)? {
        None => Err(Flaw::at(at, format!("there should be a {kind:?} record here")).into()),
        Some(h) if h.kind != kind as u8 => {
            Err(Flaw::at(at, format!("there should be a {kind:?} record here, but it is of type {}", h.kind))
                .into())
        }
        Some(header) => with_payload(input, at, header)?
            .ok_or_else(|| Flaw::at(at, format!("the checksum of this {kind:?} record is wrong")).into()),
    }
}

/// The record with `header` at `at`, or `None` if its payload is cut off or damaged.
pub fn with_payload(input: &Input, at: u64, header: RecordHeader) -> Result<Option<Record>, Error> {
    let (start, len) = (at + HEADER_LEN as u64, u64::from(header.stored.get()));
    if start.checked_add(len).is_none_or(|end| end > input.len()) {
        return Ok(None);
    }
    let stored = input.bytes(start, header.stored.get() as usize, "a record's payload")?;
    Ok((xxh3_64(&stored) == header.payload_sum.get()).then_some(Record { at, header, stored }))
}

/// What a record is to say; see [`encode`].
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// Its type.
    pub kind: RecordType,
    /// How its payload is compressed.
    pub codec: Codec,
    /// The length of its payload when uncompressed, in bytes.
    pub uncompressed: u32,
    /// The first byte of the disk that it speaks of.
    pub disk_at: u64,
    /// How many bytes of the disk it speaks of.
    pub disk_len: u64,
    /// The level of a NODE.
    pub detail: u16,
}

/// The header of a record with `payload`.
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

/// Decodes a payload as an array of `T`, which must fill it.
pub fn array<T>(bytes: &[u8], at: u64, what: &str) -> Result<Vec<T>, Flaw>
where
    T: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned + Copy,
{
    <[T]>::ref_from_bytes(bytes)
        .map(<[T]>::to_vec)
        .map_err(|_| Flaw::at(at, format!("{what}: {} bytes are not a whole number of entries", bytes.len())))
}
