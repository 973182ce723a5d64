//! What a file system is to the rest of cdi: which blocks are used, and every record.
//!
//! Each file system scans its records instead of walking its directories, so that damage of one costs no others. What it
//! finds goes to a [`Visitor`] in any order; [`Catalogue`](crate::catalogue::Catalogue) makes a tree of it.
//!
//! Nothing on a disk is trusted: lengths and offsets are checked, loops end, memory is bounded, whatever a field says.

use std::ops::Range;

use cdi_base::error::ReadError;

use crate::volume::Volume;

/// The largest number of runs that a file may have, of entries a directory, of names a record: more is damage.
pub const MAX_RUNS: usize = 1 << 20;

/// A recognised file system. Offsets are in bytes from the start of the volume.
pub trait FileSystem: Send + Sync {
    /// Returns the name: `ntfs`, `ext4`, `fat32`.
    fn name(&self) -> &'static str;

    /// Returns the label, if there is one.
    fn label(&self) -> Option<String>;

    /// Returns the allocation unit in bytes.
    fn block_size(&self) -> u32;

    /// Returns a text that tells this file system from others: of its UUID or serial number; None if it has none.
    fn id(&self) -> Option<String>;

    /// Returns how large the file system says that it is, in bytes.
    fn size(&self) -> u64;

    /// Returns the number of the root directory, as in [`Record::number`].
    fn root(&self) -> u64;

    /// Returns whether the record with this number is the file system's own, whatever is in it.
    fn is_internal(&self, number: u64) -> bool {
        let _ = number;
        false
    }

    /// Returns how many records a scan looks at, if that is known: for the display of progress.
    fn expected(&self) -> Option<u64> {
        None
    }

    /// Reports everything that is known of the volume. `volume` is the one that was recognised. A damaged structure is
    /// reported, and the scan goes on; it ends early only if `visitor` says so.
    fn scan(&self, volume: &Volume<'_>, visitor: &mut dyn Visitor);

    /// Reports the ranges that the file system says are free, in order, and as large as they are: the bitmap (or table)
    /// alone, without looking at files. What it cannot read counts as used.
    fn free(&self, volume: &Volume<'_>, found: &mut dyn FnMut(Range<u64>));

    /// Reads one record again, by its [`Record::handle`].
    fn record(&self, volume: &Volume<'_>, handle: u64) -> Result<Record, Damage>;
}

/// Takes what a scan finds.
pub trait Visitor {
    /// Takes a record that is in use and could be read. Returns whether the scan goes on.
    fn record(&mut self, record: Record) -> bool;

    /// Takes a name in a directory. File systems whose records have their names (NTFS, HFS+) report it as well: it is all
    /// that is left of a file whose record is lost.
    fn child(&mut self, child: Child) -> bool;

    /// Takes a record that could not be read, or that makes no sense. `used` is what the bitmap of the records says.
    fn lost_record(&mut self, number: u64, at: Range<u64>, used: Option<bool>, damage: Damage) -> bool;

    /// Takes a structure of the file system itself that belongs to no record: boot sectors, bitmaps, tables, journals.
    /// `cost` says what its damage costs, if it is damaged: "a backup is used", "names of up to 12 files".
    fn structure(&mut self, structure: Structure) -> bool;
}

/// Why something is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// It could not be read.
    Unreadable(ReadError),
    /// It could be read, and makes no sense: what, in plain words.
    Invalid(String),
}

impl From<ReadError> for Damage {
    fn from(error: ReadError) -> Damage {
        Damage::Unreadable(error)
    }
}

/// A structure of the file system itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Structure {
    /// What it is: "boot sector", "block bitmap of group 3".
    pub what: String,
    /// Where it is.
    pub at: Vec<Range<u64>>,
    /// Why it could not be used, and what that costs.
    pub damage: Option<(Damage, String)>,
}

/// What a record describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// Anything else: devices, sockets, files of the file system itself.
    Other,
}

