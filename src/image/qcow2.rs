//! QEMU's disks (`.qcow2`), versions 2 and 3: zlib and zstd clusters, zeros, subclusters, backing files next to the image, external data files.
//!
//! Facts: QEMU's specification, docs/interop/qcow2.txt. All numbers are big-endian. Two levels of tables lead from a
//! cluster of the disk to one of the file. The disk is that of the active layer; internal snapshots are only listed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::about::About;
use super::below;
use super::chain::{Layer, alike, cut, deeper, find, zeros};
use super::codec::{Codec, Sum};
use super::facts::Facts;
use super::fields::{be32, be64, flaw};
use super::input::Input;
use super::{Extent, FileNo, Format, Image, OpenOptions, Origin, Packed};
use crate::error::{Error, ReadError};

/// QEMU's images.
pub const FORMAT: Format = Format {
    name: "qcow2",
    summary: "QEMU's qcow2, versions 2 and 3, with backing files beside the image",
    integrity: "this format has no checksums: damage cannot be noticed",
    suffixes: &["qcow2"],
    probe: |input| input.bytes(0, 4, "the header").is_ok_and(|b| b == MAGIC),
    open,
};

const MAGIC: &[u8] = b"QFI\xfb";
/// The bits of an entry that are the offset of a cluster.
const OFFSET: u64 = 0x00FF_FFFF_FFFF_FE00;
const COMPRESSED: u64 = 1 << 62;
/// Features that a reader must know: what was not closed, what is damaged, data in another file, how clusters are
/// compressed, subclusters.
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const SUBCLUSTERS: u64 = 1 << 4;
/// The header extension that names the format of the backing file.
const BACKING_FORMAT: u32 = 0xE279_2ACA;
const MOST_SNAPSHOTS: u32 = 65_536;

/// The header extension that names the file that holds the disk's bytes.
const DATA_NAME: u32 = 0x4441_5441;
/// In an entry of the second table: this is its cluster, also where the offset is 0.
const COPIED: u64 = 1 << 63;

/// One file of a chain.
pub(super) struct Qcow2 {
    file: FileNo,
    /// The file that its clusters are in: itself, or one that holds nothing else.
    data: FileNo,
    size: u64,
    cluster_bits: u32,
    /// Where the first table is, and how many entries it has.
    l1: u64,
    l1_len: u64,
    /// Whether an entry of the second has 16 bytes, for 32 subclusters.
    subclusters: bool,
    codec: Codec,
    backing: Option<Box<dyn Layer>>,
}

/// An image and what lies below it.
struct Chain {
    input: Arc<Input>,
    top: Qcow2,
    about: About,
}

fn open(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let mut remarks = Vec::new();
    let top = open_layer(&input, Input::MAIN, 0, &mut remarks)?;
    let mut facts = Facts {
        size_bytes: top.size,
        logical_sector_bytes: options.sector_size.unwrap_or(512),
        ..Facts::default()
    };
    let snapshots = snapshots(&input);
    if !snapshots.is_empty() {
        remarks.push(format!("the image has {} internal snapshots, which are not shown", snapshots.len()));
        facts.more.insert("snapshots".into(), snapshots.into());
    }
    Ok(Box::new(Chain { input, top, about: About { facts, remarks, ..About::default() } }))
}

pub(super) fn open_layer(
    input: &Input,
    file: FileNo,
    depth: usize,
    remarks: &mut Vec<String>,
) -> Result<Qcow2, Error> {
    let header = input.bytes_of(file, 0, 104, "the header")?;
    let version = be32(&header, 4);
    if !(2..=3).contains(&version) {
        return flaw(4, format!("version {version} is not known; versions 2 and 3 are"));
    }
    let (features, header_len) =
        if version == 3 { (be64(&header, 72), u64::from(be32(&header, 100))) } else { (0, 72) };
    if be32(&header, 32) != 0 {
        return flaw(32, "the image is encrypted; that is not read");
    }
    let unknown = features & !(DIRTY | CORRUPT | DATA_FILE | COMPRESSION | SUBCLUSTERS);
    if unknown != 0 {
        return flaw(72, format!("the image needs features that this program does not know ({unknown:#x})"));
    }
    if features & CORRUPT != 0 {
        remarks.push("the image is marked as damaged by the program that wrote it".into());
    }
    let codec = if features & COMPRESSION != 0 {
        match input.bytes_of(file, 104, 1, "the compression type")?[0] {
            0 => Codec::DeflateUnended,
            1 => Codec::ZstdPadded,
            other => return flaw(104, format!("compression type {other} is not known")),
        }
    } else {
        Codec::DeflateUnended
    };
    let (cluster_bits, size) = (be32(&header, 20), be64(&header, 24));
    if !(9..=21).contains(&cluster_bits) {
        return flaw(20, format!("clusters of 2^{cluster_bits} bytes cannot be"));
    }
    let subclusters = features & SUBCLUSTERS != 0;
    if subclusters && cluster_bits < 14 {
        return flaw(20, format!("clusters of 2^{cluster_bits} bytes have no subclusters"));
    }
    if size == 0 || i64::try_from(size).is_err() {
        return flaw(24, format!("a disk of {size} bytes cannot be"));
    }
    let (l1, l1_len) = (be64(&header, 40), u64::from(be32(&header, 36)));
    let covered = 1u64 << (2 * cluster_bits - if subclusters { 4 } else { 3 });
    if l1_len < size.div_ceil(covered) {
        return flaw(36, format!("a table of {l1_len} entries is too short for a disk of {size} bytes"));
    }
    if l1.checked_add(l1_len * 8).is_none_or(|end| end > input.len_of(file)) {
        return flaw(40, format!("the table at byte {l1} does not lie in the file"));
    }
    let data = if features & DATA_FILE != 0 { data_file(input, file, header_len, remarks)? } else { file };
    let backing = backing(input, file, &header, header_len, depth, remarks)?;
    Ok(Qcow2 { file, data, size, cluster_bits, l1, l1_len, subclusters, codec, backing })
}

