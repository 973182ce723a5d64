//! QEMU's enhanced disks (`.qed`), its format before qcow2 version 3: sparse, with backing files.
//!
//! Sources: QEMU's specification, docs/interop/qed_spec.rst, and images by qemu-img. All numbers are little-endian. Two
//! levels of tables of one size map clusters of the disk to clusters of the file.

use std::sync::Arc;

use cdi_base::error::{Error, Flaw, ReadError};

use super::backing::{self, Named};
use super::chain::{Chain, Found, Layer, Uses, count_matching, zeros};
use crate::bytes::{flaw, le32, le64};
use crate::extent::{Extent, FileNo, Origin};
use crate::image::{CheckCancelled, Format, Image, OpenOptions};
use crate::input::Input;

/// QEMU's enhanced disks.
pub const FORMAT: Format = Format {
    name: "qed",
    summary: "QEMU's QED, with a backing file next to the image",
    integrity: "none: the format has no checksums, so damage cannot be detected",
    suffixes: &["qed"],
    probe: |input| input.bytes(0, MAGIC.len(), "the header").is_ok_and(|b| b == MAGIC),
    open,
};

const MAGIC: &[u8] = b"QED\0";
const HEADER: usize = 64;
/// Features: there is a backing file, the image was not closed properly, the backing file is raw.
const BACKING: u64 = 1;
const NEED_CHECK: u64 = 1 << 1;
const RAW_BACKING: u64 = 1 << 2;
/// The entries of second-level tables that are no offsets: in the backing file, and zeros.
const ABSENT: u64 = 0;
const ZEROS: u64 = 1;
/// What to do about a backing file that is not a path.
const WAY_OUT: &str = "if you have it as a file, put it next to the image and change the name: \
    'qemu-img rebase -u -F FORMAT -b NAME IMAGE'";

/// One disk of a chain.
pub(super) struct Qed {
    file: FileNo,
    size: u64,
    cluster: u64,
    /// The number of entries of a table.
    entries: u64,
    /// The file offset of the first-level table.
    l1: u64,
    backing: Option<Box<dyn Layer>>,
}

fn open(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let mut warnings = Vec::new();
    let top = open_layer(&input, Input::MAIN, 0, &mut warnings)?;
    Ok(Box::new(Chain::of(input, top, options, warnings)))
}

pub(super) fn open_layer(
    input: &Input,
    file: FileNo,
    depth: usize,
    warnings: &mut Vec<String>,
) -> Result<Qed, Error> {
    let header = input.bytes_of(file, 0, HEADER, "the header")?;
    if !header.starts_with(MAGIC) {
        return flaw(0, "not a QED image");
    }
    let (cluster, table) = (u64::from(le32(&header, 4)), u64::from(le32(&header, 8)));
    if !cluster.is_power_of_two() || !(1 << 12..=1 << 26).contains(&cluster) {
        return flaw(4, format!("invalid cluster size: {cluster} bytes"));
    }
    if !table.is_power_of_two() || table > 16 {
        return flaw(8, format!("invalid length of the tables: {table} clusters"));
    }
    let features = le64(&header, 16);
    let unknown = features & !(BACKING | NEED_CHECK | RAW_BACKING);
    if unknown != 0 {
        return flaw(16, format!("the image requires unknown features ({unknown:#x})"));
    }
    if features & NEED_CHECK != 0 {
        let path = input.path_of(file);
        warnings.push(format!(
            "{} was not closed properly: its tables may lack what was written last",
            path.display()
        ));
    }
    let (l1, size) = (le64(&header, 40), le64(&header, 48));
    if size == 0 || size % 512 != 0 || i64::try_from(size).is_err() {
        return flaw(48, format!("invalid disk size: {size} bytes"));
    }
    // At most 2^27 entries for each of at most 2^53 bytes.
    let entries = table * cluster / 8;
    if (size.div_ceil(cluster)).div_ceil(entries) > entries {
        return flaw(48, format!("a disk of {size} bytes is larger than its tables can describe"));
    }
    if l1 % cluster != 0 || l1.checked_add(entries * 8).is_none_or(|end| end > input.len_of(file)) {
        return flaw(40, format!("there is no first-level table at byte {l1}"));
    }
    let named = (u64::from(le32(&header, 56)), le32(&header, 60));
    let name = if features & BACKING != 0 { backing::name(input, file, named)? } else { None };
    if features & BACKING != 0 && name.is_none() {
        return flaw(56, "the image has a backing file, but does not record its name");
    }
    let format = (features & RAW_BACKING != 0).then_some("raw");
    let named = name.as_deref().map(|name| Named { name, format, way_out: WAY_OUT });
    let backing = named.map(|named| named.open(input, depth, warnings)).transpose()?;
    Ok(Qed { file, size, cluster, entries, l1, backing })
}

