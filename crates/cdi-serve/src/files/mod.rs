//! `files/`: the file systems inside the disk, read-only, without the kernel's parsers. A directory for each volume, in it
//! what its catalogue has.
//!
//! Nothing is read before somebody looks: the partition table when `files` is listed, the records of a volume when its
//! directory is. Until then, [`Files::wait`] says that there is something to wait for; every transport waits in its own way,
//! so that other requests are answered meanwhile. Every other function waits by itself, if it must.
//!
//! Numbers of files are made of the index of the volume and the index in its catalogue. They are the same after a restart.

mod listing;
mod names;
mod orphans;
mod records;
mod scans;
mod volumes;
mod watched;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use cdi_base::error::ReadError;
use cdi_fs::catalogue::Entry;
use cdi_fs::contents::{Contents, ContentsError};
use cdi_fs::file_system::Kind;
use cdi_fs::recognize;
use nix::errno::Errno;

use self::listing::{Listing, Local};
use self::records::{Opened, Records};
use self::scans::{Scan, Scans};
use crate::served::Served;

/// The error of what is lost: of a read over blocks of which nobody knows where they are, or of a file of which only the name
/// is left. For readers the same as a bad sector.
const LOST: ReadError = ReadError::Bad { sector: u64::MAX, good: 0, untried: false };
/// The error of what is there and cannot be used: an encrypted file, a file system of which nothing can be found.
const FAILED: ReadError = ReadError::Io { errno: Errno::EIO as i32 };

/// The most entries and names of volumes that are kept, besides the one that was used last: some 150 MiB.
/// A volume that is dropped for others is scanned again when it is needed.
const MAX_WEIGHT: usize = 2 << 20;
/// The largest size of a file in bytes: systems have no larger ones.
const MAX_SIZE: u64 = i64::MAX.cast_unsigned();
/// The longest target of a symbolic link in bytes that systems take.
const MAX_TARGET: usize = 4095;

/// A file or directory in `files`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    /// `files` itself.
    Top,
    /// Something in the volume with this index.
    In(usize, Local),
}

/// The bits of a number: from the top the generation of the listing, the volume and one, four bits for what it is, and the index.
const GENERATION_SHIFT: u32 = 56;
const VOLUME_SHIFT: u32 = 40;
const KIND_SHIFT: u32 = 36;

impl Node {
    /// Returns the number of something in a listing of this generation; those of volumes have none.
    fn number(self, generation: u8) -> u64 {
        let Node::In(volume, local) = self else { return Files::TOP };
        let (kind, index) = match local {
            Local::Root => (0, 0),
            Local::LostAndFound => (1, 0),
            Local::Entry(index) => (2, index),
            Local::Orphan(index) => (3, index),
        };
        let generation = if local == Local::Root { 0 } else { u64::from(generation) };
        generation << GENERATION_SHIFT
            | (volume as u64 + 1) << VOLUME_SHIFT
            | kind << KIND_SHIFT
            | u64::from(index)
    }

    /// Returns the generation that a number belongs to.
    fn generation(number: u64) -> u8 {
        (number >> GENERATION_SHIFT) as u8
    }

    fn of(number: u64) -> Option<Node> {
        if number == Files::TOP {
            return Some(Node::Top);
        }
        let volume = number >> VOLUME_SHIFT & ((1 << (GENERATION_SHIFT - VOLUME_SHIFT)) - 1);
        let volume = usize::try_from(volume).ok()?.checked_sub(1)?;
        let index = u32::try_from(number & ((1 << KIND_SHIFT) - 1)).ok()?;
        let local = match (number >> KIND_SHIFT & 0xf, index) {
            (0, 0) => Local::Root,
            (1, 0) => Local::LostAndFound,
            (2, index) => Local::Entry(index),
            (3, index) => Local::Orphan(index),
            _ => return None,
        };
        Some(Node::In(volume, local))
    }
}

/// The kind of an entry of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file, with its size in bytes.
    File(u64),
    /// A symbolic link, with the length of its target in bytes.
    Link(u64),
}

/// The attributes of something in `files`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileAttributes {
    /// What it is.
    pub kind: EntryKind,
    /// The number of its names. Directories have 1: their number of subdirectories is not known.
    pub links: u32,
    /// When its contents were changed, if that is known.
    pub modified: Option<SystemTime>,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// There is no such file.
    Missing,
    /// It is no directory.
    NotDirectory,
    /// It is no symbolic link.
    NotLink,
    /// It cannot be read.
    Failed(ReadError),
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Failure {
        Failure::Failed(error)
    }
}

/// The directory `files`. A scan that is running ends when it is dropped.
pub struct Files {
    disk: Served,
    scans: Arc<Scans>,
    records: Records,
}

impl Drop for Files {
    fn drop(&mut self) {
        self.scans.stop();
    }
}

