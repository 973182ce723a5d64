//! Chains of images: a differencing image and its parents.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};
use std::sync::Arc;

use cdi_base::advice::Advice;
use cdi_base::error::{Error, Flaw, ReadError};
use cdi_base::units::{SECTOR, index};

use crate::details::ImageDetails;
use crate::extent::{Extent, FileNo, Origin};
use crate::image::{CheckCancelled, Image, OpenOptions};
use crate::input::Input;
use crate::metadata::Metadata;

/// Where a layer has the data for an offset of its disk.
pub(super) enum Found {
    /// This layer has the bytes.
    Here(Extent),
    /// The parent has the bytes of this range; without a parent they are zeros.
    Below(Range<u64>),
}

/// One disk of a chain. Data that it does not have comes from its parent, which may be of any format.
pub(super) trait Layer: Send + Sync {
    /// Returns the size of the disk in bytes.
    fn size(&self) -> u64;

    /// Finds the data at `offset`, where `offset < end <= size`. The result may also cover bytes before `offset` or
    /// after `end`; a [`Found::Below`] range always begins at `offset`.
    fn find(&self, input: &Input, offset: u64, end: u64) -> Result<Found, ReadError>;

    /// Returns the parent, which has the data that this layer does not have.
    fn parent(&self) -> Option<&dyn Layer> {
        None
    }

    /// See [`Image::check`].
    fn check(
        &self,
        _input: &Input,
        _report: &mut dyn FnMut(Flaw, &str),
        _check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        Ok(())
    }
}

