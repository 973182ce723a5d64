//! Reads the partition table of a disk: MBR with logical partitions, GPT, Apple's partition map.
//!
//! Which table a disk has and how its partitions are numbered is as on Linux. Tables are not trusted: a partition that
//! extends past the end of the disk is cut there.

mod apple;
mod gpt;
mod mbr;

use std::ops::Range;

use cdi_base::error::ReadError;
use cdi_base::readable::Readable;

use crate::bytes;
use crate::file_system::{Damage, Structure};

/// The maximum number of partitions listed: more than any kernel supports.
const MAX: usize = 1024;

/// The kind of a partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// The master boot record of PCs.
    Mbr,
    /// The GUID partition table.
    Gpt,
    /// Apple's partition map, of PowerPC Macs and of optical discs.
    Apple,
}

impl Scheme {
    /// Returns the name used in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Mbr => "mbr",
            Scheme::Gpt => "gpt",
            Scheme::Apple => "apple",
        }
    }
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number, as on Linux.
    pub number: u32,
    /// Its first byte on the disk.
    pub start: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Its type as text, or the number or GUID of an unknown type.
    pub kind: String,
    /// Its name, if the table stores one.
    pub name: Option<String>,
}

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The kind of the table.
    pub scheme: Scheme,
    /// The partitions, by number. Extended partitions, which only contain others, are left out.
    pub partitions: Vec<Partition>,
    /// Why the list may be incomplete: a sector of the table could not be read.
    pub damage: Option<ReadError>,
    /// Where the table is, in bytes of the disk, with its copy; and what is damaged of it. If `damage` is set, one of these
    /// says so, too; if a copy was used, the list is complete.
    pub structures: Vec<Structure>,
}

impl Table {
    fn new(scheme: Scheme) -> Table {
        Table { scheme, partitions: Vec::new(), damage: None, structures: Vec::new() }
    }

    /// Says where a part of the table is; why some of it is lost, or had to be read from the other copy.
    fn note(&mut self, what: &str, at: Vec<Range<u64>>, lost: Option<ReadError>, mended: Option<ReadError>) {
        let what = what.to_owned();
        match lost {
            None => {
                let cost = "nothing is lost: the other copy has it".to_owned();
                let damage = mended.map(|e| (e.into(), cost));
                self.structures.push(Structure { what, at, damage });
            }
            Some(damage) => {
                let cost = "partitions may be missing".to_owned();
                self.structures.push(Structure { what, at, damage: Some((damage.into(), cost)) });
                self.damage = Some(damage);
            }
        }
    }

    /// Says that a part of the table could not be read, so that partitions may be missing.
    fn lose(&mut self, what: &str, at: Range<u64>, damage: ReadError) {
        let cost = "partitions may be missing".to_owned();
        self.structures.push(structure(what, at, Some((damage.into(), cost))));
        self.damage = Some(damage);
    }
}

/// Returns a part of a partition table.
fn structure(what: &str, at: Range<u64>, damage: Option<(Damage, String)>) -> Structure {
    Structure { what: what.to_owned(), at: vec![at], damage }
}

/// The first sector of a disk, whatever kind of table it has.
const BOOT_RECORD: &str = "boot record";

/// Reads the partition table of `disk`. Returns None if it has none, and an error if nothing of the table can be read:
/// if its first sector is lost and there is no copy of it.
pub fn table(disk: &dyn Readable) -> Result<Option<Table>, ReadError> {
    if disk.size() < 1024 {
        return Ok(None);
    }
    let at = 0..u64::from(disk.sector());
    match sectors(disk, 0, 512) {
        Ok(first) if mbr::is_protective(&first) => {
            let table = gpt::read(disk, gpt::Copies::Both)?;
            Ok(table.map(|mut table| {
                table.structures.insert(0, structure(BOOT_RECORD, at, None));
                table
            }))
        }
        Ok(first) => match mbr::BootRecord::of(&first) {
            // A GUID partition table without a protective boot record is of a former use of the disk.
            Some(record) => Ok(Some(record.read(disk))),
            None if first.iter().all(|b| *b == 0) => gpt::read(disk, gpt::Copies::IfUnreadable),
            None => apple::read(disk, &first),
        },
        // The first sector may be bad while the table after it is intact. It would have said whether that table counts.
        Err(damage) => match gpt::read(disk, gpt::Copies::IfUnreadable)? {
            Some(mut table) => {
                table.lose(BOOT_RECORD, at, damage);
                Ok(Some(table))
            }
            None => Err(damage),
        },
    }
}

