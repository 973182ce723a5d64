//! What a base record, with the records that extend it, says of a file.

use crate::file_system::{Damage, Data, Kind, MAX_RUNS, Name, Place, Record};

use super::io::Io;
use super::mft::Mft;
use super::names::{FileName, SYSTEM, standard, text};
use super::record::{Reference, kind};
use super::reparse;
use super::stream::{Stream, Value, data};
use super::whole::{Attributes, Whole};

/// The name of the index of a directory, `$I30`, in UTF-16.
pub(super) const INDEX: &[u8] = b"$\0I\x003\x000\0";
/// The number of the root directory, and of the directory of the file system's later files.
pub(super) const ROOT: u64 = 5;
const EXTEND: u64 = 11;
/// The first number that a file of a user can have.
pub(super) const FIRST: u64 = 24;
/// The parent of a name whose directory was deleted.
const NOWHERE: u64 = u64::MAX;
/// The largest reparse point, in bytes.
const MAX_REPARSE: u64 = 16 << 10;

/// What is known of directories.
pub(super) trait Directories {
    /// Returns whether the reference leads to the directory that it was made for, as far as that is known.
    fn agrees(&mut self, directory: Reference) -> bool;

    /// Returns whether a directory is the file system's own.
    fn is_internal(&self, directory: u64) -> bool;
}

/// Returns whether the files in a directory are the file system's own: `$Extend` has those that have no fixed number.
pub(super) fn holds_internal(directory: u64) -> bool {
    directory == EXTEND
}

/// Describes a file.
pub(super) fn describe(
    io: &Io<'_>,
    mft: &Mft,
    whole: &Whole,
    attributes: &Attributes<'_>,
    directories: &mut dyn Directories,
) -> Record {
    let mut record = Record {
        internal: whole.number < FIRST && whole.number != ROOT,
        metadata: whole.places(),
        damage: whole.damage.clone().or(attributes.damage.clone()),
        ..Record::new(whole.number, Kind::File)
    };
    let size = names(&mut record, attributes, directories);
    let mut flags = 0;
    if let Some(value) = attributes.values(kind::STANDARD_INFORMATION).next() {
        (record.times, flags) = standard(value);
    }
    contents(&mut record, mft, attributes, size);
    others(&mut record, mft, attributes);
    record.kind = match () {
        () if whole.head.directory || attributes.is_directory() => Kind::Directory,
        () if record.internal => Kind::Other,
        () => Kind::File,
    };
    follow(&mut record, io, mft, attributes, flags);
    record
}

/// Takes over the names, one for each hard link, and returns the size that they tell.
fn names(record: &mut Record, attributes: &Attributes<'_>, directories: &mut dyn Directories) -> Option<u64> {
    let all: Vec<FileName<'_>> =
        attributes.values(kind::FILE_NAME).filter_map(FileName::parse).take(MAX_RUNS).collect();
    let mut long: Vec<u64> = all.iter().filter(|n| n.is_win32()).map(|n| n.parent.number).collect();
    long.sort_unstable();
    for name in &all {
        let parent = name.parent.number;
        // The root is in itself.
        if parent == record.number || (name.is_dos() && long.binary_search(&parent).is_ok()) {
            continue;
        }
        record.internal |= directories.is_internal(parent);
        let parent = if directories.agrees(name.parent) { parent } else { NOWHERE };
        record.names.push(Name { parent, name: name.text() });
    }
    all.first().map(|name| name.size)
}

/// Takes over the contents: of a directory its index, else `$DATA`.
fn contents(record: &mut Record, mft: &Mft, attributes: &Attributes<'_>, size: Option<u64>) {
    let mut room = MAX_RUNS;
    for stream in attributes.streams(kind::DATA, &mft.boot) {
        let mut found = data(&stream, size.filter(|_| stream.name.is_empty()));
        worse(record, &stream);
        if let Place::Runs(runs) = &mut found.place {
            if runs.len() > room {
                runs.truncate(room);
                record.damage.get_or_insert_with(|| Damage::Invalid("it has too many runs".into()));
            }
            room -= runs.len();
        }
        if stream.name.is_empty() {
            record.data = found;
        } else {
            record.streams.push((text(stream.name), found));
        }
    }
    if let Some(index) = attributes.stream(kind::INDEX_ALLOCATION, INDEX, &mft.boot) {
        worse(record, &index);
        record.data = Data { packed: None, ..data(&index, None) };
    } else if attributes.of(kind::DATA).iter().all(|part| !part.name.is_empty()) && record.damage.is_some() {
        record.data.size = size.unwrap_or(0);
    }
}

fn worse(record: &mut Record, stream: &Stream<'_>) {
    if record.damage.is_none() {
        record.damage = stream.damage.clone();
    }
}

/// Counts the clusters of all other attributes as metadata.
fn others(record: &mut Record, mft: &Mft, attributes: &Attributes<'_>) {
    let parts = attributes.list.chunk_by(|a, b| (a.kind, a.name) == (b.kind, b.name));
    for parts in parts {
        let first = &parts[0];
        let known = matches!(first.kind, kind::DATA | kind::ATTRIBUTE_LIST)
            || (first.kind == kind::INDEX_ALLOCATION && first.name == INDEX);
        if known {
            continue;
        }
        if let Some(stream) = super::stream::join(parts, &mft.boot)
            && let Value::Mapped(mapped) = &stream.value
        {
            let room = MAX_RUNS.saturating_sub(record.metadata.len());
            record.metadata.extend(mapped.extents.ranges().take(room));
            worse(record, &stream);
        }
    }
}

/// Takes over the target of a link, and what else a reparse point says.
fn follow(record: &mut Record, io: &Io<'_>, mft: &Mft, attributes: &Attributes<'_>, flags: u32) {
    if let Some(stream) = attributes.streams(kind::REPARSE_POINT, &mft.boot).next() {
        let value = match &stream.value {
            Value::Resident(value) => value.to_vec(),
            Value::Mapped(mapped) => {
                let len = mapped.size.unwrap_or(0).min(MAX_REPARSE);
                let (value, damage) = io.value(&mapped.extents, len);
                record.damage = record.damage.take().or(damage);
                value
            }
        };
        let Some(tag) = reparse::tag(&value) else {
            let why = || Damage::Invalid("its reparse point makes no sense".into());
            record.damage.get_or_insert_with(why);
            return;
        };
        record.data.packed = record.data.packed.or(reparse::packed(tag));
        if reparse::is_link(tag) {
            record.kind = Kind::Link;
            record.target = reparse::target(&value);
        }
    } else if flags & SYSTEM != 0
        && let Place::Inline(contents) = &record.data.place
        && let Some(target) = reparse::interix(contents)
    {
        record.kind = Kind::Link;
        record.target = Some(target);
    }
}
