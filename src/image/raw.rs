//! A raw image: the disk's bytes as they are, in one file or in several (`disk.001`, `disk.002`, …). Its bad blocks, if
//! any, are told by a file beside it: ddrescue's mapfile, HDDSuperClone's log, a list by badblocks.

use std::path::Path;
use std::sync::Arc;

use super::about::About;
use super::bad::BadBlocks;
use super::facts::Facts;
use super::input::Input;
use super::{Extent, FileNo, Format, Image, OpenOptions, Origin, badblocks, mapfile};
use crate::error::{Error, ReadError};
use crate::units::SECTOR;

/// Raw images.
pub const FORMAT: Format = Format {
    name: "raw",
    summary: "the disk's bytes as they are, with or without a ddrescue mapfile (--mapfile)",
    integrity: "this format has no checksums: damage cannot be noticed",
    suffixes: &[
        "raw", "img", "dd", "ima", "image", "bin", "iso", "dsk", "hdd", "000", "001", "0000", "0001",
        "00001", "aa", "aaa",
    ],
    probe: |_| false,
    open,
};

struct Raw {
    input: Arc<Input>,
    /// Where each file ends on the disk, in bytes, and which it is.
    parts: Vec<(u64, FileNo)>,
    about: About,
}

fn open(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let parts = parts(&input)?;
    let size = parts.last().map_or(0, |(end, _)| *end);
    if size == 0 {
        return Err(Error::bad_image("is empty: there is no disk in it"));
    }
    let sector = options.sector_size.unwrap_or(SECTOR);
    let (bad, mut remarks) = match (&options.mapfile, &options.badblocks) {
        (Some(path), _) => mapfile::load(path, size, sector)?,
        (None, Some((path, block))) => (badblocks::load(path, *block, size, sector)?, Vec::new()),
        (None, None) => (BadBlocks::none(), Vec::new()),
    };
    let facts = Facts {
        size_bytes: size,
        logical_sector_bytes: options.sector_size.unwrap_or(0),
        source: Some(input.path().display().to_string()),
        ..Facts::default()
    };
    if parts.len() > 1 {
        remarks.push(format!("{} files make up the disk", parts.len()));
    }
    Ok(Box::new(Raw { input, parts, about: About { bad, facts, remarks, ..About::default() } }))
}

/// The files of a disk in pieces: the one that was named, whose suffix is a first one, and those that follow it.
fn parts(input: &Input) -> Result<Vec<(u64, FileNo)>, Error> {
    let mut end = input.len();
    let mut parts = vec![(end, Input::MAIN)];
    let path = input.path();
    let Some(mut suffix) =
        path.extension().and_then(|s| s.to_str()).filter(|s| is_first(s)).map(str::to_owned)
    else {
        return Ok(parts);
    };
    let name = |suffix: &str| path.file_name().map(|name| Path::new(name).with_extension(suffix));
    while let Some(next) = following(&suffix) {
        suffix = next;
        let Some(file) = name(&suffix).map(|n| input.beside(&n)).transpose()?.flatten() else {
            // One that is missing before another is no end.
            if let Some(after) = following(&suffix).and_then(|s| name(&s))
                && input.beside(&after)?.is_some()
            {
                let what = format!("the part .{suffix} is missing, and {} is there", after.display());
                return Err(Error::bad_image(what));
            }
            break;
        };
        end = end
            .checked_add(input.len_of(file))
            .filter(|end| i64::try_from(*end).is_ok())
            .ok_or_else(|| Error::bad_image("the parts together are longer than a disk can be"))?;
        parts.push((end, file));
    }
    Ok(parts)
}

/// Whether a suffix is the first of a series: a number or the first letters, of those that say raw.
fn is_first(suffix: &str) -> bool {
    let counts = suffix.bytes().all(|b| b.is_ascii_digit()) || suffix.bytes().all(|b| b == b'a');
    counts && FORMAT.suffixes.contains(&suffix)
}

/// The suffix behind this one: `001`, `002` …; `aa`, `ab`, … `az`, `ba`, … None behind the last.
fn following(suffix: &str) -> Option<String> {
    let mut digits = suffix.as_bytes().to_vec();
    for digit in digits.iter_mut().rev() {
        let (first, last) = if digit.is_ascii_digit() { (b'0', b'9') } else { (b'a', b'z') };
        if *digit < last {
            *digit += 1;
            return String::from_utf8(digits).ok();
        }
        *digit = first;
    }
    None
}

impl Image for Raw {
    fn size(&self) -> u64 {
        self.parts.last().map_or(0, |(end, _)| *end)
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        let part = self.parts.partition_point(|(end, _)| *end <= offset);
        let start = part.checked_sub(1).map_or(0, |before| self.parts[before].0);
        let (end, file) = *self.parts.get(part).ok_or(ReadError::PastEnd)?;
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

    fn about(&self) -> &About {
        &self.about
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_follow_each_other() {
        let next = |s| following(s).unwrap_or_default();
        assert_eq!(
            [next("001"), next("009"), next("aa"), next("az"), next("999")],
            ["002", "010", "ab", "ba", ""]
        );
    }
}