/// Returns the little-endian u32 at `at` of a structure that is long enough.
fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes::le32(bytes, at).unwrap_or(0)
}

/// Returns the little-endian u64 at `at` of a structure that is long enough.
fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes::le64(bytes, at).unwrap_or(0)
}

/// Returns the big-endian u32 at `at` of a structure that is long enough.
fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes::be32(bytes, at).unwrap_or(0)
}

/// Reads part of a table.
fn sectors(disk: &dyn Readable, at: u64, len: usize) -> Result<Vec<u8>, ReadError> {
    let mut bytes = vec![0; len];
    disk.read(&mut bytes, at).map(|()| bytes)
}

/// Returns the partition of `size` bytes at byte `start`, cut at the end of the disk; None if no part of it is on the
/// disk.
fn within(disk: &dyn Readable, number: u32, start: u64, size: u64, kind: String) -> Option<Partition> {
    let size = size.min(disk.size().checked_sub(start)?);
    (size > 0).then_some(Partition { number, start, size, kind, name: None })
}

#[cfg(test)]
mod tests {
    use cdi_base::readable::InMemory;
    use cdi_base::units::index;

    use super::gpt::checksum;
    use super::*;

    fn disk(bytes: Vec<u8>) -> InMemory {
        InMemory { bytes, bad: Vec::new() }
    }

    #[allow(clippy::single_range_in_vec_init)] // one bad sector
    fn disk_with_bad(bytes: &[u8], sector: u64) -> InMemory {
        InMemory { bytes: bytes.to_vec(), bad: Vec::from([sector * 512..(sector + 1) * 512]) }
    }

