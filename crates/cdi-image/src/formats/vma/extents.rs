//! The headers of extents: which clusters are in an extent, and where.

use cdi_base::error::ReadError;
use cdi_base::units::index;

use super::header::is_signed;
use crate::input::Input;

/// The sizes of a cluster and of a block, in bytes, and the number of blocks of a cluster.
pub(super) const CLUSTER: u64 = 65_536;
pub(super) const BLOCK: u64 = 4096;
pub(super) const BLOCKS: u64 = CLUSTER / BLOCK;
/// The length of an extent's header in bytes, and of its part before the list of clusters.
pub(super) const HEADER: u64 = 512;
const LIST: usize = 40;
/// The maximum number of blocks in an extent.
pub(super) const MAX_BLOCKS: u64 = 59 * BLOCKS;
const MAGIC: &[u8] = b"VMAE\0\0";

/// A cluster of a disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cluster {
    pub device: u8,
    /// Its number: its offset on the disk in clusters.
    pub number: u32,
    /// Which of its blocks are stored; the others are zeros.
    mask: u16,
    /// The file offset of the first one that is stored.
    at: u64,
}

impl Cluster {
    /// Returns the file offset of this block of the cluster, if it is stored.
    pub(super) fn block(&self, block: u64) -> Option<u64> {
        let bit = 1u16 << (block % BLOCKS);
        let before = u64::from((self.mask & (bit - 1)).count_ones());
        (self.mask & bit != 0).then_some(self.at + before * BLOCK)
    }

    /// Returns the number of blocks that are stored.
    pub(super) fn stored(&self) -> u64 {
        self.mask.count_ones().into()
    }
}

/// The header of an extent, which matches its checksum.
pub(super) struct ExtentHeader {
    at: u64,
    bytes: Vec<u8>,
}

impl ExtentHeader {
    /// Reads the header at file offset `at`. Returns None if there is no intact header of this archive.
    pub(super) fn read(input: &Input, uuid: &[u8; 16], at: u64) -> Result<Option<ExtentHeader>, ReadError> {
        if at.checked_add(HEADER).is_none_or(|end| end > input.len()) {
            return Ok(None);
        }
        let mut bytes = vec![0; index(HEADER)];
        input.read_exact_at(Input::MAIN, &mut bytes, at)?;
        let is_ours = bytes.starts_with(MAGIC) && bytes[8..24] == *uuid;
        Ok((is_ours && is_signed(&mut bytes, 24)).then_some(ExtentHeader { at, bytes }))
    }

    /// Returns the clusters in the extent, in the order of the file.
    pub(super) fn clusters(&self) -> Vec<Cluster> {
        let mut at = self.at + HEADER;
        let mut clusters = Vec::new();
        for entry in self.bytes[LIST..].as_chunks::<8>().0 {
            let [mask_high, mask_low, _, device, number @ ..] = *entry;
            // Device 0 is an empty entry.
            if device != 0 {
                let mask = u16::from_be_bytes([mask_high, mask_low]);
                let cluster = Cluster { device, number: u32::from_be_bytes(number), mask, at };
                at += cluster.stored() * BLOCK;
                clusters.push(cluster);
            }
        }
        clusters
    }

    /// Returns the run of blocks from `block` on, the number of a block of a disk, that are all zeros or are all stored,
    /// one after the other: where the first one is stored, and how many they are. None: the block is not in this extent.
    pub(super) fn run(&self, device: u8, block: u64) -> Option<(Option<u64>, u64)> {
        let blocks_of = |cluster: Cluster| {
            let first = u64::from(cluster.number) * BLOCKS;
            (0..BLOCKS).map(move |n| (cluster.device, first + n, cluster.block(n)))
        };
        let blocks = self.clusters().into_iter().flat_map(blocks_of);
        let mut blocks = blocks.skip_while(|(on, number, _)| (*on, *number) != (device, block));
        let (.., place) = blocks.next()?;
        let follows = |n: u64| (device, block + n, place.map(|at| at + n * BLOCK));
        let more = (1u64..).zip(blocks).take_while(|(n, next)| *next == follows(*n)).count();
        Some((place, 1 + more as u64))
    }

    /// Returns the number of blocks in the extent.
    pub(super) fn blocks(&self) -> u64 {
        u16::from_be_bytes([self.bytes[6], self.bytes[7]]).into()
    }
}