/// A record: an entry of the MFT, an inode, a directory entry of FAT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number, as other programs name it: of the MFT record, the inode, the catalogue node. FAT and exFAT have none: the
    /// byte of the volume at which its directory entry is; the root has 0.
    pub number: u64,
    /// What [`FileSystem::record`] finds it by.
    pub handle: u64,
    /// What it describes.
    pub kind: Kind,
    /// Whether it is part of the file system itself ($MFT, journals, quota files), and nothing a user made.
    pub internal: bool,
    /// The names that the record itself has: with hard links, several; none in ext.
    pub names: Vec<Name>,
    /// Why `names` are not those that it had: of FAT's long names, only short ones are left.
    pub name_damage: Option<Damage>,
    /// Times, as far as the file system has them.
    pub times: Times,
    /// The contents. Of a directory: its index, which is metadata. Of a link: see `target`.
    pub data: Data,
    /// The target, if it is a symbolic link and it could be read.
    pub target: Option<Vec<u8>>,
    /// More contents under names of their own: NTFS's alternate data streams, HFS+'s resource fork.
    pub streams: Vec<(String, Data)>,
    /// Where the record itself lies, and the blocks that say where its contents are (attribute lists, indirect blocks, extent
    /// trees).
    pub metadata: Vec<Range<u64>>,
    /// Why it is not complete, if it is not: part of its metadata is lost.
    pub damage: Option<Damage>,
}

impl Record {
    /// Returns a record of which nothing else is known yet. Its handle is its number.
    pub fn new(number: u64, kind: Kind) -> Record {
        Record {
            number,
            handle: number,
            kind,
            internal: false,
            names: Vec::new(),
            name_damage: None,
            times: Times::default(),
            data: Data::default(),
            target: None,
            streams: Vec::new(),
            metadata: Vec::new(),
            damage: None,
        }
    }
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The number of the directory.
    pub parent: u64,
    /// The name. Bytes that are no UTF-8 and unpaired surrogates are replaced by U+FFFD.
    pub name: String,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// The number of its record.
    pub number: u64,
    /// The directory, and the name.
    pub name: Name,
    /// What it says that the record describes.
    pub kind: Option<Kind>,
    /// The size in bytes, if the entry says it.
    pub size: Option<u64>,
}

/// Times in nanoseconds since 1970, UTC; those of FAT are local times, taken as UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// When the contents were changed.
    pub modified: Option<i64>,
    /// When it was made.
    pub created: Option<i64>,
    /// When it was read.
    pub accessed: Option<i64>,
    /// When the record was changed.
    pub changed: Option<i64>,
}

/// Contents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Data {
    /// The size in bytes.
    pub size: u64,
    /// Where they are. Ends before `size` if the rest is not known.
    pub place: Place,
    /// Why the contents cannot be had: "encrypted", "compressed" in a way that is not known here.
    pub packed: Option<&'static str>,
}

/// Where contents are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the record.
    Inline(Vec<u8>),
    /// In runs, by offset in the file, without overlap. What lies between them is not known, and lost.
    Runs(Vec<Run>),
    /// In runs, compressed by NTFS (LZNT1): each unit of so many bytes for itself, in the blocks that it has.
    Units(u64, Vec<Run>),
}

impl Place {
    /// Returns the runs.
    pub fn runs(&self) -> &[Run] {
        match self {
            Place::Inline(_) => &[],
            Place::Runs(runs) | Place::Units(_, runs) => runs,
        }
    }
}

impl Default for Place {
    fn default() -> Place {
        Place::Runs(Vec::new())
    }
}

/// A run of contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Its first byte in the file.
    pub file: u64,
    /// Its length in bytes. The last may extend past the size of the file.
    pub len: u64,
    /// Its first byte on the volume; None if it has no blocks and reads as zeros.
    pub volume: Option<u64>,
    /// Whether it reads as zeros although it has blocks: they were reserved, and not written.
    pub unwritten: bool,
}
