//! The header of an archive: which disks it contains.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cdi_base::error::Error;
use cdi_base::units::index;
use md5::{Digest, Md5};

use super::extents::CLUSTER;
use crate::bytes::{be32, be64, flaw};
use crate::input::Input;

pub(super) const MAGIC: &[u8] = b"VMA\0";
/// The length of the fixed part in bytes; texts follow.
const FIXED: usize = 12_288;
/// Maximum length of the whole header in bytes: Proxmox writes at most 512 KiB.
const MAX_LEN: u64 = 4 << 20;
/// The offset of the table of devices, and the length of an entry, in bytes.
const DEVICES: usize = 4096;
const DEVICE: usize = 32;
/// The name of the device that is the machine's memory, and no disk.
const MEMORY: &str = "vmstate";

/// What the header says.
pub(super) struct Header {
    /// Identifies the archive; it is in the header of each extent, too.
    pub uuid: [u8; 16],
    /// When the archive was made.
    pub created: SystemTime,
    /// The file offset of the first extent.
    pub len: u64,
    devices: Vec<Device>,
}

/// A disk, or the machine's memory.
#[derive(Debug, Clone)]
pub(super) struct Device {
    pub id: u8,
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
}

impl Header {
    /// Reads the header.
    pub(super) fn read(input: &Input) -> Result<Header, Error> {
        let fixed = input.bytes(0, FIXED, "the header")?;
        if !fixed.starts_with(MAGIC) {
            return flaw(0, "not a Proxmox backup archive");
        }
        let version = be32(&fixed, 4);
        if version != 1 {
            return flaw(4, format!("unsupported version {version} (only version 1 is supported)"));
        }
        let len = u64::from(be32(&fixed, 56));
        if !(FIXED as u64..=MAX_LEN).contains(&len) || !len.is_multiple_of(512) {
            return flaw(56, format!("invalid length of the header: {len} bytes"));
        }
        let mut header = input.bytes(0, index(len), "the header")?;
        if !is_signed(&mut header, 32) {
            return flaw(32, "the header is damaged: it does not match its checksum");
        }
        let texts = (be32(&header, 48) as usize, be32(&header, 52) as usize);
        let texts = header.get(texts.0..).and_then(|texts_on| texts_on.get(..texts.1));
        let Some(texts) = texts else { return flaw(48, "the texts extend past the end of the header") };
        let device = |id: u8| {
            let at = DEVICES + usize::from(id) * DEVICE;
            let size = be64(&header, at + 8);
            (size > 0).then(|| Ok(Device { id, name: text(texts, be32(&header, at), at)?, size }))
        };
        let devices = (1..=u8::MAX).filter_map(device).collect::<Result<Vec<_>, Error>>()?;
        let too_large = |device: &&Device| device.size.div_ceil(CLUSTER) > 1 << 32;
        if let Some(device) = devices.iter().find(too_large) {
            let at = (DEVICES + usize::from(device.id) * DEVICE) as u64;
            return flaw(at + 8, format!("invalid size of '{}': {} bytes", device.name, device.size));
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&header[8..24]);
        // A time after the year 9999 is none.
        let seconds = be64(&header, 24).min(253_402_300_799);
        Ok(Header { uuid, created: UNIX_EPOCH + Duration::from_secs(seconds), len, devices })
    }

    /// Returns the disks.
    pub(super) fn disks(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter(|device| device.name != MEMORY)
    }
}

/// Returns the text at offset `place` of the texts: two bytes with its length, then the text with a zero at its end.
/// The reference to it is at file offset `from`.
fn text(texts: &[u8], place: u32, from: usize) -> Result<String, Error> {
    let text = texts.get(index(place.into())..).and_then(|rest| {
        let (len, rest) = rest.split_first_chunk::<2>()?;
        rest.get(..u16::from_le_bytes(*len).into())
    });
    match text.and_then(|text| text.strip_suffix(b"\0")) {
        Some(name) => Ok(String::from_utf8_lossy(name).into_owned()),
        None => flaw(from as u64, "the name of a disk is not in the header"),
    }
}

/// Checks the MD5 of a header, which is at offset `at` in it, and is computed with zeros there.
pub(super) fn is_signed(header: &mut [u8], at: usize) -> bool {
    let Some(sum) = header.get_mut(at..at + 16) else { return false };
    let stored = sum.to_vec();
    sum.fill(0);
    let is_right = Md5::digest(&header[..])[..] == stored;
    header[at..at + 16].copy_from_slice(&stored);
    is_right
}
