//! Raw images: an exact copy of the disk's bytes, in one file or split into several (`disk.001`, `disk.002`, …). Bad
//! blocks, if any, are recorded in a separate file: a ddrescue mapfile, an HDDSuperClone log or a badblocks(8) list.
//!
//! A rescue program writes the image up to the last byte that it could read, but the map up to the end of the disk. The
//! disk is therefore as long as its map, and parts missing from the image keep the status in the map, but are never
//! treated as finished.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cdi_base::error::{Error, Kind, ReadError};
use cdi_base::units::{SECTOR, human, index};

use crate::badmap::listed::{End, Listed};
use crate::badmap::{BadBlocks, BadRange, Status, badblocks, load};
use crate::details::ImageDetails;
use crate::extent::{Extent, FileNo, Origin};
use crate::image::{Format, Image, Mapfile, OpenOptions};
use crate::input::pieces::RAW_SUFFIXES;
use crate::input::{Input, SourceReader, pieces};
use crate::metadata::Metadata;

/// Raw images.
pub const FORMAT: Format = Format {
    name: "raw",
    summary: "raw disk images, in one file or split, with or without a map of bad blocks",
    integrity: "none: the format has no checksums, so damage cannot be detected",
    suffixes: RAW_SUFFIXES,
    probe: |_| false,
    open,
};

/// Raw images that are packed as a whole: their unpacked contents are opened like any raw image. (zstd's format has
/// another file, because of its seekable form.)
pub const PACKED: [Format; 4] = [
    packed(
        "gzip",
        "raw disks compressed by gzip, pigz or bgzip",
        "CRC-32 of each member, checked when the index is made",
        &["gz"],
    ),
    packed(
        "xz",
        "raw disks compressed by xz in several blocks",
        "a checksum of each block, checked when the index is made",
        &["xz"],
    ),
    packed("bzip2", "raw disks compressed by bzip2, pbzip2 or lbzip2", "CRC-32 of each block", &["bz2"]),
    packed(
        "lz4",
        "raw disks compressed by lz4",
        "checksums of blocks and frames, if the writer stored them",
        &["lz4"],
    ),
];

const fn packed(
    name: &'static str,
    summary: &'static str,
    integrity: &'static str,
    suffixes: &'static [&'static str],
) -> Format {
    Format { name, summary, integrity, suffixes, probe: |_| false, open: open_packed }
}

/// Opens the unpacked contents of a packed file as a raw disk.
pub(super) fn open_packed(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    if input.packed().is_none() {
        return Err(Error::bad_image("not a packed file of this kind"));
    }
    open(input, options)
}

struct Raw {
    input: Arc<Input>,
    size: u64,
    /// The files, each with its end offset on the disk in bytes.
    parts: Vec<(u64, FileNo)>,
    details: ImageDetails,
}