/// The raw file that holds the disk's bytes.
fn data_file(
    input: &Input,
    file: FileNo,
    header_len: u64,
    remarks: &mut Vec<String>,
) -> Result<FileNo, Error> {
    let Some(name) = extension(input, file, header_len, DATA_NAME)? else {
        return flaw(72, "the disk's bytes are in another file, and nothing names it");
    };
    let path = local(&name, "data file")?;
    let found = find(input, &path)?.ok_or_else(|| {
        Error::bad_image(format!("the disk's bytes are in '{}', which is not there", path.display()))
            .hint("put it next to the image, or name its directory: --allow-parent DIR")
    })?;
    remarks.push(format!("the disk's bytes are in {}", input.path_of(found).display()));
    Ok(found)
}

/// The path of a file that an image names as QEMU does. Other names than paths are refused: `what` says of which file.
fn local(name: &[u8], what: &str) -> Result<PathBuf, Error> {
    let shown = String::from_utf8_lossy(name);
    let change = match what {
        "data file" => "qemu-img amend -o data_file=NAME IMAGE",
        _ => "qemu-img rebase -u -F FORMAT -b NAME IMAGE",
    };
    let hint = |e: Error| {
        e.hint(format!("if it is at hand as a file, put it next to the image: '{change}' changes the name"))
    };
    if name.starts_with(b"json:") {
        return Err(hint(Error::bad_image(format!(
            "names its {what} by a description, which is not read: {shown}"
        ))));
    }
    let name = name.strip_prefix(b"file:").unwrap_or(name);
    // As QEMU sees it; but one letter is a drive of Windows.
    let protocol =
        name.iter().position(|b| matches!(b, b':' | b'/')).filter(|at| name[*at] == b':' && *at > 1);
    if let Some(at) = protocol {
        let protocol = String::from_utf8_lossy(&name[..at]);
        let what = format!(
            "its {what} '{shown}' is not a file, but named by the protocol '{protocol}:', which is not read"
        );
        return Err(hint(Error::bad_image(what)));
    }
    Ok(PathBuf::from(OsStr::from_bytes(name)))
}

/// The backing file, if there is one.
fn backing(
    input: &Input,
    file: FileNo,
    header: &[u8],
    header_len: u64,
    depth: usize,
    remarks: &mut Vec<String>,
) -> Result<Option<Box<dyn Layer>>, Error> {
    let (at, len) = (be64(header, 8), be32(header, 16));
    if at == 0 {
        return Ok(None);
    }
    if len > 1023 {
        return flaw(16, format!("a name of {len} bytes for the backing file is too long"));
    }
    let depth = deeper(depth)?;
    let name = input.bytes_of(file, at, len as usize, "the name of the backing file")?;
    let told = local(&name, "backing file")?;
    let name = told.display();
    let found = find(input, &told)?.ok_or_else(|| {
        Error::bad_image(format!("its backing file '{name}' is not there"))
            .hint("put it next to the image, or name its directory: --allow-parent DIR")
    })?;
    let path = input.path_of(found);
    let moved = told.file_name() != Some(told.as_os_str()) || path.file_name() != told.file_name();
    let named = if moved { format!(" (the image names it '{name}')") } else { String::new() };
    remarks.push(format!("what the image does not have comes from {}{named}", path.display()));
    let format = extension(input, file, header_len, BACKING_FORMAT)?;
    let format = format.as_deref().map(String::from_utf8_lossy);
    below::open(input, found, format.as_deref(), depth, remarks).map(Some).map_err(|e| e.at(&path))
}

