//! The disk that is served: that of an image, or one that is still being imaged.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use cdi_base::error::ReadError;
use cdi_base::readable::{Missing, Readable};
use cdi_image::badmap::BadBlocks;
use cdi_image::disk::Disk;
use cdi_image::disk::live::Live;
use cdi_image::disk::stats::Stats;
use cdi_image::part::PART_OF_DISK;
use serde_json::Value;

/// The disk that is served.
#[derive(Clone)]
pub enum Served {
    /// The disk of an image.
    Image(Arc<Disk>),
    /// A disk that is being imaged; after that, the disk of the image that was made.
    Live(Arc<dyn Live>),
}

impl From<Arc<Disk>> for Served {
    fn from(disk: Arc<Disk>) -> Served {
        Served::Image(disk)
    }
}

impl Served {
    /// Returns the disk of the image, or the disk that is still being imaged.
    pub(crate) fn now(&self) -> Result<&Arc<Disk>, &dyn Live> {
        match self {
            Served::Image(disk) => Ok(disk),
            Served::Live(live) => live.finished().ok_or(&**live),
        }
    }

    /// Returns the disk of the image, if it is not being imaged any more.
    pub fn image(&self) -> Option<&Arc<Disk>> {
        self.now().ok()
    }

    /// Returns whether the disk is being imaged, so that what can be read of it changes.
    pub fn is_live(&self) -> bool {
        self.now().is_err()
    }

    /// Returns the path of the image.
    pub fn path(&self) -> &Path {
        match self {
            Served::Image(disk) => disk.input().path(),
            Served::Live(live) => live.image(),
        }
    }

    /// Returns the paths of all files of the image.
    pub fn paths(&self) -> Vec<PathBuf> {
        match self.now() {
            Ok(disk) => disk.input().paths(),
            Err(live) => vec![live.image().to_owned()],
        }
    }

    /// Returns the files, and the directories whose files, may be opened while the disk is read.
    pub fn to_open(&self) -> Vec<PathBuf> {
        self.image().map(|disk| disk.input().to_open()).unwrap_or_default()
    }

    /// Returns what reading the image's remote files takes, if it has any (see `Input::remote_needs`).
    pub fn remote_needs(&self) -> Option<(Vec<PathBuf>, Option<PathBuf>)> {
        self.image()?.input().remote_needs()
    }

    /// Returns when the image was modified last, before it was served.
    pub fn modified(&self) -> SystemTime {
        let modified = match self {
            Served::Image(disk) => disk.input().modified(),
            Served::Live(live) => std::fs::metadata(live.image()).and_then(|meta| meta.modified()).ok(),
        };
        modified.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Returns which part of the disk this is, if it is not all of it.
    pub fn part(&self) -> Option<Value> {
        self.image()?.metadata().more.get(PART_OF_DISK).cloned()
    }

    /// Returns a value that distinguishes this disk from every other. That of an image is the same when it is opened again.
    pub fn identity(&self) -> [u8; 32] {
        match self.now() {
            Ok(disk) => disk.identity(),
            Err(live) => {
                let text =
                    format!("{} {} {:?}", live.image().display(), std::process::id(), SystemTime::now());
                *blake3::hash(text.as_bytes()).as_bytes()
            }
        }
    }

    /// Returns the size of the disk in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Served::Image(disk) => disk.size(),
            Served::Live(live) => live.size(),
        }
    }

    /// Returns the logical sector size in bytes.
    pub fn sector(&self) -> u32 {
        match self {
            Served::Image(disk) => disk.sector(),
            Served::Live(live) => live.sector(),
        }
    }

    /// Fills `buf` with the bytes at `offset`, as [`Disk::read_at`] does.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ReadError> {
        match self.now() {
            Ok(disk) => disk.read_at(buf, offset),
            Err(live) => live.read(buf, offset),
        }
    }

    /// Returns whether a read of `range` returns zeros, as far as that is known without reading data.
    pub fn is_zeros(&self, range: Range<u64>) -> bool {
        self.image().is_some_and(|disk| disk.is_zeros(range))
    }

    /// Returns what is not in the image, at this moment.
    pub fn bad(&self) -> Cow<'_, BadBlocks> {
        match self.now() {
            Ok(disk) => Cow::Borrowed(disk.bad()),
            Err(live) => Cow::Owned(live.bad()),
        }
    }

    /// Returns whether reads of some sectors fail, or may fail.
    pub fn has_failing_reads(&self) -> bool {
        self.image().is_none_or(|disk| disk.has_failing_reads())
    }

    /// Returns the read statistics so far.
    pub fn stats(&self) -> Stats {
        match self.now() {
            Ok(disk) => disk.stats(),
            Err(live) => live.stats(),
        }
    }

    /// Starts readahead of an image, as [`Disk::start_readahead`] does. A disk that is being imaged has none.
    pub fn start_readahead(&self, threads: usize) -> std::io::Result<()> {
        match self {
            Served::Image(disk) => disk.start_readahead(threads),
            Served::Live(_) => Ok(()),
        }
    }
}

impl Readable for Served {
    fn size(&self) -> u64 {
        self.size()
    }

    fn sector(&self) -> u32 {
        self.sector()
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> Result<(), ReadError> {
        match self.now() {
            Ok(disk) => disk.read(buffer, at),
            Err(live) => live.read(buffer, at),
        }
    }

    fn missing(&self, range: Range<u64>) -> Vec<Missing> {
        match self.now() {
            Ok(disk) => disk.missing(range),
            Err(live) => live.missing(range),
        }
    }
}
