//! QEMU's first image format (`.qcow`), version 1 of what is now qcow2: compressed clusters, backing files.
//!
//! Sources: QEMU's reader and writer (block/qcow.c), and images by qemu-img. All numbers are big-endian. Two levels of
//! tables map clusters of the disk to the file, as in qcow2; but the second level has a size of its own, the length of
//! a compressed cluster is exact, and there is no list of the clusters in use.

use std::sync::Arc;

use cdi_base::error::{Error, ReadError};
use cdi_base::printable::quoted;

use super::backing::{self, Named};
use super::chain::{Chain, Found, Layer, count_matching};
use crate::bytes::{be32, be64, flaw};
use crate::codec::{Codec, Sum};
use crate::extent::{CompressedChunk, Extent, FileNo, Origin};
use crate::image::{Format, Image, OpenOptions};
use crate::input::Input;

/// QEMU's first images.
pub const FORMAT: Format = Format {
    name: "qcow",
    summary: "QEMU's qcow, version 1, with a backing file next to the image",
    integrity: "none: the format has no checksums, so damage cannot be detected",
    suffixes: &["qcow"],
    probe: |input| input.bytes(0, MAGIC.len(), "the header").is_ok_and(|b| b == MAGIC),
    open,
};

const MAGIC: &[u8] = b"QFI\xfb\0\0\0\x01";
const HEADER: usize = 48;
const COMPRESSED: u64 = 1 << 63;
/// What to do about a backing file that is not a path: qemu-img cannot change its name.
const WAY_OUT: &str = "copy the whole disk with QEMU: 'qemu-img convert -f qcow -O qcow2 IMAGE NEW'";

/// One disk of a chain.
pub(super) struct Qcow {
    file: FileNo,
    size: u64,
    cluster_bits: u32,
    /// The number of entries of a second-level table is 2 to the power of this.
    l2_bits: u32,
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
) -> Result<Qcow, Error> {
    let header = input.bytes_of(file, 0, HEADER, "the header")?;
    if !header.starts_with(MAGIC) {
        return flaw(0, "not a qcow image, version 1");
    }
    match be32(&header, 36) {
        0 => {}
        1 => return Err(encrypted(input, file, "qcow", "aes")),
        other => return flaw(36, format!("unknown encryption method {other}")),
    }
    let (size, cluster_bits, l2_bits) = (be64(&header, 24), u32::from(header[32]), u32::from(header[33]));
    if size == 0 || i64::try_from(size).is_err() {
        return flaw(24, format!("invalid disk size: {size} bytes"));
    }
    if !(9..=16).contains(&cluster_bits) {
        return flaw(32, format!("invalid cluster size: 2^{cluster_bits} bytes"));
    }
    if !(6..=13).contains(&l2_bits) {
        return flaw(33, format!("invalid length of second-level tables: 2^{l2_bits} entries"));
    }
    let l1 = be64(&header, 40);
    let l1_len = size.div_ceil(1u64 << (cluster_bits + l2_bits));
    if l1.checked_add(l1_len * 8).is_none_or(|end| end > input.len_of(file)) {
        return flaw(40, format!("the first-level table at byte {l1} extends past the end of the file"));
    }
    let backing = match backing::name(input, file, (be64(&header, 8), be32(&header, 16)))? {
        Some(name) => {
            Some(Named { name: &name, format: None, way_out: WAY_OUT }.open(input, depth, warnings)?)
        }
        None => None,
    };
    Ok(Qcow { file, size, cluster_bits, l2_bits, l1, backing })
}

/// Returns the error for an encrypted image, with the command that decrypts it. `driver` and `cipher` are QEMU's names.
pub(super) fn encrypted(input: &Input, file: FileNo, driver: &str, cipher: &str) -> Error {
    let path = input.path_of(file).display().to_string().replace(',', ",,");
    let image =
        format!("driver={driver},file.filename={path},encrypt.format={cipher},encrypt.key-secret=key");
    Error::bad_image(format!("image encrypted with {} (not supported)", cipher.to_uppercase())).hint(format!(
        "decrypt it with its passphrase in the file KEY: qemu-img convert --object secret,id=key,file=KEY \
         --image-opts {} -O raw disk.raw",
        quoted(&image)
    ))
}

impl Qcow {
    fn entry(&self, input: &Input, at: u64) -> Result<u64, ReadError> {
        let mut entry = [0; 8];
        input.read_exact_at(self.file, &mut entry, at)?;
        Ok(u64::from_be_bytes(entry))
    }

    /// Returns what is below this layer, from `offset` to the end of the run of empty entries of a table: `count`
    /// entries from file offset `at` on, each for `each` bytes of the disk.
    fn below(
        &self,
        input: &Input,
        (at, count, each): (u64, u64, u64),
        offset: u64,
        end: u64,
    ) -> Result<Found, ReadError> {
        let read = |bytes: &mut [u8], at: u64| input.read_exact_at(self.file, bytes, at);
        let entries = count_matching(&read, at, count, 8, &|entry| be64(entry, 0) == 0)?.max(1);
        let stop = (offset & !(each - 1)).saturating_add(entries.saturating_mul(each));
        Ok(Found::Below(offset..stop.min(end)))
    }

    /// Locates the compressed cluster that the entry at file offset `at` describes.
    fn compressed(&self, entry: u64, at: u64) -> Result<CompressedChunk, ReadError> {
        let len_bits = 63 - self.cluster_bits;
        let len = (entry & !COMPRESSED) >> len_bits;
        if len == 0 {
            return Err(ReadError::Corrupt { at });
        }
        Ok(CompressedChunk {
            file: self.file,
            at: entry & ((1 << len_bits) - 1),
            // Less than a cluster.
            len: u32::try_from(len).map_err(|_| ReadError::Corrupt { at })?,
            skip: 0,
            uncompressed: 1 << self.cluster_bits,
            codec: Codec::DeflateUnended,
            sum: Sum::None,
        })
    }
}

impl Layer for Qcow {
    fn size(&self) -> u64 {
        self.size
    }

    fn parent(&self) -> Option<&dyn Layer> {
        self.backing.as_deref()
    }

    fn find(&self, input: &Input, offset: u64, end: u64) -> Result<Found, ReadError> {
        let cluster = 1u64 << self.cluster_bits;
        let covered = cluster << self.l2_bits;
        let l1_at = self.l1 + offset / covered * 8;
        let l2 = self.entry(input, l1_at)?;
        if l2 == 0 {
            let left = self.size.div_ceil(covered) - offset / covered;
            return self.below(input, (l1_at, left, covered), offset, end);
        }
        let n = offset % covered / cluster;
        let at = l2.checked_add(n * 8).ok_or(ReadError::Corrupt { at: l1_at })?;
        let entry = self.entry(input, at)?;
        if entry == 0 {
            return self.below(input, (at, (covered / cluster) - n, cluster), offset, end);
        }
        let start = offset & !(cluster - 1);
        let disk = start..end.min(start.saturating_add(cluster));
        if entry & COMPRESSED != 0 {
            return Ok(Found::Here(Extent { disk, origin: Origin::Compressed(self.compressed(entry, at)?) }));
        }
        // The last cluster of a file may be short: the missing part was never written.
        let left = input.len_of(self.file).checked_sub(entry).filter(|left| *left > offset - start);
        let Some(left) = left.filter(|_| entry % 512 == 0) else { return Err(ReadError::Corrupt { at }) };
        let disk = start..disk.end.min(start.saturating_add(left));
        Ok(Found::Here(Extent { disk, origin: Origin::Stored { file: self.file, at: entry } }))
    }
}
