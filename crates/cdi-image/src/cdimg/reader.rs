//! Opening a `.cdimg`: the newest superblock that is sound, what it points at, and what came after it.

use std::sync::Arc;

use cdi_base::error::{Error, Flaw, ReadError};
use cdi_base::units::human;

use super::index::Index;
use super::layout::*;
use super::nodes::{CachedNodes, NODES_KEPT, Nodes};
use super::record;
use super::scan::{ReplayedState, Step, Walk, decode_map, decode_metadata, map_sum, read_events};
use super::superblock::{check, choose, geometry, is_sound_in, last_checkpoint, superblocks};
use super::writer::{MAX_HELD, MAX_UNCOMMITTED};
use crate::badmap::builder::BadMapBuilder;
use crate::badmap::{BadBlocks, BadRange, MAX_RANGES};
use crate::details::ImageDetails;
use crate::extent::Extent;
use crate::image::{CheckCancelled, Each, Format, Image, OpenOptions};
use crate::input::Input;
use crate::metadata::Metadata;

/// Our own format.
pub const FORMAT: Format = Format {
    name: "cdimg",
    summary: "cdi's own: compressed chunks, a bad-block map, metadata; survives being cut off and damaged",
    integrity: "64-bit checksums on everything; BLAKE3 and SHA-256 of the whole disk",
    suffixes: &["cdimg"],
    probe: |input| {
        superblocks(input).iter().any(|(_, found)| found.is_some()) || last_checkpoint(input).is_some()
    },
    open: |input, _: &OpenOptions| Ok(Box::new(open(input)?)),
};

/// An open `.cdimg`.
pub struct CdiImage {
    input: Arc<Input>,
    nodes: CachedNodes,
    superblock: Superblock,
    index: Index,
    /// Where the records end that were taken in.
    end: u64,
    /// Whether a part of it was lost that is not the disk's bytes.
    lost: bool,
    details: ImageDetails,
}

/// A map is written in few records, and once before a checkpoint; more of them after the last one cannot be.
pub(super) const MAX_UNCOMMITTED_MAPS: usize = 64;

/// Opens the image in `input`.
pub fn open(input: Arc<Input>) -> Result<CdiImage, Error> {
    let nodes = CachedNodes::new(Arc::clone(&input));
    let TakenIn { superblock, told, mut warnings, end, lost, .. } = take_in(&input, &nodes)?;
    if superblock.state == STATE_ACQUIRING {
        warnings.insert(0, "this image is unfinished: the making of it was interrupted, or goes on".into());
    }
    let ReplayedState { index, bad, metadata } = told;
    let bad = bad.into_map();
    Ok(CdiImage {
        input,
        nodes,
        superblock,
        index,
        end,
        lost,
        details: ImageDetails { bad, metadata, warnings, ..ImageDetails::default() },
    })
}

/// All that an image's file says of the disk.
pub(super) struct TakenIn {
    pub superblock: Superblock,
    pub told: ReplayedState,
    /// The sum of the map that the superblock leads to, if there is one.
    pub map_written: Option<u128>,
    /// Where the records end, in bytes.
    pub end: u64,
    /// The highest epoch of a record.
    pub epoch: u32,
    pub warnings: Vec<String>,
    /// Whether a part of it was lost that is not the disk's bytes.
    pub lost: bool,
}

/// Reads the newest superblock that is sound, what it points at, and the records that came after it.
pub(super) fn take_in(input: &Input, nodes: &dyn Nodes) -> Result<TakenIn, Error> {
    let mut warnings = Vec::new();
    let superblock = choose(input, &mut warnings)?;
    check(&superblock, input)?;
    let mut lost = false;
    let metadata = read_metadata(input, &superblock).unwrap_or_else(|e| {
        warnings.push(format!("the metadata about the disk are lost: {e}"));
        lost = true;
        Metadata::default()
    });
    let map = read_map(input, &superblock)?;
    let map_written = (superblock.map_at.get() != 0).then(|| map_sum(&map));
    let bad = BadMapBuilder::new(map);
    let told = ReplayedState { index: Index::new(geometry(&superblock), superblock.root), bad, metadata };
    let (end, epoch) = (superblock.committed_end.get(), superblock.epoch.get());
    let mut taken = TakenIn { superblock, told, map_written, end, epoch, warnings, lost };
    if superblock.state == STATE_ACQUIRING {
        roll_forward(input, nodes, &mut taken)?;
    }
    agree(&mut taken.told.metadata, &superblock)?;
    Ok(taken)
}