/// Something that must be scanned first.
pub struct Wait {
    scans: Arc<Scans>,
    scan: Scan,
}

impl Wait {
    /// Calls `then` when it has been scanned; then there may be another thing to wait for.
    pub fn then(self, then: impl FnOnce() + Send + 'static) {
        self.scans.when_done(self.scan, Box::new(then));
    }

    /// Waits until it has been scanned, or until `end`. Returns whether it has.
    pub fn until(&self, end: Instant) -> bool {
        self.scans.wait(self.scan, end)
    }

    /// Returns how long the disk has not answered the scan.
    pub fn quiet(&self) -> Duration {
        self.scans.quiet()
    }
}

impl Files {
    /// The number of `files` itself. Those of what is in it are larger.
    pub const TOP: u64 = 8;

    /// Creates the directory. Nothing is read yet.
    pub fn new(disk: Served) -> Files {
        Files { scans: Scans::new(disk.clone(), MAX_WEIGHT), disk, records: Records::default() }
    }

    /// Returns what must be scanned before something can be asked about a file: for its attributes alone, or for everything.
    pub fn wait(&self, file: u64, attributes_only: bool) -> Option<Wait> {
        let scan = match Node::of(file)? {
            Node::Top if attributes_only => return None,
            Node::Top => Scan::Layout,
            Node::In(_, Local::Root) if attributes_only => Scan::Layout,
            Node::In(volume, _) => Scan::Volume(volume),
        };
        self.scans.begin(scan).then(|| Wait { scans: Arc::clone(&self.scans), scan })
    }

    /// Returns what a number of a file stands for.
    fn node(&self, file: u64) -> Result<Node, Failure> {
        let node = Node::of(file).ok_or(Failure::Missing)?;
        match node {
            Node::In(volume, _) if volume >= self.scans.layout()?.len() => Err(Failure::Missing),
            // The volume was scanned again, and now the number may stand for another file.
            Node::In(volume, local)
                if local != Local::Root
                    && self.scans.listing(volume)?.generation != Node::generation(file) =>
            {
                Err(Failure::Missing)
            }
            node => Ok(node),
        }
    }

    /// Returns the attributes of a file.
    pub fn attributes(&self, file: u64) -> Result<FileAttributes, Failure> {
        let directory = FileAttributes { kind: EntryKind::Directory, links: 1, modified: None };
        let Node::In(volume, local) = self.node(file)? else { return Ok(directory) };
        if local == Local::Root {
            return Ok(directory);
        }
        let listing = self.scans.listing(volume)?;
        if !listing.has(local) {
            return Err(Failure::Missing);
        }
        let Local::Entry(index) = local else { return Ok(directory) };
        let entry = listing.entry(index).ok_or(Failure::Missing)?;
        let kind = kind(entry);
        let links = if kind == EntryKind::Directory { 1 } else { listing.links(entry) };
        Ok(FileAttributes { kind, links, modified: entry.modified.and_then(time) })
    }

    /// Returns the number of the directory in which something in `files` is; None for `files` itself.
    pub fn parent(&self, file: u64) -> Option<u64> {
        match self.node(file).ok()? {
            Node::Top => None,
            Node::In(_, Local::Root) => Some(Files::TOP),
            Node::In(volume, local) => {
                let listing = self.scans.listing(volume).ok()?;
                Some(Node::In(volume, listing.parent(local)).number(listing.generation))
            }
        }
    }

    /// Returns the number of the file with this name.
    pub fn find(&self, directory: u64, name: &str) -> Result<u64, Failure> {
        match self.node(directory)? {
            Node::Top => {
                let layout = self.scans.layout()?;
                let volume = layout.iter().position(|v| v.title == name).ok_or(Failure::Missing)?;
                Ok(Node::In(volume, Local::Root).number(0))
            }
            Node::In(volume, local) => {
                let listing = self.directory(volume, local)?;
                let found = listing.find(local, name).ok_or(Failure::Missing)?;
                Ok(Node::In(volume, found).number(listing.generation))
            }
        }
    }

    /// Returns the files of a volume, of which something is to be used as a directory.
    fn directory(&self, volume: usize, local: Local) -> Result<Arc<Listing>, Failure> {
        let listing = self.scans.listing(volume)?;
        match local {
            _ if !listing.has(local) => Err(Failure::Missing),
            Local::Entry(index) if listing.entry(index).is_none_or(|e| kind(e) != EntryKind::Directory) => {
                Err(Failure::NotDirectory)
            }
            _ => Ok(listing),
        }
    }

