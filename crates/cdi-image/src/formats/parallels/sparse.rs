//! Expanding disks: a header of 64 bytes, the table of clusters (the block allocation table), the clusters.

use cdi_base::error::{Error, Flaw, ReadError};
use cdi_base::units::{SECTOR, index};

use crate::bytes::{flaw, le32, le64};
use crate::extent::{Extent, FileNo, Origin};
use crate::formats::chain::{Found, Layer, Uses, count_matching};
use crate::image::CheckCancelled;
use crate::input::Input;

/// The first variant counts offsets and sizes in sectors, with 32 bits; the second counts offsets in clusters, and sizes
/// with 64 bits.
pub(super) const MAGIC: &[u8] = b"WithoutFreeSpace";
pub(super) const MAGIC_EXT: &[u8] = b"WithouFreSpacExt";
const HEADER: u64 = 64;
/// A program has the image open, or has not closed it.
const IN_USE: u32 = 0x746F_6E59;
/// Largest cluster that QEMU accepts, in sectors.
const MAX_CLUSTER: u32 = i32::MAX as u32 / 513;

/// An expanding disk.
pub(super) struct Sparse {
    file: FileNo,
    size: u64,
    /// The size of a cluster, and what the entries of the table count, in bytes.
    cluster: u64,
    unit: u64,
    /// The number of entries of the table.
    entries: u64,
}

impl Sparse {
    /// Opens the disk in `file`.
    pub(super) fn open(input: &Input, file: FileNo, warnings: &mut Vec<String>) -> Result<Sparse, Error> {
        let header = input.bytes_of(file, 0, index(HEADER), "the header")?;
        let is_ext = header.starts_with(MAGIC_EXT);
        if !is_ext && !header.starts_with(MAGIC) {
            return flaw(0, "not an expanding Parallels disk");
        }
        let version = le32(&header, 16);
        if version != 2 {
            return flaw(16, format!("unsupported version {version} (only version 2 is supported)"));
        }
        let (tracks, entries) = (le32(&header, 28), u64::from(le32(&header, 32)));
        if !(1..=MAX_CLUSTER).contains(&tracks) {
            return flaw(28, format!("invalid cluster size: {tracks} sectors"));
        }
        let cluster = u64::from(tracks) * u64::from(SECTOR);
        let sectors = if is_ext { le64(&header, 36) } else { le32(&header, 36).into() };
        let size = sectors.checked_mul(SECTOR.into()).filter(|size| i64::try_from(*size).is_ok());
        let Some(size) = size.filter(|size| *size > 0) else {
            return flaw(36, format!("invalid disk size: {sectors} sectors"));
        };
        if entries < size.div_ceil(cluster) {
            let what =
                format!("{entries} clusters of {cluster} bytes are too few for a disk of {size} bytes");
            return flaw(32, what);
        }
        if HEADER + entries * 4 > input.len_of(file) {
            return flaw(32, format!("the table of {entries} clusters extends past the end of the file"));
        }
        if le32(&header, 44) == IN_USE {
            let path = input.path_of(file);
            warnings.push(format!("{} is marked as in use: it was not closed properly", path.display()));
        }
        let unit = if is_ext { cluster } else { SECTOR.into() };
        Ok(Sparse { file, size, cluster, unit, entries })
    }
}

impl Sparse {
    /// Returns the file.
    pub(super) fn file(&self) -> FileNo {
        self.file
    }
}

impl Layer for Sparse {
    fn size(&self) -> u64 {
        self.size
    }

    fn find(&self, input: &Input, offset: u64, end: u64) -> Result<Found, ReadError> {
        let n = offset / self.cluster;
        let start = n * self.cluster;
        let entry_at = HEADER + n * 4;
        let mut entry = [0; 4];
        input.read_exact_at(self.file, &mut entry, entry_at)?;
        let entry = u64::from(u32::from_le_bytes(entry));
        if entry == 0 {
            let read = |bytes: &mut [u8], at: u64| input.read_exact_at(self.file, bytes, at);
            let left = self.size.div_ceil(self.cluster) - n;
            let count = count_matching(&read, entry_at, left, 4, &|entry| le32(entry, 0) == 0)?.max(1);
            return Ok(Found::Below(offset..start.saturating_add(count * self.cluster).min(end)));
        }
        // No overflow: the entry has 32 bits, and a cluster less than 2^31 bytes.
        let at = entry * self.unit;
        // The last cluster of a file may be short: the missing part was never written.
        let left = input.len_of(self.file).checked_sub(at).filter(|left| *left > offset - start);
        let Some(left) = left.filter(|_| at >= HEADER + self.entries * 4) else {
            return Err(ReadError::Corrupt { at: entry_at });
        };
        let disk = start..end.min(start.saturating_add(self.cluster.min(left)));
        Ok(Found::Here(Extent { disk, origin: Origin::Stored { file: self.file, at } }))
    }

    fn check(
        &self,
        input: &Input,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        let Some(mut uses) = Uses::new(input.len_of(self.file), self.cluster) else { return Ok(()) };
        let read = |bytes: &mut [u8], at: u64| input.read_exact_at(self.file, bytes, at);
        let table = (HEADER, self.size.div_ceil(self.cluster), 4);
        let place = |entry: &[u8]| Some(le32(entry, 0)).filter(|n| *n != 0).map(|n| u64::from(n) * self.unit);
        uses.mark_table(&read, table, &place, report, check_cancelled)
    }
}