fn open(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let parts = pieces::find(&input)?;
    let len = parts.last().map_or(0, |(end, _)| *end);
    let sector = options.sector_size.unwrap_or(SECTOR);
    let mut warnings = Vec::new();
    if parts.len() > 1 {
        warnings.push(format!("the image is split into {} files", parts.len()));
    }
    let given = match (&options.mapfile, &options.badblocks) {
        (Mapfile::File(path), _) => Some((path.clone(), load::read(path)?)),
        (Mapfile::Adjacent, None) => find_adjacent_map(&input, len, &mut warnings)?,
        _ => None,
    };
    let (size, bad, lost) = match (given, &options.badblocks) {
        (Some((path, listed)), _) => {
            let size = listed.end().at_least().max(len);
            let (bad, said) = listed.map(size, sector);
            warnings.extend(said);
            let (bad, lost) = mark_lost(bad, len, size, sector);
            if size > len {
                warnings.push(format!(
                    "the disk has {size} bytes according to {}, but the image has only {len}",
                    path.display()
                ));
            }
            if !lost.is_empty() {
                let bytes = lost.iter().map(|r| r.end - r.start).sum();
                warnings.push(format!(
                    "{} marked finished in {} are missing from the image and cannot be read: the image is truncated, or \
                     the map belongs to another disk",
                    human(bytes),
                    path.display()
                ));
            }
            (size, bad, lost)
        }
        (None, Some((path, block))) => {
            let (bad, size) = badblocks::load(path, *block, len, sector)?;
            (size, bad, Vec::new())
        }
        (None, None) => {
            let end = packed_end(&input);
            let is_cut = input.packed().is_some_and(|packed| packed.cut);
            if end > len && !is_cut {
                warnings.push(format!(
                    "the disk has {} by its partition table or file system, but there are only {} in the file",
                    human(end),
                    human(len)
                ));
            }
            let size = if is_cut { end.max(len) } else { len };
            let (bad, lost) = mark_lost(BadBlocks::none(), len, size, sector);
            (size, bad, lost)
        }
    };
    if size == 0 {
        return Err(Error::bad_image("empty file, no disk image"));
    }
    let metadata = Metadata {
        size_bytes: size,
        logical_sector_bytes: options.sector_size.unwrap_or(0),
        source: Some(input.path().display().to_string()),
        ..Metadata::default()
    };
    let mut details = ImageDetails { bad, metadata, warnings, lost, ..ImageDetails::default() };
    if let Some(packed) = input.packed() {
        details.add_damage(packed, size, |range| vec![range]);
    }
    Ok(Box::new(Raw { input, size, parts, details }))
}

/// Returns where the disk in a packed file ends, as far as the disk itself says it, in bytes.
fn packed_end(input: &Input) -> u64 {
    if input.packed().is_none() {
        return 0;
    }
    let start = input.bytes(0, index(input.len().min(2048)), "the first sectors").unwrap_or_default();
    pieces::disk_end::disk_end(&start).unwrap_or(0)
}

/// Corrects the map of a disk of `size` bytes whose image has only `len` bytes: ranges past that which the map marks as
/// finished become non-tried. Returns the corrected map and these ranges, in bytes.
fn mark_lost(mut bad: BadBlocks, len: u64, size: u64, sector: u32) -> (BadBlocks, Vec<std::ops::Range<u64>>) {
    if len >= size {
        return (bad, Vec::new());
    }
    // A partial sector at the end cannot be read.
    let end = len - len % u64::from(sector);
    let lost: Vec<_> = bad.held(end..size).collect();
    let unread: Vec<_> = lost.iter().map(|r| BadRange::new(r.clone(), Status::NonTried)).collect();
    bad.apply(&unread);
    (bad, lost)
}

/// How much older than its image a map may be without a warning: both are written at the end.
const MAX_AGE: Duration = Duration::from_secs(60);