/// What an extension of the header says.
fn extension(input: &Input, file: FileNo, header_len: u64, wanted: u32) -> Result<Option<Vec<u8>>, Error> {
    let mut at = header_len;
    // Extensions lie within the first cluster, which has at most 2 MiB.
    while at < 2 << 20 {
        let Ok(head) = input.bytes_of(file, at, 8, "a header extension") else { return Ok(None) };
        let (kind, len) = (be32(&head, 0), be32(&head, 4));
        match kind {
            0 => return Ok(None),
            _ if kind == wanted && len <= 1023 => {
                return input.bytes_of(file, at + 8, len as usize, "a header extension").map(Some);
            }
            _ => at += 8 + u64::from(len).next_multiple_of(8),
        }
    }
    Ok(None)
}

/// The names of the internal snapshots, as far as they can be read.
fn snapshots(input: &Input) -> Vec<String> {
    let Ok(header) = input.bytes(60, 12, "the list of snapshots") else { return Vec::new() };
    let (count, mut at) = (be32(&header, 0).min(MOST_SNAPSHOTS), be64(&header, 4));
    let mut names = Vec::new();
    for _ in 0..count {
        let Ok(head) = input.bytes(at, 40, "a snapshot") else { break };
        let length = |at: usize| u64::from(u16::from_be_bytes([head[at], head[at + 1]]));
        let (id, name, extra) = (length(12), length(14), u64::from(be32(&head, 36)));
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

impl Qcow2 {
    fn entry(&self, input: &Input, at: u64) -> Result<u64, ReadError> {
        let mut entry = [0; 8];
        input.read_exact_at(self.file, &mut entry, at)?;
        Ok(u64::from_be_bytes(entry))
    }

    /// Where the run ends of entries of a table that are as `is` wants them: the first of `count` is at `at`, has `width`
    /// bytes, and stands for the `each` bytes of the disk around `offset`.
    fn run(
        &self,
        input: &Input,
        (at, count, width): (u64, u64, usize),
        (offset, each): (u64, u64),
        is: &dyn Fn(&[u8]) -> bool,
    ) -> Result<u64, ReadError> {
        let read = |bytes: &mut [u8], at: u64| input.read_exact_at(self.file, bytes, at);
        let alike = alike(&read, at, count, width, is)?.max(1);
        Ok((offset & !(each - 1)).saturating_add(alike.saturating_mul(each)))
    }

    /// Whether nothing is below at `offset`: what is not in this file is zeros there, too.
    fn is_deepest(&self, offset: u64) -> bool {
        self.backing.as_ref().is_none_or(|layer| offset >= layer.size())
    }

    /// The same as [`Layer::map`] in a cluster with subclusters, whose entry is at `at`, with `left` entries in its table.
    fn map_parts(
        &self,
        input: &Input,
        (entry, at, left): (u64, u64, u64),
        offset: u64,
        limit: u64,
    ) -> Result<Extent, ReadError> {
        // The lower half says which are held, the upper one which are zeros.
        const ZEROS: u64 = 0xFFFF_FFFF << 32;
        const BOTH: u64 = 1 << 32 | 1;
        let cluster = 1u64 << self.cluster_bits;
        let start = offset & !(cluster - 1);
        let bitmap = self.entry(input, at + 8)?;
        let is_deepest = self.is_deepest(offset);
        if bitmap == 0 || bitmap == ZEROS {
            let is = |entry: &[u8]| {
                let other = be64(entry, 8);
                let same = other == bitmap || (is_deepest && other & !ZEROS == 0);
                same && be64(entry, 0) & COMPRESSED == 0
            };
            let stop = self.run(input, (at, left, 16), (offset, cluster), &is)?.min(limit);
            return if bitmap == 0 { self.below(input, offset, stop) } else { Ok(zeros(offset, stop)) };
        }
        let part = cluster / 32;
        let n = (offset - start) / part;
        let kind = bitmap >> n & BOTH;
        let same = (n..32).take_while(|n| bitmap >> n & BOTH == kind).count() as u64;
        let end = limit.min(start.saturating_add((n + same) * part));
        match kind {
            0 => self.below(input, offset, end),
            1 if self.is_held(entry) => self.stored(input, entry & OFFSET, at, offset, start, end),
            1 | BOTH => Err(ReadError::Corrupt { at }),
            _ => Ok(zeros(offset, end)),
        }
    }

    /// Whether an entry of the second table says where its cluster is. In a file that holds nothing else that may be 0.
    fn is_held(&self, entry: u64) -> bool {
        entry & OFFSET != 0 || (self.data != self.file && entry & COPIED != 0)
    }

    fn stored(
        &self,
        input: &Input,
        place: u64,
        entry_at: u64,
        offset: u64,
        start: u64,
        end: u64,
    ) -> Result<Extent, ReadError> {
        // The last cluster of a file may be short: what is not there was never written.
        let left = input.len_of(self.data).checked_sub(place).filter(|left| *left > offset - start);
        let Some(left) = left else { return Err(ReadError::Corrupt { at: entry_at }) };
        let end = end.min(start.saturating_add(left));
        let at = place + (offset - start);
        Ok(Extent { disk: offset..end, origin: Origin::Stored { file: self.data, at } })
    }

    fn compressed(
        &self,
        input: &Input,
        entry: u64,
        entry_at: u64,
        disk: std::ops::Range<u64>,
    ) -> Result<Extent, ReadError> {
        let corrupt = ReadError::Corrupt { at: entry_at };
        // In a file that holds nothing else nothing is compressed.
        if self.data != self.file {
            return Err(corrupt);
        }
        let place_bits = 62 - (self.cluster_bits - 8);
        let place = entry & ((1 << place_bits) - 1);
        let sectors = (entry & !(3 << 62)) >> place_bits;
        let len = (sectors + 1) * 512 - place % 512;
        // It is counted in sectors; the last one may be cut off by the end of the file.
        let len = len.min(input.len_of(self.file).checked_sub(place).ok_or(corrupt)?);
        let packed = Packed {
            file: self.file,
            at: place,
            len: u32::try_from(len).map_err(|_| corrupt)?,
            skip: 0,
            unpacked: 1 << self.cluster_bits,
            codec: self.codec,
            sum: Sum::None,
        };
        if packed.len == 0 {
            return Err(corrupt);
        }
        Ok(Extent { disk, origin: Origin::Packed(packed) })
    }

    fn below(&self, input: &Input, offset: u64, end: u64) -> Result<Extent, ReadError> {
        match &self.backing {
            // A compressed cluster below is told as a whole; here only a part of it may be wanted.
            Some(layer) if offset < layer.size() => Ok(cut(layer.map(input, offset, end)?, offset, end)),
            _ => Ok(zeros(offset, end)),
        }
    }
}

impl Layer for Qcow2 {
    fn size(&self) -> u64 {
        self.size
    }

    fn map(&self, input: &Input, offset: u64, end: u64) -> Result<Extent, ReadError> {
        if offset >= self.size {
            return Ok(zeros(offset, end));
        }
        let bits = self.cluster_bits;
        let entry_bits = if self.subclusters { 4 } else { 3 };
        let cluster = 1u64 << bits;
        let start = offset & !(cluster - 1);
        let limit = end.min(self.size);
        let end = limit.min(start.saturating_add(cluster));
        let table_bits = 2 * bits - entry_bits;
        let l1_index = offset >> table_bits;
        if l1_index >= self.l1_len {
            return Err(ReadError::Unmapped { offset });
        }
        let l1_at = self.l1 + l1_index * 8;
        let l2 = self.entry(input, l1_at)? & OFFSET;
        if l2 == 0 {
            let is = |entry: &[u8]| be64(entry, 0) & OFFSET == 0;
            let table = (l1_at, self.l1_len - l1_index, 8);
            let stop = self.run(input, table, (offset, 1 << table_bits), &is)?;
            return self.below(input, offset, stop.min(limit));
        }
        let l2_len = 1u64 << (bits - entry_bits);
        let l2_index = (offset >> bits) & (l2_len - 1);
        let at = l2 + (l2_index << entry_bits);
        let left = l2_len - l2_index;
        let entry = self.entry(input, at)?;
        if entry & COMPRESSED != 0 {
            return self.compressed(input, entry, at, start..end);
        }
        if self.subclusters {
            return self.map_parts(input, (entry, at, left), offset, limit);
        }
        // Version 2 writes no zero clusters, and its readers never saw the bit.
        let is_zeros = |entry: u64| entry & 1 != 0;
        if !is_zeros(entry) && self.is_held(entry) {
            return self.stored(input, entry & OFFSET, at, offset, start, end);
        }
        let is_deepest = self.is_deepest(offset);
        let is = |other: &[u8]| {
            let other = be64(other, 0);
            let absent = !self.is_held(other);
            let same = if is_zeros(entry) { is_zeros(other) } else { absent && !is_zeros(other) };
            other & COMPRESSED == 0 && (same || (is_deepest && (absent || is_zeros(other))))
        };
        let stop = self.run(input, (at, left, 8), (offset, cluster), &is)?.min(limit);
        if is_zeros(entry) { Ok(zeros(offset, stop)) } else { self.below(input, offset, stop) }
    }
}

impl Image for Chain {
    fn size(&self) -> u64 {
        self.top.size
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        self.top.map(&self.input, offset, self.top.size)
    }

    fn about(&self) -> &About {
        &self.about
    }
}
