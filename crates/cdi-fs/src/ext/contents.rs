//! Makes a record of an inode: its contents, its target, and what is wrong with it.

use std::ops::Range;

use cdi_base::units::index;

use super::inode::{Inode, flag};
use super::map::Map;
use super::reader::Reader;
use super::{extents, indirect};
use crate::file_system::{Damage, Data, Kind, Place, Record, Run, Times};

/// The longest target of a symbolic link in bytes.
const MAX_TARGET: u64 = 65536;

/// A record, and which of its metadata is lost.
pub(super) struct Built {
    pub record: Record,
    /// The bytes on the volume of the metadata that could not be used, and why.
    pub lost: Vec<(Range<u64>, Damage)>,
}

/// Makes a record of an inode at `at`. `damage` is what is known to be wrong with it.
pub(super) fn build(reader: &Reader<'_>, inode: Inode<'_>, at: Range<u64>, damage: Option<Damage>) -> Built {
    let sb = reader.sb;
    let internal = is_internal(reader, inode);
    let kind = if internal { Kind::Other } else { inode.kind() };
    let mut record = Record {
        internal,
        // Those of inodes of attributes are something else: a hash, a count.
        times: if inode.has(flag::ATTRIBUTE) { Times::default() } else { inode.times() },
        metadata: vec![at],
        damage,
        ..Record::new(inode.number.into(), kind)
    };
    let attributes = inode.attributes(sb);
    if attributes != 0 {
        match reader.is_valid(attributes, 1) {
            true => record.metadata.push(reader.bytes(attributes, 1)),
            false => spoil(&mut record, "its block of extended attributes is not on the volume"),
        }
    }
    let lost = if matches!(inode.kind(), Kind::Other) && inode.number != BAD_BLOCKS {
        Vec::new()
    } else {
        contents(reader, inode, &mut record)
    };
    if kind == Kind::Link {
        record.target = target(reader, &record.data);
    }
    Built { record, lost }
}

/// The inode that has the bad blocks that mkfs found.
pub(super) const BAD_BLOCKS: u32 = 1;
/// The inode of the root directory.
pub(super) const ROOT: u32 = 2;

fn is_internal(reader: &Reader<'_>, inode: Inode<'_>) -> bool {
    let reserved = inode.number < reader.sb.first_inode && inode.number != ROOT;
    reserved || reader.sb.internal.contains(&inode.number) || inode.has(flag::ATTRIBUTE)
}

fn spoil(record: &mut Record, what: &str) {
    record.damage.get_or_insert_with(|| Damage::Invalid(what.into()));
}

/// Fills in where the contents are. Returns the metadata that is lost.
fn contents(reader: &Reader<'_>, inode: Inode<'_>, record: &mut Record) -> Vec<(Range<u64>, Damage)> {
    let sb = reader.sb;
    let mut size = inode.size(sb);
    if inode.number == BAD_BLOCKS {
        size = sb.block << 32;
    }
    if size > sb.block << 32 {
        spoil(record, "its size makes no sense");
        size = sb.block << 32;
    }
    record.data.size = size;
    record.data.packed = match inode.flags() {
        f if f & flag::ENCRYPTED != 0 && inode.kind() != Kind::Directory => Some("encrypted"),
        f if f & flag::COMPRESSED != 0 && f & flag::EXTENTS == 0 => Some("compressed"),
        _ => None,
    };
    if inode.has(flag::INLINE) {
        inline(inode, record);
        return Vec::new();
    }
    let mapped = inode.has(flag::EXTENTS);
    let short = size < 60 && !mapped && !inode.has_blocks(sb);
    if inode.kind() == Kind::Link && short {
        record.data.place = Place::Inline(inode.map().get(..index(size)).unwrap_or_default().to_vec());
        return Vec::new();
    }
    let mut map = Map::new(reader, size.div_ceil(sb.block), inode.has(flag::VERITY));
    match mapped {
        true => extents::walk(reader, &mut map, inode.map(), inode.seed(sb)),
        false => indirect::walk(reader, &mut map, inode.map()),
    }
    if inode.number == BAD_BLOCKS {
        record.data.size = map.runs.last().map_or(0, |run| run.file + run.len);
    } else {
        map.finish();
    }
    if let Some(damage) = map.damage {
        if map.lost.is_empty() {
            map.lost.push((record.metadata[0].clone(), damage.clone()));
        }
        record.damage.get_or_insert(damage);
    }
    record.data.place = Place::Runs(map.runs);
    record.metadata.append(&mut map.metadata);
    map.lost
}

/// Takes contents that are in the inode: 60 bytes in place of the block map, the rest in an extended attribute.
fn inline(inode: Inode<'_>, record: &mut Record) {
    let mut bytes = inode.map().to_vec();
    bytes.extend_from_slice(inode.inline_rest().unwrap_or_default());
    match usize::try_from(record.data.size) {
        Ok(size) if size <= bytes.len() => bytes.truncate(size),
        // mke2fs -d leaves the flag with files that are nothing but zeros, and with no block. Linux reads zeros.
        _ if inode.kind() == Kind::File && bytes.iter().all(|byte| *byte == 0) => {
            let hole = Run { file: 0, len: record.data.size, volume: None, unwritten: false };
            record.data.place = Place::Runs(vec![hole]);
            return;
        }
        _ => spoil(record, "the rest of its contents is not in the inode"),
    }
    record.data.place = Place::Inline(bytes);
}

/// Reads the target of a symbolic link.
fn target(reader: &Reader<'_>, data: &Data) -> Option<Vec<u8>> {
    if data.packed.is_some() || data.size == 0 || data.size > MAX_TARGET {
        return None;
    }
    match &data.place {
        Place::Inline(bytes) => Some(bytes.clone()),
        Place::Runs(runs) | Place::Units(_, runs) => {
            let first = runs.first().filter(|run| run.file == 0 && run.len >= data.size && !run.unwritten)?;
            reader.spend(data.size.div_ceil(reader.sb.block)).ok()?;
            reader.volume.read(first.volume?, index(data.size)).ok()
        }
    }
}
