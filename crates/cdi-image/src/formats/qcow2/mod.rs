//! QEMU disk images (`.qcow2`), versions 2 and 3: zlib and zstd clusters, zero clusters, subclusters, backing files and
//! external data files next to the image.
//!
//! Sources: QEMU's specification, docs/interop/qcow2.txt. All numbers are big-endian. Two levels of tables map clusters
//! of the disk to clusters of the file. An internal snapshot is the disk at an earlier time: a first-level table of its
//! own in the same file.

mod files;
mod layer;
mod snapshots;

use std::sync::Arc;

use cdi_base::error::Error;
use cdi_base::units::plural;
use files::{backing, data_file};
use snapshots::{Snapshot, State};

use super::chain::{Chain, Layer};
use super::qcow;
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
    // Version 1 is a format of its own, qcow.
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
    let (listed, flaw) = snapshots::list(&input);
    let chosen =
        options.snapshot.as_deref().map(|name| snapshots::choose(&listed, flaw, name)).transpose()?;
    let top = open_layer(&input, Input::MAIN, chosen, 0, &mut warnings)?;
    let mut metadata = Metadata {
        size_bytes: top.size,
        logical_sector_bytes: options.sector_size.unwrap_or(512),
        ..Metadata::default()
    };
    match chosen {
        Some(snapshot) => {
            warnings.push(format!("the disk is shown as it was in the internal snapshot {snapshot}"));
            metadata.more.insert("snapshot".into(), snapshot.name.clone().into());
        }
        None if listed.is_empty() => {}
        None => warnings.push(format!(
            "this is the disk as it is now; {} in the image can be opened by name",
            plural(listed.len() as u64, "internal snapshot")
        )),
    }
    if !listed.is_empty() {
        let details: Vec<_> = listed.iter().map(|snapshot| snapshot.to_string()).collect();
        metadata.more.insert("snapshot_details".into(), details.into());
        let names: Vec<_> = listed.into_iter().map(|snapshot| snapshot.name).collect();
        metadata.more.insert("snapshots".into(), names.into());
    }
    Ok(Box::new(Chain {
        input,
        top,
        details: ImageDetails { metadata, warnings, ..ImageDetails::default() },
    }))
}

/// Opens the disk in `file` as it is now, or as it was in `snapshot`.
pub(super) fn open_layer(
    input: &Input,
    file: FileNo,
    snapshot: Option<&Snapshot>,
    depth: usize,
    warnings: &mut Vec<String>,
) -> Result<Qcow2, Error> {
    let header = input.bytes_of(file, 0, 104, "the header")?;
    // In a chain, the format may come from a name in the image above.
    if !header.starts_with(MAGIC) {
        return flaw(0, "not a qcow2 image");
    }
    let version = be32(&header, 4);
    if !(2..=3).contains(&version) {
        return flaw(4, format!("unsupported version {version} (supported: 2 and 3)"));
    }
    let (features, header_len) =
        if version == 3 { (be64(&header, 72), u64::from(be32(&header, 100))) } else { (0, 72) };
    match be32(&header, 32) {
        0 => {}
        1 => return Err(qcow::encrypted(input, file, "qcow2", "aes")),
        2 => return Err(qcow::encrypted(input, file, "qcow2", "luks")),
        other => return flaw(32, format!("unknown encryption method {other}")),
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
    let now = State { size, l1: be64(&header, 40), l1_len: be32(&header, 36).into() };
    let State { size, l1, l1_len } = snapshot.map_or(now, |snapshot| snapshot.state);
    // Where the file says so.
    let (size_at, l1_at) = snapshot.map_or((24, 36), |snapshot| (snapshot.at, snapshot.at));
    if size == 0 || i64::try_from(size).is_err() {
        return flaw(size_at, format!("invalid disk size: {size} bytes"));
    }
    let covered = 1u64 << (2 * cluster_bits - if subclusters { 4 } else { 3 });
    if l1_len < size.div_ceil(covered) {
        return flaw(
            l1_at,
            format!("a first-level table of {l1_len} entries is too short for a disk of {size} bytes"),
        );
    }
    if l1.checked_add(l1_len * 8).is_none_or(|end| end > input.len_of(file)) {
        return flaw(l1_at, format!("the first-level table at byte {l1} extends past the end of the file"));
    }
    if snapshot.is_some() && features & DATA_FILE != 0 {
        return flaw(72, "internal snapshots of an external data file (not supported: QEMU makes none)");
    }
    let data = if features & DATA_FILE != 0 { data_file(input, file, header_len, warnings)? } else { file };
    let backing = backing(input, file, &header, header_len, depth, warnings)?;
    Ok(Qcow2 { file, data, size, cluster_bits, l1, l1_len, subclusters, codec, backing })
}
