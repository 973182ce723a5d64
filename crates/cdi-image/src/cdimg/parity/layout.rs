//! Where the blocks of a file and of its parity are: all of it follows from a short description.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::super::layout::*;

/// The first eight bytes of a description.
pub const DESCRIPTION_MAGIC: [u8; 8] = *b"\x89CDIpar\n";
/// The version of the description.
pub const PARITY_VERSION: u32 = 1;
/// The length of a block in bytes. Blocks begin at multiples of it in the file.
pub const BLOCK: u64 = BLOCK_LEN as u64;
/// The same, for memory.
pub const BLOCK_LEN: usize = 4096;
/// The maximum number of data blocks of a group, and of its recovery blocks.
pub const MAX_GROUP: u32 = 16384;
/// The maximum number of data blocks of a span.
pub const MAX_SPAN: u64 = 1 << 20;
/// The maximum number of recovery blocks of a span, which is also how many blocks can be restored and are kept in memory.
pub const MAX_RECOVERY: u64 = MAX_RESTORED as u64;
/// The same, for memory.
pub const MAX_RESTORED: usize = 1 << 16;
/// The number of blocks of a PARITY record, of which the first has the header and the description.
pub const RECORD_BLOCKS: u64 = 256;
/// The number of checksums in a block of checksums.
pub const SUMS: u64 = SUMS_LEN as u64;
/// The same, for memory.
pub const SUMS_LEN: usize = 509;
/// The number of copies of each block of checksums.
pub const COPIES: u64 = 3;
/// The denominator of [`Description::hundredths`].
pub const WHOLE: u64 = 10_000;

/// What the parity covers, and how. Every PARITY record begins with it.
#[derive(Debug, Clone, Copy, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Description {
    /// [`DESCRIPTION_MAGIC`].
    pub magic: [u8; 8],
    /// [`PARITY_VERSION`].
    pub version: U32,
    /// The size of the recovery data in hundredths of a percent of the data: 1 to 10,000.
    pub hundredths: U32,
    /// The end of what is covered, in bytes: the committed end of `superblock`.
    pub end: U64,
    /// The number of data blocks of each span but the last.
    pub span_blocks: U32,
    /// The maximum number of data blocks of a group.
    pub group_blocks: U32,
    /// The superblock of the image before it got this parity.
    pub superblock: Superblock,
    /// XXH3-64 of the preceding bytes. It also identifies the parity.
    pub sum: U64,
}

/// The length of a description, in bytes.
pub const DESCRIPTION_LEN: usize = size_of::<Description>();
const _: () = assert!(DESCRIPTION_LEN == 552);

/// A block of checksums.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SumsBlock {
    /// XXH3-64 of each of the blocks that it is about.
    pub sums: [U64; SUMS_LEN],
    /// The checksum of the description.
    pub parity: U64,
    /// The slot of the first copy of this block.
    pub slot: U64,
    /// XXH3-64 of the preceding bytes.
    pub sum: U64,
}

const _: () = assert!(size_of::<SumsBlock>() == BLOCK_LEN);

impl SumsBlock {
    /// Returns the block with its checksum updated.
    pub fn sealed(mut self) -> SumsBlock {
        self.sum = U64::new(xxh3_64(&self.as_bytes()[..BLOCK_LEN - 8]));
        self
    }

    /// Returns whether this is the block of the parity with this description whose first copy is at `slot`.
    pub fn is_valid(&self, description: &Description, slot: u64) -> bool {
        self.sum.get() == xxh3_64(&self.as_bytes()[..BLOCK_LEN - 8])
            && self.parity == description.sum
            && self.slot.get() == slot
    }
}

/// A run of blocks of the file with groups of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Its number.
    pub number: u64,
    /// The number of its first data block.
    pub first: u64,
    /// The number of its data blocks.
    pub blocks: u64,
    /// The number of its groups. Block n of the span belongs to group n modulo this number.
    pub groups: u64,
    /// The number of data blocks of each group; missing ones at its end are zeros.
    pub data: u64,
    /// The number of recovery blocks of each group.
    pub recovery: u64,
    /// Its first slot.
    slot: u64,
}

impl Span {
    /// Returns the number of recovery blocks of all groups.
    pub fn recovery_blocks(&self) -> u64 {
        self.groups * self.recovery
    }

    /// Returns the number of blocks with its checksums: first those of the data, then those of the recovery blocks.
    pub fn sums_blocks(&self) -> u64 {
        (self.blocks + self.recovery_blocks()).div_ceil(SUMS)
    }

    /// Returns the number of its slots.
    pub fn slots(&self) -> u64 {
        COPIES * self.sums_blocks() + self.recovery_blocks()
    }

    /// Returns the slot of a copy of block `n` of its checksums.
    pub fn sums_slot(&self, copy: u64, n: u64) -> u64 {
        let before = match copy {
            0 => 0,
            1 => self.recovery_blocks() / 2,
            _ => self.recovery_blocks(),
        };
        self.slot + copy * self.sums_blocks() + before + n
    }

