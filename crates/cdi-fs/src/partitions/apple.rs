//! Apple's partition map, of PowerPC Macs and of optical discs. Source: Inside Macintosh, Devices; Linux's
//! block/partitions/mac.c.

use cdi_base::error::ReadError;
use cdi_base::readable::Readable;

use super::{MAX, Partition, Scheme, Table, be32, sectors, structure, within};

/// Reads the map. `first` is the start of the disk. Returns None if there is none.
pub(super) fn read(disk: &dyn Readable, first: &[u8]) -> Result<Option<Table>, ReadError> {
    if !first.starts_with(b"ER") {
        return Ok(None);
    }
    // The map has a block size of its own, which may differ from the disk's sector size.
    let block = u64::from(u16::from_be_bytes([first[2], first[3]])).max(512);
    let mut table = Table::new(Scheme::Apple);
    let mut count: u64 = 1;
    let mut number = 1;
    while number <= count.min(MAX as u64) && (number + 1) * block <= disk.size() {
        let e = match sectors(disk, number * block, 512) {
            Ok(e) => e,
            Err(e) if number == 1 => return Err(e),
            Err(e) => {
                table.lose("partition map", number * block..(number + 1) * block, e);
                break;
            }
        };
        match e.starts_with(b"PM") {
            true if number == 1 => count = be32(&e, 4).into(),
            true => {}
            false if number == 1 => return Ok(None),
            // As on Linux, the map ends at an entry that is none.
            false => break,
        }
        let text = |at: usize| {
            let bytes = e[at..at + 32].split(|b| *b == 0).next().unwrap_or_default();
            String::from_utf8_lossy(bytes).into_owned()
        };
        let (start, size) = (u64::from(be32(&e, 8)) * block, u64::from(be32(&e, 12)) * block);
        let name = Some(text(16)).filter(|name| !name.is_empty());
        let partition = within(disk, u32::try_from(number).unwrap_or(u32::MAX), start, size, text(48));
        table.partitions.extend(partition.map(|p| Partition { name, ..p }));
        number += 1;
    }
    table.structures.push(structure("partition map", 0..number * block, None));
    Ok(Some(table))
}
