//! A snapshot of a Parallels disk: all its parts, and the snapshot that it is based on.

use cdi_base::error::{Error, Flaw, ReadError};

use super::descriptor::{Descriptor, Storage};
use super::sparse::Sparse;
use crate::extent::{Extent, FileNo, Origin};
use crate::formats::chain::{Found, Layer, find, missing, next_depth};
use crate::image::CheckCancelled;
use crate::input::Input;

/// The disk as it was in a snapshot.
pub(super) struct Shot {
    size: u64,
    /// The parts of the disk, each with its end on the disk in bytes.
    parts: Vec<(u64, Part)>,
    parent: Option<Box<Shot>>,
}

enum Part {
    Plain(FileNo),
    Sparse(Sparse),
}

impl Shot {
    /// Opens the snapshot `guid`, and those that it is based on.
    pub(super) fn open(
        input: &Input,
        descriptor: &Descriptor,
        guid: &str,
        depth: usize,
        warnings: &mut Vec<String>,
    ) -> Result<Shot, Error> {
        let entry = descriptor.shot(guid)?;
        let part = |storage: &Storage| Ok((storage.end, Part::open(input, storage, guid, warnings)?));
        let parts = descriptor.storages.iter().map(part).collect::<Result<_, Error>>()?;
        let parent = match &entry.parent {
            Some(guid) => Some(Box::new(Shot::open(input, descriptor, guid, next_depth(depth)?, warnings)?)),
            None => None,
        };
        Ok(Shot { size: descriptor.size, parts, parent })
    }
}

impl Part {
    /// Opens the file with what a part of the disk has in the snapshot `guid`.
    fn open(input: &Input, storage: &Storage, guid: &str, warnings: &mut Vec<String>) -> Result<Part, Error> {
        let len = storage.end - storage.start;
        let Some(image) = storage.images.iter().find(|image| image.guid == guid) else {
            let what = format!("a part of the disk has no file for the snapshot {guid}");
            return Err(Error::bad_image(format!("{what}, from byte {} on", storage.start)));
        };
        let file = find(input, &image.file)?.ok_or_else(|| missing("file of the disk", &image.file))?;
        let path = input.path_of(file);
        let (part, has) = if image.is_plain {
            (Part::Plain(file), input.len_of(file))
        } else {
            let sparse = Sparse::open(input, file, warnings).map_err(|e| e.at(&path))?;
            let size = sparse.size();
            (Part::Sparse(sparse), size)
        };
        if has < len {
            let what = format!("has {has} bytes of the disk instead of {len}");
            return Err(Error::bad_image(what).at(&path));
        }
        Ok(part)
    }
}

impl Layer for Shot {
    fn size(&self) -> u64 {
        self.size
    }

    fn parent(&self) -> Option<&dyn Layer> {
        Some(&**self.parent.as_ref()?)
    }

    fn find(&self, input: &Input, offset: u64, end: u64) -> Result<Found, ReadError> {
        let n = self.parts.partition_point(|(end, _)| *end <= offset);
        let (stop, part) = self.parts.get(n).ok_or(ReadError::Unmapped { offset })?;
        let start = n.checked_sub(1).map_or(0, |before| self.parts[before].0);
        let end = end.min(*stop);
        Ok(match part {
            Part::Plain(file) => {
                let origin = Origin::Stored { file: *file, at: offset - start };
                Found::Here(Extent { disk: offset..end, origin })
            }
            Part::Sparse(sparse) => match sparse.find(input, offset - start, end - start)? {
                Found::Below(range) => Found::Below(range.start + start..range.end + start),
                Found::Here(Extent { disk, origin }) => {
                    Found::Here(Extent { disk: disk.start + start..disk.end + start, origin })
                }
            },
        })
    }

    fn check(
        &self,
        input: &Input,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        for (_, part) in &self.parts {
            if let Part::Sparse(sparse) = part {
                let name = input.path_of(sparse.file()).display().to_string();
                let mut named = |flaw: Flaw, cost: &str| {
                    report(Flaw::at(flaw.at, format!("{name}: {}", flaw.what)), cost);
                };
                sparse.check(input, &mut named, check_cancelled)?;
            }
        }
        self.parent.as_ref().map_or(Ok(()), |parent| parent.check(input, report, check_cancelled))
    }
}
