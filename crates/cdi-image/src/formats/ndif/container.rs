//! Where the two forks of a Mac's file are: in one file (MacBinary, AppleSingle), or the resource fork in a file of its own
//! next to it (AppleDouble).
//!
//! Sources: "MacBinary II Standard" and "MacBinary III"; RFC 1740. All numbers are big-endian.

use std::ops::Range;
use std::path::PathBuf;

use cdi_base::error::Error;
use cdi_base::units::index;

use crate::bytes::{be16, be32, flaw};
use crate::codec::crc16_xmodem;
use crate::extent::FileNo;
use crate::input::Input;

/// The maximum length of a resource fork in bytes: its offsets have 24 bits.
const MAX_FORK: u64 = 1 << 25;
/// The length of MacBinary's header in bytes, and what its parts are padded to.
const MAC_BINARY: usize = 128;
const APPLE_SINGLE: u32 = 0x0005_1600;
const APPLE_DOUBLE: u32 = 0x0005_1607;
/// The length of the header of AppleSingle and AppleDouble before its entries, and of an entry; how many there may be.
const APPLE: usize = 26;
const ENTRY: usize = 12;
const MAX_ENTRIES: u16 = 64;
/// The entries for the forks.
const DATA: u32 = 1;
const RESOURCES: u32 = 2;

/// The forks of a file.
pub(super) struct Forks {
    /// Where the data fork is in the main file, in bytes.
    pub data: Range<u64>,
    /// The resource fork.
    pub resources: Vec<u8>,
    /// The file of the resource fork, and where it begins there, for errors.
    pub path: PathBuf,
    pub at: u64,
    /// A warning about the container, if it is damaged where that does no harm.
    pub warning: Option<String>,
}

/// Finds the forks. None if the file has only one.
pub(super) fn forks(input: &Input) -> Result<Option<Forks>, Error> {
    if input.is_device() || input.is_directory() {
        return Ok(None);
    }
    let start = input.bytes(0, MAC_BINARY, "the header").unwrap_or_default();
    if be32(&start, 0) == APPLE_SINGLE {
        let [data, resources] = entries(input, Input::MAIN)?;
        return match (data, resources) {
            (Some(data), Some(fork)) => read(input, Input::MAIN, data, fork).map(Some),
            _ => Ok(None),
        };
    }
    if let Some((data, resources)) = mac_binary(&start, input.len()) {
        let mut forks = read(input, Input::MAIN, data, resources)?;
        // Since MacBinary II; programs that change a name leave it as it was.
        if start[122] >= 129 && be16(&start, 124) != crc16_xmodem(&start[..124]) {
            let what = "the checksum of the MacBinary header does not match: it was changed, or is damaged";
            forks.warning = Some(what.into());
        }
        return Ok(Some(forks));
    }
    // Such files are made by Macs, on disks and not on servers, where looking for them would cost a request.
    if input.is_remote() {
        return Ok(None);
    }
    let mut name = std::ffi::OsString::from("._");
    name.push(input.path().file_name().unwrap_or_default());
    let Some(other) = input.sibling(name.as_ref()).ok().flatten() else { return Ok(None) };
    if input.bytes_of(other, 0, 4, "the header").map_or(0, |b| be32(&b, 0)) != APPLE_DOUBLE {
        return Ok(None);
    }
    let [_, resources] = entries(input, other).map_err(|e| e.at(&input.path_of(other)))?;
    match resources {
        Some(fork) => read(input, other, 0..input.len(), fork).map(Some),
        None => Ok(None),
    }
}

fn read(input: &Input, file: FileNo, data: Range<u64>, resources: Range<u64>) -> Result<Forks, Error> {
    let (at, len) = (resources.start, resources.end - resources.start);
    if len > MAX_FORK {
        return flaw(at, format!("a resource fork of {len} bytes is too long"));
    }
    Ok(Forks {
        data,
        resources: input.bytes_of(file, at, index(len), "the resource fork")?,
        path: input.path_of(file),
        at,
        warning: None,
    })
}

/// Returns where the data fork and the resource fork are in a MacBinary file of `len` bytes.
fn mac_binary(header: &[u8], len: u64) -> Option<(Range<u64>, Range<u64>)> {
    let zeros = [0, 74, 82].iter().all(|at| header.get(*at) == Some(&0));
    if !zeros || !(1..=63).contains(&header[1]) {
        return None;
    }
    let (data, resources) = (u64::from(be32(header, 83)), u64::from(be32(header, 87)));
    let block = MAC_BINARY as u64;
    let second = u64::from(be16(header, 120)).next_multiple_of(block);
    let start = block + second;
    let fork = start + data.next_multiple_of(block);
    (data > 0 && resources > 0 && fork + resources <= len)
        .then_some((start..start + data, fork..fork + resources))
}

/// Returns where the data fork and the resource fork are in a file in AppleSingle or AppleDouble form.
fn entries(input: &Input, file: FileNo) -> Result<[Option<Range<u64>>; 2], Error> {
    let header = input.bytes_of(file, 0, APPLE, "the header")?;
    let count = be16(&header, 24);
    if count > MAX_ENTRIES {
        return flaw(24, format!("invalid number of entries: {count}"));
    }
    let list = input.bytes_of(file, APPLE as u64, usize::from(count) * ENTRY, "the entries")?;
    let mut found = [None, None];
    for (n, entry) in list.chunks_exact(ENTRY).enumerate() {
        let place = match be32(entry, 0) {
            DATA => &mut found[0],
            RESOURCES => &mut found[1],
            _ => continue,
        };
        let (start, len) = (u64::from(be32(entry, 4)), u64::from(be32(entry, 8)));
        if start + len > input.len_of(file) {
            let what = format!("the fork ({len} bytes at byte {start}) extends past the end of the file");
            return flaw((APPLE + n * ENTRY) as u64, what);
        }
        *place = Some(start..start + len).filter(|fork| !fork.is_empty());
    }
    Ok(found)
}
