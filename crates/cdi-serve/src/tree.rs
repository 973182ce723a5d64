//! The directory that every transport serves: the disk, the files about it, and the file systems inside it.

use cdi_base::workers::lock;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use cdi_base::error::{ErrnoStyle, ReadError};
use cdi_image::memory::buffers::with_reply;

use crate::documents::{Document, Shown};
use crate::files::{Files, Wait};
use crate::served::Served;

pub use crate::files::{EntryKind, Failure};

/// The attributes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Its kind, with its size.
    pub kind: EntryKind,
    /// The number of links to it.
    pub links: u32,
    /// Its modification time.
    pub modified: SystemTime,
    /// Its change time.
    pub changed: SystemTime,
}

/// An entry, as a directory lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed<'a> {
    /// Its number.
    pub id: Id,
    /// Its name.
    pub name: &'a str,
    /// Its kind.
    pub kind: EntryKind,
    /// The place after it, at which the listing can be continued.
    pub next: u64,
}

/// An entry of the directory or of one in it, by number. 1 is the directory itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(pub u64);

/// The directory itself.
pub const ROOT: Id = Id(1);
/// `disk.raw`: the disk.
pub const DISK: Id = Id(2);
/// `badblocks.json`: the bad-block map for programs.
pub const BADBLOCKS: Id = Id(3);
/// `badblocks.map`: the bad-block map as a mapfile for ddrescue.
pub const MAPFILE: Id = Id(4);
/// `info.json`: the output of `cdi info --json`.
pub const INFO: Id = Id(5);
/// `device`: a link to the block device, while there is one.
pub const DEVICE: Id = Id(6);
/// `.metadata_never_index`: an empty file that keeps Spotlight from reading the whole disk.
const NEVER_INDEX: Id = Id(7);
/// `files`: the file systems inside the disk, if they are shown. What is in it has larger numbers.
pub const FILES: Id = Id(Files::TOP);

const NAMES: [(Id, &str); 8] = [
    (DISK, "disk.raw"),
    // The same file again: macOS recognizes disk images by their extension.
    (DISK, "disk.dmg"),
    (NEVER_INDEX, ".metadata_never_index"),
    (BADBLOCKS, "badblocks.json"),
    (MAPFILE, "badblocks.map"),
    (INFO, "info.json"),
    (FILES, "files"),
    // The last one, because it appears and disappears: the places of the others stay the same.
    (DEVICE, "device"),
];

static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// The name of the disk in the directory.
pub const DISK_NAME: &str = NAMES[0].1;

/// The directory: one disk, and the files about it.
pub struct Tree {
    disk: Served,
    /// The errno that reads of bad sectors return.
    pub errno: ErrnoStyle,
    /// Whether users other than the owner may read.
    pub allow_other: bool,
    /// Whether to include the extra names for macOS.
    pub finder: bool,
    /// The modification time of the image, used for every entry, so that it is the same after a restart.
    time: SystemTime,
    documents: Shown,
    /// The file systems inside the disk, if they are shown.
    files: Option<Files>,
    /// The block device, if there is one, and when that last changed.
    device: Mutex<(Option<PathBuf>, SystemTime)>,
}

impl Tree {
    /// Creates the directory for `disk`.
    pub fn new(disk: impl Into<Served>, errno: ErrnoStyle, allow_other: bool) -> Tree {
        let disk = disk.into();
        let time = disk.modified();
        Tree {
            documents: Shown::new(&disk),
            disk,
            errno,
            allow_other,
            finder: cfg!(target_os = "macos"),
            time,
            files: None,
            device: Mutex::new((None, time)),
        }
    }

    /// Shows the file systems inside the disk in `files`. They are not read before somebody looks into it.
    pub fn show_files(&mut self) {
        self.files = Some(Files::new(self.disk.clone()));
    }

    /// Returns `files`, if this entry is in it, or is it.
    fn files(&self, id: Id) -> Option<&Files> {
        self.files.as_ref().filter(|_| id >= FILES)
    }

    /// Returns whether this entry is in `files`, or is it.
    pub fn is_in_files(&self, id: Id) -> bool {
        id >= FILES
    }

    /// Returns what must be scanned before something can be asked about an entry: for its attributes alone, or for everything. If
    /// nobody waits for that, every other function does.
    pub fn wait(&self, id: Id, attributes_only: bool) -> Option<Wait> {
        self.files(id)?.wait(id.0, attributes_only)
    }