    fn entry(bytes: &mut [u8], at: usize, kind: u8, first: u32, len: u32) {
        bytes[at + 4] = kind;
        bytes[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
        bytes[at + 12..at + 16].copy_from_slice(&len.to_le_bytes());
    }

    fn numbers(disk: &dyn Readable) -> Vec<(u32, u64, u64, String)> {
        let table = table(disk).unwrap().map_or(Vec::new(), |t| t.partitions);
        table.into_iter().map(|p| (p.number, p.start / 512, p.size / 512, p.kind)).collect()
    }

    /// The names of the structures that are damaged.
    fn harmed(disk: &dyn Readable) -> Vec<String> {
        let structures = table(disk).unwrap().unwrap().structures;
        structures.into_iter().filter(|s| s.damage.is_some()).map(|s| s.what).collect()
    }

    #[test]
    fn logical_partitions_are_followed_and_loops_end() {
        let mut bytes = vec![0; 512 * 4096];
        for at in [0, 1000, 2000] {
            bytes[at * 512 + 510..at * 512 + 512].copy_from_slice(&[0x55, 0xAA]);
        }
        entry(&mut bytes, 446, 0x83, 64, 500);
        entry(&mut bytes, 462, 0x05, 1000, 3000);
        entry(&mut bytes, 1000 * 512 + 446, 0x07, 8, 100);
        entry(&mut bytes, 1000 * 512 + 462, 0x05, 1000, 100);
        // Longer than the disk, and back to the first link.
        entry(&mut bytes, 2000 * 512 + 446, 0xFF, 8, 1 << 30);
        entry(&mut bytes, 2000 * 512 + 462, 0x05, 0, 100);
        let expect = [
            (1, 64, 500, "Linux".to_owned()),
            (5, 1008, 100, "NTFS or exFAT".into()),
            (6, 2008, 4096 - 2008, "type 0xff".into()),
        ];
        assert_eq!(numbers(&disk(bytes)), expect);
    }

    #[test]
    fn a_damaged_gpt_is_read_from_its_copy() {
        let mut bytes = vec![0; 512 * 4096];
        let last = 4095u64;
        let mut entries = vec![0; 128 * 128];
        // The GUID of Linux in the byte order of the table.
        let guid =
            [0xAF, 0x3D, 0xC6, 0x0F, 0x83, 0x84, 0x72, 0x47, 0x8E, 0x79, 0x3D, 0x69, 0xD8, 0x47, 0x7D, 0xE4];
        entries[128..144].copy_from_slice(&guid);
        entries[128 + 32..128 + 40].copy_from_slice(&100u64.to_le_bytes());
        entries[128 + 40..128 + 48].copy_from_slice(&199u64.to_le_bytes());
        entries[128 + 56..128 + 60].copy_from_slice(b"a\0\xFC\0");
        let mut put = |at: u64, entries_at: u64| {
            let mut header = vec![0; 512];
            header[..8].copy_from_slice(b"EFI PART");
            header[12..16].copy_from_slice(&92u32.to_le_bytes());
            header[32..40].copy_from_slice(&(last + 1 - at).to_le_bytes());
            header[72..80].copy_from_slice(&entries_at.to_le_bytes());
            header[80..84].copy_from_slice(&128u32.to_le_bytes());
            header[84..88].copy_from_slice(&128u32.to_le_bytes());
            header[88..92].copy_from_slice(&checksum(&entries).to_le_bytes());
            let sum = checksum(&header[..92]);
            header[16..20].copy_from_slice(&sum.to_le_bytes());
            let (at, entries_at) = (index(at) * 512, index(entries_at) * 512);
            bytes[at..at + 512].copy_from_slice(&header);
            bytes[entries_at..entries_at + entries.len()].copy_from_slice(&entries);
        };
        put(1, 2);
        put(last, last - 32);
        assert_eq!(numbers(&disk(bytes.clone())), [(2, 100, 100, "Linux".to_owned())], "sector 0 is empty");
        sign(&mut bytes, &[0]);
        entry(&mut bytes, 446, 0x83, 64, 500);
        assert_eq!(places(&bytes), [(1, 64, 500)], "a table of a former use of the disk");
        entry(&mut bytes, 446, 0xEE, 1, 4095);
        // A protective entry protects whatever else is in it.
        for (at, byte) in [(446, 0x21), (3, b'N')] {
            let mut odd = bytes.clone();
            odd[at] = byte;
            assert_eq!(numbers(&disk(odd)), [(2, 100, 100, "Linux".to_owned())], "byte {at}");
        }
        let mut none = bytes.clone();
        none[458..462].fill(0);
        assert_eq!(
            numbers(&disk(none)),
            [(2, 100, 100, "Linux".to_owned())],
            "a protective entry of no length"
        );
        let whole = table(&disk(bytes.clone())).unwrap().unwrap();
        assert_eq!(whole.partitions[0].name.as_deref(), Some("aü"));
        for at in [520, 2 * 512 + 128 + 33] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            let damaged = disk(damaged);
            assert_eq!(numbers(&damaged), [(2, 100, 100, "Linux".to_owned())], "byte {at}");
            assert_eq!(harmed(&damaged), ["GUID partition table"], "byte {at}");
        }
        assert_eq!(harmed(&disk(bytes.clone())), Vec::<String>::new());
        assert_eq!(harmed(&disk_with_bad(&bytes, 1)), ["GUID partition table"]);
        for sector in [last, last - 32] {
            assert_eq!(harmed(&disk_with_bad(&bytes, sector)), ["copy of the GUID partition table"]);
        }
        assert!(table(&disk_with_bad(&bytes, 1)).unwrap().unwrap().damage.is_none(), "the list is complete");
        let lost = table(&disk_with_bad(&bytes, 0)).unwrap().unwrap();
        assert!(
            lost.damage.is_some()
                && lost.structures.iter().any(|s| s.what == "boot record" && s.damage.is_some())
        );
        let mut none = bytes.clone();
        (none[520], none[index(last) * 512 + 30]) = (1, 1);
        assert_eq!(numbers(&disk(none)), []);
    }

    /// Signs sectors as boot records.
    fn sign(bytes: &mut [u8], sectors: &[usize]) {
        for at in sectors {
            bytes[at * 512 + 510..at * 512 + 512].copy_from_slice(&[0x55, 0xAA]);
        }
    }

    fn places(bytes: &[u8]) -> Vec<(u32, u64, u64)> {
        numbers(&disk(bytes.to_vec())).into_iter().map(|(n, start, len, _)| (n, start, len)).collect()
    }