    /// Returns the slot of recovery block `n` of a group.
    pub fn recovery_slot(&self, group: u64, n: u64) -> u64 {
        let n = n * self.groups + group;
        let copies = if n < self.recovery_blocks() / 2 { 1 } else { 2 };
        self.slot + copies * self.sums_blocks() + n
    }

    /// Returns the number within the span of data block `n` of a group; None for one past the end, which is zeros.
    pub fn data_block(&self, group: u64, n: u64) -> Option<u64> {
        Some(n * self.groups + group).filter(|block| *block < self.blocks)
    }
}

impl Description {
    /// Returns the description of parity for the image with this superblock.
    pub fn new(superblock: &Superblock, hundredths: u32) -> Description {
        let end = superblock.committed_end.get();
        let blocks = end.saturating_sub(RECORDS_AT).div_ceil(BLOCK).max(1);
        // Half of the limit, so that rounding up for each group stays below it.
        let most = (MAX_RECOVERY / 2 * WHOLE / u64::from(hundredths.max(1))).clamp(1, MAX_SPAN);
        let span_blocks = blocks.div_ceil(blocks.div_ceil(most));
        Description {
            magic: DESCRIPTION_MAGIC,
            version: U32::new(PARITY_VERSION),
            hundredths: U32::new(hundredths),
            end: U64::new(end),
            span_blocks: U32::new(u32::try_from(span_blocks).unwrap_or(u32::MAX)),
            group_blocks: U32::new(MAX_GROUP),
            superblock: *superblock,
            sum: U64::ZERO,
        }
        .sealed()
    }

    /// Returns the description at the start of `bytes`, if it is valid.
    pub fn parse(bytes: &[u8]) -> Option<Description> {
        let (description, _) = Description::read_from_prefix(bytes).ok()?;
        description.is_valid().then_some(description)
    }

    fn sealed(mut self) -> Description {
        self.sum = U64::new(xxh3_64(&self.as_bytes()[..DESCRIPTION_LEN - 8]));
        self
    }

    fn is_valid(&self) -> bool {
        self.magic == DESCRIPTION_MAGIC
            && self.sum.get() == xxh3_64(&self.as_bytes()[..DESCRIPTION_LEN - 8])
            && self.version.get() == PARITY_VERSION
            && (1..=WHOLE).contains(&self.hundredths.get().into())
            && (1..=MAX_SPAN).contains(&self.span_blocks.get().into())
            && (1..=MAX_GROUP).contains(&self.group_blocks.get())
            && self.superblock.is_valid()
            && self.end == self.superblock.committed_end
            // Far below where sums of offsets would overflow.
            && (RECORDS_AT + 1..1 << 60).contains(&self.end.get())
            && self.end.get().is_multiple_of(RECORD_ALIGN)
            && self.span(0).recovery_blocks() <= MAX_RECOVERY
    }

    /// Returns the number of data blocks.
    pub fn blocks(&self) -> u64 {
        (self.end.get() - RECORDS_AT).div_ceil(BLOCK)
    }

    /// Returns the bytes of the file in data block `block`; the last one may be short, and is extended by zeros.
    pub fn bytes_of(&self, block: u64) -> Range<u64> {
        let start = RECORDS_AT + block * BLOCK;
        start..(start + BLOCK).min(self.end.get())
    }

    /// Returns the number of spans.
    pub fn spans(&self) -> u64 {
        self.blocks().div_ceil(self.span_blocks.get().into())
    }

    /// Returns a span by its number.
    pub fn span(&self, number: u64) -> Span {
        let most = u64::from(self.span_blocks.get());
        let of = |first: u64, slot| {
            let blocks = (self.blocks() - first).min(most);
            let groups = blocks.div_ceil(self.group_blocks.get().into());
            let data = blocks.div_ceil(groups);
            let recovery = (data * u64::from(self.hundredths.get())).div_ceil(WHOLE);
            Span { number, first, blocks, groups, data, recovery, slot }
        };
        // All spans before the last one have the same size.
        of(number * most, number * of(0, 0).slots())
    }

    /// Returns the span that contains data block `block`.
    pub fn span_of(&self, block: u64) -> Span {
        self.span(block / u64::from(self.span_blocks.get()))
    }

    /// Returns the number of slots: blocks of checksums and recovery blocks.
    pub fn slots(&self) -> u64 {
        let last = self.span(self.spans() - 1);
        last.slot + last.slots()
    }

    /// Returns the offset of the first record with slots. A record of zeros fills the gap before it.
    pub fn first_record(&self) -> u64 {
        (self.end.get() + HEADER_LEN as u64).next_multiple_of(BLOCK)
    }

    /// Returns the number of records with slots.
    pub fn records(&self) -> u64 {
        self.slots().div_ceil(RECORD_BLOCKS - 1)
    }

