//! Apple's disk images (`.dmg`, UDIF): zlib, bzip2, LZFSE, XZ, ADC, uncompressed.
//!
//! Sources: the libmodi project's documentation of the format, qemu's reader, and images by several versions of
//! hdiutil. All numbers are big-endian. The file ends with a trailer of 512 bytes ("koly"), which contains the offset
//! of a property list; the list has a chunk table ("mish") for each part of the disk. Parts of the disk that are in no
//! table are zeros. Images in segments are as the documents of keramics and the comments of ewfprobe describe them, whose
//! authors measured images by hdiutil.

mod segments;
mod tables;

use std::ops::Range;
use std::sync::Arc;

use cdi_base::advice::Advice;
use cdi_base::error::{Error, Flaw, ReadError};
use cdi_base::units::{SECTOR, index};

use self::segments::Data;
use crate::bytes::{be32, be64, flaw};
use crate::codec::{Codec, Sum, crc32};
use crate::details::ImageDetails;
use crate::extent::{CompressedChunk, Extent, FileNo, Origin};
use crate::formats::encrcdsa;
use crate::image::{CheckCancelled, Format, Image, OpenOptions};
use crate::input::Input;
use crate::metadata::Metadata;
use crate::stored_hashes::{HashKind, StoredHash};

/// Apple's disk images.
pub const FORMAT: Format = Format {
    name: "dmg",
    summary: "Apple's disk images (UDIF): zlib, bzip2, LZFSE, XZ, ADC, uncompressed",
    integrity: "CRC-32 of each part of the disk and of the file, checked on verification; zlib, bzip2 and XZ check each chunk",
    suffixes: &["dmg"],
    probe: |input| encrcdsa::is_either(input) || matches!(trailer(input, Input::MAIN), Ok(Some(_))),
    open,
};

const TRAILER: usize = 512;
/// The signature, version 4, and the length of the trailer.
const MAGIC: &[u8] = b"koly\0\0\0\x04\0\0\x02\0";
/// The only supported type of checksum.
const CRC32: u32 = 2;

struct Dmg {
    input: Arc<Input>,
    size: u64,
    /// Sorted by disk offset, not empty, not overlapping.
    runs: Vec<Run>,
    /// The data of the chunks, and its checksums.
    data: Data,
    /// The CRC-32 of the tables' checksums, with its own offset in the file.
    master_crc: Option<(u64, u32)>,
    details: ImageDetails,
}

/// A run of the disk, in bytes.
struct Run {
    disk: Range<u64>,
    source: Source,
}

enum Source {
    Zeros,
    /// Space that the file system does not use and whose contents were not read: also zeros.
    Free,
    Plain {
        at: u64,
    },
    Compressed {
        at: u64,
        len: u32,
        codec: Codec,
    },
}

/// Finds the trailer: at the end of the file, or followed by padding shorter than itself. Returns its offset and bytes.
fn trailer(input: &Input, file: FileNo) -> Result<Option<(u64, Vec<u8>)>, Error> {
    let len = input.len_of(file);
    let start = len.saturating_sub(2 * TRAILER as u64 - 1);
    let end = input.bytes_of(file, start, index(len - start), "the end of the file")?;
    let found = end.windows(TRAILER).rposition(|w| w.starts_with(MAGIC));
    Ok(found.map(|n| (start + n as u64, end[n..n + TRAILER].to_vec())))
}