fn read_metadata(input: &Input, superblock: &Superblock) -> Result<Metadata, Error> {
    let record =
        record::read(input, superblock.metadata_at.get(), superblock.salt.get(), RecordType::Metadata)?;
    Ok(decode_metadata(&record)?)
}

/// The sizes in the metadata are the superblock's, where they stand there at all.
fn agree(metadata: &mut Metadata, superblock: &Superblock) -> Result<(), Error> {
    let at = superblock.metadata_at.get();
    let size = superblock.disk_size.get();
    if metadata.size_bytes != 0 && metadata.size_bytes != size {
        let what = format!("the metadata say {} bytes, the superblock {size}", metadata.size_bytes);
        return Err(Flaw::at(at, what).into());
    }
    metadata.size_bytes = size;
    for (fact, sector) in [
        (&mut metadata.logical_sector_bytes, superblock.logical_sector.get()),
        (&mut metadata.physical_sector_bytes, superblock.physical_sector.get()),
    ] {
        if *fact != 0 && *fact != sector {
            let what = format!("the metadata say sectors of {fact} bytes, the superblock {sector}");
            return Err(Flaw::at(at, what).into());
        }
        *fact = sector;
    }
    Ok(())
}

/// The bad-block map: a chain of MAP records, from the last back to the first, that together cover the disk.
fn read_map(input: &Input, superblock: &Superblock) -> Result<BadBlocks, Error> {
    let mut at = superblock.map_at.get();
    let mut end = superblock.disk_size.get();
    let mut backwards: Vec<BadRange> = Vec::new();
    while at != 0 {
        let record = record::read(input, at, superblock.salt.get(), RecordType::Map)?;
        let (before, ranges) = decode_map(&record)?;
        let start = record.header.disk_at.get();
        // Each step goes back in the file and on the disk, so that the chain ends.
        if before >= at
            || start.checked_add(record.header.disk_len.get()) != Some(end)
            || backwards.len() + ranges.len() > MAX_RANGES
        {
            return Err(Flaw::at(at, "the records of the bad-block map do not fit together").into());
        }
        backwards.extend(ranges.into_iter().rev());
        (at, end) = (before, start);
    }
    if superblock.map_at.get() != 0 && end != 0 {
        return Err(Flaw::at(superblock.map_at.get(), "the bad-block map does not cover the disk").into());
    }
    backwards.reverse();
    Ok(BadBlocks::from_ordered(backwards))
}

/// Takes in the records that came after the last checkpoint, up to the first that is not whole.
fn roll_forward(input: &Input, nodes: &dyn Nodes, into: &mut TakenIn) -> Result<(), Error> {
    let (salt, committed) = (into.superblock.salt.get(), into.end);
    let (mut at, mut taken, mut maps) = (committed, 0, 0);
    while let Some(header) = record::header_at(input, at, salt)? {
        if header.epoch.get() < into.epoch {
            break;
        }
        let Some(record) = record::with_payload(input, at, header)? else { break };
        if record.kind().is_none() && header.kind < FIRST_IGNORABLE_TYPE {
            return Err(
                Flaw::at(at, format!("record type {} is not known to this version", header.kind)).into()
            );
        }
        if let Err(e) = into.told.take(&record, nodes, input.len()) {
            let what = format!("what comes after byte {at} was left out, because it does not fit: {e}");
            into.warnings.push(what);
            into.lost = true;
            break;
        }
        taken += 1;
        maps += usize::from(record.kind() == Some(RecordType::Map));
        if taken > MAX_UNCOMMITTED || maps > MAX_UNCOMMITTED_MAPS || into.told.index.held() > 2 * MAX_HELD {
            let what = "more has come after the last checkpoint than a program that makes checkpoints leaves";
            return Err(Flaw::at(at, what).into());
        }
        at = header.next(at);
        (into.end, into.epoch) = (at, header.epoch.get());
    }
    if taken > 0 {
        let size = human(at - committed);
        into.warnings.push(format!("{taken} records after the last checkpoint ({size}) were taken in"));
    }
    Ok(())
}

impl Image for CdiImage {
    fn size(&self) -> u64 {
        self.superblock.disk_size.get()
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        self.index.find(&self.nodes, offset)
    }

    fn warm(&self) {
        let geometry = self.index.geometry();
        let leaves = geometry.chunks().div_ceil(FANOUT);
        if leaves + leaves.div_ceil(FANOUT) < NODES_KEPT.get() as u64 {
            for leaf in 0..leaves {
                let _ = self.map(geometry.bytes(leaf * FANOUT, 1).start);
            }
        }
    }

