//! Chains of images: a difference, and what lies below it.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};
use std::sync::Arc;

use cdi_base::advice::Advice;
use cdi_base::error::{Error, Flaw, ReadError};
use cdi_base::units::index;

use crate::details::ImageDetails;
use crate::extent::{Extent, FileNo, Origin};
use crate::image::{CheckCancelled, Image};
use crate::input::Input;

/// What a layer says of a place of its disk.
pub(super) enum Found {
    /// It has the bytes.
    Here(Extent),
    /// Its parent has these; without one they are zeros.
    Below(Range<u64>),
}

/// A disk that may lack parts, which its parent has, of whatever format.
pub(super) trait Layer: Send + Sync {
    /// The size of the disk in bytes.
    fn size(&self) -> u64;

    /// Says what this layer has at `offset`, which is less than `end`; the size is not less than that. It may say more of what
    /// is before `offset` or after `end`; what is below begins at `offset`.
    fn find(&self, input: &Input, offset: u64, end: u64) -> Result<Found, ReadError>;

    /// The disk that has what this one lacks.
    fn parent(&self) -> Option<&dyn Layer> {
        None
    }

    /// As [`Image::check`].
    fn check(
        &self,
        _input: &Input,
        _report: &mut dyn FnMut(Flaw, &str),
        _check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        Ok(())
    }
}

/// Finds what `layer`, or a layer below it, has at `offset`. After the end of a disk there are zeros: a parent may be shorter.
fn map(layer: &dyn Layer, input: &Input, offset: u64, end: u64) -> Result<Extent, ReadError> {
    let (mut layer, mut end) = (layer, end);
    // What a parent has before that may not be its child's.
    let mut first = 0;
    while offset < layer.size() {
        let below = match layer.find(input, offset, end.min(layer.size()))? {
            Found::Here(extent) => return Ok(extent.cut(first, end)),
            Found::Below(below) => below,
        };
        first = offset;
        end = below.end;
        match layer.parent() {
            Some(parent) => layer = parent,
            None => break,
        }
    }
    Ok(zeros(offset, end))
}

/// An image of which a layer is the disk.
pub(super) struct Chain<L> {
    pub(super) input: Arc<Input>,
    pub(super) top: L,
    pub(super) details: ImageDetails,
}

impl<L: Layer> Image for Chain<L> {
    fn size(&self) -> u64 {
        self.top.size()
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        map(&self.top, &self.input, offset, self.top.size())
    }

    fn check(
        &self,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        self.top.check(&self.input, report, check_cancelled)
    }

    fn details(&self) -> &ImageDetails {
        &self.details
    }
}

/// Fills a buffer from an offset of a file.
type Read<'a> = dyn Fn(&mut [u8], u64) -> Result<(), ReadError> + 'a;

/// In what pieces a table is read where many entries may be alike, in bytes: few where the run is short, and never more
/// than all of these for one call.
const PIECES: [usize; 3] = [256, 4 << 10, 60 << 10];

/// How many of the `count` entries of `width` bytes from `at` on are as `is` wants them, as far as it looks at them: at most
/// 64 KiB.
pub(super) fn alike(
    read: &Read<'_>,
    at: u64,
    count: u64,
    width: usize,
    is: &dyn Fn(&[u8]) -> bool,
) -> Result<u64, ReadError> {
    let mut found = 0;
    for piece in PIECES {
        let entries = (count - found).min((piece / width) as u64);
        let mut bytes = vec![0; index(entries) * width];
        match read(&mut bytes, at + found * width as u64) {
            // What was found so far is known.
            Err(_) if found > 0 => break,
            other => other?,
        }
        let same = bytes.chunks_exact(width).take_while(|entry| is(entry)).count() as u64;
        found += same;
        if same < entries || found == count {
            break;
        }
    }
    Ok(found)
}

/// How many parents a disk may have, one behind the other.
const MAX_DEPTH: usize = 16;

/// One more than `depth`, if a chain may be so deep. A chain that comes back to itself ends here.
pub(super) fn deeper(depth: usize) -> Result<usize, Error> {
    if depth < MAX_DEPTH {
        return Ok(depth + 1);
    }
    Err(Error::bad_image(format!("more than {MAX_DEPTH} parents, one behind the other, are not read")))
}

/// Finds the parent of a differencing image, by the path that it names.
pub(super) fn parent(input: &Input, path: &Path) -> Result<FileNo, Error> {
    find(input, path)?.ok_or_else(|| missing("the parent of this differencing image", path))
}

/// The last part of a path, which may be one of another system.
fn last(path: &Path) -> &Path {
    let parts = path.as_os_str().as_bytes().rsplit(|b| matches!(b, b'/' | b'\\'));
    Path::new(OsStr::from_bytes(parts.into_iter().next().unwrap_or_default()))
}

/// Finds the file that an image names by a path: where the path leads, if that may be read, else the file of that name
/// next to the image. The path may be one of another system.
pub(super) fn find(input: &Input, path: &Path) -> Result<Option<FileNo>, Error> {
    let there = input.sibling(path);
    let last = last(path);
    let is_name = matches!(last.components().next(), Some(Component::Normal(_)));
    if matches!(there, Ok(Some(_))) || last == path || !is_name {
        return there;
    }
    let Some(file) = input.sibling(last)? else { return Ok(None) };
    let id = |path: &Path| path.metadata().ok().filter(|m| m.is_file()).map(|m| (m.dev(), m.ino()));
    let found = id(&input.path_of(file));
    if found == id(input.path()) {
        // An image next to its parent's directory, and called like the parent.
        return Ok(None);
    }
    let dir = input.path().parent().unwrap_or(Path::new(""));
    if id(&dir.join(path)).is_some_and(|named| Some(named) != found) {
        let what = format!(
            "the image names '{}', which is there, and '{}' next to the image is another file",
            path.display(),
            last.display()
        );
        return Err(Error::bad_image(what).at(input.path()).hint(Advice::AllowDirectory));
    }
    Ok(Some(file))
}

/// The error for a file that is not there: `what` says what it is.
pub(super) fn missing(what: &str, path: &Path) -> Error {
    Error::bad_image(format!("{what}, '{}', is not next to the image", path.display()))
        .hint(format!("put '{}' there", last(path).display()))
        .then(Advice::AllowDirectory)
}

/// Zeros from `offset` to `end`.
pub(super) fn zeros(offset: u64, end: u64) -> Extent {
    Extent { disk: offset..end, origin: Origin::Fill([0; 8]) }
}
