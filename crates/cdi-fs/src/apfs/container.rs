//! The container: its superblock, of which each checkpoint has one, and where its volumes are.
//!
//! Facts: Apple File System Reference, "Container": `nx_superblock_t`, `checkpoint_map_phys_t`.

use std::ops::Range;

use cdi_base::units::index;

use super::object::{CHECKPOINT_MAP, CONTAINER, Layout, check};
use crate::bytes::{array, le32, le64};
use crate::file_system::Damage;
use crate::volume::Volume;

const MAGIC: &[u8] = b"NXSB";
/// How many blocks are looked at for a superblock if the first is lost: checkpoints are at the beginning.
const SEARCHED: u64 = 1024;
/// The largest number of blocks of the checkpoint descriptor area.
const MAX_DESCRIPTORS: u32 = 1 << 14;
/// The largest number of volumes.
const MAX_VOLUMES: usize = 100;

/// What a superblock says.
#[derive(Debug, Clone)]
pub(super) struct Container {
    pub(super) layout: Layout,
    /// The UUID.
    pub(super) uuid: [u8; 16],
    pub(super) transaction: u64,
    /// The checkpoint descriptor area, if it is in one piece: the first block, and the number.
    descriptors: Option<(u64, u32)>,
    space_manager: u64,
    pub(super) object_map: u64,
    /// The numbers of the superblocks of volumes, 0 for none, by index.
    pub(super) volumes: Vec<u64>,
    /// Where this superblock is.
    pub(super) at: u64,
}

/// The container as its newest checkpoint has it.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) container: Container,
    /// Why the first superblock could not be used.
    pub(super) first: Option<Damage>,
    /// What of the checkpoint descriptor area could not be read.
    pub(super) lost: Vec<(u64, Damage)>,
    /// The space manager: its first block, and its size in bytes.
    pub(super) space_manager: Option<(u64, u32)>,
}

/// Finds the newest superblock. None if this is no container.
pub(super) fn find(volume: &Volume<'_>) -> Result<Option<Found>, Damage> {
    let (start, damage) = match read(volume, 0, None) {
        Ok(Some(container)) => (container, None),
        Ok(None) => return Ok(None),
        Err(damage) => {
            // A wrong checksum may be all that is wrong, but what is right is better.
            let Some(container) = search(volume) else {
                return if matches!(damage, Damage::Invalid(_)) { Err(damage) } else { Ok(None) };
            };
            (container, Some(damage))
        }
    };
    Ok(Some(newest(volume, start, damage)))
}

/// Looks for a superblock of a checkpoint.
fn search(volume: &Volume<'_>) -> Option<Container> {
    let unit = u64::from(UNIT);
    (1..SEARCHED.min(volume.size() / unit)).find_map(|block| read(volume, block, Some(UNIT)).ok().flatten())
}

/// The size of blocks of all containers that Apple makes.
const UNIT: u32 = 4096;

/// Reads the superblock in block `block`. None if it is none.
fn read(volume: &Volume<'_>, block: u64, unit: Option<u32>) -> Result<Option<Container>, Damage> {
    let at = block.saturating_mul(u64::from(unit.unwrap_or(UNIT)));
    let head = volume.read(at, UNIT as usize)?;
    if head.get(32..36) != Some(MAGIC) {
        return Ok(None);
    }
    let short = || Damage::Invalid("the superblock is too short".into());
    let block_size = le32(&head, 36).ok_or_else(short)?;
    if !block_size.is_power_of_two() || !(UNIT..=1 << 16).contains(&block_size) {
        return Err(Damage::Invalid(format!("the superblock has blocks of {block_size} bytes")));
    }
    let bytes = if block_size == UNIT { head } else { volume.read(at, index(u64::from(block_size)))? };
    check(&bytes, CONTAINER)?;
    let word = |at| le32(&bytes, at).ok_or_else(short);
    let long = |at| le64(&bytes, at).ok_or_else(short);
    let (area, base) = (word(104)?, long(112)?);
    // With the highest bit set, a tree says where the parts of the area are.
    let descriptors = (area <= MAX_DESCRIPTORS).then_some((base, area));
    let mut volumes = Vec::new();
    for i in 0..MAX_VOLUMES {
        volumes.push(long(184 + 8 * i)?);
    }
    Ok(Some(Container {
        uuid: array(&bytes, 72).ok_or_else(short)?,
        layout: Layout { block_size, blocks: long(40)?.min(volume.size() / u64::from(block_size)) },
        transaction: long(16)?,
        descriptors,
        space_manager: long(152)?,
        object_map: long(160)?,
        volumes,
        at,
    }))
}

/// Finds the newest checkpoint in the descriptor area.
fn newest(volume: &Volume<'_>, start: Container, first: Option<Damage>) -> Found {
    let layout = start.layout;
    let (base, count) = start.descriptors.unwrap_or((0, 0));
    let mut found = Found { container: start, first, lost: Vec::new(), space_manager: None };
    let mut maps = Vec::new();
    for block in base..base.saturating_add(u64::from(count)) {
        let bytes = match layout.read(volume, block) {
            Ok(bytes) => bytes,
            Err(damage) => {
                found.lost.push((block, damage));
                continue;
            }
        };
        if check(&bytes, CHECKPOINT_MAP).is_ok() {
            maps.push(bytes);
        } else if let Ok(Some(container)) = read(volume, block, Some(layout.block_size))
            && container.transaction > found.container.transaction
        {
            found.container = container;
        }
    }
    let newest = &found.container;
    let maps = maps.iter().filter(|map| le64(map, 16) == Some(newest.transaction));
    found.space_manager = maps.filter_map(|map| mapped(map, newest.space_manager)).next();
    found
}

/// Returns where a checkpoint map says that an object is, and its size.
fn mapped(map: &[u8], id: u64) -> Option<(u64, u32)> {
    let count = index(u64::from(le32(map, 36)?)).min(map.len() / 40);
    (0..count).find_map(|i| {
        let entry = map.get(40 + 40 * i..80 + 40 * i)?;
        (le64(entry, 24)? == id).then_some((le64(entry, 32)?, le32(entry, 8)?))
    })
}

impl Container {
    /// Returns the bytes of the checkpoint descriptor area.
    pub(super) fn descriptor_area(&self) -> Option<Range<u64>> {
        let (base, count) = self.descriptors?;
        self.layout.range(base, u64::from(count))
    }
}