fn open(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    if encrcdsa::is_either(&input) {
        let what = "encrypted disk image in an encrypted one (not supported)";
        return Err(Error::bad_image(what).hint(encrcdsa::ON_A_MAC));
    }
    let Some((at, trailer)) = trailer(&input, Input::MAIN)? else {
        let what = match input.encryption() {
            None => "no UDIF trailer: the image is truncated, or it is a raw disk image named .dmg",
            Some(_) => {
                "no UDIF trailer in the encrypted image: its key is damaged, or it is a raw disk image"
            }
        };
        return Err(Error::bad_image(what)
            .hint("read/write disk images are raw disks")
            .then(Advice::NameFormat(vec!["raw"])));
    };
    let data = segments::data(&input, at, &trailer)?;
    let data_len = data.range.end - data.range.start;
    let sectors = be64(&trailer, 492);
    let mut warnings = Vec::new();
    let tables = tables::read(&input, at, &trailer)?;
    let (mut runs, mut stored_hashes) = (Vec::new(), Vec::new());
    if tables.is_empty() {
        // A read/write image: the data is the disk itself.
        if sectors != 0 && sectors.checked_mul(SECTOR.into()) != Some(data_len) {
            let what = format!(
                "there are no chunk tables, and {data_len} bytes of data do not match {sectors} sectors"
            );
            return flaw(at + 216, what);
        }
        runs.push(Run { disk: 0..data_len, source: Source::Plain { at: data.range.start } });
    }
    for table in &tables {
        let first = runs.len();
        table.runs(data.range.start, input.len_of(data.file), &mut runs)?;
        let covered: u64 = runs[first..].iter().map(|r| r.disk.end - r.disk.start).sum();
        if covered != table.disk.end - table.disk.start {
            return flaw(
                at,
                format!("the chunk table of '{}' does not cover all of its sectors", table.name),
            );
        }
        // The checksum does not include free space.
        let mut counted: Vec<Range<u64>> = Vec::new();
        for run in runs[first..].iter().filter(|r| !matches!(r.source, Source::Free) && !r.disk.is_empty()) {
            match counted.last_mut().filter(|last| last.end == run.disk.start) {
                Some(last) => last.end = run.disk.end,
                None => counted.push(run.disk.clone()),
            }
        }
        stored_hashes.extend(table.crc.map(|crc| StoredHash {
            of: format!("partition '{}'", table.name.trim()),
            disk: counted,
            after: Vec::new(),
            kind: HashKind::Crc32,
            value: crc.to_be_bytes().into(),
        }));
    }
    runs.retain(|r| !r.disk.is_empty());
    runs.sort_by_key(|r| r.disk.start);
    if let Some([_, b]) = runs.windows(2).find(|pair| pair[0].disk.end > pair[1].disk.start) {
        return flaw(at, format!("two chunks overlap at disk byte {}", b.disk.start));
    }
    let covered = runs.last().map_or(0, |r| r.disk.end);
    let declared = sectors.checked_mul(SECTOR.into()).filter(|size| i64::try_from(*size).is_ok());
    let Some(declared) = declared else {
        return flaw(at + 492, format!("invalid disk size: {sectors} sectors"));
    };
    if declared != 0 && covered > declared {
        warnings.push(format!(
            "the disk size in the trailer is {declared} bytes, but the image contains {covered}"
        ));
    }
    let size = declared.max(covered);
    if size == 0 {
        return flaw(at + 492, "the image is empty: the disk has no sectors");
    }
    let metadata = Metadata {
        size_bytes: size,
        logical_sector_bytes: options.sector_size.unwrap_or(SECTOR),
        ..Metadata::default()
    };
    let crc_at = |at: usize| (be32(&trailer, at) == CRC32).then(|| be32(&trailer, at + 8));
    let master_crc = crc_at(352).filter(|_| !tables.is_empty()).map(|crc| (at + 352, crc));
    Ok(Box::new(Dmg {
        input,
        size,
        runs,
        data,
        master_crc,
        details: ImageDetails { stored_hashes, metadata, warnings, ..ImageDetails::default() },
    }))
}

impl Image for Dmg {
    fn size(&self) -> u64 {
        self.size
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        let next = self.runs.partition_point(|r| r.disk.end <= offset);
        let Some(run) = self.runs.get(next).filter(|r| r.disk.start <= offset) else {
            let end = self.runs.get(next).map_or(self.size, |r| r.disk.start);
            return Ok(Extent { disk: offset..end, origin: Origin::Fill([0; 8]) });
        };
        let origin = match run.source {
            Source::Zeros | Source::Free => Origin::Fill([0; 8]),
            Source::Plain { at } => Origin::Stored { file: self.data.file, at },
            Source::Compressed { at, len, codec } => {
                let uncompressed = u32::try_from(run.disk.end - run.disk.start).unwrap_or(u32::MAX);
                Origin::Compressed(CompressedChunk {
                    file: self.data.file,
                    at,
                    len,
                    skip: 0,
                    uncompressed,
                    codec,
                    sum: Sum::None,
                })
            }
        };
        Ok(Extent { disk: run.disk.clone(), origin })
    }

    fn check(
        &self,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        let cost = "unknown: some of the file's data is damaged; parts whose own checksum matches are intact";
        for (data, expected) in &self.data.sums {
            match self.crc_of(data.clone(), check_cancelled)? {
                Ok(got) if got == *expected => {}
                Ok(got) => {
                    let what = format!(
                        "CRC-32 mismatch of the data: {got:08x}, expected {expected:08x} (from the trailer)"
                    );
                    report(Flaw::at(data.start, what), cost);
                }
                Err(e) => report(Flaw::at(data.start, format!("cannot read the data: {e}")), cost),
            }
        }
        if let Some((at, expected)) = self.master_crc {
            let mut crc = crc32();
            self.details.stored_hashes.iter().for_each(|c| crc.update(&c.value));
            let got = crc.finalize();
            if got != expected {
                let what = format!(
                    "CRC-32 mismatch of all checksums: {got:08x}, expected {expected:08x} (from the trailer)"
                );
                report(Flaw::at(at, what), "unknown: a checksum in the tables is damaged");
            }
        }
        Ok(())
    }

    fn details(&self) -> &ImageDetails {
        &self.details
    }
}

impl Dmg {
    /// Returns the CRC-32 of a range of the file. The outer error is from `check_cancelled`, the inner one from reading
    /// the file.
    fn crc_of(
        &self,
        data: Range<u64>,
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<Result<u32, ReadError>, Error> {
        let (mut crc, mut at) = (crc32(), data.start);
        let mut buffer = vec![0; 1 << 20];
        while at < data.end {
            let len = index((data.end - at).min(buffer.len() as u64));
            if let Err(e) = self.input.read_exact_at(self.data.file, &mut buffer[..len], at) {
                return Ok(Err(e));
            }
            crc.update(&buffer[..len]);
            at += len as u64;
            check_cancelled()?;
        }
        Ok(Ok(crc.finalize()))
    }
}
