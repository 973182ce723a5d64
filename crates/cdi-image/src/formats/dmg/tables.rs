//! The chunk tables of a UDIF image, from its property list or, in old images, its resource fork.

use std::ops::Range;

use cdi_base::error::Error;
use cdi_base::units::{SECTOR, index};

use super::{CRC32, Run, Source};
use crate::bytes::{be32, be64, flaw};
use crate::codec::Codec;
use crate::extent::MAX_CHUNK;
use crate::formats::property_list;
use crate::formats::resource_fork::resources;
use crate::input::Input;

/// Maximum length of a property list or resource fork in bytes: enough for the chunks of a disk of more than 1 TiB.
const MAX_LEN: u64 = 64 << 20;
/// The length in bytes of a table's header, and of an entry.
const HEADER: usize = 204;
const ENTRY: usize = 40;

/// The chunk table of a part of the disk.
pub(super) struct Table {
    /// The name of the part.
    pub name: String,
    /// The part, in bytes.
    pub disk: Range<u64>,
    /// The CRC-32 of the part's bytes, without free space.
    pub crc: Option<u32>,
    bytes: Vec<u8>,
    /// The file offset where it was found, for errors.
    at: u64,
}

/// Reads all tables of the image whose trailer is at `at`. A read/write image has none.
pub(super) fn read(input: &Input, at: u64, trailer: &[u8]) -> Result<Vec<Table>, Error> {
    let part = |field: usize, what: &str| {
        let (start, len) = (be64(trailer, field), be64(trailer, field + 8));
        if len > MAX_LEN {
            return flaw(at + field as u64, format!("{what} of {len} bytes is too long"));
        }
        Ok((start, index(len)))
    };
    let (list_at, list_len) = part(216, "a property list")?;
    let (fork_at, fork_len) = part(40, "a resource fork")?;
    let (found, at) = if list_len > 0 {
        let text = input.bytes(list_at, list_len, "the property list")?;
        (list(&text).or_else(|why| flaw(list_at, why))?, list_at)
    } else if fork_len > 0 {
        let bytes = input.bytes(fork_at, fork_len, "the resource fork")?;
        let what = "the resource fork is damaged";
        (resources(&bytes, b"blkx").map_or_else(|| flaw(fork_at, what), Ok)?, fork_at)
    } else {
        return Ok(Vec::new());
    };
    if found.is_empty() {
        return flaw(at, "no chunk tables found");
    }
    found.into_iter().map(|(name, bytes)| Table::new(name, bytes, at)).collect()
}

fn list(text: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
    let list = property_list::read(text)?;
    let tables =
        list.as_dictionary().and_then(|d| d.get("resource-fork")?.as_dictionary()?.get("blkx")?.as_array());
    let tables = tables.ok_or("the property list contains no chunk tables")?.iter();
    let table = |table: &plist::Value| {
        let table = table.as_dictionary()?;
        let name = table.get("Name").and_then(|n| n.as_string()).unwrap_or_default();
        Some((name.to_owned(), table.get("Data")?.as_data()?.to_vec()))
    };
    tables.map(|t| table(t).ok_or_else(|| "a chunk table in the property list has no data".into())).collect()
}

impl Table {
    fn new(name: String, bytes: Vec<u8>, at: u64) -> Result<Table, Error> {
        let wrong = |what: String| flaw(at, format!("chunk table of '{name}': {what}"));
        if bytes.len() < HEADER || !bytes.starts_with(b"mish") {
            return wrong("not a chunk table".into());
        }
        let (version, entries) = (be32(&bytes, 4), be32(&bytes, 200) as usize);
        if version != 1 {
            return wrong(format!("unsupported version {version} (only version 1 is supported)"));
        }
        if bytes.len() - HEADER < entries.saturating_mul(ENTRY) {
            return wrong(format!("{entries} entries do not fit into {} bytes", bytes.len()));
        }
        let Some(disk) = sectors(be64(&bytes, 8), be64(&bytes, 16)) else {
            return wrong("invalid range of sectors".into());
        };
        let crc = (be32(&bytes, 64) == CRC32).then(|| be32(&bytes, 72));
        Ok(Table { name, disk, crc, bytes, at })
    }

    /// Appends the table's chunks to `runs`. `data` is where the image's data begins in its file, which has `file_len` bytes.
    pub(super) fn runs(&self, data: u64, file_len: u64, runs: &mut Vec<Run>) -> Result<(), Error> {
        let base = data.checked_add(be64(&self.bytes, 24));
        let entries = be32(&self.bytes, 200) as usize;
        for (n, e) in self.bytes[HEADER..].chunks_exact(ENTRY).take(entries).enumerate() {
            let wrong =
                |what: String| flaw(self.at, format!("chunk table of '{}', entry {n}: {what}", self.name));
            let codec = match be32(e, 0) {
                0..=2 => Codec::Stored,
                0x8000_0004 => Codec::Adc,
                0x8000_0005 => Codec::ZlibPadded,
                0x8000_0006 => Codec::Bzip2,
                0x8000_0007 => Codec::Lzfse,
                0x8000_0008 => Codec::Xz,
                // A comment.
                0x7FFF_FFFE => continue,
                0xFFFF_FFFF => break,
                kind => return wrong(format!("unknown chunk type {kind:#x}")),
            };
            let disk = sectors(be64(e, 8), be64(e, 16))
                .and_then(|d| {
                    Some(d.start.checked_add(self.disk.start)?..d.end.checked_add(self.disk.start)?)
                })
                .filter(|d| i64::try_from(d.end).is_ok());
            let Some(disk) = disk else { return wrong("invalid range of sectors".into()) };
            if disk.end > self.disk.end {
                return wrong("the chunk extends past the end of the table's range".into());
            }
            match be32(e, 0) {
                0 => {
                    runs.push(Run { disk, source: Source::Zeros });
                    continue;
                }
                2 => {
                    runs.push(Run { disk, source: Source::Free });
                    continue;
                }
                _ => {}
            }
            let (at, len) = (base.and_then(|base| base.checked_add(be64(e, 24))), be64(e, 32));
            let at = at.filter(|at| at.checked_add(len).is_some_and(|end| end <= file_len));
            let Some(at) = at else { return wrong("the chunk extends past the end of the file".into()) };
            let uncompressed = disk.end - disk.start;
            let source = if codec == Codec::Stored {
                if len < uncompressed {
                    return wrong(format!("{len} bytes are too few for {uncompressed} bytes of the disk"));
                }
                Source::Plain { at }
            } else {
                let len = u32::try_from(len).ok().filter(|len| *len <= MAX_CHUNK * 2);
                let Some(len) = len.filter(|_| uncompressed <= MAX_CHUNK.into()) else {
                    return wrong(format!("the chunk is too long ({uncompressed} bytes)"));
                };
                Source::Compressed { at, len, codec }
            };
            runs.push(Run { disk, source });
        }
        Ok(())
    }
}

/// Converts a range of sectors to bytes.
fn sectors(first: u64, count: u64) -> Option<Range<u64>> {
    let start = first.checked_mul(SECTOR.into())?;
    Some(start..start.checked_add(count.checked_mul(SECTOR.into())?)?)
}
