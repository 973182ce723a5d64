//! The scan: structures, then the table of inodes of each group, and with each directory its names.

use std::ops::Range;

use cdi_base::error::ReadError;
use cdi_base::units::index;

use super::bitmap::{bit, of_blocks, of_inodes};
use super::contents::{BAD_BLOCKS, build};
use super::directory;
use super::groups::{BLOCK_UNINIT, Group, INODE_UNINIT, INODE_ZEROED, Source};
use super::inode::Inode;
use super::reader::Reader;
use super::structures::{Structures, damaged};
use crate::file_system::{Damage, Kind, Visitor};

/// The number of bytes of a table that are read at once.
const CHUNK: u64 = 256 << 10;

/// An inode as it was found.
pub(super) enum Found {
    /// It is in use; or was, and is damaged.
    Used(Option<Damage>),
    /// It is free, or a file that was deleted.
    Free,
    /// It makes no sense.
    Lost(Damage),
}

/// Says what an inode is. `used` is what the bitmap says.
pub(super) fn judge(reader: &Reader<'_>, group: &Group, inode: Inode<'_>, used: Option<bool>) -> Found {
    let sb = reader.sb;
    let reserved = inode.number < sb.first_inode;
    let invalid = |what: &str| Found::Lost(Damage::Invalid(what.into()));
    if inode.is_empty() {
        // The bitmap of a group whose flags are lost may never have been written.
        let sure = used == Some(true) && (group.source == Source::First || !sb.descriptor_csum());
        return if sure && !reserved { invalid("it is empty") } else { Found::Free };
    }
    let right = inode.checksum_right(sb);
    let stale = used == Some(false) && !group.has(INODE_ZEROED) && !(sb.metadata_csum() && right);
    if stale {
        return Found::Free;
    }
    if inode.number == BAD_BLOCKS && inode.has_blocks(sb) {
        return Found::Used(None);
    }
    match (inode.is_used(), right) {
        (false, false) if used != Some(false) => invalid("its checksum is wrong"),
        (false, _) if used == Some(true) && !reserved && inode.links() > 0 => invalid("it has no type"),
        (false, _) => Found::Free,
        (true, false) if used == Some(false) || !inode.is_plausible() => invalid("its checksum is wrong"),
        (true, true) if !inode.is_plausible() => invalid("it has a type that there is not"),
        (true, true) => Found::Used(None),
        (true, false) => Found::Used(Some(Damage::Invalid("its checksum is wrong".into()))),
    }
}

/// Scans all groups.
pub(super) struct Scan<'s, 'v> {
    pub reader: &'s Reader<'v>,
    pub visitor: &'s mut dyn Visitor,
}

impl Scan<'_, '_> {
    /// Reports the bitmaps of blocks.
    pub(super) fn block_bitmaps(&mut self, list: &[Group]) -> bool {
        let sb = self.reader.sb;
        let mut intact = Structures::new("block bitmaps");
        for (number, group) in (0_u64..).zip(list) {
            if group.source == Source::Lost || group.has(BLOCK_UNINIT) {
                continue;
            }
            let at = self.reader.bytes(group.blocks, 1);
            let go_on = match of_blocks(sb, &self.reader.volume, group) {
                Ok(_) => intact.intact(at, self.visitor),
                Err(damage) => {
                    let what = format!("block bitmap of group {number}");
                    damaged(self.visitor, what, at, damage, "all blocks of the group count as used")
                }
            };
            if !go_on {
                return false;
            }
        }
        intact.finish(self.visitor)
    }

    /// Reports the inodes of all groups.
    pub(super) fn inodes(&mut self, list: &[Group]) -> bool {
        let mut bitmaps = Structures::new("inode bitmaps");
        let mut tables = Structures::new("inode tables");
        for (number, group) in (0..).zip(list) {
            if !self.group(number, group, &mut bitmaps, &mut tables) {
                return false;
            }
        }
        bitmaps.finish(self.visitor) && tables.finish(self.visitor)
    }

    fn group(
        &mut self,
        number: u64,
        group: &Group,
        bitmaps: &mut Structures,
        tables: &mut Structures,
    ) -> bool {
        let sb = self.reader.sb;
        let first = number * u64::from(sb.group_inodes) + 1;
        if group.source == Source::Lost {
            let damage = || Damage::Invalid(format!("the descriptor of group {number} is lost"));
            return (first..first + u64::from(sb.group_inodes))
                .take_while(|_| self.reader.may_lose())
                .all(|inode| self.visitor.lost_record(inode, 0..0, None, damage()));
        }
        let count = match group {
            _ if group.has(INODE_UNINIT) => 0,
            Group { source: Source::First, unused, .. } => sb.group_inodes.saturating_sub(*unused),
            _ => sb.group_inodes,
        };
        if count == 0 {
            return true;
        }
        let at = self.reader.bytes(group.inodes, 1);
        let (bitmap, go_on) = match of_inodes(sb, &self.reader.volume, group) {
            Ok(bytes) => (Some(bytes), bitmaps.intact(at, self.visitor)),
            Err(damage) => {
                let what = format!("inode bitmap of group {number}");
                let cost = "it is not known which of the group's inodes that cannot be read were used";
                (None, damaged(self.visitor, what, at, damage, cost))
            }
        };
        go_on && self.table(group, first, count, bitmap.as_deref(), tables)
    }

    fn table(
        &mut self,
        group: &Group,
        first: u64,
        count: u32,
        bitmap: Option<&[u8]>,
        tables: &mut Structures,
    ) -> bool {
        let size = self.reader.sb.inode_size;
        let start = self.reader.bytes(group.table, 1).start;
        let per_chunk = (CHUNK / size as u64).max(1);
        let count = u64::from(count);
        for from in (0..count).step_by(index(per_chunk)) {
            let to = (from + per_chunk).min(count);
            let range = start + from * size as u64..start + to * size as u64;
            if let Err(damage) =
                self.reader.spend_table((range.end - range.start).div_ceil(self.reader.sb.block))
            {
                damaged(self.visitor, "inode tables".into(), range, damage, "the files after that");
                return false;
            }
            let part = self.reader.volume.read_part(range.clone());
            if !tables.intact(range, self.visitor) {
                return false;
            }
            for number in from..to {
                let at = start + number * size as u64;
                let used = bitmap.and_then(|b| bit(b, u32::try_from(number).ok()?));
                let at = at..at + size as u64;
                if !self.inode(group, first + number, at.clone(), part.get(at.start, size), used) {
                    return false;
                }
            }
        }
        true
    }

    fn inode(
        &mut self,
        group: &Group,
        number: u64,
        at: Range<u64>,
        bytes: Result<&[u8], ReadError>,
        used: Option<bool>,
    ) -> bool {
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) => return self.visitor.lost_record(number, at, used, error.into()),
        };
        let Ok(short) = u32::try_from(number) else { return true };
        let inode = Inode::new(short, bytes);
        match judge(self.reader, group, inode, used) {
            Found::Free => true,
            Found::Lost(damage) => self.visitor.lost_record(number, at, used, damage),
            Found::Used(damage) => {
                let built = build(self.reader, inode, at, damage);
                if built.record.kind != Kind::Directory {
                    return self.visitor.record(built.record);
                }
                self.visitor.record(built.record.clone())
                    && directory::report(self.reader, inode, &built, self.visitor)
            }
        }
    }
}
