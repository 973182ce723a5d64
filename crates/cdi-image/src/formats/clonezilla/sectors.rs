//! Sectors that a directory does not contain, but says enough about to make them: the chain of extended boot records of
//! an MBR, and the second copy of a GPT.

use super::table::Partition;
use crate::bytes::{le32, le64};
use crate::codec::crc32;

/// A run of bytes of the disk: its offset in bytes, and the bytes.
pub(super) type Made = (u64, Vec<u8>);

const SIGNATURE: [u8; 2] = [0x55, 0xAA];
/// Where the entries are in a boot record, and the length of one, in bytes.
const ENTRIES: usize = 446;
const ENTRY: usize = 16;

/// Returns the extended boot records of the logical partitions in `extended`. `first` is the first of them, if the
/// directory has it. Sectors have `sector` bytes.
///
/// The others are not in the directory. They are before the partitions that they describe, in the place where programs
/// put them.
pub(super) fn boot_records(
    extended: &Partition,
    logical: &[&Partition],
    first: Option<&[u8]>,
    sector: u64,
) -> Vec<Made> {
    let mut places = vec![extended.start];
    for (n, partition) in logical.iter().enumerate().skip(1) {
        let before = logical[n - 1].start.saturating_add(logical[n - 1].len);
        // Where the first record says that the second one is.
        let linked = first
            .filter(|_| n == 1)
            .map(|record| extended.start + u64::from(le32(record, ENTRIES + ENTRY + 8)));
        let usual = [2048, 63, 2, 1].into_iter().filter_map(|gap| partition.start.checked_sub(gap));
        let place = linked.into_iter().chain(usual).find(|at| *at >= before && *at < partition.start);
        let Some(place) = place else { break };
        places.push(place);
    }
    let field = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
    let mut made = Vec::new();
    for (n, place) in places.iter().enumerate() {
        let mut record = vec![0; 512];
        let mut entry = |number: usize, kind: u8, active: bool, start: u64, len: u64| {
            let at = ENTRIES + number * ENTRY;
            // Of the second entry, the start is relative to the extended partition.
            let on_disk = start + if number == 0 { *place } else { extended.start };
            record[at] = if active { 0x80 } else { 0 };
            record[at + 1..at + 4].copy_from_slice(&cylinders(on_disk));
            record[at + 4] = kind;
            record[at + 5..at + 8].copy_from_slice(&cylinders(on_disk.saturating_add(len).saturating_sub(1)));
            record[at + 8..at + 12].copy_from_slice(&field(start));
            record[at + 12..at + 16].copy_from_slice(&field(len));
        };
        if let Some(own) = logical.get(n) {
            // parted does not say what it is: Linux is the most likely.
            let kind = if own.kind == 0 { 0x83 } else { own.kind };
            entry(0, kind, own.bootable, own.start.saturating_sub(*place), own.len);
        }
        if let (Some(next), Some(partition)) = (places.get(n + 1), logical.get(n + 1)) {
            let len = (partition.start - next).saturating_add(partition.len);
            entry(1, 0x05, false, next.saturating_sub(extended.start), len);
        }
        record[510..].copy_from_slice(&SIGNATURE);
        let at = place.saturating_mul(sector);
        match first {
            // The original, if it says the same.
            Some(original) if n == 0 && is_same(original, &record) => made.push((at, original.to_vec())),
            _ => made.push((at, record)),
        }
    }
    made
}

/// Returns the cylinder, head and sector of a sector, as in a boot record: for 255 heads and 63 sectors, and the largest
/// that there are if the sector is past them.
fn cylinders(sector: u64) -> [u8; 3] {
    const HEADS: u64 = 255;
    const SECTORS: u64 = 63;
    let (cylinder, rest) = (sector / (HEADS * SECTORS), sector % (HEADS * SECTORS));
    let byte = |value: u64| u8::try_from(value & 0xFF).unwrap_or(0);
    if cylinder > 1023 {
        return [0xFE, 0xFF, 0xFF];
    }
    let (head, sector) = (rest / SECTORS, rest % SECTORS + 1);
    [byte(head), byte(sector | (cylinder >> 8) << 6), byte(cylinder)]
}

/// Returns whether two boot records list the same partitions.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let entry = |record: &[u8], n: usize| {
        let at = ENTRIES + n * ENTRY;
        (le32(record, at + 8), le32(record, at + 12))
    };
    let start = |record: &[u8]| le32(record, ENTRIES + ENTRY + 8);
    one.get(510..512) == Some(&SIGNATURE[..])
        && entry(one, 0) == entry(other, 0)
        && start(one) == start(other)
}

/// The first copy of a GPT.
pub(super) struct Gpt {
    /// The header: one sector.
    header: Vec<u8>,
    entries: Vec<u8>,
}

impl Gpt {
    /// Finds the GPT in `start`, the first sectors of a disk, which are at least as long as its header. What is missing of
    /// the entries at their end counts as zeros. Returns None if the checksums do not fit.
    pub(super) fn find(start: &[u8], sector: u64) -> Option<Gpt> {
        let sector = usize::try_from(sector).ok()?;
        let header = start.get(sector..2 * sector)?.to_vec();
        let len = usize::try_from(le32(&header, 12)).ok().filter(|len| (92..=sector).contains(len))?;
        let (count, size) = (u64::from(le32(&header, 80)), u64::from(le32(&header, 84)));
        if !header.starts_with(b"EFI PART") || count * size > 1 << 20 || le64(&header, 72) != 2 {
            return None;
        }
        let wanted = usize::try_from(count * size).ok()?;
        let mut entries = start.get(2 * sector..).unwrap_or_default().to_vec();
        entries.resize(wanted, 0);
        let mut own = header[..len].to_vec();
        own[16..20].fill(0);
        (crc(&own) == le32(&header, 16) && crc(&entries) == le32(&header, 88))
            .then_some(Gpt { header, entries })
    }

    /// Returns the number of sectors of the disk, if its last one has the second copy.
    pub(super) fn sectors(&self) -> u64 {
        le64(&self.header, 32).saturating_add(1)
    }

    /// Returns the second copy.
    pub(super) fn backup(&self, sector: u64) -> Vec<Made> {
        let last = le64(&self.header, 32);
        let entries_at = last.saturating_sub((self.entries.len() as u64).div_ceil(sector));
        let mut header = self.header.clone();
        let len = usize::try_from(le32(&header, 12)).unwrap_or(92).min(header.len());
        for (at, value) in [(24, last), (32, le64(&self.header, 24)), (72, entries_at)] {
            header[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        header[16..20].fill(0);
        let sum = crc(&header[..len]);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        vec![(entries_at.saturating_mul(sector), self.entries.clone()), (last.saturating_mul(sector), header)]
    }
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = crc32();
    crc.update(bytes);
    crc.finalize()
}