    /// Returns the bytes of record `n`, its header included.
    pub fn record(&self, n: u64) -> Range<u64> {
        let start = self.first_record() + n * RECORD_BLOCKS * BLOCK;
        let slots = (self.slots() - n * (RECORD_BLOCKS - 1)).min(RECORD_BLOCKS - 1);
        start..start + (1 + slots) * BLOCK
    }

    /// Returns whether a record with slots begins at offset `at`.
    pub fn is_record_at(&self, at: u64) -> bool {
        let within = at.checked_sub(self.first_record());
        at < self.records_end() && within.is_some_and(|within| within.is_multiple_of(RECORD_BLOCKS * BLOCK))
    }

    /// Returns the offset of a slot in the file.
    pub fn slot_at(&self, slot: u64) -> u64 {
        let (record, within) = (slot / (RECORD_BLOCKS - 1), slot % (RECORD_BLOCKS - 1));
        self.record(record).start + (1 + within) * BLOCK
    }

    /// Returns the end of the records with slots, in bytes. A PARITY record with nothing but the description follows, then
    /// the CHECKPOINT record.
    pub fn records_end(&self) -> u64 {
        self.record(self.records() - 1).end
    }

    /// Returns the end of the file if nothing was added after the parity, in bytes.
    pub fn file_end(&self) -> u64 {
        self.records_end() + (HEADER_LEN + DESCRIPTION_LEN + HEADER_LEN + SUPERBLOCK_LEN) as u64
    }
}

#[cfg(test)]
pub(super) mod tests {
    use cdi_base::units::index;

    use super::*;

    /// A description of an image of this length, with these limits.
    pub(crate) fn description(end: u64, hundredths: u32, span: u32, group: u32) -> Description {
        let superblock = Superblock {
            magic: MAGIC,
            committed_end: U64::new(end),
            salt: U64::new(7),
            ..blank_superblock()
        };
        let new = Description::new(&superblock.sealed(), hundredths);
        Description { span_blocks: U32::new(span), group_blocks: U32::new(group), ..new }.sealed()
    }

    #[test]
    fn every_slot_is_used_once_and_every_block_belongs_to_one_group() {
        for (blocks, hundredths, span, group) in
            [(1, 1, 1, 1), (1000, 500, 300, 7), (5000, 10_000, 1100, 100), (3, 500, 1 << 20, 16384)]
        {
            let d = description(RECORDS_AT + blocks * BLOCK - 8, hundredths, span, group);
            assert!(d.is_valid());
            let mut slots = vec![0; index(d.slots())];
            let mut seen = vec![0; index(blocks)];
            for span in (0..d.spans()).map(|n| d.span(n)) {
                for (copy, n) in (0..COPIES).flat_map(|c| (0..span.sums_blocks()).map(move |n| (c, n))) {
                    slots[index(span.sums_slot(copy, n))] += 1;
                }
                for g in 0..span.groups {
                    (0..span.recovery).for_each(|n| slots[index(span.recovery_slot(g, n))] += 1);
                    let blocks = (0..span.data).filter_map(|n| span.data_block(g, n));
                    blocks.for_each(|block| seen[index(span.first + block)] += 1);
                }
            }
            assert!(slots.iter().chain(&seen).all(|n| *n == 1), "{slots:?} {seen:?}");
            let offsets: Vec<u64> = (0..d.slots()).map(|slot| d.slot_at(slot)).collect();
            assert!(offsets.is_sorted() && offsets.iter().all(|at| at.is_multiple_of(BLOCK)));
            assert_eq!(offsets.last().unwrap() + BLOCK, d.records_end());
        }
    }

    #[test]
    fn descriptions_beyond_the_limits_are_not_valid() {
        let good = description(1 << 40, 500, 1 << 20, 16384);
        assert!(good.is_valid());
        assert!(!description(RECORDS_AT, 500, 1 << 20, 16384).is_valid());
        assert!(!description(1 << 60, 500, 1 << 20, 16384).is_valid());
        assert!(description((1 << 60) - 8, 1, 1, 1).is_valid());
        for (hundredths, span, group) in
            [(0, 1, 1), (10_001, 1, 1), (500, 0, 1), (500, (1 << 20) + 1, 1), (500, 1, 0), (500, 1, 16385)]
        {
            assert!(!description(1 << 40, hundredths, span, group).is_valid());
        }
        // More recovery blocks than are kept in memory.
        assert!(!description(1 << 40, 10_000, 1 << 20, 16384).is_valid());
        for hundredths in [1, 3, 500, 777, 5000, 10_000] {
            for end in [RECORDS_AT + 8, 1 << 20, 1 << 32, 1 << 45] {
                let superblock = Superblock { committed_end: U64::new(end), ..good.superblock }.sealed();
                assert!(Description::new(&superblock, hundredths).is_valid(), "{hundredths} {end}");
            }
        }
    }
}