/// Finds the data at `offset` in `layer` or its parents. A parent may be shorter than its child: past its end, the
/// data is zeros.
fn map(layer: &dyn Layer, input: &Input, offset: u64, end: u64) -> Result<Extent, ReadError> {
    let (mut layer, mut end) = (layer, end);
    // Bytes before `first` must not be taken from a parent: the child may have its own.
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

/// An image whose disk is the top layer of a chain.
pub(super) struct Chain<L> {
    pub(super) input: Arc<Input>,
    pub(super) top: L,
    pub(super) details: ImageDetails,
}

impl<L: Layer> Chain<L> {
    /// Returns the image whose disk is `top`, of a format that records nothing about the disk but its size.
    pub(super) fn of(input: Arc<Input>, top: L, options: &OpenOptions, warnings: Vec<String>) -> Chain<L> {
        let metadata = Metadata {
            size_bytes: top.size(),
            logical_sector_bytes: options.sector_size.unwrap_or(SECTOR),
            ..Metadata::default()
        };
        Chain { input, top, details: ImageDetails { metadata, warnings, ..ImageDetails::default() } }
    }
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

/// Fills a buffer from the given file offset.
type Read<'a> = dyn Fn(&mut [u8], u64) -> Result<(), ReadError> + 'a;

/// Sizes in bytes of the successive reads when counting equal table entries: small first, since most runs are short.
/// One call never reads more than the sum of these.
const PIECES: [usize; 3] = [256, 4 << 10, 60 << 10];

/// Counts how many of the `count` entries of `width` bytes, starting at file offset `at`, satisfy `is` in a row. Reads
/// at most 64 KiB, so the actual run may be longer.
pub(super) fn count_matching(
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
            // The entries counted so far are valid.
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

/// Largest number of clusters in a file that is checked for duplicate use: 64 TiB in clusters of 1 MiB.
const MAX_CHECKED: u64 = 1 << 26;

/// Finds clusters of a file that are used for two parts of the disk.
pub(super) struct Uses {
    /// The size of a cluster in bytes.
    cluster: u64,
    /// One bit for each cluster of the file.
    used: Vec<u64>,
}

impl Uses {
    /// Returns an empty list for a file of `len` bytes. None: it has too many clusters, a list would need too much memory.
    pub(super) fn new(len: u64, cluster: u64) -> Option<Uses> {
        let clusters = len / cluster + 1;
        (clusters <= MAX_CHECKED).then(|| Uses { cluster, used: vec![0; index(clusters.div_ceil(64))] })
    }

    /// Marks the cluster at file offset `at` as used by the table entry at `entry_at`; reports and returns whether it is
    /// used already.
    pub(super) fn mark(&mut self, at: u64, entry_at: u64, report: &mut dyn FnMut(Flaw, &str)) -> bool {
        let (n, bit) = (at / self.cluster, 1u64 << (at / self.cluster % 64));
        // What is past the end of the file is an error of its own.
        let used = usize::try_from(n / 64).ok().and_then(|n| self.used.get_mut(n));
        let Some(used) = used else { return false };
        let is_used = *used & bit != 0;
        if is_used {
            let what = format!("the cluster at byte {at} of the file is used for two parts of the disk");
            report(Flaw::at(entry_at, what), "one of the two parts, which has the other's data");
        }
        *used |= bit;
        is_used
    }

    /// Marks the clusters that a table uses: `count` entries of `width` bytes from file offset `at` on. `place` returns
    /// the file offset that an entry contains, if it contains one. A table that cannot be read is reported.
    pub(super) fn mark_table(
        &mut self,
        read: &Read<'_>,
        (at, count, width): (u64, u64, usize),
        place: &dyn Fn(&[u8]) -> Option<u64>,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        let most = PIECES[2] / width;
        let mut done = 0;
        while done < count {
            check_cancelled()?;
            let here = at + done * width as u64;
            let mut bytes = vec![0; index((count - done).min(most as u64)) * width];
            if let Err(e) = read(&mut bytes, here) {
                let cost = "unknown: the rest of the table was not checked";
                report(Flaw::at(here, format!("cannot read a table: {e}")), cost);
                return Ok(());
            }
            for (n, entry) in bytes.chunks_exact(width).enumerate() {
                if let Some(place) = place(entry) {
                    self.mark(place, here + (n * width) as u64, report);
                }
            }
            done += (bytes.len() / width) as u64;
        }
        Ok(())
    }
}

/// Maximum number of parents in a chain.
const MAX_DEPTH: usize = 16;

/// Returns `depth + 1`, or an error if the chain would be too deep. This also catches cyclic chains.
pub(super) fn next_depth(depth: usize) -> Result<usize, Error> {
    if depth < MAX_DEPTH {
        return Ok(depth + 1);
    }
    Err(Error::bad_image(format!("chain of more than {MAX_DEPTH} parents (not supported)")))
}

/// Finds the parent of a differencing image by the path stored in the image.
pub(super) fn parent(input: &Input, path: &Path) -> Result<FileNo, Error> {
    find(input, path)?.ok_or_else(|| missing("parent of this differencing image", path))
}

/// Returns the last component of a path, which may be a Unix or a Windows path.
fn last(path: &Path) -> &Path {
    let parts = path.as_os_str().as_bytes().rsplit(|b| matches!(b, b'/' | b'\\'));
    Path::new(OsStr::from_bytes(parts.into_iter().next().unwrap_or_default()))
}

/// Finds the file that an image refers to by a path: the file at that path if access to it is allowed, otherwise the
/// file of that name next to the image. The path may be a Unix or a Windows path.
pub(super) fn find(input: &Input, path: &Path) -> Result<Option<FileNo>, Error> {
    let there = input.sibling(path);
    let last = last(path);
    let is_name = matches!(last.components().next(), Some(Component::Normal(_)));
    if matches!(there, Ok(Some(_))) || last == path || !is_name {
        return there;
    }
    let Some(file) = input.sibling(last)? else { return Ok(None) };
    let id = |path: &Path| path.metadata().ok().filter(|m| m.is_file()).map(|m| (m.dev(), m.ino()));
    let place = input.path_of(file);
    let found = id(&place);
    // Files on another system have no number.
    if place == input.path() || (found.is_some() && found == id(input.path())) {
        // The image has the same file name as its parent, which is in another directory.
        return Ok(None);
    }
    if input.is_remote() {
        return Ok(Some(file));
    }
    let dir = input.path().parent().unwrap_or(Path::new(""));
    if id(&dir.join(path)).is_some_and(|named| Some(named) != found) {
        let what = format!(
            "the image refers to '{}', which exists, but '{}' next to the image is a different file",
            path.display(),
            last.display()
        );
        return Err(Error::bad_image(what).at(input.path()).hint(Advice::AllowDirectory));
    }
    Ok(Some(file))
}

/// Returns the error for a missing file; `what` describes its role.
pub(super) fn missing(what: &str, path: &Path) -> Error {
    Error::bad_image(format!("{what} not found next to the image: '{}'", path.display()))
        .hint(format!("copy '{}' there", last(path).display()))
        .then(Advice::AllowDirectory)
}

/// Returns an extent of zeros from `offset` to `end`.
pub(super) fn zeros(offset: u64, end: u64) -> Extent {
    Extent { disk: offset..end, origin: Origin::Fill([0; 8]) }
}