    /// Each row is a table that the kernel numbers in its own way.
    #[test]
    fn unusual_boot_records_are_numbered_as_on_linux() {
        let mut plain = vec![0; 512 * 4096];
        sign(&mut plain, &[0, 1000, 2000, 3000]);
        entry(&mut plain, 446, 0x83, 64, 500);
        entry(&mut plain, 462, 0x05, 1000, 2000);
        entry(&mut plain, 1000 * 512 + 446, 0x07, 8, 100);
        entry(&mut plain, 1000 * 512 + 462, 0x05, 1000, 500);
        entry(&mut plain, 2000 * 512 + 446, 0x83, 8, 100);
        let two = [(1, 64, 500), (5, 1008, 100), (6, 2008, 100)];
        assert_eq!(places(&plain), two);

        let mut garbage = plain.clone();
        entry(&mut garbage, 1000 * 512 + 478, 0x83, 0x4000_0000, 77);
        assert_eq!(places(&garbage), two, "garbage in the third entry of a link");

        let mut inside = plain.clone();
        entry(&mut inside, 1000 * 512 + 478, 0x83, 200, 77);
        let expect = [(1, 64, 500), (5, 1008, 100), (6, 1200, 77), (7, 2008, 100)];
        assert_eq!(places(&inside), expect, "a partition in the third entry of a link");

        let mut empty = plain.clone();
        entry(&mut empty, 1000 * 512 + 446, 0x07, 8, 0);
        assert_eq!(places(&empty), [(1, 64, 500), (5, 2008, 100)], "a link without a partition");

        let mut untyped = plain.clone();
        (untyped[1000 * 512 + 450], untyped[450]) = (0, 0);
        assert_eq!(places(&untyped), two, "partitions of type 0");

        let mut ends = plain.clone();
        entry(&mut ends, 1000 * 512 + 462, 0x05, 1000, 0);
        assert_eq!(places(&ends), two[..2], "a link of no length");

        let mut extended = plain.clone();
        entry(&mut extended, 478, 0x0F, 3000, 1000);
        entry(&mut extended, 3000 * 512 + 446, 0x83, 8, 100);
        let expect = [two[0], two[1], two[2], (7, 3008, 100)];
        assert_eq!(places(&extended), expect, "two extended partitions");

        entry(&mut plain, 494, 0xEE, 1, 4000);
        assert_eq!(places(&plain), [], "a protective entry without a GUID partition table");
    }

    #[test]
    fn a_table_that_cannot_be_read_is_not_an_empty_one() {
        let mut bytes = vec![0; 512 * 4096];
        sign(&mut bytes, &[0, 1000, 2000]);
        entry(&mut bytes, 446, 0x83, 64, 500);
        entry(&mut bytes, 462, 0x05, 1000, 2000);
        entry(&mut bytes, 1000 * 512 + 446, 0x07, 8, 100);
        entry(&mut bytes, 1000 * 512 + 462, 0x05, 1000, 500);
        let with_bad = |sector: u64| disk_with_bad(&bytes, sector);
        assert!(matches!(table(&with_bad(0)), Err(ReadError::Bad { sector: 0, .. })));
        // An Apple map: its first entry, and a later one.
        let mut map = vec![0; 512 * 4096];
        map[..4].copy_from_slice(b"ER\x02\0");
        for n in 1..=3u8 {
            let at = usize::from(n) * 512;
            map[at..at + 2].copy_from_slice(b"PM");
            (map[at + 7], map[at + 11], map[at + 15]) = (3, n * 10, 10);
        }
        let apple = |bad: u64| table(&disk_with_bad(&map, bad));
        assert_eq!(apple(9).unwrap().unwrap().partitions.len(), 3);
        assert!(matches!(apple(1), Err(ReadError::Bad { sector: 1, .. })));
        let cut = apple(3).unwrap().unwrap();
        assert!(cut.partitions.len() == 2 && matches!(cut.damage, Some(ReadError::Bad { sector: 3, .. })));
        map[3 * 512] = 0;
        let ends = table(&disk(map)).unwrap().unwrap();
        assert!(ends.partitions.len() == 2 && ends.damage.is_none());
        let cut = table(&with_bad(2000)).unwrap().unwrap();
        assert_eq!(cut.partitions.len(), 2);
        assert!(matches!(cut.damage, Some(ReadError::Bad { sector: 2000, .. })), "{cut:?}");
    }

    #[test]
    fn a_boot_sector_is_not_a_partition_table() {
        let mut bytes = vec![0; 512 * 64];
        bytes[..512].fill(b'x');
        bytes[510..512].copy_from_slice(&[0x55, 0xAA]);
        assert_eq!(table(&disk(bytes)).unwrap(), None);
        assert_eq!(table(&disk(vec![0; 4096])).unwrap(), None);
    }
}