    /// Returns the attributes of an entry.
    pub fn attributes(&self, id: Id) -> Result<Attributes, Failure> {
        if let Some(files) = self.files(id) {
            let file = files.attributes(id.0)?;
            let time = file.modified.unwrap_or(self.time);
            return Ok(Attributes { kind: file.kind, links: file.links, modified: time, changed: time });
        }
        let kind = self.kind(id).ok_or(Failure::Missing)?;
        Ok(Attributes { kind, links: self.links(id), modified: self.time(id), changed: self.changed(id) })
    }

    /// Returns the number of the directory that an entry is in; the directory itself is in itself.
    pub fn parent(&self, id: Id) -> Id {
        self.files(id).and_then(|files| files.parent(id.0)).map_or(ROOT, Id)
    }

    /// Returns the disk.
    pub fn disk(&self) -> &Served {
        &self.disk
    }

    /// Sets the block device that the disk is attached as.
    pub fn set_device(&self, device: Option<&Path>) {
        let now = (device.map(Path::to_owned), SystemTime::now());
        *lock(&self.device) = now;
    }

    /// Returns the block device, while there is one.
    pub fn device(&self) -> Option<PathBuf> {
        lock(&self.device).0.clone()
    }

    /// Returns the modification time of an entry.
    fn time(&self, id: Id) -> SystemTime {
        match id {
            ROOT | DEVICE => self.changed(id),
            BADBLOCKS | MAPFILE | INFO => self.documents.now().made().unwrap_or(self.time),
            _ => self.time,
        }
    }

    /// Returns the change time of an entry. That of the directory changes when `device` appears or disappears.
    fn changed(&self, id: Id) -> SystemTime {
        match id {
            ROOT | DEVICE => lock(&self.device).1,
            _ => self.time(id),
        }
    }

    /// Returns the permission bits of an entry of this kind: readable by the owner, or by everyone.
    pub fn mode(&self, kind: EntryKind) -> u32 {
        let everyone = match kind {
            EntryKind::Directory => 0o555,
            EntryKind::File(_) => 0o444,
            EntryKind::Link(_) => return 0o777,
        };
        if self.allow_other { everyone } else { everyone & 0o700 }
    }

    /// Returns the number of links to an entry.
    fn links(&self, id: Id) -> u32 {
        match id {
            ROOT if self.files.is_some() => 3,
            ROOT => 2,
            DISK if self.finder => 2,
            _ => 1,
        }
    }

    /// Returns the entry with this name in a directory.
    pub fn find(&self, directory: Id, name: &str) -> Result<Id, Failure> {
        match self.files(directory) {
            _ if name == "." => Ok(directory),
            _ if name == ".." => Ok(self.parent(directory)),
            Some(files) => files.find(directory.0, name).map(Id),
            None => {
                self.check_root(directory)?;
                let found = self.list().into_iter().find(|(_, n)| *n == name);
                found.map(|(id, _)| id).ok_or(Failure::Missing)
            }
        }
    }

    fn check_root(&self, id: Id) -> Result<(), Failure> {
        match id {
            ROOT => Ok(()),
            id if self.kind(id).is_some() => Err(Failure::NotDirectory),
            _ => Err(Failure::Missing),
        }
    }