    /// Lists a directory from a place in it on, 0 at first: passes the number of each file, its name, its kind and the place
    /// after it to `add`, until that returns false. Returns whether the end was reached.
    pub fn list(
        &self,
        directory: u64,
        from: u64,
        add: &mut dyn FnMut(u64, &str, EntryKind, u64) -> bool,
    ) -> Result<bool, Failure> {
        let (volume, local) = match self.node(directory)? {
            Node::In(volume, local) => (volume, local),
            Node::Top => {
                let layout = self.scans.layout()?;
                let start = usize::try_from(from).unwrap_or(usize::MAX);
                let mut all = layout.iter().enumerate().skip(start);
                return Ok(all.all(|(index, volume)| {
                    let number = Node::In(index, Local::Root).number(0);
                    add(number, &volume.title, EntryKind::Directory, index as u64 + 1)
                }));
            }
        };
        let listing = self.directory(volume, local)?;
        Ok(listing.list(local, from, &mut |found, name, next| {
            let kind = match found {
                Local::Entry(index) => listing.entry(index).map_or(EntryKind::File(1), kind),
                _ => EntryKind::Directory,
            };
            add(Node::In(volume, found).number(listing.generation), name, kind, next)
        }))
    }

    /// Returns the last place of a directory.
    pub fn end(&self, directory: u64) -> Result<u64, Failure> {
        match self.node(directory)? {
            Node::Top => Ok(self.scans.layout()?.len() as u64),
            Node::In(volume, local) => Ok(self.directory(volume, local)?.end(local)),
        }
    }

    /// Fills `buffer` with the bytes of a file at `offset`, all of which must be in the file.
    pub fn read(&self, file: u64, buffer: &mut [u8], offset: u64) -> Result<(), ReadError> {
        let read = AssertUnwindSafe(|| self.read_file(file, buffer, offset));
        catch_unwind(read).unwrap_or_else(|_| Err(panicked(file)))
    }

    fn read_file(&self, file: u64, buffer: &mut [u8], offset: u64) -> Result<(), ReadError> {
        let (volume, opened) = self.open(file)?;
        if opened.data.packed.is_some() {
            return Err(FAILED);
        }
        let layout = self.scans.layout()?;
        let part = &layout.get(volume).ok_or(FAILED)?.part;
        let read = Contents::new(part.volume(&self.disk), &opened.data).read(buffer, offset);
        read.map_err(|e| match e {
            ContentsError::Unreadable(ReadError::PastEnd) | ContentsError::Unknown => LOST,
            ContentsError::Unreadable(e) => e,
        })
    }

    /// Returns the target of a symbolic link.
    pub fn target(&self, file: u64) -> Result<Vec<u8>, Failure> {
        match self.attributes(file)?.kind {
            EntryKind::Link(_) => {}
            _ => return Err(Failure::NotLink),
        }
        let opened = catch_unwind(AssertUnwindSafe(|| self.open(file)));
        let opened = opened.unwrap_or_else(|_| Err(panicked(file)))?.1;
        let target = opened.target.as_ref().ok_or(LOST)?;
        if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) {
            return Err(LOST.into());
        }
        Ok(target.clone())
    }

    /// Returns the volume of a file, and its record.
    fn open(&self, file: u64) -> Result<(usize, Arc<Opened>), ReadError> {
        let Ok(Node::In(volume, Local::Entry(index))) = self.node(file) else { return Err(FAILED) };
        if let Some(opened) = self.records.get(file) {
            return Ok((volume, opened));
        }
        let listing = self.scans.listing(volume)?;
        let handle = listing.entry(index).and_then(|e| e.handle).ok_or(LOST)?;
        let layout = self.scans.layout()?;
        let part = &layout.get(volume).ok_or(FAILED)?.part;
        let recognize::Recognized::Files(found) = &part.contents else { return Err(FAILED) };
        let record = found.record(&part.volume(&self.disk), handle).map_err(|_| LOST)?;
        let opened = Arc::new(Opened::new(record));
        self.records.keep(file, &opened);
        Ok((volume, opened))
    }
}

fn panicked(file: u64) -> ReadError {
    log::error!("a read of file {file:#x} panicked: a bug in cdi");
    FAILED
}

/// Returns what an entry is shown as. A file of which only the name is left, or whose record is damaged, must not look like
/// an empty one: it has at least one byte, which cannot be read.
fn kind(entry: &Entry) -> EntryKind {
    let damaged = entry.handle.is_none() || entry.harm.as_ref().is_some_and(|harm| harm.record.is_some());
    let least = u64::from(damaged);
    let size = entry.size.unwrap_or(least).clamp(least, MAX_SIZE);
    match entry.kind {
        Some(Kind::Directory) => EntryKind::Directory,
        Some(Kind::Link) => EntryKind::Link(size.max(1)),
        _ => EntryKind::File(size),
    }
}

/// Returns a time in nanoseconds since 1970.
fn time(nanoseconds: i64) -> Option<SystemTime> {
    let apart = Duration::from_nanos(nanoseconds.unsigned_abs());
    if nanoseconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(apart)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(apart)
    }
}

#[cfg(test)]
mod tests;
