//! QEMU disk images (`.qcow2`), versions 2 and 3: zlib and zstd clusters, zero clusters, subclusters, backing files and
//! external data files next to the image.
//!
//! Sources: QEMU's specification, docs/interop/qcow2.txt. All numbers are big-endian. Two levels of tables map clusters
//! of the disk to clusters of the file. Only the active layer is shown; internal snapshots are listed, but not read.

mod files;
mod layer;

use std::sync::Arc;

use cdi_base::error::Error;
use files::{backing, data_file};

use super::chain::{Chain, Layer};
use crate::bytes::{be32, be64, flaw};
use crate::codec::Codec;
use crate::details::ImageDetails;
use crate::extent::FileNo;
use crate::image::{Format, Image, OpenOptions};
use crate::input::Input;
use crate::metadata::Metadata;

/// QEMU's images.
pub const FORMAT: Format = Format {
    name: "qcow2",
    summary: "QEMU's qcow2, versions 2 and 3, with backing and data files next to the image",
    integrity: "none: the format has no checksums, so damage cannot be detected",
    suffixes: &["qcow2"],
    // Version 1 is a different format (not supported).
    probe: |input| input.bytes(0, 8, "the header").is_ok_and(|b| b.starts_with(MAGIC) && be32(&b, 4) != 1),
    open,
};

const MAGIC: &[u8] = b"QFI\xfb";
/// The bits of an entry that contain the offset of a cluster.
const OFFSET: u64 = 0x00FF_FFFF_FFFF_FE00;
const COMPRESSED: u64 = 1 << 62;
/// Incompatible features: not closed properly, corrupt, external data file, compression type, subclusters.
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const SUBCLUSTERS: u64 = 1 << 4;
const MAX_SNAPSHOTS: u32 = 65_536;

/// In an entry of a second-level table: the cluster is allocated, even if its offset is 0.
const COPIED: u64 = 1 << 63;

/// One file of a chain.
pub(super) struct Qcow2 {
    file: FileNo,
    /// The file that contains the clusters: the image itself or an external data file.
    data: FileNo,
    size: u64,
    cluster_bits: u32,
    /// The file offset and the number of entries of the first-level table.
    l1: u64,
    l1_len: u64,
    /// Whether entries of second-level tables have 16 bytes, for 32 subclusters.
    subclusters: bool,
    codec: Codec,
    backing: Option<Box<dyn Layer>>,
}

fn open(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let mut warnings = Vec::new();
    let top = open_layer(&input, Input::MAIN, 0, &mut warnings)?;
    let mut metadata = Metadata {
        size_bytes: top.size,
        logical_sector_bytes: options.sector_size.unwrap_or(512),
        ..Metadata::default()
    };
    let snapshots = snapshots(&input);
    if !snapshots.is_empty() {
        warnings.push(format!("internal snapshots in the image (ignored): {}", snapshots.len()));
        metadata.more.insert("snapshots".into(), snapshots.into());
    }
    Ok(Box::new(Chain {
        input,
        top,
        details: ImageDetails { metadata, warnings, ..ImageDetails::default() },
    }))
}

pub(super) fn open_layer(
    input: &Input,
    file: FileNo,
    depth: usize,
    warnings: &mut Vec<String>,
) -> Result<Qcow2, Error> {
    let header = input.bytes_of(file, 0, 104, "the header")?;
    let version = be32(&header, 4);
    if !(2..=3).contains(&version) {
        return flaw(4, format!("unsupported version {version} (supported: 2 and 3)"));
    }
    let (features, header_len) =
        if version == 3 { (be64(&header, 72), u64::from(be32(&header, 100))) } else { (0, 72) };
    if be32(&header, 32) != 0 {
        return flaw(32, "encrypted image (not supported)");
    }
    let unknown = features & !(DIRTY | CORRUPT | DATA_FILE | COMPRESSION | SUBCLUSTERS);
    if unknown != 0 {
        return flaw(72, format!("the image requires unknown features ({unknown:#x})"));
    }
    if features & CORRUPT != 0 {
        warnings.push("the program that wrote the image marked it as corrupt".into());
    }
    let codec = if features & COMPRESSION != 0 {
        match input.bytes_of(file, 104, 1, "the compression type")?[0] {
            0 => Codec::DeflateUnended,
            1 => Codec::ZstdPadded,
            other => return flaw(104, format!("unknown compression type {other}")),
        }
    } else {
        Codec::DeflateUnended
    };
    let (cluster_bits, size) = (be32(&header, 20), be64(&header, 24));
    if !(9..=21).contains(&cluster_bits) {
        return flaw(20, format!("invalid cluster size: 2^{cluster_bits} bytes"));
    }
    let subclusters = features & SUBCLUSTERS != 0;
    if subclusters && cluster_bits < 14 {
        return flaw(20, format!("clusters of 2^{cluster_bits} bytes are too small for subclusters"));
    }
    if size == 0 || i64::try_from(size).is_err() {
        return flaw(24, format!("invalid disk size: {size} bytes"));
    }
    let (l1, l1_len) = (be64(&header, 40), u64::from(be32(&header, 36)));
    let covered = 1u64 << (2 * cluster_bits - if subclusters { 4 } else { 3 });
    if l1_len < size.div_ceil(covered) {
        return flaw(
            36,
            format!("a first-level table of {l1_len} entries is too short for a disk of {size} bytes"),
        );
    }
    if l1.checked_add(l1_len * 8).is_none_or(|end| end > input.len_of(file)) {
        return flaw(40, format!("the first-level table at byte {l1} extends past the end of the file"));
    }
    let data = if features & DATA_FILE != 0 { data_file(input, file, header_len, warnings)? } else { file };
    let backing = backing(input, file, &header, header_len, depth, warnings)?;
    Ok(Qcow2 { file, data, size, cluster_bits, l1, l1_len, subclusters, codec, backing })
}

/// Returns the names of the internal snapshots, as far as they can be read.
fn snapshots(input: &Input) -> Vec<String> {
    let Ok(header) = input.bytes(60, 12, "the snapshot list") else { return Vec::new() };
    let (count, mut at) = (be32(&header, 0).min(MAX_SNAPSHOTS), be64(&header, 4));
    let mut names = Vec::new();
    for _ in 0..count {
        let Ok(entry) = input.bytes(at, 40, "a snapshot") else { break };
        let length = |at: usize| u64::from(u16::from_be_bytes([entry[at], entry[at + 1]]));
        let (id, name, extra) = (length(12), length(14), u64::from(be32(&entry, 36)));
        let Some(name_at) = at.checked_add(40 + extra + id) else { break };
        let Ok(bytes) = input.bytes(name_at, usize::try_from(name).unwrap_or(0), "a snapshot's name") else {
            break;
        };
        names.push(String::from_utf8_lossy(&bytes).into_owned());
        at = match name_at.checked_add(name).and_then(|end| end.checked_next_multiple_of(8)) {
            Some(next) => next,
            None => break,
        };
    }
    names
}
