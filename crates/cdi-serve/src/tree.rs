//! How a disk is shown: the folder that every front end serves, and what a front end is.

use cdi_base::workers::lock;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::SystemTime;

use cdi_base::error::{ErrnoStyle, ReadError};
use cdi_base::printable;
use cdi_image::badmap::mapfile::Mapfile;
use cdi_image::disk::Disk;
use cdi_image::disk::buffers::with_reply;
use cdi_image::text::listing::Index;

use crate::texts;

/// What a front end shows of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// The folder itself.
    Folder,
    /// A plain file of so many bytes.
    File(u64),
    /// A symbolic link whose target has so many bytes.
    Link(u64),
}

/// An entry of the folder, by number. 1 is the folder itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(pub u64);

/// The folder.
pub const ROOT: Id = Id(1);
/// `disk.raw`: the disk.
pub const DISK: Id = Id(2);
/// `badblocks.json`: what is bad, for programs.
pub const BADBLOCKS: Id = Id(3);
/// `badblocks.map`: what is bad, for ddrescue.
pub const MAPFILE: Id = Id(4);
/// `info.json`: what `cdi info --json` prints.
pub const INFO: Id = Id(5);
/// `device`: the block device, while there is one.
pub const DEVICE: Id = Id(6);
/// An empty file, which keeps Spotlight from reading the whole disk.
const NEVER_INDEX: Id = Id(7);

const NAMES: [(Id, &str); 7] = [
    (DISK, "disk.raw"),
    // The same file: macOS knows a disk image by its suffix.
    (DISK, "disk.dmg"),
    (NEVER_INDEX, ".metadata_never_index"),
    (BADBLOCKS, "badblocks.json"),
    (MAPFILE, "badblocks.map"),
    (INFO, "info.json"),
    (DEVICE, "device"),
];

static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// The name of the disk in the folder.
pub const DISK_NAME: &str = NAMES[0].1;

/// The folder: one disk, and what is known about it.
pub struct Tree {
    disk: Arc<Disk>,
    /// Which errno bad sectors are answered with.
    pub errno: ErrnoStyle,
    /// Whether others than the owner may read.
    pub allow_other: bool,
    /// Whether macOS is to look at it: with the names that it asks for.
    pub finder: bool,
    /// When the image was last written to: the time of everything in it. It is the same after a restart.
    time: SystemTime,
    info: Vec<u8>,
    /// Measured when somebody looks: a long map is long text.
    badblocks: OnceLock<Index>,
    mapfile: OnceLock<Index>,
    /// The block device, and since when it is or is not there.
    device: Mutex<(Option<PathBuf>, SystemTime)>,
}

impl Tree {
    /// The folder of `disk`.
    pub fn new(disk: Arc<Disk>, errno: ErrnoStyle, allow_other: bool) -> Tree {
        let time = disk.input().modified().unwrap_or(SystemTime::UNIX_EPOCH);
        Tree {
            info: printable::json(&format!("{:#}\n", texts::info(&disk))).into_bytes(),
            disk,
            errno,
            allow_other,
            finder: cfg!(target_os = "macos"),
            time,
            badblocks: OnceLock::new(),
            mapfile: OnceLock::new(),
            device: Mutex::new((None, time)),
        }
    }

    /// The disk.
    pub fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// Says which block device shows the disk.
    pub fn set_device(&self, device: Option<&Path>) {
        let now = (device.map(Path::to_owned), SystemTime::now());
        *lock(&self.device) = now;
    }

    /// The block device, while there is one.
    pub fn device(&self) -> Option<PathBuf> {
        lock(&self.device).0.clone()
    }

    /// When the bytes of an entry were last written to.
    pub fn time(&self, id: Id) -> SystemTime {
        if id == ROOT || id == DEVICE { self.changed(id) } else { self.time }
    }

    /// When an entry last changed. That of the folder moves when `device` comes or goes.
    pub fn changed(&self, id: Id) -> SystemTime {
        match id {
            ROOT | DEVICE => lock(&self.device).1,
            _ => self.time,
        }
    }

    /// The permissions of an entry of this kind: reading, for the owner or for everybody.
    pub fn mode(&self, kind: EntryKind) -> u32 {
        let everybody = match kind {
            EntryKind::Folder => 0o555,
            EntryKind::File(_) => 0o444,
            EntryKind::Link(_) => return 0o777,
        };
        if self.allow_other { everybody } else { everybody & 0o700 }
    }