    /// Lists a directory with "." and "..", from a place in it on, 0 at first: passes its entries to `add` until that returns
    /// false. Returns whether the end was reached.
    pub fn entries(
        &self,
        directory: Id,
        from: u64,
        add: &mut dyn FnMut(&Listed<'_>) -> bool,
    ) -> Result<bool, Failure> {
        let files = self.files(directory);
        if files.is_none() {
            self.check_root(directory)?;
        }
        for (id, name, next) in [(directory, ".", 1), (self.parent(directory), "..", 2)] {
            if from < next && !add(&Listed { id, name, kind: EntryKind::Directory, next }) {
                return Ok(false);
            }
        }
        let from = from.saturating_sub(2);
        if let Some(files) = files {
            return files.list(directory.0, from, &mut |number, name, kind, next| {
                add(&Listed { id: Id(number), name, kind, next: next.saturating_add(2) })
            });
        }
        let start = usize::try_from(from).unwrap_or(usize::MAX);
        for (next, (id, name)) in (3..).zip(self.list()).skip(start) {
            // It may disappear during the listing.
            let Some(kind) = self.kind(id) else { continue };
            if !add(&Listed { id, name, kind, next }) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the last place of a directory.
    pub fn end(&self, directory: Id) -> Result<u64, Failure> {
        match self.files(directory) {
            Some(files) => Ok(files.end(directory.0)?.saturating_add(2)),
            None => self.check_root(directory).map(|()| self.list().len() as u64 + 2),
        }
    }

    /// Returns the target of a symbolic link.
    pub fn target(&self, id: Id) -> Result<Vec<u8>, Failure> {
        if let Some(files) = self.files(id) {
            return files.target(id.0);
        }
        let device = self.device().filter(|_| id == DEVICE).ok_or(Failure::NotLink)?;
        Ok(device.into_os_string().into_encoded_bytes())
    }

    /// Returns all entries of the directory itself with their names.
    pub fn list(&self) -> Vec<(Id, &'static str)> {
        let exists = |(id, name): &(Id, &str)| match *id {
            FILES => self.files.is_some(),
            DEVICE => self.device().is_some(),
            NEVER_INDEX => self.finder,
            DISK => self.finder || *name == DISK_NAME,
            _ => true,
        };
        NAMES.into_iter().filter(exists).collect()
    }

    /// Returns the kind of an entry, if it exists.
    pub fn kind(&self, id: Id) -> Option<EntryKind> {
        Some(match id {
            ROOT => EntryKind::Directory,
            DISK => EntryKind::File(self.disk.size()),
            DEVICE => EntryKind::Link(self.device()?.as_os_str().len() as u64),
            BADBLOCKS | MAPFILE | INFO => EntryKind::File(self.documents.now().size(document(id)?)),
            NEVER_INDEX => EntryKind::File(0),
            id => self.files(id)?.attributes(id.0).ok()?.kind,
        })
    }

    /// Reads up to `len` bytes of an entry from `offset`: exactly as many as there are before its end. A read returns
    /// all of them or an error, and is never short.
    pub fn read(&self, id: Id, offset: u64, len: usize) -> Result<Vec<u8>, ReadError> {
        let mut buf = vec![0; self.available(id, offset, len)];
        self.read_into(id, offset, &mut buf).map(|()| buf)
    }

    /// Reads like [`Tree::read`], but passes the bytes to `use_them` and reuses this thread's buffer afterwards.
    pub fn read_for<T>(
        &self,
        id: Id,
        offset: u64,
        len: usize,
        use_them: impl FnOnce(Result<&[u8], ReadError>) -> T,
    ) -> T {
        let len = self.available(id, offset, len);
        // All zeros are served from one static buffer, of which only a page needs to be in the processor's cache.
        if id == DISK && len <= ZEROS.len() && len > 0 && self.disk.is_zeros(offset..offset + len as u64) {
            return use_them(Ok(&ZEROS[..len]));
        }
        with_reply(len, |buf| {
            let read = self.read_into(id, offset, buf);
            use_them(read.map(|()| &*buf))
        })
    }

    /// Returns whether an entry changes while the disk is imaged.
    pub fn changes(&self, id: Id) -> bool {
        document(id).is_some() && self.disk.is_live()
    }

    /// Returns whether reads of an entry need nothing from the image.
    pub fn is_in_memory(&self, id: Id) -> bool {
        id != DISK && id < FILES
    }

    /// Returns how many of the `len` bytes from `offset` the entry has.
    fn available(&self, id: Id, offset: u64, len: usize) -> usize {
        let size = if let Some(EntryKind::File(size)) = self.kind(id) { size } else { 0 };
        usize::try_from(size.saturating_sub(offset)).map_or(len, |left| left.min(len))
    }

    /// Fills `buf` with the bytes of an entry from `offset`. [`ReadError::PastEnd`] if it does not have all of them.
    pub fn read_into(&self, id: Id, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        if buf.is_empty() {
            return Ok(());
        }
        let complete = match id {
            DISK => return read_disk(&self.disk, buf, offset),
            _ => match (document(id), self.files(id)) {
                (Some(document), _) => self.documents.read(document, offset, buf),
                (_, Some(files)) => return files.read(id.0, buf, offset),
                _ => false,
            },
        };
        if complete { Ok(()) } else { Err(ReadError::PastEnd) }
    }
}

/// Returns which file about the disk an entry is.
fn document(id: Id) -> Option<Document> {
    match id {
        BADBLOCKS => Some(Document::BadBlocks),
        MAPFILE => Some(Document::Mapfile),
        INFO => Some(Document::Info),
        _ => None,
    }
}

/// Reads the disk for a transport. A panic in a parser or decoder is logged and becomes an error of this read.
pub(crate) fn read_disk(disk: &Served, buf: &mut [u8], offset: u64) -> Result<(), ReadError> {
    let len = buf.len();
    let read = std::panic::AssertUnwindSafe(|| disk.read_at(buf, offset));
    std::panic::catch_unwind(read).unwrap_or_else(|_| {
        log::error!("a read of {len} bytes at {offset} panicked: a bug in cdi");
        Err(ReadError::Unmapped { offset })
    })
}
