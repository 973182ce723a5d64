//! Volume descriptors: where a tree of directories begins.
//!
//! Source: ECMA-119, section 8; for Joliet, Microsoft's "Joliet Specification: CD-ROM Recording Spec ISO 9660:1988 Extensions
//! for Unicode".

use std::ops::Range;

use crate::bytes::{array, be32, le16, le32};
use crate::file_system::Damage;
use crate::volume::Volume;

/// The size of a sector in bytes: descriptors have this size, whatever the size of a block.
pub(super) const SECTOR: u64 = 2048;
/// The first sector of descriptors, and the most that are read.
const FIRST: u64 = 16;
const MAX_DESCRIPTORS: u64 = 32;

/// A tree of directories, from a primary or a supplementary volume descriptor.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    /// Whether names are in UCS-2.
    pub(super) joliet: bool,
    /// When its root directory was made.
    pub(super) created: [u8; 7],
    pub(super) label: Option<String>,
    /// The size of a block in bytes.
    pub(super) block: u64,
    /// The number of blocks of the volume.
    pub(super) blocks: u64,
    /// The path tables: where they are, and whether their numbers are big-endian.
    pub(super) path_tables: Vec<(Range<u64>, bool)>,
    /// The first block and the length in bytes of the root directory.
    pub(super) root: (u32, u32),
}

/// What the descriptors say.
#[derive(Default)]
pub(super) struct Descriptors {
    pub(super) primary: Option<Tree>,
    pub(super) joliet: Option<Tree>,
    /// All that were read, and those that could not be.
    pub(super) all: Vec<(Range<u64>, &'static str, Option<Damage>)>,
}

/// Reads the descriptors. None if there are none.
pub(super) fn read(volume: &Volume<'_>) -> Option<Descriptors> {
    let mut found = Descriptors::default();
    let mut any = false;
    for sector in FIRST..FIRST + MAX_DESCRIPTORS {
        let at = sector * SECTOR..(sector + 1) * SECTOR;
        // The rest has texts.
        let bytes = match volume.read(at.start, 512) {
            Ok(bytes) => bytes,
            Err(error) => {
                let missing = found.all.iter().filter(|(_, _, damage)| damage.is_some()).count();
                // Not all of them need be looked for where nothing can be read.
                if at.end > volume.size() || missing >= 3 {
                    break;
                }
                found.all.push((at, "volume descriptor", Some(error.into())));
                continue;
            }
        };
        if bytes.get(1..6) != Some(b"CD001") {
            break;
        }
        any = true;
        let what = match bytes.first() {
            Some(0) => "boot record",
            Some(1) => {
                found.primary = found.primary.or_else(|| tree(&bytes, false));
                "primary volume descriptor"
            }
            Some(2) if is_joliet(&bytes) => {
                found.joliet = found.joliet.or_else(|| tree(&bytes, true));
                "supplementary volume descriptor (Joliet)"
            }
            Some(255) => "end of the volume descriptors",
            _ => "volume descriptor",
        };
        let damage = match bytes.first() {
            Some(1) if found.primary.is_none() => Some(Damage::Invalid("it makes no sense".into())),
            _ => None,
        };
        found.all.push((at, what, damage));
        if bytes.first() == Some(&255) {
            break;
        }
    }
    any.then_some(found)
}

/// Returns whether a supplementary descriptor is Joliet's: by its escape sequences.
fn is_joliet(bytes: &[u8]) -> bool {
    matches!(array(bytes, 88), Some([b'%', b'/', b'@' | b'C' | b'E']))
}

fn tree(bytes: &[u8], joliet: bool) -> Option<Tree> {
    let block = u64::from(le16(bytes, 128)?);
    if !matches!(block, 512 | 1024 | 2048) {
        return None;
    }
    let len = u64::from(le32(bytes, 132)?);
    let tables = [
        (le32(bytes, 140)?, false),
        (be32(bytes, 148)?, true),
        (le32(bytes, 144)?, false),
        (be32(bytes, 152)?, true),
    ];
    let place = |(first, big): (u32, bool)| (u64::from(first) * block..u64::from(first) * block + len, big);
    let label = bytes.get(40..72)?;
    let label = if joliet { ucs2(label) } else { String::from_utf8_lossy(label).into_owned() };
    let label = label.trim_end_matches(['\0', ' ']).to_owned();
    Some(Tree {
        joliet,
        created: array(bytes, 156 + 18)?,
        label: Some(label).filter(|label| !label.is_empty()),
        block,
        blocks: u64::from(le32(bytes, 80)?),
        path_tables: tables.into_iter().filter(|(first, _)| *first != 0).map(place).collect(),
        root: (le32(bytes, 156 + 2)?, le32(bytes, 156 + 10)?),
    })
}

/// Returns the text of bytes in UCS-2 or UTF-16, big-endian.
pub(super) fn ucs2(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes.chunks_exact(2).filter_map(|unit| crate::bytes::be16(unit, 0)).collect();
    String::from_utf16_lossy(&units)
}
