//! A raw image: the disk's bytes as they are, in one file or in several (`disk.001`, `disk.002`, …). Its bad blocks, if
//! any, are in another file: ddrescue's mapfile, HDDSuperClone's log, a list by badblocks.
//!
//! A program that rescues a disk writes the file up to the last byte that it could read, and the map up to the end of the
//! disk. So the disk is as long as its map, and what the file does not have is as the map says, but never finished.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cdi_base::error::{Error, ReadError};
use cdi_base::units::{SECTOR, human};

use crate::badmap::listed::{End, Listed};
use crate::badmap::{BadBlocks, BadRange, Status, badblocks, load};
use crate::details::ImageDetails;
use crate::extent::{Extent, FileNo, Origin};
use crate::image::{Format, Image, Mapfile, OpenOptions};
use crate::input::pieces::RAW_SUFFIXES;
use crate::input::{Input, pieces};
use crate::metadata::Metadata;

/// Raw images.
pub const FORMAT: Format = Format {
    name: "raw",
    summary: "the disk's bytes as they are, in one file or in pieces, with or without a map of bad blocks",
    integrity: "this format has no checksums: damage cannot be noticed",
    suffixes: RAW_SUFFIXES,
    probe: |_| false,
    open,
};

struct Raw {
    input: Arc<Input>,
    size: u64,
    /// Where each file ends on the disk, in bytes, and which it is.
    parts: Vec<(u64, FileNo)>,
    details: ImageDetails,
}

fn open(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let parts = pieces::find(&input)?;
    let len = parts.last().map_or(0, |(end, _)| *end);
    let sector = options.sector_size.unwrap_or(SECTOR);
    let mut warnings = Vec::new();
    if parts.len() > 1 {
        warnings.push(format!("{} files make up the disk", parts.len()));
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
            let (bad, lost) = without_file(bad, len, size, sector);
            if size > len {
                warnings
                    .push(format!("the disk has {size} bytes, by {}, and the image {len}", path.display()));
            }
            if !lost.is_empty() {
                let bytes = lost.iter().map(|r| r.end - r.start).sum();
                warnings.push(format!(
                    "{} that {} calls finished are not in the image, and cannot be read: is it cut off, or the map of \
                     another disk?",
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
        (None, None) => (len, BadBlocks::none(), Vec::new()),
    };
    if size == 0 {
        return Err(Error::bad_image("is empty: there is no disk in it"));
    }
    let metadata = Metadata {
        size_bytes: size,
        logical_sector_bytes: options.sector_size.unwrap_or(0),
        source: Some(input.path().display().to_string()),
        ..Metadata::default()
    };
    Ok(Box::new(Raw {
        input,
        size,
        parts,
        details: ImageDetails { bad, metadata, warnings, lost, ..ImageDetails::default() },
    }))
}

/// The map of a disk of `size` bytes whose image has `len`: what of the rest the map calls finished is not there. Gives these
/// ranges, too.
fn without_file(
    mut bad: BadBlocks,
    len: u64,
    size: u64,
    sector: u32,
) -> (BadBlocks, Vec<std::ops::Range<u64>>) {
    if len >= size {
        return (bad, Vec::new());
    }
    // A sector that is not whole cannot be read.
    let held = len - len % u64::from(sector);
    let lost: Vec<_> = bad.held(held..size).collect();
    let unread: Vec<_> = lost.iter().map(|r| BadRange::new(r.clone(), Status::NonTried)).collect();
    bad.apply(&unread);
    (bad, lost)
}

/// How much older than its image a map may be: both are written at the end.
const OLDER: Duration = Duration::from_secs(60);

/// Finds the map of an image of `len` bytes next to it, by its name, and says what was found.
fn find_adjacent_map(
    input: &Input,
    len: u64,
    warnings: &mut Vec<String>,
) -> Result<Option<(PathBuf, Listed)>, Error> {
    if input.is_device() || input.is_folder() {
        return Ok(None);
    }
    let mut found: Option<(PathBuf, Listed)> = None;
    for name in maps_of(input.path()) {
        let shown = name.display();
        let file = match input.sibling(&name) {
            Ok(Some(file)) => file,
            Ok(None) => continue,
            // One that leads elsewhere, or is no file, need not be the image's.
            Err(e) => {
                warnings.push(format!("{shown} lies next to the image and is not used: {}", e.what));
                continue;
            }
        };
        let path = input.path_of(file);
        let listed = match load::read(&path) {
            Ok(listed) => listed,
            // Any program may call what it has to say that.
            Err(_) if name.extension().is_some_and(|e| e == "log") => continue,
            Err(e) => {
                warnings.push(format!("{shown} lies next to the image and is not used: {}", e.what));
                continue;
            }
        };
        if let Some((used, _)) = &found {
            let used = used.file_name().unwrap_or_default().display();
            warnings.push(format!("{shown} lies next to the image, too, and is not used: {used} is"));
            continue;
        }
        match listed.end() {
            End::Known(end) if end < len => {
                warnings.push(format!(
                    "{shown} lies next to the image and is not used: it is the map of a disk of {end} bytes, and the image \
                     has {len}"
                ));
                continue;
            }
            _ => {}
        }
        warnings.push(format!("bad sectors are taken from {shown}, found next to the image"));
        let time = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
        if is_older(time(&path), input.modified()) {
            warnings.push(format!(
                "{shown} is older than the image: blocks that it calls bad may have been read since"
            ));
        }
        found = Some((path, listed));
    }
    Ok(found)
}

fn is_older(map: Option<SystemTime>, image: Option<SystemTime>) -> bool {
    matches!((map, image), (Some(map), Some(image)) if map + OLDER < image)
}

/// The names that the map of a raw image may have next to it.
fn maps_of(image: &Path) -> Vec<PathBuf> {
    let whole = image.file_name().map(PathBuf::from);
    // What is called after all of the name is of this file alone.
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

/// Finds the map that lies next to the raw image or disk file at `path` and would be used for it, if there is one.
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
    fn maps_are_called_after_their_image() {
        let names = |image| {
            let names = maps_of(Path::new(image)).into_iter().map(|n| n.display().to_string());
            names.collect::<Vec<_>>().join(" ")
        };
        let raw = "disk.raw.map disk.raw.mapfile disk.raw.log disk.map disk.mapfile disk.log";
        assert_eq!(names("/x/disk.raw"), raw);
        assert_eq!(names("disk"), "disk.map disk.mapfile disk.log");
        assert!(names("disk.001").ends_with(" disk.map disk.mapfile disk.log"));
        assert!(!names("disk.log").contains("disk.log "));
    }
}