    fn events(&self, each: &mut Each<'_>, check_cancelled: &mut CheckCancelled<'_>) -> Result<(), Error> {
        read_events(&self.input, &self.superblock, each, check_cancelled)
    }

    fn check(
        &self,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        if let Err(e) = self.events(&mut |_| Ok(()), check_cancelled) {
            check_cancelled()?;
            report(
                Flaw::at(self.superblock.events_at.get(), e.to_string()),
                "what happened while it was made",
            );
        }
        if let Err(e) = self.check_records(report, check_cancelled) {
            check_cancelled()?;
            report(Flaw::at(0, e.to_string()), "the records could not be walked over to the end");
        }
        Ok(())
    }

    fn details(&self) -> &ImageDetails {
        &self.details
    }
}

impl CdiImage {
    /// Whether something of it was lost that an image written anew would not have: metadata, or sound records behind
    /// damage, which are not taken in here.
    pub fn has_more(&self) -> Result<bool, Error> {
        if self.lost || self.superblock.state == STATE_COMPLETE {
            return Ok(self.lost);
        }
        let mut walk = Walk::new(&self.input, self.superblock.salt.get(), self.end..self.input.len());
        while let Some(step) = walk.step()? {
            if let Step::Header(_, header) = step
                && header.epoch.get() >= self.superblock.epoch.get()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The superblock that holds.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Both superblocks, the headers of all records, and the payloads of those that are not the disk's own bytes.
    fn check_records(
        &self,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        for (slot, (at, found)) in superblocks(&self.input).into_iter().enumerate() {
            if !found.is_some_and(|s| is_sound_in(slot, &s)) {
                let cost = "nothing yet: the other one, or the copy at the end, is sound";
                report(Flaw::at(at, "a superblock is damaged"), cost);
            }
        }
        let mut told = ReplayedState {
            index: Index::new(self.index.geometry(), RawEntry::UNREAD),
            bad: BadMapBuilder::default(),
            metadata: Metadata::default(),
        };
        let end = if self.superblock.state == STATE_COMPLETE {
            self.superblock.committed_end.get()
        } else {
            self.input.len()
        };
        let mut walk = Walk::new(&self.input, self.superblock.salt.get(), RECORDS_AT..end);
        let mut last = 0;
        while let Some(step) = walk.step()? {
            check_cancelled()?;
            match step {
                Step::Searching(_) => {}
                Step::Gap(gap) if self.superblock.state == STATE_ACQUIRING && gap.end == self.input.len() => {
                }
                Step::Gap(gap) => {
                    let what = format!("{} that are no record", human(gap.end - gap.start));
                    report(
                        Flaw::at(gap.start, what),
                        "whatever lay there; the index tells whether it was the disk's data",
                    );
                }
                // The disk's own bytes are checked where the index says that they are, by reading the disk.
                Step::Header(at, header) if header.kind == RecordType::Data as u8 => last = at,
                Step::Header(at, header) => match record::with_payload(&self.input, at, header)? {
                    Some(record) if self.is_overview(&record) => {
                        // That a map is right is all: it may be long, and there may be many.
                        let taken = match record.kind() {
                            Some(RecordType::Map) => decode_map(&record).map(|_| ()).map_err(Error::from),
                            _ => told.take(&record, &self.nodes, self.input.len()),
                        };
                        if let Err(e) = taken {
                            report(
                                Flaw::at(at, e.to_string()),
                                "the record cannot be used to rebuild the index",
                            );
                        }
                        last = at;
                    }
                    Some(_) => last = at,
                    None => report(
                        Flaw::at(
                            at,
                            format!("the payload of a record of type {} is damaged or cut off", header.kind),
                        ),
                        "depends on whether the index uses it",
                    ),
                },
            }
        }
        if self.superblock.state == STATE_COMPLETE && last_checkpoint(&self.input).is_none() {
            report(
                Flaw::at(last, "the copy of the superblock at the end is missing"),
                "nothing yet: it is for when both others are lost",
            );
        }
        Ok(())
    }

    /// Whether a record's contents are looked into here: not what tells where the disk's bytes are, of which there
    /// may be more than fits into memory.
    fn is_overview(&self, record: &record::Record) -> bool {
        !matches!(record.kind(), Some(RecordType::Same | RecordType::Fill))
    }
}