    /// How many names an entry has.
    pub fn links(&self, id: Id) -> u32 {
        if id == ROOT || (id == DISK && self.finder) { 2 } else { 1 }
    }

    /// The entry called `name`.
    pub fn lookup(&self, name: &str) -> Option<Id> {
        self.list().into_iter().find(|(_, n)| *n == name).map(|(id, _)| id)
    }

    /// Every entry.
    pub fn list(&self) -> Vec<(Id, &'static str)> {
        let shown = |(id, name): &(Id, &str)| match *id {
            DEVICE => self.device().is_some(),
            NEVER_INDEX => self.finder,
            DISK => self.finder || *name == DISK_NAME,
            _ => true,
        };
        NAMES.into_iter().filter(shown).collect()
    }

    /// What an entry is, if it is there.
    pub fn kind(&self, id: Id) -> Option<EntryKind> {
        Some(match id {
            ROOT => EntryKind::Folder,
            DISK => EntryKind::File(self.disk.size()),
            DEVICE => EntryKind::Link(self.device()?.as_os_str().len() as u64),
            BADBLOCKS => EntryKind::File(self.badblocks().0.size()),
            MAPFILE => EntryKind::File(self.mapfile().0.size()),
            INFO => EntryKind::File(self.info.len() as u64),
            NEVER_INDEX => EntryKind::File(0),
            _ => return None,
        })
    }

    /// Reads an entry. At most `len` bytes, exactly as many as there are between `offset` and its end: a read is
    /// answered whole or with an error, never short.
    pub fn read(&self, id: Id, offset: u64, len: usize) -> Result<Vec<u8>, ReadError> {
        let mut buf = vec![0; self.there(id, offset, len)];
        self.read_into(id, offset, &mut buf).map(|()| buf)
    }

    /// The same, for who needs the bytes for a moment only: this thread's memory is used again.
    pub fn read_for<T>(
        &self,
        id: Id,
        offset: u64,
        len: usize,
        use_them: impl FnOnce(Result<&[u8], ReadError>) -> T,
    ) -> T {
        let len = self.there(id, offset, len);
        // Of these there need be no more than a page in the processor's cache.
        if id == DISK && len <= ZEROS.len() && len > 0 && self.disk.is_zeros(offset..offset + len as u64) {
            return use_them(Ok(&ZEROS[..len]));
        }
        with_reply(len, |buf| {
            let read = self.read_into(id, offset, buf);
            use_them(read.map(|()| &*buf))
        })
    }

    /// How many of `len` bytes from `offset` on an entry has.
    fn there(&self, id: Id, offset: u64, len: usize) -> usize {
        let size = if let Some(EntryKind::File(size)) = self.kind(id) { size } else { 0 };
        usize::try_from(size.saturating_sub(offset)).map_or(len, |left| left.min(len))
    }

    /// Fills `buf` with the bytes of an entry from `offset` on, all of which must be there.
    pub fn read_into(&self, id: Id, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        if buf.is_empty() {
            return Ok(());
        }
        let there = match id {
            DISK => return read_disk(&self.disk, buf, offset),
            BADBLOCKS => {
                let (index, text) = self.badblocks();
                index.read(&text, offset, buf)
            }
            MAPFILE => {
                let (index, text) = self.mapfile();
                index.read(&text, offset, buf)
            }
            INFO => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                let text = self.info.get(from..).and_then(|text| text.get(..buf.len()));
                text.map(|text| buf.copy_from_slice(text)).is_some()
            }
            _ => false,
        };
        if there { Ok(()) } else { Err(ReadError::PastEnd) }
    }

    fn badblocks(&self) -> (&Index, texts::BadBlocks<'_>) {
        let text = texts::BadBlocks(&self.disk);
        (self.badblocks.get_or_init(|| Index::of(&text)), text)
    }

    fn mapfile(&self) -> (&Index, Mapfile<'_>) {
        let text = Mapfile { map: self.disk.bad(), size: self.disk.size() };
        (self.mapfile.get_or_init(|| Index::of(&text)), text)
    }
}

/// Reads the disk for a front end. A panic in a parser or decoder is an error of this read, and a line in the log.
pub(crate) fn read_disk(disk: &Disk, buf: &mut [u8], offset: u64) -> Result<(), ReadError> {
    let len = buf.len();
    let read = std::panic::AssertUnwindSafe(|| disk.read_at(buf, offset));
    std::panic::catch_unwind(read).unwrap_or_else(|_| {
        log::error!("a read of {len} bytes at {offset} panicked: a bug in cdi");
        Err(ReadError::Unmapped { offset })
    })
}