impl Qed {
    fn entry(&self, input: &Input, at: u64) -> Result<u64, ReadError> {
        let mut entry = [0; 8];
        input.read_exact_at(self.file, &mut entry, at)?;
        Ok(u64::from_le_bytes(entry))
    }

    /// Checks whether there can be a table at file offset `at`.
    fn is_table(&self, input: &Input, at: u64) -> bool {
        let end = at.checked_add(self.entries * 8);
        at.is_multiple_of(self.cluster) && end.is_some_and(|end| end <= input.len_of(self.file))
    }

    /// Returns where on the disk the run of entries that are `value` ends: `count` entries from file offset `at` on,
    /// each for `each` bytes of the disk, the first one for those around `offset`.
    fn run(
        &self,
        input: &Input,
        (at, count, each): (u64, u64, u64),
        offset: u64,
        value: u64,
    ) -> Result<u64, ReadError> {
        let read = |bytes: &mut [u8], at: u64| input.read_exact_at(self.file, bytes, at);
        let entries = count_matching(&read, at, count, 8, &|entry| le64(entry, 0) == value)?.max(1);
        Ok((offset / each).saturating_add(entries).saturating_mul(each))
    }
}

impl Layer for Qed {
    fn size(&self) -> u64 {
        self.size
    }

    fn parent(&self) -> Option<&dyn Layer> {
        self.backing.as_deref()
    }

    fn find(&self, input: &Input, offset: u64, end: u64) -> Result<Found, ReadError> {
        let cluster = self.cluster;
        let covered = cluster * self.entries;
        let l1_index = offset / covered;
        let l1_at = self.l1 + l1_index * 8;
        let l2 = self.entry(input, l1_at)?;
        if l2 == ABSENT {
            let stop = self.run(input, (l1_at, self.entries - l1_index, covered), offset, ABSENT)?;
            return Ok(Found::Below(offset..stop.min(end)));
        }
        if !self.is_table(input, l2) {
            return Err(ReadError::Corrupt { at: l1_at });
        }
        let n = offset % covered / cluster;
        let at = l2 + n * 8;
        let entry = self.entry(input, at)?;
        if entry == ABSENT || entry == ZEROS {
            let stop = self.run(input, (at, self.entries - n, cluster), offset, entry)?.min(end);
            let is_zeros = entry == ZEROS;
            return Ok(if is_zeros { Found::Here(zeros(offset, stop)) } else { Found::Below(offset..stop) });
        }
        let start = offset / cluster * cluster;
        // The last cluster of a file may be short: the missing part was never written.
        let left = input.len_of(self.file).checked_sub(entry).filter(|left| *left > offset - start);
        let Some(left) = left.filter(|_| entry % cluster == 0) else { return Err(ReadError::Corrupt { at }) };
        let disk = start..end.min(start.saturating_add(cluster.min(left)));
        Ok(Found::Here(Extent { disk, origin: Origin::Stored { file: self.file, at: entry } }))
    }

    fn check(
        &self,
        input: &Input,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        let Some(mut uses) = Uses::new(input.len_of(self.file), self.cluster) else { return Ok(()) };
        let read = |bytes: &mut [u8], at: u64| input.read_exact_at(self.file, bytes, at);
        let covered = self.cluster * self.entries;
        for n in 0..self.size.div_ceil(covered) {
            let entry_at = self.l1 + n * 8;
            // What cannot be read is reported where the disk is read.
            let l2 = self.entry(input, entry_at).unwrap_or(ABSENT);
            check_cancelled()?;
            if l2 == ABSENT || !self.is_table(input, l2) {
                continue;
            }
            let clusters = self.entries * 8 / self.cluster;
            let mut places = (0..clusters).map(|n| l2 + n * self.cluster);
            if places.any(|place| uses.mark(place, entry_at, report)) {
                continue;
            }
            let place = |entry: &[u8]| Some(le64(entry, 0)).filter(|place| *place > ZEROS);
            uses.mark_table(&read, (l2, self.entries, 8), &place, report, check_cancelled)?;
        }
        Ok(())
    }
}