/// Finds the map of an image of `len` bytes, by its name, in the image's directory, and adds warnings about it.
fn find_adjacent_map(
    input: &Input,
    len: u64,
    warnings: &mut Vec<String>,
) -> Result<Option<(PathBuf, Listed)>, Error> {
    if input.is_device() || input.is_directory() {
        return Ok(None);
    }
    let mut found: Option<(PathBuf, Listed)> = None;
    for name in map_names(input.name()) {
        let shown = name.display();
        let file = match input.sibling(&name) {
            Ok(Some(file)) => file,
            // Without the right to list a bucket, access is denied to what is not there, as well.
            Ok(None) if input.is_denied(&name) => {
                let what = format!("access to {shown} is denied: a map of bad sectors may be there");
                return Err(Error::failed(what)
                    .hint("get the right to list the files there, or say which map to use"));
            }
            Ok(None) => continue,
            // A map that cannot be reached must not be taken for none.
            Err(e) if input.is_remote() => return Err(e),
            // A link to elsewhere, or something that is not a file, need not belong to the image.
            Err(e) => {
                warnings.push(format!("ignoring {shown} next to the image: {}", e.what));
                continue;
            }
        };
        let path = input.path_of(file);
        let text = SourceReader::new(input.joined(&[file]));
        let listed = match load::read_from(BufReader::new(text), &path) {
            Ok(listed) => listed,
            Err(e) if e.kind != Kind::BadImage && input.is_remote() => return Err(e),
            // Many programs name their log files like this.
            Err(_) if name.extension().is_some_and(|e| e == "log") => continue,
            Err(e) => {
                warnings.push(format!("ignoring {shown} next to the image: {}", e.what));
                continue;
            }
        };
        if let Some((used, _)) = &found {
            let used = used.file_name().unwrap_or_default().display();
            warnings.push(format!("ignoring {shown} next to the image: {used} is used instead"));
            continue;
        }
        match listed.end() {
            End::Known(end) if end < len => {
                warnings.push(format!(
                    "ignoring {shown} next to the image: it is the map of a disk of {end} bytes, but the image has {len}"
                ));
                continue;
            }
            _ => {}
        }
        warnings.push(format!("using the bad sectors listed in {shown}, found next to the image"));
        if is_older(input.modified_of(file), input.modified()) {
            warnings.push(format!(
                "{shown} is older than the image: blocks marked bad in it may have been read since"
            ));
        }
        found = Some((path, listed));
    }
    Ok(found)
}

fn is_older(map: Option<SystemTime>, image: Option<SystemTime>) -> bool {
    matches!((map, image), (Some(map), Some(image)) if map + MAX_AGE < image)
}

/// Returns the file names that the map of a raw image may have.
fn map_names(image: &Path) -> Vec<PathBuf> {
    let whole = image.file_name().map(PathBuf::from);
    // A map named after the full file name, with suffix, belongs to this file alone.
    let mut stems: Vec<PathBuf> = whole.into_iter().chain(pieces::stem(image)).collect();
    stems.dedup();
    let named = |stem: &PathBuf| {
        ["map", "mapfile", "log"].map(|suffix| {
            let mut name = stem.clone();
            name.as_mut_os_string().push(format!(".{suffix}"));
            name
        })
    };
    stems.iter().flat_map(named).filter(|name| Some(name.as_os_str()) != image.file_name()).collect()
}

/// Finds the map next to the raw image or disk file at `path` that would be used for it, if there is one.
pub fn adjacent_map(path: &Path) -> Option<PathBuf> {
    let input = Input::open(path).ok()?;
    find_adjacent_map(&input, input.len(), &mut Vec::new()).ok()?.map(|(path, _)| path)
}

impl Image for Raw {
    fn size(&self) -> u64 {
        self.size
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        let part = self.parts.partition_point(|(end, _)| *end <= offset);
        let start = part.checked_sub(1).map_or(0, |before| self.parts[before].0);
        let Some((end, file)) = self.parts.get(part).copied() else {
            return Ok(Extent { disk: offset..self.size, origin: Origin::Unread });
        };
        if file != Input::MAIN {
            return Ok(Extent { disk: offset..end, origin: Origin::Stored { file, at: offset - start } });
        }
        let run = self.input.data_run(offset)?;
        Ok(if run.start > offset {
            Extent { disk: offset..run.start, origin: Origin::Fill([0; 8]) }
        } else {
            Extent { disk: run, origin: Origin::Stored { file, at: offset } }
        })
    }

    fn details(&self) -> &ImageDetails {
        &self.details
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_named_after_their_image() {
        let names = |image| {
            let names = map_names(Path::new(image)).into_iter().map(|n| n.display().to_string());
            names.collect::<Vec<_>>().join(" ")
        };
        let raw = "disk.raw.map disk.raw.mapfile disk.raw.log disk.map disk.mapfile disk.log";
        assert_eq!(names("/x/disk.raw"), raw);
        assert_eq!(names("disk"), "disk.map disk.mapfile disk.log");
        assert!(names("disk.001").ends_with(" disk.map disk.mapfile disk.log"));
        assert!(!names("disk.log").contains("disk.log "));
    }
}
